"""PoolFormer whose feed-forward layers idle (Yu et al., arXiv 2111.11418): maps, 1x1 convolutions and LayerScale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.models.feedforward import FeedForward, scale_of
from edgekit.models.idle import MULTIPLE, IdleShape, Normalization
from edgekit.models.vit import idle_layers, initialise, refuse_size


@dataclass(frozen=True)
class PoolFormerConfig:
    """The architecture: widths and depths a stage; `theta` one for all. See `ViTConfig`."""

    size: int = 224
    widths: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    classes: int = 1000
    expansion: int = 4
    theta: float | None = None
    multiple: int = MULTIPLE
    normalization: Normalization = "layer"
    layer_scale: float | None = 1e-5
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths):
            raise UsageError("each stage has a width and a depth", where="PoolFormerConfig")
        self.layers()

    def layers(self) -> tuple[tuple[int, ...], ...]:
        """Active channels of each block by stage.

        Raises:
            UsageError: theta is out of range.
        """
        stages = zip(self.widths, self.depths, strict=True)
        return tuple(idle_layers(w, self.expansion * w, n, self.theta, None, self.multiple) for w, n in stages)


class PoolBlock(nn.Module):
    """x + scale (average over 3x3 of norm(x) - norm(x)), then a feed-forward layer, over maps."""

    def __init__(self, config: PoolFormerConfig, width: int, active: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width, config.eps)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.scale = scale_of(width, config.layer_scale, "maps")
        shape = IdleShape(
            width,
            config.expansion * width,
            active,
            config.normalization,
            "maps",
            layer_scale=config.layer_scale,
            eps=config.eps,
        )
        self.ffn = FeedForward(shape)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        out: Tensor = self.ffn(x + self.scale(self.pool(n) - n))
        return out


class PoolFormer(nn.Module):
    """Takes float pictures (batch, 3, size, size), normalised; gives logits (batch, classes)."""

    def __init__(self, config: PoolFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PoolFormerConfig()
        self.stages = nn.Sequential()
        before = 3
        for width, layers in zip(config.widths, config.layers(), strict=True):
            stem = before == 3
            self.stages.append(nn.Conv2d(before, width, 7, 4, 2) if stem else nn.Conv2d(before, width, 3, 2, 1))
            self.stages.extend(PoolBlock(config, width, active) for active in layers)
            before = width
        self.norm = nn.GroupNorm(1, before, config.eps)
        self.head = nn.Linear(before, config.classes)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        refuse_size(image, self.config.size)
        out: Tensor = self.head(self.norm(self.stages(image)).mean(dim=(2, 3)))
        return out


POOLFORMERS = {
    "poolformer-s12": PoolFormerConfig(),
    "poolformer-m36": PoolFormerConfig(widths=(96, 192, 384, 768), depths=(6, 6, 18, 6), layer_scale=1e-6),
}


def poolformer(name: str, **changes: Any) -> PoolFormer:
    """A network of `POOLFORMERS` with changes to its configuration.

    Raises:
        UsageError: the name is unknown, or the changes do not fit.
    """
    if name not in POOLFORMERS:
        raise UsageError(f"no PoolFormer {name!r}", where="poolformer", fix="known: " + ", ".join(sorted(POOLFORMERS)))
    return PoolFormer(replace(POOLFORMERS[name], **changes))
