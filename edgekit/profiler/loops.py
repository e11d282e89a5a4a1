"""The loops that time a model: one call after the other, or calls that fall due at a rate.

Both write into arrays made beforehand, with the garbage collector off and nothing else inside.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Clock = Callable[[], int]
Instants = npt.NDArray[np.int64]

_SPIN_NS = 200_000  # the last stretch before a call is due is waited for awake: sleeping returns late


@dataclass(frozen=True, eq=False)
class Laps:
    """What a loop saw, by `CLOCK_MONOTONIC`.

    Attributes:
        due_ns, start_ns, end_ns: int64 (runs,); in a closed loop a call is due when it starts.
    """

    due_ns: Instants
    start_ns: Instants
    end_ns: Instants

    @property
    def latency_ms(self) -> npt.NDArray[np.float64]:
        """From the instant that a call was due to its end: what an application with its own clock waits."""
        return np.asarray((self.end_ns - self.due_ns) / 1e6)

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """When each call started, from the first."""
        return np.asarray((self.start_ns - self.start_ns[0]) / 1e9)

    @property
    def late(self) -> int:
        """How many calls started after the next was due."""
        return int(np.sum(self.start_ns[:-1] >= self.due_ns[1:])) if len(self.due_ns) > 1 else 0

    def joined(self, other: Laps) -> Laps:
        """Both, in order."""
        pairs = ((self.due_ns, other.due_ns), (self.start_ns, other.start_ns), (self.end_ns, other.end_ns))
        return Laps(*(np.concatenate(pair) for pair in pairs))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without the garbage collector, which would stop a call now and then; what is garbage is collected before."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def closed_loop(call: Callable[[], object], runs: int, clock: Clock = time.perf_counter_ns) -> Laps:
    """Each call starts when the one before has ended."""
    start, end = np.empty(runs, np.int64), np.empty(runs, np.int64)
    with undisturbed():
        for i in range(runs):
            start[i] = clock()
            call()
            end[i] = clock()
    return Laps(start, start, end)


def open_loop(
    call: Callable[[], object],
    rate_hz: float,
    runs: int,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> Laps:
    """Calls fall due every 1 / `rate_hz` seconds, whether or not the one before has ended.

    One that is late starts at once and is timed from when it was due: a closed loop would leave that wait out (G. Tene,
    "coordinated omission"; MLPerf's Server scenario times from the scheduled instant as well).
    """
    start, end = np.empty(runs, np.int64), np.empty(runs, np.int64)
    with undisturbed():
        due = clock() + np.round(np.arange(1, runs + 1) * (1e9 / rate_hz)).astype(np.int64)
        for i, instant in enumerate(due.tolist()):
            _wait(instant, clock, sleep)
            start[i] = clock()
            call()
            end[i] = clock()
    return Laps(due, start, end)


def _wait(instant: int, clock: Clock, sleep: Callable[[float], object]) -> None:
    while (left := instant - clock()) > 0:
        if left > _SPIN_NS:
            sleep((left - _SPIN_NS) / 1e9)
