"""A snapshot reads below its root and nowhere else, and needs no file; on this machine it reads the machine."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit import profiles
from edgekit.profiler.environment import Snapshot, conditions, snapshot

sys.path.append(str(Path(__file__).parents[1] / "twins"))

from catalog import build_twin
from snapdragon import snapdragon
from tree import BROKEN, build, change

PROFILES = {name: profiles.get(name) for name in ("orin-nano", "intel-n100", "snapdragon-865", "host")}
TARGETS = {"orin": "orin-nano", "intel": "intel-n100", "snapdragon": "snapdragon-865"}


def seen(root: Path) -> Snapshot:
    return snapshot(PROFILES[TARGETS[root.name.split("-")[0]]], root)


@pytest.mark.parametrize("name", ["orin-nano-jp6", "intel-n100", "snapdragon-ua-negative"])
def test_no_file_is_needed(tmp_path: Path, name: str) -> None:
    """Each file alone full of nonsense, unreadable or missing, and at last all of them; one core stands for all."""
    root = build_twin(name, tmp_path)
    whole = seen(root)
    alike = re.compile(r"/cpu[1-9]/|/thermal_zone[1-9]/|/ina3221/")
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for file in sorted(path for path in files if not alike.search(str(path))):
        path, text = f"/{file.relative_to(root)}", file.read_text().removesuffix("\n")
        for content in ("nonsense \0 \xff", BROKEN):
            change(root, {path: content})
            conditions(whole, seen(root))
        file.rmdir()
        conditions(seen(root), whole)
        change(root, {path: text})
    assert conditions(seen(root), seen(root)) == conditions(whole, whole)
    empty = snapshot(PROFILES[TARGETS[name.split("-")[0]]], build(tmp_path / "empty", {}))
    assert empty.names == ("unknown",) and not empty.clocks and not empty.counters and empty.mode is None
    assert conditions(empty, whole) and conditions(whole, empty)


WATCHED: list[list[str]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED and event in ("open", "os.listdir", "os.scandir") and not isinstance(arguments[0], int):
        WATCHED[-1].append(os.fspath(arguments[0]))


sys.addaudithook(_watch)  # sees every read, whichever function asks for it


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """All files and folders that are opened from now on."""
    WATCHED.append([])
    yield WATCHED[-1]
    WATCHED.pop()


def test_nothing_of_the_real_system_is_read_below_another_root(tmp_path: Path, opened: list[str]) -> None:
    root = build_twin("orin-nano-jp6", tmp_path)
    profile = PROFILES["orin-nano"]
    opened.clear()
    snapshot(profile, root)
    assert opened and all(path.startswith(str(root)) for path in opened), opened
    opened.clear()
    snapshot(profile, build(tmp_path / "empty", {}))
    assert opened and all(path.startswith(str(tmp_path)) for path in opened), opened


def test_a_link_out_of_the_root_leads_nowhere(tmp_path: Path) -> None:
    root = build(tmp_path / "intel", {"/proc/sys/kernel/osrelease": "twin"})
    (tmp_path / "outside").write_text('PRETTY_NAME="the host"')
    (root / "etc").mkdir()
    (root / "etc/os-release").symlink_to(tmp_path / "outside")
    (root / "proc/loadavg").symlink_to(root / "proc/loadavg")
    shot = seen(root)
    assert shot.fact("kernel") == "twin" and shot.fact("operating system") is None
    assert shot.fact("load average") is None


def test_the_variable_names_the_root_and_an_argument_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_SYSFS_ROOT", str(build_twin("intel-n100", tmp_path)))
    assert snapshot(None).names == ("Intel(R) N100",)
    assert snapshot(None, build(tmp_path / "phone", snapdragon())).names[-1] == "qcom,sm8250"


def test_this_machine_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKIT_SYSFS_ROOT", raising=False)
    before = snapshot(PROFILES["host"])
    rows = conditions(before, snapshot(None))
    table = {row.name: row for row in rows}
    assert len(table) == len(rows), "two conditions bear one name"
    assert table["device"].before and table["kernel"].before
    assert before.on_target is None
    if sys.platform == "linux":
        assert before.cpu_time is not None and before.cpu_time.own is not None
        assert int(table["memory available"].before or 0) > 0
