"""Twins of a Jetson Orin Nano 8 GB developer kit on JetPack 5, 6 and 7.2. No board was read for them.

From: profiles/orin-nano.toml and its sources; drivers/hwmon/ina3221.c; nvpmodel_p3767_0003.conf and its super variant;
names of zones and devices as in public logs of L4T 35 and 36.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tree import BROKEN, Content, Link, Tree, cpufreq, times, zones

RAILS = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
INA3221 = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon"
STATUS = "/var/lib/nvpmodel/status"
CORES = 6


@dataclass(frozen=True)
class Mode:
    """A power mode of nvpmodel.conf; kHz, Hz, and -1 for no limit."""

    id: int
    name: str
    cores: int
    cpu: int
    gpu: int
    memory: int
    mask: int


@dataclass(frozen=True)
class Release:
    """What differs between the releases: names in sysfs, numbers of hwmon, modes."""

    release: str
    kernel: str
    system: str
    model: str
    devfreq: str
    memory_cap: str
    zone: str
    hwmon: int
    modes: tuple[Mode, ...]
    mode: int
    cpu_max: int
    gpu_max: int


SUPER = (
    Mode(0, "15W", 6, 1_497_600, 612_000_000, 2_133_000_000, 240),
    Mode(1, "25W", 6, 1_344_000, 918_000_000, 3_199_000_000, 240),
    Mode(2, "MAXN_SUPER", 6, -1, -1, -1, 240),
)
SEVEN_WATTS = Mode(3, "7W", 4, 960_000, 408_000_000, 2_133_000_000, 252)
BEFORE_SUPER = (
    Mode(0, "15W", 6, -1, -1, 2_133_000_000, 240),
    Mode(1, "7W", 4, 960_000, 408_000_000, 2_133_000_000, 252),
)

_EMC_5, _EMC_6 = "/sys/kernel/nvpmodel_emc_cap/emc_iso_cap", "/sys/kernel/nvpmodel_clk_cap/emc"
RELEASES = {
    5: Release(
        release="# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64",
        kernel="5.10.120-tegra",
        system="Ubuntu 20.04.6 LTS",
        model="NVIDIA Jetson Orin Nano Developer Kit",
        devfreq="17000000.ga10b",
        memory_cap=_EMC_5,
        zone="{}-therm",
        hwmon=3,
        modes=BEFORE_SUPER,
        mode=0,
        cpu_max=1_510_400,
        gpu_max=624_750_000,
    ),
    6: Release(
        release="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        kernel="5.15.148-tegra",
        system="Ubuntu 22.04.5 LTS",
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        devfreq="17000000.gpu",
        memory_cap=_EMC_6,
        zone="{}-thermal",
        hwmon=1,
        modes=SUPER,
        mode=1,
        cpu_max=1_728_000,
        gpu_max=1_020_000_000,
    ),
    7: Release(
        release="# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64",
        kernel="6.8.12-tegra",
        system="Ubuntu 24.04.3 LTS",
        model="NVIDIA Jetson Orin Nano Developer Kit Super",
        devfreq="17000000.gpu",
        memory_cap=_EMC_6,
        zone="{}-thermal",
        hwmon=4,
        modes=(*SUPER, SEVEN_WATTS),
        mode=2,
        cpu_max=1_728_000,
        gpu_max=1_020_000_000,
    ),
}


def orin_nano(jetpack: int = 6, mode: str | None = None, pinned: bool = False, failing: Collection[int] = ()) -> Tree:
    """The tree of one release.

    Args:
        mode: name of the power mode, the release's usual one without it.
        pinned: as `jetson_clocks` leaves the clocks.
        failing: channels of the power monitor whose reads end in an I/O error, 1 to 3.
    """
    release = RELEASES[jetpack]
    chosen = next(m for m in release.modes if (m.name == mode if mode else m.id == release.mode))
    files: dict[str, Content] = {
        "/etc/nv_tegra_release": release.release,
        "/etc/os-release": f'PRETTY_NAME="{release.system}"\nNAME="Ubuntu"',
        "/proc/sys/kernel/osrelease": release.kernel,
        "/proc/device-tree/model": f"{release.model}\0",
        "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "/proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nFeatures\t: fp asimd asimddp",
        "/proc/loadavg": "0.31 0.28 0.20 1/412 4242",
        "/proc/meminfo": "MemTotal:        7802788 kB\nMemFree:         3200000 kB\nMemAvailable:    5632000 kB",
        "/etc/nvpmodel.conf": _table(release),
        STATUS: f"pmode:{chosen.id:04d} fmode:quiet",
        "/sys/devices/system/cpu/online": f"0-{chosen.cores - 1}",
    }
    return {
        **files,
        **times(CORES),
        **_clocks(release, chosen, pinned),
        **_heat(release),
        **power(release.hwmon, failing),
    }


def power(hwmon: int, failing: Collection[int] = (), milliamps: tuple[int, int, int] = (1000, 320, 240)) -> Tree:
    """The INA3221 at 5 V. Three rails, the first the whole; beside them the sums that must not be taken for rails."""
    folder = f"{INA3221}/hwmon{hwmon}"
    files: dict[str, Content] = {f"{folder}/name": "ina3221", f"{folder}/samples": 1, f"{folder}/update_interval": 7}
    for channel, (label, milliamp) in enumerate(zip(RAILS, milliamps, strict=True), start=1):
        broken = channel in failing
        files |= {
            f"{folder}/in{channel}_label": label,
            f"{folder}/in{channel}_input": BROKEN if broken else 5000,
            f"{folder}/curr{channel}_input": BROKEN if broken else milliamp,
            f"{folder}/in{channel + 3}_input": BROKEN if broken else milliamp * 5,
            f"{folder}/shunt{channel}_resistor": 5000,
            f"{folder}/in{channel}_enable": 1,
            f"{folder}/curr{channel}_crit_alarm": 0,
        }
    sums: Tree = {f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": sum(milliamps) * 5}
    return {
        **files,
        **sums,
        f"{folder}/curr4_input": sum(milliamps),
        f"/sys/class/hwmon/hwmon{hwmon}": Link(folder),
    }


def overcurrent(jetpack: int = 6, oc1: int = 0, oc2: int = 0, oc3: int = 37) -> Tree:
    """The counters of soctherm_oc: undervoltage, average and instantaneous over-current."""
    folder = f"/sys/class/hwmon/hwmon{RELEASES[jetpack].hwmon + 2}"
    return {f"{folder}/oc{number}_event_cnt": count for number, count in enumerate((oc1, oc2, oc3), start=1)}


def _clocks(release: Release, mode: Mode, pinned: bool) -> Tree:
    files: dict[str, Content] = {}
    cap = mode.cpu if mode.cpu > 0 else release.cpu_max
    for core in range(mode.cores):
        files |= cpufreq(core, 115_200, release.cpu_max, "schedutil", cap, cap if pinned else 729_600)
    gpu = mode.gpu if mode.gpu > 0 else release.gpu_max
    folder = f"/sys/class/devfreq/{release.devfreq}"
    files |= {
        f"{folder}/cur_freq": gpu if pinned else 306_000_000,
        f"{folder}/min_freq": gpu if pinned else 306_000_000,
        f"{folder}/max_freq": gpu,
        f"{folder}/governor": "nvhost_podgov",
        f"{folder}/device/of_node/name": release.devfreq.split(".")[1],
        f"{folder}/device/load": 0,
        release.memory_cap: max(mode.memory, 0),
        "/sys/kernel/debug/bpmp/debug/clk/emc/rate": BROKEN,  # root's alone
    }
    return files


def _heat(release: Release) -> Tree:
    """CV zones answer with an error while that unit is off."""
    upper = release.zone.endswith("therm")
    names = ("cpu", "gpu", "cv0", "cv1", "cv2", "soc0", "soc1", "soc2")
    readings: dict[str, Content] = {
        release.zone.format(name.upper() if upper else name): BROKEN if name.startswith("cv") else 47_000 + 250 * i
        for i, name in enumerate(names)
    }
    readings[release.zone.format("tj")] = 49_500
    hwmon = f"/sys/class/hwmon/hwmon{release.hwmon + 2}"
    number = next(number for number, other in RELEASES.items() if other is release)
    return {
        **zones("/sys/devices/virtual/thermal", readings, passive=95_000),
        **overcurrent(number),
        f"{hwmon}/name": "soctherm_oc",
        f"{hwmon}/oc1_throt_en": 1,
        "/sys/class/thermal/cooling_device0/type": "pwm-fan",
        "/sys/class/thermal/cooling_device0/cur_state": 2,
        "/sys/class/thermal/cooling_device1/type": "cpu-throttle-alert",
        "/sys/class/thermal/cooling_device1/cur_state": 0,
    }


def _table(release: Release) -> str:
    """/etc/nvpmodel.conf: parameters with their paths, which are no modes, then the modes."""
    lines = ["# a twin, not NVIDIA's file", "< PARAM TYPE=CLOCK NAME=EMC >", f"MAX_FREQ {release.memory_cap}", ""]
    for mode in release.modes:
        lines += [f"< POWER_MODEL ID={mode.id} NAME={mode.name} >"]
        lines += [f"CPU_ONLINE CORE_{core} {int(core < mode.cores)}" for core in range(CORES)]
        lines += [f"TPC_POWER_GATING TPC_PG_MASK {mode.mask}", "GPU_POWER_CONTROL_ENABLE GPU_PWR_CNTL_EN on"]
        lines += [
            f"CPU_A78_{cluster} {end}" for cluster in (0, 1) for end in ("MIN_FREQ 729600", f"MAX_FREQ {mode.cpu}")
        ]
        lines += ["GPU MIN_FREQ 0", f"GPU MAX_FREQ {mode.gpu}", f"EMC MAX_FREQ {max(mode.memory, 0)}", ""]
    return "\n".join((*lines, f"< PM_CONFIG DEFAULT={release.mode} >"))
