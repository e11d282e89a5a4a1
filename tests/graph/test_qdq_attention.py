"""Attention in int8: queries and keys where a runtime gains by it, softmax and values never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from onnx import ModelProto, NodeProto, helper, numpy_helper  # noqa: E402

from edgekit.compress.ptq import PreparedGraph, PtqOptions, prepare  # noqa: E402
from edgekit.graph.dialects import DIALECTS  # noqa: E402
from edgekit.graph.graph import Graph, with_outputs  # noqa: E402
from edgekit.graph.integer import check_layers, quantized_tensors  # noqa: E402
from edgekit.graph.layers import find_layers, find_products  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.qdq import lower  # noqa: E402
from edgekit.graph.wiring import Wiring  # noqa: E402
from edgekit.noise import snr_db  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.session import backend_named  # noqa: E402

Build = Callable[..., ModelProto]
node = helper.make_node
TOKENS, HEADS, WIDTH = 20, 2, 32
SHAPE = (1, TOKENS, HEADS * WIDTH)


def attention(build: Build, **changed: list[NodeProto]) -> ModelProto:
    """Queries, keys and values by a layer each; `changed` are other nodes for one of these parts."""
    rng = np.random.default_rng(0)
    parts: dict[str, list[NodeProto]] = {}
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        parts[name] = [
            node("MatMul", ["x", f"w{name}"], [f"{name}m"], f"{name}_product"),
            node("Add", [f"{name}m", f"b{name}"], [f"{name}0"], f"{name}_bias"),
            node("Reshape", [f"{name}0", "heads"], [f"{name}1"], f"{name}_heads"),
            node("Transpose", [f"{name}1"], [f"{name}2"], f"{name}_order", perm=perm),
        ]
    parts["scores"] = [
        node("Mul", ["eighth", "q2"], ["scaled"], "scale"),
        node("MatMul", ["scaled", "k2"], ["scores"], "qk"),
    ]
    parts["weights"] = [node("Softmax", ["scores"], ["weights"], "softmax")]
    parts["end"] = [
        node("MatMul", ["weights", "v2"], ["mixed"], "av"),
        node("Transpose", ["mixed"], ["tokens"], "back", perm=[0, 2, 1, 3]),
        node("Reshape", ["tokens", "rows"], ["row"], "rows"),
        node("MatMul", ["row", "wo"], ["y"], "out"),
    ]
    constants: dict[str, Any] = {f"w{name}": rng.normal(size=(SHAPE[2], SHAPE[2])) / 8 for name in "qkvo"}
    constants |= {f"b{name}": rng.normal(size=SHAPE[2]) / 4 for name in "qkv"}
    constants |= {"eighth": np.array([0.125]), "mask": rng.normal(size=(TOKENS, TOKENS)), "each": np.ones(WIDTH)}
    floats = {name: values.astype(np.float32) for name, values in constants.items()}
    floats |= {"heads": np.array([0, 0, HEADS, WIDTH]), "rows": np.array([0, 0, -1])}
    return build([each for part in (parts | changed).values() for each in part], {"x": SHAPE}, {"y": SHAPE}, floats)


def samples(count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=SHAPE).astype(np.float32)} for _ in range(count)]


def prepared(model: ModelProto, **options: Any) -> PreparedGraph:
    return prepare(Graph(infer_shapes(model), {}, ()), samples(), PtqOptions(**options))


def products(model: ModelProto) -> list[tuple[str, str, str]]:
    wiring = Wiring(infer_shapes(model))
    found = find_products(wiring, find_layers(wiring)[0].values())
    return [(each.name, each.left, each.right) for each in found]


def rounded(graph: Graph) -> dict[str, np.generic]:
    """Zero points of what is rounded, by tensor."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.model.graph.initializer}
    pairs = [each for each in graph.model.graph.node if each.op_type == "QuantizeLinear"]
    return {each.input[0]: weights[each.input[2]] for each in pairs}


# --- which


def test_queries_and_keys_are_found_before_they_are_scaled_or_transposed(build: Build) -> None:
    assert products(attention(build)) == [("qk", "q1", "k1")]
    masked = [node("Div", ["scores", "eighth"], ["d"], "div"), node("Add", ["d", "mask"], ["m"], "mask")]
    masked += [node("Softmax", ["m"], ["weights"], "softmax")]
    assert products(attention(build, weights=masked)) == [("qk", "q1", "k1")]


OTHERS: dict[str, dict[str, list[NodeProto]]] = {
    "no softmax": {"weights": [node("Sigmoid", ["scores"], ["weights"], "sigmoid")]},
    "seen by others": {
        "weights": [node("Softmax", ["scores"], ["s"], "softmax"), node("Add", ["s", "scores"], ["weights"], "sum")]
    },
    "normalized queries": {
        "scores": [node("Tanh", ["q2"], ["t"], "tanh"), node("MatMul", ["t", "k2"], ["scores"], "qk")]
    },
    "scaled by channel": {
        "scores": [node("Mul", ["q2", "each"], ["t"], "mul"), node("MatMul", ["t", "k2"], ["scores"], "qk")]
    },
    "one tensor for both": {
        "scores": [
            node("Transpose", ["q2"], ["t"], "turn", perm=[0, 1, 3, 2]),
            node("MatMul", ["q2", "t"], ["scores"], "qk"),
        ]
    },
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_products_of_two_activations_are_not_touched(build: Build, case: str) -> None:
    assert products(attention(build, **OTHERS[case])) == []


# --- what the spec says


def test_the_spec_names_the_product_and_says_how_it_counts(build: Build) -> None:
    _, spec = prepared(attention(build)).spec()
    assert spec.products == ("qk",) and {"q1", "k1"} <= set(spec.activations)
    assert "counted as float" in spec.float_nodes["qk"] and "stay float" in spec.float_nodes["av"]


def test_a_product_returns_to_float_by_its_name_or_with_its_layer(build: Build) -> None:
    made = prepared(attention(build))
    for returned in ("qk", "q_product", "k_product"):
        _, spec = made.spec([returned])
        assert spec.products == () and "search" in spec.float_nodes[returned]
    _, spec = prepared(attention(build), keep_float=("qk",)).spec()
    assert spec.products == () and spec.float_nodes["qk"] == "kept float by 'qk'"


def test_silent_queries_leave_the_product_in_float(build: Build) -> None:
    model = attention(build)
    for tensor in model.graph.initializer:
        if tensor.name in ("wq", "bq"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    made = prepared(model)
    graph, spec = made.spec()
    assert spec.products == () and "q1" not in rounded(lower(graph, spec, "openvino"))


# --- what the runtimes get


def test_only_openvino_gets_integers_for_queries_and_keys(build: Build) -> None:
    graph, spec = prepared(attention(build)).spec()
    for runtime, dialect in DIALECTS.items():
        found = rounded(lower(graph, spec, runtime))
        assert ({"q1", "k1"} & set(found) == {"q1", "k1"}) == dialect.products == (runtime == "openvino")
        assert not {"scores", "weights", "v1", "v2"} & set(found)
    found = rounded(lower(graph, spec, "openvino"))
    assert all(found[name].dtype == np.int8 and found[name] == 0 for name in ("q1", "k1"))
    assert found["x"].dtype == np.uint8 and found["x"] != 0


def test_attentions_result_is_rounded_before_it_is_moved(build: Build) -> None:
    graph, spec = prepared(attention(build)).spec()
    lowered = lower(graph, spec, "openvino")
    assert "mixed" in rounded(lowered) and not {"tokens", "row"} & set(rounded(lowered))
    others = lower(graph, spec, "onnxruntime")
    assert "row" in rounded(others) and not {"tokens", "mixed"} & set(rounded(others))
    weights = [{t.name: numpy_helper.to_array(t) for t in each.model.graph.initializer} for each in (lowered, others)]
    assert weights[0]["mixed/scale"] == weights[1]["row/scale"] and weights[0]["mixed/zero"] == weights[1]["row/zero"]


def test_a_result_of_attention_that_others_see_is_rounded_for_the_layer_alone(build: Build) -> None:
    model = attention(build)
    model.graph.output.append(helper.make_tensor_value_info("tokens", onnx.TensorProto.FLOAT, None))
    graph, spec = prepared(model).spec()
    assert "row" in rounded(lower(graph, spec, "openvino"))


def test_openvino_computes_what_the_integers_mean(build: Build) -> None:
    model = attention(build)
    graph, spec = prepared(model).spec()
    lowered = lower(graph, spec, "openvino")
    feeds = samples(1)[0]
    wanted = run("onnxruntime", model.SerializeToString(), feeds)["y"]
    got = run("openvino", lowered.serialized(), feeds)["y"]
    assert snr_db(wanted, got) > 20
    keep = set(quantized_tensors(lowered.model))
    traced = run("openvino", with_outputs(lowered.model, keep).SerializeToString(), feeds)
    gaps = check_layers(lowered.model, {**traced, **feeds})
    assert len(gaps) == len(keep) + 1
    assert all(gap.within(1) for gap in gaps), [gap for gap in gaps if not gap.within(1)]


def run(backend: str, model: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    outputs = tuple(value.name for value in onnx.load_from_string(model).graph.output)
    engine = backend_named(backend).open(EngineRequest(model, outputs=outputs, threads=1))
    try:
        return engine.run(feeds)
    finally:
        engine.close()
