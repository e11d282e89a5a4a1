"""The verbs: profile a bundle on a device, and fetch the report of a run whose connection was lost."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from edgekit.bundle import Bundle
from edgekit.bundle.atomic import publish, staging, unwritable_is_typed
from edgekit.errors import EdgekitError, InconclusiveError, IntegrityError, UsageError, error_from_json
from edgekit.profiler.remote import job
from edgekit.profiler.remote.device import Device, UnreachableError, open_device
from edgekit.profiler.remote.folders import Places, make_folder, new_run_id, remove_folder
from edgekit.profiler.remote.install import install
from edgekit.profiler.remote.preflight import Need, require_ready
from edgekit.profiler.remote.probe import probe
from edgekit.profiler.remote.state import RunRecord, forget, recall, remember
from edgekit.profiler.remote.wheelhouse import read_wheelhouse

T = TypeVar("T")
Told = Callable[[str], None]
Command = Callable[[Places, Sequence[str]], Sequence[str]]
PATIENCE_S = 600.0  # how long a lost connection is tried again
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
VERDICTS = (0, 3, 5)  # a report is there: budgets were met, missed, or the run was too short to tell


@dataclass(frozen=True)
class Outcome:
    """What came back.

    Attributes:
        run_id: of the run; its folder on the device is gone.
        code: the exit code of the command there.
        files: what it wrote, now beside `out`.
        stdout: its standard output, bytes.
        log: its standard error.
        seconds: of each step.
    """

    run_id: str
    code: int
    files: tuple[Path, ...]
    stdout: bytes
    log: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def report(self) -> Path | None:
        """The report's JSON, None where the command wrote none."""
        return next((path for path in self.files if path.name.endswith(".profile.json")), None)


@dataclass(frozen=True)
class Request:
    """What to run, besides where.

    Attributes:
        bundle: a folder or a zip.
        out: what `-o` names here; a file or folder beside it of the same name is replaced.
        arguments: options for the command there; a `Path` is a file here, which is pushed and named by its place there.
        wheelhouse: folder that `edgekit wheelhouse` made; None where the device's Python has all that is needed.
        python: name or path of the device's interpreter.
        key: the public key that must have signed the bundle; checked here, and there again if it is an argument.
    """

    bundle: Path
    out: Path
    arguments: tuple[str | Path, ...] = ()
    wheelhouse: Path | None = None
    python: str = "python3"
    key: Path | None = None


def profile_command(places: Places, arguments: Sequence[str]) -> Sequence[str]:
    """`edgekit profile BUNDLE -o OUT ... --json` by the device's interpreter."""
    verb = (places.python, "-m", "edgekit.cli.main", "profile", places.bundle, "-o", places.report)
    return (*verb, *arguments, "--json")


def profile_on(
    address: str,
    request: Request,
    *,
    told: Told = lambda _: None,
    command: Command = profile_command,
    ssh_options: Sequence[str] = (),
    root: str = "",
    patience_s: float = PATIENCE_S,
) -> Outcome:
    """Run the profiler on a device and bring its report back.

    Interrupting it ends the run there; a connection that is lost does not.

    Args:
        address: `ssh://user@host:port`, `adb:SERIAL` or `local`.
        told: is told of each step, and handed each line that the profiler there says.
        command: what runs there.
        ssh_options: for `ssh` and `sftp`, such as `("-F", "config")`.
        root: an absolute folder on the device for our files.
        patience_s: how long a lost connection is tried again.

    Raises:
        MissingError: the device is not ready; all that is missing is named.
        UnreachableError: there is no connection; `fix` names the run if one was started.
        InconclusiveError: the run died there.
        EdgekitError: the error that the profiler there ended with, with the device in `where`.
    """
    if not request.out.absolute().parent.is_dir():
        raise UsageError("there is no folder for the report", where=str(request.out), fix="make it first")
    seconds: dict[str, float] = {}
    with open_device(address, ssh_options=ssh_options, root=root) as device:
        with _timed("prepare", seconds):
            run_id, places, arguments, variables = _prepare(device, request, told)
        out = request.out.absolute()
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = RunRecord(run_id, address, tuple(ssh_options), places.folder, str(out), now)
        with _removed_on_failure(device, places.folder):
            remember(record)
        _start(device, record, tuple(command(places, arguments)), variables)
        told(f"run {run_id} is under way on {device.describe()}")
        outcome = _finish(device, record, told, patience_s)
    return replace(outcome, seconds={**seconds, **outcome.seconds})


def resume(run_id: str, *, told: Told = lambda _: None, patience_s: float = PATIENCE_S) -> Outcome:
    """Wait for a run that was started before, and bring its report back; raises as `profile_on`.

    Raises:
        UsageError: no such run is waiting.
    """
    record = recall(run_id)
    with open_device(record.device, ssh_options=record.ssh_options) as device:
        return _finish(device, record, told, patience_s)


def _prepare(device: Device, request: Request, told: Told) -> tuple[str, Places, tuple[str, ...], dict[str, str]]:
    house = (request.wheelhouse, read_wheelhouse(request.wheelhouse)) if request.wheelhouse else None
    with Bundle.open(request.bundle, key=request.key) as bundle:
        bundle.verify()
        need = Need.of(bundle.manifest, _size(request.bundle))
    told(f"looking at {device.describe()}")
    names = dict.fromkeys(each.name for each in (*need.requirements("3.10", ""), *need.requirements("3.12", "")))
    facts = probe(device, request.python, tuple(names))
    interpreter = require_ready(device, facts, need, house[1] if house else None)
    run_id = new_run_id()
    folder = make_folder(device, run_id)
    with _removed_on_failure(device, folder):
        needed = need.requirements(".".join(map(str, interpreter.version[:2])), facts.machine)
        python, site = install(device, folder, facts, house, needed, told)
        bundle_there = f"{folder}/bundle" + ("" if request.bundle.is_dir() else ".edgekit")
        told("pushing the bundle")
        device.push(request.bundle, bundle_there)
        arguments = tuple(
            _pushed(device, folder, index, each) if isinstance(each, Path) else each
            for index, each in enumerate(request.arguments)
        )
    places = Places(folder, bundle_there, f"{folder}/out/{request.out.name}", python, site)
    variables = {
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        **({"PYTHONPATH": _first(device, site)} if site else {}),
    }
    return run_id, places, arguments, variables


def _start(device: Device, record: RunRecord, command: Sequence[str], variables: dict[str, str]) -> None:
    try:
        job.start(device, record.folder, command, variables)
    except UnreachableError as error:  # it may have started all the same
        raise _kept(error, record) from error
    except BaseException:
        forget(record.run_id)
        remove_folder(device, record.folder)
        raise


def _kept(error: EdgekitError, record: RunRecord) -> UnreachableError:
    return UnreachableError(
        error.what,
        where=error.where,
        why=f"{error.why}; run {record.run_id} may go on there",
        fix=f"edgekit profile --resume {record.run_id}",
    )


def _first(device: Device, site: str) -> str:
    """`site` in front of what PYTHONPATH is on the device."""
    there = device.run(("sh", "-c", 'printf %s "$PYTHONPATH"'), timeout=60).text
    return f"{site}:{there}" if there else site


def _pushed(device: Device, folder: str, index: int, path: Path) -> str:
    if not path.exists():
        raise UsageError("this file is not there", where=str(path), fix="check the path")
    there = f"{folder}/file-{index}{path.suffix if path.suffix[1:].isalnum() else ''}"
    device.push(path, there)
    return there


def _finish(device: Device, record: RunRecord, told: Told, patience_s: float) -> Outcome:
    """Follow, fetch, clean up; a lost connection is taken up again in between."""
    seconds: dict[str, float] = {}
    watched = _Lines(told)

    def watch() -> job.Status:
        found = job.status(device, record.folder)
        if found.state in ("running", "ended"):
            job.follow(device, record.folder, watched.known, watched.take)
            found = job.status(device, record.folder)
        return found

    try:
        with _timed("run", seconds):
            status = _patiently(device, record, told, patience_s, watch)
            while status.state == "running":  # the log was cut off in silence, as by a full disk
                time.sleep(_FIRST_WAIT_S)
                status = _patiently(device, record, told, patience_s, watch)
    except KeyboardInterrupt:
        told("ending the run")
        try:
            job.stop(device, record.folder)
            remove_folder(device, record.folder)
        except UnreachableError as error:
            raise _kept(error, record) from error
        forget(record.run_id)
        raise
    if status.state == "gone":
        forget(record.run_id)
    if status.code is None:
        raise _lost(device, record, status)
    with _timed("fetch", seconds):
        fetched = _patiently(device, record, told, patience_s, lambda: _fetch(device, record, status.code))
        _patiently(device, record, told, patience_s, lambda: remove_folder(device, record.folder))
    forget(record.run_id)
    _require_report(device, fetched)
    return replace(fetched, seconds=seconds)


def _patiently(device: Device, record: RunRecord, told: Told, patience_s: float, do: Callable[[], T]) -> T:
    """Do something whole, again and again over new connections until `patience_s` have passed without one."""
    wait, since = _FIRST_WAIT_S, time.monotonic()
    lost = False
    while True:
        try:
            if lost:
                device.connect()
                told("connected again")
                lost, wait, since = False, _FIRST_WAIT_S, time.monotonic()
            return do()
        except UnreachableError as error:  # an attempt takes seconds
            lost = True
            if time.monotonic() - since + wait > patience_s:
                raise _kept(error, record) from error
        told(f"the connection is lost, the run goes on; trying again in {wait:.0f} s")
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT_S)


def _fetch(device: Device, record: RunRecord, code: int | None) -> Outcome:
    """Bring everything here first, then give each file its name in one step."""
    out = Path(record.out)
    with unwritable_is_typed(out), staging(out) as fresh:
        fresh.mkdir()
        with tempfile.TemporaryDirectory(prefix="edgekit-streams-") as name:
            for each in ("stdout", "log"):
                device.pull(f"{record.folder}/{each}", Path(name) / each)
            stdout = (Path(name) / "stdout").read_bytes()
            log = (Path(name) / "log").read_text("utf-8", "replace")
        device.pull(f"{record.folder}/out", fresh / "out")
        found = sorted((fresh / "out").iterdir())
        _require_ours(device, out, found)
        files = []
        for path in found:
            publish(path, out.parent / path.name, replace=True)
            files.append(out.parent / path.name)
    return Outcome(record.run_id, int(code or 0), tuple(files), stdout, log)


def _require_ours(device: Device, out: Path, found: Sequence[Path]) -> None:
    """See that a device writes nothing here but what belongs to the report.

    Raises:
        IntegrityError: it sent something else.
    """
    strange = [path for path in found if not path.name.startswith(out.stem)]
    strange += [path for top in found for path in (top, *top.rglob("*")) if path.is_symlink()]
    if strange:
        raise IntegrityError(
            f"{device.address}: it sent what does not belong to the report",
            where=ascii(strange[0].name),
            why=f"a report's files begin with {out.stem!r} and are no links",
            fix="do not trust this device",
        )


def _require_report(device: Device, outcome: Outcome) -> None:
    """See that the command there ended with a verdict.

    Raises:
        EdgekitError: it did not; the error that it printed, or what it said last.
    """
    if outcome.code in VERDICTS and (outcome.files or outcome.code == 0):
        return
    try:
        said = json.loads(outcome.stdout)
        error = error_from_json(said)
    except (ValueError, KeyError, TypeError):
        lines = [line for line in outcome.log.splitlines() if line.strip()]
        error = InconclusiveError(
            "the run failed there", why=f"exit status {outcome.code}; {lines[-1] if lines else 'it said nothing'}"
        )
    raise type(error)(
        error.what,
        where=f"{device.address}: {error.where}" if error.where else device.address,
        why=error.why,
        fix=error.fix,
    )


def _lost(device: Device, record: RunRecord, status: job.Status) -> EdgekitError:
    words = {
        "restarted": "the device was started again meanwhile",
        "died": "its process was killed, as where memory runs out",
        "gone": "its folder is no longer there",
    }
    return InconclusiveError(
        f"{device.address}: the run {record.run_id} came to no end",
        where=record.folder,
        why=words.get(status.state, status.state),
        fix="run it again; the folder, where it is left, has its log",
    )


class _Lines:
    """Counts the bytes of a log and hands on its lines, each once and whole."""

    def __init__(self, told: Told) -> None:
        self.known = 0
        self._told = told
        self._rest = b""

    def take(self, piece: bytes) -> None:
        self.known += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._told(line.decode(errors="replace").rstrip("\r"))


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)


@contextmanager
def _removed_on_failure(device: Device, folder: str) -> Iterator[None]:
    """Leave nothing behind where a run did not come to start; the failure under way is the one to report."""
    try:
        yield
    except BaseException as error:
        try:
            remove_folder(device, folder)
        except EdgekitError as other:
            error.__context__ = other
        raise


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return path.stat().st_size
