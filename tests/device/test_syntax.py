"""The rooms that go onto the device need nothing newer than Python 3.10."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vermin")

ROOT = Path(__file__).resolve().parents[2]
DEVICE_SIDE = (
    "edgekit/__init__.py",
    "edgekit/errors.py",
    "edgekit/plugins.py",
    "edgekit/spec.py",
    "edgekit/structure.py",
    "edgekit/bundle",
    "edgekit/evaluate",
    "edgekit/processing",
    "profiles",
    "runtimes",
)


def vermin(*paths: Path) -> subprocess.CompletedProcess[str]:
    # tomllib is new in 3.11; tomli takes its place below, which the tests on a real Python 3.10 show.
    options = ["--target=3.10-", "--violations", "--no-tips", "--no-parse-comments", "--exclude=tomllib"]
    return subprocess.run(
        [sys.executable, "-m", "vermin", *options, *map(str, paths)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("room", DEVICE_SIDE)
def test_a_device_side_room_runs_on_python_3_10(room: str) -> None:
    path = ROOT / room
    assert path.exists()
    done = vermin(path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("code", ["from typing import Self\n", "import wsgiref.types\n", "type X = int\n"])
def test_something_newer_would_be_seen(tmp_path: Path, code: str) -> None:
    path = tmp_path / "new.py"
    path.write_text(code)
    assert vermin(path).returncode != 0
