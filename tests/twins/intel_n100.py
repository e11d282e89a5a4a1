"""Twin of a mini-PC with an Intel N100. No machine was read for it.

From: profiles/intel-n100.toml; Linux, Documentation/power/powercap and ABI/testing/sysfs-class-powercap.
"""

from __future__ import annotations

from tree import BROKEN, Content, Tree, cpufreq, times, zones

RANGE_UJ = 262_143_328_850
"""Where the counter wraps: 32 bits of 61 uJ, a usual value of max_energy_range_uj."""
PACKAGE = "/sys/class/powercap/intel-rapl:0"
MMIO = "/sys/class/powercap/intel-rapl-mmio:0"
CORES = 4


def intel_n100(readable: bool = True, energy_uj: int = RANGE_UJ - 2_000_000, long_term_w: float = 15.0) -> Tree:
    """The tree: the package's counter, which is 2 J before its wrap, and the same package again over MMIO.

    Args:
        readable: whether this user may read the counters; by default Linux shows them to root alone.
        long_term_w: PL1. Intel says 6 W; makers of mini-PCs raise it.
    """
    files: dict[str, Content] = {
        "/etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nNAME="Ubuntu"',
        "/proc/sys/kernel/osrelease": "6.8.0-60-generic",
        "/proc/cpuinfo": "\n\n".join(_processor(core) for core in range(CORES)),
        "/proc/loadavg": "0.05 0.04 0.01 1/310 4242",
        "/proc/meminfo": "MemTotal:       16129000 kB\nMemFree:        9000000 kB\nMemAvailable:   14336000 kB",
        "/sys/devices/system/cpu/online": "0-3",
        "/sys/devices/system/cpu/smt/active": 0,
        "/sys/devices/system/cpu/intel_pstate/no_turbo": 0,
        "/sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference": "balance_performance",
        "/sys/class/thermal/cooling_device0/type": "Processor",
        "/sys/class/thermal/cooling_device0/cur_state": 0,
        "/sys/class/thermal/cooling_device1/type": "intel_powerclamp",
        "/sys/class/thermal/cooling_device1/cur_state": -1,
    }
    for core in range(CORES):
        files |= cpufreq(core, 700_000, 3_400_000, "powersave", now=800_000 + 100_000 * core)
    readings: dict[str, Content] = {"acpitz": 27_800, "x86_pkg_temp": 44_000}
    return {
        **files,
        **times(CORES),
        **throttled(),
        **zones("/sys/class/thermal", readings),
        **rapl(energy_uj if readable else BROKEN, long_term_w),
    }


def rapl(energy_uj: Content, long_term_w: float = 15.0) -> Tree:
    """The zones of powercap: the package twice, under two providers, and its parts."""
    files: dict[str, Content] = {}
    named = {PACKAGE: "package-0", MMIO: "package-0", f"{PACKAGE}:0": "core", f"{PACKAGE}:1": "uncore"}
    for zone, name in named.items():
        files |= {f"{zone}/name": name, f"{zone}/energy_uj": energy_uj, f"{zone}/max_energy_range_uj": RANGE_UJ}
    for number, (name, watts) in enumerate({"long_term": long_term_w, "short_term": 25.0}.items()):
        files |= {f"{PACKAGE}/constraint_{number}_name": name}
        files |= {f"{PACKAGE}/constraint_{number}_power_limit_uw": round(watts * 1e6)}
    return files


def throttled(cores: tuple[int, ...] = (2, 2, 0, 1), package: int = 5) -> Tree:
    """Thermal throttle counts since the start; every core tells the package's."""
    files: dict[str, Content] = {}
    for core, count in enumerate(cores):
        folder = f"/sys/devices/system/cpu/cpu{core}/thermal_throttle"
        files |= {f"{folder}/core_throttle_count": count, f"{folder}/package_throttle_count": package}
    return files


def _processor(core: int) -> str:
    flags = "fpu vme sse4_1 avx avx2 avx_vnni"
    return f"processor\t: {core}\nmodel name\t: Intel(R) N100\nmicrocode\t: 0x1d\nflags\t\t: {flags}"
