"""A fresh process that measures: `python -m edgekit.profiler.worker FOLDER`.

The folder holds `task.json`; `laps.npy` and `result.json`, or `error.json`, are put beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle
from edgekit.bundle.npy import decode_array, encode_array
from edgekit.bundle.strictjson import parse_json
from edgekit.errors import EdgekitError, InconclusiveError, error_from_json
from edgekit.profiler.cold import child_environment
from edgekit.profiler.latency import Measured, Plan, measure
from edgekit.profiler.loops import Laps
from edgekit.profiler.steady import Steady
from edgekit.profiler.subject import feeds_of
from edgekit.runtimes.session import open_session
from edgekit.structure import decode, encode

_SLACK_S = 600.0  # on top of what the plan allows: loading, and building an engine


@dataclass(frozen=True)
class Task:
    """What to measure: a bundle's path, and how it is opened and run."""

    bundle: str
    plan: Plan
    threads: int | None = None
    precision: str | None = None
    batch: int = 1


@dataclass(frozen=True)
class Result:
    """How the warm-up went; the laps are in `laps.npy`, int64 (3, runs): due, start, end."""

    warmup_runs: int
    steady: Steady


def measure_apart(task: Task) -> Measured:
    """Measure in a process of its own.

    Raises:
        EdgekitError: as the worker raised it.
        InconclusiveError: the worker died, or did not end.
    """
    limit = task.plan.warmup_s + task.plan.most_s + _SLACK_S
    with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as name:
        folder = Path(name)
        (folder / "task.json").write_text(json.dumps(encode(task)), "utf-8")
        try:
            done = subprocess.run(  # noqa: S603  # this Python and this module
                [sys.executable, "-m", "edgekit.profiler.worker", str(folder)],
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit if task.plan.runs is None else None,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InconclusiveError("measuring did not end", where=task.bundle, why=f"after {limit:.0f} s") from error
        if (folder / "error.json").exists():
            raise error_from_json(json.loads((folder / "error.json").read_text("utf-8")))
        if done.returncode != 0:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            why = f"exit status {done.returncode}; {last[0] if last else 'it said nothing'}"
            raise InconclusiveError("the measuring process died", where=task.bundle, why=why)
        result = decode(Result, parse_json((folder / "result.json").read_bytes(), "result.json"), "result.json")
        due, start, end = decode_array((folder / "laps.npy").read_bytes(), "laps.npy")
        return Measured(Laps(due, start, end), result.warmup_runs, result.steady)


def main(folder: Path) -> int:
    """Do the task in `folder`; 0 where it was done, otherwise the error's exit code."""
    try:
        task = decode(Task, parse_json((folder / "task.json").read_bytes(), "task.json"), "task.json")
        found = _measured(task)
    except EdgekitError as error:
        (folder / "error.json").write_text(json.dumps(error.as_json()), "utf-8")
        return error.exit_code
    laps = np.stack([found.laps.due_ns, found.laps.start_ns, found.laps.end_ns])
    (folder / "laps.npy").write_bytes(encode_array(laps))
    (folder / "result.json").write_text(json.dumps(encode(Result(found.warmup_runs, found.steady))), "utf-8")
    return 0


def _measured(task: Task) -> Measured:
    with Bundle.open(Path(task.bundle)) as bundle:
        session = open_session(bundle, threads=task.threads, precision=task.precision)
        feeds = feeds_of(bundle, task.batch)
    with session:
        return measure(lambda: session.run(feeds), task.plan)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
