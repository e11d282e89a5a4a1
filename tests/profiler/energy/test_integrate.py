"""The integral, counters that wrap, what readings are worth, and gaps."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InconclusiveError
from edgekit.profiler.energy.integrate import (
    Span,
    figures_of,
    seconds_needed,
    stretch_of,
    trapezoid,
    unwrapped,
)
from edgekit.profiler.energy.measure import Phases, assess
from edgekit.profiler.energy.phases import phased
from edgekit.profiler.energy.recording import Trace

sys.path.append(str(Path(__file__).parents[2] / "twins"))
from sensor import Board, Unit
from virtual import jetson_meter


def trace_at(times_s: np.ndarray, values: np.ndarray) -> Trace:
    instants = np.round(times_s * 1e9).astype(np.int64)
    return Trace(instants, instants, values)


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(0.5, 20))
def test_a_trapezoid_is_exact_for_a_line_between_any_edges(seed: int, slope: float, level: float) -> None:
    rng = np.random.default_rng(seed)
    times = np.sort(np.r_[-0.5, rng.uniform(-0.4, 3, 40), 3.5])
    seconds = float(rng.uniform(0.01, 3))
    exact = level * seconds + slope * seconds**2 / 2
    assert trapezoid(times, level + slope * times, seconds) == pytest.approx(exact, rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(0, 90), min_size=2, max_size=60), st.floats(0, 100, exclude_max=True))
def test_a_counter_is_unwrapped(steps: list[float], start: float) -> None:
    """As long as it is read before it comes round."""
    true = start + np.cumsum([0.0, *steps])
    shown = np.mod(true, 100.0)
    assert np.allclose(np.diff(unwrapped(shown, 100.0)), np.diff(true), atol=1e-9)


def test_a_counter_without_a_wrap_is_left_alone() -> None:
    values = np.array([3.0, 2.0])
    assert unwrapped(values, None) is values


def test_a_drift_is_no_noise() -> None:
    meter = jetson_meter(Board(Unit(), 4.0))
    times = np.arange(-1, 11, 0.0066)
    noise = np.random.default_rng(0).normal(0, 0.1, len(times))
    span = Span(0, 10_000_000_000)
    flat, drift = (stretch_of(meter, trace_at(times, 5 + rise * times + noise), span) for rise in (0.0, 0.5))
    assert drift.noise_w == pytest.approx(flat.noise_w, rel=0.3)
    assert flat.noise_w == pytest.approx(0.1 / math.sqrt(flat.readings), rel=0.4)
    assert flat.effective > 800


def test_readings_that_depend_on_one_another_are_worth_less() -> None:
    meter = jetson_meter(Board(Unit(), 4.0))
    times = np.arange(-1, 11, 0.0066)
    rng = np.random.default_rng(0)
    series = np.zeros(len(times))
    for i in range(1, len(series)):
        series[i] = 0.95 * series[i - 1] + rng.normal()
    found = stretch_of(meter, trace_at(times, 50 + series), Span(0, 10_000_000_000))
    assert found.effective < 0.15 * found.readings


def test_quantisation_averages_out_only_where_noise_spreads_it() -> None:
    meter = jetson_meter(Board(Unit(), 4.0))
    meter.probe()
    times = np.arange(-1, 11, 0.0066)
    span = Span(0, 10_000_000_000)
    step = meter.accuracy.step_w
    still = stretch_of(meter, trace_at(times, np.full(len(times), 5.0)), span)
    assert still.noise_w == pytest.approx(step / math.sqrt(12))
    rng = np.random.default_rng(0)
    dithered = stretch_of(meter, trace_at(times, 5 + step * np.round(rng.normal(0, 2, len(times)))), span)
    assert dithered.noise_w < 0.3 * step


def test_readings_on_one_side_only_are_refused() -> None:
    meter = jetson_meter(Board(Unit(), 4.0))
    times = np.arange(0.5, 11, 0.0066)
    with pytest.raises(InconclusiveError, match="both sides"):
        stretch_of(meter, trace_at(times, np.full(len(times), 5.0)), Span(0, 10_000_000_000))


def test_a_gap_is_a_reason() -> None:
    meter = jetson_meter(Board(Unit(), 4.0))
    times = np.arange(-12, 24, 0.0066)
    span = [Span(-11 * 10**9, -(10**9)), Span(0, 10 * 10**9), Span(12 * 10**9, 22 * 10**9)]
    phases = Phases(span[0], span[1], span[2], ())
    whole = trace_at(times, 5 + np.random.default_rng(0).normal(0, 0.1, len(times)))
    assert not assess(meter, whole, phases)[2]
    left_out = (times < 5) | (times > 5.04)
    holed = trace_at(times[left_out], whole.values[left_out])
    assert "gap of 7 times" in assess(meter, holed, phases)[2][0]


def test_uncertainty_is_the_formulas() -> None:
    meter = jetson_meter(Board(Unit(), 4.0))
    meter.probe()
    accuracy, noise, edge = meter.accuracy, 0.01, meter.period_s / math.sqrt(12)
    times = np.arange(-1, 11, 0.0066)
    window = stretch_of(meter, trace_at(times, np.full(len(times), 10.0)), Span(0, 10_000_000_000))
    window = replace(window, noise_w=noise)
    before = replace(window, joules=40, mean_w=4.0)
    after = replace(before, joules=41, mean_w=4.1)
    found = figures_of(meter, window, before, after)
    idle = 4.05
    random2 = 10**2 * noise**2 + 2 * ((10 - idle) * edge) ** 2
    total2 = (accuracy.gain * 100) ** 2 + (accuracy.offset_w * 10) ** 2 + random2
    idle2 = (noise**2 + noise**2) / 4 + (0.05 / math.sqrt(3)) ** 2
    above2 = (accuracy.gain * (100 - idle * 10)) ** 2 + random2 + 10**2 * idle2
    assert found.total_j.u == pytest.approx(math.sqrt(total2), rel=1e-6)
    assert found.above_idle_j.value == pytest.approx(100 - idle * 10)
    assert found.above_idle_j.u == pytest.approx(math.sqrt(above2), rel=1e-6)
    assert not found.idle_drift
    assert figures_of(meter, window, before, replace(after, mean_w=4.3)).idle_drift


def test_the_window_is_the_shortest_that_serves() -> None:
    meter = jetson_meter(Board(Unit(), 4.0))
    meter.probe()
    times = np.arange(-1, 3, 0.0066)
    pilot = stretch_of(meter, trace_at(times, np.full(len(times), 10.0)), Span(0, 2_000_000_000))
    quiet = replace(pilot, noise_w=0.01, effective=300)
    assert seconds_needed(meter, quiet, 0.02, 50, 180) == meter.least_window_s
    fixed2 = meter.accuracy.gain**2 + (meter.accuracy.offset_w / 10) ** 2
    loud = replace(pilot, noise_w=1.0, effective=300)
    expected = 1.2 * (1.0 / 10) ** 2 * 2 / (0.02**2 - fixed2)
    assert seconds_needed(meter, loud, 0.02, 50, 180) == pytest.approx(expected)
    assert seconds_needed(meter, replace(quiet, effective=3), 0.02, 50, 180) == pytest.approx(1.2 * 50 / 3 * 2)
    assert seconds_needed(meter, replace(loud, noise_w=9.0), 0.02, 50, 180) == 180


def test_phases_say_nothing_of_inferences_within_one_reading() -> None:
    given_ns = (np.arange(200) * 6_600_000).astype(np.int64)
    starts = (np.arange(2000) * 660_000).astype(np.int64)
    assert phased(given_ns, np.ones(200), starts, int(starts[-1] + 660_000), 1.1e-3) is None
    assert phased(given_ns, np.ones(200), starts[:1], int(given_ns[-1]), 1.1e-3) is None


def test_few_readings_of_a_slow_inference_are_chance_not_a_lock() -> None:
    """A second each, 1,300 readings at random: a quarter of an inference is between them, and that is all right."""
    rng = np.random.default_rng(0)
    given_ns = np.sort(rng.integers(0, 10 * 10**9, 1300))
    starts = (np.arange(10) * 10**9).astype(np.int64)
    found = phased(given_ns, rng.normal(5, 1, 1300), starts, 10 * 10**9, 1.1e-3)
    assert found is not None
    assert found.unseen == pytest.approx(found.by_chance, rel=0.2)
    assert not found.locked
