"""Where Linux tells clocks, heat, load and limits: a device profile's own paths first, general ones after them."""

from __future__ import annotations

from edgekit.profiler.sysfs import Sysfs
from edgekit.profiles.profile import DeviceProfile

_CPU = "/sys/devices/system/cpu"
_GPUS = ("*.gpu", "*.ga10b", "*.gv11b", "*.gp10b", "*kgsl-3d0*", "*.mali")

GENERAL: dict[str, tuple[str, ...]] = {
    "cpu_clock": (f"{_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq",),
    "gpu_devfreq": tuple(f"/sys/class/devfreq/{name}" for name in _GPUS),
    "memory_clock": ("/sys/kernel/debug/bpmp/debug/clk/emc/rate",),
    "memory_clock_cap": ("/sys/kernel/nvpmodel_clk_cap/emc", "/sys/kernel/nvpmodel_emc_cap/emc_iso_cap"),
    "temperature": ("/sys/class/thermal/thermal_zone*/temp", "/sys/devices/virtual/thermal/thermal_zone*/temp"),
    "throttling": (f"{_CPU}/cpu[0-9]*/thermal_throttle/*_throttle_count",),
    "overcurrent": ("/sys/class/hwmon/hwmon*/oc[123]_event_cnt",),
    "power_limits": ("/sys/class/powercap/intel-rapl:[0-9]/constraint_*_power_limit_uw",),
    "power_mode": ("/var/lib/nvpmodel/status",),
    "power_mode_names": ("/etc/nvpmodel.conf",),
    "release": ("/etc/nv_tegra_release",),
}
"""Linux: Documentation/admin-guide/pm/cpufreq, ABI/testing/sysfs-class-devfreq, driver-api/thermal, and for Jetson the
paths of profiles/orin-nano.toml with their sources there."""


def found(files: Sysfs, profile: DeviceProfile | None, key: str) -> tuple[str, ...]:
    """The paths of the first glob that matches anything, the profile's before the general ones."""
    for pattern in (*_stated(profile, key), *GENERAL.get(key, ())):
        matches = files.glob(pattern)
        if matches:
            return matches
    return ()


def first_text(files: Sysfs, profile: DeviceProfile | None, key: str) -> tuple[str | None, str | None]:
    """The text of the first file that can be read and its path, or two None."""
    for path in found(files, profile, key):
        text = files.text(path)
        if text is not None:
            return text, path
    return None, None


def _stated(profile: DeviceProfile | None, key: str) -> tuple[str, ...]:
    value = profile.paths[key].value if profile is not None and key in profile.paths else None
    return tuple(str(item) for item in value) if isinstance(value, tuple) else ()
