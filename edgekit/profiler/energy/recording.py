"""Reads a meter in a thread of its own, into arrays that are there beforehand."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgekit.errors import MissingError
from edgekit.profiler.energy.meter import Clock, Meter, Reading, Sleep

Instants = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MOST_FAILURES = 50
"""So many failed reads in a row are a meter that has gone."""


@dataclass(frozen=True)
class Trace:
    """Readings in order of time.

    Attributes:
        before_ns, after_ns: (n,), when each was asked for and given.
        values: (n,), watts or joules.
        failures: reads that failed in between.
    """

    before_ns: Instants
    after_ns: Instants
    values: Floats
    failures: int = 0

    @property
    def instants_ns(self) -> Instants:
        """(n,): midpoints, which no side of a slow read shifts."""
        return np.asarray(self.before_ns + (self.after_ns - self.before_ns) // 2)

    def joined(self, more: Sequence[Reading]) -> Trace:
        """With readings that somebody else took in the meantime."""
        before = np.r_[self.before_ns, np.array([one.before_ns for one in more], np.int64)]
        after = np.r_[self.after_ns, np.array([one.after_ns for one in more], np.int64)]
        values = np.r_[self.values, np.array([one.value for one in more], np.float64)]
        order = np.argsort(before + after, kind="stable")
        return Trace(before[order], after[order], values[order], self.failures)


class Recording(Protocol):
    """Readings that go on while the caller works."""

    def trace(self) -> Trace:
        """What was read so far.

        Raises:
            MissingError: the meter has gone.
        """
        ...

    def stop(self) -> None: ...


class Recorder:
    """Takes readings one by one; whoever calls `take` gives the pace.

    Args:
        seconds: to make room for; what comes later is not kept, and `trace` says so by raising.
    """

    def __init__(self, meter: Meter, clock: Clock, seconds: float) -> None:
        room = math.ceil(2 * seconds / max(meter.poll_s, 1e-5)) + 64
        self._meter, self._clock = meter, clock
        self._before, self._after = np.empty(room, np.int64), np.empty(room, np.int64)
        self._values = np.empty(room)
        self._count = self._failures = self._in_a_row = 0
        self._last: OSError | None = None

    @property
    def gone(self) -> bool:
        return self._in_a_row >= MOST_FAILURES or self._count >= len(self._values)

    def take(self) -> None:
        """One reading; one that fails is counted, and the next is tried."""
        if self.gone:
            return
        try:
            before, after, value = self._meter.read(self._clock)
        except OSError as error:
            self._failures += 1
            self._in_a_row += 1
            self._last = error
            return
        i = self._count
        self._before[i], self._after[i], self._values[i] = before, after, value
        self._in_a_row = 0
        self._count = i + 1  # last: another thread looks at what lies below

    def trace(self) -> Trace:
        """A copy of what was read so far.

        Raises:
            MissingError: the meter stopped answering, or the arrays are full.
        """
        if self.gone:
            full = self._count >= len(self._values)
            raise MissingError(
                f"{self._meter.name} stopped giving values",
                where=self._meter.boundary,
                why="it gave more than it said it would" if full else f"{MOST_FAILURES} reads failed: {self._last}",
                fix="check the sensor, then profile again",
            )
        n = self._count
        return Trace(self._before[:n].copy(), self._after[:n].copy(), self._values[:n].copy(), self._failures)


class ThreadRecording:
    """A recorder that a thread drives until `stop`."""

    def __init__(self, meter: Meter, clock: Clock, sleep: Sleep, seconds: float) -> None:
        self._recorder = Recorder(meter, clock, seconds)
        self._poll_ns = round(meter.poll_s * 1e9)
        self._clock, self._sleep = clock, sleep
        self._ended = threading.Event()
        self._crash: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="edgekit-meter", daemon=True)
        self._thread.start()

    def trace(self) -> Trace:
        """See `Recording`."""
        if self._crash is not None:
            raise self._crash
        return self._recorder.trace()

    def stop(self) -> None:
        """Ends the thread; a read under way is waited for."""
        self._ended.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        try:
            while not self._ended.is_set() and not self._recorder.gone:
                started = self._clock()
                self._recorder.take()
                left = started + self._poll_ns - self._clock()
                if left > 0:
                    self._sleep(left / 1e9)
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread, by `trace`
            self._crash = error
