"""Weights as integers: symmetric, narrow range, a scale for each output channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.graph.quantspec import WeightQuant


def largest_integer(bits: int) -> int:
    """127 for 8 bits: -128 is left out, so that a product of two weights' magnitudes never exceeds 127^2."""
    return int(2 ** (bits - 1)) - 1


def weight_scales(quant: WeightQuant, rank: int) -> npt.NDArray[np.float64]:
    """The step of each channel, shaped to multiply a weight of `rank` dimensions."""
    scales = np.asarray(quant.clip, np.float64) / largest_integer(quant.bits)
    if quant.axis is None:
        return scales.reshape(())
    shape = [1] * rank
    shape[quant.axis] = -1
    return scales.reshape(shape)


def quantize_weight(
    values: npt.NDArray[Any], quant: WeightQuant
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """The nearest integers, int8 of the same shape (halves to even), and the steps to multiply them by."""
    scales = weight_scales(quant, values.ndim)
    limit = largest_integer(quant.bits)
    return np.clip(np.rint(values.astype(np.float64) / scales), -limit, limit).astype(np.int8), scales
