"""Minutes on a virtual clock: what stays, when it was held back, and by what."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.profiler.clocks import Clock
from edgekit.profiler.environment import Snapshot
from edgekit.profiler.heat import Cooling, Counter
from edgekit.profiler.soak import held_back, parse_duration, soak, sustained

sys.path.append(str(Path(__file__).parents[1] / "twins"))
from ticking import MS, Ticking

GPU = Clock("gpu 0", "gpu", 1020.0, 1020.0, 1020.0, True, ("performance",), "/sys/class/devfreq/0")
CPU = replace(GPU, name="cpu 0-3", kind="cpu", floor_mhz=800.0, pinned=False)
CALM = Snapshot(
    names=("A Board",),
    target="orin-nano",
    on_target=True,
    board=True,
    facts=(),
    mode=None,
    clocks=(GPU, CPU),
    zones=(),
    cooling=(Cooling("thermal-cpufreq-0", 0, "/sys/a"),),
    counters=(Counter("throttle", "core_throttle_count", {"/sys/b": 5}), Counter("over-current", "oc3", {"/sys/c": 9})),
    cpu_time=None,
)


class Hot:
    """A board that works in 10 ms until `at_s`, in 14 ms from then on, and shows `sign` since then."""

    def __init__(self, at_s: float, sign: Snapshot) -> None:
        self.clock = Ticking()
        self.at_ns = round(at_s * 1e9)
        self.sign = sign

    def call(self) -> None:
        self.clock.now += (10 if self.clock.now < self.at_ns else 14) * MS

    def look(self) -> Snapshot:
        return CALM if self.clock.now < self.at_ns else self.sign

    def soak(self, seconds: float = 200, rate_hz: float | None = None):
        return soak(self.call, seconds, self.look, rate_hz=rate_hz, clock=self.clock, sleep=self.clock.sleep)


def moved(**changes: int) -> Snapshot:
    return replace(CALM, counters=tuple(replace(c, counts={p: n + changes.get(c.name, 0) for p, n in c.counts.items()})
                                        for c in CALM.counters))  # fmt: skip


SIGNS: dict[str, tuple[Snapshot, str]] = {
    "throttle counter": (moved(core_throttle_count=3), "core_throttle_count counted 3 throttle events"),
    "over-current counter": (moved(oc3=1), "oc3 counted 1 over-current events"),
    "cooling device": (replace(CALM, cooling=(Cooling("thermal-cpufreq-0", 2, "/sys/a"),)), "thermal-cpufreq-0 slowed"),
    "cap": (replace(CALM, clocks=(GPU, replace(CPU, cap_mhz=900.0))), "fell from 1020 to 900 MHz"),
    "pinned clock": (replace(CALM, clocks=(replace(GPU, current_mhz=612.0), CPU)), "pinned at 1020 MHz, ran at 612"),
}


@pytest.mark.parametrize("name", SIGNS)
def test_the_bucket_in_which_it_was_first_held_back_is_told(name: str) -> None:
    sign, why = SIGNS[name]
    found = Hot(92, sign).soak()
    figures = found.figures
    assert figures.throttled_after_s == pytest.approx(100, abs=0.1)
    assert why in str(figures.reason)
    assert len(figures.medians_ms) == 20
    assert figures.medians_ms[0] == pytest.approx(10) and figures.medians_ms[-1] == pytest.approx(14)
    assert figures.sustained_ratio == pytest.approx(10 / 14)
    assert (figures.bucket_s, figures.seconds) == (10, pytest.approx(200, abs=0.1))


def test_a_board_that_keeps_its_speed_was_never_held_back() -> None:
    figures = Hot(1e6, CALM).soak().figures
    assert (figures.sustained_ratio, figures.throttled_after_s, figures.reason) == (pytest.approx(1), None, None)


def test_a_clock_that_is_not_pinned_may_wander() -> None:
    assert held_back(CALM, replace(CALM, clocks=(GPU, replace(CPU, current_mhz=800.0)))) is None


def test_where_nothing_tells_of_throttling_that_is_said() -> None:
    quota = (Counter("quota", "nr_throttled", {"/c": 0}),)
    mute = replace(CALM, clocks=(), cooling=(), counters=quota)
    found = soak((clock := Ticking()).call(10), 50, lambda: mute, clock=clock, sleep=clock.sleep).figures
    assert found.throttled_after_s is None and "nothing tells of throttling" in str(found.reason)


def test_all_runs_are_kept_with_their_starts() -> None:
    found = Hot(92, CALM).soak()
    assert len(found.latency_ms) == len(found.starts_s) == pytest.approx(92 * 100 + 108 / 0.014, rel=0.01)
    assert np.all(np.diff(found.starts_s) > 0)
    assert set(found.arrays) == {"soak_ms.npy", "soak_start_s.npy"} and found.figures.samples == "soak_ms.npy"


def test_at_a_rate_the_wait_counts_and_no_more_are_run_than_were_due() -> None:
    board = Hot(92, CALM)
    found = board.soak(rate_hz=20)
    assert len(found.latency_ms) == pytest.approx(200 * 20, rel=0.02)
    assert found.figures.medians_ms[0] == pytest.approx(10, abs=0.06)
    overrun = Hot(92, CALM).soak(100, rate_hz=80)  # 14 ms every 12.5 ms
    assert overrun.latency_ms.max() > 100


def test_a_run_longer_than_a_bucket_is_one_run() -> None:
    clock = Ticking()
    found = soak(clock.call(15_000), 60, lambda: CALM, clock=clock, sleep=clock.sleep).figures
    assert set(found.medians_ms) == {15_000.0}


@pytest.mark.parametrize(
    ("medians", "ratio"), [((10.0,) * 5, 1.0), ((10.0,) * 4 + (20.0,), 0.5), ((20.0, 10.0, 12.0, 12.0, 12.0), 10 / 12)]
)
def test_the_last_fifth_is_compared_with_the_best(medians: tuple[float, ...], ratio: float) -> None:
    assert sustained(medians) == pytest.approx(ratio)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "-5m", "0s", "20 m", "1e3s", "nan s", "20min", "999999h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="a duration"):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [0.0, 44.0, float("nan"), float("inf"), -100.0])
def test_less_than_five_buckets_are_refused(seconds: float) -> None:
    refused: Callable[[], Snapshot] = lambda: CALM  # noqa: E731
    with pytest.raises(UsageError, match="too short"):
        soak(lambda: None, seconds, refused)
