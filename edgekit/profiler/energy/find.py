"""Which meter this machine has, or why none, and what would bring one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edgekit.errors import MissingError
from edgekit.profiler.energy.battery import Busy, open_battery
from edgekit.profiler.energy.files import Files
from edgekit.profiler.energy.ina3221 import open_ina3221
from edgekit.profiler.energy.meter import Clock, Meter, Sleep
from edgekit.profiler.energy.nvml import open_nvml
from edgekit.profiler.energy.rapl import open_rapl
from edgekit.profiler.report import Unknown
from edgekit.profiles.profile import DeviceProfile, Sensor

EXTERNAL = "an external meter serves any machine: a program that prints `t_monotonic_ns,volt,amp` lines"


def find_meter(
    profile: DeviceProfile,
    root: Path | str | Files | None = None,
    *,
    clock: Clock = time.monotonic_ns,
    sleep: Sleep = time.sleep,
    busy: Busy | None = None,
) -> Meter | Unknown:
    """The first of the profile's sensors that gives a value here.

    Args:
        root: in whose place `/` stands; by default what EDGEKIT_SYSFS_ROOT names, or `/`.
        busy: keeps the processor at work for so many seconds while the caller goes on; to tell a battery's sign.

    Returns:
        a meter that has given a value, or the reason of every sensor that has not, with its fix.
    """
    files = root if isinstance(root, Files) else Files(root)
    openers: dict[str, Callable[[Sensor], Meter]] = {
        "ina3221": lambda sensor: open_ina3221(sensor, files),
        "rapl": lambda sensor: open_rapl(sensor, files),
        "battery": lambda sensor: open_battery(sensor, files, clock, sleep, busy or keep_busy),
        "nvml": lambda _: open_nvml(files),
    }
    failed: list[MissingError] = []
    for sensor in profile.sensors:
        opener = openers.get(sensor.kind)
        if opener is None:
            failed.append(MissingError(f"no meter reads a sensor of the kind {sensor.kind!r}", fix=EXTERNAL))
            continue
        try:
            meter = opener(sensor)
            meter.probe()
        except MissingError as error:
            failed.append(error)
            continue
        return meter
    if not failed:
        return Unknown(f"the profile {profile.name} names no sensor of power or energy", EXTERNAL)
    reasons = "; ".join(f"{error.what} ({error.where}): {error.why}" if error.where else error.what for error in failed)
    return Unknown(reasons, "\n".join(dict.fromkeys(error.fix for error in failed if error.fix)) or EXTERNAL)


def keep_busy(seconds: float) -> None:
    """Every core at work for so many seconds, in threads of this process; returns at once."""
    end = time.monotonic() + seconds
    for _ in range(os.cpu_count() or 1):
        threading.Thread(target=_spin, args=(end,), daemon=True).start()


def _spin(end: float) -> None:
    import numpy as np

    square = np.ones((192, 192), np.float32)
    while time.monotonic() < end:
        square @ square  # numpy lets go of the interpreter, so the caller's thread goes on
