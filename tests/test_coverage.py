"""The coverage gate: a file full of QuantizeLinear that a runtime computes in float is caught, and its nodes named."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from edgekit import pipeline, profiles  # noqa: E402
from edgekit.bundle import Coverage  # noqa: E402
from edgekit.compress.ptq import prepare  # noqa: E402
from edgekit.config import Config, ExportOptions, ModelOptions  # noqa: E402
from edgekit.coverage import UNFUSED, coverage_gate, measure_coverage  # noqa: E402
from edgekit.errors import GateError  # noqa: E402
from edgekit.exporters import Exported, LoweringRequest, exporter_for  # noqa: E402
from edgekit.graph.from_torch import export_torch  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

NAMES = ("stem", "body", "tail")
PER_LAYER = 16 * 8 * 8 * 16 * 9


def chain(symmetric: bool) -> ModelProto:
    """Three convolutions with ReLU between Q/DQ pairs: after the ReLU, int8 around zero or uint8 from zero."""
    rng = np.random.default_rng(0)
    kind = np.int8 if symmetric else np.uint8
    weights: dict[str, Any] = {
        "s": np.float32(6 / (127 if symmetric else 255)),
        "z": kind(0),
        "wz": np.zeros(16, np.int8),
    }
    weights |= {"ws": np.full(16, 1e-3, np.float32), "bs": np.full(16, 1e-3 * weights["s"], np.float32)}
    weights |= {"bz": np.zeros(16, np.int32)}
    nodes = pair("x")
    last = "x"
    for name in NAMES:
        weights[f"{name}/w"] = rng.integers(-127, 128, (16, 16, 3, 3), np.int8)
        weights[f"{name}/b"] = rng.integers(-999, 1000, 16, np.int32)
        nodes += [
            helper.make_node("DequantizeLinear", [f"{name}/w", "ws", "wz"], [f"{name}/wd"], f"{name}/W", axis=0),
            helper.make_node("DequantizeLinear", [f"{name}/b", "bs", "bz"], [f"{name}/bd"], f"{name}/B", axis=0),
            helper.make_node("Conv", [f"{last}/d", f"{name}/wd", f"{name}/bd"], [f"{name}/c"], name, pads=[1] * 4),
            helper.make_node("Relu", [f"{name}/c"], [name], f"{name}/relu"),
            *pair(name),
        ]
        last = name
    nodes.append(helper.make_node("Identity", [f"{last}/d"], ["y"], "end"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 8, 8]) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], initializers)
    return infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def pair(tensor: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [tensor, "s", "z"], [f"{tensor}/q"], f"{tensor}/Q"),
        helper.make_node("DequantizeLinear", [f"{tensor}/q", "s", "z"], [f"{tensor}/d"], f"{tensor}/DQ"),
    ]


def measured(symmetric: bool) -> tuple[Coverage, Graph]:
    graph = Graph(chain(symmetric), {}, ())
    exporter = exporter_for(profiles.get("host"))
    return measure_coverage(graph, exporter, Exported((), graph, "int8", {}), {"stem": "meant to"}, 0.7), graph


def test_uint8_from_zero_behind_relu_runs_in_int8() -> None:
    coverage, graph = measured(symmetric=False)
    assert (coverage.share, coverage.int8_macs, coverage.total_macs) == (1.0, 3 * PER_LAYER, 3 * PER_LAYER)
    assert coverage.float_nodes == {} and coverage.source == "runtime" and coverage.bar == 0.7
    coverage_gate(coverage, graph, "onnxruntime")


def test_a_symmetric_q_behind_relu_is_int8_by_name_only() -> None:
    coverage, graph = measured(symmetric=True)
    assert coverage.share == 0 and coverage.int8_macs == 0 and coverage.total_macs == 3 * PER_LAYER
    assert coverage.float_nodes == {"stem": "meant to", "body": UNFUSED, "tail": UNFUSED}
    with pytest.raises(GateError, match=r"coverage: 0\.0 %") as caught:
        coverage_gate(coverage, graph, "onnxruntime")
    assert all(name in str(caught.value.where) for name in NAMES)
    assert UNFUSED in str(caught.value.where) and "70 %" in str(caught.value.why)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_file_that_others_quantized_is_held_to_the_same_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symmetric: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.onnx").write_bytes(chain(symmetric).SerializeToString())
    config = Config(model=ModelOptions(source="theirs.onnx"), export=ExportOptions(precision="fp32"))
    place = tmp_path / "out.edgekit"
    if not symmetric:
        assert pipeline.export(config, "host", place).path.exists()
        return
    with pytest.raises(GateError, match="coverage") as caught:
        pipeline.export(config, "host", place)
    assert all(name in str(caught.value) + str(caught.value.where) for name in NAMES)
    assert not place.exists()


def test_the_largest_float_nodes_come_first_and_the_rest_is_counted() -> None:
    rng = np.random.default_rng(0)
    widths = [2, 4, 8, 16, 32, 64, 2]
    weights = {f"w{i}": rng.normal(size=pair).astype(np.float32) for i, pair in enumerate(itertools.pairwise(widths))}
    nodes = [helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"], f"n{i}") for i in range(6)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("t0", "t6")]
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    model = infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    coverage = Coverage(0.5, 0.1, 1, 10, "rule", {f"n{i}": f"reason {i}" for i in range(6)})
    with pytest.raises(GateError) as caught:
        coverage_gate(coverage, Graph(model, {}, ()), "tensorrt")
    listed = str(caught.value.where)
    assert listed.startswith("tensorrt: n4 (reason 4); n3 (reason 3)") and listed.endswith("; and 1 more")
    assert "counted by rule" in str(caught.value.why)


class Attention(nn.Module):
    """One head of self-attention between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 6, dim=-1)
        return self.out(scores @ self.v(x))


@pytest.mark.parametrize("target", ["host", "intel-cpu"])
def test_attention_products_count_as_float_wherever_the_runtime_hides_them(torch_seed: None, target: str) -> None:
    shape = (1, 16, 32)
    spec = ModelSpec("net", "tensor", (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),))
    canonical = export_torch(Attention().eval(), (torch.randn(*shape),), spec, 20, 10)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(8)]
    graph, quant = prepare(canonical, samples).spec()
    profile = profiles.get(target)
    exporter = exporter_for(profile)
    request = LoweringRequest(graph, spec, profile, "int8", quant)
    coverage = measure_coverage(
        canonical, exporter, exporter.export(request, exporter.plan(request)), quant.float_nodes, 0.7
    )
    assert len(coverage.float_nodes) == 2 and set(coverage.float_nodes) == set(quant.float_nodes)
    assert all("attention" in reason for reason in coverage.float_nodes.values())
    linear, attention = 4 * 16 * 32 * 32, 2 * 16 * 16 * 32
    assert (coverage.int8_macs, coverage.total_macs) == (linear, linear + attention)
    coverage_gate(coverage, canonical, profile.runtime)
