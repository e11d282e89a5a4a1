"""The process in which a race is run: `python -m edgekit.raceworker FOLDER`.

It is a process of its own because caps such as `ONEDNN_MAX_CPU_ISA` are read once, when the library is loaded. The
folder holds `race.json`, models and weights as they are, and inputs as `.npy`; `result.json` and `samples.npy`, or
`error.json`, are put beside them. Nothing in it is executed.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekit import machine
from edgekit.bundle import MeasuredOn
from edgekit.bundle.npy import decode_array, encode_array
from edgekit.errors import EdgekitError, InputError
from edgekit.runtimes.backend import Backend, EngineRequest
from edgekit.runtimes.session import backend_named
from edgekit.structure import decode, encode

WARMUP = 5  # runs of each before anything counts: kernels are compiled and memory is taken on the first ones
LEAST_SAMPLE_NS = 1_000_000  # quicker models are run several times a sample, so that reading a clock costs nothing
LEAST_ROUNDS, MOST_ROUNDS = 30, 200
Clock = Literal["cpu", "wall"]


@dataclass(frozen=True)
class Runner:
    """One entrant as files of the folder."""

    precision: str
    model: str
    weights: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    recipe: str | None = None


@dataclass(frozen=True)
class Order:
    """What is to be run: `race.json`.

    Attributes:
        backend: name in the entry-point group `edgekit.runtimes`.
        caps: environment variables that hold the library back; the parent has set them.
        threads: threads for one inference.
        rounds: how many, or None for as many as `budget_s` takes, 30 to 200.
        seed: of the order of entrants in each round.
        feeds: input name to its `.npy` file.
    """

    backend: str
    caps: dict[str, str]
    threads: int
    rounds: int | None
    budget_s: float
    seed: int
    feeds: dict[str, str]
    runners: tuple[Runner, ...]


@dataclass(frozen=True)
class Outcome:
    """What was run, and on what: `result.json`. The figures are in `samples.npy`, see `run`."""

    measured_on: MeasuredOn
    clock: Clock


def main(folder: Path) -> int:
    """Run the race that is described in `folder`; 0 where it was run, otherwise the error's exit code."""
    try:
        order = decode(Order, json.loads((folder / "race.json").read_text("utf-8")), "race.json")
        outcome, samples = run(order, folder)
    except EdgekitError as error:
        (folder / "error.json").write_text(json.dumps(error.as_json()), "utf-8")
        return error.exit_code
    (folder / "samples.npy").write_bytes(encode_array(samples))
    (folder / "result.json").write_text(json.dumps(encode(outcome)), "utf-8")
    return 0


def run(order: Order, folder: Path) -> tuple[Outcome, npt.NDArray[np.float64]]:
    """Open all entrants side by side and run them in turn.

    Returns:
        What ran, and its samples, float64 (2, rounds, entrants): nanoseconds of one inference, of process CPU time and
        of wall time.

    Raises:
        MissingError: the runtime is not here.
        InputError: an entrant cannot be loaded, or does not run on the inputs; the message names its precision.
    """
    backend = backend_named(order.backend)
    feeds = {name: decode_array((folder / file).read_bytes(), name) for name, file in order.feeds.items()}
    engines = []
    for runner in order.runners:
        try:
            engine = backend.open(_request(runner, order.threads, folder))
            for _ in range(WARMUP):
                engine.run(feeds)
        except InputError as error:
            raise InputError(
                f"{runner.precision}: {error.what}", where=error.where, why=error.why, fix=error.fix
            ) from error
        engines.append(engine)
    laps: list[Callable[[], object]] = [lambda engine=engine: engine.run(feeds) for engine in engines]  # type: ignore[misc]
    try:
        samples = interleaved(laps, order.rounds, order.budget_s, order.seed)
    finally:
        for engine in engines:
            engine.close()
    return Outcome(_measured_on(order, backend), clock_for(backend, order.threads)), samples


def interleaved(
    laps: list[Callable[[], object]], rounds: int | None, budget_s: float, seed: int
) -> npt.NDArray[np.float64]:
    """Time each of `laps` once a round, in an order that is shuffled anew: what disturbs one round disturbs them all.

    Returns:
        float64 (2, rounds, laps): nanoseconds of one call, of process CPU time and of wall time.
    """
    single = np.array([_sample(lap, 1)[1] for lap in laps])
    repeats = [max(1, round(LEAST_SAMPLE_NS / max(1.0, each))) for each in single]
    if rounds is None:
        round_s = float((single * repeats).sum()) / 1e9
        rounds = int(np.clip(budget_s / max(round_s, 1e-9), LEAST_ROUNDS, MOST_ROUNDS))
    random = np.random.default_rng(seed)
    samples = np.empty((2, rounds, len(laps)))
    gc.collect()
    gc.disable()
    try:
        for row in range(rounds):
            for column in random.permutation(len(laps)):
                samples[:, row, column] = _sample(laps[column], repeats[column])
    finally:
        gc.enable()
    return samples


def clock_for(backend: Backend, threads: int) -> Clock:
    """CPU time does not count what other processes do here, but it counts every thread, and nothing beside the CPU."""
    return "cpu" if threads == 1 and tuple(backend.devices) == ("cpu",) else "wall"


def _sample(lap: Callable[[], object], repeats: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    for _ in range(repeats):
        lap()
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    return cpu / repeats, wall / repeats


def _request(runner: Runner, threads: int, folder: Path) -> EngineRequest:
    return EngineRequest(
        model=(folder / runner.model).read_bytes(),
        weights=(folder / runner.weights).read_bytes() if runner.weights else None,
        recipe=(folder / runner.recipe).read_bytes() if runner.recipe else None,
        settings=runner.settings,
        threads=threads,
        outputs=runner.outputs,
    )


def _measured_on(order: Order, backend: Backend) -> MeasuredOn:
    return MeasuredOn(
        cpu=machine.machine_names()[0],
        machine=machine.machine(),
        system=machine.system(),
        runtime=f"{backend.name} {backend.version()}",
        instruction_set=machine.instruction_set(order.caps),
        threads=order.threads,
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
