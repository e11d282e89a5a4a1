"""Times and peak memory of the steps of a long command, and a word to the user while each runs."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class StepCost:
    """What a step took: wall-clock seconds, and the process's peak resident memory (MiB) when it ended."""

    step: str
    seconds: float
    peak_rss_mib: float


@dataclass
class Progress:
    """Records steps; `announce` is called with each step's name as it begins."""

    announce: Callable[[str], None] = lambda _: None
    costs: list[StepCost] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce and time one step."""
        self.announce(name)
        start = time.perf_counter()
        yield
        self.costs.append(StepCost(name, time.perf_counter() - start, peak_rss_mib()))


def peak_rss_mib() -> float:
    """This process's peak resident memory: VmHWM, since `ru_maxrss` begins with the peak of whoever started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    kib = int(line.split()[1]) if line else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 1024
