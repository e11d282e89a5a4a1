"""Measuring on a virtual board: order of the edges, window, rate, failures and refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import InconclusiveError, MissingError, UsageError
from edgekit.profiler.energy.integrate import power_trace
from edgekit.profiler.energy.measure import Phases, measure_energy
from edgekit.profiler.energy.rapl import open_rapl
from edgekit.profiler.energy.recording import Trace
from edgekit.profiler.report import Energy
from edgekit.profiles.loader import get
from edgekit.structure import decode, encode

sys.path.append(str(Path(__file__).parents[2] / "twins"))
from sensor import Board, Unit
from virtual import BackgroundRecording, MadeFiles, jetson_meter

EXACT = Unit(phase_s=0.0013)
TENTH_J = 0.0123 * 8.0  # of one call, above idle


def measure(board: Board, call: Callable[[], object] | None = None, **options: object) -> Energy:
    meter = jetson_meter(board)
    return measure_energy(
        meter,
        call or (lambda: board.work(0.0123, 8.0)),
        sync=board.sync,
        clock=board.clock,
        sleep=board.sleep,
        record=lambda one, seconds: BackgroundRecording(board, one, seconds),
        **options,  # type: ignore[arg-type]
    )


def test_back_to_back() -> None:
    energy = measure(Board(EXACT, idle_w=4.0))
    assert energy.valid, energy.reasons
    assert energy.meter == "ina3221 VDD_IN"
    assert energy.window_s == pytest.approx(10, rel=0.01)
    assert energy.total.value_mj == pytest.approx(0.0123 * 12.0 * 1e3, rel=0.01)
    assert energy.above_idle.value_mj == pytest.approx(TENTH_J * 1e3, rel=0.01)
    assert energy.average_w == pytest.approx(12.0, rel=0.01)
    assert energy.idle_w == pytest.approx(4.0, rel=0.02)
    assert energy.per_second_j == energy.average_w
    assert 0 < energy.total.uncertainty_mj < 0.03 * energy.total.value_mj
    assert energy.effective_readings >= 50
    assert decode(Energy, encode(energy), "energy") == energy


def test_at_a_rate_idle_time_counts() -> None:
    energy = measure(Board(EXACT, idle_w=4.0), rate_hz=17.0)
    assert energy.valid, energy.reasons
    assert energy.inferences == 170
    assert energy.total.value_mj == pytest.approx((4.0 / 17 + TENTH_J) * 1e3, rel=0.01)
    assert energy.per_second_j == pytest.approx(4.0 + 17 * TENTH_J, rel=0.01)


def test_a_rate_that_is_not_kept_is_not_valid() -> None:
    energy = measure(Board(EXACT, idle_w=4.0), rate_hz=100.0)
    assert not energy.valid
    assert "100 a second were not kept" in energy.reasons[0]


def test_queued_work_is_waited_for_before_the_window_ends_and_before_it_begins() -> None:
    """Calls return at once; the device works on for seconds."""
    board = Board(EXACT, idle_w=4.0)

    def call() -> None:
        board.enqueue(0.0246, 8.0)
        board.sleep(0.0123)

    energy = measure(board, call, window_s=10.0)
    assert energy.window_s == pytest.approx(20, rel=0.01)
    assert energy.above_idle.value_mj == pytest.approx(2 * TENTH_J * 1e3, rel=0.01)


def test_a_rate_in_step_with_the_sensor_is_not_valid() -> None:
    board = Board(EXACT, idle_w=4.0)
    energy = measure(board, lambda: board.work(0.003, 8.0), rate_hz=1 / 0.033)
    assert not energy.valid
    assert "keep step" in energy.reasons[0]


def test_the_window_follows_the_noise() -> None:
    """Inferences of random power: more readings are needed for the same uncertainty."""
    rng = np.random.default_rng(0)
    board = Board(EXACT, idle_w=1.0)
    energy = measure(board, lambda: board.work(0.2, float(rng.choice([0.5, 30.0]))))
    assert energy.window_s > 11


def test_a_window_below_the_meters_least_is_not_valid() -> None:
    energy = measure(Board(EXACT, idle_w=4.0), window_s=2.0)
    assert not energy.valid
    assert any("needs 10 s" in reason for reason in energy.reasons)


def test_single_failures_do_not_matter_and_many_do() -> None:
    assert measure(Board(replace(EXACT, failing=0.004), idle_w=4.0)).valid
    energy = measure(Board(replace(EXACT, failing=0.2), idle_w=4.0))
    assert not energy.valid
    assert any("readings failed" in reason for reason in energy.reasons)


def test_a_meter_that_dies_ends_the_measurement() -> None:
    board = Board(EXACT, idle_w=4.0)

    def call() -> None:
        board.work(0.0123, 8.0)
        if board.now_s > 20:
            board.unit = replace(EXACT, failing=1.0)

    with pytest.raises(MissingError, match="stopped giving values"):
        measure(board, call)


def test_a_stalled_reader_leaves_a_gap_that_is_not_valid() -> None:
    board = Board(EXACT, idle_w=4.0)
    stalled = []

    def call() -> None:
        board.work(0.0123, 8.0)
        if board.now_s > 22 and not stalled:
            stalled.append(True)
            board.reader_s += 0.5

    energy = measure(board, call)
    assert not energy.valid
    assert any("gap" in reason for reason in energy.reasons)


def test_trace_and_phases_are_handed_out() -> None:
    kept: list[tuple[Trace, Phases]] = []

    def keep(trace: Trace, phases: Phases) -> str:
        kept.append((trace, phases))
        return "energy.npy"

    energy = measure(Board(EXACT, idle_w=4.0), keep=keep)
    assert energy.samples == "energy.npy"
    trace, phases = kept[0]
    assert np.all(np.diff(trace.instants_ns) > 0)
    assert len(phases.starts_ns) == energy.inferences
    assert phases.before.end_ns < phases.window.start_ns < phases.window.end_ns < phases.after.start_ns


@pytest.mark.parametrize("options", [{"rate_hz": 0.0}, {"idle_s": -1.0}, {"window_s": float("nan")}])
def test_what_is_not_positive_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        measure(Board(EXACT, idle_w=4.0), **options)


def test_no_value_at_the_probe_is_refused() -> None:
    board = Board(EXACT, idle_w=4.0)
    meter = jetson_meter(board)
    board.text = lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error"))  # type: ignore[method-assign]
    with pytest.raises(MissingError, match="gives no value"):
        measure_energy(meter, lambda: None, sync=board.sync, clock=board.clock, sleep=board.sleep)


def counter(board: Board, range_uj: int, start_uj: int) -> MadeFiles:
    """RAPL's counter on the board's clock, in steps of a millisecond."""

    def value() -> str:
        whole_ms = int(board.clock() // 1_000_000)
        return str(int(start_uj + board.joules(whole_ms / 1e3) * 1e6) % range_uj)

    zone = "/sys/class/powercap/intel-rapl:0"
    return MadeFiles(
        {f"{zone}/name": "package-0", f"{zone}/energy_uj": value, f"{zone}/max_energy_range_uj": str(range_uj)}
    )


@pytest.mark.parametrize("start_uj", [0, 262_143_328_850 - 150_000_000])
def test_a_counter_through_its_wrap(start_uj: int) -> None:
    board = Board(EXACT, idle_w=4.0)
    meter = open_rapl(get("intel-n100").sensors[0], counter(board, 262_143_328_850, start_uj))
    kept: list[tuple[np.ndarray, np.ndarray]] = []

    def keep(trace: Trace, phases: Phases) -> str:
        kept.append(power_trace(meter, trace, phases.window.start_ns))
        return "watts.npy"

    energy = measure_energy(
        meter,
        lambda: board.work(0.0123, 8.0),
        sync=board.sync,
        clock=board.clock,
        sleep=board.sleep,
        keep=keep,
        record=lambda one, seconds: BackgroundRecording(board, one, seconds),
    )
    assert energy.valid, energy.reasons
    assert energy.total.value_mj == pytest.approx(0.0123 * 12.0 * 1e3, rel=0.002)
    assert energy.above_idle.value_mj == pytest.approx(TENTH_J * 1e3, rel=0.002)
    times, watts = kept[0]
    assert watts[(times > 0.1) & (times < energy.window_s - 0.1)] == pytest.approx(12.0, rel=0.25)
    assert watts[times < -5] == pytest.approx(4.0, rel=0.1)
    assert "5 %" in meter.accuracy.source
    assert any("uncertainty" in reason for reason in energy.reasons)  # 5 % assumed is above 2 %


def test_a_counter_that_fails_at_the_edge_is_inconclusive() -> None:
    board = Board(EXACT, idle_w=4.0)
    files = counter(board, 10**12, 0)
    meter = open_rapl(get("intel-n100").sensors[0], files)

    def call() -> None:
        board.work(0.5, 8.0)
        files.texts["/sys/class/powercap/intel-rapl:0/energy_uj"] = OSError(5, "Input/output error")

    with pytest.raises(InconclusiveError, match="edge"):
        measure_energy(
            meter,
            call,
            sync=board.sync,
            clock=board.clock,
            sleep=board.sleep,
            record=lambda one, seconds: BackgroundRecording(board, one, seconds),
        )
