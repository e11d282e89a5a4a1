"""Finds the profile files of all installed packages, lays variants over what they extend, and decodes the result.

A variant says `extends = "orin-nano"` (or a list of names) and states only what differs. Each ancestor's own
statements are laid down once, the first-named ancestor first. Tables such as `facts` are joined entry by entry; an
entry, a list or a number is replaced whole, so that a value never stands beside another value's source.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import plugins
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.profiles.profile import DeviceProfile
from edgekit.structure import decode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# These say who a profile is; a variant has its own.
_OWN = ("name", "title", "aliases", "extends")


def get(name: str) -> DeviceProfile:
    """The profile of that name or alias.

    Raises:
        UsageError: nothing is called so; the message lists the nearest names.
        InputError: a profile file or the package that brings it is broken; the message names it.
    """
    documents = _read(_installed_files())
    for document in documents.values():
        if name in document.calls:
            return _build(documents, document.header.name)
    known = sorted(call for document in documents.values() for call in document.calls)
    raise UsageError(
        f"unknown device {name!r}",
        where="edgekit.profiles",
        why="no installed profile has this name or alias",
        fix=_suggest(name, known),
    )


def all_profiles() -> list[DeviceProfile]:
    """Every installed profile, ours and those of other packages, by name.

    Raises:
        InputError: a profile file or the package that brings it is broken; the message names it.
    """
    return read_profiles(_installed_files())


def read_profiles(files: Iterable[Path]) -> list[DeviceProfile]:
    """The profiles in these TOML files, by name; whatever they extend has to be among them.

    Raises:
        InputError: a file is unreadable or malformed, extends what is not there or itself, or claims a name or alias
            that another file has; the message names the files and the field.
    """
    documents = _read(files)
    return [_build(documents, name) for name in sorted(documents)]


def builtin_files() -> list[Path]:
    """The TOML files that edgekit ships: what our own entry point of group `edgekit.profiles` returns."""
    return sorted(Path(__file__).parent.glob("*.toml"))


@dataclass(frozen=True)
class _Header:
    """The part of a file that can be understood before anything is inherited."""

    name: str
    aliases: tuple[str, ...] = ()
    extends: str | tuple[str, ...] = ()

    @property
    def parents(self) -> tuple[str, ...]:
        return (self.extends,) if isinstance(self.extends, str) else self.extends


@dataclass(frozen=True)
class _Document:
    """One file as it was written, before anything is inherited."""

    path: Path
    header: _Header
    data: Mapping[str, Any]

    @property
    def calls(self) -> tuple[str, ...]:
        return (self.header.name, *self.header.aliases)


def _installed_files() -> list[Path]:
    # Ours come first and without their entry point too: a checkout that nobody installed has its boards as well.
    found = {path.resolve(): path for path in builtin_files()}
    for name in plugins.names("edgekit.profiles"):
        for path in _plugin_files(name):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _plugin_files(name: str) -> list[Path]:
    try:
        offered = plugins.load("edgekit.profiles", name)()
        if isinstance(offered, str | bytes):
            raise TypeError("it returned text instead of a list of paths")
        return [Path(path) for path in offered]
    except EdgekitError:
        raise
    except Exception as error:  # a stranger's code may raise anything; all of it is an error of that package
        raise InputError(
            f"the plugin {name!r} does not hand over its device profiles",
            where=f"entry point {name!r} of group edgekit.profiles",
            why=f"{type(error).__name__}: {error}",
            fix="repair or uninstall the package that registers it",
        ) from error


def _read(files: Iterable[Path]) -> dict[str, _Document]:
    documents: dict[str, _Document] = {}
    claimed: dict[str, Path] = {}
    for path in files:
        data = _parse(path)
        head = {key: data[key] for key in ("name", "aliases", "extends") if key in data}
        document = _Document(path, decode(_Header, head, str(path)), data)
        for call in document.calls:
            if call in claimed:
                raise InputError(
                    f"two device profiles claim the name {call!r}",
                    where=f"{claimed[call]} and {path}",
                    why="a name or alias stands for one board",
                    fix="rename one of them, or uninstall one of the packages",
                )
            claimed[call] = path
        documents[document.header.name] = document
    return documents


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError("a device profile cannot be read", where=str(path), why=why, fix="check the file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        fix = "correct the file; https://toml.io describes the format"
        raise InputError("a device profile is not TOML", where=str(path), why=str(error), fix=fix) from error


def _build(documents: Mapping[str, _Document], name: str) -> DeviceProfile:
    # Ancestors are decoded first, so that a mistake is reported in the file where it stands.
    line = _lineage(documents, name, trail=())
    return [decode(DeviceProfile, _merge(documents, each), f"{documents[each].path}: {each}") for each in line][-1]


def _merge(documents: Mapping[str, _Document], name: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for each in _lineage(documents, name, trail=()):
        merged = {key: value for key, value in merged.items() if key not in _OWN}
        for key, value in documents[each].data.items():
            old = merged.get(key)
            merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    merged.pop("extends", None)
    return merged


def _lineage(documents: Mapping[str, _Document], name: str, trail: tuple[str, ...]) -> list[str]:
    """Names whose statements make up `name`, in the order in which they are laid down; `name` is the last."""
    document = documents[name]
    if name in trail:
        circle = " -> ".join([*trail[trail.index(name) :], name])
        raise InputError(
            f"device profiles extend one another in a circle: {circle}",
            where=f"{document.path}: {name}.extends",
            why="nothing is at the bottom of it",
            fix="let one of them stand on its own",
        )
    order: list[str] = []
    for parent in document.header.parents:
        if parent not in documents:
            raise InputError(
                f"{name!r} extends {parent!r}, which is not there",
                where=f"{document.path}: {name}.extends",
                why="no installed profile has this name (an alias does not count)",
                fix=_suggest(parent, sorted(documents)),
            )
        order += [each for each in _lineage(documents, parent, (*trail, name)) if each not in order]
    return [*order, name]


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    nearest = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{nearest}known: {', '.join(known)}"
