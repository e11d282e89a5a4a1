"""What a channel-idle layer is, trained and deployed, without weights: shapes, and how many channels stay active."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from edgekit.errors import UsageError

Normalization = Literal["batch", "layer"]
Layout = Literal["tokens", "maps"]  # (..., width) or (batch, width, height, width of the map)
Activation = Literal["gelu", "quick-gelu", "relu"]
MULTIPLE = 16  # rows that tensor cores and vector units take at once in fp16 and fp32; int8 wants 32


@dataclass(frozen=True)
class IdleShape:
    """A feed-forward layer as it is trained.

    Attributes:
        width: of a token.
        hidden: channels between the two linear layers.
        active: of these, the first ones that the activation sees; all of them make a plain layer.
        normalization: `batch` or `layer`, in front; `batch` adds a second one before the last linear layer.
        layout: `tokens` for linear layers over the last axis, `maps` for 1x1 convolutions.
        activation: `gelu` is the exact one (erf); each maps 0 to 0, so that padded rows stay silent.
        layer_scale: initial value of a learned factor a channel on the branch, or None.
        drop_path: probability of skipping the branch for a sample, in training.
        eps: of the norms.
    """

    width: int
    hidden: int
    active: int
    normalization: Normalization = "layer"
    layout: Layout = "tokens"
    activation: Activation = "gelu"
    layer_scale: float | None = None
    drop_path: float = 0.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.active <= self.hidden or self.width < 1:
            raise UsageError(f"{self.active} active of {self.hidden} hidden channels, width {self.width}")
        if self.active < self.hidden and 2 * (self.hidden - self.active) <= self.width:
            raise UsageError(
                f"only {self.hidden - self.active} of {self.hidden} channels idle",
                where="feed-forward",
                why=f"merging idle channels pays above width / 2 = {self.width / 2:g}: their matrix is width x width",
                fix="let more channels idle, or none",
            )


@dataclass(frozen=True)
class MergedShape:
    """A feed-forward layer as it is deployed; enough to build it without weights.

    Attributes:
        width: of a token.
        active: rows of the first matrix, padding included; 0 leaves one affine map.
        linear: whether there is a merged matrix.
        normalization: `none`, or `layer` without affine part.
        identity: `folded` into the merged matrix, or `added` as a residual.
        layout, activation, eps: as in training.
    """

    width: int
    active: int
    linear: bool
    normalization: Literal["none", "layer"]
    identity: Literal["folded", "added"]
    layout: Layout = "tokens"
    activation: Activation = "gelu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.width < 1 or self.active < 0 or not (self.active or self.linear):
            raise ValueError("a merged layer has a width, and active rows or a merged matrix")
        if self.identity == "folded" and (self.normalization != "none" or not self.linear):
            raise ValueError("an identity is folded into a merged matrix that sees the tokens themselves")


def active_channels(width: int, hidden: int, theta: float | None, multiple: int = MULTIPLE) -> int:
    """The number of active channels for an idle ratio `theta`: hidden (1 - theta), rounded up to `multiple`.

    Computed on theta's decimal digits: in binary, hidden 5120 and theta 0.7 would give 1537. None is a plain layer.

    Raises:
        UsageError: theta is not in (1 / (2 rho), 1] with rho = hidden / width; at or below that, merging adds work.
    """
    if theta is None:
        return hidden
    if not width / (2 * hidden) < theta <= 1:
        raise UsageError(
            f"an idle ratio of {theta} is not in ({width / (2 * hidden):g}, 1]",
            where="theta",
            why="merged, idle channels cost width x width: below 1 / (2 rho) that is more than they cost apart",
            fix="choose a ratio in this range, or none at all for a plain layer",
        )
    exact = hidden * (1 - Fraction(str(theta)))
    return min(hidden, math.ceil(exact / multiple) * multiple)


def merged_shape(shape: IdleShape, fold: bool, multiple: int = MULTIPLE) -> MergedShape:
    """The deployed form of a layer, without weights; see `merge`."""
    linear = shape.active < shape.hidden
    folded = fold and linear and shape.normalization == "batch"
    return MergedShape(
        width=shape.width,
        active=math.ceil(shape.active / multiple) * multiple,
        linear=linear,
        normalization="none" if shape.normalization == "batch" else "layer",
        identity="folded" if folded else "added",
        layout=shape.layout,
        activation=shape.activation,
        eps=shape.eps,
    )
