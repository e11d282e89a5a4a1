"""The package of docs/extending.md, built from that page: a stranger's board, runtime and exporter work without us."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit import plugins, profiles
from edgekit.errors import UnsupportedError, UsageError

if sys.version_info < (3, 11):
    pytest.skip("the host side needs Python 3.11", allow_module_level=True)

import tomllib

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
GROUPS = ("edgekit.profiles", "edgekit.runtimes", "edgekit.exporters")


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's package as pip would leave it: its modules and its metadata on the path."""
    blocks = re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    for name, text in blocks:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["project"]
    metadata = tmp_path / "acme_edge-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in [name for name in sys.modules if name.split(".")[0] == "acme_edge"]:
        del sys.modules[module]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x W): a graph that any runtime computes."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"], name="multiply"),
            helper.make_node("Relu", ["product"], ["y"], name="clip"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_the_package_registers_one_of_each(acme: Path) -> None:
    for group in GROUPS:
        assert "acme" in plugins.names(group)
    assert plugins.load("edgekit.runtimes", "acme").name == plugins.load("edgekit.exporters", "acme").name == "acme"


def test_without_the_package_its_board_is_unknown() -> None:
    with pytest.raises(UsageError, match="unknown device 'acme-rover'"):
        profiles.get("acme-rover")


def test_the_board_and_its_variant_are_targets_beside_ours(acme: Path) -> None:
    rover, mini = profiles.get("rover"), profiles.get("acme-rover-mini")
    assert (rover.name, rover.runtime, rover.fact("cores").value) == ("acme-rover", "acme", 4)
    assert (mini.runtime, mini.opset, mini.fact("cores").value) == ("acme", rover.opset, 2)
    assert rover.fact("heat").value is None
    assert {"acme-rover", "acme-rover-mini", "orin-nano"} <= {profile.name for profile in profiles.all_profiles()}


def test_importing_the_runtimes_file_does_not_import_what_it_wraps(acme: Path) -> None:
    code = "import sys, acme_edge.runtime; sys.exit('onnx' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=acme, env=environment, check=False)
    assert done.returncode == 0


def test_a_model_is_exported_for_the_board_checked_in_its_runtime_and_runs_there(acme: Path, model: Path) -> None:
    import edgekit
    from edgekit import pipeline
    from edgekit.config import load_config

    config, _ = load_config(None, {"source": str(model)})
    result = pipeline.export(config, "acme-rover", acme / "tiny.edgekit")
    assert result.manifest.target.runtime.name == "acme"
    assert result.manifest.parity and all(each.passed and "acme" in each.where for each in result.manifest.parity)
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    weight = onnx.numpy_helper.to_array(onnx.load(model).graph.initializer[0])
    with edgekit.load(result.path) as session:
        assert session.runtime.startswith("acme ")
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ weight, 0), rtol=1e-6, atol=1e-6)


def test_what_the_exporter_refuses_is_refused_with_its_reason(acme: Path, model: Path) -> None:
    from edgekit import pipeline
    from edgekit.config import load_config

    config, _ = load_config(None, {"source": str(model), "precision": "fp16"})
    with pytest.raises(UnsupportedError, match="--precision fp16 is refused for acme-rover") as caught:
        pipeline.plan(config, "acme-rover")
    assert "the board has no fp16" in str(caught.value.why)
