"""Times and peak memory of the steps of a long command, and a word to the user while each runs."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


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
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux reports KiB
        self.costs.append(StepCost(name, time.perf_counter() - start, peak))
