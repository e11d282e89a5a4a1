"""What a device has: asked in two short commands, by a POSIX shell and by its Python, which may be too old for us."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from edgekit.errors import InconclusiveError
from edgekit.profiler.remote.device import Device, Result, script
from edgekit.profiler.remote.folders import QUICK_S, ROOT

# $1 root, $2 name or path of Python. Prints name=value lines.
_SHELL = (
    ROOT
    + """
echo "root=$root"
echo "machine=$(uname -m)"
echo "system=$(uname -sr)"
echo "android=$(getprop ro.build.version.release 2>/dev/null)"
echo "model=$(getprop ro.product.model 2>/dev/null)"
echo "python=$(command -v -- "$2")"
for each in "$root"/*/; do
  [ -f "$each/pid" ] && [ ! -f "$each/code" ] && kill -0 "$(cat "$each/pid")" 2>/dev/null &&
    [ "$(cat "$each/boot")" = "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)" ] && echo "busy=$each"
done
exit 0
"""
)
# Runs on any Python 3. argv[1] is the root, the others are names of packages; prints one JSON document.
_PYTHON = """
import json, os, platform, shutil, sys
place = sys.argv[1]
while not os.path.isdir(place):
    place = os.path.dirname(place)
def have(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True
def version(name):
    try:
        from importlib.metadata import version
    except ImportError:
        return None
    try:
        return version(name)
    except Exception:
        return None
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "implementation": platform.python_implementation(),
    "libc": list(platform.libc_ver()),
    "free": shutil.disk_usage(place).free,
    "venv": have("venv"),
    "packages": {name: version(name) for name in sys.argv[2:]},
}))
"""


@dataclass(frozen=True)
class PythonFacts:
    """What the device's Python says.

    Attributes:
        version: such as (3, 10, 12).
        implementation: `CPython`.
        libc: name and version, such as ("glibc", "2.35"); both empty where it is none that Python knows.
        free: bytes that are free where our files go.
        venv: whether the module `venv` is there.
        packages: versions of the packages that were asked for, None where one is not installed.
    """

    version: tuple[int, ...]
    implementation: str
    libc: tuple[str, str]
    free: int
    venv: bool
    packages: dict[str, str | None]


@dataclass(frozen=True)
class Facts:
    """What the device is.

    Attributes:
        machine, system: `uname -m`, `uname -sr`.
        android: Android's version, empty elsewhere.
        python: absolute path of the interpreter, empty where there is none.
        busy: folders of runs that are under way there.
        root: the folder of all runs.
        interpreter: what that Python says; None where it is none.
    """

    machine: str
    system: str
    android: str
    model: str
    python: str
    root: str
    busy: tuple[str, ...] = ()
    interpreter: PythonFacts | None = field(default=None)


def probe(device: Device, python: str, packages: tuple[str, ...]) -> Facts:
    """Ask a device what it is; nothing is written there.

    Args:
        python: name or path of the interpreter to use there.
        packages: distributions whose versions are wanted.

    Raises:
        InconclusiveError: what it answers cannot be understood.
    """
    answer = device.run(script(_SHELL, device.root, python), timeout=QUICK_S)
    pairs = [line.split("=", 1) for line in answer.text.replace("\r", "").splitlines() if "=" in line]
    said = {name: value.strip() for name, value in pairs}
    if answer.code or "machine" not in said:
        raise _strange(device, answer)
    known = {name: said.get(name, "") for name in ("machine", "system", "android", "model", "python", "root")}
    busy = tuple(value.rstrip("/") for name, value in pairs if name == "busy")
    asked = _ask_python(device, known["python"], known["root"], packages) if known["python"] else None
    return Facts(**known, busy=busy, interpreter=asked)


def _ask_python(device: Device, python: str, root: str, packages: tuple[str, ...]) -> PythonFacts | None:
    """None where the file of that name is no Python 3, such as pyenv's shim for a version that is not there."""
    answer = device.run((python, "-c", _PYTHON, root, *packages), timeout=QUICK_S)
    if answer.code:
        return None
    try:
        said = json.loads(answer.text)
        return PythonFacts(
            version=tuple(int(each) for each in said["version"]),
            implementation=str(said["implementation"]),
            libc=(str(said["libc"][0]), str(said["libc"][1])),
            free=int(said["free"]),
            venv=bool(said["venv"]),
            packages={str(name): None if value is None else str(value) for name, value in said["packages"].items()},
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _strange(device, answer) from error


def _strange(device: Device, answer: Result) -> InconclusiveError:
    return InconclusiveError(
        f"{device.address}: what the device answers cannot be understood",
        where="probe",
        why=f"exit status {answer.code}; {answer.last_words}",
        fix="see that its login shell prints nothing by itself where no terminal is attached",
    )
