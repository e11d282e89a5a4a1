"""Is the device ready? Everything that is missing is said at once, each with what would bring it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.bundle import Manifest
from edgekit.errors import MissingError, UnsupportedError
from edgekit.profiler.remote.device import Device
from edgekit.profiler.remote.markers import Requirement, environment
from edgekit.profiler.remote.probe import Facts, PythonFacts
from edgekit.profiler.remote.wheelhouse import FROM_SYSTEM, Wheelhouse, runtime_requirements
from edgekit.profiler.remote.wheels import is_pure, own_requirements
from edgekit.runtimes.session import version_problem

OLDEST_PYTHON = (3, 10)
UNPACKED = 5  # bytes installed for each byte of a wheel; numpy takes 4.3
SPARE = 64 << 20  # bytes for the report, its samples and the environment itself
_TERMUX = (
    "install Termux from F-Droid, there `pkg install openssh python python-numpy python-cryptography` and a runtime, "
    "start `sshd`, and use --device ssh://PHONE:8022; Android's own shell has no Python"
)
_RANGE = re.compile(r">=(?P<least>[\d.]+)(?:,<(?P<below>[\d.]+))?|==(?P<exact>[\d.]+)\.\*")


@dataclass(frozen=True)
class Need:
    """What a run asks of a device.

    Attributes:
        runtime, least, below: of the bundle's runtime.
        isa: instruction sets that the bundle is for; empty for any.
        bundle_bytes: size of the bundle.
        target: the profile's name, for messages.
    """

    runtime: str
    least: str
    below: str | None
    isa: tuple[str, ...]
    bundle_bytes: int
    target: str

    @classmethod
    def of(cls, manifest: Manifest, bundle_bytes: int) -> Need:
        """What a bundle's manifest asks for."""
        target = manifest.target
        need = target.runtime
        return cls(need.name, need.min, need.below, tuple(target.isa), bundle_bytes, target.name)

    def requirements(self, python: str, isa: str) -> tuple[Requirement, ...]:
        """The packages: edgekit's own and the runtime's."""
        values = environment(python, isa)
        return (*own_requirements(values), *runtime_requirements(self.runtime, self.least, self.below, values))


@dataclass(frozen=True)
class Problem:
    """One thing that is missing, and what would bring it."""

    what: str
    fix: str


def require_ready(device: Device, facts: Facts, need: Need, wheelhouse: Wheelhouse | None) -> PythonFacts:
    """See that the run can begin there, and return what its Python says.

    Raises:
        UnsupportedError: an Android device without a Python.
        MissingError: something is missing; all of it is named.
    """
    if facts.android and not facts.python:
        raise UnsupportedError(
            f"{device.address}: there is no Python to profile with",
            where=f"{facts.model or 'Android'} {facts.android}",
            why="`command -v python3` finds nothing in its shell",
            fix=_TERMUX,
        )
    found = list(problems(facts, need, wheelhouse))
    if found or facts.interpreter is None:
        raise MissingError(
            f"{device.address} is not ready: {len(found)} {'thing is' if len(found) == 1 else 'things are'} missing",
            where=f"{facts.model or facts.system} {facts.machine}".strip(),
            why="; ".join(each.what for each in found),
            fix="; ".join(dict.fromkeys(each.fix for each in found)),
        )
    return facts.interpreter


def problems(facts: Facts, need: Need, wheelhouse: Wheelhouse | None) -> Iterator[Problem]:
    """All that is missing on the device."""
    if need.isa and facts.machine not in need.isa:
        yield Problem(
            f"the bundle is for {' or '.join(need.isa)}, the device is {facts.machine}", "export it for this one"
        )
    for folder in facts.busy:
        name = folder.rsplit("/", 1)[-1]
        yield Problem(
            f"run {name} is under way there, and would disturb this one",
            f"wait for it: edgekit profile --resume {name}",
        )
    if facts.interpreter is None:
        why = f"{facts.python} is no Python 3" if facts.python else "there is no Python"
        yield Problem(why, "`sudo apt-get install python3`, or name one with --remote-python")
        return
    python = facts.interpreter
    if python.version[:2] < OLDEST_PYTHON:
        have, least = _dotted(python.version), _dotted(OLDEST_PYTHON)
        yield Problem(f"its Python is {have}, edgekit needs {least}", "name a newer one with --remote-python")
    if wheelhouse:
        yield from _misfits(facts, python, wheelhouse)
    yield from _absent_packages(facts, python, need, wheelhouse)
    room = need.bundle_bytes + SPARE + (UNPACKED + 1) * (wheelhouse.size_bytes if wheelhouse else 0)
    if python.free < room:
        yield Problem(
            f"{python.free >> 20} MiB are free in {facts.root}, {room >> 20} MiB are needed",
            "free some space, or name another folder with --remote-root",
        )


def _misfits(facts: Facts, python: PythonFacts, wheelhouse: Wheelhouse) -> Iterator[Problem]:
    have = _dotted(python.version[:2])
    fitting = f"make one that fits: edgekit wheelhouse --target {wheelhouse.target} --python {have} -o FOLDER"
    if python.implementation != "CPython":
        yield Problem(f"its Python is {python.implementation}, the wheels are for CPython", "name a CPython")
    if have != wheelhouse.python:
        yield Problem(f"its Python is {have}, the wheelhouse is for {wheelhouse.python}", fitting)
    if all(is_pure(wheel.file) for wheel in wheelhouse.wheels):
        return
    if facts.machine != wheelhouse.isa:
        yield Problem(f"the device is {facts.machine}, the wheelhouse is for {wheelhouse.isa}", fitting)
    name, version = python.libc
    if name != "glibc":
        yield Problem(f"its C library is {name or 'not glibc'}, the wheels are for glibc", _TERMUX)
    elif version_problem(version, wheelhouse.glibc, None):
        yield Problem(
            f"its glibc is {version}, the wheelhouse needs {wheelhouse.glibc}", f"{fitting} --glibc {version}"
        )


def _absent_packages(facts: Facts, python: PythonFacts, need: Need, wheelhouse: Wheelhouse | None) -> Iterator[Problem]:
    house = (
        f"edgekit wheelhouse --target {need.target} --python {_dotted(python.version[:2])} -o FOLDER, and --wheelhouse"
    )
    for each in need.requirements(_dotted(python.version[:2]), facts.machine):
        have = python.packages.get(each.name)
        if satisfied(have, each) or (wheelhouse and wheelhouse.has(each.name)):
            continue
        seen = f"{each.name} {have} is there, {each.text} is needed" if have else f"{each.text} is not installed"
        system = f"install JetPack's: `sudo apt-get install {each.name} python3-libnvinfer`"
        yield Problem(seen, system if each.name in FROM_SYSTEM else house)


def satisfied(version: str | None, requirement: Requirement) -> bool:
    """Whether an installed version will do; the forms are those that edgekit's own requirements have."""
    if version is None:
        return False
    found = _RANGE.fullmatch(requirement.versions)
    if not found:
        return not requirement.versions
    if found["exact"]:
        return version == found["exact"] or version.startswith(found["exact"] + ".")
    return version_problem(version, found["least"], found["below"]) is None


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
