"""Loops on a virtual clock: what is timed from when, when measuring stops, and a warm-up that never settles."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.profiler.latency import HALF_WIDTH, Plan, measure, quantile, summarise
from edgekit.profiler.loops import Laps, closed_loop, open_loop
from edgekit.profiler.quantiles import least_samples
from edgekit.profiler.steady import LEAST_SECONDS

sys.path.append(str(Path(__file__).parents[1] / "twins"))
from ticking import MS, Ticking, noise


def test_a_closed_loop_times_each_call_from_its_own_start() -> None:
    clock = Ticking()
    laps = closed_loop(clock.call(5, 7, 100, 5), 4, clock)
    assert laps.latency_ms.tolist() == [5, 7, 100, 5]
    assert laps.seconds.tolist() == pytest.approx([0, 0.005, 0.012, 0.112])
    assert laps.late == 0


def test_an_open_loop_counts_from_the_instant_that_a_call_was_due() -> None:
    """A stall of 100 ms at a call every 10 ms: eight more callers waited, and a closed loop would tell of one."""
    clock = Ticking()
    calls = [2.0] * 5 + [100.0] + [2.0] * 20
    laps = open_loop(clock.call(*calls), 100, len(calls), clock, clock.sleep)
    stalled = laps.latency_ms[5:].tolist()
    assert stalled[:13] == pytest.approx([100, 92, 84, 76, 68, 60, 52, 44, 36, 28, 20, 12, 4], abs=0.06)
    assert stalled[13:] == pytest.approx([2.0] * 8, abs=0.06)
    assert np.diff(laps.due_ns).tolist() == [10 * MS] * (len(calls) - 1)
    assert laps.late == 11
    clock = Ticking()
    closed = closed_loop(clock.call(*calls), len(calls), clock)
    assert np.sum(closed.latency_ms > 2) == 1 and np.sum(laps.latency_ms > 2.5) == 13


def test_an_open_loop_that_keeps_up_starts_each_call_when_it_is_due() -> None:
    clock = Ticking()
    laps = open_loop(clock.call(3), 50, 20, clock, clock.sleep)
    assert np.all(laps.start_ns >= laps.due_ns)
    assert np.max(laps.start_ns - laps.due_ns) <= 50_000  # awake for the last stretch: a look late
    assert all(seconds < 0.02 for seconds in clock.slept)
    assert laps.late == 0


def test_a_rate_above_what_the_model_does_makes_a_queue() -> None:
    clock = Ticking()
    laps = open_loop(clock.call(20), 100, 50, clock, clock.sleep)
    assert np.diff(laps.latency_ms) == pytest.approx(np.full(49, 10.0), abs=0.06)
    assert laps.late >= 48  # the second starts just before the third is due


def test_the_garbage_collector_is_off_inside_and_as_before_afterwards() -> None:
    seen = []
    closed_loop(lambda: seen.append(gc.isenabled()), 3)
    assert seen == [False] * 3 and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        closed_loop(lambda: 1 / 0, 3)
    assert gc.isenabled()


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=40), st.floats(1, 500))
def test_no_run_is_shorter_from_its_due_instant_than_from_its_start(times: list[float], rate: float) -> None:
    clock = Ticking()
    laps = open_loop(clock.call(*times), rate, len(times), clock, clock.sleep)
    own = (laps.end_ns - laps.start_ns) / MS
    assert np.all(laps.latency_ms >= own - 1e-9)
    assert np.all(np.diff(laps.start_ns) >= 0)


# --- measure ----------------------------------------------------------------------------------------------------------


def test_measuring_goes_on_until_the_quantile_has_a_bound_the_time_is_up_and_the_interval_is_narrow() -> None:
    clock = Ticking()
    found = measure(clock.call(*noise(5)), Plan(least_s=10), clock)
    laps = found.laps
    assert found.steady.steady and found.warmup_runs * 0.005 >= 0.9 * LEAST_SECONDS
    spent = (laps.end_ns[-1] - laps.start_ns[0]) / 1e9
    assert 10 <= spent <= 12
    median = summarise([found], Plan(), 1, "latency_ms.npy").median_ms
    assert median.low is not None and median.high is not None
    assert median.high - median.low <= 2 * HALF_WIDTH * median.value


def test_a_slow_model_is_measured_until_its_p99_has_a_bound() -> None:
    clock = Ticking()
    found = measure(clock.call(*noise(100)), Plan(least_s=10, most_s=60), clock)
    assert least_samples(0.99) <= len(found.laps.start_ns) <= least_samples(0.99) + 20


def test_the_cap_ends_it_and_the_p99_is_then_left_out() -> None:
    clock = Ticking()
    found = measure(clock.call(*noise(500)), Plan(most_s=20), clock)
    assert len(found.laps.start_ns) == pytest.approx(40, abs=4)
    p99 = next(each for each in summarise([found], Plan(), 1, "x").quantiles if each.q == 0.99)
    assert p99.value_ms is p99.upper_ms is None
    assert p99.reason == f"{len(found.laps.start_ns)} < 299"


def test_so_many_runs_as_were_asked_for() -> None:
    clock = Ticking()
    assert len(measure(clock.call(*noise(5)), Plan(runs=98), clock).laps.start_ns) == 98


def test_a_warm_up_that_never_settles_is_capped_and_told() -> None:
    clock = Ticking()
    rising = clock.call(*(5 * 1.0005 ** np.arange(20_000)))
    found = measure(rising, Plan(runs=400, warmup_s=8), clock)
    assert not found.steady.steady and found.steady.reason is not None
    assert 8 <= found.laps.start_ns[0] / 1e9 <= 10
    latency = summarise([found], Plan(runs=400), 1, "x")
    assert (latency.steady, latency.steady_reason) == (False, found.steady.reason)


def test_a_slow_start_is_warmed_away() -> None:
    clock = Ticking()
    found = measure(clock.call(400, 200, 100, 50, *noise(5)), Plan(runs=1000), clock)
    assert found.steady.steady and found.laps.latency_ms.max() < 6


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="above 0"):
        Plan(rate_hz=rate)


def test_no_runs_are_refused() -> None:
    with pytest.raises(UsageError, match="no run"):
        Plan(runs=0)


# --- summarise --------------------------------------------------------------------------------------------------------


def test_figures_of_an_open_loop_hold_the_wait_and_count_the_late() -> None:
    clock = Ticking()
    plan = Plan(rate_hz=100, runs=1000)
    laps = open_loop(clock.call(*[4.0] * 499, 60.0, *[4.0] * 500), 100, 1000, clock, clock.sleep)
    settled = measure(clock.call(5), Plan(runs=1), clock).steady
    from edgekit.profiler.latency import Measured

    found = summarise([Measured(laps, 10, settled)], plan, 1, "x")
    assert (found.mode, found.rate_hz, found.runs, found.late) == ("open", 100, 1000, laps.late)
    assert found.max_ms == pytest.approx(60, abs=0.06) and found.min_ms == pytest.approx(4, abs=0.06)
    assert found.late > 0


def test_one_process_that_is_not_steady_makes_the_whole_so() -> None:
    clock = Ticking()
    good = measure(clock.call(*noise(5)), Plan(runs=400), clock)
    bad = measure(clock.call(*(5 * 1.0005 ** np.arange(20_000))), Plan(runs=400, warmup_s=3), clock)
    found = summarise([good, bad], Plan(runs=400), 1, "x")
    assert (found.processes, found.runs, found.steady) == (2, 800, False)
    assert found.steady_reason == bad.steady.reason


def test_a_quantile_is_between_its_bounds() -> None:
    ordered = np.sort(noise(5, count=2000))
    for q in (0.5, 0.9, 0.99):
        one = quantile(ordered, q)
        assert one.lower_ms is not None and one.upper_ms is not None and one.value_ms is not None
        assert one.lower_ms <= one.value_ms <= one.upper_ms
    assert quantile(ordered, 0.999).reason == "2000 < 2995"


def test_laps_are_joined_in_order() -> None:
    first, second = (Laps(*(np.array([i], np.int64) for _ in range(3))) for i in (1, 2))
    assert first.joined(second).end_ns.tolist() == [1, 2]
