"""Landmarks are taken from the half reference, and name the first tensor that is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgekit.bundle.landmarks import MOST_VALUES, read_landmarks  # noqa: E402
from edgekit.bundle.manifest import Origin  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.half import to_half  # noqa: E402
from edgekit.graph.half_reference import run_half  # noqa: E402
from edgekit.landmarks import landmarks  # noqa: E402


@pytest.fixture(scope="module")
def small() -> Graph:
    """x (2, 4) times w, masked by -inf where negative, through a softmax; with a constant and an integer beside it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Identity", ["w"], ["same"], "constant"),
        helper.make_node("ArgMax", ["p"], ["best"], "best"),
        helper.make_node("Less", ["p", "zero"], ["below"], "less"),
        helper.make_node("Where", ["below", "never", "p"], ["masked"], "mask"),
        helper.make_node("Softmax", ["masked"], ["y"], "softmax"),
    ]
    weights = {"w": np.eye(4, dtype=np.float32) / 3, "zero": np.float32(0), "never": np.float32(-np.inf)}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("x", TensorProto.FLOAT, [2, 4])],
        [value("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    origins = {"product": Origin("net.fc", "net.py", 12), "softmax": Origin("net", None, None)}
    return to_half(Graph(onnx.shape_inference.infer_shapes(model), origins, ()))


X = np.float32([[1, -2, 3, 4], [0.5, 6, -7, 8]])


def test_landmarks_are_what_the_half_reference_computes(small: Graph) -> None:
    read = read_landmarks(landmarks(small, {"x": X}, selftest=3))
    assert read.selftest == 3
    assert [each.tensor for each in read.tensors] == ["x_fp16", "p", "p_fp32", "masked", "y"]  # no integers, no weights
    values = run_half(small, {"x": X}, [each.tensor for each in read.tensors])
    for each in read.tensors:
        array = values[each.tensor]
        assert each.shape == array.shape and each.deviation(array) == 0
        assert each.max_abs == np.abs(array[np.isfinite(array)]).max() and each.max_abs in np.abs(each.values)
        assert list(each.values) == array.reshape(-1)[list(each.indices)].tolist()
    masked = read.tensors[3]
    assert len(masked.indices) == 6 and np.isfinite(masked.values).all()
    product = read.tensors[1]
    assert product.describe() == "node 'product' (MatMul) of module 'net.fc' (net.py:12)"
    assert (product.op, product.module, product.line) == ("MatMul", "net.fc", "net.py:12")
    assert read.tensors[4].line is None and read.tensors[2].module == "net.fc"


def test_the_first_tensor_that_deviates_is_found(small: Graph) -> None:
    read = read_landmarks(landmarks(small, {"x": X}))
    arrays = run_half(small, {"x": X}, [each.tensor for each in read.tensors])
    assert read.first_deviating(arrays, 0.0) is None
    arrays["y"] = arrays["y"] + 0.5
    arrays["p"] = arrays["p"] * np.float16(1.01)
    assert read.first_deviating(arrays, 0.05) == read.tensors[4]
    assert read.first_deviating(arrays, 0.005) == read.tensors[1]
    del arrays["p"]
    assert read.first_deviating(arrays, 0.005) == read.tensors[4]
    arrays["y"][:] = np.nan
    assert read.tensors[4].deviation(arrays["y"]) == math.inf
    assert read.tensors[4].deviation(arrays["y"][:1]) == math.inf


def test_landmarks_of_femtodet_are_small_repeatable_and_name_modules(shipped_graph: Graph) -> None:
    half = to_half(shipped_graph)
    image = np.random.default_rng(0).standard_normal((1, 3, 416, 416)).astype(np.float32)
    raw = landmarks(half, {"image": image})
    assert raw == landmarks(half, {"image": image}) and len(raw) < 200_000
    read = read_landmarks(raw)
    assert len(read.tensors) > 60 and all(len(each.indices) <= MOST_VALUES for each in read.tensors)
    named = [each for each in read.tensors if each.module is not None and each.line is not None]
    assert len(named) > 0.9 * len(read.tensors)
    assert read.tensors[-1].tensor == "head"


def test_what_follows_from_a_choice_among_values_has_no_landmark() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"], "square"),
        helper.make_node("NonZero", ["square"], ["where"], "nonzero"),
        helper.make_node("Transpose", ["where"], ["rows"], "turn", perm=[1, 0]),
        helper.make_node("GatherND", ["square", "rows"], ["y"], "pick"),
    ]
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", TensorProto.FLOAT, [2, 4])], [value("y", TensorProto.FLOAT, ["n"])]
    model = helper.make_model(
        helper.make_graph(nodes, "choice", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    graph = to_half(Graph(onnx.shape_inference.infer_shapes(model), {}, ()))
    found = {landmark.node for landmark in read_landmarks(landmarks(graph, {"x": X})).tensors}
    assert "square" in found and not found & {"nonzero", "turn", "pick"}
