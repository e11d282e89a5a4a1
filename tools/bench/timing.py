"""Interleaved timings: A and B in turn, so that a machine that slows down slows both; ratios of medians are quoted."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Two ways of doing the same, in milliseconds of process CPU time."""

    a_median: float
    a_min: float
    b_median: float
    b_min: float
    rounds: int

    @property
    def ratio(self) -> float:
        """Median of A over median of B."""
        return self.a_median / self.b_median

    @property
    def ratio_of_minima(self) -> float:
        """Fastest A over fastest B: what the work itself costs, with the least of what other tenants add to memory."""
        return self.a_min / self.b_min


def interleave(a: Callable[[], object], b: Callable[[], object], rounds: int, warmup: int = 10) -> Pair:
    """Time `a` and `b` alternately, each `rounds` times; the one that goes first alternates as well."""
    for _ in range(warmup):
        a()
        b()
    taken: dict[Callable[[], object], list[float]] = {a: [], b: []}
    for i in range(rounds):
        for work in (a, b) if i % 2 else (b, a):
            start = time.process_time_ns()
            work()
            taken[work].append((time.process_time_ns() - start) / 1e6)
    return Pair(statistics.median(taken[a]), min(taken[a]), statistics.median(taken[b]), min(taken[b]), rounds)


def report(name: str, bar: str, pair: Pair, shown: float, passed: bool, unit: str = "x") -> bool:
    """Print one row; returns `passed`."""
    verdict = "ok" if passed else "MISSED"
    a, b = (f"{m:.3f} ms (min {low:.3f})" for m, low in ((pair.a_median, pair.a_min), (pair.b_median, pair.b_min)))
    print(f"{name:<44} {shown:6.2f}{unit}  bar {bar:<18} {verdict:<6}  A {a}, B {b}, n={pair.rounds}", flush=True)
    return passed
