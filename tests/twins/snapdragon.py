"""Twin of a device with a Snapdragon 865 and a battery. No device was read for it.

From: profiles/snapdragon-865.toml; Linux, Documentation/ABI/testing/sysfs-class-power, and what vendors make of it:
current in uA or mA, negative or positive while discharging.
"""

from __future__ import annotations

from typing import Literal

from tree import Content, Tree, cpufreq, times, zones

BATTERY = "/sys/class/power_supply/battery"
DEAD_BATTERY = "/sys/class/power_supply/bms"
USB = "/sys/class/power_supply/usb"
MICROAMPS = {"uA": 1, "mA": 1000}

# Kryo 585: four A55, three A77, one fast A77; kHz.
CLUSTERS = {range(4): (300_000, 1_804_800), range(4, 7): (710_400, 2_419_200), range(7, 8): (844_800, 2_841_600)}


def snapdragon(
    unit: Literal["uA", "mA"] = "uA", discharging: Literal[-1, 1] = -1, status: str = "Discharging", watts: float = 2.0
) -> Tree:
    """The tree.

    Args:
        unit: of `current_now`, by this vendor.
        discharging: the sign of `current_now` while the battery discharges, by this vendor.
        status: of the battery, as the kernel spells it.
    """
    files: dict[str, Content] = {
        "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
        "/proc/sys/kernel/osrelease": "6.6.28",
        "/proc/device-tree/model": "Xiaomi Mi 10 Pro\0",
        "/proc/device-tree/compatible": "xiaomi,cmi\0qcom,sm8250\0",
        "/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x51",
        "/proc/loadavg": "1.10 1.00 0.90 2/900 4242",
        "/proc/meminfo": "MemTotal:        7800000 kB\nMemAvailable:    4096000 kB",
        "/sys/devices/system/cpu/online": "0-7",
        "/sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0",
        "/sys/class/thermal/cooling_device0/cur_state": 0,
    }
    for cores, (low, high) in CLUSTERS.items():
        for core in cores:
            files |= cpufreq(core, low, high, "schedutil")
    readings: dict[str, Content] = {"cpu0-thermal": 38_000, "cpu7-thermal": 41_500, "pm8150b-thermal": -273_000}
    battery = {f"{BATTERY}/{name}": value for name, value in gauge(unit, discharging, status, watts).items()}
    return {**files, **times(8), **zones("/sys/class/thermal", readings), **battery, **_others()}


def gauge(unit: Literal["uA", "mA"], discharging: Literal[-1, 1], status: str, watts: float) -> dict[str, Content]:
    """The battery's files at 3.9 V; `watts` is what the device draws, or takes in while it charges."""
    volts = 3.9
    sign = -discharging if status == "Charging" else discharging
    return {
        "type": "Battery",
        "status": status,
        "capacity": 72,
        "voltage_now": round(volts * 1e6),
        "current_now": sign * round(watts / volts * 1e6 / MICROAMPS[unit]),
    }


def capped(core: int = 7, khz: int = 1_804_800) -> Tree:
    """The kernel's answer to heat: a lower cap."""
    return {f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_max_freq": khz}


def _others() -> Tree:
    """A second battery node that never changes, as some phones show, and the charger."""
    dead = {"type": "Battery", "status": "Unknown", "voltage_now": 3_900_000, "current_now": 0}
    usb: dict[str, Content] = {"type": "USB", "online": 0}
    return {f"{DEAD_BATTERY}/{n}": v for n, v in dead.items()} | {f"{USB}/{n}": v for n, v in usb.items()}
