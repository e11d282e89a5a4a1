"""What ships needs nothing newer than the oldest Python that pyproject.toml promises: 3.10, that of JetPack 6.2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vermin")

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("edgekit", "exporters", "runtimes", "profiles")
OPTIONS = (
    "--target=3.10-",
    "--violations",
    "--no-tips",
    "--no-parse-comments",  # no comment in the code can excuse a line
    *("--exclude", "str.decode"),  # vermin takes bytes.decode for Python 2's
)


def vermin(*paths: Path) -> tuple[bool, str]:
    """Whether all of `paths` run on Python 3.10, and what vermin says."""
    command = [Path(sys.executable).with_name("vermin"), *OPTIONS, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # A file whose parts contradict one another is left out of vermin's verdict.
    return done.returncode == 0 and "File with incompatible versions" not in done.stdout, done.stdout + done.stderr


def test_everything_that_ships_runs_on_python_3_10() -> None:
    rooms = [ROOT / room for room in ROOMS]
    assert all(any(room.rglob("*.py")) for room in rooms)
    fits, report = vermin(*rooms)
    assert fits, report


@pytest.mark.parametrize(
    "code",
    [
        "from typing import Self\n",
        "import wsgiref.types\n",
        "import tomllib\n",
        "import datetime\nnow = datetime.UTC\n",
        "from typing import Self  # novermin\n",
        "try:\n    f()\nexcept* ValueError:\n    pass\n",
    ],
)
def test_something_newer_would_be_seen(tmp_path: Path, code: str) -> None:
    path = tmp_path / "new.py"
    path.write_text(code)
    assert not vermin(path)[0]
