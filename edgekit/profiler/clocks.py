"""Clocks of CPU, GPU and memory: what they are, how low and high they may go, and whether they are pinned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.profiler.places import found
from edgekit.profiler.sysfs import Sysfs
from edgekit.profiles.profile import DeviceProfile

_NO_LIMIT_MHZ = 1e6
"""Above it a cap is the kernel's way to say none, such as 9223372036854775807 Hz."""


@dataclass(frozen=True)
class Clock:
    """One clock, or those of the cores that have the same limits in hardware.

    Attributes:
        name: such as `cpu 0-3`, `gpu 17000000.gpu`, `memory`.
        current_mhz: mean over the cores at that instant.
        floor_mhz, cap_mhz: the lowest that software sets; None where unknown, infinite where it sets no limit.
        pinned: whether floor and cap are one on every core; None where that cannot be told.
        governors: all that are in use.
        source: a path, with `*` for its cores.
    """

    name: str
    kind: Literal["cpu", "gpu", "memory"]
    current_mhz: float | None
    floor_mhz: float | None
    cap_mhz: float | None
    pinned: bool | None
    governors: tuple[str, ...]
    source: str


def read_clocks(files: Sysfs, profile: DeviceProfile | None) -> tuple[Clock, ...]:
    """All that can be told here, CPUs first."""
    return (*_cpus(files, profile), *_gpus(files, profile), *_memory(files, profile))


@dataclass(frozen=True)
class _Core:
    number: int
    limits: tuple[int | None, int | None]
    current: int | None
    floor: int | None
    cap: int | None
    governor: str | None


def _cpus(files: Sysfs, profile: DeviceProfile | None) -> Iterable[Clock]:
    cores = [_core(files, path.rsplit("/", 1)[0]) for path in found(files, profile, "cpu_clock")]
    for limits in dict.fromkeys(core.limits for core in cores):
        alike = [core for core in cores if core.limits == limits]
        numbers = "*" if len(alike) > 1 else alike[0].number
        yield Clock(
            f"cpu {ranges(core.number for core in alike)}",
            "cpu",
            _mean([core.current for core in alike], 1e3),
            _mhz(min((core.floor for core in alike if core.floor is not None), default=None), 1e3),
            _mhz(min((core.cap for core in alike if core.cap is not None), default=None), 1e3),
            _all(None if core.floor is None or core.cap is None else core.floor >= core.cap for core in alike),
            tuple(sorted({core.governor for core in alike if core.governor})),
            f"/sys/devices/system/cpu/cpu{numbers}/cpufreq",
        )


def _core(files: Sysfs, folder: str) -> _Core:
    digits = "".join(filter(str.isdigit, folder.split("/")[-2]))
    read = {name: files.number(f"{folder}/scaling_{name}_freq") for name in ("cur", "min", "max")}
    limits = files.number(f"{folder}/cpuinfo_min_freq"), files.number(f"{folder}/cpuinfo_max_freq")
    governor = files.text(f"{folder}/scaling_governor")
    return _Core(int(digits or 0), limits, read["cur"], read["min"], read["max"], governor)


def _gpus(files: Sysfs, profile: DeviceProfile | None) -> Iterable[Clock]:
    for folder in found(files, profile, "gpu_devfreq"):
        floor = files.number(f"{folder}/min_freq")
        cap = files.number(f"{folder}/max_freq")
        governor = files.text(f"{folder}/governor")
        yield Clock(
            f"gpu {folder.rsplit('/', 1)[1]}",
            "gpu",
            _mhz(files.number(f"{folder}/cur_freq"), 1e6),
            _mhz(floor, 1e6),
            _mhz(cap, 1e6),
            None if floor is None or cap is None else floor >= cap,
            (governor,) if governor else (),
            folder,
        )


def _memory(files: Sysfs, profile: DeviceProfile | None) -> Iterable[Clock]:
    """The memory's clock, root's to read, and its cap, anyone's. Zero is no cap (NVIDIA Jetson Linux, nvpmodel)."""
    rates, caps = found(files, profile, "memory_clock"), found(files, profile, "memory_clock_cap")
    if not rates and not caps:
        return
    rate = files.number(rates[0]) if rates else None
    cap = files.number(caps[0]) if caps else None
    locked = files.number(f"{rates[0].rsplit('/', 1)[0]}/mrq_rate_locked") if rates else None
    pinned = None if rate is None else bool(locked) if locked is not None else bool(cap) and rate == cap
    source = ", ".join((*rates[:1], *caps[:1]))
    cap_mhz = math.inf if cap == 0 else _mhz(cap, 1e6)
    yield Clock("memory", "memory", _mhz(rate, 1e6), None, cap_mhz, pinned, (), source)


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _mhz(value: int | None, per_mhz: float) -> float | None:
    """MHz; infinity for what only says that there is no limit."""
    if value is None:
        return None
    return value / per_mhz if value / per_mhz < _NO_LIMIT_MHZ else math.inf


def _mean(values: Sequence[int | None], per_mhz: float) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known) / per_mhz, 1) if known else None


def _all(answers: Iterable[bool | None]) -> bool | None:
    """False where one is, None where one is unknown, True where all are."""
    told = tuple(answers)
    return False if False in told else None if None in told or not told else True
