"""Swin transformers with channel-idle feed-forward layers: Swin-T, S and B at 224 (Liu et al., arXiv 2103.14030).

Tokens stay a map (batch, rows, columns, width). Attention, the patches and the merging of patches keep LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.models.feedforward import DropPath, FeedForward
from edgekit.models.idle import MULTIPLE, Activation, IdleShape, Normalization
from edgekit.models.vit import idle_layers, initialise, refuse_size

MASKED = -100.0  # added to logits between tokens that are neighbours only because the map was rolled


@dataclass(frozen=True)
class SwinConfig:
    """The architecture.

    Attributes:
        size, patch, window: pixels of the picture, of a patch; patches of a window's side.
        width: of a token in the first stage; each of the others doubles it.
        depths, heads: blocks and heads a stage.
        theta, active: see `ViTConfig`; one a block, over all stages.
        multiple, normalization, activation, drop_path, eps: see `ViTConfig`; drop_path grows over all blocks.
        head: `classes` gives logits, `features` the mean token, normalised.
    """

    size: int = 224
    patch: int = 4
    window: int = 7
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    classes: int = 1000
    expansion: int = 4
    theta: float | tuple[float | None, ...] | None = None
    active: tuple[int, ...] | None = None
    multiple: int = MULTIPLE
    normalization: Normalization = "layer"
    activation: Activation = "gelu"
    head: Literal["classes", "features"] = "classes"
    drop_path: float = 0.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        stages = len(self.depths)
        if len(self.heads) != stages or self.size % (self.patch * self.window * 2 ** (stages - 1)):
            raise UsageError(
                "the configuration fits no Swin transformer",
                where="SwinConfig",
                why="each stage has depth and heads, and the smallest map holds whole windows",
                fix=f"at {stages} stages, size is a multiple of {self.patch * self.window * 2 ** (stages - 1)}",
            )
        self.layers()

    def layers(self) -> tuple[tuple[int, ...], ...]:
        """Active channels of each block by stage.

        Raises:
            UsageError: a theta is out of range, or their number is not that of the blocks.
        """
        total = sum(self.depths)
        for given in (self.theta, self.active):
            if isinstance(given, tuple) and len(given) != total:
                raise UsageError(
                    f"{len(given)} idle ratios for {total} layers", where="theta", fix="one for all, or each"
                )
        stages, first = [], 0
        for stage, depth in enumerate(self.depths):
            width, here = self.width * 2**stage, slice(first, first + depth)
            theta = self.theta[here] if isinstance(self.theta, tuple) else self.theta
            active = None if self.active is None else self.active[here]
            stages.append(idle_layers(width, self.expansion * width, depth, theta, active, self.multiple))
            first += depth
        return tuple(stages)


class WindowAttention(nn.Module):
    """Self-attention inside windows (batch * windows, tokens, width), with a learned bias a relative position."""

    def __init__(self, width: int, heads: int, window: int, mask: Tensor | None) -> None:
        super().__init__()
        self.heads = heads
        self.scale = float((width // heads) ** -0.5)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.positions = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_index(window), persistent=False)
        self.register_buffer("mask", mask, persistent=False)  # (windows, 1, tokens, tokens) or None
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = x.shape[1], x.shape[2]
        split = self.qkv(x).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # each (batch * windows, heads, tokens, width / heads)
        logits = torch.matmul(query * self.scale, key.transpose(-2, -1))
        index, mask = self.get_buffer("index"), self._buffers["mask"]
        logits = logits + self.positions[index].reshape(tokens, tokens, self.heads).permute(2, 0, 1)
        if mask is not None:
            windows = mask.shape[0]
            logits = logits.reshape(-1, windows, self.heads, tokens, tokens) + mask
            logits = logits.reshape(-1, self.heads, tokens, tokens)
        out = torch.matmul(torch.softmax(logits, dim=-1), value).transpose(1, 2).reshape(-1, tokens, width)
        projected: Tensor = self.proj(out)
        return projected

    def product_macs(self, x: Tensor) -> int:
        """2 windows tokens^2 width."""
        return 2 * x.shape[0] * x.shape[1] ** 2 * x.shape[2]


class SwinBlock(nn.Module):
    """Attention in windows, shifted by half a window in every other block, and a feed-forward layer, both residual."""

    def __init__(self, config: SwinConfig, stage: int, index: int) -> None:
        super().__init__()
        width, heads = config.width * 2**stage, config.heads[stage]
        self.window, self.side = config.window, config.size // config.patch // 2**stage
        self.shift = config.window // 2 if index % 2 and self.side > config.window else 0
        drop = config.drop_path * (sum(config.depths[:stage]) + index) / max(1, sum(config.depths) - 1)
        mask = shift_mask(self.side, config.window, self.shift) if self.shift else None
        self.norm = nn.LayerNorm(width, config.eps)
        self.attention = WindowAttention(width, heads, config.window, mask)
        self.drop_path = DropPath(drop)
        shape = IdleShape(
            width,
            config.expansion * width,
            config.layers()[stage][index],
            config.normalization,
            activation=config.activation,
            drop_path=drop,
            eps=config.eps,
        )
        self.ffn = FeedForward(shape)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        if self.shift:
            n = torch.roll(n, (-self.shift, -self.shift), (1, 2))
        n = self._joined(self.attention(self._windows(n)))
        if self.shift:
            n = torch.roll(n, (self.shift, self.shift), (1, 2))
        out: Tensor = self.ffn(x + self.drop_path(n))
        return out

    def _windows(self, x: Tensor) -> Tensor:
        return windows_of(x, self.window)

    def _joined(self, x: Tensor) -> Tensor:
        count, window, width = self.side // self.window, self.window, x.shape[-1]
        x = x.reshape(-1, count, count, window, window, width).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, self.side, self.side, width)


class PatchMerging(nn.Module):
    """Two by two tokens become one of twice the width."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, row, row in pair, column, column in pair, width): pairs by column first, then by row
        side, width = x.shape[1], x.shape[3]
        x = x.reshape(-1, side // 2, 2, side // 2, 2, width).permute(0, 1, 3, 4, 2, 5)
        out: Tensor = self.reduction(self.norm(x.reshape(-1, side // 2, side // 2, 4 * width)))
        return out


class SwinTransformer(nn.Module):
    """Takes float pictures (batch, 3, size, size), normalised; logits (batch, classes) or features (batch, width)."""

    def __init__(self, config: SwinConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SwinConfig()
        self.patches = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.patch_norm = nn.LayerNorm(config.width, config.eps)
        self.stages = nn.ModuleList()
        self.merging = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            self.stages.append(nn.Sequential(*(SwinBlock(config, stage, index) for index in range(depth))))
            if stage:
                self.merging.append(PatchMerging(config.width * 2 ** (stage - 1), config.eps))
        last = config.width * 2 ** (len(config.depths) - 1)
        self.norm = nn.LayerNorm(last, config.eps)
        self.head = nn.Linear(last, config.classes) if config.head == "classes" else None
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        refuse_size(image, self.config.size)
        x = self.patch_norm(self.patches(image).permute(0, 2, 3, 1))  # (batch, rows, columns, width)
        for index, stage in enumerate(self.stages):
            x = stage(x if index == 0 else self.merging[index - 1](x))
        pooled = self.norm(x).mean(dim=(1, 2))
        out: Tensor = pooled if self.head is None else self.head(pooled)
        return out


def windows_of(x: Tensor, window: int) -> Tensor:
    """(batch, side, side, width) to (batch * windows, window * window, width)."""
    count, width = x.shape[1] // window, x.shape[3]
    x = x.reshape(-1, count, window, count, window, width).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, window * window, width)


def relative_index(window: int) -> Tensor:
    """int64 (tokens * tokens,): the row of the bias table for each pair, (dy + w - 1) (2 w - 1) + dx + w - 1."""
    place = torch.arange(window)
    rows, columns = place.repeat_interleave(window), place.repeat(window)
    dy, dx = rows[:, None] - rows[None, :], columns[:, None] - columns[None, :]
    return ((dy + window - 1) * (2 * window - 1) + dx + window - 1).flatten()


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """float32 (windows, 1, tokens, tokens): 0 inside a region that the roll left together, `MASKED` across."""
    band = torch.zeros(side)
    band[side - window : side - shift] = 1
    band[side - shift :] = 2
    regions = (3 * band[:, None] + band[None, :]).reshape(1, side, side, 1)
    region = windows_of(regions, window).squeeze(-1)  # (windows, tokens)
    apart = region[:, None, :] != region[:, :, None]
    return torch.where(apart, MASKED, 0.0).unsqueeze(1)


SWINS = {
    "swin-tiny": SwinConfig(),
    "swin-small": SwinConfig(depths=(2, 2, 18, 2)),
    "swin-base": SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
}


def swin(name: str, **changes: Any) -> SwinTransformer:
    """A transformer of `SWINS` with changes to its configuration.

    Raises:
        UsageError: the name is unknown, or the changes do not fit.
    """
    if name not in SWINS:
        raise UsageError(f"no Swin transformer {name!r}", where="swin", fix="known: " + ", ".join(sorted(SWINS)))
    return SwinTransformer(replace(SWINS[name], **changes))
