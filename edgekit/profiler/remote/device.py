"""What a device is for the rest of the room: it runs commands, and takes and gives files. There are three kinds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from edgekit.errors import MissingError, UsageError

_FORMS = "ssh://user@host, ssh://user@host:port, adb:SERIAL or local"
# A name that begins with a hyphen would be read as an option, and one with a blank or a percent sign as something else.
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.\\-]*"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\]"
_SSH = re.compile(rf"ssh://(?:(?P<user>{_USER})@)?(?P<host>{_HOST})(?::(?P<port>\d{{1,5}}))?/?")
_ADB = re.compile(r"adb:(?P<serial>[A-Za-z0-9_.\[\]][A-Za-z0-9_.:\[\]-]*)")


class UnreachableError(MissingError):
    """The device does not answer, or no longer does: what was started there may still run."""


@dataclass(frozen=True)
class Result:
    """What a command on the device left: its exit code and both streams."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode(errors="replace")

    @property
    def last_words(self) -> str:
        """The last line of standard error, else of standard output, for messages."""
        lines = [
            line.strip() for stream in (self.out, self.err) for line in stream.decode(errors="replace").split("\n")
        ]
        return next((line for line in reversed(lines) if line), "it said nothing")


class Device(Protocol):
    """Runs commands, takes and gives files. Used as a context: connected on entering, closed on leaving.

    Attributes:
        address: as the user wrote it.
        root: folder for everything that is put there; empty to let the device choose (see `folders.py`).
    """

    @property
    def address(self) -> str: ...

    @property
    def root(self) -> str: ...

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        told: Callable[[bytes], None] | None = None,
    ) -> Result:
        """Run a command, given as a list: nothing in it is interpreted by a shell.

        Args:
            timeout: seconds; None for no limit.
            told: is handed each piece of standard output as it arrives.

        Raises:
            UnreachableError: the connection broke, or the command did not end in time.
        """

    def push(self, path: Path, to: str) -> None:
        """Copy a file or a folder to the new absolute path `to`.

        Raises:
            UnreachableError: the connection broke.
            MissingError: the device refused, such as for want of room.
        """

    def pull(self, path: str, to: Path) -> None:
        """Copy a file or a folder from the device to the new path `to`; raises as `push`."""

    def describe(self) -> str:
        """The device in words, for messages."""

    def connect(self) -> None:
        """Connect, or connect again.

        Raises:
            UnreachableError: there is no connection, with the tool's own words.
        """

    def close(self) -> None:
        """Let go of the connection; what runs on the device goes on."""

    def __enter__(self) -> Device: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Address:
    """A device's address, taken apart: `host` is adb's serial for that kind, and empty for `local`."""

    kind: Literal["ssh", "adb", "local"]
    host: str = ""
    user: str | None = None
    port: int | None = None


def parse_address(text: str) -> Address:
    """Take `ssh://user@host:port`, `adb:SERIAL` or `local` apart.

    Raises:
        UsageError: it is none of these.
    """
    if text == "local":
        return Address("local")
    if found := _ADB.fullmatch(text):
        return Address("adb", found["serial"])
    if found := _SSH.fullmatch(text):
        port = int(found["port"]) if found["port"] else None
        if port is None or 0 < port < 65536:
            return Address("ssh", found["host"].strip("[]"), found["user"], port)
    raise UsageError(f"{text!r} is no device", where="--device", why="the form is not known", fix=f"write {_FORMS}")


def open_device(text: str, *, ssh_options: Sequence[str] = (), root: str = "") -> Device:
    """The device of that address; it is connected when it is entered.

    Args:
        ssh_options: put in front of our own for `ssh` and `sftp`, such as `("-F", "config")`.
        root: an absolute folder on the device for all that is put there; by default it is chosen there.
    """
    from edgekit.profiler.remote.adb import AdbDevice
    from edgekit.profiler.remote.local import LocalDevice
    from edgekit.profiler.remote.ssh import SshDevice

    address = parse_address(text)
    if address.kind == "ssh":
        return SshDevice(text, address, tuple(ssh_options), root)
    if address.kind == "adb":
        return AdbDevice(text, address.host, root)
    return LocalDevice(root)


def script(text: str, *arguments: str) -> tuple[str, ...]:
    """A command that runs a POSIX shell script; `arguments` are its `$1`, `$2`, ... and never part of the script."""
    return ("sh", "-c", text, "sh", *arguments)
