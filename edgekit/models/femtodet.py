"""FemtoDet: a 68,774-parameter anchor-free detector (Tu et al., arXiv 2301.06719; code yh-pengtu/FemtoDet, Apache-2.0).

A MobileNetV2-like backbone whose depthwise convolutions are IBE convolutions, a neck that adds three taps at stride
16, and a head of three 1x1 convolutions. The output is one map of logits (batch, 4 + 1 + classes, h / 16, w / 16),
channels in the order box, objectness, classes; decoding happens outside the network.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.models.blocks import ConvBN, IBEConv, conv_like, with_activation
from edgekit.spec import DetectionPostprocess, ImagePreprocess, ModelSpec, TensorSpec

STRIDE = 16
NECK_CHANNELS = 64
WIDTHS = (0.25, 0.5, 0.75, 1.0)  # the factors for which the published neck widths equal the rounded backbone widths
TAPS = (2, 4, 6)  # stages feeding the neck: strides 8, 16, 32
# (expansion, channels before the width factor, blocks, stride, groups of the projection) a stage
STAGES = (
    (1, 16, 1, 1, 1),
    (4, 24, 2, 2, 1),
    (4, 32, 2, 2, 1),
    (4, 64, 3, 2, 1),
    (4, 96, 2, 1, 1),
    (4, 160, 2, 2, 2),
    (4, 320, 1, 1, 2),
)
# Mean and standard deviation of the upstream test pipeline, RGB, 0 to 255 (configs/femtoDet/femtodet_0stage.py:51).
MEAN = (123.675, 116.28, 103.53)
STD = (58.82, 58.82, 58.82)


@dataclass(frozen=True)
class FemtoDetConfig:
    """The architecture: number of classes and width factor (one of `WIDTHS`)."""

    classes: int = 20
    width: float = 0.25

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"a detector needs at least one class, not {self.classes}")
        if self.width not in WIDTHS:
            raise ValueError(f"width must be one of {', '.join(map(str, WIDTHS))}, not {self.width}")


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, but never below 90 % of it (MobileNetV2)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class Block(nn.Module):
    """Inverted residual: expand, IBE depthwise, linear projection; the input is added where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, groups: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand: nn.Module = ConvBN(in_channels, hidden) if expansion != 1 else nn.Identity()
        self.depthwise = IBEConv(hidden, stride)
        self.project = ConvBN(hidden, out_channels, groups=groups, activation=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class Backbone(nn.Module):
    """Stem and seven stages; returns the taps at strides 8, 16 and 32."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = make_divisible(32 * width)
        self.stem = ConvBN(3, channels, kernel_size=3, stride=2)
        self.stages = nn.ModuleList()
        self.tap_channels: list[int] = []
        for index, (expansion, base, blocks, stride, groups) in enumerate(STAGES):
            stage = nn.Sequential()
            for i in range(blocks):
                out_channels = make_divisible(base * width)
                stage.append(Block(channels, out_channels, expansion, stride if i == 0 else 1, groups))
                channels = out_channels
            self.stages.append(stage)
            if index in TAPS:
                self.tap_channels.append(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        taps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in TAPS:
                taps.append(x)
        return taps


class SharedNeck(nn.Module):
    """1x1 laterals to 64 channels, nearest resize to stride 16, sum, one depthwise-separable 3x3."""

    def __init__(self, in_channels: list[int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(ConvBN(channels, NECK_CHANNELS) for channels in in_channels)
        self.depthwise = ConvBN(NECK_CHANNELS, NECK_CHANNELS, kernel_size=3, groups=NECK_CHANNELS)
        self.pointwise = ConvBN(NECK_CHANNELS, NECK_CHANNELS)
        self.scales = [0.5, 1.0, 2.0]  # from strides 8, 16, 32 to 16

    def forward(self, taps: list[Tensor]) -> Tensor:
        maps = [lateral(tap) for lateral, tap in zip(self.laterals, taps, strict=True)]
        same = [
            x if scale == 1.0 else F.interpolate(x, scale_factor=scale, mode="nearest")
            for x, scale in zip(maps, self.scales, strict=True)
        ]
        out: Tensor = self.pointwise(self.depthwise(same[0] + same[1] + same[2]))
        return out


class Head(nn.Module):
    """Three biased 1x1 convolutions on the neck's map: box (4), objectness (1), classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.box = nn.Conv2d(NECK_CHANNELS, 4, 1)
        self.objectness = nn.Conv2d(NECK_CHANNELS, 1, 1)
        self.classes = nn.Conv2d(NECK_CHANNELS, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.box(x), self.objectness(x), self.classes(x)], dim=1)

    def merged(self) -> nn.Conv2d:
        """The one 1x1 convolution that equals the three."""
        parts = (self.box, self.objectness, self.classes)
        biases = [part.bias for part in parts if part.bias is not None]
        return conv_like(self.box, torch.cat([part.weight for part in parts]), torch.cat(biases))


class FemtoDet(nn.Module):
    """The detector, in its training form until `edgekit.compress` fuses and rewrites it.

    `forward` takes float32 (batch, 3, h, w), normalised RGB with h and w multiples of 32, and returns logits
    (batch, 5 + classes, h / 16, w / 16).
    """

    def __init__(self, config: FemtoDetConfig | None = None) -> None:
        super().__init__()
        self.config = config or FemtoDetConfig()
        self.backbone = Backbone(self.config.width)
        self.neck = SharedNeck(self.backbone.tap_channels)
        self.head: nn.Module = Head(self.config.classes)
        self._initialise()

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.head(self.neck(self.backbone(image)))
        return out

    def rewritten(self) -> FemtoDet:
        """A copy with the exact rewrites of a fused network: a strided first lateral and one merged head.

        Nearest resizing from stride 8 to 16 keeps the even samples, so a 1x1 convolution of stride 2 computes just
        the samples that survive.
        """
        out = copy.deepcopy(self)
        lateral = out.neck.laterals[0]
        if isinstance(lateral, nn.Sequential) and isinstance(lateral[0], nn.Conv2d):
            conv, activation = lateral[0], lateral[1]
            bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)
            out.neck.laterals[0] = with_activation(conv_like(conv, conv.weight, bias, stride=2), activation)
            out.neck.scales[0] = 1.0
        if isinstance(out.head, Head):
            out.head = out.head.merged()
        return out

    def _initialise(self) -> None:
        """Upstream's: Kaiming normal (fan out) in the backbone, Xavier in the neck, probability 0.01 in the head."""
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.neck.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        head = self.head
        if isinstance(head, Head) and head.objectness.bias is not None and head.classes.bias is not None:
            nn.init.constant_(head.objectness.bias, -math.log(99.0))
            nn.init.constant_(head.classes.bias, -math.log(99.0))


def femtodet_spec(labels: tuple[str, ...], size: int = 416, name: str = "femtodet") -> ModelSpec:
    """What FemtoDet is for the outside, at `size` x `size` pixels (a multiple of 32) with the given class names."""
    if not isinstance(size, int) or size < 32 or size % 32:
        raise ValueError(f"FemtoDet takes sizes that are multiples of 32, not {size}")
    cells = size // STRIDE
    return ModelSpec(
        name=name,
        task="detection",
        inputs=(TensorSpec("image", "float32", ("batch", 3, size, size)),),
        outputs=(TensorSpec("head", "float32", ("batch", 5 + len(labels), cells, cells)),),
        preprocess=ImagePreprocess(input="image", height=size, width=size, mean=MEAN, std=STD),
        postprocess=DetectionPostprocess(outputs=("head",), decode="yolox-grid", stride=STRIDE),
        labels=labels,
        metric="ap50",
    )
