"""Where in an inference each reading lies: whether all parts of it were seen, and each as often as it lasts.

A load that repeats every 33.0 ms and a sensor that converts every 6.6 ms meet at five phases only; what happens in
between is never seen, and no average shows it. Near such a ratio all phases are seen, but some twice as often. The
phase of a random instant is even on [0, 1), however long inferences are; so readings are weighted to be that, as in
post-stratification (D. Holt, T. M. F. Smith, J. R. Stat. Soc. A 142, 1979), with a stratum for each reading.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Instants = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEAST = 50
MOST_UNSEEN = 0.05


@dataclass(frozen=True)
class Phased:
    """Readings of a window against the inferences in it.

    Attributes:
        mean_w: of all parts of an inference, each counted for as long as it lasts.
        noise_w: standard uncertainty of that mean, from neighbours in phase that differ.
        unseen: share of an inference that no reading covers.
        by_chance: the share that as many readings at random instants would leave.
        swing_w: between the lowest and highest readings.
    """

    mean_w: float
    noise_w: float
    unseen: float
    by_chance: float
    swing_w: float
    period_s: float

    @property
    def locked(self) -> bool:
        """Whether the sensor keeps step with the inferences and leaves more unseen than chance would."""
        return self.unseen > MOST_UNSEEN + 2 * self.by_chance


def phased(given_ns: Instants, watts: Floats, starts_ns: Instants, end_ns: int, aperture_s: float) -> Phased | None:
    """None where phases say nothing: few readings, one inference, or inferences shorter than what a reading spans.

    Args:
        given_ns, watts: (n,), readings and when they were given: for one that waits for the sensor the sharper instant.
        starts_ns: of inferences, ascending; the last one lasts until `end_ns`.
        aperture_s: over which one reading averages.
    """
    bounds = np.r_[starts_ns, end_ns]
    if len(starts_ns) < 2:
        return None
    period_s = float(np.median(np.diff(bounds))) / 1e9
    index = np.searchsorted(bounds, given_ns, side="right") - 1
    inside = (index >= 0) & (index < len(starts_ns))
    n = int(inside.sum())
    if n < LEAST or period_s <= aperture_s:
        return None
    index, values = index[inside], watts[inside]
    # A slow drift belongs to time, not to phase.
    drift = np.polynomial.polynomial.polyfit(np.arange(n), values, 1)
    values = values - drift[1] * (np.arange(n) - (n - 1) / 2)
    phases = (given_ns[inside] - bounds[index]) / np.maximum(bounds[index + 1] - bounds[index], 1)
    order = np.argsort(phases, kind="stable")
    phases, sorted_watts = phases[order], values[order]
    gaps = np.diff(np.r_[phases, phases[0] + 1])  # on a circle: an inference ends where the next begins
    weights = (gaps + np.roll(gaps, 1)) / 2
    steps = sorted_watts - np.roll(sorted_watts, 1)
    low, high = np.quantile(values, [0.005, 0.995])
    return Phased(
        mean_w=float(weights @ sorted_watts),
        noise_w=math.sqrt(float(np.sum(weights**2 * steps**2)) / 2),
        unseen=float(np.sum(np.maximum(gaps - aperture_s / period_s, 0))),
        by_chance=math.exp(-aperture_s * n / period_s),
        swing_w=float(high - low),
        period_s=period_s,
    )
