"""The board's power mode by its name and its caps, because ids differ between modules, and JetPack's release."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.profiler.places import first_text, found
from edgekit.profiler.sysfs import Sysfs
from edgekit.profiles.profile import DeviceProfile

_CHOSEN_FILE = "/var/lib/nvpmodel/conf_file_path"
_UNLIMITED = 9223372036854775807

_JETPACK = {
    "35.1.0": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5.0": "5.1.3", "35.6.0": "5.1.4",
    "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1", "36.5.0": "6.2.2",
    "38.2.0": "7.0", "38.4.0": "7.1", "39.2.0": "7.2",
}  # fmt: skip
"""L4T to JetPack: NVIDIA's JetPack archive; from 36.4.3 on also rbonghi/jetson_stats@f41d5ca (facts alone)."""
_FAMILY = {"35": "5", "36": "6", "38": "7", "39": "7"}


@dataclass(frozen=True)
class BoardMode:
    """What nvpmodel is set to.

    Attributes:
        name: as the board's own file calls it; None where that file does not tell.
        caps: `4 cores, CPU 960 MHz, GPU 408 MHz, TPC mask 252, memory 2133 MHz`; None where unknown.
        fan: the fan's mode, where the status has it.
        source: the files that were read.
    """

    id: int
    name: str | None
    caps: str | None
    fan: str | None
    source: str

    def __str__(self) -> str:
        return self.name or f"id {self.id}, whose name is not known"


def read_mode(files: Sysfs, profile: DeviceProfile | None) -> BoardMode | None:
    """The mode now; None where there is no nvpmodel."""
    status, path = first_text(files, profile, "power_mode")
    told = re.search(r"pmode:\s*(\d+)", status or "")
    if told is None:
        return None
    fan = re.search(r"fmode:\s*(\S+)", status or "")
    number = int(told[1])
    for place in _tables(files, profile):
        section = _section(files.text(place) or "", number)
        if section is not None:
            name, lines = section
            return BoardMode(number, name, _caps(lines) or None, fan and fan[1], f"{path}, {place}")
    return BoardMode(number, None, None, fan and fan[1], str(path))


def jetpack(release: str | None) -> str | None:
    """`6.2 (L4T 36.4.3)` from the first line of /etc/nv_tegra_release; None where it is no such line."""
    told = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release or "")
    if told is None:
        return None
    version = f"{told[1]}.{told[2]}"
    family = _FAMILY.get(told[1])
    known = _JETPACK.get(version) or (f"{family}, release not known" if family else "unknown")
    return f"{known} (L4T {version})"


def _tables(files: Sysfs, profile: DeviceProfile | None) -> tuple[str, ...]:
    chosen = files.text(_CHOSEN_FILE)
    return (*found(files, profile, "power_mode_names"), *((chosen,) if chosen else ()))


def _section(text: str, number: int) -> tuple[str, list[list[str]]] | None:
    """Name and lines, split into words, of `< POWER_MODEL ID=2 NAME=MAXN_SUPER >`."""
    found_name, lines = None, []
    for line in text.splitlines():
        head = re.match(r"\s*<\s*(\w+)(?:\s+ID=(\d+)\s+NAME=(\S+))?", line)
        if head is not None:
            if found_name is not None:
                break
            found_name = head[3] if head[1] == "POWER_MODEL" and head[2] and int(head[2]) == number else None
        elif found_name is not None and not line.lstrip().startswith("#") and len(line.split()) == 3:
            lines.append(line.split())
    return None if found_name is None else (found_name, lines)


def _caps(lines: list[list[str]]) -> str:
    cores = [value for part, _, value in lines if part == "CPU_ONLINE"]
    caps = [f"{cores.count('1')} cores"] if cores else []
    for part, argument, value in lines:
        if argument == "MAX_FREQ" and (part == "GPU" or part.startswith("CPU_")):
            label = "GPU" if part == "GPU" else "CPU"
            caps.append(f"{label} {_megahertz(value, 1e6 if label == 'GPU' else 1e3)}")
        elif argument == "TPC_PG_MASK":
            caps.append(f"TPC mask {value}")
        elif part == "EMC" and argument == "MAX_FREQ":
            caps.append(f"memory {_megahertz(value, 1e6)}")
    return ", ".join(dict.fromkeys(caps))


def _megahertz(value: str, per_mhz: float) -> str:
    if not re.fullmatch(r"-?\d+", value):
        return value
    number = int(value)
    return "no limit" if number <= 0 or number >= _UNLIMITED else f"{number / per_mhz:g} MHz"
