"""What a snapshot says of each twin and of this machine; a twin is not a device."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgekit import profiles
from edgekit.profiler.environment import Snapshot, changes, conditions, load_between, snapshot
from edgekit.profiler.report import Condition
from edgekit.structure import decode, encode

sys.path.append(str(Path(__file__).parents[1] / "twins"))

from catalog import TWINS, build_twin
from intel_n100 import RANGE_UJ, throttled
from orin_nano import RAILS, STATUS, orin_nano, overcurrent
from snapdragon import capped
from tree import BROKEN, advance, build, change

PROFILES = {name: profiles.get(name) for name in ("orin-nano", "intel-n100", "snapdragon-865", "host")}
TARGETS = {"orin": "orin-nano", "intel": "intel-n100", "snapdragon": "snapdragon-865"}


def seen(root: Path, target: str | None = None) -> Snapshot:
    name = target or TARGETS[root.name.split("-")[0]]
    return snapshot(PROFILES[name], root)


def by_name(before: Snapshot, after: Snapshot | None = None) -> dict[str, Condition]:
    rows = conditions(before, after or before)
    table = {row.name: row for row in rows}
    assert len(table) == len(rows), "two conditions bear one name"
    return table


FACTS: dict[str, dict[str, str | None]] = {
    "orin-nano-jp5": {
        "device": "NVIDIA Jetson Orin Nano Developer Kit",
        "jetpack": "5.1.2 (L4T 35.4.1)",
        "kernel": "5.10.120-tegra",
        "power mode": "15W",
        "power mode caps": "6 cores, TPC mask 240, CPU no limit, GPU no limit, memory 2133 MHz",
        "clock cap gpu 17000000.ga10b": "624.75",
        "temperature CPU-therm": "47.0",
        "clock cap memory": "2133",
        "clocks memory": None,
    },
    "orin-nano-jp6": {
        "jetpack": "6.2 (L4T 36.4.3)",
        "operating system": "Ubuntu 22.04.5 LTS",
        "power mode": "25W",
        "power mode caps": "6 cores, TPC mask 240, CPU 1344 MHz, GPU 918 MHz, memory 3199 MHz",
        "clock cap cpu 0-5": "1344",
        "clock floor cpu 0-5": "729.6",
        "clocks cpu 0-5": "not pinned",
        "governor cpu 0-5": "schedutil",
        "clocks gpu 17000000.gpu": "not pinned",
        "temperature tj-thermal": "49.5",
        "over-current events oc3_event_cnt": "0",
        "slowed down by cpu-throttle-alert (cooling_device1)": "0",
        "fan mode": "quiet",
    },
    "orin-nano-jp6-pinned": {"clocks cpu 0-5": "pinned", "clocks gpu 17000000.gpu": "pinned"},
    "orin-nano-jp7": {
        "jetpack": "7.2 (L4T 39.2.0)",
        "power mode": "MAXN_SUPER",
        "clock cap memory": "no limit",
        "clock cap gpu 17000000.gpu": "1020",
    },
    "intel-n100": {
        "device": "Intel(R) N100",
        "microcode": "0x1d",
        "turbo": "on",
        "smt": "off",
        "sgx": "off",
        "governor cpu 0-3": "powersave",
        "clock cpu 0-3": "950",
        "energy preference": "balance_performance",
        "power limit long_term": "15",
        "temperature x86_pkg_temp": "44.0",
        "throttle events package_throttle_count": "0",
        "memory available": "14000",
        "load average": "0.05 0.04 0.01",
    },
    "snapdragon-ma-positive": {
        "device": "Xiaomi Mi 10 Pro",
        "battery battery": "Discharging",
        "battery battery charge": "72",
        "clock cap cpu 0-3": "1804.8",
        "clock cap cpu 4-6": "2419.2",
        "clock cap cpu 7": "2841.6",
        "temperature cpu7-thermal": "41.5",
        "throttle events": None,
    },
    "snapdragon-charging": {"battery battery": "Charging"},
}


@pytest.mark.parametrize("name", FACTS)
def test_each_twin_gives_the_stated_facts(tmp_path: Path, name: str) -> None:
    table = by_name(seen(build_twin(name, tmp_path)))
    assert {key: table[key].before for key in FACTS[name]} == FACTS[name]


@pytest.mark.parametrize("name", TWINS)
def test_every_twin_is_told_from_other_devices_and_makes_plain_data(tmp_path: Path, name: str) -> None:
    root = build_twin(name, tmp_path)
    shot = seen(root)
    assert shot.on_target is True
    assert shot.board is not name.startswith("intel")
    others = set(TARGETS.values()) - {TARGETS[name.split("-")[0]]}
    assert not any(seen(root, other).on_target for other in others)
    for row in conditions(shot, shot):
        assert decode(Condition, encode(row), "row") == row


def test_sensors_that_are_off_or_incredible_are_left_out(tmp_path: Path) -> None:
    names = {zone.name for zone in seen(build_twin("orin-nano-jp6", tmp_path)).zones}
    assert "cpu-thermal" in names and not any(name.startswith("cv") for name in names)
    assert {zone.name for zone in seen(build_twin("snapdragon-charging", tmp_path)).zones} == {
        "cpu0-thermal",
        "cpu7-thermal",
    }


def test_two_zones_of_one_name_stay_two(tmp_path: Path) -> None:
    root = build_twin("intel-n100", tmp_path)
    change(root, {"/sys/class/thermal/thermal_zone10/type": "acpitz", "/sys/class/thermal/thermal_zone10/temp": 31_000})
    table = by_name(seen(root))
    assert (table["temperature acpitz"].before, table["temperature acpitz #2"].before) == ("27.8", "31.0")


@pytest.mark.parametrize(
    ("mode", "caps"),
    [
        ("7W", "4 cores, TPC mask 252, CPU 960 MHz, GPU 408 MHz, memory 2133 MHz"),
        ("15W", "6 cores, TPC mask 240, CPU 1497.6 MHz, GPU 612 MHz, memory 2133 MHz"),
    ],
)
def test_a_mode_is_told_by_name_and_caps_because_ids_differ(tmp_path: Path, mode: str, caps: str) -> None:
    shot = seen(build(tmp_path / "orin", orin_nano(7, mode)))
    assert shot.mode is not None and (shot.mode.name, shot.mode.caps) == (mode, caps)


def test_one_id_is_two_modes_on_two_releases(tmp_path: Path) -> None:
    names = []
    for release in (5, 6):
        root = build(tmp_path / f"orin-{release}", orin_nano(release))
        change(root, {STATUS: "pmode:0001"})
        mode = seen(root).mode
        assert mode is not None
        names.append((mode.id, mode.name, mode.fan))
    assert names == [(1, "7W", None), (1, "25W", None)]


def test_the_order_of_the_modes_in_their_file_does_not_matter(tmp_path: Path) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    table = "\n".join(f"< POWER_MODEL ID={i} NAME={name} >\nGPU MAX_FREQ {i}000000" for i, name in ((2, "B"), (1, "A")))
    change(root, {"/etc/nvpmodel.conf": table})
    mode = seen(root).mode
    assert mode is not None and (mode.name, mode.caps) == ("A", "GPU 1 MHz")


def test_a_mode_whose_table_cannot_be_read_is_not_guessed(tmp_path: Path) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    change(root, {"/etc/nvpmodel.conf": BROKEN})
    table = by_name(seen(root))
    assert table["power mode"].before == "id 1, whose name is not known"
    assert table["power mode caps"].before is None


def test_the_file_that_nvpmodel_was_told_to_use_serves_where_the_usual_one_is_missing(tmp_path: Path) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    table = (root / "etc/nvpmodel.conf").read_text()
    (root / "etc/nvpmodel.conf").unlink()
    change(root, {"/etc/nvpmodel/mine.conf": table, "/var/lib/nvpmodel/conf_file_path": "/etc/nvpmodel/mine.conf"})
    mode = seen(root).mode
    assert mode is not None and mode.name == "25W"


@pytest.mark.parametrize(
    ("release", "told"),
    [
        ("# R36 (release), REVISION: 4.7, GCID: 42132812", "6.2.1 (L4T 36.4.7)"),
        ("# R36 (release), REVISION: 9.9, GCID: 1", "6, release not known (L4T 36.9.9)"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "unknown (L4T 99.1.0)"),
        ("something else", None),
    ],
)
def test_a_release_that_is_not_known_is_not_guessed(tmp_path: Path, release: str, told: str | None) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    change(root, {"/etc/nv_tegra_release": release})
    assert seen(root).fact("jetpack") == told


def test_counters_count_from_the_first_snapshot(tmp_path: Path) -> None:
    root = build_twin("intel-n100", tmp_path)
    before = seen(root)
    change(root, throttled((3, 4, 0, 1), package=9))
    table = by_name(before, seen(root))
    core, package = (table[f"throttle events {kind}_throttle_count"] for kind in ("core", "package"))
    assert (core.before, core.after) == ("0", "3"), "summed over the cores"
    assert (package.before, package.after) == ("0", "4"), "every core tells the same count of the package"


def test_a_counter_that_fell_is_not_told(tmp_path: Path) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    before = seen(root)
    change(root, overcurrent(6, oc3=1))
    row = by_name(before, seen(root))["over-current events oc3_event_cnt"]
    assert (row.before, row.after) == ("0", None)


def test_what_moves_is_told_twice_and_the_rest_only_where_it_changed(tmp_path: Path) -> None:
    root = build_twin("snapdragon-ua-negative", tmp_path)
    before = seen(root)
    change(root, {**capped(7), "/sys/class/thermal/thermal_zone1/temp": 66_000})
    after = seen(root)
    table = by_name(before, after)
    assert (table["temperature cpu7-thermal"].before, table["temperature cpu7-thermal"].after) == ("41.5", "66.0")
    assert (table["clock cap cpu 7"].before, table["clock cap cpu 7"].after) == ("2841.6", "1804.8")
    assert table["clock cap cpu 4-6"].after is None
    assert [(old.name, new.value) for old, new in changes(before, after)] == [("clock cap cpu 7", "1804.8")]


@pytest.mark.parametrize(("own", "others", "stolen"), [(0.5, 0.02, 0.0), (0.9, 0.0, 0.0), (0.0, 0.6, 0.1)])
def test_the_load_of_others_leaves_out_our_own(tmp_path: Path, own: float, others: float, stolen: float) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    before = seen(root)
    advance(root, 20, own, others, stolen)
    load = load_between(before, seen(root))
    assert load is not None and load.others is not None
    assert (load.others, load.stolen) == (pytest.approx(others, abs=1e-3), pytest.approx(stolen, abs=1e-3))


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_our_own_time_is_that_of_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKIT_SYSFS_ROOT", raising=False)
    low = sum(os.times()[:4])
    shot = snapshot(None)
    high = sum(os.times()[:4])
    assert shot.cpu_time is not None and shot.cpu_time.own is not None
    assert low - 0.1 <= shot.cpu_time.own / os.sysconf("SC_CLK_TCK") <= high + 0.1


def test_a_load_that_cannot_be_told_is_not_nought(tmp_path: Path) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    before = seen(root)
    advance(root, 0.05, 0.5)
    assert load_between(before, seen(root)) is None, "too short"
    advance(root, 10, 0.5)
    change(root, {"/proc/self/stat": BROKEN})
    load = load_between(before, seen(root))
    assert load is not None and load.others is None
    change(root, {"/proc/stat": BROKEN})
    assert load_between(before, seen(root)) is None
    assert by_name(before, seen(root))["load of other processes in the run"].before is None


def test_power_limits_of_several_zones_stay_apart(tmp_path: Path) -> None:
    root = build_twin("intel-n100", tmp_path)
    second = "/sys/class/powercap/intel-rapl:1/constraint_0"
    change(root, {f"{second}_name": "long_term", f"{second}_power_limit_uw": 45_000_000})
    table = by_name(seen(root, "host"))
    assert table["power limit long_term"].before == "15"
    assert table["power limit long_term intel-rapl:1"].before == "45"


def test_quotas_and_containers_show(tmp_path: Path) -> None:
    root = build_twin("intel-n100", tmp_path)
    groups = {
        "/proc/self/cgroup": "0::/system.slice/job",
        "/sys/fs/cgroup/system.slice/cpu.max": "200000 100000",
        "/sys/fs/cgroup/system.slice/job/cpu.max": "max 100000",
        "/sys/fs/cgroup/system.slice/job/cpu.stat": "usage_usec 5\nnr_periods 10\nnr_throttled 4\nthrottled_usec 9",
        "/proc/1/cgroup": "0::/docker/0123abc",
        "/proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-1",
    }
    change(root, groups)
    before = seen(root)
    change(root, {"/sys/fs/cgroup/system.slice/job/cpu.stat": "nr_periods 20\nnr_throttled 6"})
    table = by_name(before, seen(root))
    told = {name: table[name].before for name in ("cpu quota", "container", "cores allowed")}
    assert told == {"cpu quota": "2", "container": "docker", "cores allowed": "0-1"}
    assert table["quota events nr_throttled"].after == "2"
    assert not any("0123abc" in str(row) for row in table.values())


def test_the_older_control_groups_show_too(tmp_path: Path) -> None:
    root = build_twin("intel-n100", tmp_path)
    change(root, {"/proc/self/cgroup": "4:memory:/x\n1:cpu,cpuacct:/x"})
    change(root, {"/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": 50_000, "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us": 100_000})
    assert seen(root).fact("cpu quota") == "0.5"


def test_a_virtual_machine_is_no_board(tmp_path: Path) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    change(root, {"/proc/device-tree/compatible": "linux,dummy-virt", "/proc/cpuinfo": "processor\t: 0"})
    shot = seen(root)
    assert not shot.board and shot.fact("virtual machine") == "yes"


def test_the_chips_own_sensors_serve_where_there_is_no_thermal_zone(tmp_path: Path) -> None:
    hwmon = "/sys/class/hwmon/hwmon0"
    root = build(tmp_path / "amd", {f"{hwmon}/name": "k10temp", f"{hwmon}/temp1_input": 51_250})
    change(root, {f"{hwmon}/temp1_label": "Tctl", "/sys/class/hwmon/hwmon1/name": "nvme"})
    change(root, {"/sys/class/hwmon/hwmon1/temp1_input": 40_000})
    assert [(zone.name, zone.celsius) for zone in seen(root, "host").zones] == [("k10temp Tctl", 51.25)]


def test_the_memorys_clock_is_told_to_root(tmp_path: Path) -> None:
    emc = "/sys/kernel/debug/bpmp/debug/clk/emc"
    root = build_twin("orin-nano-jp6", tmp_path)
    (root / emc.lstrip("/") / "rate").rmdir()
    for locked, pinned in ((1, True), (0, False)):
        change(root, {f"{emc}/rate": 3_199_000_000, f"{emc}/mrq_rate_locked": locked})
        assert [clock.pinned for clock in seen(root).clocks if clock.kind == "memory"] == [pinned]


def test_twins_hold_what_meters_need(tmp_path: Path) -> None:
    """Rails with the total first and a sum that is none, a broken channel, a wrapping counter under two providers."""
    root = build_twin("orin-nano-jp6-soc-fails", tmp_path)
    sensor = root / "sys/class/hwmon/hwmon1"
    assert tuple((sensor / f"in{n}_label").read_text().strip() for n in (1, 2, 3)) == RAILS
    assert (sensor / "in7_label").read_text().startswith("sum")
    with pytest.raises(OSError, match="directory"):
        (sensor / "curr3_input").read_text()
    powercap = build_twin("intel-n100", tmp_path) / "sys/class/powercap"
    zones = {folder.name: (folder / "name").read_text().strip() for folder in powercap.iterdir()}
    assert zones == {
        "intel-rapl:0": "package-0",
        "intel-rapl-mmio:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "uncore",
    }
    assert RANGE_UJ - int((powercap / "intel-rapl:0/energy_uj").read_text()) == 2_000_000
