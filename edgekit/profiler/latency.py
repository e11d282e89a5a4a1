"""Warm latency: run until steady, then until the figures carry the quantiles that are asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import UsageError
from edgekit.profiler.blocks import effective_samples, lag1, quantile_interval
from edgekit.profiler.loops import Clock, Laps, closed_loop, open_loop
from edgekit.profiler.quantiles import Floats, least_samples, lower_bound, upper_bound
from edgekit.profiler.report import Latency, Quantile
from edgekit.profiler.steady import MOST_SECONDS, Steady, judge, theil_sen

QUANTILES = (0.5, 0.9, 0.99, 0.999)
HALF_WIDTH = 0.01
"""The median's interval, as a share of it, at which measuring may end."""

_CHUNK_S = 1.0


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rate_hz: None for a closed loop.
        runs: exactly so many; None to go on until the quantiles up to `quantile` have bounds, `least_s` have passed
            and the median's interval is narrow, but for at most `most_s`.
    """

    rate_hz: float | None = None
    runs: int | None = None
    quantile: float = 0.99
    least_s: float = 10.0
    most_s: float = 60.0
    warmup_s: float = MOST_SECONDS

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise UsageError("a rate is a number of inferences a second, above 0", where=f"--rate {self.rate_hz}")
        if self.runs is not None and self.runs < 1:
            raise UsageError("nothing is measured in no run", where=f"--runs {self.runs}", fix="1 or more")


@dataclass(frozen=True, eq=False)
class Measured:
    """The laps of one process, and how its warm-up went."""

    laps: Laps
    warmup_runs: int
    steady: Steady


def measure(call: Callable[[], object], plan: Plan, clock: Clock = time.perf_counter_ns) -> Measured:
    """Warm up, and time `call`."""
    warm = _warm_up(call, plan, clock)
    steady = judge(warm.seconds, warm.latency_ms)
    if plan.runs is not None:
        return Measured(_loop(call, plan, plan.runs, clock), len(warm.start_ns), steady)
    typical_s = float(np.median(warm.end_ns - warm.start_ns)) / 1e9
    laps = _loop(call, plan, _chunk(plan, typical_s), clock)
    while not _enough(laps, plan):
        laps = laps.joined(_loop(call, plan, _chunk(plan, typical_s), clock))
    return Measured(laps, len(warm.start_ns), steady)


def summarise(parts: Sequence[Measured], plan: Plan, batch: int, samples: str) -> Latency:
    """The figures of one or several processes.

    Quantiles and bounds are those of all samples together; what depends on order is taken within each process.

    Args:
        samples: the file that they are kept in.
    """
    series = [part.laps.latency_ms for part in parts]
    every = np.concatenate(series)
    ordered = np.sort(every)
    unsteady = next((part.steady for part in parts if not part.steady.steady), None)
    median = float(np.median(every))
    slopes = [theil_sen(part.laps.seconds, part.laps.latency_ms) / median for part in parts]
    return Latency(
        mode="closed" if plan.rate_hz is None else "open",
        rate_hz=plan.rate_hz,
        batch=batch,
        runs=len(every),
        warmup_runs=sum(part.warmup_runs for part in parts),
        processes=len(parts),
        steady=unsteady is None,
        steady_reason=unsteady.reason if unsteady else None,
        median_ms=quantile_interval(every, 0.5),
        quantiles=tuple(quantile(ordered, q) for q in QUANTILES),
        mean_ms=float(every.mean()),
        mad_ms=float(np.median(np.abs(every - median))),
        cov=float(every.std() / every.mean()),
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        slope_per_s=max(slopes, key=abs),
        lag1=float(np.mean([lag1(each) for each in series])),
        effective_runs=sum(effective_samples(each) for each in series),
        samples=samples,
        late=sum(part.laps.late for part in parts),
    )


def quantile(ordered: Floats, q: float, confidence: float = 0.95) -> Quantile:
    """The q-quantile where the samples carry an upper bound for it; otherwise how many it takes."""
    needed, n = least_samples(q, confidence), len(ordered)
    if n < needed:
        return Quantile(q, None, None, None, confidence, needed, f"{n} < {needed}")
    bounds = upper_bound(ordered, q, confidence), lower_bound(ordered, q, confidence)
    return Quantile(q, float(np.quantile(ordered, q)), bounds[0], bounds[1], confidence, needed)


def _warm_up(call: Callable[[], object], plan: Plan, clock: Clock) -> Laps:
    laps = _loop(call, plan, 1, clock)
    while True:
        spent = float(laps.end_ns[-1] - laps.start_ns[0]) / 1e9
        if spent >= plan.warmup_s or judge(laps.seconds, laps.latency_ms).steady:
            return laps
        typical = float(np.median(laps.end_ns - laps.start_ns)) / 1e9
        laps = laps.joined(_loop(call, plan, _chunk(plan, typical), clock))


def _enough(laps: Laps, plan: Plan) -> bool:
    spent = float(laps.end_ns[-1] - laps.start_ns[0]) / 1e9
    if spent >= plan.most_s:
        return True
    if spent < plan.least_s or len(laps.start_ns) < least_samples(plan.quantile):
        return False
    median = quantile_interval(laps.latency_ms, 0.5)
    return (
        median.high is not None and median.low is not None and median.high - median.low <= 2 * HALF_WIDTH * median.value
    )


def _loop(call: Callable[[], object], plan: Plan, runs: int, clock: Clock) -> Laps:
    return closed_loop(call, runs, clock) if plan.rate_hz is None else open_loop(call, plan.rate_hz, runs, clock)


def _chunk(plan: Plan, typical_s: float) -> int:
    """Runs of about a second: between chunks it is asked whether that is enough."""
    each = max(typical_s, 1 / plan.rate_hz if plan.rate_hz else 0.0, 1e-6)
    return max(1, min(round(_CHUNK_S / each), 100_000))
