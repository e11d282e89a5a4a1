"""Every check of the certificate finds what it is there for, and lets the rest pass."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit import profiles
from edgekit.profiler.certificate import CHECKS, Limits, certify
from edgekit.profiler.environment import Snapshot, snapshot
from edgekit.profiler.report import Certificate, Energy, Interval, Joules, Latency, Quantile

sys.path.append(str(Path(__file__).parents[1] / "twins"))

from catalog import build_twin
from intel_n100 import intel_n100, throttled
from orin_nano import STATUS, orin_nano, overcurrent
from snapdragon import capped, snapdragon
from tree import Tree, advance, build, change

LATENCY = Latency(
    mode="closed",
    rate_hz=None,
    batch=1,
    runs=1000,
    warmup_runs=100,
    processes=1,
    steady=True,
    steady_reason=None,
    median_ms=Interval(8.0, 7.9, 8.1),
    quantiles=(Quantile(0.99, 9.0, 9.4, needed=299),),
    mean_ms=8.1,
    mad_ms=0.1,
    cov=0.02,
    min_ms=7.5,
    max_ms=10.0,
    slope_per_s=0.0,
    lag1=0.1,
    effective_runs=900.0,
    samples="latency_ms.npy",
)
ENERGY = Energy(
    meter="a twin",
    boundary="module",
    period_ms=6.6,
    window_s=20.0,
    inferences=2000,
    total=Joules(80.0, 1.0),
    above_idle=Joules(40.0, 1.0),
    average_w=8.0,
    average_uncertainty_w=0.1,
    idle_w=4.0,
    idle_drift=False,
    rate_hz=None,
    per_second_j=8.0,
    readings=3000,
    effective_readings=2000.0,
    valid=True,
    reasons=(),
)

PROFILES = {name: profiles.get(name) for name in ("orin-nano", "intel-n100", "snapdragon-865", "host")}


def run(
    root: Path,
    target: str,
    changes: Tree | None = None,
    *,
    latency: Latency = LATENCY,
    energy: Energy | None = None,
    limits: Limits | None = None,
    **load: float,
) -> Certificate:
    """The certificate of 20 s on a twin, during which files change and others take a share."""
    profile = PROFILES[target]
    before = snapshot(profile, root)
    advance(root, 20, **{"own": 0.4, **load})
    change(root, changes or {})
    return certify(before, snapshot(profile, root), latency, energy, limits)


def pinned(tmp_path: Path) -> Path:
    return build_twin("orin-nano-jp6-pinned", tmp_path)


def test_a_quiet_run_with_pinned_clocks_is_valid(tmp_path: Path) -> None:
    told = run(pinned(tmp_path), "orin-nano", energy=ENERGY)
    assert told.valid and told.reasons == ()
    assert len(told.notes) == 1 and "whether memory is pinned cannot be told by this user" in told.notes[0]


@pytest.mark.parametrize("counter", ["oc1", "oc2", "oc3"])
def test_an_over_current_event_invalidates_and_its_counter_is_named(tmp_path: Path, counter: str) -> None:
    old = {"oc1": 0, "oc2": 0, "oc3": 37}[counter]
    told = run(pinned(tmp_path), "orin-nano", overcurrent(6, **{counter: old + 5}))
    path = f"/sys/class/hwmon/hwmon3/{counter}_event_cnt"
    assert not told.valid
    assert told.reasons == (f"over-current: {counter}_event_cnt rose by 5 during the run ({path})",)


def test_events_from_before_the_run_are_not_held_against_it(tmp_path: Path) -> None:
    root = pinned(tmp_path)
    change(root, overcurrent(6, 3, 15, 27_390))
    assert run(root, "orin-nano").valid


def test_a_throttled_processor_invalidates_and_its_counter_is_named(tmp_path: Path) -> None:
    told = run(build_twin("intel-n100", tmp_path), "intel-n100", throttled((2, 2, 7, 1), package=5))
    path = "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
    assert told.reasons == (f"throttled: core_throttle_count rose by 7 during the run ({path})",)
    assert not told.valid


def test_a_counter_that_fell_cannot_clear_a_run(tmp_path: Path) -> None:
    told = run(pinned(tmp_path), "orin-nano", overcurrent(6, oc3=0))
    assert not told.valid and "oc3_event_cnt cannot be told" in told.reasons[0]


COOLING = "/sys/class/thermal/cooling_device"
ZONE = "/sys/devices/virtual/thermal/thermal_zone0/temp"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({f"{COOLING}1/cur_state": 1}, "slowed down: cpu-throttle-alert (cooling_device1) is at 1 after the run"),
        ({STATUS: "pmode:0000"}, "changed during the run: power mode was 25W before and 15W after"),
        ({"/sys/devices/system/cpu/online": "0-3"}, "changed during the run: cores online was 0-5 before and 0-3"),
        ({ZONE: 67_500}, "temperature: cpu-thermal rose by 20.5 degC, from 47.0; the limit is 20"),
    ],
    ids=["cooling", "mode", "cores", "heat"],
)
def test_what_should_have_stayed_and_did_not_invalidates(tmp_path: Path, changes: Tree, reason: str) -> None:
    told = run(pinned(tmp_path), "orin-nano", changes)
    assert not told.valid and any(one.startswith(reason) for one in told.reasons), told.reasons


def test_a_fan_is_no_throttle_and_some_warmth_is_allowed(tmp_path: Path) -> None:
    assert run(pinned(tmp_path), "orin-nano", {f"{COOLING}0/cur_state": 4, ZONE: 66_900}).valid


def test_heat_at_the_passive_trip_is_noted(tmp_path: Path) -> None:
    told = run(pinned(tmp_path), "orin-nano", {ZONE: 95_000}, limits=Limits(rise_c=60))
    assert told.valid and any("the kernel slows the chip from 95" in note for note in told.notes)


def test_a_cap_that_falls_invalidates(tmp_path: Path) -> None:
    told = run(build(tmp_path / "phone", snapdragon()), "snapdragon-865", capped(7))
    assert any("clock cap cpu 7 was 2841.6 before and 1804.8 after" in reason for reason in told.reasons)


@pytest.mark.parametrize(("others", "valid"), [(0.04, True), (0.06, False)])
def test_other_processes_may_take_a_small_share(tmp_path: Path, others: float, valid: bool) -> None:
    told = run(pinned(tmp_path), "orin-nano", others=others)
    assert told.valid is valid
    assert valid or told.reasons == ("other processes: took 6% of the processor time, the limit is 5%: close them",)


def test_a_hypervisor_that_steals_invalidates(tmp_path: Path) -> None:
    told = run(build_twin("intel-n100", tmp_path), "intel-n100", stolen=0.1)
    assert told.reasons == ("stolen time: the hypervisor gave away 10% of the processor time, the limit is 2%",)


def test_a_load_that_cannot_be_told_is_noted(tmp_path: Path) -> None:
    root = pinned(tmp_path)
    shot = replace(snapshot(PROFILES["orin-nano"], root), cpu_time=None)
    told = certify(shot, shot, LATENCY, None)
    assert told.valid and any(note.startswith("other processes: cannot be told") for note in told.notes)


def test_free_clocks_invalidate_on_a_board(tmp_path: Path) -> None:
    told = run(build_twin("orin-nano-jp6", tmp_path), "orin-nano")
    assert not told.valid
    assert [reason.split(" (")[0] for reason in told.reasons] == [
        "clocks: cpu 0-5 may move, 729.6 to 1344 MHz",
        "clocks: gpu 17000000.gpu may move, 306 to 918 MHz",
    ]
    assert all(reason.endswith("sudo jetson_clocks") for reason in told.reasons)


def test_free_clocks_and_powersave_are_notes_on_a_general_machine(tmp_path: Path) -> None:
    told = run(build_twin("intel-n100", tmp_path), "intel-n100")
    assert told.valid
    assert [note.split(" (")[0] for note in told.notes] == [
        "governor: cpu 0-3 has the governor powersave",
        "clocks: cpu 0-3 may move, 700 to 3400 MHz",
        "power limit: the long-term limit is 15 W, the processor's own is 6 W: other machines may differ",
    ]


def test_powersave_invalidates_on_a_board(tmp_path: Path) -> None:
    root = pinned(tmp_path)
    change(root, {f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "powersave" for core in range(6)})
    told = run(root, "orin-nano")
    assert [reason.split(" (")[0] for reason in told.reasons] == ["governor: cpu 0-5 has the governor powersave"]


def test_the_processors_own_power_limit_is_not_noted(tmp_path: Path) -> None:
    told = run(build(tmp_path / "box", intel_n100(long_term_w=6.0)), "intel-n100")
    assert not any(note.startswith("power limit") for note in told.notes)


@pytest.mark.parametrize("target", ["intel-n100", "snapdragon-865"])
def test_another_machine_than_the_target_is_noted(tmp_path: Path, target: str) -> None:
    told = run(pinned(tmp_path), target)
    assert told.valid and any(f"is no {target}" in note for note in told.notes)


def test_a_battery_that_charges_invalidates(tmp_path: Path) -> None:
    told = run(build_twin("snapdragon-charging", tmp_path), "snapdragon-865")
    ends = [reason.split(" the run")[0] for reason in told.reasons if reason.startswith("battery")]
    assert ends == ["battery: battery battery charges before", "battery: battery battery charges after"]


@pytest.mark.parametrize(
    ("latency", "reason"),
    [
        ({"steady": False, "steady_reason": "slope 2 %/s"}, "not steady: slope 2 %/s"),
        ({"steady": False}, "not steady: the warm-up did not reach a steady state"),
        (
            {"runs": 4, "median_ms": Interval(8.0, reason="n/a (n_eff 4 < 6)")},
            "too few samples: the median of 4 runs has no interval: n/a (n_eff 4 < 6)",
        ),
    ],
    ids=["unsteady", "unsteady without a reason", "few"],
)
def test_figures_that_cannot_be_relied_on_invalidate(tmp_path: Path, latency: dict[str, Any], reason: str) -> None:
    assert run(pinned(tmp_path), "orin-nano", latency=replace(LATENCY, **latency)).reasons == (reason,)


def test_a_quantile_without_enough_runs_is_noted(tmp_path: Path) -> None:
    missing = replace(LATENCY, quantiles=(Quantile(0.999, None, None, needed=2995, reason="1000 < 2995"),))
    told = run(pinned(tmp_path), "orin-nano", latency=missing)
    assert told.valid and told.notes[-1] == "quantiles: p99.9 is n/a (1000 < 2995)"


def test_an_invalid_energy_invalidates_and_none_does_not(tmp_path: Path) -> None:
    root = pinned(tmp_path)
    told = run(root, "orin-nano", energy=replace(ENERGY, valid=False, reasons=("a gap of 80 ms", "idle drifts")))
    assert told.reasons == ("energy: a gap of 80 ms", "energy: idle drifts")
    assert not run(root, "orin-nano", energy=replace(ENERGY, valid=False)).valid
    assert run(root, "orin-nano", energy=None).valid


def test_a_shared_machine_is_noted_and_a_quota_that_bit_invalidates(tmp_path: Path) -> None:
    root = build_twin("intel-n100", tmp_path)
    group = {"/proc/self/cgroup": "0::/job", "/sys/fs/cgroup/job/cpu.max": "100000 100000"}
    change(root, {**group, "/sys/fs/cgroup/job/cpu.stat": "nr_throttled 0", "/.dockerenv": ""})
    told = run(root, "intel-n100")
    assert told.valid and {"shared machine: container: docker", "shared machine: cpu quota: 1"} <= set(told.notes)
    told = run(root, "intel-n100", {"/sys/fs/cgroup/job/cpu.stat": "nr_throttled 3"})
    assert len(told.reasons) == 1 and told.reasons[0].startswith("cpu quota: nr_throttled rose by 3")


def test_several_reasons_are_all_told(tmp_path: Path) -> None:
    root = build(tmp_path / "orin", orin_nano(6))
    told = run(root, "orin-nano", {**overcurrent(6, oc3=40), ZONE: 80_000}, others=0.3)
    heads = {reason.split(":")[0] for reason in told.reasons}
    assert heads == {"over-current", "temperature", "other processes", "clocks"}


def test_a_machine_that_tells_nothing_is_judged_by_the_figures(tmp_path: Path) -> None:
    empty: Snapshot = snapshot(PROFILES["host"], build(tmp_path / "empty", {}))
    told = certify(empty, empty, LATENCY, None)
    assert told.valid and any("no cpufreq here" in note for note in told.notes)


def test_the_table_of_checks_names_each(tmp_path: Path) -> None:
    assert all(check.name for check in CHECKS)
    assert len({check.find for check in CHECKS}) == len(CHECKS)
