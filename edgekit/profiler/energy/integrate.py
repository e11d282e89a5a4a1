"""From readings to joules with an uncertainty.

For readings of power a trapezoid on midpoints, with the power at the edges between the readings beside them; for a
counter the difference at the edges. Uncertainties are combined by the law of propagation (JCGM 100:2008, 5.1.2):

    u(E)^2 = (g E)^2 + (o T)^2 + T^2 n^2 + 2 (dP dt)^2

with gain g and offset o of the meter, dP what the load adds to idle, dt the uncertain instant of an edge, and n the
standard uncertainty of the mean power, of noise and quantisation. Above idle, offsets cancel and (T u(P_idle))^2 joins.
What is stated is 2 u.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgekit.errors import InconclusiveError
from edgekit.profiler.energy.meter import Meter, rectangular
from edgekit.profiler.energy.phases import Phased, phased
from edgekit.profiler.energy.recording import Trace

Floats = npt.NDArray[np.float64]

COVERAGE = 2.0
MOST_GAP = 5.0
BATCHES = 40
LEAST_IN_BATCH = 8
DRIFT_SHARE, DRIFT_W = 0.05, 0.2


@dataclass(frozen=True)
class Span:
    """A stretch of time, nanoseconds of the trace's clock."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class Stretch:
    """What the readings say of a span.

    Attributes:
        joules, mean_w: over it.
        noise_w: standard uncertainty of the mean, from noise and quantisation alone.
        readings, effective: values in it, and what they are worth.
        widest_gap: between two readings, in medians of all such.
        phases: of the readings in the inferences, where there are enough of both.
    """

    seconds: float
    joules: float
    mean_w: float
    noise_w: float
    readings: int
    effective: float
    widest_gap: float
    phases: Phased | None = None


@dataclass(frozen=True)
class Value:
    """A value with its standard uncertainty, k = 1."""

    value: float
    u: float


@dataclass(frozen=True)
class Figures:
    """Of one window: totals, what is above idle, and the powers; joules and watts."""

    total_j: Value
    above_idle_j: Value
    average_w: Value
    idle_w: Value
    idle_drift: bool


def stretch_of(meter: Meter, trace: Trace, span: Span, starts_ns: Sequence[int] = ()) -> Stretch:
    """The energy of a span and what the readings in it are worth.

    Args:
        starts_ns: of the inferences in it.

    Raises:
        InconclusiveError: there are no readings around it.
    """
    instants = trace.instants_ns
    if len(instants) < 4 or instants[0] > span.start_ns or instants[-1] < span.end_ns:
        raise InconclusiveError(
            f"{meter.name} has no readings on both sides of the window",
            why=f"{len(instants)} readings, one every {meter.period_s:g} s",
            fix="profile longer, or use a faster meter",
        )
    times = (instants - span.start_ns) / 1e9
    if meter.kind == "counter":
        return _counted(meter, times, trace.values, span.seconds)
    plain = _integrated(meter, times, trace.values, span.seconds)
    inside = (times >= 2 * meter.period_s) & (times <= span.seconds)  # what came before has left the sensor
    starts = np.asarray(starts_ns, np.int64)
    return _weighted(
        meter, plain, phased(trace.after_ns[inside], trace.values[inside], starts, span.end_ns, meter.aperture_s)
    )


def unwrapped(values: Floats, wraps_at: float | None) -> Floats:
    """A counter's values without its wraps: a fall is a wrap, because it is read many times between two."""
    if wraps_at is None:
        return values
    wraps = np.cumsum(np.r_[0.0, np.where(np.diff(values) < 0, wraps_at, 0.0)])
    return np.asarray(values + wraps)


def power_trace(meter: Meter, trace: Trace, zero_ns: int) -> tuple[Floats, Floats]:
    """What to plot: (m,) seconds since `zero_ns`, and (m,) watts; of a counter the slope between readings."""
    times = (trace.instants_ns - zero_ns) / 1e9
    if meter.kind == "power":
        return times, trace.values
    seconds = np.diff(times)
    apart = seconds > 0
    watts = np.diff(unwrapped(trace.values, meter.wraps_at_j))[apart] / seconds[apart]
    return (times[1:] + times[:-1])[apart] / 2, watts


def trapezoid(times: Floats, watts: Floats, seconds: float) -> float:
    """Joules from 0 to `seconds`; the power at either end lies on the line between the readings beside it."""
    inside = (times > 0) & (times < seconds)
    edges = np.interp([0.0, seconds], times, watts)
    t = np.r_[0.0, times[inside], seconds]
    p = np.r_[edges[0], watts[inside], edges[1]]
    return float(np.sum((p[1:] + p[:-1]) / 2 * np.diff(t)))


def figures_of(meter: Meter, window: Stretch, before: Stretch, after: Stretch) -> Figures:
    """The window against the idle phases around it; what no reading saw may have had any power that was seen."""
    accuracy, seconds = meter.accuracy, window.seconds
    unseen_w = rectangular(window.phases.unseen * window.phases.swing_w) if window.phases else 0.0
    idle = (before.mean_w + after.mean_w) / 2
    drift = abs(before.mean_w - after.mean_w)
    # Idle power lies between its values before and after; each has noise of its own.
    idle_u = math.hypot(before.noise_w, after.noise_w) / 2
    drift_u = drift / 2 / math.sqrt(3)
    edge = math.sqrt(2) * (window.mean_w - idle) * _edge_s(meter)
    if meter.kind == "counter":
        edge = 0.0  # it is in `noise_w`: at an edge a counter lags by a part of its period
    random = math.hypot(seconds * window.noise_w, edge, seconds * unseen_w)
    total_u = math.hypot(accuracy.gain * window.joules, accuracy.offset_w * seconds, random)
    above = window.joules - idle * seconds
    above_u = math.hypot(accuracy.gain * above, random, seconds * math.hypot(idle_u, drift_u))
    return Figures(
        Value(window.joules, total_u),
        Value(above, above_u),
        Value(window.mean_w, total_u / seconds),
        Value(idle, math.hypot(idle_u, drift_u, accuracy.gain * idle, accuracy.offset_w)),
        drift > DRIFT_SHARE * abs(idle) or drift > DRIFT_W,
    )


def seconds_needed(meter: Meter, pilot: Stretch, target: float, least_effective: float, most_s: float) -> float:
    """The shortest window with u(E)/E at `target` and enough effective readings, from a shorter one.

    Where gain and offset alone are above the target, waiting does not help: the window is then long enough for the
    rest to add a tenth.

    Returns:
        seconds, between the meter's least window and `most_s`.
    """
    fixed = math.hypot(meter.accuracy.gain, meter.accuracy.offset_w / max(pilot.mean_w, 1e-9))
    allowed = max(target**2 - fixed**2, (0.45 * fixed) ** 2)
    random = (pilot.noise_w / max(pilot.mean_w, 1e-9)) ** 2 * pilot.seconds  # falls with 1 / T
    by_noise = random / allowed if allowed > 0 else 0.0
    by_readings = least_effective * pilot.seconds / max(pilot.effective, 1e-9)
    return min(most_s, max(meter.least_window_s, 1.2 * max(by_noise, by_readings)))


def _integrated(meter: Meter, times: Floats, watts: Floats, seconds: float) -> Stretch:
    joules = trapezoid(times, watts, seconds)
    first = max(0, int(np.searchsorted(times, 0.0)) - 1)
    last = min(len(times), int(np.searchsorted(times, seconds)) + 1)
    gaps = np.diff(times[first:last])
    inside = watts[(times >= 0) & (times <= seconds)]
    noise, effective = _noise(inside, meter.accuracy.step_w, seconds / max(meter.period_s, 1e-9))
    median = float(np.median(gaps)) if len(gaps) else math.inf
    return Stretch(
        seconds,
        joules,
        joules / seconds,
        noise,
        len(inside),
        effective,
        float(gaps.max()) / median if len(gaps) else 0.0,
    )


def _weighted(meter: Meter, plain: Stretch, phases: Phased | None) -> Stretch:
    """With every part of an inference counted for as long as it lasts, however often it was seen."""
    if phases is None:
        return plain
    mean = phases.mean_w
    swing = phases.swing_w >= meter.accuracy.step_w
    noise = math.hypot(phases.noise_w, meter.accuracy.step_w / math.sqrt(12 * (plain.effective if swing else 1)))
    return replace(plain, joules=mean * plain.seconds, mean_w=mean, noise_w=noise, phases=phases)


def _counted(meter: Meter, times: Floats, values: Floats, seconds: float) -> Stretch:
    joules = unwrapped(values, meter.wraps_at_j)
    start, end = np.interp([0.0, seconds], times, joules)
    power = float(end - start) / seconds
    # Each edge lies somewhere between two updates of the counter.
    noise = math.sqrt(2) * power * meter.period_s / math.sqrt(12) / seconds
    inside = (times >= 0) & (times <= seconds)
    first, last = max(0, int(np.argmax(times >= 0)) - 1), int(np.searchsorted(times, seconds)) + 1
    gaps = np.diff(times[first:last])
    widest = float(gaps.max() / np.median(gaps)) if len(gaps) else 0.0
    return Stretch(seconds, float(end - start), power, noise, int(inside.sum()), seconds / meter.period_s, widest)


def _noise(watts: Floats, step_w: float, most: float) -> tuple[float, float]:
    """The standard uncertainty of the mean, and how many independent readings it is worth.

    The long-run variance is that of means of neighbouring readings, from their successive differences (J. von Neumann
    et al., Ann. Math. Stat. 12, 1941): a slow drift is signal, and is not in it.

    Args:
        watts: readings in order.
        step_w: of quantisation, which averages out only where noise spreads readings over several steps.
        most: values that the meter itself had in that time.
    """
    n = len(watts)
    if n < 2 * LEAST_IN_BATCH:
        spread = float(np.std(watts)) if n > 1 else 0.0
        return math.hypot(spread / math.sqrt(max(1.0, min(n, most))), step_w / math.sqrt(12)), float(min(n, most))
    line = np.polynomial.polynomial.polyfit(np.arange(n), watts, 1)
    rest = watts - np.polynomial.polynomial.polyval(np.arange(n), line)
    batches = max(2, min(BATCHES, n // LEAST_IN_BATCH, int(most // 2)))  # longer than a held value
    size = n // batches
    means = rest[n - batches * size :].reshape(batches, size).mean(axis=1)
    of_mean = float(np.mean(np.diff(means) ** 2)) / 2 / batches
    spread2 = float(np.mean(rest**2))
    effective = min(float(n), most, spread2 / of_mean if of_mean > 0 else float(n))
    averaged = effective if math.sqrt(spread2) >= step_w else 1.0
    return math.sqrt(of_mean + step_w**2 / 12 / averaged), effective


def _edge_s(meter: Meter) -> float:
    """A reading stands for some instant of its period: deviation of an even spread over it, and of the clocks."""
    return math.hypot(meter.period_s / math.sqrt(12), meter.clock_u_s)
