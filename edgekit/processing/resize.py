"""Bilinear resizing of uint8 pictures in numpy, fast enough to stand in front of a network of two milliseconds.

Half-pixel centres, no antialiasing, edges clamped: what OpenCV calls INTER_LINEAR. Results lie within one grey level
of the exact value. Every output pixel reads a pair of neighbours in two rows; a pair is 6 bytes, fetched as one
item of 8. Bytes are then weighted in 16-bit lanes: weights are 256ths and add up to 256, so sums fit (255 * 256).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError
from edgekit.processing.scratch import scratch

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]

_LANE = np.dtype("<u2")  # byte order is part of the algorithm: an item's even bytes are the low halves of its lanes
_WINDOW = np.dtype("V8")  # an item without alignment, so that a view may begin at any byte
_WINDOW_BYTES = _WINDOW.itemsize
_LANES = _WINDOW_BYTES // _LANE.itemsize
_ONE = 256  # the weight 1.0
_SMALLEST_SIDE = 8  # smaller pictures are first extended by their edge, so that every view holds a window
_BLOCK_PIXELS = 1 << 15  # output pixels worked on at once: the buffers take 1.5 MB and stay in the cache
_CACHED_PLANS = 4  # a plan takes 50 bytes an output pixel, so 8 MB for 416x416


def resize_bilinear(image: Pixels, height: int, width: int) -> Pixels:
    """Resize a picture.

    Args:
        image: uint8 (h, w, 3).
        height, width: the wanted size in pixels, at least 1.

    Returns:
        uint8 (height, width, 3), its own memory.

    Raises:
        InputError: `image` has another dtype or shape, or a size is below 1.
    """
    check_image(image)
    if height < 1 or width < 1:
        raise InputError(f"cannot resize to {height}x{width} pixels", where="resize", why="a side must be at least 1")
    return resample(image, height, width)


def check_image(image: object) -> None:
    """Refuse everything but a picture, uint8 (h, w, 3) with at least one pixel.

    Raises:
        InputError: saying what was given instead.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f"expected a picture as a numpy array, got {type(image).__name__}", where="image")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"expected a picture of dtype uint8 and shape (h, w, 3), got {image.dtype} {image.shape}",
            where="image",
            why="pictures are RGB, 0 to 255, one byte a channel",
            fix="convert it, for example with edgekit.evaluate.images.read_image",
        )


def resample(
    image: Pixels, height: int, width: int, *, planar: bool = False, reverse: bool = False, out: Pixels | None = None
) -> Pixels:
    """`resize_bilinear` without checks, the result's layout chosen at no cost.

    Args:
        image: uint8 (h, w, 3), not empty.
        height, width: the wanted size.
        planar: return (3, height, width) instead of (height, width, 3).
        reverse: return the channels in reverse order (RGB to BGR and back).
        out: memory for the result, uint8 (3 * height * width,); fresh if None.
    """
    out = np.empty(3 * height * width, np.uint8) if out is None else out
    shaped = out.reshape((3, height, width) if planar else (height, width, 3))
    if image.shape[:2] == (height, width):
        same = image[..., ::-1] if reverse else image
        shaped[...] = same.transpose(2, 0, 1) if planar else same
        return shaped
    plan = _plan(image.shape[0], image.shape[1], height, width, planar, reverse)
    short = [max(0, _SMALLEST_SIDE - side) for side in image.shape[:2]]
    if any(short):
        image = np.pad(image, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
    _run(plan, np.ascontiguousarray(image).reshape(-1), out)
    return shaped


@dataclass(frozen=True, eq=False)
class _Block:
    """A run of output pixels. Inside, pixels are grouped by the phase of their window: its first byte modulo 8.

    Attributes:
        start, count: the run, in output pixels.
        takes: per phase, which of the block's windows to fill (from, to) and with which items of that phase's view.
        weights: uint16 (2 * count * 4 + 1): per window and lane, upper row then lower; the tail lane is padding.
        last: windows whose lower pair is the picture's last pixel pair, which has no 8 bytes to read.
        picks: per output plane, which byte of the sums becomes each output byte.
    """

    start: int
    count: int
    takes: tuple[tuple[int, int, int, Indices], ...]
    weights: npt.NDArray[np.uint16]
    last: Indices
    picks: tuple[Indices, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """How to make one size out of another: `blocks`, and the bytes from a row of the picture to the next."""

    pixels: int
    row_bytes: int
    blocks: tuple[_Block, ...]


def _run(plan: _Plan, data: Pixels, out: Pixels) -> None:
    """Resize the picture whose bytes are `data` into the bytes `out`."""
    largest = max(block.count for block in plan.blocks)
    windows = scratch("windows", 2 * largest, _WINDOW)
    odd = scratch("odd", 2 * largest * _LANES, _LANE)
    sums = scratch("sums", 2 * largest * _LANES, _LANE)
    window_bytes, sum_bytes = windows.view(np.uint8), sums.view(np.uint8)
    upper = [_windows_from(data, phase) for phase in range(_WINDOW_BYTES)]
    lower = [_windows_from(data, plan.row_bytes + phase) for phase in range(_WINDOW_BYTES)]
    planes = len(plan.blocks[0].picks)
    step = 3 // planes  # bytes a pixel in each plane
    out = out.reshape(planes, plan.pixels * step)
    for block in plan.blocks:
        middle, end = block.count, 2 * block.count
        for phase, first, stop, items in block.takes:
            upper[phase].take(items, 0, windows[first:stop], "clip")
            lower[phase].take(items, 0, windows[middle + first : middle + stop], "clip")
        if block.last.size:
            window_bytes.reshape(-1, _WINDOW_BYTES)[middle + block.last, :6] = data[-6:]
        lanes = window_bytes[: end * _WINDOW_BYTES].view(_LANE)
        _weigh(lanes, odd[: end * _LANES], block.weights, sums, largest * _LANES)
        for plane, picks in zip(out, block.picks, strict=True):
            sum_bytes.take(picks, 0, plane[block.start * step : (block.start + block.count) * step], "clip")


def _weigh(
    even: npt.NDArray[Any], odd: npt.NDArray[Any], weights: npt.NDArray[np.uint16], sums: Any, half: int
) -> None:
    """Weighted sums of the four pixels, as 256ths rounded to nearest in the high bytes of `sums`.

    A window holds R0 G0 B0 R1 G1 B1 and two bytes of no interest. Its even bytes are lanes R0 B0 G1 -, its odd bytes
    G0 R1 B1 -; weights alternate so that odd lanes find theirs one lane further. Hence red and blue are even + the
    next odd lane (lanes 0 and 1 of the first half of `sums`), green even + the odd lane two before (lane 2 of the
    second half). The other lanes hold nothing, and may wrap around.
    """
    count = even.size // 2
    np.right_shift(even, 8, out=odd)
    np.bitwise_and(even, 255, out=even)
    np.multiply(even, weights[:-1], out=even)
    np.multiply(odd, weights[1:], out=odd)
    even_sum, odd_sum = even[:count], odd[:count]
    np.add(even_sum, even[count:], out=even_sum)
    np.add(odd_sum, odd[count:], out=odd_sum)
    np.add(even_sum, _ONE // 2, out=even_sum)
    np.add(even_sum[:-1], odd_sum[1:], out=sums[: count - 1])
    np.add(even_sum[2:], odd_sum[:-2], out=sums[half + 2 : half + count])


def _windows_from(data: Pixels, offset: int) -> npt.NDArray[np.void]:
    """The bytes from `offset` on as whole windows of 8."""
    return np.ndarray(((data.size - offset) // _WINDOW_BYTES,), _WINDOW, data, offset)


@lru_cache(maxsize=_CACHED_PLANS)
def _plan(height: int, width: int, new_height: int, new_width: int, planar: bool, reverse: bool) -> _Plan:
    stored_height, stored_width = max(height, _SMALLEST_SIDE), max(width, _SMALLEST_SIDE)
    y, y_part = _axis(height, stored_height, new_height)
    x, x_part = _axis(width, stored_width, new_width)
    rows = max(1, _BLOCK_PIXELS // new_width)
    last_pair = ((stored_height - 2) * stored_width + stored_width - 2) * 3
    starts = range(0, new_height, rows)
    largest = min(rows, new_height) * new_width
    blocks = []
    for start in starts:
        block = slice(start, start + rows)
        first_byte = ((y[block, None] * stored_width + x) * 3).ravel()
        weights = _tap_weights(y_part[block], x_part)
        blocks.append(_block(start * new_width, first_byte, weights, last_pair, largest, planar, reverse))
    return _Plan(new_height * new_width, stored_width * 3, tuple(blocks))


def _axis(size: int, stored: int, new_size: int) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Per output coordinate the first of its two neighbours, and the second one's share."""
    centre = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0, size - 1)
    first = np.minimum(centre.astype(np.intp), stored - 2)
    return first, centre - first


def _tap_weights(y_part: npt.NDArray[np.float64], x_part: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """256ths for upper left, upper right, lower left, lower right: uint16 (4, pixels), each column adds up to 256.

    Rounded by largest remainder: the four errors add up to 0 and their sizes to at most 2/256, so that a weighted sum
    of bytes is off by at most 255/256 before its own rounding.
    """
    table = np.empty((4, y_part.size, x_part.size), np.float32)
    for tap, (y, x) in enumerate(
        [(1 - y_part, 1 - x_part), (1 - y_part, x_part), (y_part, 1 - x_part), (y_part, x_part)]
    ):
        np.multiply(y.astype(np.float32)[:, None], (_ONE * x).astype(np.float32), out=table[tap])
    exact = table.reshape(4, -1)
    weights = exact.astype(np.uint16)
    exact -= weights
    missing = _ONE - weights.sum(axis=0, dtype=np.uint16)
    rank = np.zeros(exact.shape, np.uint8)  # 0 for the largest remainder
    for one in range(4):
        for other in range(one + 1, 4):
            beaten = exact[other] > exact[one]
            rank[one] += beaten
            rank[other] += ~beaten
    weights += rank < missing
    return weights


def _block(
    start: int,
    first_byte: Indices,
    taps: npt.NDArray[np.uint16],
    last_pair: int,
    largest: int,
    planar: bool,
    reverse: bool,
) -> _Block:
    count = first_byte.size
    phases = (first_byte % _WINDOW_BYTES).astype(np.uint8)
    order = np.argsort(phases, kind="stable")
    grouped = first_byte[order]
    bounds = np.searchsorted(phases[order], np.arange(_WINDOW_BYTES + 1))
    takes = tuple(
        (phase, int(first), int(stop), np.ascontiguousarray(grouped[first:stop] // _WINDOW_BYTES))
        for phase, (first, stop) in enumerate(pairwise(bounds))
        if first < stop
    )
    weights = np.zeros(2 * count * _LANES + 1, np.uint16)
    by_lane = weights[:-1].view(np.uint32).reshape(2, count, _LANES // 2)
    for tap, row, half in [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]:
        by_lane[row, :, half] = taps[tap].take(order) * np.uint32(0x10001)  # the same in two lanes
    place = np.empty(count, np.intp)  # of each output pixel among the grouped ones
    place[order] = np.arange(count)
    red, green, blue = 0, largest * _LANES + 2, 1  # lanes, see `_weigh`
    channels = [blue, green, red] if reverse else [red, green, blue]
    high_bytes = [(place * _LANES + channel) * _LANE.itemsize + 1 for channel in channels]
    picks = tuple(high_bytes) if planar else (np.stack(high_bytes, axis=1).ravel(),)
    return _Block(start, count, takes, weights, np.flatnonzero(grouped == last_pair), picks)
