"""Vision transformers with channel-idle feed-forward layers: DeiT-T, S and B, ViT-L and H with patches of 16.

Architecture: Dosovitskiy et al., arXiv 2010.11929; Touvron et al., arXiv 2012.12877 (DeiT) and 2204.07118 (LayerScale).
Attention is written as two matrix products around a softmax, with the query scaled before the first: the form that
TensorRT and OpenVINO look for, and that every opset can say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekit.errors import InputError, UsageError
from edgekit.models.feedforward import DropPath, FeedForward, scale_of
from edgekit.models.idle import MULTIPLE, Activation, IdleShape, Normalization, active_channels

Theta = float | tuple[float | None, ...] | None


@dataclass(frozen=True)
class ViTConfig:
    """The architecture.

    Attributes:
        size, patch: pixels of the square picture and of a patch.
        width, depth, heads: of a token, in blocks, of attention.
        classes: of the head.
        hidden: channels of the feed-forward layers; None is four times the width.
        theta: idle ratio in (1 / (2 rho), 1], one for all layers or one a layer; None is a plain layer.
        active: active channels a layer, as a checkpoint was trained with; replaces `theta`.
        multiple: active channels are rounded up to a multiple of it, where they follow from `theta`.
        normalization: before the feed-forward layers; attention has LayerNorm always.
        head: `classes` gives logits, `features` what the classifier sees, `tokens` all tokens, normalised.
        pooling: the class token, or the mean of the patches.
        distillation: `token` adds DeiT's second token, `head` its own classifier too; logits are then averaged.
        layer_scale: initial factor of both branches, or None.
        drop_path: probability of the last block, growing linearly from 0.
        pre_norm: a LayerNorm after the positions, and no bias in the patches (as in CLIP, and in RePaViT's code).
        eps, final_eps: of the blocks' norms; of the last norm and `pre_norm`.
    """

    size: int = 224
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    classes: int = 1000
    hidden: int | None = None
    theta: float | tuple[float | None, ...] | None = None
    active: tuple[int, ...] | None = None
    multiple: int = MULTIPLE
    normalization: Normalization = "layer"
    activation: Activation = "gelu"
    head: Literal["classes", "features", "tokens"] = "classes"
    pooling: Literal["token", "mean"] = "token"
    distillation: Literal["none", "token", "head"] = "none"
    layer_scale: float | None = None
    drop_path: float = 0.0
    pre_norm: bool = False
    eps: float = 1e-6
    final_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.width % self.heads or self.size % self.patch or min(self.width, self.depth, self.classes) < 1:
            raise UsageError(
                "the configuration fits no transformer",
                where="ViTConfig",
                why="width must be a multiple of heads, size one of patch, and width, depth and classes at least 1",
            )
        self.layers()

    def layers(self) -> tuple[int, ...]:
        """Active channels of each layer.

        Raises:
            UsageError: a theta is out of range, or their number is not the depth.
        """
        return idle_layers(self.width, self.hidden_channels, self.depth, self.theta, self.active, self.multiple)

    @property
    def hidden_channels(self) -> int:
        """Channels of the feed-forward layers."""
        return 4 * self.width if self.hidden is None else self.hidden


def idle_layers(
    width: int, hidden: int, depth: int, theta: Theta, active: tuple[int, ...] | None, multiple: int
) -> tuple[int, ...]:
    """Active channels of `depth` layers of one width; see `ViTConfig`.

    Raises:
        UsageError: a theta is out of range, or their number is not the depth.
    """
    given = active if active is not None else theta if isinstance(theta, tuple) else (theta,) * depth
    if len(given) != depth:
        raise UsageError(f"{len(given)} idle ratios for {depth} layers", where="theta", fix="one for all, or one each")
    if active is not None:
        return active
    assert not isinstance(theta, int)
    ratios = theta if isinstance(theta, tuple) else (theta,) * depth
    return tuple(active_channels(width, hidden, ratio, multiple) for ratio in ratios)


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = float((width // heads) ** -0.5)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = x.shape[1], x.shape[2]
        split = self.qkv(x).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # each (batch, heads, tokens, width / heads)
        weights = torch.softmax(torch.matmul(query * self.scale, key.transpose(-2, -1)), dim=-1)
        out: Tensor = self.proj(torch.matmul(weights, value).transpose(1, 2).reshape(-1, tokens, width))
        return out

    def product_macs(self, x: Tensor) -> int:
        """2 tokens^2 width."""
        return 2 * x.shape[0] * x.shape[1] ** 2 * x.shape[2]


class Block(nn.Module):
    """Pre-norm attention and a feed-forward layer that holds its own norm, both residual."""

    def __init__(self, config: ViTConfig, index: int) -> None:
        super().__init__()
        width = config.width
        drop = config.drop_path * index / max(1, config.depth - 1)
        self.norm = nn.LayerNorm(width, config.eps)
        self.attention = Attention(width, config.heads)
        self.scale = scale_of(width, config.layer_scale)
        self.drop_path = DropPath(drop)
        self.ffn = FeedForward(
            IdleShape(
                width,
                config.hidden_channels,
                config.layers()[index],
                config.normalization,
                activation=config.activation,
                layer_scale=config.layer_scale,
                drop_path=drop,
                eps=config.eps,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale(self.attention(self.norm(x))))
        out: Tensor = self.ffn(x)
        return out


class VisionTransformer(nn.Module):
    """Takes float pictures (batch, 3, size, size), normalised; gives what `config.head` says.

    Logits are (batch, classes), features (batch, width), tokens (batch, 1 or 2 + patches, width).
    """

    def __init__(self, config: ViTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ViTConfig()
        width, extra = config.width, 1 if config.distillation == "none" else 2
        self.patches = nn.Conv2d(3, width, config.patch, config.patch, bias=not config.pre_norm)
        self.token = nn.Parameter(torch.zeros(1, extra, width))
        self.positions = nn.Parameter(torch.zeros(1, extra + (config.size // config.patch) ** 2, width))
        self.pre_norm: nn.Module = nn.LayerNorm(width, config.final_eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.Sequential(*(Block(config, index) for index in range(config.depth)))
        self.norm = nn.LayerNorm(width, config.final_eps)
        classifies = config.head == "classes"
        self.head = nn.Linear(width, config.classes) if classifies else None
        self.distilled = nn.Linear(width, config.classes) if classifies and config.distillation == "head" else None
        self.apply(initialise)
        for parameter in (self.token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        refuse_size(image, self.config.size)
        x = self.patches(image).flatten(2).transpose(1, 2)  # (batch, patches, width)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = self.pre_norm(x)
        tokens: Tensor = self.norm(self.blocks(x))
        return self._answer(tokens)

    def _answer(self, x: Tensor) -> Tensor:
        extra = self.token.shape[1]
        if self.config.head == "tokens":
            return x
        pooled = x[:, 0] if self.config.pooling == "token" else x[:, extra:].mean(dim=1)
        if self.head is None:
            return pooled
        logits: Tensor = self.head(pooled)
        if self.distilled is None:
            return logits
        second: Tensor = self.distilled(x[:, 1])
        return (logits + second) / 2


def refuse_size(image: Tensor, size: int) -> None:
    """Raise `InputError` for anything but (batch, 3, size, size)."""
    if image.ndim != 4 or tuple(image.shape[1:]) != (3, size, size):
        raise InputError(
            f"the network takes (batch, 3, {size}, {size}), not {tuple(image.shape)}",
            where="image",
            why="position embeddings belong to one size, and there are three channels: red, green, blue",
            fix="preprocess the picture as the model's spec says; grayscale and palette pictures become RGB there",
        )


def initialise(module: nn.Module) -> None:
    """Truncated normal of deviation 0.02 for linear layers, Xavier for convolutions, zero biases (DeiT)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


VITS = {
    "deit-tiny": ViTConfig(width=192, heads=3),
    "deit-small": ViTConfig(width=384, heads=6),
    "deit-base": ViTConfig(width=768, heads=12),
    "vit-large": ViTConfig(width=1024, depth=24, heads=16),
    "vit-huge": ViTConfig(width=1280, depth=32, heads=16),  # patches of 16, as in RePaViT; ViT-H/14 is another network
}


def vit(name: str, **changes: Any) -> VisionTransformer:
    """A transformer of `VITS` with changes to its configuration, such as `theta=0.75, normalization="batch"`.

    Raises:
        UsageError: the name is unknown, or the changes do not fit.
    """
    if name not in VITS:
        raise UsageError(f"no vision transformer {name!r}", where="vit", fix="known: " + ", ".join(sorted(VITS)))
    return VisionTransformer(replace(VITS[name], **changes))
