"""The statistics that calibration can collect of a tensor, each in one pass and in memory that does not grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Accumulator(Protocol):
    """Takes a tensor a sample, and gives the statistic in the end."""

    def update(self, values: npt.NDArray[Any]) -> None:
        """One sample's tensor."""
        ...

    def result(self) -> Any:
        """The statistic over all samples."""
        ...


class Statistic(Protocol):
    """Names a statistic with its parameters; equal ones are collected once."""

    def start(self) -> Accumulator:
        """A fresh accumulator."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often which values occurred.

    Attributes:
        low, high: the smallest and the largest value; 0 and 0 where there was none.
        counts: int64 (bins,), over equal bins that are symmetric to zero; zeros themselves are in none.
        width: of a bin, a power of two.
        zeros: how many values were exactly zero.
    """

    low: float
    high: float
    counts: npt.NDArray[np.int64]
    width: float
    zeros: int

    @property
    def centres(self) -> Floats:
        """The middle of each bin, float64 (bins,)."""
        half = len(self.counts) // 2
        centres: Floats = (np.arange(-half, half, dtype=np.float64) + 0.5) * self.width
        return centres

    @property
    def total(self) -> int:
        """How many values there were."""
        return int(self.counts.sum()) + self.zeros


@dataclass(frozen=True)
class HistogramOf:
    """A `Histogram`. Where a value lies outside, bins are merged in pairs, so that no second pass is needed."""

    bins: int = 4096

    def start(self) -> Accumulator:
        return _HistogramAccumulator(self.bins)


@dataclass(frozen=True)
class EmaPercentiles:
    """Exponential moving averages over samples of two percentiles, float64 (2,): of the low end and the high end.

    Attributes:
        percent: of the high end; the low end is `100 - percent`.
        momentum: weight of what was seen before.
    """

    percent: float = 99.99
    momentum: float = 0.9

    def start(self) -> Accumulator:
        return _EmaAccumulator(self.percent, self.momentum)


@dataclass(frozen=True, eq=False)
class ChannelHistograms:
    """A histogram of each channel, with bins of its own width, so that channels can be rescaled afterwards.

    Attributes:
        counts: int64 (channels, bins), symmetric to zero; zeros themselves are in none.
        widths: float64 (channels,), powers of two.
        low, high: float64 (channels,), the smallest and the largest value.
        zeros: how many values were exactly zero, of all channels.
    """

    counts: npt.NDArray[np.int64]
    widths: Floats
    low: Floats
    high: Floats
    zeros: int

    @property
    def largest(self) -> Floats:
        """The largest magnitude of each channel, float64 (channels,)."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def divided(self, scales: Floats, bins: int) -> Histogram:
        """The histogram of all channels together after channel i was divided by `scales[i]`, positive."""
        half = self.counts.shape[1] // 2
        low, high = float((self.low / scales).min()), float((self.high / scales).max())
        largest = max(-low, high)
        width = 2.0 ** np.ceil(np.log2(largest / (bins // 2 - 1))) if largest > 0 else 2.0**-40
        centres = (np.arange(-half, half) + 0.5) * (self.widths / scales)[:, None]
        places = np.clip(np.floor(centres / width).astype(np.int64) + bins // 2, 0, bins - 1)
        counts = np.bincount(places.reshape(-1), weights=self.counts.reshape(-1), minlength=bins)
        return Histogram(low, high, counts.astype(np.int64), float(width), self.zeros)


@dataclass(frozen=True)
class ChannelHistogramsOf:
    """`ChannelHistograms` along `axis`."""

    axis: int
    bins: int = 1024

    def start(self) -> Accumulator:
        return _ChannelHistogramAccumulator(self.axis, self.bins)


@dataclass(frozen=True)
class ChannelMean:
    """The mean of each channel along `axis`, float64 (channels,)."""

    axis: int

    def start(self) -> Accumulator:
        return _MeanAccumulator(self.axis)


class _HistogramAccumulator:
    def __init__(self, bins: int) -> None:
        self._counts = np.zeros(bins, np.int64)
        self._width = 2.0**-40
        self._low = self._high = 0.0
        self._zeros = 0
        self._seen = False

    def update(self, values: npt.NDArray[Any]) -> None:
        flat = values.reshape(-1).astype(np.float32, copy=False)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self._low = min(self._low, low) if self._seen else low
        self._high = max(self._high, high) if self._seen else high
        self._seen = True
        half = len(self._counts) // 2
        if not self._counts.any():
            self._width = _fitting(max(-low, high), half)
        while max(-low, high) >= half * self._width:
            self._double()
        bins = np.floor(flat * np.float32(1 / self._width)).astype(np.int32)
        counts = np.bincount(np.clip(bins + half, 0, 2 * half - 1), minlength=2 * half)
        zeros = int(np.count_nonzero(flat == 0))
        counts[half] -= zeros
        self._zeros += zeros
        self._counts += counts

    def _double(self) -> None:
        """Bins i and i+1, i even from the middle, become one of twice the width."""
        half = len(self._counts) // 2
        merged = np.zeros_like(self._counts)
        np.add.at(merged, (np.arange(-half, half) // 2) + half, self._counts)
        self._counts, self._width = merged, self._width * 2

    def result(self) -> Histogram:
        return Histogram(self._low, self._high, self._counts, self._width, self._zeros)


class _EmaAccumulator:
    def __init__(self, percent: float, momentum: float) -> None:
        self._percents = (100 - percent, percent)
        self._momentum = momentum
        self._mean: Floats | None = None

    def update(self, values: npt.NDArray[Any]) -> None:
        if values.size:
            seen = np.percentile(values, self._percents)
            old = self._mean
            self._mean = seen if old is None else self._momentum * old + (1 - self._momentum) * seen

    def result(self) -> Floats:
        return np.zeros(2) if self._mean is None else self._mean


class _ChannelHistogramAccumulator:
    def __init__(self, axis: int, bins: int) -> None:
        self._axis, self._bins = axis, bins
        self._counts = np.zeros((0, bins), np.int64)
        self._widths = self._low = self._high = np.zeros(0)
        self._zeros = 0

    def update(self, values: npt.NDArray[Any]) -> None:
        if not values.size:
            return
        rows = _rows(values, self._axis)
        low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
        if not len(self._counts):
            self._counts = np.zeros((len(rows), self._bins), np.int64)
            self._widths = np.array([_fitting(size, self._bins // 2) for size in np.maximum(-low, high)])
            self._low, self._high = low, high
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        half = self._bins // 2
        while (small := np.maximum(-low, high) >= half * self._widths).any():
            pairs = np.arange(-half, half) // 2 + half
            merged = np.zeros((self._bins, int(small.sum())), np.int64)
            np.add.at(merged, pairs, self._counts[small].T)
            self._counts[small] = merged.T
            self._widths[small] *= 2
        places = np.floor(rows / self._widths.astype(np.float32)[:, None]).astype(np.int64) + half
        places = np.clip(places, 0, self._bins - 1) + np.arange(len(rows))[:, None] * self._bins
        counts = np.bincount(places.reshape(-1), minlength=self._counts.size).reshape(self._counts.shape)
        zeros = np.count_nonzero(rows == 0, axis=1)
        counts[:, half] -= zeros
        self._zeros += int(zeros.sum())
        self._counts += counts

    def result(self) -> ChannelHistograms:
        return ChannelHistograms(self._counts, self._widths, self._low, self._high, self._zeros)


class _MeanAccumulator:
    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._total = np.zeros(0)
        self._count = 0

    def update(self, values: npt.NDArray[Any]) -> None:
        if values.size:
            rows = _rows(values, self._axis)
            self._total = rows.sum(axis=1, dtype=np.float64) + (self._total if self._count else 0.0)
            self._count += rows.shape[1]

    def result(self) -> Floats:
        return self._total / max(1, self._count)


def _fitting(largest: float, half: int) -> float:
    """The smallest power of two of which `half` bins reach beyond `largest`; a small one for zero.

    None under 2^-100, whose reciprocal float32 holds with room to spare.
    """
    return float(2.0 ** max(np.floor(np.log2(largest / half)) + 1, -100.0)) if largest > 0 else 2.0**-40


def _rows(values: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """A row a channel."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
