"""A meter outside: its lines, its program, and its clock."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import InputError, MissingError
from edgekit.profiler.energy.external import (
    PULSES_S,
    Supply,
    align,
    correlate,
    open_device,
    open_program,
    parse_line,
)
from edgekit.profiler.energy.measure import measure_energy
from edgekit.profiler.energy.meter import Meter
from edgekit.profiler.energy.recording import Trace

SCRIPT = """
import sys, time
print("# time, volt, amp")
print("garbage")
while True:
    print(f"{time.monotonic_ns() + OFFSET},5.0,0.8", flush=True)
    time.sleep(0.002)
"""


def program(text: str = SCRIPT, offset_ns: int = 0) -> list[str]:
    return [sys.executable, "-c", text.replace("OFFSET", str(offset_ns))]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"12,5.0,2.0\n", (12, 10.0)),
        (b"12,5.0,-0.5\r\n", (12, -2.5)),
        (b"12,5.0\n", None),
        (b"12.5,5.0,1.0\n", None),
        (b"12,5.0,nan\n", None),
        (b"12,5,1,1\n", None),
        (b"\xff\n", None),
    ],
)
def test_lines(raw: bytes, found: tuple[int, float] | None) -> None:
    assert parse_line(raw) == found


def test_a_program_is_read_and_ended() -> None:
    meter = open_program(program(), Supply("the whole board", gain=0.005))
    try:
        assert meter.probe() == pytest.approx(4.0)
        assert 0.001 < meter.period_s < 0.02
        assert meter.accuracy.gain == pytest.approx(0.005 / np.sqrt(3))
        first, second = meter.read(time.monotonic_ns), meter.read(time.monotonic_ns)
        assert second.before_ns > first.before_ns
    finally:
        meter.close()
    with pytest.raises((OSError, ValueError)):
        meter.read(time.monotonic_ns)


def test_a_program_measures_a_window() -> None:
    meter = open_program(program())
    try:
        energy = measure_energy(
            meter, lambda: time.sleep(0.003), sync=lambda: None, idle_s=0.3, window_s=0.6, rate_hz=None
        )
    finally:
        meter.close()
    assert energy.average_w == pytest.approx(4.0, rel=0.01)
    assert any("needs 5 s" in reason for reason in energy.reasons)


def test_a_program_that_ends_or_is_not_there() -> None:
    meter = open_program(program("print('1,5.0,0.8')"))
    try:
        with pytest.raises(MissingError, match="gives no values") as caught:
            meter.probe()
        assert "stream ended" in str(caught.value)
    finally:
        meter.close()
    with pytest.raises(MissingError, match="does not start"):
        open_program(["/nowhere/meter"])


def test_a_program_that_says_something_else() -> None:
    meter = open_program(program("for _ in range(99): print('volts: 5')"))
    try:
        with pytest.raises(MissingError) as caught:
            meter.probe()
        assert "t_monotonic_ns,volt,amp" in str(caught.value)
    finally:
        meter.close()


def test_a_named_pipe_serves_as_a_serial_device(tmp_path: Path) -> None:
    path = tmp_path / "ttyACM0"
    path.write_bytes(b"".join(b"%d,5.0,1.0\n" % (i * 1_000_000) for i in range(60)))
    meter = open_device(path)
    assert meter.probe() == pytest.approx(5.0)
    assert meter.period_s == pytest.approx(1e-3)
    meter.close()
    with pytest.raises(MissingError, match="does not open"):
        open_device(tmp_path / "nowhere")
    assert os.path.exists(path)  # noqa: PTH110


class Bench:
    """A device whose load an external meter with another clock sees, on virtual time."""

    def __init__(self, offset_s: float, noise_w: float, rng: np.random.Generator) -> None:
        self.now_s, self.offset_s, self.noise_w, self.rng = 100.0, offset_s, noise_w, rng
        self.bursts: list[tuple[float, float]] = []

    def clock(self) -> int:
        return round(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def busy(self, seconds: float) -> None:
        self.bursts.append((self.now_s, self.now_s + seconds))
        self.now_s += seconds

    def trace(self) -> Trace:
        at = np.arange(100.0, self.now_s, 0.002)
        watts = 3.0 + self.rng.normal(0, self.noise_w, len(at))
        for start, end in self.bursts:
            watts += 4.0 * ((at >= start) & (at < end))
        stamps = np.round((at - self.offset_s) * 1e9).astype(np.int64)
        return Trace(stamps, stamps, watts)

    def stop(self) -> None:
        pass


@pytest.mark.parametrize("offset_s", [0.0, 0.4321, -37.25])
def test_clocks_are_aligned_by_a_pattern_of_load(offset_s: float, tmp_path: Path) -> None:
    bench = Bench(offset_s, noise_w=1.0, rng=np.random.default_rng(0))
    path = tmp_path / "meter"
    path.write_bytes(b"")
    meter = open_device(path)

    def record(_: Meter) -> Bench:
        return bench

    correlation = align(meter, record=record, clock=bench.clock, sleep=bench.sleep, busy=bench.busy)
    meter.close()
    assert correlation > 0.8
    assert meter.offset_ns / 1e9 == pytest.approx(offset_s, abs=0.003)
    assert meter.clock_u_s > 0
    assert "ms" in " ".join(meter.settings)


def test_a_pattern_that_is_not_there_is_refused() -> None:
    bench = Bench(0.0, 1.0, np.random.default_rng(0))
    bench.sleep(10)
    edges = np.round((102 + np.cumsum([0.0, *PULSES_S])) * 1e9).astype(np.int64)
    trace = bench.trace()
    with pytest.raises(MissingError, match="cannot be aligned"):
        correlate(trace.instants_ns, trace.values, edges)
    with pytest.raises(InputError, match="shorter"):
        correlate(trace.instants_ns[:50], trace.values[:50], edges)
