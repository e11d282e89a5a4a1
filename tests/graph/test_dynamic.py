"""Ranges at run time: the float result within int8's error, in kernels of ONNX Runtime's, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, helper  # noqa: E402

from edgekit.compress.ptq import PtqOptions, prepare  # noqa: E402
from edgekit.errors import UnsupportedError  # noqa: E402
from edgekit.exporters import Exported  # noqa: E402
from edgekit.exporters.onnxruntime import EXPORTER  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.qdq import lower  # noqa: E402
from edgekit.graph.quantspec import QuantSpec  # noqa: E402
from edgekit.noise import snr_db  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND  # noqa: E402

Array = np.ndarray
Build = Callable[..., ModelProto]
Run = Callable[..., dict[str, Array]]


@pytest.fixture
def graph(build: Build) -> Graph:
    """Two products that read one tensor, one with a bias, a Gemm behind them, and a product of activations."""
    rng = np.random.default_rng(0)
    shapes = {"q": (16, 24), "qb": (24,), "k": (16, 24), "g": (8, 24), "gb": (8,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["qm"], "query"),
        helper.make_node("Add", ["qm", "qb"], ["qs"], "query bias"),
        helper.make_node("MatMul", ["x", "k"], ["ks"], "key"),
        helper.make_node("Mul", ["qs", "ks"], ["m"], "mul"),
        helper.make_node("Relu", ["m"], ["t"], "relu"),
        helper.make_node("Gemm", ["t", "g", "gb"], ["e"], "gemm", transB=1),
        helper.make_node("Transpose", ["e"], ["et"], "turn"),
        helper.make_node("MatMul", ["e", "et"], ["y"], "attention"),
    ]
    return Graph(infer_shapes(build(nodes, {"x": ("rows", 16)}, {"y": ("rows", "rows")}, weights)), {}, ())


@pytest.fixture
def samples() -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(5, 16)).astype(np.float32)} for _ in range(8)]


@pytest.fixture
def quantized(graph: Graph, samples: list[dict[str, Array]]) -> tuple[Graph, QuantSpec]:
    return prepare(graph, samples, PtqOptions(dynamic=True, equalize=False)).spec()


def test_the_spec_holds_no_ranges(quantized: tuple[Graph, QuantSpec]) -> None:
    _, spec = quantized
    assert spec.dynamic and spec.activations == {} and spec.carriers == ()
    assert spec.layers == ("query", "key", "gemm") and list(spec.float_nodes) == ["attention"]


def test_it_computes_what_the_float_graph_does_within_int8(
    graph: Graph, quantized: tuple[Graph, QuantSpec], samples: list[dict[str, Array]], run: Run
) -> None:
    lowered = lower(*quantized, "onnxruntime").model
    onnx.checker.check_model(lowered, full_check=True)
    for feeds in samples:
        assert snr_db(run(graph.model, **feeds)["y"], run(lowered, **feeds)["y"]) > 25
    far = {"x": samples[0]["x"] * 50}  # ranges come from the input itself: 50 times what was calibrated is no problem
    assert snr_db(run(graph.model, **far)["y"], run(lowered, **far)["y"]) > 25


def test_onnx_runtime_fuses_it_into_its_kernels(quantized: tuple[Graph, QuantSpec]) -> None:
    lowered = lower(*quantized, "onnxruntime")
    kinds = [node.op_type for node in lowered.model.graph.node]
    assert kinds.count("DynamicQuantizeLinear") == 2 and kinds.count("MatMulInteger") == 3
    optimized = onnx.load_from_string(BACKEND.optimized(EngineRequest(lowered.serialized())))
    found = [node.op_type for node in optimized.graph.node]
    assert not {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}.isdisjoint(found)
    fused = [kind for kind in found if kind in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")]
    assert len(fused) == 3 and "Gemm" not in found
    assert not [t for t in optimized.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]


def test_its_layers_are_counted_by_name(quantized: tuple[Graph, QuantSpec]) -> None:
    lowered = lower(*quantized, "onnxruntime")
    assert {"query", "key", "gemm"} == set(EXPORTER.int8_nodes(Exported((), lowered, "int8", {})))


@pytest.mark.parametrize("runtime", ["openvino", "tensorrt"])
def test_other_runtimes_refuse_it(quantized: tuple[Graph, QuantSpec], runtime: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{runtime} takes no ranges at run time"):
        lower(*quantized, runtime)


def test_convolutions_stay_float(build: Build, samples: list[dict[str, Array]]) -> None:
    weights = {
        "w": np.ones((4, 16, 1, 1), np.float32),
        "v": np.ones((4, 4), np.float32),
        "to": np.array([-1, 16, 1, 1]),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "to"], ["p"], "turn"),
        helper.make_node("Conv", ["p", "w"], ["c"], "conv"),
        helper.make_node("Flatten", ["c"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "v"], ["y"], "product"),
    ]
    model = infer_shapes(build(nodes, {"x": (5, 16)}, {"y": None}, weights))
    _, spec = prepare(Graph(model, {}, ()), samples, PtqOptions(dynamic=True)).spec()
    assert spec.layers == ("product",) and "matrix products only" in spec.float_nodes["conv"]
