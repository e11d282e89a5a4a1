"""Antialiased bilinear resizing of uint8 pictures in numpy, bit for bit what Pillow 13's `Image.resize` gives.

The algorithm is the one that Pillow documents ("Filters", `Resampling.BILINEAR`, in its Concepts: "linear interpolation
on all pixels that may contribute to the output value") and states in `src/libImaging/Resample.c`: every output pixel is
a mean of the input pixels under a triangle. The triangle reaches one input pixel to each side where the picture grows,
and one *output* pixel, as many input pixels as that is, where it shrinks. Weights are whole multiples of 2^-22, so that
sums are exact and do not depend on their order.

There is a pass along the rows and one along the columns. Each rounds to bytes, so their order shows, in one grey level
here and there; a pass that changes no size is skipped. Pillow before 13 always did the rows first. Since 13 the columns
come first where the height loses more than twice the pixels that the width loses: upright pictures, mostly.

A pass weighs whole rows of 32-bit lanes, a tap at a time: numpy then does the arithmetic in its vector loops. For the
horizontal pass a block of the picture is laid on its side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgekit.processing.resize import Pixels
from edgekit.processing.scratch import scratch

Lanes = npt.NDArray[np.uint32]

_LANE = np.dtype("<u4")  # byte order is part of the algorithm: a sum's highest byte is the result
_ONE = 1 << 22  # the weight 1.0: Pillow's PRECISION_BITS, 32 less 8 for the pixel less 2 for the sum
_RAISE = np.uint32(4)  # moves a sum's whole part, bits 22 to 29, into its highest byte
_HALF = np.uint32(1 << 23)  # half a grey level in a raised sum: rounds to nearest
_BLOCK_ROWS = 32  # worked on at once: three buffers of 100 to 250 kB at 640 pixels, which stay in the cache
_CACHED_AXES = 16  # an axis takes 12 bytes a tap and output pixel, so 17 kB from 640 to 352


def resample_antialiased(
    image: Pixels, height: int, width: int, *, planar: bool = False, reverse: bool = False, out: Pixels | None = None
) -> Pixels:
    """Resize a picture as `PIL.Image.resize((width, height), Image.Resampling.BILINEAR)` does, without checks.

    Args:
        image: uint8 (h, w, 3), not empty.
        height, width: the wanted size, at least 1.
        planar: return (3, height, width) instead of (height, width, 3).
        reverse: return the channels in reverse order (RGB to BGR and back).
        out: memory for the result, uint8 (3 * height * width,), apart from `image`; fresh if None.
    """
    out = np.empty(3 * height * width, np.uint8) if out is None else out
    shaped = out.reshape((3, height, width) if planar else (height, width, 3))
    rows = shaped.transpose(1, 0, 2) if planar else shaped
    source = image
    if _columns_first(image.shape[0] - height, image.shape[1] - width):
        source = scratch("between", height * image.shape[1] * 3, np.uint8).reshape(height, -1, 3)
        _down(image, source)
    if reverse:
        source = source[..., ::-1]
    if source.shape[1] == width:
        between = source.transpose(0, 2, 1) if planar else source
    elif source.shape[0] == height:
        _across(source, rows, planar)
        return shaped
    else:
        between = scratch("between", len(source) * 3 * width, np.uint8).reshape(-1, *rows.shape[1:])
        _across(source, between, planar)
    if len(between) == height:
        rows[...] = between
    else:
        _down(between, rows)
    return shaped


def _columns_first(lost_height: int, lost_width: int) -> bool:
    """The order of passes since Pillow 13 (python-pillow/Pillow#9549); both arguments are negative for growth."""
    return lost_height > 0 and lost_height > 2 * lost_width


@dataclass(frozen=True, eq=False)
class _Axis:
    """Which input coordinates make an output coordinate.

    Attributes:
        taps: intp (t, new), ascending along both axes.
        weights: uint32 (t, new, 1), of which a column adds up to about 2^24.
    """

    taps: npt.NDArray[np.intp]
    weights: Lanes


@lru_cache(maxsize=_CACHED_AXES)
def _axis(size: int, new: int) -> _Axis:
    """The window of every output coordinate and its weights, in float64 and in the order of sums that Pillow has."""
    scale = size / new
    reach = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.intp), 0)
    stop = np.minimum((centre + reach + 0.5).astype(np.intp), size)
    taps = first + np.arange((stop - first).max())[:, None]
    shares = np.maximum(1 - np.abs((taps - centre + 0.5) * (1 / reach)), 0)
    shares[taps >= stop] = 0
    shares /= shares.cumsum(axis=0)[-1]  # one after another; `sum` may add in pairs, and round otherwise
    weights = (shares * _ONE + 0.5).astype(_LANE)
    used = np.flatnonzero(weights.any(axis=1))[-1] + 1
    return _Axis(np.minimum(taps[:used], size - 1), (weights[:used] * _RAISE)[..., None])


def _across(image: Pixels, rows: Pixels, planar: bool) -> None:
    """The horizontal pass: (h, w, 3) into `rows`, (h, 3, width) if planar and (h, width, 3) if not."""
    size, width = image.shape[1], rows.shape[2 if planar else 1]
    axis = _axis(size, width)
    for start in range(0, len(image), _BLOCK_ROWS):
        block = image[start : start + _BLOCK_ROWS]
        count = len(block)
        lanes = scratch("lanes", size * 3 * count, _LANE)
        for channel, plane in enumerate(lanes.reshape(size, 3, count).swapaxes(0, 1)):
            plane[...] = block[..., channel].T
        means = _weigh(lanes.reshape(size, 3 * count), axis.taps, axis.weights).reshape(width, 3, count)
        rows[start : start + count] = means.transpose(2, 1, 0) if planar else means.transpose(2, 0, 1)


def _down(image: Pixels, rows: Pixels) -> None:
    """The vertical pass: (h, a, b) into `rows`, (height, a, b)."""
    axis = _axis(len(image), len(rows))
    for start in range(0, len(rows), _BLOCK_ROWS):
        taps, weights = axis.taps[:, start : start + _BLOCK_ROWS], axis.weights[:, start : start + _BLOCK_ROWS]
        low = int(taps[0, 0])
        block = image[low : int(taps[-1, -1]) + 1]
        lanes = scratch("lanes", block.size, _LANE)
        lanes.reshape(block.shape)[...] = block
        means = _weigh(lanes.reshape(len(block), -1), taps - low, weights)
        rows[start : start + _BLOCK_ROWS] = means.reshape(-1, *rows.shape[1:])


def _weigh(lanes: Lanes, taps: npt.NDArray[np.intp], weights: Lanes) -> Pixels:
    """Weighted means of rows, rounded to nearest.

    Sums fit 32 bits: weights add up to 2^24 and at most 2 more a tap, so that 255 of them and a half stay below 2^32 up
    to 16,447 taps. Real weights stay far below for every side that a JPEG can have.

    Args:
        lanes: (size, n), bytes in 32 bits.
        taps, weights: as in `_Axis`, of some of its outputs.

    Returns:
        uint8 (outputs, n), a view of memory that the next call overwrites.
    """
    shape = taps.shape[1], lanes.shape[1]
    sums = scratch("sums", shape[0] * shape[1], _LANE).reshape(shape)
    products = scratch("products", shape[0] * shape[1], _LANE).reshape(shape)
    sums[...] = _HALF
    for tap, weight in zip(taps, weights, strict=True):
        lanes.take(tap, 0, products, "clip")
        np.multiply(products, weight, out=products)
        np.add(sums, products, out=sums)
    highest: Pixels = sums.view(np.uint8)[:, _LANE.itemsize - 1 :: _LANE.itemsize]
    return highest
