"""The architectures of the benchmarks as plain modules: residual and inverted-residual networks, vision transformers.

Sources: ResNet (He et al., arXiv 1512.03385; stride on the 3x3 as in its torch form), MobileNetV2 (Sandler et al.,
arXiv 1801.04381, table 2), DeiT-S (Touvron et al., arXiv 2012.12877, table 1, without the distillation token). Every
convolution stands before its normalization in an `nn.Sequential`, where `edgekit.compress.fuse` finds it. Attention is
written as two matrix products and a softmax, so that the exported graph has these three and no fused operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, padded to keep the size at stride 1, and its batch normalization."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)), for both the basic and the bottleneck block."""

    def __init__(self, branch: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.branch(x) + self.shortcut(x))
        return out


def basic_block(inputs: int, outputs: int, stride: int) -> Residual:
    """Two 3x3 convolutions."""
    branch = nn.Sequential(*conv_bn(inputs, outputs, 3, stride), nn.ReLU(), *conv_bn(outputs, outputs, 3))
    return Residual(branch, inputs, outputs, stride)


def bottleneck(inputs: int, width: int, stride: int) -> Residual:
    """1x1 to `width`, 3x3, 1x1 to four times `width`."""
    branch = nn.Sequential(
        *conv_bn(inputs, width),
        nn.ReLU(),
        *conv_bn(width, width, 3, stride),
        nn.ReLU(),
        *conv_bn(width, 4 * width),
    )
    return Residual(branch, inputs, 4 * width, stride)


class InvertedResidual(nn.Module):
    """1x1 up by `expand`, depthwise 3x3, linear 1x1 down; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        up = [] if expand == 1 else [*conv_bn(inputs, hidden), nn.ReLU6()]
        depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.branch = nn.Sequential(*up, *depthwise, nn.ReLU6(), *conv_bn(hidden, outputs))
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x)
        return x + out if self.same else out


class ConvNet(nn.Module):
    """Features, global average, linear classifier: image (n, 3, h, w) float32 to logits (n, classes)."""

    def __init__(self, features: nn.Sequential, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.pool(self.features(image)).flatten(1))
        return out


class Attention(nn.Module):
    """Multi-head self-attention over (n, tokens, width), one linear layer for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = x.shape[1], x.shape[2]
        split = self.qkv(x).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # each (n, heads, tokens, width / heads)
        weights = torch.softmax(torch.matmul(query * self.scale, key.transpose(-2, -1)), dim=-1)
        out: Tensor = self.proj(torch.matmul(weights, value).transpose(1, 2).reshape(-1, tokens, width))
        return out


class Encoder(nn.Module):
    """Pre-norm attention and a GELU (erf) network of four times the width, both residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Patches, class token, learned positions, encoders: image (n, 3, size, size) float32 to logits (n, classes)."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.encoders = nn.Sequential(*(Encoder(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        out: Tensor = self.head(self.norm(self.encoders(x))[:, 0])
        return out


def resnet50() -> ConvNet:
    """25,557,032 parameters, 224x224."""
    layers: list[nn.Module] = [*conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            layers.append(bottleneck(inputs, width, stride if index == 0 else 1))
            inputs = 4 * width
    return ConvNet(nn.Sequential(*layers), inputs, 1000)


def mobilenetv2() -> ConvNet:
    """Width 1.0: 3,504,872 parameters, 224x224."""
    stages = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    return _inverted(stem=32, stem_stride=2, stages=stages, last=1280, classes=1000)


def deit_s() -> VisionTransformer:
    """22,050,664 parameters, 224x224, patches of 16."""
    return VisionTransformer(224, 16, width=384, depth=12, heads=6, classes=1000)


def cifar_resnet() -> ConvNet:
    """Eight weight layers of basic blocks for 32x32."""
    layers: list[nn.Module] = [*conv_bn(3, 16, 3), nn.ReLU()]
    inputs = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        layers.append(basic_block(inputs, outputs, stride))
        inputs = outputs
    return ConvNet(nn.Sequential(*layers), inputs, 10)


def cifar_mobilenet() -> ConvNet:
    """Inverted residuals for 32x32."""
    stages = ((1, 16, 1, 2), (4, 24, 2, 1), (4, 40, 3, 2), (4, 64, 3, 1))
    return _inverted(stem=16, stem_stride=1, stages=stages, last=256, classes=10)


def cifar_deit() -> VisionTransformer:
    """Four encoders of width 96 over 32x32, patches of 4."""
    return VisionTransformer(32, 4, width=96, depth=4, heads=3, classes=10)


def _inverted(
    stem: int, stem_stride: int, stages: Sequence[tuple[int, int, int, int]], last: int, classes: int
) -> ConvNet:
    """MobileNetV2's layout; a stage is (expansion, channels, blocks, stride of the first)."""
    layers: list[nn.Module] = [*conv_bn(3, stem, 3, stem_stride), nn.ReLU6()]
    inputs = stem
    for expand, outputs, count, stride in stages:
        for index in range(count):
            layers.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expand))
            inputs = outputs
    layers += [*conv_bn(inputs, last), nn.ReLU6()]
    return ConvNet(nn.Sequential(*layers), last, classes)
