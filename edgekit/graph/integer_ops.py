"""The kernels of the integer reference: what ONNX defines, in float64, with whole numbers kept whole where they are.

Every float array is float64. Sums of products of whole numbers are exact in it as long as they stay below 2^53, which
an int32 accumulator never reaches. Formulas: the operator pages of the ONNX specification.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import helper

Array = np.ndarray
Attributes = dict[str, Any]


@dataclass(frozen=True)
class Lattice:
    """What a DequantizeLinear computes, not multiplied out: `whole * scale`.

    Attributes:
        whole: `x - zero_point`, whole numbers in float64, any shape.
        scale: float64, a scalar or one per entry of `axis`.
        axis: the axis that `scale` runs along, not negative; None for a scalar.
    """

    whole: Array
    scale: Array
    axis: int | None

    def values(self) -> Array:
        """The real numbers, float64, of `whole`'s shape."""
        real: Array = self.whole * along(self.scale, self.axis, self.whole.ndim)
        return real


@dataclass(frozen=True)
class Operand:
    """A factor of a product: its values, and its lattice where a DequantizeLinear made it."""

    values: Array
    lattice: Lattice | None = None


def along(vector: Array, axis: int | None, dims: int) -> Array:
    """`vector` in a shape that broadcasts along `axis` of an array with `dims` axes; a scalar as it is."""
    if axis is None:
        return vector.reshape(())
    shape = [1] * dims
    shape[axis] = vector.size
    return vector.reshape(shape)


def quantize(x: Array, scale: Array, zero_point: Array, axis: int | None) -> Array:
    """`saturate(round(x / scale) + zero_point)`, ties to even, in `zero_point`'s integer dtype and `x`'s shape."""
    steps = np.rint(x / along(scale, axis, x.ndim)) + along(zero_point.astype(np.float64), axis, x.ndim)
    limits = np.iinfo(zero_point.dtype)
    saturated: Array = np.clip(steps, limits.min, limits.max).astype(zero_point.dtype)
    return saturated


def dequantize(x: Array, scale: Array, zero_point: Array | None, axis: int | None) -> Lattice:
    """`(x - zero_point) * scale`, not multiplied out."""
    whole = x.astype(np.float64)
    if zero_point is not None:
        whole = whole - along(zero_point.astype(np.float64), axis, x.ndim)
    return Lattice(whole, scale, axis)


def conv(attributes: Attributes, x: Operand, w: Operand, bias: Array | None) -> Array:
    """Conv over 1 to 3 spatial axes: `x` (batch, in, *space), `w` (out, in / groups, *kernel), `bias` (out)."""
    data, weight, scale = _factors(x, w, w_axis=0)
    spatial, kernel = data.shape[2:], weight.shape[2:]
    ones = [1] * len(kernel)
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    pads = window_pads(attributes, spatial, kernel, strides, dilations)
    data = np.pad(data, [(0, 0), (0, 0), *pads])
    convolve: Callable[..., torch.Tensor] = (torch.conv1d, torch.conv2d, torch.conv3d)[len(kernel) - 1]
    out = convolve(
        torch.from_numpy(data),
        torch.from_numpy(np.ascontiguousarray(weight)),
        stride=list(strides),
        dilation=list(dilations),
        groups=attributes.get("group", 1),
    ).numpy()
    scaled: Array = out * along(scale, 1 if scale.ndim else None, out.ndim)
    return scaled if bias is None else scaled + along(bias, 1, out.ndim)


def gemm(attributes: Attributes, a: Operand, b: Operand, c: Array | None) -> Array:
    """`alpha * a @ b + beta * c` of two matrices, each transposed first where `transA`, `transB` say so."""
    trans_a, trans_b = attributes.get("transA", 0), attributes.get("transB", 0)
    left, right, scale = _factors(a, b, w_axis=0 if trans_b else 1)
    out: Array = _matmul(left.T if trans_a else left, right.T if trans_b else right)
    out = out * (scale * attributes.get("alpha", 1.0))
    return out if c is None else out + c * attributes.get("beta", 1.0)


def matmul(_: Attributes, a: Operand, b: Operand) -> Array:
    """`a @ b` with numpy's rules for stacks of matrices."""
    left, right, scale = _factors(a, b, w_axis=b.values.ndim - 1)
    out: Array = _matmul(left, right) * scale
    return out


def max_pool(attributes: Attributes, x: Array) -> Array:
    """MaxPool of floats or integers, without indices."""
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    windows, _ = _windows(attributes, x, lowest)
    largest: Array = windows.max(axis=tuple(range(x.ndim, windows.ndim)))
    return largest


def average_pool(attributes: Attributes, x: Array) -> Array:
    """AveragePool; padding counts where `count_include_pad` says so, what `ceil_mode` adds beyond it never does."""
    windows, counted = _windows(attributes, x, 0.0)
    axes = tuple(range(x.ndim, windows.ndim))
    mean: Array = windows.sum(axis=axes) / counted.sum(axis=axes)
    return mean


def gelu(attributes: Attributes, x: Array) -> Array:
    """`x * P(X <= x)` for a standard normal X, or its `tanh` form (Hendrycks and Gimpel, arXiv 1606.08415)."""
    form = attributes.get("approximate", b"none").decode()
    if form not in _NORMAL_BELOW:
        raise ValueError(f"approximate is none or tanh, not {form[:40]!r}")
    weighted: Array = x * _NORMAL_BELOW[form](torch.from_numpy(np.ascontiguousarray(x))).numpy()
    return weighted


_NORMAL_BELOW: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: 0.5 * torch.erfc(-x / math.sqrt(2)),
    "tanh": lambda x: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def window_pads(
    attributes: Attributes, spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], steps: Sequence[int]
) -> list[tuple[int, int]]:
    """Padding before and after each spatial axis, from `pads` or `auto_pad`; `steps` are the dilations."""
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode == "NOTSET":
        pads = attributes.get("pads", [0] * 2 * len(kernel))
        return list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
    if mode == "VALID":
        return [(0, 0)] * len(kernel)
    pairs = []
    for size, k, stride, step in zip(spatial, kernel, strides, steps, strict=True):
        total = max((-(-size // stride) - 1) * stride + (k - 1) * step + 1 - size, 0)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return pairs


def attributes_of(node: Any) -> Attributes:
    """A node's attributes by name, as Python values; strings as bytes."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _factors(x: Operand, w: Operand, w_axis: int) -> tuple[Array, Array, Array]:
    """What to multiply and what to scale the sums with: whole numbers where the scales can be taken out of the sum.

    They can where `x` has one scale, and `w` one, or one for each entry of the axis that the product keeps.
    """
    a, b = x.lattice, w.lattice
    if a is not None and b is not None and a.axis is None and b.axis in (None, w_axis):
        return a.whole, b.whole, a.scale * b.scale
    return x.values, w.values, np.array(1.0)


def _matmul(a: Array, b: Array) -> Array:
    left, right = (torch.from_numpy(np.ascontiguousarray(each)) for each in (a, b))
    return np.asarray(torch.matmul(left, right).numpy())


def _windows(attributes: Attributes, x: Array, fill: float) -> tuple[Array, Array]:
    """A view of `x` with the windows as further axes, and of the same shape or one that broadcasts, what counts."""
    kernel = attributes["kernel_shape"]
    ones = [1] * len(kernel)
    strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
    spatial = x.shape[2:]
    pads = window_pads(attributes, spatial, kernel, strides, dilations)
    beyond = []
    for i, size in enumerate(spatial):
        reach, padded = (kernel[i] - 1) * dilations[i] + 1, size + sum(pads[i])
        count = (padded - reach) // strides[i] + 1
        if attributes.get("ceil_mode", 0) and count * strides[i] < size + pads[i][0] and (padded - reach) % strides[i]:
            count += 1  # a last window that begins in the image or the padding before it
        beyond.append((0, max(0, (count - 1) * strides[i] + reach - padded)))
    inside = np.ones((1, 1, *spatial))
    counted = np.pad(inside, [(0, 0)] * 2 + pads, constant_values=float(attributes.get("count_include_pad", 0)))
    arrays = (
        np.pad(
            x, [(0, 0)] * 2 + [(b, a + e) for (b, a), (_, e) in zip(pads, beyond, strict=True)], constant_values=fill
        ),
        np.pad(counted, [(0, 0)] * 2 + beyond),
    )
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    axes = tuple(range(2, x.ndim))
    pick: Any = (..., *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    first, second = (np.lib.stride_tricks.sliding_window_view(each, reach, axes)[pick] for each in arrays)
    return first, second
