"""Runs a program of this machine and hands on its output as it comes."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from edgekit.errors import MissingError
from edgekit.profiler.remote.device import Result

PACKAGES = {"ssh": "openssh-client", "sftp": "openssh-client", "adb": "adb"}  # Debian's and Ubuntu's names
_PIECE = 1 << 16


class TimedOutError(Exception):
    """The program did not end in time, and was killed."""


def execute(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float | None = None,
    told: Callable[[bytes], None] | None = None,
    folder: Path | None = None,
) -> Result:
    """Run a program to its end.

    Args:
        stdin: what it reads; short, since it is written before anything is read.
        timeout: seconds; None for no limit.
        told: is handed each piece of standard output as it arrives.

    Raises:
        MissingError: there is no such program on this machine.
        TimedOutError: it did not end in time.
    """
    try:
        process = subprocess.Popen(  # noqa: S603  # a list; the program is one that we name
            list(command),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
        )
    except FileNotFoundError as error:
        name = command[0]
        package = PACKAGES.get(name, name)
        raise MissingError(
            f"{name} is not installed here", where="PATH", why=str(error), fix=f"apt-get install {package}"
        ) from error
    with process:
        try:
            return _attend(process, stdin, timeout, told)
        finally:
            process.kill()


def _attend(
    process: subprocess.Popen[bytes], stdin: bytes, timeout: float | None, told: Callable[[bytes], None] | None
) -> Result:
    if process.stdin:
        try:
            process.stdin.write(stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it ended without reading; its exit code tells
    assert process.stdout and process.stderr
    kept: dict[IO[bytes], list[bytes]] = {process.stdout: [], process.stderr: []}
    deadline = None if timeout is None else time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimedOutError
            for key, _ in selector.select(left):
                piece = os.read(key.fd, _PIECE)
                if not piece:
                    selector.unregister(key.fileobj)
                    continue
                stream = process.stdout if key.fd == process.stdout.fileno() else process.stderr
                kept[stream].append(piece)
                if told and stream is process.stdout:
                    told(piece)
    code = process.wait()
    return Result(code, b"".join(kept[process.stdout]), b"".join(kept[process.stderr]))
