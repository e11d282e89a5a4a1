"""How much memory is free, where CPU and GPU share it and where they do not, and a watch that stops a build in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.errors import MissingError
from edgekit.runtimes import cuda
from edgekit.runtimes.tensorrt_recipe import Memory, Workspace

MEMINFO = Path("/proc/meminfo")
_FIX = "close the desktop and other programs: sudo systemctl isolate multi-user.target; or add swap"
_INTERVAL_S = 0.05  # a builder reports thousands of steps; memory does not change much within this time


def free_memory(integrated: bool) -> int:
    """Bytes that an allocation on the GPU could have now.

    On an integrated GPU that is the kernel's `MemAvailable`: cudaMemGetInfo leaves out what the kernel would give back
    at once, such as file caches (NVIDIA, CUDA for Tegra, "Estimating Total Allocatable Device Memory").
    """
    available = _available() if integrated else None
    return cuda.free_bytes() if available is None else available


def workspace_bytes(rule: Workspace, free: int) -> int:
    """What the rule gives where `free` bytes are free."""
    share = int(rule.fraction * free)
    return share if rule.at_most_bytes is None else min(share, rule.at_most_bytes)


@dataclass
class MemoryWatch:
    """Watches what is free while a build runs.

    Attributes:
        need: from the recipe.
        free: asks what is free, in bytes.
        lowest: the least that was seen.
    """

    need: Memory
    free: Callable[[], int]
    lowest: int | None = None
    _next: float = field(default=0.0, repr=False)

    def before(self) -> int:
        """What is free now.

        Raises:
            MissingError: less than the build needs.
        """
        free = self.lowest = self.free()
        needed = self.need.floor_bytes + (self.need.estimate_bytes or 0)
        if free < needed:
            raise MissingError(
                "too little memory is free to build the engine",
                where=f"{_mib(free)} free",
                why=f"the build takes {_mib(self.need.estimate_bytes or 0)} by estimate, "
                f"and {_mib(self.need.floor_bytes)} are to stay free",
                fix=_FIX,
            )
        return free

    def check(self) -> None:
        """See that the floor holds; ask as often as you like.

        Raises:
            MissingError: it does not.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL_S
        free = self.free()
        self.lowest = free if self.lowest is None else min(self.lowest, free)
        if free < self.need.floor_bytes:
            raise MissingError(
                "the build was stopped: memory ran low",
                where=f"{_mib(free)} free",
                why=f"{_mib(self.need.floor_bytes)} are to stay free, so that the kernel does not kill programs",
                fix=_FIX,
            )


def _available() -> int | None:
    """`MemAvailable` in bytes, None where the kernel does not tell."""
    try:
        lines = MEMINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(found.split()[1]) * 1024 if found else None


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
