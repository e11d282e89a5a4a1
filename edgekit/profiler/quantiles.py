"""Quantiles that a sample supports, and bounds on them that need no distribution.

The count of samples below the q-quantile is binomial (n, q), whatever the distribution; so order statistics bound it
(H. A. David, H. N. Nagaraja: Order Statistics, 3rd ed., section 7.1). MLPerf's LoadGen stops by the same law
(MLCommons inference policies, "Early stopping"). Samples that depend on one another count as fewer: see `blocks`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def least_samples(q: float, confidence: float = 0.95, slower: int = 0) -> int:
    """The fewest samples of which the (n - slower)-th in order bounds the q-quantile from above.

    The smallest n with P(Binomial(n, 1 - q) <= slower) <= 1 - confidence: 299 for p99 at 95 % and `slower` 0; 662 at
    99 % and 1, as LoadGen asks.

    Args:
        q: in (0, 1).
        slower: samples that may lie beyond the bound.
    """
    low, high = slower, slower + 1
    while _at_most(slower, high, 1 - q) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _at_most(slower, middle, 1 - q) > 1 - confidence else (low, middle)
    return high


def upper_bound(ordered: Floats, q: float, confidence: float = 0.95) -> float | None:
    """The smallest order statistic that is at least the q-quantile with probability `confidence`; None if none is.

    Args:
        ordered: ascending samples, independent of one another.
    """
    n = len(ordered)
    if n < least_samples(q, confidence):
        return None
    low, high = 0, n  # of samples beyond the bound: `low` are allowed, `high` are not
    while high - low > 1:
        slower = (low + high) // 2
        low, high = (slower, high) if _at_most(slower, n, 1 - q) <= 1 - confidence else (low, slower)
    return float(ordered[n - 1 - low])


def lower_bound(ordered: Floats, q: float, confidence: float = 0.95) -> float | None:
    """The largest order statistic that is at most the q-quantile with probability `confidence`; None if none is."""
    mirrored = upper_bound(-ordered[::-1], 1 - q, confidence)
    return None if mirrored is None else -mirrored


def interval_ranks(n: float, q: float, confidence: float = 0.95) -> tuple[float, float]:
    """The shares of a sample between which the q-quantile lies with probability `confidence`.

    The mid-p limits of the binomial, with ranks in between by linear interpolation: exact limits are wider than asked
    for, because a count is whole (H. O. Lancaster, J. Am. Stat. Assoc. 56, 1961).

    Args:
        n: what the samples are worth, 1 or more; not necessarily whole.
    """
    count = max(1, round(n))
    masses = _binomial(count, q)
    middle = np.cumsum(masses) - masses / 2
    ranks = np.interp([(1 - confidence) / 2, (1 + confidence) / 2], middle, np.arange(count + 1))
    return float(ranks[0] / count), float(ranks[1] / count)


@lru_cache(maxsize=4096)
def _at_most(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= k)."""
    if k >= n:
        return 1.0
    return float(min(1.0, _binomial(n, p)[: k + 1].sum()))


@lru_cache(maxsize=64)
def _binomial(n: int, p: float) -> Floats:
    """The masses of 0 to n."""
    if not 0 < p < 1:
        masses = np.zeros(n + 1)
        masses[0 if p <= 0 else n] = 1.0
        return masses
    logs = np.zeros(n + 1)
    np.cumsum(np.log(np.arange(1, n + 1)), out=logs[1:])
    k = np.arange(n + 1)
    mass = np.exp(logs[n] - logs[k] - logs[n - k] + k * math.log(p) + (n - k) * math.log1p(-p))
    mass.flags.writeable = False
    return np.asarray(mass)
