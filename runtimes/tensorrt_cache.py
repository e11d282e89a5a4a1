"""Engines that were built and checked on this machine, each with a note of what it was built from and for.

An engine is code for one GPU and one TensorRT. Its key names everything that it depends on, its folder is readable by
its owner alone, and what is read is hashed against the note beside it before TensorRT sees a byte of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.bundle.atomic import publish, staging, unwritable_is_typed, write_file
from edgekit.bundle.strictjson import parse_json, render_json
from edgekit.errors import EdgekitError, IntegrityError
from edgekit.structure import decode, encode

SCHEMA: Literal["edgekit/engine/1"] = "edgekit/engine/1"
ENGINE, NOTE = "engine.plan", "engine.json"
_REBUILD = "edgekit build BUNDLE --force"
_MAX_NOTE_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """What an engine is built for, beside its model.

    Attributes:
        tensorrt: the version.
        cuda: what the driver serves.
        compute_capability: of the GPU, such as `8.7`.
        sm_count: multiprocessors that the power mode leaves on: the builder picks kernels for that many.
        gpu: its name, for people; it is not part of the key.
    """

    tensorrt: str
    cuda: str
    compute_capability: str
    sm_count: int
    gpu: str

    def differences(self, other: Place) -> list[str]:
        """In words, what an engine that was built at `other` has and this place has not."""
        pairs = (
            ("TensorRT", other.tensorrt, self.tensorrt),
            ("CUDA", other.cuda, self.cuda),
            ("compute capability", other.compute_capability, self.compute_capability),
            ("multiprocessors (power mode)", other.sm_count, self.sm_count),
        )
        return [f"{what}: built for {built}, here is {here}" for what, built, here in pairs if built != here]


@dataclass(frozen=True)
class Checked:
    """A self-test that the engine passed: `relative` is its largest deviation, max|a-b| / max(0.01, max|b|)."""

    name: str
    relative: float
    tolerance: float


@dataclass(frozen=True)
class EngineNote:
    """What stands beside an engine: `engine.json`.

    Attributes:
        key: see `engine_key`.
        model_sha256, recipe_sha256: what it was built from.
        engine_sha256, engine_bytes: of `engine.plan`.
        place: where.
        checked: the self-tests that it passed before it was put here.
    """

    schema: Literal["edgekit/engine/1"]
    key: str
    model_sha256: str
    recipe_sha256: str
    engine_sha256: str
    engine_bytes: int
    place: Place
    checked: tuple[Checked, ...] = ()


@dataclass(frozen=True)
class CachedEngine:
    """An engine that was read and whose hash is right."""

    plan: bytes
    note: EngineNote


def engine_key(model: bytes, recipe: bytes, place: Place) -> str:
    """SHA-256 over the ONNX, the recipe and the place (without the GPU's name), each with its length in front."""
    digest = hashlib.sha256()
    facts = (place.tensorrt, place.cuda, place.compute_capability, str(place.sm_count))
    for part in (model, recipe, *(fact.encode() for fact in facts)):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class EngineCache:
    """The folder of engines, which belongs to this user and is open to nobody else."""

    folder: Path

    @classmethod
    def of_user(cls) -> EngineCache:
        """`$XDG_CACHE_HOME/edgekit/engines`, made where it is missing.

        Raises:
            IntegrityError: it, or the folder around it, belongs to somebody else or can be written by others.
            InputError: it cannot be made.
        """
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "edgekit" / "engines"
        with unwritable_is_typed(folder):
            for part in (home, folder.parent, folder):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(folder.parent)
        _require_own(folder)
        return cls(folder)

    def place_of(self, key: str) -> Path:
        """The folder of one engine."""
        return self.folder / key

    def load(self, key: str, place: Place) -> CachedEngine | None:
        """The engine of that key, or None where there is none.

        Raises:
            IntegrityError: it was changed or damaged, belongs to somebody else, or was built elsewhere.
        """
        folder = self.place_of(key)
        if not os.path.lexists(folder):
            return None
        _require_own(folder)
        note = self._note(folder)
        differences = place.differences(note.place)
        if differences:
            raise _refused(folder, "the engine was not built for this machine", "; ".join(differences))
        if note.key != key:
            raise _refused(folder, "the engine is not the one that its folder names", f"its note says {note.key[:16]}")
        plan = _read_own(folder / ENGINE)
        if len(plan) != note.engine_bytes or sha256(plan) != note.engine_sha256:
            why = f"its SHA-256 is {sha256(plan)[:16]}..., the note says {note.engine_sha256[:16]}..."
            raise _refused(folder, "the engine was changed or damaged", why)
        return CachedEngine(plan, note)

    def publish(self, engine: CachedEngine) -> Path:
        """Put an engine where `load` finds it, in one step, in place of an older one of its key.

        Raises:
            MissingError: the disk is full; nothing has changed.
            InputError: the folder cannot be written.
        """
        path = self.place_of(engine.note.key)
        with unwritable_is_typed(path), staging(path) as fresh:
            fresh.mkdir(mode=0o700)
            write_file(fresh / ENGINE, [engine.plan], mode=0o600)
            write_file(fresh / NOTE, [render_json(encode(engine.note), NOTE)], mode=0o600)
            publish(fresh, path, replace=True)
        return path

    def drop(self, key: str) -> None:
        """Delete the engine of that key, whatever its state; nothing happens where there is none."""
        path = self.place_of(key)
        with unwritable_is_typed(path), staging(path) as doomed:
            if os.path.lexists(path):
                path.rename(doomed)  # `staging` removes what lies there

    def others(self, model_sha256: str, place: Place) -> str | None:
        """Why an engine of this model that is here does not serve, in words; None where there is none."""
        for note in self._notes():
            differences = place.differences(note.place)
            if note.model_sha256 == model_sha256 and differences:
                return "an engine of this model is here, but " + "; ".join(differences)
        return None

    def timing(self, name: str, place: Place) -> bytes:
        """What was learned about kernels on this GPU with this TensorRT; empty where nothing was.

        Raises:
            IntegrityError: the file belongs to somebody else, or others can write it.
        """
        path = self._timing_path(name, place)
        return _read_own(path) if os.path.lexists(path) else b""

    def publish_timing(self, name: str, place: Place, data: bytes) -> None:
        """Replace it in one step.

        Raises:
            MissingError, InputError: as `publish`.
        """
        path = self._timing_path(name, place)
        with unwritable_is_typed(path), staging(path) as fresh:
            write_file(fresh, [data], mode=0o600)
            publish(fresh, path, replace=True)

    def _timing_path(self, name: str, place: Place) -> Path:
        facts = "\0".join((place.tensorrt, place.cuda, place.compute_capability, str(place.sm_count)))
        return self.folder / f"{sha256(facts.encode())[:16]}-{name}"

    def _notes(self) -> Iterator[EngineNote]:
        """Those that can be read; a damaged one is found out when its own engine is asked for."""
        for folder in sorted(self.folder.iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                try:
                    yield self._note(folder)
                except EdgekitError:
                    continue

    def _note(self, folder: Path) -> EngineNote:
        path = folder / NOTE
        raw = _read_own(path, _MAX_NOTE_BYTES)
        try:
            return decode(EngineNote, parse_json(raw, str(path)), str(path))
        except EdgekitError as error:
            raise _refused(folder, "the engine's note cannot be read", error.what) from error


def _read_own(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a plain file that is this user's alone to write; what is checked is what is read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _refused(path.parent, f"{path.name} cannot be read", error.strerror or str(error)) from error
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path.parent, f"{path.name} is no plain file", "nothing else belongs here")
        _check_own(found, path)
        if limit is not None and found.st_size > limit:
            raise _refused(path.parent, f"{path.name} is too large", f"{found.st_size} bytes; the limit is {limit}")
        return file.read()


def _require_own(folder: Path) -> None:
    _check_own(folder.stat(follow_symlinks=False), folder)
    if not folder.is_dir() or folder.is_symlink():
        raise _refused(folder, "this is no folder", "engines lie in folders, and links are not followed")


def _check_own(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.getuid():
        raise IntegrityError(
            "the engine cache belongs to another user",
            where=str(path),
            why=f"its owner is user {found.st_uid}, and this is user {os.getuid()}: an engine is code",
            fix="set XDG_CACHE_HOME to a folder of your own, or delete this one",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(found.st_mode):
        raise IntegrityError(
            "others can write into the engine cache",
            where=str(path),
            why=f"its mode is {stat.S_IMODE(found.st_mode):o}, and an engine is code",
            fix=f"delete what is in it, then: chmod go-w {path}",
        )


def _refused(folder: Path, what: str, why: str) -> IntegrityError:
    return IntegrityError(what, where=str(folder), why=why, fix=f"build it again: {_REBUILD}")
