"""The two ends of a picture network in ONNX Runtime: three channels as four, and the mean over space."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, helper, numpy_helper  # noqa: E402

from edgekit.compress.ptq import prepare  # noqa: E402
from edgekit.graph.dialects import DIALECTS  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.qdq import lower  # noqa: E402
from edgekit.graph.quantspec import QuantSpec  # noqa: E402
from edgekit.noise import snr_db  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND  # noqa: E402

Build = Callable[..., ModelProto]
Run = Callable[..., dict[str, np.ndarray]]
Made = tuple[ModelProto, Graph, QuantSpec, np.ndarray]


def network(
    build: Build, outputs: int = 16, kernel: int = 3, channels: int = 3, axes: tuple[int, ...] = (2, 3)
) -> Made:
    """A convolution of a picture, and the mean of its result in a linear layer."""
    rng = np.random.default_rng(0)
    kept = [size for axis, size in enumerate((outputs, 8, 8), 1) if axis not in {axis % 4 for axis in axes}]
    shapes = {"w": (outputs, channels, kernel, kernel), "b": (outputs,), "c": (5,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"v": rng.normal(size=(math.prod(kept), 5)).astype(np.float32), "axes": np.array(axes)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv", pads=4 * [kernel // 2]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], "mean"),
        helper.make_node("Flatten", ["m"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "v", "c"], ["y"], "gemm"),
    ]
    model = build(nodes, {"x": (1, channels, 8, 8)}, {"y": (1, 5)}, weights)
    inputs = [rng.normal(size=(1, channels, 8, 8)).astype(np.float32) + 0.5 for _ in range(8)]
    graph = Graph(infer_shapes(model), {}, ())
    return model, *prepare(graph, [{"x": each} for each in inputs]).spec(), inputs[0]


def optimized(graph: Graph) -> ModelProto:
    return onnx.load_from_string(BACKEND.optimized(EngineRequest(graph.serialized())))


def test_a_picture_gets_a_fourth_channel_that_changes_no_bit(
    build: Build, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graph, spec, x = network(build)
    filled = lower(graph, spec, "onnxruntime")
    monkeypatch.setitem(DIALECTS, "onnxruntime", replace(DIALECTS["onnxruntime"], quads=False))
    plain = lower(graph, spec, "onnxruntime")
    assert not [node for node in plain.model.graph.node if node.op_type == "Pad"]
    np.testing.assert_array_equal(run(filled.model, x=x)["y"], run(plain.model, x=x)["y"])
    assert snr_db(run(model, x=x)["y"], run(filled.model, x=x)["y"]) > 30
    final = optimized(filled)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in final.graph.initializer}
    (conv,) = (node for node in final.graph.node if node.op_type == "QLinearConv")
    assert weights[conv.input[3]].shape[1] == 4 and not weights[conv.input[3]][:, 3].any()
    kinds = [node.op_type for node in final.graph.node]
    assert kinds.count("Pad") == 1 and "Conv" not in kinds


@pytest.mark.parametrize("case", [{"outputs": 24}, {"kernel": 1}, {"channels": 4}, {"outputs": 8}])
def test_where_a_fourth_channel_wins_nothing_there_is_none(build: Build, case: dict[str, int]) -> None:
    _, graph, spec, _ = network(build, **case)
    assert "Pad" not in {node.op_type for node in lower(graph, spec, "onnxruntime").model.graph.node}


def test_other_runtimes_get_the_picture_as_it_is(build: Build) -> None:
    _, graph, spec, _ = network(build)
    for runtime in set(DIALECTS) - {"onnxruntime"}:
        kinds = {node.op_type for node in lower(graph, spec, runtime).model.graph.node}
        assert "ReduceMean" in kinds and not {"Pad", "GlobalAveragePool"} & kinds


def test_integers_that_nobody_reads_are_not_dequantized(build: Build) -> None:
    _, graph, spec, _ = network(build)
    model = lower(graph, spec, "onnxruntime").model
    read = {name for node in model.graph.node for name in node.input} | {"y"}
    assert all(set(node.output) & read for node in model.graph.node)


@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
def test_the_mean_over_space_is_an_integer_kernel(build: Build, run: Run, axes: tuple[int, ...]) -> None:
    model, graph, spec, x = network(build, axes=axes)
    lowered = lower(graph, spec, "onnxruntime")
    kinds = {node.op_type for node in optimized(lowered).graph.node}
    assert "QLinearGlobalAveragePool" in kinds and "ReduceMean" not in kinds
    assert snr_db(run(model, x=x)["y"], run(lowered.model, x=x)["y"]) > 30


@pytest.mark.parametrize("axes", [(1, 2), (2,)])
def test_a_mean_over_other_axes_stays_one(build: Build, run: Run, axes: tuple[int, ...]) -> None:
    model, graph, spec, x = network(build, axes=axes)
    lowered = lower(graph, spec, "onnxruntime")
    assert "GlobalAveragePool" not in {node.op_type for node in lowered.model.graph.node}
    assert snr_db(run(model, x=x)["y"], run(lowered.model, x=x)["y"]) > 20
