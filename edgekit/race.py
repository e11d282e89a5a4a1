"""Which precision is faster: entrants run in turn in one fresh process, and only a certain gain over float wins.

The process is fresh because libraries read caps on instruction sets (`ONEDNN_MAX_CPU_ISA`) once, at load. Entrants are
interleaved, so that whatever else the machine does disturbs them alike, and the ratio of medians has a bootstrap
interval over rounds. `race_problem` says where a race on this machine says nothing about a target.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit import machine
from edgekit.bundle import MeasuredOn
from edgekit.bundle.atomic import unwritable_is_typed
from edgekit.bundle.npy import decode_array, encode_array
from edgekit.bundle.strictjson import parse_json
from edgekit.errors import InconclusiveError, MissingError, UsageError, error_from_json
from edgekit.profiles import DeviceProfile
from edgekit.raceworker import Clock, Order, Outcome, Runner
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.session import backend_named, version_problem
from edgekit.structure import decode, encode

FLOATS = ("fp32", "fp16", "bf16")  # in the order in which they serve as the reference
BUDGET_S = 3.0
DEADLINE_S = 600.0  # a model that takes longer for 35 runs of each entrant is not raced
RESAMPLES = 2000  # Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 14.2: 1000 or more for an interval
# What a user may have set for other purposes; the profile alone decides what counts.
_CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS")


@dataclass(frozen=True)
class Entrant:
    """One precision of a model, as its backend is asked to open it; the race decides on `request.threads`."""

    precision: str
    request: EngineRequest


@dataclass(frozen=True)
class Lap:
    """An entrant's figures.

    Attributes:
        latency_ms: median of one inference by the race's clock.
        wall_ms: median of one inference by the clock on the wall, which other processes disturb.
        speedup: the reference's median divided by this one's, (low, value, high) of a 95 % interval.
    """

    precision: str
    latency_ms: float
    wall_ms: float
    speedup: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class RaceResult:
    """What a race gave.

    Attributes:
        laps: one an entrant; the first is the float reference.
        measured_on: the machine, the runtime, its instruction set and threads.
        clock: `cpu` is process CPU time, for one thread on a CPU; `wall` for everything else.
        cpu_ns, wall_ns: all samples, float64 (rounds, entrants), nanoseconds of one inference.
    """

    laps: tuple[Lap, ...]
    measured_on: MeasuredOn
    clock: Clock
    cpu_ns: npt.NDArray[np.float64]
    wall_ns: npt.NDArray[np.float64]

    @property
    def rounds(self) -> int:
        """How often each entrant ran."""
        return len(self.cpu_ns)

    def lap(self, precision: str) -> Lap:
        """The figures of one entrant."""
        return next(lap for lap in self.laps if lap.precision == precision)

    def winner(self, eligible: Collection[str] | None = None) -> tuple[str, str]:
        """The fastest whose speedup is above 1 at the lower end of its interval, else the reference; and why.

        Args:
            eligible: precisions that may win; None for all. The reference always may: it is what stays.
        """
        reference, *others = self.laps
        able = [lap for lap in others if eligible is None or lap.precision in eligible]
        gains = [lap for lap in able if lap.speedup[0] > 1]
        if gains:
            best = max(gains, key=lambda lap: lap.speedup[1])
            return best.precision, f"{best.precision} is {told(best.speedup)} as fast as {reference.precision}"
        if not able:
            return reference.precision, f"nothing may take the place of {reference.precision}"
        nearest = max(able, key=lambda lap: lap.speedup[1])
        return reference.precision, (
            f"{nearest.precision} is {told(nearest.speedup)} as fast as {reference.precision}: no certain gain"
        )


def race(
    entrants: Sequence[Entrant],
    feeds: Mapping[str, npt.NDArray[np.generic]],
    backend_name: str,
    env: Mapping[str, str] | None = None,
    threads: int = 1,
    rounds: int | None = None,
    *,
    budget_s: float = BUDGET_S,
    seed: int = 0,
) -> RaceResult:
    """Run the entrants against one another in a process of its own.

    Args:
        entrants: two or more, the float reference first; see `reference_first`.
        feeds: inputs by name, the same for all.
        backend_name: the runtime that opens all of them.
        env: caps for that process, such as a profile's `race_env`; they are told in `measured_on.instruction_set`.
        threads: threads for one inference.
        rounds: how often each runs; by default as often as `budget_s` allows, 30 to 200 times.
        seed: of the order within rounds and of the bootstrap.

    Raises:
        UsageError: fewer than two entrants, or two of the same precision.
        MissingError: the runtime is not installed, or there is no room for the files.
        InputError: an entrant cannot be loaded or run; the message begins with its precision.
        InconclusiveError: the process died or did not end.
    """
    names = [entrant.precision for entrant in entrants]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError("a race needs two different precisions", where=", ".join(names) or "no entrant")
    caps = dict(env or {})
    with tempfile.TemporaryDirectory(prefix="edgekit-race-") as name:
        folder = Path(name)
        with unwritable_is_typed(folder):
            files, runners = _written(folder, entrants, feeds)
            order = Order(backend_name, caps, threads, rounds, budget_s, seed, files, runners)
            (folder / "race.json").write_text(json.dumps(encode(order)), "utf-8")
        _run_worker(folder, caps)
        outcome = decode(Outcome, parse_json((folder / "result.json").read_bytes(), "result.json"), "result.json")
        cpu, wall = decode_array((folder / "samples.npy").read_bytes(), "samples.npy")
    return _judge(names, outcome, np.maximum(cpu, 1.0), np.maximum(wall, 1.0), seed)


def race_problem(profile: DeviceProfile, precision: str | None = None) -> str | None:
    """Why a race on this machine says nothing about that target, or None where it counts.

    Args:
        precision: asks about this candidate alone; by default about the race as a whole, which counts while any
            candidate besides the reference does.
    """
    if profile.isa and machine.machine() not in profile.isa:
        return f"this machine is {machine.machine()}, {profile.name} is {' or '.join(profile.isa)}"
    try:
        backend = backend_named(profile.runtime)
        outside = version_problem(backend.version(), profile.runtime_min, profile.runtime_below)
    except MissingError as error:
        return error.what
    if outside:
        return f"{profile.runtime} {backend.version()} is here, {profile.name} has {outside}"
    flags = machine.cpu_flags()
    asked = profile.candidates[1:] if precision is None else (precision,)
    problems = [_lacking(profile, each, flags) for each in asked]
    return problems[0] if problems and all(problems) else None


def reference_first(precisions: Sequence[str]) -> list[str]:
    """The precisions with the float reference first: fp32, else fp16, else bf16, else as they stand."""
    return sorted(precisions, key=lambda name: FLOATS.index(name) if name in FLOATS else len(FLOATS))


def ratio_interval(
    reference: npt.NDArray[np.float64], other: npt.NDArray[np.float64], seed: int
) -> tuple[float, float, float]:
    """`median(reference) / median(other)` with its 95 % percentile interval, rounds resampled in pairs.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        reference, other: float64 (rounds,), above zero; the same index is the same round.

    Returns:
        low, value, high; low <= value <= high.
    """
    draws = np.random.default_rng(seed).integers(0, len(reference), (RESAMPLES, len(reference)))
    ratios = np.median(reference[draws], axis=1) / np.median(other[draws], axis=1)
    value = float(np.median(reference) / np.median(other))
    low, high = (float(bound) for bound in np.quantile(ratios, (0.025, 0.975)))
    return min(low, value), value, max(high, value)


def told(speedup: tuple[float, float, float]) -> str:
    """A speedup for people: `2.31x (2.28 to 2.35)`."""
    low, value, high = speedup
    return f"{value:.2f}x ({low:.2f} to {high:.2f})"


def _lacking(profile: DeviceProfile, precision: str, flags: Collection[str]) -> str | None:
    needs = profile.race_needs.get(precision, ())
    if not needs or set(needs) & set(flags):
        return None
    return f"{precision} on {profile.name} needs {' or '.join(needs)}, which the CPU here does not have"


def _written(
    folder: Path, entrants: Sequence[Entrant], feeds: Mapping[str, npt.NDArray[np.generic]]
) -> tuple[dict[str, str], tuple[Runner, ...]]:
    """Put models, weights and inputs into the folder."""
    files = {}
    for index, (name, array) in enumerate(feeds.items()):
        files[name] = f"feed-{index}.npy"
        (folder / files[name]).write_bytes(encode_array(array))
    runners = []
    for index, entrant in enumerate(entrants):
        request = entrant.request
        held = {"model": request.model, "weights": request.weights, "recipe": request.recipe}
        places = {part: f"{part}-{index}" for part, data in held.items() if data is not None}
        for part, place in places.items():
            (folder / place).write_bytes(held[part] or b"")
        settings = dict(request.settings)
        runners.append(Runner(entrant.precision, settings=settings, outputs=request.outputs, **places))
    return files, tuple(runners)


def _run_worker(folder: Path, caps: Mapping[str, str]) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in _CAPS}
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)  # it finds the packages that we find
    environment = {**inherited, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **caps}
    try:
        done = subprocess.run(  # noqa: S603  # this Python and a module of ours
            [sys.executable, "-m", "edgekit.raceworker", str(folder)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InconclusiveError(
            f"the race did not end within {DEADLINE_S:.0f} s",
            where="edgekit.raceworker",
            why="the model is too slow to be raced here",
            fix="name a precision with --precision",
        ) from error
    if (folder / "error.json").exists():
        raise error_from_json(json.loads((folder / "error.json").read_text("utf-8")))
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InconclusiveError(
            "the race died",
            where="edgekit.raceworker",
            why=f"exit status {done.returncode}; {last[0] if last else 'it said nothing'}",
            fix="name a precision with --precision",
        )


def _judge(
    names: Sequence[str], outcome: Outcome, cpu: npt.NDArray[np.float64], wall: npt.NDArray[np.float64], seed: int
) -> RaceResult:
    timed = cpu if outcome.clock == "cpu" else wall
    laps = tuple(
        Lap(
            precision=name,
            latency_ms=float(np.median(timed[:, column])) / 1e6,
            wall_ms=float(np.median(wall[:, column])) / 1e6,
            speedup=ratio_interval(timed[:, 0], timed[:, column], seed),
        )
        for column, name in enumerate(names)
    )
    return RaceResult(laps, outcome.measured_on, outcome.clock, cpu, wall)
