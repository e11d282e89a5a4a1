"""The highest rate at which a quantile of the latency keeps a budget: bisection over open loops.

Each probe is a Bernoulli trial, "a run is over the budget", with bounds: MLPerf's LoadGen decides and searches alike
(MLCommons inference, Server scenario, "FindPeakPerformance"). Runs that queue depend on one another, so what a probe is
worth follows its own series: see `blocks`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit.errors import UsageError
from edgekit.profiler.blocks import effective_samples
from edgekit.profiler.loops import Clock, closed_loop, open_loop
from edgekit.profiler.quantiles import Floats, interval_ranks, least_samples
from edgekit.profiler.report import HeldRate

QUANTILE = 0.99
CONFIDENCE = 0.95
TOLERANCE = 0.02
"""The search ends when what holds and what does not are that close, as a share of the highest possible rate."""

_LEAST_RUNS = 600  # twice what a bound of p99 takes, so that one or two late runs do not leave it undecided
_AGAIN = 4
_LOWEST = 1 / 16  # of the highest possible rate: below it nothing is searched for


@dataclass(frozen=True)
class Search:
    """How long to search.

    Attributes:
        probe_s: of one probe, which takes at least 600 runs where `most_probe_s` has room for them; one that stays
            undecided is made again, longer.
    """

    probe_s: float = 5.0
    most_probe_s: float = 30.0
    warmup_s: float = 1.0


@dataclass(frozen=True)
class Probe:
    """One rate: the bounds of the quantile, None where the runs are worth too little, and what follows."""

    rate_hz: float
    low_ms: float
    high_ms: float | None
    runs: int
    outcome: Literal["holds", "exceeds", "undecided"]


def highest_rate(
    call: Callable[[], object],
    budget_ms: float,
    search: Search | None = None,
    *,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> HeldRate:
    """The highest rate whose p99, from the instant that each call was due, is below the budget at 95 %.

    A rate that stays undecided is taken as one that does not hold: the answer errs to the low side, and says so.

    Args:
        call: one inference of a loaded model.

    Raises:
        UsageError: a budget that is no time.
    """
    check_budget(budget_ms)
    search = search or Search()
    most = 1 / _service_s(call, search.warmup_s, clock)

    def probe(rate: float) -> Probe:
        room = max(1, round(rate * search.most_probe_s))
        runs = min(max(_LEAST_RUNS, round(rate * search.probe_s)), room)
        found = judge_rate(open_loop(call, rate, runs, clock, sleep).latency_ms, budget_ms, rate)
        if found.outcome == "undecided" and runs < room:
            runs = min(_AGAIN * runs, room)
            found = judge_rate(open_loop(call, rate, runs, clock, sleep).latency_ms, budget_ms, rate)
        return found

    held: Probe | None = None
    seen: list[Probe] = []
    above, rate = most, most / 2
    while rate >= most * _LOWEST and (held is None or above - held.rate_hz > TOLERANCE * most):
        seen.append(probe(rate))
        if seen[-1].outcome == "holds":
            held = seen[-1]
        else:
            above = rate
        rate = (above + held.rate_hz) / 2 if held else above / 2
    return _told(budget_ms, most, held, seen)


def check_budget(budget_ms: float | None) -> None:
    """Raise where that is no time.

    Raises:
        UsageError: it is not.
    """
    if budget_ms is not None and not (math.isfinite(budget_ms) and budget_ms > 0):
        raise UsageError("a budget is a number of milliseconds, above 0", where=f"--hold-p99 {budget_ms}")


def judge_rate(latency_ms: Floats, budget_ms: float, rate_hz: float) -> Probe:
    """What one probe says.

    Args:
        latency_ms: (runs,), in order, each from the instant that it was due.
    """
    over = (latency_ms > budget_ms).astype(np.float64)
    worth = effective_samples(over)
    low, high = interval_ranks(worth, QUANTILE, 2 * CONFIDENCE - 1)
    low_ms = float(np.quantile(latency_ms, low))
    high_ms = float(np.quantile(latency_ms, high)) if worth >= least_samples(QUANTILE, CONFIDENCE) else None
    outcome: Literal["holds", "exceeds", "undecided"] = "undecided"
    if low_ms > budget_ms:
        outcome = "exceeds"
    elif high_ms is not None and high_ms <= budget_ms:
        outcome = "holds"
    return Probe(rate_hz, low_ms, high_ms, len(latency_ms), outcome)


def _service_s(call: Callable[[], object], warmup_s: float, clock: Clock) -> float:
    """The mean time of a call, back to back: at a higher rate than its inverse a queue grows without end."""
    start = clock()
    runs, taken = 1, 0.0
    while True:
        laps = closed_loop(call, runs, clock)
        taken = float(np.mean(laps.end_ns - laps.start_ns)) / 1e9
        if (clock() - start) / 1e9 >= warmup_s and runs >= 20:
            return max(taken, 1e-9)
        runs = min(2 * runs, max(20, round(warmup_s / max(taken, 1e-9))))


def _told(budget_ms: float, most: float, held: Probe | None, seen: list[Probe]) -> HeldRate:
    exceeded = min((one.rate_hz for one in seen if one.outcome == "exceeds"), default=None)
    undecided = tuple(sorted(one.rate_hz for one in seen if one.outcome == "undecided"))
    reason = None
    if held is None:
        reason = f"no rate down to {most * _LOWEST:.3g} a second was seen to hold it"
    if undecided and (exceeded is None or undecided[0] < exceeded):
        text = f"undecided from {undecided[0]:.4g} a second on: longer probes might find more"
        reason = f"{reason}; {text}" if reason else text
    return HeldRate(
        budget_ms=budget_ms,
        rate_hz=held.rate_hz if held else None,
        upper_ms=held.high_ms if held else None,
        exceeded_hz=exceeded,
        most_hz=most,
        probes=len(seen),
        runs=sum(one.runs for one in seen),
        confidence=CONFIDENCE,
        reason=reason,
    )
