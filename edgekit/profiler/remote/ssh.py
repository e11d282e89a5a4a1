"""A device behind the system's `ssh` and `sftp`: the user's configuration, keys and agent, one connection for all.

The host's key is always checked: `StrictHostKeyChecking=yes` is set here and a configuration cannot switch it off.
Nobody is asked for a password (`BatchMode`), and neither the agent nor any port is forwarded.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from edgekit.errors import MissingError, UnsupportedError
from edgekit.profiler.remote.device import Address, Device, Result, UnreachableError
from edgekit.profiler.remote.process import PACKAGES, TimedOutError, execute

CONNECT_S = 15
BROKEN = 255  # ssh(1), EXIT STATUS: the remote command's, or 255 if an error occurred
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": "10",  # a connection that is silent for 30 s counts as dropped
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "Compression": "no",
}
_LONGEST_SOCKET = 70  # bytes; unix(7) allows 108, and ssh appends 17 of its own while it makes the socket
# sftp has quotes, and glob characters inside them mean something else again: no path of ours needs any.
_UNWRITABLE = re.compile(r"[\x00-\x1f*?\[\]\\]")


class SshDevice:
    """One connection, made by a process of ssh that this object owns, shared by all commands and copies."""

    def __init__(self, text: str, address: Address, options: tuple[str, ...] = (), root: str = "") -> None:
        self.address = text
        self.root = root
        self._to = f"{address.user}@{address.host}" if address.user else address.host
        self._given = options
        self._port = address.port
        self._private: Path | None = None
        self._master: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """As `Device.connect`."""
        self._drop()
        folder = self._folder()
        socket = folder / "c"
        socket.unlink(missing_ok=True)
        said = folder / "said"
        # The connection ends with this process, however that ends: then `cat` has no more to read. It has a session of
        # its own, so that Ctrl-C does not reach it before the run on the device is ended over it.
        command = ["ssh", *self._options("ControlMaster=yes"), "--", self._to, "cat >/dev/null"]
        try:
            with said.open("wb") as stream:
                self._master = subprocess.Popen(  # noqa: S603  # a list; the address is checked
                    command, stdin=subprocess.PIPE, stdout=stream, stderr=stream, start_new_session=True
                )
        except FileNotFoundError as error:
            raise MissingError(
                "ssh is not installed here", where="PATH", fix=f"apt-get install {PACKAGES['ssh']}"
            ) from error
        deadline = time.monotonic() + 2 * CONNECT_S
        while not socket.exists():
            if self._master.poll() is not None or time.monotonic() > deadline:
                self._drop()
                raise self._unreachable("cannot connect", said.read_text("utf-8", "replace"))
            time.sleep(0.01)

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        told: Callable[[bytes], None] | None = None,
    ) -> Result:
        """As `Device.run`."""
        self._require_connection()
        done = self._execute(
            ["ssh", *self._options("ControlMaster=no"), "--", self._to, shlex.join(command)], b"", timeout, told
        )
        if done.code == BROKEN:
            raise self._unreachable("the connection broke", done.err.decode(errors="replace"))
        return done

    def push(self, path: Path, to: str) -> None:
        """As `Device.push`."""
        self._require_connection()
        # sftp gives glob characters and quotes a meaning of their own; a link with a plain name has none.
        link = self._folder() / "item"
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
        self._sftp(f"put -R item {_quoted(to)}\n", f"{path} to {to}")

    def pull(self, path: str, to: Path) -> None:
        """As `Device.pull`."""
        self._require_connection()
        got = self._folder() / "got"
        self._forget(got)
        try:
            self._sftp(f"get -R {_quoted(path)} got\n", f"{path} to {to}")
            shutil.move(str(got), str(to))
        except OSError as error:
            raise MissingError("this cannot be written", where=str(to), why=str(error)) from error
        finally:
            self._forget(got)

    def describe(self) -> str:
        """As `Device.describe`."""
        return self.address

    def close(self) -> None:
        """As `Device.close`."""
        self._drop()
        if self._private:
            shutil.rmtree(self._private)
            self._private = None

    def __enter__(self) -> Device:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _options(self, control: str) -> list[str]:
        ours = [f"-o{name}={value}" for name, value in _OPTIONS.items()]
        port = [f"-oPort={self._port}"] if self._port else []
        socket = self._folder() / "c"
        return [*ours, *port, f"-oControlPath={socket}", "-oControlPersist=no", f"-o{control}", *self._given]

    def _folder(self) -> Path:
        if self._private is None:
            place = tempfile.mkdtemp(prefix="edgekit-")  # 0700
            if len(os.fsencode(place)) > _LONGEST_SOCKET:
                Path(place).rmdir()
                place = tempfile.mkdtemp(prefix="edgekit-", dir="/tmp")  # private, and its name is random
            self._private = Path(place)
        return self._private

    def _sftp(self, batch: str, where: str) -> None:
        command = ["sftp", "-q", "-b", "-", *self._options("ControlMaster=no"), "--", self._to]
        done = self._execute(command, batch.encode(), None, None)
        if done.code == BROKEN or not self._alive():
            raise self._unreachable("the connection broke", done.err.decode(errors="replace"))
        if done.code:
            raise MissingError(
                f"a file could not be copied over {self.address}",
                where=where,
                why=done.last_words,
                fix="see the reason",
            )

    def _execute(
        self, command: list[str], stdin: bytes, timeout: float | None, told: Callable[[bytes], None] | None
    ) -> Result:
        try:
            return execute(command, stdin=stdin, timeout=timeout, told=told, folder=self._folder())
        except TimedOutError as error:
            raise self._unreachable(f"nothing came within {timeout:g} s", "") from error

    def _require_connection(self) -> None:
        if not self._alive():
            raise self._unreachable("the connection broke", "")

    def _alive(self) -> bool:
        return self._master is not None and self._master.poll() is None

    def _drop(self) -> None:
        if self._master is not None:
            self._master.terminate()
            self._master.wait()
            if self._master.stdin:
                self._master.stdin.close()
            self._master = None

    def _forget(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def _unreachable(self, what: str, said: str) -> UnreachableError:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        problem = next((each for each in _ADVICE if any(each in line for line in lines)), None)
        return UnreachableError(
            f"{self.address}: {what}",
            where="ssh",
            why="; ".join(lines[-3:]) or "ssh said nothing",
            fix=_ADVICE[problem].format(to=self._to) if problem else f"see that `ssh {self._to}` works by itself",
        )


# What ssh says, and what helps; OpenSSH 9.2's words, unchanged for years.
_ADVICE = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "find out why the device has another key before you trust it: "
    "`ssh-keygen -R HOST` forgets the old one",
    "Host key verification failed": "run `ssh {to}` once and compare the fingerprint with the device's own",
    "Permission denied": "let the device know your key: `ssh-copy-id {to}`; a password is never asked for",
    "Connection refused": "start the device's ssh server: `sudo systemctl enable --now ssh`",
    "Could not resolve hostname": "write the device's address, or give it a name in ~/.ssh/config",
}


def _quoted(path: str) -> str:
    """A path on the device in sftp's own quotes.

    Raises:
        UnsupportedError: it has a character that sftp cannot be told.
    """
    if _UNWRITABLE.search(path):
        raise UnsupportedError(
            "sftp cannot be told this path",
            where=ascii(path),
            why="control characters, * ? [ ] and backslashes mean something to it",
            fix="let edgekit work in another folder of the device",
        )
    return '"' + path.replace('"', '\\"') + '"'
