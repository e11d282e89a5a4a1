"""Wheels: what is in their names and metadata, and our own, packed from the files that run here."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping
from email.parser import HeaderParser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from edgekit.errors import InputError, MissingError
from edgekit.profiler.remote.markers import Requirement, holds, normal, parse_requirement

ROOMS = ("bundle", "cli", "exporters", "processing", "profiler", "profiles", "runtimes")
_ALWAYS = "edgekit"
_METADATA = ("METADATA", "PKG-INFO")  # of an install, and of a checkout that setuptools has looked at
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip can say: equal files give equal wheels


def own_requirements(values: Mapping[str, str], extras: tuple[str, ...] = ()) -> tuple[Requirement, ...]:
    """What edgekit itself needs on a device.

    Args:
        values: the device's marker variables, from `markers.environment`.
        extras: such as ("onnxruntime",).
    """
    stated = [parse_requirement(text) for text in _own().requires or ()]
    return tuple(each for each in stated if holds(each.marker, values, extras))


def build_own_wheel(folder: Path) -> Path:
    """Pack edgekit, file by file as it is imported here, into a wheel for any Python 3; it needs neither pip nor a net.

    Raises:
        MissingError: parts of the package are elsewhere, as in a plain editable install.
    """
    source = Path(__file__).parents[2]  # not resolved: a strict editable install links each file by itself
    absent = [room for room in ROOMS if not (source / room).is_dir()]
    if absent:
        raise MissingError(
            "edgekit cannot be packed for the device",
            where=str(source),
            why=f"these rooms are not beside the others: {', '.join(absent)}",
            fix="pip install . or pip install -e . --config-settings editable_mode=strict",
        )
    files = {
        f"edgekit/{path.relative_to(source).as_posix()}": path.read_bytes()
        for path in sorted(source.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    own = _own()
    info = f"edgekit-{own.version}.dist-info"
    files |= {f"{info}/{name}": text.encode() for name, text in _info(own).items()}
    path = folder / f"edgekit-{own.version}-py3-none-any.whl"
    _write_wheel(path, files, f"{info}/RECORD")
    return path


def name_and_version(path: Path) -> tuple[str, str]:
    """From a wheel's file name (packaging.python.org, "Binary distribution format").

    Raises:
        InputError: it is not the name of a wheel.
    """
    parts = path.name.removesuffix(".whl").split("-")
    if path.suffix != ".whl" or len(parts) not in (5, 6):
        raise InputError("this is not the name of a wheel", where=str(path), why="NAME-VERSION-PYTHON-ABI-PLATFORM.whl")
    return normal(parts[0]), parts[1]


def is_pure(file: str) -> bool:
    """Whether a wheel of that name runs on any machine."""
    return file.endswith("-none-any.whl")


def requirements_of(path: Path) -> tuple[Requirement, ...]:
    """What the package in a wheel needs.

    Raises:
        InputError: it is not a wheel, or says something that is not understood.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
            text = archive.read(name).decode()
        return tuple(parse_requirement(each) for each in HeaderParser().parsestr(text).get_all("Requires-Dist", []))
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError) as error:
        raise InputError("this wheel cannot be read", where=str(path), why=str(error) or "no METADATA in it") from error


def _own() -> Distribution:
    try:
        return distribution(_ALWAYS)
    except PackageNotFoundError as error:
        raise MissingError(
            "edgekit is not installed here, only imported",
            where="importlib.metadata",
            why="its requirements are not known",
            fix="pip install . in the checkout",
        ) from error


def _info(own: Distribution) -> dict[str, str]:
    """Files of the folder `.dist-info`, without RECORD."""
    metadata = next((text for name in _METADATA if (text := own.read_text(name))), None)
    if metadata is None:
        raise MissingError("edgekit's metadata is gone", where="importlib.metadata", fix="install edgekit again")
    wheel = "Wheel-Version: 1.0\nGenerator: edgekit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    optional = {name: own.read_text(name) for name in ("entry_points.txt", "licenses/LICENSE", "licenses/NOTICE")}
    return {"METADATA": metadata, "WHEEL": wheel, **{name: text for name, text in optional.items() if text}}


def _write_wheel(path: Path, files: Mapping[str, bytes], record: str) -> None:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow((name, f"sha256={digest}", len(content)))
    writer.writerow((record, "", ""))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, record: lines.getvalue().encode()}.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
