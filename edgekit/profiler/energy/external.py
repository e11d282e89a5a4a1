"""A meter outside the device, as lines `t_monotonic_ns,volt,amp` from a program or a serial device.

What a driver of a USB meter has to do is print such lines. Where it runs on the profiled machine and stamps with
CLOCK_MONOTONIC, the clocks are one; a stamp of another clock is aligned by a known pattern of load (`align`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError, MissingError
from edgekit.profiler.energy.meter import Accuracy, Clock, Kind, Meter, Reading, Sleep, rectangular
from edgekit.profiler.energy.recording import Recording

Floats = npt.NDArray[np.float64]

LEAST_WINDOW_S = 5.0
PROBE_LINES = 50
MOST_BAD = 20
GRID_S = 1e-3
PULSES_S = (0.20, 0.35, 0.20, 0.15, 0.30, 0.55, 0.20, 0.25, 0.15, 0.40, 0.25, 0.20)
"""Busy and idle in turn: no two neighbours alike, so that the pattern fits at one lag only."""
LEAST_CORRELATION = 0.6
MOST_SECOND = 0.9


@dataclass(frozen=True)
class Supply:
    """What the user knows of the meter.

    Attributes:
        boundary: where it sits, such as `the whole board, at its 19 V plug`.
        gain: limit of its error as a fraction; offset_w: limit, watts; of its data sheet.
        step_w: resolution.
    """

    boundary: str = "what the external meter feeds"
    gain: float = 0.01
    offset_w: float = 0.0
    step_w: float = 0.0
    source: str = "stated by the user; 1 % of gain where nothing was"


class External:
    """A stream of lines; `offset_ns` is added to its stamps to get this machine's clock.

    Args:
        stream: gives lines; closed by `close`.
        name: of the program or device.
    """

    kind: Kind = "power"
    aperture_s = 0.0
    poll_s = 0.0
    least_window_s = LEAST_WINDOW_S
    wraps_at_j = None

    def __init__(self, name: str, stream: IO[bytes], supply: Supply, close: Callable[[], None]) -> None:
        self._stream, self._close = stream, close
        self._bad, self._last_ns = 0, -1
        self.offset_ns, self.clock_u_s = 0, 0.0
        self.name = f"external {name}"
        self.boundary = supply.boundary
        self.accuracy = Accuracy(rectangular(supply.gain), rectangular(supply.offset_w), supply.step_w, supply.source)
        self.period_s = 0.0

    @property
    def settings(self) -> Mapping[str, str]:
        """How the clocks stand to each other."""
        return {"clock_offset_ms": f"{self.offset_ns / 1e6:.3f}", "clock_offset_u_ms": f"{self.clock_u_s * 1e3:.3f}"}

    def probe(self) -> float:
        """Watts, after enough lines to know the period; see `Meter.probe`."""
        try:
            lines = [self._line() for _ in range(PROBE_LINES)]
        except OSError as error:
            raise MissingError(
                f"{self.name} gives no values",
                where=self.name,
                why=str(error),
                fix="it has to print lines `t_monotonic_ns,volt,amp`, flushed, at least once a second",
            ) from error
        self.period_s = max(1e-6, float(np.median(np.diff([at for at, _ in lines]))) / 1e9)
        self.poll_s = self.period_s / 2
        return lines[-1][1]

    def read(self, clock: Clock) -> Reading:  # noqa: ARG002 - the meter has a clock of its own
        """Watts, at the instant that the meter stamped; waits for the next line."""
        at, watts = self._line()
        return Reading(at + self.offset_ns, at + self.offset_ns, watts)

    def close(self) -> None:
        """Ends the program or closes the device."""
        self._close()

    def _line(self) -> tuple[int, float]:
        while True:
            raw = self._stream.readline()
            if not raw:
                raise OSError("the stream ended")
            if raw.startswith(b"#") or not raw.strip():
                continue
            found = parse_line(raw)
            if found is not None and found[0] > self._last_ns:
                self._last_ns = found[0]
                return found
            self._bad += 1
            if self._bad > MOST_BAD:
                raise OSError(
                    f"{self._bad} lines are no `t_monotonic_ns,volt,amp` in order of time, such as {raw[:60]!r}"
                )


def parse_line(raw: bytes) -> tuple[int, float] | None:
    """Instant and watts; None for a line that is neither."""
    parts = raw.strip().split(b",")
    try:
        at, volt, amp = int(parts[0]), float(parts[1]), float(parts[2])
    except (ValueError, IndexError):
        return None
    watts = volt * amp
    return (at, watts) if len(parts) == 3 and np.isfinite(watts) else None


def open_program(command: Sequence[str], supply: Supply | None = None) -> External:
    """Start a program that prints the lines; `close` ends it.

    Raises:
        MissingError: it cannot be started.
    """
    try:
        # The user's own command, on the user's own machine.
        process = subprocess.Popen(list(command), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)  # noqa: S603
    except OSError as error:
        raise MissingError("the meter's program does not start", where=" ".join(command), why=str(error)) from error
    assert process.stdout is not None
    stream = process.stdout

    def close() -> None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        stream.close()

    return External(Path(command[0]).name, stream, supply or Supply(), close)


def open_device(path: Path, supply: Supply | None = None) -> External:
    """Open a serial device or named pipe whose line settings are made (`stty`).

    Raises:
        MissingError: it cannot be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise MissingError("the meter's device does not open", where=str(path), why=str(error)) from error
    return External(path.name, stream, supply or Supply(), stream.close)


def align(
    meter: External, *, record: Callable[[Meter], Recording], clock: Clock, sleep: Sleep, busy: Callable[[float], None]
) -> float:
    """Find the offset of the meter's clock by a pattern of load, and set it; returns the correlation.

    Args:
        record: starts a recording.
        busy: loads the device for so many seconds, and returns then.

    Raises:
        MissingError: the pattern is not in the meter's stream, or in two places.
    """
    recording = record(meter)
    sleep(1.0)
    edges = []
    for i, seconds in enumerate(PULSES_S):
        edges.append(clock())
        (busy if i % 2 == 0 else sleep)(seconds)
    edges.append(clock())
    sleep(1.0)
    trace = recording.trace()
    recording.stop()
    found = correlate(trace.instants_ns, trace.values, np.asarray(edges, np.int64))
    meter.offset_ns += found.offset_ns
    meter.clock_u_s = max(GRID_S, meter.period_s) / np.sqrt(12)
    return found.correlation


@dataclass(frozen=True)
class Alignment:
    """Nanoseconds to add to the stream's stamps, and how well the pattern fits there, at most 1."""

    offset_ns: int
    correlation: float


def correlate(instants_ns: npt.NDArray[np.int64], watts: Floats, edges_ns: npt.NDArray[np.int64]) -> Alignment:
    """Where in a trace the pattern lies: the lag of the largest normalised cross-correlation.

    Args:
        instants_ns, watts: (n,), by the meter's clock.
        edges_ns: busy begins at even ones and ends at odd ones, by this machine's clock.

    Raises:
        MissingError: it is not there, or in two places.
        InputError: the trace is shorter than the pattern.
    """
    origin = int(instants_ns[0])
    times = (instants_ns - origin) / 1e9
    pattern_s = (edges_ns - edges_ns[0]) / 1e9
    if times[-1] < pattern_s[-1]:
        raise InputError("the meter's trace is shorter than the pattern of load", why=f"{times[-1]:.1f} s")
    grid = np.interp(np.arange(0, times[-1], GRID_S), times, watts)
    inside = np.searchsorted(pattern_s, np.arange(0, pattern_s[-1], GRID_S), side="right") - 1
    pattern = np.where(inside % 2 == 0, 1.0, 0.0)
    scores = _normalised(grid, pattern - pattern.mean())
    best = int(np.argmax(scores))
    elsewhere = scores.copy()
    reach = round(0.1 / GRID_S)
    elsewhere[max(0, best - reach) : best + reach + 1] = -1
    if scores[best] < LEAST_CORRELATION or elsewhere.max() > MOST_SECOND * scores[best]:
        raise MissingError(
            "the clocks of the meter and of this machine cannot be aligned",
            why=f"the pattern of load fits with {scores[best]:.2f} at best, and with {elsewhere.max():.2f} elsewhere",
            fix="let the program stamp its lines with CLOCK_MONOTONIC of this machine, or quieten the machine",
        )
    return Alignment(round(edges_ns[0] - (origin + _peak(scores, best) * GRID_S * 1e9)), float(scores[best]))


def _normalised(grid: Floats, pattern: Floats) -> Floats:
    """Pearson's correlation at each lag, by the Fourier transform."""
    n, m = len(grid), len(pattern)
    size = 1 << (n + m).bit_length()
    centred = grid - grid.mean()
    product = np.fft.irfft(np.fft.rfft(centred, size) * np.conj(np.fft.rfft(pattern, size)), size)[: n - m + 1]
    sums, squares = np.cumsum(np.r_[0.0, centred]), np.cumsum(np.r_[0.0, centred**2])
    variance = (squares[m:] - squares[:-m]) - (sums[m:] - sums[:-m]) ** 2 / m
    floor = 1e-12 * max(1.0, float(np.sum(centred**2)))
    return np.asarray(product / np.sqrt(np.maximum(variance, floor) * np.sum(pattern**2)))


def _peak(scores: Floats, best: int) -> float:
    """The top of the parabola through the highest score and its neighbours."""
    if not 0 < best < len(scores) - 1:
        return float(best)
    left, top, right = (float(score) for score in scores[best - 1 : best + 2])
    bend = left - 2 * top + right
    return best + (0.5 * (left - right) / bend if bend < 0 else 0.0)
