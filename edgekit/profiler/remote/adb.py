"""A device behind `adb`: a board that runs Linux and listens for it, or an Android phone on which a Python exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from edgekit.errors import MissingError
from edgekit.profiler.remote.device import Device, Result, UnreachableError
from edgekit.profiler.remote.process import TimedOutError, execute

CONNECT_S = 20
# What adb itself says on standard error, and then exits with 1, as a command on the device may as well.
_BROKEN = re.compile(
    r"^(?:adb: )?(?:error: )?(?:device .* not found|device (?:offline|unauthorized)|no devices/emulators found|closed"
    r"|protocol fault|cannot connect to daemon|failed to get feature set|connect failed)",
    re.MULTILINE,
)
# States in the second column of `adb devices`; developer.android.com/tools/adb, "Query for devices".
_ADVICE = {
    "unauthorized": "unlock the device and allow this computer's key in the dialog that it shows",
    "offline": "plug it in again, or `adb reconnect`",
    "no permissions": "install the udev rules of Android devices: `apt-get install android-sdk-platform-tools-common`",
    "recovery": "start its system",
    "bootloader": "start its system: `fastboot reboot`",
    "sideload": "start its system",
}


class AdbDevice:
    """Each command is one call of `adb -s SERIAL`; adb's own server keeps the connection."""

    def __init__(self, text: str, serial: str, root: str = "") -> None:
        self.address = text
        self.root = root
        self._serial = serial

    def connect(self) -> None:
        """As `Device.connect`: see that the device is listed and in the state `device`."""
        state = _state(self._adb(["devices"], CONNECT_S).text, self._serial)
        if state == "device":
            return
        what = f"{self.address}: " + (f"adb says {state!r}" if state else "adb does not see it")
        known = next((advice for word, advice in _ADVICE.items() if state and state.startswith(word)), None)
        raise UnreachableError(
            what,
            where="adb devices",
            why=state or "the serial is not in the list",
            fix=known or "plug it in and switch USB debugging on; `adb devices` lists the serials",
        )

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        told: Callable[[bytes], None] | None = None,
    ) -> Result:
        """As `Device.run`. The exit code comes back since Android 7 and adb 24 (`shell_v2`)."""
        # adb joins its arguments with blanks and the device's shell takes the line apart again.
        done = self._adb(["-s", self._serial, "shell", "-n", "-T", shlex.join(command)], timeout, told)
        self._require(done)
        return done

    def push(self, path: Path, to: str) -> None:
        """As `Device.push`."""
        self._copy(["push", str(path.resolve()), to], f"{path} to {to}")

    def pull(self, path: str, to: Path) -> None:
        """As `Device.pull`."""
        self._copy(["pull", path, str(to.absolute())], f"{path} to {to}")

    def describe(self) -> str:
        """As `Device.describe`."""
        return self.address

    def close(self) -> None:
        """adb's server stays: it is the user's."""

    def __enter__(self) -> Device:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _copy(self, arguments: list[str], where: str) -> None:
        done = self._adb(["-s", self._serial, *arguments], None)
        self._require(done)
        if done.code:
            raise MissingError(
                f"a file could not be copied over {self.address}",
                where=where,
                why=done.last_words,
                fix="see that the device has room, and that its shell may write there",
            )

    def _adb(
        self, arguments: Sequence[str], timeout: float | None, told: Callable[[bytes], None] | None = None
    ) -> Result:
        try:
            return execute(["adb", *arguments], timeout=timeout, told=told)
        except TimedOutError as error:
            raise UnreachableError(
                f"{self.address}: nothing came within {timeout:g} s", where="adb", fix="`adb kill-server`, then again"
            ) from error

    def _require(self, done: Result) -> None:
        said = done.err.decode(errors="replace")
        if done.code and _BROKEN.search(said):
            raise UnreachableError(
                f"{self.address}: the connection broke",
                where="adb",
                why=done.last_words,
                fix="plug it in again; `adb devices` shows whether it is there",
            )


def _state(listing: str, serial: str) -> str | None:
    """The state of a device in what `adb devices` prints, None where it is not listed."""
    for line in listing.splitlines():
        name, tab, state = line.partition("\t")
        if tab and name.strip() == serial:
            return state.strip()
    return None
