"""`edgekit profile`: a bundle's latency and energy on this machine, as a report whose samples are kept beside it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, UsageError
from edgekit.profiler.budgets import judge_budgets
from edgekit.profiler.certificate import certify
from edgekit.profiler.cold import cold
from edgekit.profiler.environment import conditions, snapshot
from edgekit.profiler.joules import session_energy
from edgekit.profiler.latency import Measured, Plan, summarise
from edgekit.profiler.layers import layer_times
from edgekit.profiler.rates import check_budget, highest_rate
from edgekit.profiler.report import Cold, HeldRate, Layer, Report, Throughput, Unknown
from edgekit.profiler.soak import Soaked, check_soak, soak
from edgekit.profiler.split import split
from edgekit.profiler.storage import LATENCY, PROCESSES, STARTS
from edgekit.profiler.subject import device_of, feeds_of, quality_of, subject_of
from edgekit.profiler.throughput import threads_a_stream, throughput
from edgekit.profiler.worker import Task, measure_apart
from edgekit.profiles import DeviceProfile
from edgekit.runtimes.session import open_session

NANOSECONDS = 1e-9


@dataclass(frozen=True)
class Options:
    """What to measure, besides the plan of the latency.

    Attributes:
        processes: fresh processes, one after the other, each with a warm-up of its own.
        cold, layers, energy: whether to measure these.
        meter: a program that prints `t_monotonic_ns,volt,amp` lines, instead of the machine's own meter.
        streams: how many sessions to run at once, for throughput; one where only a batch is asked for.
        hold_p99_ms: a latency for which to search the highest rate.
        soak_s: how long to run on, at the plan's rate.
        budgets: name to limit; see `edgekit.profiler.budgets`.
    """

    plan: Plan = field(default_factory=Plan)
    threads: int | None = None
    precision: str | None = None
    batch: int = 1
    processes: int = 1
    cold: bool = True
    layers: bool = True
    energy: bool = True
    meter: str | None = None
    streams: tuple[int, ...] = ()
    hold_p99_ms: float | None = None
    soak_s: float | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.processes < 1 or self.batch < 1 or any(streams < 1 for streams in self.streams):
            raise UsageError("nothing is measured", where="--processes, --batch, --streams", fix="1 or more")
        check_soak(self.soak_s)
        check_budget(self.hold_p99_ms)


@dataclass(frozen=True, eq=False)
class Profile:
    """A report and its samples, by the names that the report gives them."""

    report: Report
    arrays: dict[str, np.ndarray]


def profile(
    path: Path,
    options: Options,
    *,
    key: Path | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure the bundle at `path` on this machine.

    Args:
        key: a public key; with one, the bundle must be signed by it.
        told: is told of each part as it starts.

    Raises:
        MissingError: this machine does not have the bundle's runtime.
        IntegrityError, InputError, UsageError: as `load`.
    """
    unknown: dict[str, Unknown] = {}
    with Bundle.open(path, key=key) as bundle:
        bundle.verify()
        device = device_of(bundle.manifest.target.name)
        quality = quality_of(bundle.manifest, options.precision)
        feeds = feeds_of(bundle, options.batch)
        with open_session(bundle, threads=options.threads, precision=options.precision, announce=told) as session:
            subject = subject_of(bundle, session, options.threads)
        before = snapshot(device)
        started = _part("cold", options.cold, unknown, told, lambda: _cold(path, options))
        parts = [_latency(path, options, index, told) for index in range(options.processes)]
        layers = _part("layers", options.layers, unknown, told, lambda: _layers(bundle, feeds, options))
        with open_session(bundle, threads=options.threads, precision=options.precision) as session:
            told("the application's share")
            shares = split(session, feeds)
            joules = partial(
                session_energy, session, feeds, device, program=options.meter, rate_hz=options.plan.rate_hz
            )
            energy, traced = _part("energy", options.energy, unknown, told, joules) or (None, {})
        rates = _throughput(bundle, feeds, options, told)
        held = _held(bundle, feeds, options, told)
        after = snapshot(device)
        soaked = _soak(bundle, feeds, options, device, told)
    latency = summarise(parts, options.plan, options.batch, LATENCY)
    report = Report(
        subject=subject,
        conditions=conditions(before, after),
        certificate=certify(before, after, latency, energy),
        latency=latency,
        cold=started,
        split=shares,
        layers=layers,
        energy=energy,
        unknown=unknown,
        throughput=rates,
        held=held,
        soak=soaked.figures if soaked else None,
        started_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tools={"python": platform.python_version(), "numpy": np.__version__},
    )
    verdicts = judge_budgets(report, options.budgets, quality)
    arrays = {**_samples(parts), **traced, **(soaked.arrays if soaked else {})}
    return Profile(replace(report, verdicts=verdicts), arrays)


def _part(
    name: str, wanted: bool, unknown: dict[str, Unknown], told: Callable[[str], None], measure: Callable[[], Any]
) -> Any:
    """The part's figures, or None, with the reason put into `unknown`."""
    if not wanted:
        unknown[name] = Unknown("it was not asked for", f"leave --no-{name} away")
        return None
    told(name)
    try:
        return measure()
    except EdgekitError as error:
        unknown[name] = Unknown(f"{error.what}: {error.why}" if error.why else error.what, error.fix)
    return None


def _cold(path: Path, options: Options) -> Cold:
    return cold(path, threads=options.threads, precision=options.precision)


def _latency(path: Path, options: Options, index: int, told: Callable[[str], None]) -> Measured:
    told(f"latency, process {index + 1} of {options.processes}")
    task = Task(str(path.resolve()), options.plan, options.threads, options.precision, options.batch)
    return measure_apart(task)


def _layers(bundle: Bundle, feeds: Mapping[str, np.ndarray], options: Options) -> tuple[Layer, ...]:
    return layer_times(bundle, feeds, threads=options.threads, precision=options.precision)


def _throughput(
    bundle: Bundle, feeds: Mapping[str, np.ndarray], options: Options, told: Callable[[str], None]
) -> tuple[Throughput, ...]:
    """At each number of streams that was asked for."""
    found = []
    for streams in options.streams or ((1,) if options.batch > 1 else ()):
        told(f"throughput, {streams} stream(s)")
        threads = threads_a_stream(options.threads, streams)
        with ExitStack() as stack:
            opened = [open_session(bundle, threads=threads, precision=options.precision) for _ in range(streams)]
            calls = [partial(stack.enter_context(session).run, feeds) for session in opened]
            found.append(throughput(calls, options.batch, threads=threads))
    return tuple(found)


def _held(
    bundle: Bundle, feeds: Mapping[str, np.ndarray], options: Options, told: Callable[[str], None]
) -> HeldRate | None:
    if options.hold_p99_ms is None:
        return None
    told(f"the highest rate with a p99 of {options.hold_p99_ms:g} ms")
    with open_session(bundle, threads=options.threads, precision=options.precision) as session:
        return highest_rate(lambda: session.run(feeds), options.hold_p99_ms)


def _soak(
    bundle: Bundle,
    feeds: Mapping[str, np.ndarray],
    options: Options,
    device: DeviceProfile,
    told: Callable[[str], None],
) -> Soaked | None:
    """After the last snapshot of the run: it warms the chip on purpose, and looks at the machine itself."""
    if options.soak_s is None:
        return None
    told(f"soak of {options.soak_s:g} s")
    with open_session(bundle, threads=options.threads, precision=options.precision) as session:
        session.run(feeds)
        call = partial(session.run, feeds)
        return soak(call, options.soak_s, lambda: snapshot(device), rate_hz=options.plan.rate_hz)


def _samples(parts: list[Measured]) -> dict[str, np.ndarray]:
    first = parts[0].laps.start_ns[0]
    return {
        LATENCY: np.concatenate([part.laps.latency_ms for part in parts]),
        STARTS: np.concatenate([(part.laps.start_ns - first) * NANOSECONDS for part in parts]),
        PROCESSES: np.concatenate([np.full(len(part.laps.start_ns), i) for i, part in enumerate(parts)]),
    }
