"""The machine around a measurement: a snapshot before, one after, and the conditions that the two make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.machine import is_device
from edgekit.profiler.clocks import Clock, read_clocks
from edgekit.profiler.heat import Cooling, Counter, Zone, moved, read_cooling, read_counters, read_zones
from edgekit.profiler.hostfacts import CpuTime, Fact, is_board, names, read_cpu_time, read_facts
from edgekit.profiler.powermode import BoardMode, read_mode
from edgekit.profiler.report import Condition
from edgekit.profiler.sysfs import Sysfs
from edgekit.profiles.profile import DeviceProfile

_LEAST_TICKS = 50
"""Half a second at the kernel's 100 Hz: below it a share of the processor's time is a matter of luck."""


@dataclass(frozen=True)
class Snapshot:
    """What could be told at one instant; nothing here was guessed.

    Attributes:
        names: what the machine calls itself, see `edgekit.machine.machine_names`.
        target: the profile that was asked for; None without one. power_limit_w: what that profile states.
        on_target: whether this machine is one; None where the profile does not say how to tell.
        board: whether it is an embedded board, with a device tree, and no virtual machine.
        mode: of nvpmodel, None where there is none.
        cpu_time: None where the kernel does not tell.
    """

    names: tuple[str, ...]
    target: str | None
    on_target: bool | None
    board: bool
    facts: tuple[Fact, ...]
    mode: BoardMode | None
    clocks: tuple[Clock, ...]
    zones: tuple[Zone, ...]
    cooling: tuple[Cooling, ...]
    counters: tuple[Counter, ...]
    cpu_time: CpuTime | None
    power_limit_w: float | None = None

    def fact(self, name: str) -> str | None:
        """The value of the fact of that name, None where it could not be told."""
        return next((fact.value for fact in self.facts if fact.name == name), None)


@dataclass(frozen=True)
class Load:
    """Shares of the machine's processor time over a window, 0 to 1.

    Attributes:
        others: taken by other processes; None where this process's own time is not known.
        stolen: given to another machine by the hypervisor.
    """

    others: float | None
    stolen: float


def snapshot(profile: DeviceProfile | None, root: Path | None = None) -> Snapshot:
    """Read the machine as it is now, a few milliseconds; what cannot be read is left out.

    Args:
        profile: of the bundle's target, whose paths are tried before the general ones.
        root: in whose place `/` stands; by default what EDGEKIT_SYSFS_ROOT names, or `/`.
    """
    files = Sysfs.at(root)
    called = names(files)
    identity = profile.identity if profile is not None else ()
    limit = profile.facts["power_limit_w"].value if profile is not None and "power_limit_w" in profile.facts else None
    return Snapshot(
        called,
        profile.name if profile is not None else None,
        is_device(identity, called) if identity else None,
        is_board(files),
        read_facts(files, profile),
        read_mode(files, profile),
        read_clocks(files, profile),
        read_zones(files, profile),
        read_cooling(files),
        read_counters(files, profile),
        read_cpu_time(files),
        float(limit) if isinstance(limit, int | float) else None,
    )


def load_between(before: Snapshot, after: Snapshot) -> Load | None:
    """Who had the processor between the two; None where the kernel does not tell, or the window is too short.

    This process's own time is taken off, with that of its children which have ended by `after`.
    """
    first, last = before.cpu_time, after.cpu_time
    if first is None or last is None or last.total - first.total < _LEAST_TICKS:
        return None
    whole = last.total - first.total
    stolen = max(0, last.stolen - first.stolen) / whole
    if first.own is None or last.own is None:
        return Load(None, stolen)
    others = (last.busy - first.busy) - (last.own - first.own)
    return Load(min(1.0, max(0, others) / whole), stolen)


def changes(before: Snapshot, after: Snapshot) -> tuple[tuple[Fact, Fact], ...]:
    """What should have stayed as it was, and did not: governor, caps, power mode, cores on line."""
    later = {fact.name: fact for fact in _told(after)}
    pairs = ((fact, later.get(fact.name, Fact(fact.name, None))) for fact in _told(before))
    return tuple((old, new) for old, new in pairs if not old.moves and old.value != new.value)


def conditions(before: Snapshot, after: Snapshot) -> tuple[Condition, ...]:
    """The facts of a report: `after` stands where a fact may move, or did. Counters count from the first snapshot."""
    later = {fact.name: fact for fact in _told(after)}
    rows = [_row(fact, later.pop(fact.name, Fact(fact.name, None))) for fact in _told(before)]
    rows += [Condition(fact.name, None, fact.value, fact.unit, fact.source) for fact in later.values()]
    rows += [
        Condition(f"{move.kind} events {move.name}", "0", _text(move.events), "events", move.source)
        for move in moved(before.counters, after.counters)
    ]
    if not before.counters:
        rows.append(Condition("throttle events", None, None, "events", "nothing counts them here"))
    return (*rows, *_shares(load_between(before, after)))


def _row(old: Fact, new: Fact) -> Condition:
    changed = new.value if old.moves or old.value != new.value else None
    return Condition(old.name, old.value, changed, old.unit, old.source)


def _shares(load: Load | None) -> tuple[Condition, ...]:
    """Facts of the window as a whole: they stand in `before`, and nothing in `after`."""
    kinds = ("load of other processes in the run", "time stolen by the hypervisor in the run")
    if load is None:
        return tuple(Condition(name, None, None, "%", "/proc/stat: not readable, or too short a run") for name in kinds)
    return (
        Condition(kinds[0], _percent(load.others), None, "%", "/proc/stat less /proc/self/stat"),
        Condition(kinds[1], _percent(load.stolen), None, "%", "/proc/stat"),
    )


def _told(snapshot: Snapshot) -> Iterator[Fact]:
    """All that a snapshot says, as rows."""
    yield from snapshot.facts
    if snapshot.mode is not None:
        yield Fact("power mode", str(snapshot.mode), None, snapshot.mode.source)
        yield Fact("power mode caps", snapshot.mode.caps, None, snapshot.mode.source)
        if snapshot.mode.fan is not None:
            yield Fact("fan mode", snapshot.mode.fan, None, snapshot.mode.source)
    for clock in snapshot.clocks:
        yield from _clock(clock)
    if not any(clock.kind == "cpu" for clock in snapshot.clocks):
        yield Fact("governor cpu", None, None, "no cpufreq here: virtual machines seldom have it")
    for zone in snapshot.zones:
        yield Fact(f"temperature {zone.name}", f"{zone.celsius:.1f}", "degC", zone.source, moves=True)
    if not snapshot.zones:
        yield Fact("temperature", None, "degC", "no thermal zone and no sensor of the chip here", moves=True)
    for device in snapshot.cooling:
        yield Fact(f"slowed down by {device.name}", str(device.state), None, device.source, moves=True)


def _clock(clock: Clock) -> Iterator[Fact]:
    yield Fact(f"clock {clock.name}", _text(clock.current_mhz), "MHz", clock.source, moves=True)
    yield Fact(f"clock cap {clock.name}", _text(clock.cap_mhz), "MHz", clock.source)
    if clock.kind != "memory":
        yield Fact(f"clock floor {clock.name}", _text(clock.floor_mhz), "MHz", clock.source)
    pinned = {True: "pinned", False: "not pinned", None: None}[clock.pinned]
    yield Fact(f"clocks {clock.name}", pinned, None, clock.source, moves=clock.kind == "memory")
    if clock.governors:
        yield Fact(f"governor {clock.name}", ", ".join(clock.governors), None, clock.source)


def _text(value: float | None) -> str | None:
    if value is None or isinstance(value, int):
        return None if value is None else str(value)
    return f"{value:g}" if math.isfinite(value) else "no limit"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"
