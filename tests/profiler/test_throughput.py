"""Several streams at once, and the highest rate that holds a p99: on virtual clocks, and once in real threads."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.profiler.rates import Search, highest_rate, judge_rate
from edgekit.profiler.throughput import BLOCKS, Lane, summarise, threads_a_stream, throughput

sys.path.append(str(Path(__file__).parents[1] / "twins"))
from ticking import MS, Ticking, noise

QUICK = Search(probe_s=3, most_probe_s=20)


def lane(each_ms: np.ndarray | list[float], began_ms: float = 0) -> Lane:
    return Lane(round(began_ms * MS), round(began_ms * MS) + np.cumsum(np.asarray(each_ms) * MS).astype(np.int64))


# --- throughput -------------------------------------------------------------------------------------------------------


def test_streams_add_up_and_a_batch_counts_each_input() -> None:
    one = summarise([lane([10.0] * 500)], 1)
    assert one.per_second.value == pytest.approx(100) and one.latency_p50_ms == pytest.approx(10)
    four = summarise([lane([10.0] * 500), lane([20.0] * 250)], 4, threads=2)
    assert four.per_second.value == pytest.approx(600)
    assert (four.batch, four.streams, four.threads) == (4, 2, 2)


def test_only_the_time_in_which_all_were_at_work_counts() -> None:
    early, late = lane([10.0] * 300), lane([10.0] * 200, began_ms=1000)
    assert summarise([early, late], 1).per_second.value == pytest.approx(200)


def test_the_interval_covers_the_rate() -> None:
    covered = []
    for seed in range(200):
        found = summarise([lane(noise(5, 0.3, 2000, seed)) for seed in (2 * seed, 2 * seed + 1)], 1).per_second
        assert found.low is not None and found.high is not None and found.low <= found.value <= found.high
        truth = 2 / (noise(5, 0.3, 200_000, 9999).mean() / 1e3)
        covered.append(found.low <= truth <= found.high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_too_few_runs_have_no_interval_and_say_so() -> None:
    found = summarise([lane([100.0] * 30)], 1).per_second
    assert found.value == pytest.approx(10)
    assert (found.low, found.high, found.reason) == (None, None, f"n/a (30 < {5 * BLOCKS} runs)")


def test_each_stream_runs_in_a_thread_of_its_own_after_its_own_warm_up() -> None:
    threads: list[set[int]] = [set(), set()]
    counts = [0, 0]

    def call(index: int) -> None:
        threads[index].add(threading.get_ident())
        counts[index] += 1
        time.sleep(0.001)

    found = throughput([lambda: call(0), lambda: call(1)], seconds=0.3, warmup_s=0.1)
    assert [len(each) for each in threads] == [1, 1] and threads[0] != threads[1]
    assert found.streams == 2 and found.per_second.value > 0
    assert min(counts) > 0 and sum(counts) > found.per_second.value * 0.2


def test_an_error_in_one_stream_stops_all_and_is_the_one_that_is_told() -> None:
    def bad() -> None:
        raise InputError("this stream cannot")

    with pytest.raises(InputError, match="this stream cannot"):
        throughput([lambda: time.sleep(0.001), bad, lambda: time.sleep(0.001)], seconds=30, warmup_s=0)


@pytest.mark.parametrize(("calls", "batch", "seconds"), [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0), (1, 1, float("nan"))])
def test_nothing_to_run_is_refused(calls: int, batch: int, seconds: float) -> None:
    with pytest.raises(UsageError, match="nothing runs"):
        throughput([lambda: None] * calls, batch, seconds=seconds)


@pytest.mark.parametrize(
    ("asked", "streams", "cores", "got"), [(None, 1, 8, None), (None, 2, 8, 4), (None, 8, 2, 1), (3, 2, 8, 3)]
)
def test_the_cores_are_shared_out_where_nobody_says(
    asked: int | None, streams: int, cores: int, got: int | None
) -> None:
    assert threads_a_stream(asked, streams, cores) == got


# --- the highest rate -------------------------------------------------------------------------------------------------


def test_a_constant_service_holds_nearly_up_to_what_it_can_do() -> None:
    """10 ms each, without noise: no queue below 100 a second, so every rate below it keeps 12 ms."""
    clock = Ticking()
    found = highest_rate(clock.call(10), 12, QUICK, clock=clock, sleep=clock.sleep)
    assert found.most_hz == pytest.approx(100)
    assert found.rate_hz is not None and 97 <= found.rate_hz < 100
    assert found.upper_ms == pytest.approx(10, abs=0.11)  # woken a look late
    assert found.reason is None


def test_what_queues_at_higher_rates_lowers_the_rate_that_holds() -> None:
    """Two calls of 14 ms, six of 1 ms: due every T, the second ends after 28 - T, at most 20 from T = 8 on, 125 Hz."""
    clock = Ticking()
    calls = [14.0, 14.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0] * 9000
    found = highest_rate(clock.call(*calls), 20, QUICK, clock=clock, sleep=clock.sleep)
    assert found.most_hz == pytest.approx(1000 / 4.25, rel=0.02)
    assert found.rate_hz is not None and found.exceeded_hz is not None
    assert 118 < found.rate_hz < 125.5 and found.rate_hz < found.exceeded_hz < 132
    assert found.upper_ms is not None and found.upper_ms <= 20
    assert (found.reason, found.confidence) == (None, 0.95)


def test_a_budget_below_a_single_run_is_held_by_no_rate() -> None:
    clock = Ticking()
    found = highest_rate(clock.call(10), 8, QUICK, clock=clock, sleep=clock.sleep)
    assert found.rate_hz is found.upper_ms is None
    assert found.exceeded_hz is not None and found.exceeded_hz < 7
    assert found.reason is not None and "no rate" in found.reason


def test_a_model_too_slow_for_a_bound_stays_undecided() -> None:
    clock = Ticking()
    found = highest_rate(clock.call(1000), 5000, QUICK, clock=clock, sleep=clock.sleep)
    assert found.rate_hz is None and found.exceeded_hz is None
    assert found.reason is not None and "undecided" in found.reason


def test_a_probe_is_decided_by_bounds_only() -> None:
    good, bad = noise(5, count=1000), noise(50, count=1000)
    assert judge_rate(good, 10, 1).outcome == "holds"
    assert judge_rate(bad, 10, 1).outcome == "exceeds"
    some = good.copy()
    some[::100] = 50.0  # exactly 1 % over: neither can be shown
    assert judge_rate(some, 10, 1).outcome == "undecided"
    assert judge_rate(good[:200], 10, 1).outcome == "undecided"
    queue = np.linspace(5, 500, 600)  # a queue that grows: its samples are worth few, and yet it is plain
    assert judge_rate(queue, 50, 1).outcome == "exceeds"


def test_a_true_p99_at_the_budget_is_seldom_called_held() -> None:
    wrong = 0
    for seed in range(300):
        latency = np.random.default_rng(seed).exponential(1.0, 1000)
        wrong += judge_rate(latency, -np.log(0.0101), 1).outcome == "holds"
    assert wrong / 300 <= 0.08


@pytest.mark.parametrize("budget", [0, -5, float("nan"), float("inf")])
def test_a_budget_that_is_no_time_is_refused(budget: float) -> None:
    with pytest.raises(UsageError, match="above 0"):
        highest_rate(lambda: None, budget)
