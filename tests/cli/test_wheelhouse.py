"""`edgekit wheelhouse`: what it collects is listed, and a target without a known Python is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.wheelhouse import command
from edgekit.errors import UsageError
from edgekit.profiler.remote import wheelhouse


@pytest.fixture(autouse=True)
def nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(needed: Sequence[Any], folder: Path, *_: Any) -> None:
        (folder / f"{needed[0].name}-1.0-py3-none-any.whl").write_bytes(b"wheel")

    monkeypatch.setattr(wheelhouse, "_download_all", none)


def test_the_wheels_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(target="orin-nano", output=Path("wheels"))
    said = capsys.readouterr()
    assert "numpy" in said.out and "Python 3.10 on aarch64" in said.out and "wrote wheels" in said.err
    assert sorted(path.suffix for path in Path("wheels").iterdir()) == [".json", ".whl", ".whl"]


def test_json_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(target="snapdragon-865", output=Path("wheels"), python="3.11", json=True)
    assert json.loads(capsys.readouterr().out)["python"] == "3.11"


def test_a_target_whose_python_is_not_known_needs_it_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="which Python"):
        command(target="snapdragon-865", output=Path("wheels"))
