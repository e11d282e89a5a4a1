"""When a warm-up is over: what was measured has stopped to move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.profiler.quantiles import Floats

LEAST_SECONDS = 2.0
LEAST_RUNS = 20
MOST_SECONDS = 60.0
MOST_TRUNCATED = 0.5
"""MSER-5 must leave at least half of the series."""
MOST_SLOPE = 0.005
"""Of the median, a second, over the last half of the series."""

_LEAST_BATCHES = 10
_POINTS = 400  # Theil-Sen compares all pairs


@dataclass(frozen=True)
class Steady:
    """Whether a series is steady, why not, and what was seen: the share cut off, and the slope a second."""

    steady: bool
    truncated: float
    slope_per_s: float
    reason: str | None = None


def mser5(series: Floats) -> float:
    """The share of a series that MSER-5 cuts off at its start.

    Means of five in a row; the cut minimises the squared standard error of the mean of what is left (K. P. White,
    Simulation 69, 1997), of which at least ten means remain: a few can be alike by chance. 1 for a shorter series.
    """
    batches = len(series) // 5
    if batches < _LEAST_BATCHES:
        return 1.0
    means = series[: batches * 5].reshape(batches, 5).mean(axis=1)[::-1]
    count = np.arange(1, batches + 1)
    centred = means - means.mean()
    spread = np.cumsum(centred**2) - np.cumsum(centred) ** 2 / count
    error = (spread / count**2)[_LEAST_BATCHES - 1 :]
    left = len(error) - 1 - int(np.argmin(error[::-1])) + _LEAST_BATCHES
    return 1 - left / batches


def theil_sen(times: Floats, values: Floats) -> float:
    """The median of the slopes of all pairs (P. K. Sen, J. Am. Stat. Assoc. 63, 1968), of at most 400 medians."""
    if len(values) > _POINTS:
        groups = np.array_split(np.arange(len(values)), _POINTS)
        times = np.array([np.median(times[group]) for group in groups])
        values = np.array([np.median(values[group]) for group in groups])
    first, second = np.triu_indices(len(values), 1)
    apart = times[second] - times[first]
    slopes = (values[second] - values[first])[apart > 0] / apart[apart > 0]
    return float(np.median(slopes)) if len(slopes) else 0.0


def judge(times_s: Floats, values: Floats) -> Steady:
    """Whether a warm-up has ended.

    Args:
        times_s: (n,), when each run started, in seconds.
        values: (n,), how long it took, in any unit.
    """
    if len(values) < LEAST_RUNS or times_s[-1] - times_s[0] < LEAST_SECONDS:
        return Steady(False, 1.0, 0.0, f"fewer than {LEAST_RUNS} runs or {LEAST_SECONDS:.0f} s")
    cut = mser5(values)
    half = len(values) // 2
    slope = theil_sen(times_s[half:], values[half:]) / float(np.median(values[half:]))
    why = [f"MSER-5 cuts off {cut:.0%} of the series"] if cut >= MOST_TRUNCATED else []
    why += [f"it moves by {slope:+.1%} a second"] if abs(slope) >= MOST_SLOPE else []
    return Steady(not why, cut, slope, "; ".join(why) or None)
