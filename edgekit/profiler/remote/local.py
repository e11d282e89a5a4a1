"""This machine as a device: the same steps without a connection."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from edgekit.errors import MissingError
from edgekit.profiler.remote.device import Device, Result, UnreachableError
from edgekit.profiler.remote.process import TimedOutError, execute


class LocalDevice:
    """Runs commands here, in processes of their own, and copies files."""

    address = "local"

    def __init__(self, root: str = "") -> None:
        self.root = root

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        told: Callable[[bytes], None] | None = None,
    ) -> Result:
        """As `Device.run`."""
        try:
            return execute(command, timeout=timeout, told=told)
        except TimedOutError as error:
            raise UnreachableError(f"{command[0]} did not end within {timeout:g} s", where=self.address) from error

    def push(self, path: Path, to: str) -> None:
        """As `Device.push`."""
        self._copy(path, Path(to))

    def pull(self, path: str, to: Path) -> None:
        """As `Device.pull`."""
        self._copy(Path(path), to)

    def describe(self) -> str:
        """As `Device.describe`."""
        return "this machine"

    def connect(self) -> None:
        """Nothing to connect to."""

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _copy(self, path: Path, to: Path) -> None:
        try:
            if path.is_dir():
                shutil.copytree(path, to)
            else:
                shutil.copyfile(path, to)
        except OSError as error:
            raise MissingError("this cannot be copied", where=f"{path} to {to}", why=str(error)) from error
