"""What starting costs: in fresh processes, from the first import to the first answer."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from edgekit.errors import InconclusiveError
from edgekit.profiler.report import Cold

PROCESSES = 5
DEADLINE_S = 600.0

# A module would have imported the package before its first line; this times that too.
_SCRIPT = """
import time
start = time.perf_counter_ns()
import json, sys
import edgekit
from edgekit.profiler.coldstart import open_once
imported = time.perf_counter_ns()
path, threads, precision = json.loads(sys.argv[1])
print(json.dumps({"import_ms": (imported - start) / 1e6, **open_once(path, threads, precision)}))
"""


def cold(bundle: Path, *, threads: int | None = None, precision: str | None = None, processes: int = PROCESSES) -> Cold:
    """Load the bundle in `processes` fresh processes, one after the other; files may be in the system's cache.

    Raises:
        InconclusiveError: a process died or took too long.
    """
    found = [_once(bundle, threads, precision) for _ in range(processes)]
    return Cold(
        import_ms=statistics.median(each["import_ms"] for each in found),
        load_ms=statistics.median(each["load_ms"] for each in found),
        first_ms=statistics.median(each["first_ms"] for each in found),
        peak_rss_bytes=max(int(each["peak_rss_bytes"]) for each in found),
        processes=processes,
    )


def child_environment() -> dict[str, str]:
    """For a process of ours that finds the packages that this one finds."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _once(bundle: Path, threads: int | None, precision: str | None) -> dict[str, float]:
    argument = json.dumps([str(bundle.resolve()), threads, precision])
    try:
        done = subprocess.run(  # noqa: S603  # this Python and a script of ours
            [sys.executable, "-c", _SCRIPT, argument],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InconclusiveError(
            f"a cold start did not end within {DEADLINE_S:.0f} s", where=str(bundle), fix="leave it away with --no-cold"
        ) from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InconclusiveError(
            "a cold start failed",
            where=str(bundle),
            why=f"exit status {done.returncode}; {last[0] if last else 'it said nothing'}",
            fix="leave it away with --no-cold",
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found
