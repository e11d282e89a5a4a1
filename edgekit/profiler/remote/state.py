"""What this machine remembers of a run on a device until its report is here: a dropped connection loses nothing.

One JSON file a run in `$XDG_STATE_HOME/edgekit/remote` (by default `~/.local/state/edgekit/remote`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle.atomic import publish, staging, unwritable_is_typed, write_file
from edgekit.bundle.strictjson import parse_json
from edgekit.errors import InputError, UsageError
from edgekit.profiler.remote.folders import RUN_ID
from edgekit.structure import decode, encode


@dataclass(frozen=True)
class RunRecord:
    """Where a run is and where its report is to go.

    Attributes:
        run_id: 16 hexadecimal digits.
        device: the address, as `--device` has it.
        ssh_options: that were given besides ours.
        folder: the run's folder on the device.
        out: absolute path that the report is written to here.
        started_utc: ISO 8601.
    """

    run_id: str
    device: str
    ssh_options: tuple[str, ...]
    folder: str
    out: str
    started_utc: str


def remember(record: RunRecord) -> None:
    """Write a record.

    Raises:
        InputError, MissingError: it cannot be written.
    """
    path = _path(record.run_id)
    with unwritable_is_typed(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with staging(path) as fresh:
            write_file(fresh, [json.dumps(encode(record), indent=1).encode()], mode=0o600)
            publish(fresh, path, replace=True)


def recall(run_id: str) -> RunRecord:
    """The record of a run.

    Raises:
        UsageError: there is none of this name.
    """
    path = _path(run_id)
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        known = [each.run_id for each in pending()]
        raise UsageError(
            f"no run {run_id} is waiting to be fetched",
            where=str(path.parent),
            why="it was fetched already, or started by another user or machine",
            fix=f"waiting: {', '.join(known) or 'none'}",
        ) from error
    except OSError as error:
        raise InputError("the record of a run cannot be read", where=str(path), why=error.strerror) from error
    return decode(RunRecord, parse_json(raw, str(path)), str(path))


def pending() -> list[RunRecord]:
    """The runs whose reports are not here yet, the oldest first."""
    files = [path for path in _home().glob("*.json") if RUN_ID.fullmatch(path.stem)]
    found = [decode(RunRecord, parse_json(path.read_bytes(), str(path)), str(path)) for path in files]
    return sorted(found, key=lambda each: each.started_utc)


def forget(run_id: str) -> None:
    """Remove a record, if it is there."""
    path = _path(run_id)
    with unwritable_is_typed(path):
        path.unlink(missing_ok=True)


def _path(run_id: str) -> Path:
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(f"{run_id!r} is not the name of a run", where="--resume", fix="16 hexadecimal digits")
    return _home() / f"{run_id}.json"


def _home() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "edgekit" / "remote"
