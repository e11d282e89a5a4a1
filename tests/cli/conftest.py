"""The command in this process, and a small bundle to use it on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np

    from edgekit.spec import ModelSpec


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """What a person reads, from either stream."""
        return self.out + self.err


Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def edgekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command: `edgekit("inspect", path, "--json")`. An exception that it lets through fails the test."""
    from edgekit.cli.main import main

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Done(int(left.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def spec_file(tmp_path_factory: pytest.TempPathFactory, detector_spec: ModelSpec) -> Path:
    """The detector's spec as JSON."""
    file = tmp_path_factory.mktemp("spec") / "spec.json"
    file.write_text(json.dumps(detector_spec.as_json()))
    return file


@pytest.fixture(scope="session")
def small_bundles(tmp_path_factory: pytest.TempPathFactory, detector: Path, spec_file: Path) -> dict[str, Path]:
    """The detector as signed bundles, `folder` and `zip`, with the `key` and another `stranger`'s. Copy to change."""
    for package in ("torch", "onnx"):
        pytest.importorskip(package)
    from edgekit import pipeline
    from edgekit.bundle import generate_keys
    from edgekit.config import Config, ExportOptions, ModelOptions

    place = tmp_path_factory.mktemp("small")
    private, public = generate_keys(place / "mine")
    other, stranger = generate_keys(place / "stranger")
    config = Config(
        model=ModelOptions(source=str(detector), spec=str(spec_file)), export=ExportOptions(sign_key=str(private))
    )
    paths = {"folder": place / "b", "zip": place / "b.edgekit"}
    for path in paths.values():
        pipeline.export(config, "host", path)
    return {**paths, "key": public, "private": private, "stranger": stranger, "stranger's private": other}


@pytest.fixture
def cells_png(folder: Path, cells: np.ndarray) -> Path:
    """The picture of cells as a file."""
    pytest.importorskip("PIL.Image").fromarray(cells).save(folder / "cells.png")
    return folder / "cells.png"
