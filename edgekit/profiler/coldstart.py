"""The inside of a cold start: opened once, run once."""

from __future__ import annotations

import time
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.profiler.subject import feeds_of
from edgekit.runtimes.session import open_session


def open_once(path: str, threads: int | None, precision: str | None) -> dict[str, float]:
    """Load the bundle, run its first self-test's input, and say what that took, in milliseconds and bytes."""
    start = time.perf_counter_ns()
    with Bundle.open(Path(path)) as bundle:
        session = open_session(bundle, threads=threads, precision=precision)
        loaded = time.perf_counter_ns()
        feeds = feeds_of(bundle)
    with session:
        begin = time.perf_counter_ns()
        session.run(feeds)
        done = time.perf_counter_ns()
    return {
        "load_ms": (loaded - start) / 1e6,
        "first_ms": (done - begin) / 1e6,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def peak_rss_bytes() -> int:
    """VmHWM of this process: the most memory that it had in RAM (Linux, proc_pid_status(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
