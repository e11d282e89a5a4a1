"""`edgekit build` on a board that has doubles of TensorRT and CUDA: the exported FemtoDet, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import Bundle, load_private_key, write_bundle

DOUBLES = Path(__file__).parents[1] / "doubles"
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def orin(femtodet_bundles: dict[str, Path]) -> Path:
    """FemtoDet as it is exported for the board, with landmarks."""
    return femtodet_bundles["orin-nano"]


def rewritten(path: Path, place: Path, change: Callable[[Any, dict[str, Any]], Any], key: Any = None) -> Path:
    """A copy of a bundle with another manifest and other files."""
    with Bundle.open(path) as bundle:
        files = {entry.path: (entry.role, bundle.read(entry.path)) for entry in bundle.manifest.files}
        manifest = change(replace(bundle.manifest, files=()), files)
    write_bundle(place, manifest, files, private_key=key).close()
    return place


def inner_tensor(path: Path) -> str:
    """A tensor in the middle of the bundle's graph that has a landmark."""
    with Bundle.open(path) as bundle:
        (file,) = bundle.files_with_role("landmarks")
        tensors = json.loads(bundle.read(file))["tensors"]
    return str(tensors[len(tensors) // 2]["tensor"])


def test_the_exported_model_is_built_found_run_and_proved(
    board: Any, orin: Path, edgekit: Command, folder: Path
) -> None:
    done = edgekit("build", orin)
    assert done.code == 0, done.sentence
    assert "fp16: parse the model" in done.err and "fp16: run " in done.err and "self-test(s)" in done.err
    assert "built" in done.out and "passed" in done.out and str(board.cache) in done.out
    assert len(board.engines()) == 1
    found = edgekit("build", orin, "--json").document
    (engine,) = found
    assert (engine["precision"], engine["runtime"], engine["engine"]["built"]) == ("fp16", "tensorrt 10.3.0", False)
    assert engine["engine"]["key"] in engine["engine"]["path"]
    assert engine["engine"]["checks"] >= 1
    again = edgekit("build", orin, "--force", "--json").document
    assert again[0]["engine"]["built"] and again[0]["engine"]["key"] == engine["engine"]["key"]
    proved = edgekit("prove", orin, "--json")
    assert all(each["status"] == "passed" for each in proved.document["answers"] if each["id"].startswith("selftest"))
    assert proved.document["device"]["runtime"] == "tensorrt 10.3.0"


def test_it_finds_cells_in_a_picture(board: Any, orin: Path, edgekit: Command, folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from edgekit.smear import draw_smear

    image.fromarray(draw_smear().image).save(folder / "smear.png")
    here = edgekit("run", orin, "smear.png", "--json").document
    there = edgekit("run", orin, "smear.png", "--json", "--runtime", "onnxruntime").document
    assert here[0]["found"] == there[0]["found"] and here[0]["found"]


def test_wrong_values_exit_with_3_name_the_layer_and_keep_nothing(board: Any, orin: Path, edgekit: Command) -> None:
    tensor = inner_tensor(orin)
    board.become(wrong_from=tensor)
    done = edgekit("build", orin, "--json")
    assert done.code == 3
    assert "does not compute what the model did" in done.document["what"]
    assert f"the first to deviate is tensor {tensor!r}" in done.document["why"]
    assert "femtodet.py:" in done.document["why"]
    assert board.engines() == []
    assert edgekit("prove", orin).code == 3
    assert board.engines() == []


def test_another_runtimes_bundle_has_nothing_to_build(edgekit: Command, small_bundles: dict[str, Path]) -> None:
    done = edgekit("build", small_bundles["zip"])
    assert done.code == 2
    assert (
        "nothing is to be built" in done.sentence
        and "onnxruntime reads the bundle's files as they are" in done.sentence
    )


def test_without_tensorrt_the_fix_is_jetpacks(edgekit: Command, orin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = edgekit("build", orin)
    assert done.code == 4
    assert "python3-libnvinfer" in done.sentence and "--system-site-packages" in done.sentence


def test_another_machine_is_refused(board: Any, orin: Path, edgekit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    done = edgekit("build", orin)
    assert done.code == 4 and "aarch64" in done.sentence


def test_only_the_named_precision_is_built(board: Any, orin: Path, edgekit: Command, folder: Path) -> None:
    assert edgekit("build", orin, "--precision", "fp16").code == 0
    done = edgekit("build", orin, "--precision", "int4")
    assert done.code == 2 and "has no 'int4'" in done.sentence


def test_a_bundle_signed_by_another_is_refused(
    board: Any, orin: Path, edgekit: Command, folder: Path, small_bundles: dict[str, Path]
) -> None:
    key = load_private_key(small_bundles["private"])
    path = rewritten(orin, folder / "signed", lambda manifest, files: manifest, key)
    assert edgekit("build", path, "--key", small_bundles["key"]).code == 0
    assert edgekit("build", path, "--key", small_bundles["stranger"]).code == 3
    (path / "model.onnx").write_bytes(b"x" * (path / "model.onnx").stat().st_size)
    assert edgekit("build", path).code == 3


def test_self_tests_decide_and_not_the_engine_alone(board: Any, orin: Path, edgekit: Command, folder: Path) -> None:
    from edgekit.bundle import encode_array

    def change(manifest: Any, files: dict[str, Any]) -> Any:
        path = next(iter(manifest.selftest[0].outputs.values()))
        with Bundle.open(orin) as bundle:
            files[path] = ("selftest", encode_array(np.zeros_like(bundle.read_array(path))))
        return manifest

    done = edgekit("build", rewritten(orin, folder / "odd", change))
    assert done.code == 3 and "no engine was kept" in done.sentence
    assert board.engines() == []


def test_a_tampered_engine_is_refused_until_it_is_built_again(board: Any, orin: Path, edgekit: Command) -> None:
    assert edgekit("build", orin).code == 0
    (engine,) = board.engines()
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    done = edgekit("build", orin)
    assert done.code == 3 and "was changed or damaged" in done.sentence and "--force" in done.sentence
    assert edgekit("build", orin, "--force").code == 0
    assert edgekit("build", orin).code == 0


def test_little_memory_is_said_with_what_helps(board: Any, orin: Path, edgekit: Command) -> None:
    board.free(100)
    done = edgekit("build", orin)
    assert done.code == 4 and "too little memory" in done.sentence and "multi-user.target" in done.sentence


def test_a_process_of_its_own_goes_the_same_way(orin: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(DOUBLES), *filter(None, sys.path)]),
        "EDGEKIT_DOUBLE": json.dumps({"machine": "aarch64"}),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "edgekit.cli.main", "build", str(orin), "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["engine"]["built"]
    environment["EDGEKIT_DOUBLE"] = json.dumps({"machine": "aarch64", "wrong_from": inner_tensor(orin)})
    done = subprocess.run(
        [*command, "--force"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert not list((tmp_path / "cache").rglob("engine.plan"))
