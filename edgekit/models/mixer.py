"""MLP-Mixer whose channel-mixing layers idle (Tolstikhin et al., arXiv 2105.01601); token mixing stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.models.feedforward import FeedForward
from edgekit.models.idle import MULTIPLE, IdleShape, Normalization
from edgekit.models.vit import idle_layers, initialise, refuse_size


@dataclass(frozen=True)
class MixerConfig:
    """The architecture; `token_hidden` and `hidden` are the channels of the two kinds of layers. See `ViTConfig`."""

    size: int = 224
    patch: int = 16
    width: int = 512
    depth: int = 8
    token_hidden: int = 256
    hidden: int = 2048
    classes: int = 1000
    theta: float | tuple[float | None, ...] | None = None
    active: tuple[int, ...] | None = None
    multiple: int = MULTIPLE
    normalization: Normalization = "layer"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise UsageError("size must be a multiple of patch", where="MixerConfig")
        self.layers()

    def layers(self) -> tuple[int, ...]:
        """Active channels of each layer.

        Raises:
            UsageError: a theta is out of range, or their number is not the depth.
        """
        return idle_layers(self.width, self.hidden, self.depth, self.theta, self.active, self.multiple)


class TokenMixing(nn.Module):
    """x + transpose(mlp(transpose(norm(x)))) over (batch, tokens, width)."""

    def __init__(self, tokens: int, hidden: int, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(tokens, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, tokens)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return out


class Mixer(nn.Module):
    """Takes float pictures (batch, 3, size, size), normalised; gives logits (batch, classes)."""

    def __init__(self, config: MixerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MixerConfig()
        tokens = (config.size // config.patch) ** 2
        self.patches = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.blocks = nn.Sequential()
        for active in config.layers():
            shape = IdleShape(config.width, config.hidden, active, config.normalization, eps=config.eps)
            self.blocks.append(TokenMixing(tokens, config.token_hidden, config.width, config.eps))
            self.blocks.append(FeedForward(shape))
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.head = nn.Linear(config.width, config.classes)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        refuse_size(image, self.config.size)
        x = self.patches(image).flatten(2).transpose(1, 2)  # (batch, tokens, width)
        out: Tensor = self.head(self.norm(self.blocks(x)).mean(dim=1))
        return out


MIXERS = {
    "mixer-small": MixerConfig(),
    "mixer-base": MixerConfig(width=768, depth=12, token_hidden=384, hidden=3072),
}


def mixer(name: str, **changes: Any) -> Mixer:
    """A network of `MIXERS` with changes to its configuration.

    Raises:
        UsageError: the name is unknown, or the changes do not fit.
    """
    if name not in MIXERS:
        raise UsageError(f"no mixer {name!r}", where="mixer", fix="known: " + ", ".join(sorted(MIXERS)))
    return Mixer(replace(MIXERS[name], **changes))
