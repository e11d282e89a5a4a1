"""Convolution blocks that know their own exact deployed form: `fused()` returns it, computed in float64."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@runtime_checkable
class Fusable(Protocol):
    """A module with a cheaper, mathematically equal form for inference."""

    def fused(self) -> nn.Module:
        """The deployed form, a new module of the same dtype; the receiver is left as it is."""
        ...


class ConvBN(nn.Module):
    """Convolution without bias, batch normalization, and ReLU unless `activation` is false."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act: nn.Module = nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out

    def fused(self) -> nn.Module:
        """The convolution with the normalization folded in, plus its ReLU."""
        return with_activation(fold_batch_norm(self.conv, self.bn), self.act)


class IBEConv(nn.Module):
    """Instance boundary enhancement (FemtoDet, arXiv 2301.06719, section 3.2): a depthwise 3x3 with dual norms.

    y1 = W * x;  S = sum over the 3x3 of W;  y2 = y1 - sigmoid(theta) (S * x);  out = ReLU(BN1(y1) + BN2(y2)).
    S is a 1x1 depthwise kernel that shares W, so only `theta` (one scalar) and the second norm are new parameters.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.theta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        local = self.conv(x)
        semantic = self.conv.weight.sum(dim=(2, 3), keepdim=True)  # (channels, 1, 1, 1)
        difference = F.conv2d(x, semantic, stride=self.conv.stride, groups=self.conv.groups)
        boundary = local - self.theta.sigmoid() * difference
        out: Tensor = self.act(self.bn(local) + self.bn2(boundary))
        return out

    def fused(self) -> nn.Module:
        """One depthwise 3x3 with bias, plus ReLU.

        W2 = W with sigmoid(theta) S taken from the centre tap; K = f1 W + f2 W2;
        b = (beta1 - mu1 f1) + (beta2 - mu2 f2), with f = gamma / sqrt(var + eps). Exact for stride 2
        as well: the centre tap of a padded 3x3 reads the very samples that an unpadded 1x1 of the same stride reads.
        """
        weight = self.conv.weight.detach().double()  # (channels, 1, 3, 3)
        difference = weight.clone()
        difference[:, :, 1, 1] -= self.theta.detach().double().sigmoid() * weight.sum(dim=(2, 3))
        factor1, shift1 = batch_norm_affine(self.bn)
        factor2, shift2 = batch_norm_affine(self.bn2)
        kernel = factor1.view(-1, 1, 1, 1) * weight + factor2.view(-1, 1, 1, 1) * difference
        return with_activation(conv_like(self.conv, kernel, shift1 + shift2), self.act)


def batch_norm_affine(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The factor and shift, float64 (channels,), that `bn` applies in evaluation mode.

    Raises:
        ValueError: if the norm keeps no running statistics, so that its output depends on the batch.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    factor = 1.0 / torch.sqrt(bn.running_var.double() + bn.eps)
    shift = -bn.running_mean.double()
    if bn.affine:
        factor = factor * bn.weight.detach().double()
    shift = shift * factor
    if bn.affine:
        shift = shift + bn.bias.detach().double()
    return factor, shift


def fold_batch_norm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """The one convolution, with bias, that equals `bn(conv(x))` in evaluation mode."""
    factor, shift = batch_norm_affine(bn)
    kernel = conv.weight.detach().double() * factor.view(-1, 1, 1, 1)
    if conv.bias is not None:
        shift = shift + conv.bias.detach().double() * factor
    return conv_like(conv, kernel, shift)


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor, stride: int | None = None) -> nn.Conv2d:
    """A convolution with the geometry of `conv` and the given float64 weight and bias, in `conv`'s dtype."""
    out = nn.Conv2d(
        weight.shape[1] * conv.groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=(stride, stride) if stride else (conv.stride[0], conv.stride[1]),
        padding=conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1]),
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        bias=True,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        out.weight.copy_(weight)
        out.bias.copy_(bias) if out.bias is not None else None
    return out.eval()


def with_activation(conv: nn.Conv2d, activation: nn.Module) -> nn.Module:
    """`conv` followed by `activation`, or `conv` alone where the activation is the identity."""
    return conv if isinstance(activation, nn.Identity) else nn.Sequential(conv, activation).eval()
