"""Behind a stand-in for `adb` that prints what the real one prints (platform-tools 35), and runs commands here."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import MissingError, UnsupportedError
from edgekit.profiler.remote.device import UnreachableError, open_device, script
from edgekit.profiler.remote.measure import Outcome, Request, profile_on

from .conftest import Make, profiler

# Like adb, it joins the words of a shell command with blanks and lets the device's shell take them apart.
ADB = r"""#!{python}
import os, pathlib, shutil, subprocess, sys
words, home = sys.argv[1:], pathlib.Path({home!r})
if words == ["devices"]:
    print("List of devices attached\n" + (home.parent / "devices").read_text() + "\n")
    sys.exit(0)
assert words[0] == "-s", words
serial, verb, rest = words[1], words[2], words[3:]
if (home.parent / "unplugged").exists() or serial != "0123456789ABCDEF":
    print(f"adb: device '{{serial}}' not found", file=sys.stderr)
    sys.exit(1)
if verb == "shell":
    while rest and rest[0] in ("-n", "-T"):
        rest.pop(0)
    environment = {{"HOME": str(home), "PATH": str(home.parent / "path"), "PYTHONPATH": {packages!r}}}
    sys.exit(subprocess.run(["/bin/sh", "-c", " ".join(rest)], env=environment, cwd=home).returncode)
source, to = rest
if not os.path.exists(source):
    said = "failed to stat remote object" if verb == "pull" else "cannot stat"
    print(f"adb: error: {{said}} '{{source}}': No such file or directory", file=sys.stderr)
    sys.exit(1)
(shutil.copytree if os.path.isdir(source) else shutil.copyfile)(source, to)
done = "pushed" if verb == "push" else "pulled"
print(f"{{source}}: 1 file {{done}}, 0 skipped. 25.2 MB/s (4096 bytes in 0.000s)")
"""
PROGRAMS = ("sh", "cat", "chmod", "cp", "env", "find", "grep", "head", "mkdir", "mv", "nohup", "rm", "setsid", "sleep")
GETPROP = '#!/bin/sh\ncase $1 in ro.build.version.release) echo 14 ;; ro.product.model) echo "Pixel 8" ;; esac\n'


class Phone:
    """A device that the stand-in serves: its home folder, and what it has on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.path = folder, folder / "home", folder / "path"

    def list(self, lines: str) -> None:
        (self.folder / "devices").write_text(lines)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    """A board with Linux that is plugged in and has a Python."""
    phone = Phone(tmp_path / "phone")
    for folder in (phone.home, phone.path, tmp_path / "bin"):
        folder.mkdir(parents=True)
    for name in (*PROGRAMS, "tail", "tr", "uname", "wc"):
        found = shutil.which(name)
        assert found, name
        (phone.path / name).symlink_to(found)
    # A link to a virtual environment's interpreter would not be one of it.
    (phone.path / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    packages = sysconfig.get_paths()["purelib"]
    adb = tmp_path / "bin" / "adb"
    adb.write_text(ADB.format(python=sys.executable, home=str(phone.home), packages=packages))
    for file in (phone.path / "python3", adb):
        file.chmod(0o755)
    phone.list("emulator-5554\tdevice\n0123456789ABCDEF\tdevice\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return phone


@pytest.fixture
def profile(phone: Phone, make: Make, tmp_path: Path) -> Callable[..., Outcome]:
    def run(**changes: Any) -> Outcome:
        request = Request(make(), tmp_path / "report", **changes.pop("request", {}))
        return profile_on("adb:0123456789ABCDEF", request, **{"command": profiler(2), **changes})

    return run


def test_the_report_comes_back_from_a_board_with_linux(
    profile: Callable[..., Outcome], phone: Phone, tmp_path: Path
) -> None:
    lines: list[str] = []
    outcome = profile(told=lines.append)
    assert outcome.code == 0 and json.loads((tmp_path / "report.profile.json").read_bytes())["bundle"] == "cells"
    assert (tmp_path / "report.profile/latency_ms.npy").stat().st_size == 1 << 20
    assert [line for line in lines if line.startswith("step")] == ["step 1 of 2", "step 2 of 2"]
    assert not list((phone.home / ".cache/edgekit/remote").glob("*"))


def test_a_phone_without_python_is_refused_with_what_to_do(profile: Callable[..., Outcome], phone: Phone) -> None:
    (phone.path / "python3").unlink()
    (phone.path / "getprop").write_text(GETPROP)
    (phone.path / "getprop").chmod(0o755)
    with pytest.raises(UnsupportedError, match="no Python to profile with") as refused:
        profile()
    assert refused.value.where == "Pixel 8 14" and "Termux" in str(refused.value.fix) and refused.value.exit_code == 3
    assert not list(phone.home.iterdir())


def test_a_board_without_python_is_not_ready(profile: Callable[..., Outcome], phone: Phone) -> None:
    (phone.path / "python3").unlink()
    with pytest.raises(MissingError, match="1 thing is missing") as refused:
        profile()
    assert "apt-get install python3" in str(refused.value.fix)


@pytest.mark.parametrize(
    ("listed", "advice"),
    [
        ("0123456789ABCDEF\tunauthorized\n", "allow this computer's key"),
        ("0123456789ABCDEF\toffline\n", "plug it in again"),
        ("0123456789ABCDEF\tno permissions (missing udev rules? user is in the plugdev group); see [http]\n", "udev"),
        ("emulator-5554\tdevice\n", "USB debugging"),
        ("", "USB debugging"),
    ],
    ids=["unauthorized", "offline", "permissions", "another", "none"],
)
def test_a_device_that_cannot_be_used_says_why(
    profile: Callable[..., Outcome], phone: Phone, listed: str, advice: str
) -> None:
    phone.list(listed)
    with pytest.raises(UnreachableError) as refused:
        profile()
    assert advice in str(refused.value.fix)


def test_a_cable_that_is_pulled_is_waited_for(profile: Callable[..., Outcome], phone: Phone) -> None:
    lines: list[str] = []
    unplugged = phone.folder / "unplugged"

    def told(line: str) -> None:
        lines.append(line)
        if line == "step 2 of 2":
            unplugged.touch()
        elif line.startswith("the connection is lost"):
            unplugged.unlink()

    assert profile(told=told).code == 0
    assert lines.count("step 1 of 2") == lines.count("step 2 of 2") == lines.count("connected again") == 1


def test_a_failing_command_is_no_broken_connection(phone: Phone) -> None:
    with open_device("adb:0123456789ABCDEF") as device:
        done = device.run(script('printf %s "$1"; echo "no such device" >&2; exit 1', "a  'b'; $(exit 3)"))
        assert (done.code, done.out) == (1, b"a  'b'; $(exit 3)")
        with pytest.raises(MissingError, match="could not be copied") as error:
            device.pull(f"{phone.home}/nothing", phone.folder / "got")
        assert "failed to stat remote object" in str(error.value.why)


def test_without_adb_the_package_is_named(profile: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingError, match="adb is not installed") as error:
        profile()
    assert error.value.fix == "apt-get install adb"
