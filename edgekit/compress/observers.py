"""Observers: how a clip range follows from what calibration saw of a tensor.

All errors are computed on the histogram, with 256 levels that include zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.compress.statistics import EmaPercentiles, Histogram, HistogramOf, Statistic
from edgekit.errors import UsageError

LEVELS = 256
HISTOGRAM = HistogramOf()

Range = tuple[float, float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Observer:
    """A rule for clip ranges.

    Attributes:
        name: what users type.
        statistic: what it asks of calibration.
        choose: from that statistic to (low, high), zero included.
    """

    name: str
    statistic: Statistic
    choose: Callable[[Any], Range]


def min_max(seen: Histogram) -> Range:
    """The whole range."""
    return min(seen.low, 0.0), max(seen.high, 0.0)


def percentile(seen: Histogram, percent: float = 99.99) -> Range:
    """The range without the outermost `100 - percent` per cent at either end."""
    counts = seen.counts.astype(np.float64)
    counts[len(counts) // 2] += seen.zeros
    share = np.cumsum(counts) / max(1.0, counts.sum())
    edges = (np.arange(len(counts) + 1) - len(counts) // 2) * seen.width
    high = edges[1:][np.searchsorted(share, percent / 100, side="left").clip(0, len(counts) - 1)]
    low = edges[:-1][np.searchsorted(share, 1 - percent / 100, side="right").clip(0, len(counts) - 1)]
    whole = min_max(seen)
    return max(min(float(low), 0.0), whole[0]), min(max(float(high), 0.0), whole[1])


def ema_percentile(seen: Floats) -> Range:
    """Moving averages of each sample's percentiles: one odd sample moves them little."""
    return min(float(seen[0]), 0.0), max(float(seen[1]), 0.0)


def mse(seen: Histogram) -> Range:
    """The range of the smallest mean squared error, searched along each end in turn."""
    low, high = min_max(seen)
    steps = np.linspace(0.2, 1.0, 81)
    for _ in range(2):
        errors = [_squared_error(seen, low, high * step) for step in steps] if high > 0 else []
        high = high * float(steps[int(np.argmin(errors))]) if errors else high
        errors = [_squared_error(seen, low * step, high) for step in steps] if low < 0 else []
        low = low * float(steps[int(np.argmin(errors))]) if errors else low
    return low, high


def octav(seen: Histogram) -> Range:
    """The clip of the smallest expected squared error by Newton's iteration.

    Sakr et al., "Optimal Clipping and Magnitude-aware Differentiation for Improved Quantization-aware Training",
    ICML 2022, equation 8: s' = E[|x| 1(|x| > s)] / (c 4^-B E[1(0 < |x| <= s)] + E[1(|x| > s)]), with c = 1/3 for
    signed values and 1/12 for values of one sign.
    """
    low, high = min_max(seen)
    signed = low < 0 < high
    noise = (1 / 3 if signed else 1 / 12) / LEVELS**2
    size, counts = np.abs(seen.centres), seen.counts.astype(np.float64)
    clip = float((size * counts).sum() / max(1.0, counts.sum()))
    for _ in range(50):
        outside = size > clip
        bottom = noise * counts[~outside].sum() + counts[outside].sum()
        after = float((size[outside] * counts[outside]).sum() / bottom) if bottom else clip
        if after == 0 or abs(after - clip) <= 1e-6 * clip:
            break
        clip = after
    return max(low, -clip), min(high, clip)


def entropy(seen: Histogram) -> Range:
    """The clip that keeps most of the distribution, in the sense of Kullback and Leibler.

    Migacz, "8-bit Inference with TensorRT", GTC 2017: outliers join the last bin of the reference; the candidate is the
    reference in 128 levels, spread again over the bins that were not empty.
    """
    low, high = min_max(seen)
    half = len(seen.counts) // 2
    counts = (seen.counts[half:] + seen.counts[:half][::-1]).astype(np.float64)
    occupied = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    levels = 128
    if occupied <= levels:
        return low, high
    candidates = np.unique(np.linspace(levels, occupied, 128).astype(int))
    divergences = [_divergence(counts[:occupied], int(size), levels) for size in candidates]
    clip = float(candidates[int(np.argmin(divergences))]) * seen.width
    return max(low, -clip), min(high, clip)


OBSERVERS = {
    observer.name: observer
    for observer in (
        Observer("minmax", HISTOGRAM, min_max),
        Observer("percentile", HISTOGRAM, percentile),
        Observer("ema-percentile", EmaPercentiles(), ema_percentile),
        Observer("mse", HISTOGRAM, mse),
        Observer("octav", HISTOGRAM, octav),
        Observer("entropy", HISTOGRAM, entropy),
    )
}
AUTO = "auto"
"""Not an observer, but the choice of one by measurement; see `edgekit.compress.ptq.prepare`."""
JUDGED = ("percentile", "mse", "octav", "minmax")
"""What `auto` tries, each on the same statistic; of equals the first is taken."""
UNJUDGED = "percentile"
"""What `auto` takes where too few samples can be held apart to judge."""
DEFAULT_OBSERVER = AUTO


def observer_named(name: str) -> Observer:
    """The observer of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in OBSERVERS:
        raise UsageError(
            f"unknown observer {name!r}", where="--observer", fix=f"one of {', '.join((AUTO, *OBSERVERS))}"
        )
    return OBSERVERS[name]


def _squared_error(seen: Histogram, low: float, high: float) -> float:
    """Sum of squared errors of affine integers over [low, high]; uniform within a bin."""
    scale = (high - low) / (LEVELS - 1)
    if scale <= 0:
        return np.inf
    zero = round(-low / scale)
    values = seen.centres
    levels = np.clip(np.rint(values / scale) + zero, 0, LEVELS - 1)
    errors = (levels - zero) * scale - values
    # A bin that is wider than a step is not one value: its spread is worth as much as a step's, width^2 / 12.
    return float((seen.counts * errors**2).sum())


def _divergence(counts: Floats, size: int, levels: int) -> float:
    reference = counts[:size].copy()
    reference[-1] += counts[size:].sum()
    groups = np.arange(size) * levels // size
    filled = counts[:size] > 0
    sums = np.bincount(groups, weights=counts[:size], minlength=levels)
    members = np.bincount(groups, weights=filled.astype(np.float64), minlength=levels)
    spread = np.where(filled, (sums / np.maximum(members, 1))[groups], 0.0)
    if not spread.sum():
        return np.inf
    p, q = reference / reference.sum(), spread / spread.sum()
    mask = p > 0
    q = np.where(q > 0, q, 1e-12)
    return float((p[mask] * np.log(p[mask] / q[mask])).sum())
