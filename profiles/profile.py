"""What a board is, as values: facts with their sources, pins with their reasons, power modes, clusters, sensors.

Nothing here reads a file, and nothing elsewhere asks for a board's name: whatever differs between two boards is a
field of `DeviceProfile`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from edgekit.errors import UsageError

Precision = Literal["fp32", "fp16", "bf16", "int8"]

# A name is typed on a command line and stands in manifests: lower case, no spaces, no path separators.
_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_VERSION = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True)
class Fact:
    """One thing that is known about a board, and who says so.

    Attributes:
        value: None where it is unknown; `source` then says why.
        source: document, file or measurement that the value comes from; for a computed one also the formula.
        unit: of the value, or of each value in a list; None for counts, names and yes-or-no.
        verified: False for what nobody has checked against a document, a source file or a board.
        computed: True where the value follows from other facts instead of being stated or measured.
    """

    value: str | int | float | bool | tuple[str | int | float, ...] | None = None
    source: str = ""
    unit: str | None = None
    verified: bool = True
    computed: bool = False

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError("a fact names its source")


@dataclass(frozen=True)
class CpuCluster:
    """Equal cores that share a clock.

    Attributes:
        core: the core's design, such as `Cortex-A77`.
        count: cores in the cluster.
        clock_mhz: highest clock; None where the power mode sets it.
        l2_kib: level 2 cache of each core; None where unknown.
        source: who says so.
        verified: False for what nobody has checked.
    """

    core: str
    count: int
    source: str
    clock_mhz: float | None = None
    l2_kib: int | None = None
    verified: bool = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"a cluster of {self.count} cores is none")


@dataclass(frozen=True)
class PowerMode:
    """One setting of the board's power governor. A field that is None is not stated; peaks are dense, never sparse.

    Attributes:
        name, id: as the board's own tool prints them (`nvpmodel -q`).
        default: True for the mode that the board boots into.
        cpu_cores, cpu_mhz: cores on line and their highest clock.
        gpu_mhz, active_sms: the GPU's highest clock and the streaming multiprocessors that are powered.
        memory_mhz, memory_gb_s: the memory's clock and its peak bandwidth, 10^9 bytes a second.
        int8_tops, fp16_tflops, fp32_tflops: peaks of the GPU, 10^12 operations a second.
    """

    name: str
    id: int
    default: bool = False
    cpu_cores: Fact | None = None
    cpu_mhz: Fact | None = None
    gpu_mhz: Fact | None = None
    active_sms: Fact | None = None
    memory_mhz: Fact | None = None
    memory_gb_s: Fact | None = None
    int8_tops: Fact | None = None
    fp16_tflops: Fact | None = None
    fp32_tflops: Fact | None = None


@dataclass(frozen=True)
class Rail:
    """One channel of a power sensor: its number and label in sysfs, its shunt, and what it supplies."""

    channel: int
    label: str
    covers: str
    shunt_uohm: int | None = None


@dataclass(frozen=True)
class Sensor:
    """Where energy or power may be read. Only reading a value proves that it is there.

    Attributes:
        kind: the meter that knows how to read it: `ina3221`, `rapl`, `battery`.
        boundary: what is inside the figure and what is not.
        paths: globs, the first that matches wins; numbers in sysfs move between boots, so resolve at each start.
        source: who says so.
        total: label of the rail that is the whole; the other rails are parts of it and are never added to it.
        rails: the channels; empty where the meter finds them itself.
        facts: timing, resolution, accuracy.
        verified: False for what nobody has checked.
    """

    kind: str
    boundary: str
    paths: tuple[str, ...]
    source: str
    total: str | None = None
    rails: tuple[Rail, ...] = ()
    facts: dict[str, Fact] = field(default_factory=dict)
    verified: bool = True

    def __post_init__(self) -> None:
        if self.rails and self.total not in {rail.label for rail in self.rails}:
            raise ValueError(f"the total {self.total!r} is not the label of a rail")


@dataclass(frozen=True)
class DeviceProfile:
    """A target: what we decide for it (pins, each with its reason in `because`) and what is known of it (facts).

    Attributes:
        name, aliases: what users type.
        title: one line for people.
        runtime: name in the entry-point group `edgekit.runtimes`.
        runtime_min, runtime_below: versions that serve this board, from (inclusive) and to (exclusive, None = open).
        default_precision: what is exported when nobody asks for another, and nothing is measured.
        candidates: precisions that `--precision auto` considers, float first; the others have to beat that one. Empty
            where there is nothing to choose from.
        race_env: environment of a race on another machine, which holds the runtime back to this board's instructions.
        race_needs: candidate to CPU flags of Linux, any of which a machine must have for that candidate's figures to
            count for this board.
        opset, ir: ONNX opset and IR version, ceiling and pin in one.
        because: reason or source of each pin, by the field's name.
        isa: machine names (`platform.machine()`) that can run the bundle; empty for any.
        identity: words, any of which the board's device tree or processor name holds, whatever the case; a proof counts
            for this board only where one is found. Empty where nothing tells the board from others.
        python: version of the board's own Python, None where the board's owner chooses.
        settings: handed to the runtime when a bundle is loaded.
        memory_bytes: as sold, None where the maker of the board chooses.
        clusters: CPU cores, the fastest first.
        power_modes: empty where the board has none that we know of.
        sensors: in order of preference.
        paths: sysfs and procfs globs for clocks, load, heat and throttling; each value is a list of text.
        facts: everything else, by name.
    """

    name: str
    title: str
    runtime: str
    runtime_min: str
    default_precision: Precision
    opset: int
    ir: int
    because: dict[str, str]
    runtime_below: str | None = None
    aliases: tuple[str, ...] = ()
    isa: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    python: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    candidates: tuple[Precision, ...] = ()
    race_env: dict[str, str] = field(default_factory=dict)
    race_needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    memory_bytes: int | None = None
    clusters: tuple[CpuCluster, ...] = ()
    power_modes: tuple[PowerMode, ...] = ()
    sensors: tuple[Sensor, ...] = ()
    paths: dict[str, Fact] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name: lower-case letters, digits, and '-' or '.' between them")
        _check_versions(self.runtime_min, self.runtime_below)
        unexplained = sorted(self._pinned() - {name for name, reason in self.because.items() if reason.strip()})
        if unexplained:
            raise ValueError(f"the pin {unexplained[0]!r} has no reason: add because.{unexplained[0]}")
        if self.candidates[:1] == ("int8",):
            raise ValueError("the first candidate is the float that the others have to beat, not int8")
        _refuse_duplicates("candidate", self.candidates)
        _refuse_duplicates("power mode id", (mode.id for mode in self.power_modes))
        _refuse_duplicates("power mode name", (mode.name for mode in self.power_modes))
        for name, path in self.paths.items():
            if not isinstance(path.value, tuple) or not all(isinstance(item, str) for item in path.value):
                raise ValueError(f"paths.{name} is a list of globs, not {path.value!r}")

    def fact(self, name: str) -> Fact:
        """The fact of that name.

        Raises:
            UsageError: this profile does not state it, not even as unknown.
        """
        if name not in self.facts:
            raise UsageError(
                f"{self.name} states no fact {name!r}",
                where=f"profile {self.name}",
                why="neither this profile nor one that it extends mentions it",
                fix="the facts are: " + ", ".join(sorted(self.facts)),
            )
        return self.facts[name]

    @property
    def default_power_mode(self) -> PowerMode | None:
        """The mode that the board boots into, None where it is not known."""
        return next((mode for mode in self.power_modes if mode.default), None)

    def _pinned(self) -> set[str]:
        pinned = {"runtime", "runtime_min", "default_precision", "opset", "ir"}
        optional = {
            "runtime_below": self.runtime_below,
            "python": self.python,
            "memory_bytes": self.memory_bytes,
            "isa": self.isa,
            "identity": self.identity,
            "settings": self.settings,
            "candidates": self.candidates,
            "race_env": self.race_env,
            "race_needs": self.race_needs,
        }
        return pinned | {name for name, value in optional.items() if value}


def _check_versions(minimum: str, below: str | None) -> None:
    for version in (minimum, below):
        if version is not None and not _VERSION.fullmatch(version):
            raise ValueError(f"{version!r} is no version: numbers with dots between them")
    if below is not None and _numbers(minimum) >= _numbers(below):
        raise ValueError(f"no version is at least {minimum} and below {below}")


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in version.split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:  # 2.0 is 2
        numbers.pop()
    return tuple(numbers)


def _refuse_duplicates(what: str, values: Iterable[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"the {what} {value!r} stands twice")
        seen.add(value)
