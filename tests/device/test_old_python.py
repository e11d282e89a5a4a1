"""The device lane: Python 3.10, numpy 1.26.4, ONNX Runtime 1.23.2, no torch, in an environment made for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ("edgekit", "exporters", "runtimes", "profiles", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
ROOMS = ("bundle", "evaluate", "processing", "profiles", "runtimes")
SIZE_LIMIT = 250_000_000  # bytes; the promise for base plus `onnxruntime`
HOST_ONLY = ("torch", "onnx", "onnxscript", "openvino", "safetensors")

# One worker makes the environment once for all of these tests.
pytestmark = pytest.mark.xdist_group("old-python")


@dataclass(frozen=True)
class Lane:
    """The environment: where its commands are, and its size in bytes before the tests' own tools came."""

    commands: Path
    base_bytes: int

    def run(self, command: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
        return call(self.commands / command, *arguments, folder=folder)


def call(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command without what the surrounding pytest and make left in the environment."""
    ours = ("PYTEST", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def succeed(*command: object, folder: Path) -> str:
    done = call(*command, folder=folder)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def find_python_3_10() -> str | None:
    """A Python 3.10 that really runs: a shim on the path may not."""
    installed = sorted(Path.home().glob(".pyenv/versions/3.10*/bin/python"), reverse=True)
    for candidate in [shutil.which("python3.10"), *map(str, installed)]:
        if candidate:
            done = call(candidate, "-c", "import sys; print(sys.version_info[:2] == (3, 10))", folder=ROOT)
            if done.stdout.strip() == "True":
                return candidate
    return None


@pytest.fixture(scope="session")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    python = find_python_3_10()
    if python is None:
        pytest.skip("no Python 3.10 is installed here")
    folder = tmp_path_factory.mktemp("old-python")
    wheel = build_wheel(folder)
    succeed(python, "-m", "venv", "--without-pip", "venv", folder=folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "venv/bin/python", "install", "--quiet")
    pinned = ("-c", ROOT / "constraints-device.txt")
    succeed(*pip, *pinned, f"{wheel}[onnxruntime]", folder=folder)
    site = folder / "venv/lib/python3.10/site-packages"
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    tools = ("pytest", "hypothesis", "jsonschema")
    succeed(*pip, *pinned, f"{wheel}[onnxruntime,image]", *tools, folder=folder)
    yield Lane(folder / "venv/bin", size)
    shutil.rmtree(folder)  # pytest keeps the folders of three runs, and this one is large


def build_wheel(folder: Path) -> Path:
    """The package as it would be published, from a copy, so that nothing is left in the checkout."""
    for name in PACKAGE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source")
    succeed(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", "dist", "./source", folder=folder)
    return next((folder / "dist").glob("*.whl"))


def test_the_environment_is_the_old_one(lane: Lane, tmp_path: Path) -> None:
    code = "import sys, numpy, onnxruntime; print(sys.version_info[:2], numpy.__version__, onnxruntime.__version__)"
    assert lane.run("python", "-c", code, folder=tmp_path).stdout.strip() == "(3, 10) 1.26.4 1.23.2"


def test_nothing_of_the_host_side_is_importable_there(lane: Lane, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([name for name in {HOST_ONLY} if u.find_spec(name)])"
    assert lane.run("python", "-c", code, folder=tmp_path).stdout.strip() == "[]"


def test_base_and_onnxruntime_take_less_than_250_mb(lane: Lane) -> None:
    assert 50_000_000 < lane.base_bytes < SIZE_LIMIT


@pytest.mark.parametrize("room", ROOMS)
def test_the_tests_of_a_device_side_room_pass_there(lane: Lane, room: str) -> None:
    done = lane.run("pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / room, folder=ROOT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"[1-9]\d* passed", done.stdout.splitlines()[-1])


def test_a_bundle_runs_in_a_torch_free_install(lane: Lane, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")
    from edgekit.smear import draw_smear

    image.fromarray(draw_smear().image).save(tmp_path / "smear.png")
    edgekit = Path(sys.executable).with_name("edgekit")
    succeed(edgekit, "export", "--model", "femtodet", "--target", "snapdragon-865", "-o", "bundle", folder=tmp_path)
    arguments = ("run", "bundle", "smear.png", "--json")
    there = found(succeed(lane.commands / "edgekit", *arguments, folder=tmp_path))
    here = found(succeed(edgekit, *arguments, folder=tmp_path))
    assert len(there) == len(here) > 0
    for one, other in zip(there, here, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["box"] == pytest.approx(other["box"], abs=0.1)


def found(printed: str) -> list[dict[str, Any]]:
    """What `edgekit run --json` found in its one picture."""
    (result,) = json.loads(printed)
    detections: list[dict[str, Any]] = result["found"]
    return detections
