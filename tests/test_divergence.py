"""On a breach the culprit is named: the torch module that the export changed, or the tensor that the runtime did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from onnx import ModelProto, numpy_helper

from edgekit.divergence import first_divergence_of, trace
from edgekit.errors import InputError
from edgekit.exporters import Exported
from edgekit.graph.graph import Graph
from edgekit.parents import Parent
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.samples import Sample, collect
from edgekit.sources import open_source

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8)]
        for norm in norms:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), norms[0], nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), norms[1], nn.ReLU()
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def make():
    return Net(), torch.randn(1, 3, 16, 16)
"""


@dataclass(frozen=True)
class Case:
    parent: Parent
    graph: Graph
    sample: Sample

    def blame(self, canonical: Graph, lowered: Graph, backend: Any = ORT, **settings: str) -> str:
        exported = Exported((), lowered, "fp32", settings)
        return first_divergence_of(self.parent, canonical, exported, backend, self.sample, 1e-4)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Convolutions with norms, which the recipe folds, and a linear layer."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "a_network.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        parent = open_source("a_network:make", trust_code=True)
    graph, history = parent.to_graph(parent.spec, None, 20, 10)
    assert [step.step for step in history] == ["fuse", "rewrite"]
    return Case(parent, graph, collect(parent.spec, parent.spec, None, 1)[0])


def scaled(graph: Graph, weight: str, factor: float = 1.5) -> Graph:
    model = ModelProto()
    model.CopyFrom(graph.model)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), weight))
    return graph.then("damage", model)


LAYERS = [("body.0.weight", "body.0", "Conv"), ("body.3.weight", "body.3", "Conv"), ("head.weight", "head", "Gemm")]


@pytest.mark.parametrize(("weight", "module", "_"), LAYERS)
def test_a_wrong_export_is_blamed_on_the_torch_module_with_its_line(
    case: Case, weight: str, module: str, _: str
) -> None:
    damaged = scaled(case.graph, weight)
    said = case.blame(damaged, damaged)
    assert said.startswith(f"torch module {module!r} and node ")
    assert f"of module {module!r} (a_network.py:" in said
    assert said.endswith("before any runtime")


@pytest.mark.parametrize(("weight", "module", "operator"), LAYERS)
def test_a_wrong_lowering_is_blamed_on_the_first_tensor_with_node_module_and_line(
    case: Case, weight: str, module: str, operator: str
) -> None:
    said = case.blame(case.graph, scaled(case.graph, weight))
    node = next(node for node in case.graph.model.graph.node if weight in node.input)
    assert node.op_type == operator
    assert said.startswith(
        f"tensor {node.output[0]!r} in onnxruntime, computed by node {node.name!r} of module {module!r}"
    )
    assert "(a_network.py:" in said


def test_a_convolution_whose_norm_was_folded_is_not_blamed(case: Case) -> None:
    said = case.blame(case.graph, case.graph)
    assert said == "no tensor of the lowered graph diverges in onnxruntime: the written files differ from it"


def test_openvinos_bf16_is_blamed_on_the_first_convolution(case: Case) -> None:
    ov = pytest.importorskip("openvino")
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    from edgekit.runtimes.openvino import BACKEND

    said = case.blame(case.graph, case.graph, BACKEND, INFERENCE_PRECISION_HINT="bf16")
    assert said.startswith("tensor ") and " in openvino, computed by node " in said and "'body.0'" in said
    exact = case.blame(case.graph, case.graph, BACKEND, INFERENCE_PRECISION_HINT="f32")
    assert exact.startswith("no tensor")


def test_what_cannot_be_traced_is_unknown_and_does_not_hide_the_breach(case: Case) -> None:
    class Broken:
        name = "broken"

        def open(self, request: EngineRequest) -> Any:
            raise InputError("the runtime is upset")

    said = case.blame(case.graph, case.graph, Broken())
    assert said.startswith("unknown: ") and "the runtime is upset" in said


def test_settings_of_a_board_are_not_given_to_the_rehearsal(case: Case) -> None:
    seen: list[Mapping[str, str]] = []

    class Watched:
        name = "onnxruntime"

        def open(self, request: EngineRequest) -> Any:
            seen.append(request.settings)
            return ORT.open(request)

    exported = Exported((), case.graph, "fp32", {"board": "only"}, rehearsal=ORT)
    first_divergence_of(case.parent, case.graph, exported, Watched(), case.sample, 1e-4)  # type: ignore[arg-type]
    assert seen == [{}]


def test_a_trace_shows_every_tensor_in_the_order_of_computation(case: Case) -> None:
    tensors = trace(case.graph, ORT, case.sample.bundle, {})
    assert list(tensors) == [name for node in case.graph.model.graph.node for name in node.output]
    wanted = case.parent.run(case.sample.parent)["output"]
    np.testing.assert_allclose(tensors[case.parent.spec.outputs[0].name], wanted, rtol=1e-4, atol=1e-6)


def test_a_foreign_graph_is_blamed_by_tensor_and_node(detector: Path, tmp_path: Path) -> None:
    parent = open_source(str(detector))
    graph, _ = parent.to_graph(parent.spec, None, 20, 10)
    case = Case(parent, graph, collect(parent.spec, parent.spec, None, 1)[0])
    assert case.blame(graph, scaled(graph, "weight")) == "tensor 'head' in onnxruntime, computed by node 'head'"
    damaged = scaled(graph, "weight")
    assert case.blame(damaged, damaged) == "output 'head' of the canonical graph, before any runtime"
