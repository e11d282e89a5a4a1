"""Joules of an inference: idle, a pilot, the window, idle again, with the model loaded throughout.

The order at the edges is: device sync, read, work, device sync, read. Without the second sync the tail of queued work
is not in the window; without the first the tail of what came before it is.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.errors import InconclusiveError, UsageError
from edgekit.profiler.energy.integrate import (
    COVERAGE,
    MOST_GAP,
    Figures,
    Span,
    Stretch,
    Value,
    figures_of,
    seconds_needed,
    stretch_of,
)
from edgekit.profiler.energy.meter import Clock, Meter, Reading, Sleep
from edgekit.profiler.energy.recording import Recording, ThreadRecording, Trace
from edgekit.profiler.report import Energy, Joules

TARGET = 0.02
LEAST_EFFECTIVE = 50.0
LONGEST_S = 180.0
SETTLE_S = 1.0
MOST_FAILED = 0.01
MOST_LATE = 0.01

Call = Callable[[], object]
Record = Callable[[Meter, float], Recording]


@dataclass(frozen=True)
class Phases:
    """Where in the trace things happened: for plots, and for the report's samples.

    Attributes:
        before, window, after: idle, work, idle.
        starts_ns: of each inference in the window.
    """

    before: Span
    window: Span
    after: Span
    starts_ns: tuple[int, ...]


Keep = Callable[[Trace, Phases], str]


@dataclass(frozen=True)
class _Run:
    """Inferences over a span; `late` of them began after the next was due."""

    span: Span
    starts: array[int]
    late: int
    edges: tuple[Reading, ...]


def measure_energy(
    meter: Meter,
    call: Call,
    *,
    sync: Callable[[], None],
    clock: Clock = time.monotonic_ns,
    sleep: Sleep = time.sleep,
    rate_hz: float | None = None,
    idle_s: float = 10.0,
    window_s: float | None = None,
    keep: Keep | None = None,
    record: Record | None = None,
) -> Energy:
    """Energy of an inference, with its uncertainty at k = 2.

    The window is the shortest with a standard uncertainty of 2 % and 50 effective readings, by a pilot run, and never
    shorter than the meter allows. A window that turns out to be worthless is returned as not valid, with its reasons.

    Args:
        meter: that `find_meter` found.
        call: one inference, of the loaded and warmed-up model.
        sync: returns when the device has done all that was asked of it.
        clock: a monotonic one, nanoseconds.
        rate_hz: inferences a second that are asked for; back to back where None.
        idle_s: of each idle phase.
        window_s: instead of choosing.
        keep: gets the trace and its phases, and returns the name of the file that will hold it.
        record: starts a recording for so many seconds; a thread by default.

    Raises:
        MissingError: the meter gives no value, or stopped giving any.
        InconclusiveError: there are too few readings to say anything.
        UsageError: a rate, idle or window that is not positive.
    """
    _check(rate_hz, idle_s, window_s)
    meter.probe()
    sync()
    idle_s = max(idle_s, 10 * meter.period_s)
    pilot_s = max(2.0, meter.least_window_s / 5)
    room = 2 * idle_s + pilot_s + SETTLE_S + 2 * (window_s or LONGEST_S) + 60
    recording = (record or _thread(clock, sleep))(meter, room)
    try:
        margin = 8 * max(meter.period_s, meter.poll_s)
        sleep(margin)
        before = _idle(clock, sleep, idle_s)
        pilot = _run(meter, call, sync, clock, sleep, rate_hz, pilot_s)
        sleep(margin)
        seconds = window_s or _seconds(meter, recording.trace().joined(pilot.edges), pilot)
        run = _run(meter, call, sync, clock, sleep, rate_hz, seconds)
        sleep(SETTLE_S)
        after = _idle(clock, sleep, idle_s)
        sleep(margin)
        trace = recording.trace().joined(pilot.edges + run.edges)
    finally:
        recording.stop()
    meter.probe()  # a battery that charges by now was not alone in the window
    phases = Phases(before, run.span, after, tuple(run.starts))
    return _energy(meter, trace, phases, run.late, rate_hz, keep(trace, phases) if keep else None)


def assess(meter: Meter, trace: Trace, phases: Phases) -> tuple[Figures, Stretch, tuple[str, ...]]:
    """The figures of a trace, what its window is worth, and why it may not be used.

    Raises:
        InconclusiveError: there are no readings around a phase.
    """
    window = stretch_of(meter, trace, phases.window, phases.starts_ns)
    before, after = (stretch_of(meter, trace, one) for one in (phases.before, phases.after))
    reason = _locked(meter, window)
    reasons = [reason] if reason else []
    if window.widest_gap > MOST_GAP:
        reasons.append(f"the readings have a gap of {window.widest_gap:.0f} times their distance in the window")
    if window.effective < LEAST_EFFECTIVE:
        reasons.append(f"too few readings: worth {window.effective:.0f} of {LEAST_EFFECTIVE:.0f}")
    if window.seconds < 0.999 * meter.least_window_s:
        reasons.append(f"a window of {window.seconds:.1f} s: {meter.name} needs {meter.least_window_s:g} s")
    if trace.failures > MOST_FAILED * len(trace.values):
        reasons.append(f"{trace.failures} of {trace.failures + len(trace.values)} readings failed")
    return figures_of(meter, window, before, after), window, tuple(reasons)


def _energy(
    meter: Meter, trace: Trace, phases: Phases, late: int, rate_hz: float | None, samples: str | None
) -> Energy:
    figures, window, found = assess(meter, trace, phases)
    count = len(phases.starts_ns)
    fatal = list(found)
    if late > MOST_LATE * count:
        fatal.append(f"{late} of {count} inferences began after the next was due: {rate_hz:g} a second were not kept")
    notes = []
    if figures.idle_drift:
        notes.append("idle power differs before and after: what is above idle is that uncertain")
    if figures.total_j.u > TARGET * abs(figures.total_j.value):
        share = figures.total_j.u / abs(figures.total_j.value) if figures.total_j.value else math.inf
        notes.append(f"the standard uncertainty is {share:.1%}, above {TARGET:.0%}")
    return Energy(
        meter=meter.name,
        boundary=meter.boundary,
        period_ms=meter.period_s * 1e3,
        window_s=window.seconds,
        inferences=count,
        total=_joules(figures.total_j, count),
        above_idle=_joules(figures.above_idle_j, count),
        average_w=figures.average_w.value,
        average_uncertainty_w=COVERAGE * figures.average_w.u,
        idle_w=figures.idle_w.value,
        idle_drift=figures.idle_drift,
        rate_hz=rate_hz,
        per_second_j=figures.average_w.value,
        readings=window.readings,
        effective_readings=window.effective,
        valid=not fatal,
        reasons=(*fatal, *notes),
        samples=samples,
    )


def _locked(meter: Meter, window: Stretch) -> str | None:
    """Why nothing is valid where the sensor sees the same parts of every inference."""
    phases = window.phases
    if phases is None or not phases.locked:
        return None
    return (
        f"inferences every {phases.period_s * 1e3:.2f} ms keep step with the sensor's {meter.period_s * 1e3:.1f} ms: "
        f"{phases.unseen:.0%} of an inference is never seen; ask for another --rate"
    )


def _seconds(meter: Meter, trace: Trace, pilot: _Run) -> float:
    return seconds_needed(meter, stretch_of(meter, trace, pilot.span, pilot.starts), TARGET, LEAST_EFFECTIVE, LONGEST_S)


def _run(
    meter: Meter,
    call: Call,
    sync: Callable[[], None],
    clock: Clock,
    sleep: Sleep,
    rate_hz: float | None,
    seconds: float,
) -> _Run:
    """Inferences for at least so many seconds, and to the end of the last period where a rate is asked for."""
    starts: array[int] = array("q")
    sync()
    first = _edge(meter, clock)
    late = (
        _closed(call, clock, starts, seconds)
        if rate_hz is None
        else _open(call, clock, sleep, starts, rate_hz, seconds)
    )
    sync()
    last = _edge(meter, clock)
    edges = tuple(one for one in (first, last) if isinstance(one, Reading))
    return _Run(Span(_instant(first), _instant(last)), starts, late, edges)


def _closed(call: Call, clock: Clock, starts: array[int], seconds: float) -> int:
    now = clock()
    end = now + round(seconds * 1e9)
    while now < end:
        starts.append(now)
        call()
        now = clock()
    return 0


def _open(call: Call, clock: Clock, sleep: Sleep, starts: array[int], rate_hz: float, seconds: float) -> int:
    period = 1e9 / rate_hz
    origin = clock()
    late = 0
    count = math.ceil(seconds * rate_hz)
    for i in range(count):
        _until(origin + round(i * period), clock, sleep)
        now = clock()
        late += now > origin + (i + 1) * period
        starts.append(now)
        call()
    _until(origin + round(count * period), clock, sleep)
    return late


def _until(due_ns: int, clock: Clock, sleep: Sleep) -> None:
    left = due_ns - clock()
    if left > 0:
        sleep(left / 1e9)


def _idle(clock: Clock, sleep: Sleep, seconds: float) -> Span:
    start = clock()
    sleep(seconds)
    return Span(start, clock())


def _edge(meter: Meter, clock: Clock) -> Reading | int:
    """Now; with the counter's value where the meter is one. Power is read all the time anyway."""
    if meter.kind == "power":
        return clock()
    try:
        return meter.read(clock)
    except OSError as error:
        raise InconclusiveError(
            f"{meter.name} gave no value at the window's edge", why=str(error), fix="profile again"
        ) from error


def _instant(edge: Reading | int) -> int:
    return edge if isinstance(edge, int) else edge.before_ns + (edge.after_ns - edge.before_ns) // 2


def _joules(value: Value, count: int) -> Joules:
    return Joules(value.value / count * 1e3, COVERAGE * value.u / count * 1e3)


def _thread(clock: Clock, sleep: Sleep) -> Record:
    return lambda meter, seconds: ThreadRecording(meter, clock, sleep, seconds)


def _check(rate_hz: float | None, idle_s: float, window_s: float | None) -> None:
    for name, value in (("--rate", rate_hz), ("idle_s", idle_s), ("window_s", window_s)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is a positive number, not {value}", where=name)
