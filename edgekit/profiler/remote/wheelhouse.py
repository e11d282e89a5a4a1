"""A folder of wheels for a device that has no internet: prepared here by pip, with a manifest that hashes each.

pip chooses wheels for the device's Python, machine and C library, but evaluates environment markers for the Python that
runs it (`tomli; python_version < "3.11"` would be left out): what a marker asks for on the device is added here.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import machine, profiles
from edgekit.bundle.atomic import publish, staging, unwritable_is_typed
from edgekit.bundle.strictjson import parse_json
from edgekit.errors import InputError, IntegrityError, MissingError, UsageError
from edgekit.profiler.remote.markers import Requirement, environment, holds
from edgekit.profiler.remote.wheels import build_own_wheel, name_and_version, own_requirements, requirements_of
from edgekit.profiles import DeviceProfile
from edgekit.structure import decode, encode

SCHEMA = "edgekit/wheelhouse/1"
MANIFEST = "wheelhouse.json"
# Debian 10, Ubuntu 18.10 and all later ones: wheels for it also run on newer C libraries.
GLIBC = "2.28"
FROM_SYSTEM = ("tensorrt",)  # JetPack brings it; NVIDIA has no wheels of it for Jetson on the public index
# PEP 600 (manylinux_X_Y) and its aliases; the oldest that each machine has.
_OLDEST = {"x86_64": 5, "aarch64": 17}
_ALIASES = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_ROUNDS = 6  # each adds what markers asked for in the round before; two were the most that was seen


@dataclass(frozen=True)
class Wheel:
    """One file of a wheelhouse; `name` in normal form, `sha256` in hexadecimal digits."""

    file: str
    name: str
    version: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Wheelhouse:
    """What a wheelhouse is for, and what is in it.

    Attributes:
        target: the profile's name.
        runtime: the runtime that bundles for it need; not among the wheels where the board's system brings it.
        python: such as `3.10`.
        isa: `aarch64` or `x86_64`.
        glibc: the oldest C library on which all of it runs.
    """

    target: str
    runtime: str
    python: str
    isa: str
    glibc: str
    wheels: tuple[Wheel, ...]
    schema: str = SCHEMA

    @property
    def size_bytes(self) -> int:
        """Of all wheels."""
        return sum(wheel.size_bytes for wheel in self.wheels)

    def has(self, name: str) -> bool:
        """Whether a wheel of that package is in it."""
        return any(wheel.name == name for wheel in self.wheels)


def prepare_wheelhouse(
    target: str,
    to: Path,
    *,
    python: str | None = None,
    glibc: str = GLIBC,
    constraint: Path | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Wheelhouse:
    """Let pip download what edgekit and the target's runtime need on the device, and put our own wheel beside it.

    Args:
        to: a new folder.
        python: the device's version, such as `3.10`; the profile's by default.
        constraint: a file of pins for pip.

    Raises:
        UsageError: `to` exists, or the profile does not say which Python the device has.
        MissingError: pip is not here, or finds no wheel for the device.
    """
    profile = profiles.get(target)
    version = python or profile.python or (None if profile.isa else platform.python_version())
    isa = (profile.isa or (machine.machine(),))[0]
    _require_known(profile, version, isa, glibc)
    if to.exists():
        raise UsageError(
            "the folder exists", where=str(to), why="wheels of two targets would mix", fix="name a new one"
        )
    short = ".".join(str(version).split(".")[:2])
    values = environment(short, isa)
    needs = runtime_requirements(profile.runtime, profile.runtime_min, profile.runtime_below, values, _cuda(profile))
    wanted = [each for each in (*own_requirements(values), *needs) if each.name not in FROM_SYSTEM]
    platforms = _platforms(isa, glibc)
    with unwritable_is_typed(to), staging(to) as fresh:
        fresh.mkdir(parents=True)
        _download_all(wanted, fresh, (short, platforms, constraint), values, told)
        build_own_wheel(fresh)
        wheels = tuple(_wheel(path) for path in sorted(fresh.glob("*.whl")))
        house = Wheelhouse(profile.name, profile.runtime, short, isa, glibc, wheels)
        (fresh / MANIFEST).write_text(json.dumps(encode(house), indent=1) + "\n", "utf-8")
        publish(fresh, to, replace=False)
    return house


def read_wheelhouse(folder: Path) -> Wheelhouse:
    """The manifest of a wheelhouse whose files are what it says.

    Raises:
        InputError: there is none, or it is of another form.
        IntegrityError: a wheel is missing or was changed.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            "this is no wheelhouse",
            where=str(path),
            why=error.strerror,
            fix="make one: edgekit wheelhouse --target TARGET -o FOLDER",
        ) from error
    house = decode(Wheelhouse, parse_json(raw, str(path)), str(path))
    if house.schema != SCHEMA:
        raise InputError("this wheelhouse is of another form", where=str(path), why=house.schema, fix="make it again")
    for wheel in house.wheels:
        file = folder / Path(wheel.file).name
        if not file.is_file() or _wheel(file) != wheel:
            raise IntegrityError(
                "a wheel is not the one that was put there",
                where=str(file),
                why="it is missing, or its hash differs from the manifest's",
                fix="make the wheelhouse again",
            )
    return house


def runtime_requirements(
    runtime: str, least: str, below: str | None, values: dict[str, str], cuda: str | None = None
) -> tuple[Requirement, ...]:
    """What a runtime needs on the device: the packages of its extra, the runtime itself within the range given.

    Args:
        cuda: the device's CUDA, such as `12.6`; its Python bindings have to be of the same release.
    """
    base = {each.name for each in own_requirements(values)}
    found = [each for each in own_requirements(values, (runtime,)) if each.name not in base]
    exact = {runtime: f">={least}" + (f",<{below}" if below else "")}
    if cuda:
        exact["cuda-python"] = f"=={cuda}.*"
    return tuple(Requirement(each.name, each.extras, exact.get(each.name, each.versions), "") for each in found)


def _require_known(profile: DeviceProfile, python: str | None, isa: str, glibc: str) -> None:
    if python is None:
        raise UsageError(
            f"nothing says which Python {profile.name} has",
            where=f"profile {profile.name}",
            why="wheels are made for one version",
            fix="name it: --python 3.11; `python3 -V` on the device prints it",
        )
    if not re.fullmatch(r"3\.\d+(\.\d+)?", python) or not re.fullmatch(r"2\.\d+", glibc):
        raise UsageError(
            f"Python {python} and glibc {glibc} are not versions that exist",
            where="--python, --glibc",
            fix="such as --python 3.10 --glibc 2.35",
        )
    if isa not in _OLDEST:
        raise UsageError(
            f"there are no common wheels for {isa}", where=profile.name, fix="install edgekit there by hand"
        )


def _cuda(profile: DeviceProfile) -> str | None:
    fact = profile.facts.get("cuda")
    return str(fact.value) if fact and fact.value else None


def _platforms(isa: str, glibc: str) -> tuple[str, ...]:
    newest = int(glibc.split(".")[1])
    tags = [f"manylinux_2_{minor}_{isa}" for minor in range(newest, _OLDEST[isa] - 1, -1)]
    aliases = [f"{name}_{isa}" for minor, name in _ALIASES.items() if _OLDEST[isa] <= minor <= newest]
    return (*tags, *aliases)


def _download_all(
    needed: Sequence[Requirement],
    folder: Path,
    kind: tuple[str, tuple[str, ...], Path | None],
    values: dict[str, str],
    told: Callable[[str], None],
) -> None:
    """Fill `folder` until it holds all that its own wheels ask for; pip itself comes along, for boards without one."""
    wanted = [each.text for each in needed] + ["pip"]
    for _ in range(_ROUNDS):
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as name:
            told(f"downloading {', '.join(wanted)}")
            _download(wanted, Path(name), *kind)
            absent = _absent(needed, Path(name), values)
            if not absent:
                for path in Path(name).glob("*.whl"):
                    path.rename(folder / path.name)
                return
        wanted += absent
    raise MissingError("the wheels never became complete", where=str(folder), why=f"still missing: {', '.join(absent)}")


def _download(
    wanted: Sequence[str], folder: Path, python: str, platforms: Sequence[str], constraint: Path | None
) -> None:
    abi = "cp" + python.replace(".", "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    command += [part for each in (abi, "abi3", "none") for part in ("--abi", each)]
    command += [part for each in platforms for part in ("--platform", each)]
    command += ["--constraint", str(constraint.resolve())] if constraint else []
    done = subprocess.run(  # noqa: S603  # this Python and its pip; the user asked for wheels
        [*command, "--", *wanted], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["pip said nothing"]
        raise MissingError(
            f"pip does not find all wheels for Python {python} on {platforms[0]}",
            where="pip download",
            why=" ".join(errors),
            fix="try another --python or --glibc, a --constraint with other versions, or pip's own settings",
        )


def _absent(needed: Sequence[Requirement], folder: Path, values: dict[str, str]) -> list[str]:
    """What the wheels in `folder` ask for on the device that is not among them, as pip takes it."""
    wheels = {name_and_version(path)[0]: path for path in folder.glob("*.whl")}
    pending = list(needed)
    seen: set[tuple[str, tuple[str, ...]]] = set()
    absent: dict[str, str] = {}
    while pending:
        each = pending.pop()
        if (each.name, each.extras) in seen:
            continue
        seen.add((each.name, each.extras))
        if each.name not in wheels:
            absent[each.name] = each.text
            continue
        asked = requirements_of(wheels[each.name])
        pending += [other for other in asked if holds(other.marker, values, each.extras)]
    return list(absent.values())


def _wheel(path: Path) -> Wheel:
    name, version = name_and_version(path)
    content = path.read_bytes()
    return Wheel(path.name, name, version, len(content), hashlib.sha256(content).hexdigest())
