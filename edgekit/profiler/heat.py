"""Temperatures by the zone's name, and what counts or shows that a chip was held back: counters and cooling devices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edgekit.profiler.places import found
from edgekit.profiler.sysfs import Sysfs
from edgekit.profiles.profile import DeviceProfile

_CREDIBLE_C = (-40.0, 150.0)
"""What silicon stands; sensors that are off say -273 or 200."""

_CHIP_SENSORS = {"coretemp", "k10temp", "zenpower", "cpu_thermal"}

_SLOWING = re.compile(r"thermal-(cpu|dev)freq|cpufreq|devfreq|throttle-alert|powerclamp|^Processor$")
"""Types of cooling devices that slow a chip down, unlike a fan: Linux, drivers/thermal; NVIDIA Jetson's device tree."""

Kind = Literal["throttle", "over-current", "quota"]


@dataclass(frozen=True)
class Zone:
    """A temperature, and where the kernel begins to slow the chip down (its lowest passive trip), where it says so."""

    name: str
    celsius: float
    passive_c: float | None
    source: str


@dataclass(frozen=True)
class Cooling:
    """A device that slows the chip down; 0 is at rest."""

    name: str
    state: int
    source: str


@dataclass(frozen=True)
class Counter:
    """Events since the machine started; only its difference over a window says anything.

    Attributes:
        name: the file's, such as `oc3_event_cnt`.
        counts: path to value, one for each core where they count apart.
    """

    kind: Kind
    name: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Moved:
    """A counter's difference over a window; None where a counter fell or went away, so that it cannot be told."""

    kind: Kind
    name: str
    events: int | None
    source: str


def read_zones(files: Sysfs, profile: DeviceProfile | None) -> tuple[Zone, ...]:
    """Thermal zones whose temperature can be read now; without any, the processor's own sensors."""
    zones: list[Zone] = []
    for path in found(files, profile, "temperature"):
        folder = path.rsplit("/", 1)[0]
        name = files.text(f"{folder}/type") or folder.rsplit("/", 1)[1]
        zones += _zone(files, path, _unused(name, zones), _passive(files, folder))
    return tuple(zones) or tuple(_chip_sensors(files))


def read_cooling(files: Sysfs) -> tuple[Cooling, ...]:
    """All that slow a chip down; fans are not among them."""
    devices = []
    for path in files.glob("/sys/class/thermal/cooling_device*/cur_state"):
        folder = path.rsplit("/", 1)[0]
        kind, state = files.text(f"{folder}/type"), files.number(path)
        if kind and state is not None and _SLOWING.search(kind):
            devices.append(Cooling(f"{kind} ({folder.rsplit('/', 1)[1]})", state, path))
    return tuple(devices)


def read_counters(files: Sysfs, profile: DeviceProfile | None) -> tuple[Counter, ...]:
    """Throttle and over-current events, and how often the cgroup's CPU quota held this process back."""
    kinds: tuple[tuple[Kind, str], ...] = (("throttle", "throttling"), ("over-current", "overcurrent"))
    counters = []
    for kind, key in kinds:
        by_name: dict[str, dict[str, int]] = {}
        for path in found(files, profile, key):
            count = files.number(path)
            if count is not None:
                by_name.setdefault(path.rsplit("/", 1)[1], {})[path] = count
        counters += [Counter(kind, name, counts) for name, counts in by_name.items()]
    return (*counters, *_quota(files))


def moved(before: tuple[Counter, ...], after: tuple[Counter, ...]) -> tuple[Moved, ...]:
    """Each counter of `before`, over the window.

    Every core of a package repeats its count, and every group those of the groups in it: there the largest counts.
    """
    later = {path: count for counter in after for path, count in counter.counts.items()}
    moves = []
    for counter in before:
        steps = [later[path] - count if path in later else None for path, count in counter.counts.items()]
        told = [step for step in steps if step is not None]
        joined = max if counter.kind == "quota" or counter.name.startswith("package") else sum
        whole = joined(told) if len(told) == len(steps) and min(told) >= 0 else None
        moves.append(Moved(counter.kind, counter.name, whole, _joint(counter)))
    return tuple(moves)


def _zone(files: Sysfs, path: str, name: str, passive: float | None) -> Iterator[Zone]:
    reading = files.number(path)
    if reading is not None and _CREDIBLE_C[0] <= reading / 1e3 <= _CREDIBLE_C[1]:
        yield Zone(name, reading / 1e3, passive, path)


def _passive(files: Sysfs, folder: str) -> float | None:
    trips = []
    for path in files.glob(f"{folder}/trip_point_*_type"):
        limit = files.number(f"{path.removesuffix('_type')}_temp")
        if files.text(path) == "passive" and limit is not None and limit > 0:
            trips.append(limit / 1e3)
    return min(trips, default=None)


def _chip_sensors(files: Sysfs) -> Iterator[Zone]:
    for path in files.glob("/sys/class/hwmon/hwmon*/temp*_input"):
        chip = files.text(f"{path.rsplit('/', 1)[0]}/name")
        if chip in _CHIP_SENSORS:
            label = files.text(f"{path.removesuffix('_input')}_label") or path.rsplit("/", 1)[1]
            yield from _zone(files, path, f"{chip} {label}", None)


def _unused(name: str, zones: list[Zone]) -> str:
    """Two zones may bear one name; the second then gets a number."""
    again = sum(zone.name == name or zone.name.startswith(f"{name} #") for zone in zones)
    return f"{name} #{again + 1}" if again else name


def _quota(files: Sysfs) -> Iterator[Counter]:
    counts = {}
    for folder in cgroups(files):
        told = re.search(r"^nr_throttled (\d+)$", files.text(f"{folder}/cpu.stat") or "", re.MULTILINE)
        if told is not None:
            counts[f"{folder}/cpu.stat"] = int(told[1])
    if counts:
        yield Counter("quota", "nr_throttled", counts)


def cgroups(files: Sysfs) -> tuple[str, ...]:
    """The folders of this process's control group for CPU time, with the groups above it, versions 2 and 1."""
    folders: list[str] = []
    for line in (files.text("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        head = "/sys/fs/cgroup" if not controllers else "/sys/fs/cgroup/cpu"
        if not controllers or "cpu" in controllers.split(","):
            parts = [part for part in path.split("/") if part and part != ".."]
            folders += ["/".join((head, *parts[:end])) for end in range(len(parts), -1, -1)]
    return tuple(dict.fromkeys(folders))


def _joint(counter: Counter) -> str:
    """One path for those of all cores, and none that names a container."""
    if counter.kind == "quota":
        return "cpu.stat below /sys/fs/cgroup"
    first = next(iter(counter.counts))
    return first if len(counter.counts) == 1 else re.sub(r"/cpu\d+/", "/cpu*/", first)
