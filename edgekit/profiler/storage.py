"""A profile on the disk: `NAME.profile.json`, and beside it the folder `NAME.profile` with its samples as `.npy`.

Reports come from strangers too: both are read strictly, nothing is unpickled, and sizes are checked before reading.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekit.bundle.atomic import publish, staging, sync_folder, unwritable_is_typed, write_file
from edgekit.bundle.npy import decode_array, encode_array
from edgekit.bundle.strictjson import parse_json, render_json
from edgekit.errors import InputError, IntegrityError
from edgekit.profiler.report import SCHEMA, Report
from edgekit.structure import decode, encode

SUFFIX = ".profile.json"
LATENCY, PROCESSES, STARTS = "latency_ms.npy", "processes.npy", "start_s.npy"
ENERGY_TIMES = "energy_t_s.npy"
SOAK, SOAK_STARTS = "soak_ms.npy", "soak_start_s.npy"
ENERGY_WATTS, ENERGY_JOULES = "energy_w.npy", "energy_j.npy"
"""Of a meter that reads power, and of one that counts energy."""

MAX_REPORT_BYTES = 16 << 20
MAX_ARRAY_BYTES = 1 << 30
MAX_ARRAYS = 64

Array = npt.NDArray[Any]
_NAME = re.compile(r"[a-z0-9_]{1,60}\.npy")
_HOW = "profile the bundle again, or copy the .profile.json together with its folder"


class Profiled(Protocol):
    """A report and its samples by file name, as `edgekit.profiler.profile.Profile` is."""

    @property
    def report(self) -> Report: ...

    @property
    def arrays(self) -> Mapping[str, Array]: ...


def samples_folder(path: Path) -> Path:
    """The folder with the samples of the report at `path`.

    Raises:
        InputError: `path` does not end in `.profile.json`.
    """
    stem = path.name.removesuffix(SUFFIX)
    if stem == path.name or not stem:
        raise InputError("a report's name ends in .profile.json", where=str(path), fix=f"NAME{SUFFIX}")
    return path.with_name(f"{stem}.profile")


def report_bytes(report: Report) -> bytes:
    """The document: equal reports, equal bytes."""
    return render_json(encode(report), "the report")


def parse_report(raw: bytes, where: str) -> Report:
    """The report in a document, without its samples.

    Raises:
        IntegrityError, InputError: not strict JSON, or not a report of this format.
    """
    data = parse_json(raw, where)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError("this is no profile", where=where, why=f"its schema is not {SCHEMA}", fix="edgekit profile")
    return decode(Report, data, where)


def write_report(profile: Profiled, path: Path, *, replace: bool = True) -> None:
    """Write the report to `path` and its samples beside it.

    A reader sees the old profile, none, or the new one: never samples of one with the figures of another.

    Args:
        profile: its arrays are numbers, by names such as `latency_ms.npy`.
        path: NAME.profile.json.

    Raises:
        InputError: the place cannot be written, or holds a profile and `replace` is false; or a name or an array
            cannot be stored.
    """
    folder = samples_folder(path)
    for name in profile.arrays:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name for samples", where=str(path), fix="small letters, digits and _")
    _check(profile.report, profile.arrays, str(path))
    document = report_bytes(profile.report)
    if not replace and (os.path.lexists(path) or os.path.lexists(folder)):
        raise InputError("there is a profile at this place", where=str(path), fix="choose another name")
    with unwritable_is_typed(path), staging(folder) as fresh_folder, staging(path) as fresh:
        fresh_folder.mkdir()
        for name, array in profile.arrays.items():
            write_file(fresh_folder / name, [encode_array(array)])
        sync_folder(fresh_folder)
        write_file(fresh, [document])
        if replace:
            path.unlink(missing_ok=True)
        publish(fresh_folder, folder, replace=replace)
        publish(fresh, path, replace=replace)


def read_report(path: Path) -> tuple[Report, dict[str, Array]]:
    """The report at `path`, and its samples by file name.

    Raises:
        InputError: there is no such report, its samples are missing, or they do not fit it.
        IntegrityError: the document is not strict JSON, or a file is not a plain `.npy` file.
    """
    folder = samples_folder(path)
    report = parse_report(_read(path, MAX_REPORT_BYTES), path.name)
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError("the report's samples are missing", where=str(folder), why=error.strerror, fix=_HOW) from error
    if len(names) > MAX_ARRAYS:
        raise InputError(f"{len(names)} files are too many for samples", where=str(folder), fix=_HOW)
    arrays = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!a} does not belong among samples", where=str(folder), fix="remove it")
        arrays[name] = decode_array(_read(folder / name, MAX_ARRAY_BYTES), f"{folder.name}/{name}")
    _check(report, arrays, path.name)
    return report, arrays


def by_process(report: Report, arrays: Mapping[str, Array]) -> list[npt.NDArray[np.float64]]:
    """The latencies in the order of their runs, a series a process; milliseconds."""
    latency = np.asarray(arrays[report.latency.samples], np.float64)
    processes = arrays.get(PROCESSES)
    if processes is None:
        return [latency]
    return [latency[processes == each] for each in np.unique(processes)]


def _check(report: Report, arrays: Mapping[str, Array], where: str) -> None:
    """Samples that are named exist, and fit the figures and one another."""
    runs = report.latency.runs
    energy = report.energy.samples if report.energy else None
    for name in (report.latency.samples, *([energy] if energy else [])):
        if name not in arrays:
            raise InputError(f"the samples {name!r} are missing", where=where, why="the report names them", fix=_HOW)
    latency = arrays[report.latency.samples]
    if latency.dtype != np.float64 or latency.shape != (runs,) or not bool(np.all((latency > 0) & (latency < np.inf))):
        raise _unfit(report.latency.samples, f"{runs} latencies above 0 as float64", where)
    processes = arrays.get(PROCESSES)
    if processes is not None and (processes.dtype.kind not in "iu" or processes.shape != (runs,)):
        raise _unfit(PROCESSES, f"{runs} whole numbers", where)
    if processes is not None and len(np.unique(processes)) != report.latency.processes:
        raise _unfit(PROCESSES, f"{report.latency.processes} processes", where)
    starts = arrays.get(STARTS)
    if starts is not None and (starts.shape != (runs,) or not bool(np.all(np.isfinite(starts)))):
        raise _unfit(STARTS, f"{runs} instants", where)
    times = arrays.get(ENERGY_TIMES)
    for name in (ENERGY_WATTS, ENERGY_JOULES):
        values = arrays.get(name)
        if times is not None and values is not None and not _paired(times, values):
            raise _unfit(name, f"one finite number for each of the times in {ENERGY_TIMES}", where)


def _paired(times: Array, values: Array) -> bool:
    numbers = times.dtype.kind in "iuf" and values.dtype.kind in "iuf"
    fits = numbers and times.ndim == 1 and times.shape == values.shape and len(times) > 0
    return fits and bool(np.all(np.isfinite(times)) and np.all(np.isfinite(values)) and np.all(np.diff(times) >= 0))


def _unfit(name: str, wanted: str, where: str) -> IntegrityError:
    return IntegrityError(f"{name} does not fit the report", where=where, why=f"it should hold {wanted}", fix=_HOW)


def _read(path: Path, limit: int) -> bytes:
    """A regular file of at most `limit` bytes; no link is followed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why, fix = error.strerror, "edgekit profile BUNDLE"
        raise InputError("this report cannot be read", where=str(path), why=why, fix=fix) from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode) or status.st_size > limit:
            why = f"it is no regular file of at most {limit >> 20} MiB"
            raise InputError("this report cannot be read", where=str(path), why=why, fix=_HOW)
        return file.read(limit)
