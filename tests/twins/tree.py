"""Builds the tree of a twin below a folder, and moves what moves on a running machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Link:
    """A symbolic link, relative as sysfs has them, to an absolute path of the same tree."""

    to: str


@dataclass(frozen=True)
class Broken:
    """A file that is there and cannot be read, as a channel with an I/O error."""


BROKEN = Broken()

Content = str | int | Link | Broken
Tree = Mapping[str, Content]

TICKS = 100
"""A second, of /proc/stat."""


def build(root: Path, tree: Tree) -> Path:
    """Write the tree below `root`, which then is what EDGEKIT_SYSFS_ROOT may name."""
    root.mkdir(parents=True, exist_ok=True)
    for path, content in tree.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            target = root / content.to.lstrip("/")
            place.symlink_to(os.path.relpath(target, place.parent))
        elif isinstance(content, Broken):
            place.mkdir()
        else:
            place.write_text(f"{content}\n")
    return root


def change(root: Path, files: Tree) -> None:
    """Give files of a tree that was built another content, each in one step, so that no reader sees half of it."""
    for path, content in files.items():
        place = root / path.lstrip("/")
        part = place.with_name(f".{place.name}.part")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Broken):
            place.unlink(missing_ok=True)
            place.mkdir()
        else:
            part.write_text(f"{content}\n")
            part.replace(place)


def times(cores: int, busy: int = 0, stolen: int = 0, total: int = 100_000, own: int = 0) -> dict[str, Content]:
    """/proc/stat and /proc/self/stat of a machine after `total` ticks, all cores together."""
    idle = total - busy - stolen
    first = f"cpu  {busy} 0 0 {idle} 0 0 0 {stolen} 0 0"
    each = [f"cpu{i} {busy // cores} 0 0 {idle // cores} 0 0 0 {stolen // cores} 0 0" for i in range(cores)]
    # The name may hold blanks and brackets; utime, stime, cutime, cstime are fields 14 to 17, faults stand before them.
    parts = f"{own - 3 * (own // 4)} {own // 4} {own // 4} {own // 4}"
    mine = f"4242 (python (3) x) R 1 1 1 0 -1 4194304 990 77 66 55 {parts} 20 0 1 0 1664895 3133440 390"
    return {"/proc/stat": "\n".join((first, *each)), "/proc/self/stat": mine}


def advance(root: Path, seconds: float, own: float = 0.0, others: float = 0.0, stolen: float = 0.0) -> None:
    """Let time pass: shares of all processor time that this process, others and the hypervisor took."""
    lines = (root / "proc/stat").read_text().splitlines()
    cores = len(lines) - 1
    ticks = [int(word) for word in lines[0].split()[1:]]
    mine = sum(map(int, (root / "proc/self/stat").read_text().rpartition(")")[2].split()[11:15]))
    step = seconds * TICKS * cores
    change(
        root,
        times(
            cores,
            ticks[0] + round(step * (own + others)),
            ticks[7] + round(step * stolen),
            sum(ticks) + round(step),
            mine + round(step * own),
        ),
    )


def cpufreq(core: int, low: int, high: int, governor: str, cap: int = 0, floor: int = 0, now: int = 0) -> Tree:
    """One core's clock, kHz; cap and floor are the hardware's where they are 0."""
    folder = f"/sys/devices/system/cpu/cpu{core}/cpufreq"
    values: dict[str, Content] = {"cpuinfo_min_freq": low, "cpuinfo_max_freq": high, "scaling_governor": governor}
    values |= {"scaling_min_freq": floor or low, "scaling_max_freq": cap or high}
    values |= {"scaling_cur_freq": now or floor or low}
    return {f"{folder}/{name}": value for name, value in values.items()}


def zones(folder: str, readings: Mapping[str, Content], passive: int = 0) -> Tree:
    """Thermal zones, milli-degC; with `passive` each has a passive trip there and a critical one above it."""
    files: dict[str, Content] = {}
    for number, (name, reading) in enumerate(readings.items()):
        zone = f"{folder}/thermal_zone{number}"
        files |= {f"{zone}/type": name, f"{zone}/temp": reading}
        if passive:
            files |= {f"{zone}/trip_point_0_type": "passive", f"{zone}/trip_point_0_temp": passive}
            files |= {f"{zone}/trip_point_1_type": "critical", f"{zone}/trip_point_1_temp": 104_500}
    return files
