"""Two checkouts in two environments give the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import edgekit
from edgekit import exporters, profiles, runtimes

SMALL = """
import hashlib, torch
from torch import nn
from edgekit.compress import Recipe
from edgekit.graph.from_torch import export_torch
from edgekit.models.femtodet import Block
from edgekit.spec import ModelSpec, TensorSpec
torch.manual_seed(0)
module = nn.Sequential(Block(3, 4, 2, 1, 1)).eval()
x = torch.randn(2, 3, 8, 8)
module, _ = Recipe.parse(["fuse"]).apply(module, (x,))
tensors = [TensorSpec(name, "float32", ("n", channels, 8, 8)) for name, channels in (("x", 3), ("y", 4))]
spec = ModelSpec("m", "tensor", (tensors[0],), (tensors[1],))
graph = export_torch(module, (x,), spec, 20, 10)
print(hashlib.sha256(graph.serialized()).hexdigest(), sorted(graph.origins.items()))
"""

FEMTODET = """
import hashlib
from edgekit.sources import open_source
parent = open_source("femtodet")
graph, _ = parent.to_graph(parent.spec, None, 20, 10)
print(hashlib.sha256(graph.serialized()).hexdigest(), sorted(graph.origins.items()))
"""


def checkout(folder: Path) -> Path:
    """The package as it stands, copied to `folder`, with its mapped rooms in place."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(edgekit.__file__).parent, folder / "edgekit", ignore=ignore, dirs_exist_ok=True)
    for room in (exporters, profiles, runtimes):
        name = room.__name__.removeprefix("edgekit.")
        shutil.copytree(Path(str(room.__file__)).parent, folder / "edgekit" / name, ignore=ignore, dirs_exist_ok=True)
    return folder


def exported(script: str, folder: Path, cwd: Path, hash_seed: str, user: str) -> str:
    cwd.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONHASHSEED": hash_seed,
        "HOME": str(cwd),
        "USER": user,
        "OMP_NUM_THREADS": "1",
    }
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert list(cwd.iterdir()) == []  # no side file
    return found.stdout


def from_two_checkouts(script: str, tmp_path: Path) -> tuple[str, str]:
    first = exported(script, checkout(tmp_path / "a"), tmp_path / "here", "1", "ada")
    second = exported(script, checkout(tmp_path / "b" / "deeper in a folder"), tmp_path / "there", "2", "grace")
    assert str(tmp_path) not in first
    return first, second


def test_a_small_module_gives_the_same_bytes_and_origins_from_two_checkouts(tmp_path: Path) -> None:
    first, second = from_two_checkouts(SMALL, tmp_path)
    assert first == second and "edgekit/models/femtodet.py" in first


@pytest.mark.slow
def test_femtodet_gives_the_same_bytes_and_origins_from_two_checkouts(tmp_path: Path) -> None:
    first, second = from_two_checkouts(FEMTODET, tmp_path)
    assert first == second and "edgekit/models/femtodet.py" in first
