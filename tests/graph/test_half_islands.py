"""Which nodes keep float32 in an fp16 graph, by which rule, and what the rules are good for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import ModelProto, NodeProto, TensorProto, helper  # noqa: E402

from edgekit.errors import GateError  # noqa: E402
from edgekit.graph import half  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.half import ISLANDS, island_reasons, to_half  # noqa: E402
from edgekit.graph.half_reference import finite_gate, run_half  # noqa: E402
from edgekit.graph.passes import check, infer_shapes, name_nodes  # noqa: E402

Build = Callable[..., ModelProto]
Run = Callable[..., dict[str, np.ndarray]]
node = helper.make_node


def graph_of(model: ModelProto) -> Graph:
    return Graph(check(infer_shapes(name_nodes(model))), {}, ("test",))


def kept(model: ModelProto) -> dict[str, str]:
    """Output of each node that stays in float32, to the rule's name."""
    graph = graph_of(model)
    outputs = {each.name: each.output[0] for each in graph.model.graph.node}
    return {outputs[name]: why for name, why in island_reasons(graph).items()}


def eye(size: int) -> np.ndarray:
    return np.eye(size, dtype=np.float32)


def sandwich(build: Build, nodes: list[NodeProto], weights: dict[str, np.ndarray], size: int = 4) -> ModelProto:
    """`nodes` from `p` to `q`, between two products so that nothing of it is the tail."""
    first, last = node("MatMul", ["x", "w"], ["p"], "first"), node("MatMul", ["q", "w"], ["y"], "last")
    return build([first, *nodes, last], {"x": (2, size)}, {"y": (2, size)}, {"w": eye(size), **weights})


def rms_norm(square: NodeProto) -> list[NodeProto]:
    return [
        square,
        node("ReduceMean", ["s", "last"], ["mean"]),
        node("Add", ["mean", "eps"], ["shifted"]),
        node("Sqrt", ["shifted"], ["root"]),
        node("Reciprocal", ["root"], ["inverse"]),
        node("Mul", ["p", "inverse"], ["normal"]),
        node("Mul", ["normal", "gain"], ["q"]),
    ]


RMS = {"last": np.int64([-1]), "eps": np.float32(1e-6), "gain": np.float32([1, 2, 3, 4]), "two": np.float32(2)}
SQUARES = [node("Mul", ["p", "p"], ["s"]), node("Pow", ["p", "two"], ["s"])]


@pytest.mark.parametrize("square", SQUARES, ids=["mul", "pow"])
def test_a_norm_that_torch_took_apart_is_an_island_up_to_its_gain(build: Build, square: NodeProto) -> None:
    model = sandwich(build, rms_norm(square), RMS)
    assert set(kept(model)) == {"s", "mean", "shifted", "root", "inverse", "normal"}


def test_a_decomposed_norm_of_large_and_of_tiny_rows_survives_fp16(
    build: Build, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sandwich(build, rms_norm(SQUARES[0]), RMS)
    x = np.float32([[900, -700, 300, 100], [1e-4, 2e-4, -1e-4, 3e-4]])
    wanted = run(model, x=x)["y"]
    np.testing.assert_allclose(run_half(to_half(graph_of(model)), {"x": x})["y"], wanted, rtol=4e-3)
    monkeypatch.setattr(half, "islands", by_operator)
    with pytest.raises(GateError, match="not finite"):
        finite_gate(to_half(graph_of(model)), [{"x": x}])


def test_a_layer_norm_that_torch_took_apart_is_an_island(build: Build) -> None:
    nodes = [
        node("ReduceMean", ["p", "last"], ["mean"]),
        node("Sub", ["p", "mean"], ["centred"]),
        node("Mul", ["centred", "centred"], ["s"]),
        node("ReduceMean", ["s", "last"], ["variance"]),
        node("Add", ["variance", "eps"], ["shifted"]),
        node("Sqrt", ["shifted"], ["root"]),
        node("Div", ["centred", "root"], ["normal"]),
        node("Mul", ["normal", "gain"], ["q"]),
    ]
    found = kept(sandwich(build, nodes, RMS))
    assert set(found) == {"mean", "centred", "s", "variance", "shifted", "root", "normal"}
    assert found["normal"] == "range" and found["mean"] == "operator"


def test_a_softmax_that_torch_took_apart_is_an_island(build: Build) -> None:
    nodes = [
        node("ReduceMax", ["p", "last"], ["top"]),
        node("Sub", ["p", "top"], ["below"]),
        node("Exp", ["below"], ["e"]),
        node("ReduceSum", ["e", "last"], ["sum"]),
        node("Div", ["e", "sum"], ["q"]),
    ]
    assert kept(sandwich(build, nodes, {"last": np.int64([-1])})) == {
        "below": "between",
        "e": "operator",
        "sum": "operator",
        "q": "range",
    }


def test_a_sigmoid_that_was_taken_apart_does_not_overflow(build: Build, run: Run) -> None:
    nodes = [
        node("Neg", ["p"], ["minus"]),
        node("Exp", ["minus"], ["e"]),
        node("Add", ["e", "one"], ["more"]),
        node("Reciprocal", ["more"], ["q"]),
    ]
    model = sandwich(build, nodes, {"one": np.float32(1)})
    x = np.float32([[-30, -12, 0, 5], [1, 2, 3, 4]])
    graph = to_half(graph_of(model))
    assert finite_gate(graph, [{"x": x}]) == 1
    np.testing.assert_allclose(run_half(graph, {"x": x})["y"], run(model, x=x)["y"], atol=1e-3)


def test_what_a_scan_and_an_exponential_read_is_not_rounded_before(build: Build) -> None:
    value = helper.make_tensor_value_info
    floats = [value(name, TensorProto.FLOAT, [4]) for name in ("s", "e", "next", "seen")]
    body = helper.make_graph(
        [node("Add", ["s", "e"], ["next"]), node("Identity", ["next"], ["seen"])], "body", floats[:2], floats[2:]
    )
    nodes = [
        node("Mul", ["p", "gain"], ["scaled"]),
        node("Scan", ["start", "scaled"], ["end", "q"], body=body, num_scan_inputs=1),
    ]
    found = kept(sandwich(build, nodes, {"gain": RMS["gain"], "start": np.zeros(4, np.float32)}))
    assert found == {"scaled": "between", "end": "operator"}


@pytest.mark.parametrize(
    ("constant", "rule"),
    [
        (np.float32(1e6), True),
        (np.float32(-3.4e38), True),
        (np.float32(-np.inf), True),
        (np.float32(1e-6), True),  # rounds to 17 steps of 2^-24, 1.3 % too much
        (np.float32(1e-12), True),  # vanishes
        (np.float32([8, 2049, 4095, 1]), True),  # 4095 becomes 4096
        (np.float32([8, 2050, 4096, 1]), False),
        (np.float32([1e-12, 1, 2, 3]), False),  # one of many: a gain near zero
        (np.float32(0.1), False),
    ],
)
def test_constants_that_fp16_cannot_hold_make_an_island(build: Build, constant: np.ndarray, rule: bool) -> None:
    model = sandwich(build, [node("Max", ["p", "c"], ["q"])], {"c": constant})
    assert kept(model) == ({"q": "constant"} if rule else {})
    to_half(graph_of(model))


def test_a_product_whose_weights_are_beyond_fp16_stays_float32_and_computes(build: Build, run: Run) -> None:
    weights = {"big": eye(2) * 1e6, "small": eye(2) * 1e-6}
    nodes = [node("MatMul", ["x", "big"], ["p"]), node("MatMul", ["p", "small"], ["y"])]
    model = build(nodes, {"x": (1, 2)}, {"y": (1, 2)}, weights)
    assert kept(model) == {"p": "constant"}
    with pytest.raises(GateError):  # what it gives is beyond fp16 too, and the next product is not an island
        finite_gate(to_half(graph_of(model)), [{"x": np.float32([[1, 2]])}])


def by_operator(model: ModelProto, floats: set[str]) -> dict[int, str]:
    """The islands as they were before there were rules for what is around them."""
    return {i: "operator" for i, each in enumerate(model.graph.node) if each.op_type in ISLANDS}


SIDE, STRIDE = 64, 64  # a picture of 4096x4096


def yolox_head(build: Build) -> ModelProto:
    """Features (1, 8, 64, 64) to (1, 4096, 4): centre and size in pixels, as exported with the decode inside."""
    random = np.random.default_rng(0)
    row, column = np.divmod(np.arange(SIDE * SIDE, dtype=np.float32), SIDE)
    weights = {
        "w": random.uniform(-0.25, 0.25, (4, 8, 1, 1)).astype(np.float32),
        "shape": np.int64([1, 4, SIDE * SIDE]),
        "sizes": np.int64([2, 2]),
        "grid": np.stack([column, row])[None],
        "stride": np.float32(STRIDE),
    }
    nodes = [
        node("Conv", ["x", "w"], ["head"]),
        node("Reshape", ["head", "shape"], ["flat"]),
        node("Split", ["flat", "sizes"], ["offsets", "logs"], axis=1),
        node("Add", ["offsets", "grid"], ["cells"]),
        node("Mul", ["cells", "stride"], ["centres"]),
        node("Exp", ["logs"], ["e"]),
        node("Mul", ["e", "stride"], ["lengths"]),
        node("Concat", ["centres", "lengths"], ["boxes"], axis=1),
        node("Transpose", ["boxes"], ["y"], perm=[0, 2, 1]),
    ]
    return build(nodes, {"x": (1, 8, SIDE, SIDE)}, {"y": (1, SIDE * SIDE, 4)}, weights)


def test_the_decode_of_a_detector_is_an_island_and_boxes_keep_their_pixels(
    build: Build, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = yolox_head(build)
    found = kept(model)
    assert {"cells", "centres", "e", "lengths", "boxes", "y"} == set(found)
    assert not {"head", "flat", "offsets"} & set(found)  # moved as they are: a halving that loses nothing
    x = np.random.default_rng(1).standard_normal((1, 8, SIDE, SIDE)).astype(np.float32)
    wanted = run(model, x=x)["y"]

    def pixels_lost() -> float:
        boxes = run_half(to_half(graph_of(model)), {"x": x})["y"]
        return float(np.abs(boxes - wanted)[..., :2].max())

    with_rule = pixels_lost()
    monkeypatch.setattr(half, "islands", by_operator)
    without = pixels_lost()
    assert with_rule < 0.2 and without > 1.0  # beyond 2048, neighbouring halves are two pixels apart


def test_distances_as_an_expectation_over_a_softmax_are_decoded_in_float32(build: Build) -> None:
    """YOLOv8's head: 4 x 16 logits to four distances."""
    weights = {
        "w": np.ones((64, 8, 1, 1), np.float32),
        "bins": np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1),
        "four": np.int64([1, 4, 16, 9]),
        "rows": np.int64([1, 4, 9]),
        "stride": np.float32(32),
    }
    nodes = [
        node("Conv", ["x", "w"], ["logits"]),
        node("Reshape", ["logits", "four"], ["bins4"]),
        node("Transpose", ["bins4"], ["turned"], perm=[0, 2, 1, 3]),
        node("Softmax", ["turned"], ["chances"], axis=1),
        node("Conv", ["chances", "bins"], ["mean"]),
        node("Reshape", ["mean", "rows"], ["sides"]),
        node("Mul", ["sides", "stride"], ["y"]),
    ]
    found = kept(build(nodes, {"x": (1, 8, 3, 3)}, {"y": (1, 4, 9)}, weights))
    assert set(found) == {"chances", "mean", "sides", "y"}


def test_a_bias_an_activation_and_what_is_quantized_next_stay_with_their_product(build: Build) -> None:
    weights = {"w": eye(4), "b": np.ones(4, np.float32), "step": np.float32(0.5), "zero": np.int8(0)}
    plain = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "b"], ["s"]), node("Relu", ["s"], ["y"])]
    assert kept(build(plain, {"x": (1, 4)}, {"y": (1, 4)}, weights)) == {}
    rounds = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Add", ["p", "x"], ["s"]),
        node("QuantizeLinear", ["s", "step", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        node("Sigmoid", ["d"], ["y"]),
    ]
    assert kept(build(rounds, {"x": (1, 4)}, {"y": (1, 4)}, weights)) == {"y": "decode"}


def test_femtodet_has_no_decode_and_no_island(shipped_graph: Graph) -> None:
    """Its decode is numpy's, in float32, on the host side of the output."""
    assert island_reasons(shipped_graph) == {}


def test_all_that_the_end_to_end_variant_appends_is_float32(shipped: Any, shipped_graph: Graph) -> None:
    from edgekit.graph.end_to_end import PREFIX, with_detections

    graph, _ = with_detections(shipped_graph, shipped[1])
    lowered = to_half(graph).model
    kinds = {value.name: value.type.tensor_type.elem_type for value in lowered.graph.value_info}
    appended = [name for each in lowered.graph.node if each.name.startswith(PREFIX) for name in each.output]
    assert len(appended) > 20
    assert TensorProto.FLOAT16 not in {kinds.get(name) for name in appended}
