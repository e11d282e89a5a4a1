"""Where the rules for TensorRT end: forms of quantization, loops and branches that are taken, and ones that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

from edgekit.graph.rules.tensorrt import check, explicit_int8_nodes  # noqa: E402

Build = Callable[..., ModelProto]
PROFILE = {"x": {"min": [1, 4], "opt": [1, 4], "max": [2, 4]}}
ZEROS = np.zeros(4, np.int8)
SCALES = np.full(4, 0.5, np.float32)


def errors(model: ModelProto) -> list[str]:
    found = check(model, versions=("10.3", "10.4"), profile=PROFILE if has_open_batch(model) else None)
    return [finding.rule for finding in found if finding.severity == "error"]


def has_open_batch(model: ModelProto) -> bool:
    return any(dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim)


def pair(scale: Any, zero: Any, axis: int = 1, data: str = "x") -> tuple[list[NodeProto], dict[str, Any]]:
    """A Q/DQ pair behind `data`, called `q` and `dq`."""
    names = ["s"] + (["z"] if zero is not None else [])
    nodes = [
        helper.make_node("QuantizeLinear", [data, *names], ["i"], "q", axis=axis),
        helper.make_node("DequantizeLinear", ["i", *names], ["y"], "dq", axis=axis),
    ]
    return nodes, {"s": scale} | ({} if zero is None else {"z": zero})


@pytest.mark.parametrize(
    ("scale", "zero", "rules"),
    [
        (np.float32(0.5), np.int8(0), set()),
        (np.float32([0.5]), np.int8([0]), set()),  # one number, in either form
        (np.float32(0.5), None, {"qdq-type"}),  # ONNX means uint8
        (np.float32(0.5), np.uint8(0), {"qdq-type"}),
        (np.float32(0.5), np.uint8(128), {"qdq-type", "qdq-zero-point"}),
        (np.float32(0.5), np.int16(0), {"qdq-type", "type-unsupported"}),
        (np.float32(-0.5), np.int8(0), {"qdq-scale-positive"}),
        (np.float32("nan"), np.int8(0), {"qdq-scale-positive"}),
        (np.float32("inf"), np.int8(0), {"qdq-scale-positive"}),
        (SCALES, ZEROS, {"qdq-activation-per-tensor"}),
        (SCALES, np.int8(0), {"qdq-activation-per-tensor", "qdq-scale-shape"}),
        (np.full((1, 4), 0.5, np.float32), np.zeros((1, 4), np.int8), {"qdq-activation-per-tensor", "qdq-scale-shape"}),
        (np.float16(0.5), np.int8(0), {"qdq-scale-type"}),
    ],
)
def test_forms_of_a_pair(build: Build, scale: Any, zero: Any, rules: set[str]) -> None:
    nodes, weights = pair(scale, zero)
    opset = 21 if zero is not None and zero.dtype == np.int16 else 20
    found = errors(build(nodes, {"x": (1, 4)}, {"y": None}, weights, opset=opset))
    assert set(found) - {"opset-ceiling"} == rules


def test_an_integer_bias_is_refused_and_a_float_one_is_not(build: Build) -> None:
    node = helper.make_node("DequantizeLinear", ["b", "s", "z"], ["y"], "bias", axis=0)
    weights = {"b": np.zeros(4, np.int32), "s": SCALES, "z": np.zeros(4, np.int32)}
    assert errors(build([node], {}, {"y": (4,)}, weights)) == ["qdq-type"]


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "right", "wrong"),
    [
        ("Conv", {}, (4, 4, 1, 1), 0, 1),
        ("ConvTranspose", {}, (4, 4, 1, 1), 1, 0),
        ("Gemm", {}, (4, 4), 1, 0),
        ("Gemm", {"transB": 1}, (4, 4), 0, 1),
        ("MatMul", {}, (4, 4), 1, 0),
        ("MatMul", {}, (4, 4), -1, -2),
    ],
)
def test_weights_have_their_scales_along_the_outputs(
    build: Build, op: str, attributes: dict[str, Any], shape: tuple[int, ...], right: int, wrong: int
) -> None:
    def made(axis: int) -> ModelProto:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"], "q"),
            helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"], "dq"),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], "weight", axis=axis),
            helper.make_node(op, ["xd", "wd"], ["y"], "layer", **attributes),
        ]
        weights = {"w": np.ones(shape, np.int8), "s": SCALES, "z": ZEROS, "one": np.float32(1), "zero": np.int8(0)}
        return build(nodes, {"x": (1, 4) if len(shape) == 2 else (1, 4, 2, 2)}, {"y": None}, weights)

    assert errors(made(right)) == []
    assert errors(made(wrong)) == ["qdq-weight-axis"]
    assert explicit_int8_nodes(made(right)) == (frozenset() if op == "ConvTranspose" else frozenset({"layer"}))


def test_a_weight_may_be_quantized_in_the_graph(build: Build) -> None:
    nodes, weights = pair(SCALES, ZEROS, axis=0, data="w")
    assert errors(build(nodes, {}, {"y": None}, weights | {"w": np.ones((4, 2), np.float32)})) == []


# --- loops and branches


def body(nodes: list[NodeProto], inputs: list[Any], outputs: list[Any], weights: Any = None) -> GraphProto:
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    return helper.make_graph(nodes, "body", inputs, outputs, stored)


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def loop(build: Build, count: Any, going_on: str, collects: bool = True) -> ModelProto:
    """A loop that adds `x` up; `going_on` is its condition: passed, computed or true."""
    nodes = [helper.make_node("Add", ["old", "x"], ["new"]), helper.make_node("Identity", ["new"], ["seen"])]
    if going_on == "computed":
        nodes.append(helper.make_node("ReduceMax", ["new"], ["top"], keepdims=0))
        nodes.append(helper.make_node("Less", ["top", "limit"], ["on"]))
    else:
        nodes.append(helper.make_node("Identity", ["go" if going_on == "passed" else "yes"], ["on"]))
    sides = [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("old", [1, 4])]
    outputs = [value("on", [], TensorProto.BOOL), value("new", [1, 4])]
    outputs += [value("seen", [1, 4])] if collects else []
    inner = body(nodes, sides, outputs, {"limit": np.float32(3), "yes": np.bool_(True)})
    inputs = {"x": (1, 4)} | ({"n": ("INT64",)} if count is None else {})
    made = ["y", "all"] if collects else ["y"]
    node = helper.make_node("Loop", ["n", "", "start"], made, "loop", body=inner)
    weights = {"start": np.zeros((1, 4), np.float32)} | ({} if count is None else {"n": np.int64(count)})
    return build([node], inputs, dict.fromkeys(made), weights)


@pytest.mark.parametrize(
    ("count", "going_on", "collects", "rules"),
    [
        (3, "passed", True, []),
        (3, "true", True, []),
        (3, "computed", True, ["loop-scan-length"]),
        (None, "passed", True, ["loop-scan-length"]),
        (None, "computed", False, []),  # only the last value leaves it
    ],
)
def test_loops_that_collect_run_a_known_number_of_times(
    build: Build, count: Any, going_on: str, collects: bool, rules: list[str]
) -> None:
    assert errors(loop(build, count, going_on, collects)) == rules


@pytest.mark.parametrize(("steps", "warned"), [(5, False), ("steps", True)])
def test_a_scan_over_a_fixed_length_is_no_question(build: Build, steps: Any, warned: bool) -> None:
    node = helper.make_node("Add", ["old", "row"], ["new"])
    inner = body([node], [value("old", [4]), value("row", [4])], [value("new", [4])])
    scan = helper.make_node("Scan", ["start", "x"], ["y"], "scan", body=inner, num_scan_inputs=1)
    model = build([scan], {"x": (steps, 4)}, {"y": (4,)}, {"start": np.zeros(4, np.float32)})
    assert errors(model) == []
    profile = PROFILE if warned else None
    told = {finding.rule for finding in check(model, versions=("10.3", "10.4"), profile=profile)}
    assert ("scan-length" in told) == warned and "control-flow-cost" in told


def test_a_scan_s_state_keeps_its_shape_and_type(build: Build) -> None:
    nodes = [helper.make_node("Cast", ["row"], ["new"], to=TensorProto.FLOAT16)]
    inner = body(nodes, [value("old", [4]), value("row", [4])], [value("new", [4], TensorProto.FLOAT16)])
    scan = helper.make_node("Scan", ["start", "x"], ["y"], "scan", body=inner, num_scan_inputs=1)
    model = build([scan], {"x": (3, 4)}, {"y": None}, {"start": np.zeros(4, np.float32)})
    assert errors(model) == ["loop-carried-shape"]


@pytest.mark.parametrize(
    ("then", "other", "said"),
    [
        ({"a": (4,)}, {"b": (4,)}, ""),
        ({"a": (4,)}, {"b": (3,)}, ""),  # sizes may differ, since 10.1
        ({"a": (4,)}, {"b": (2, 2)}, "1 dimensions and 'b' 2"),
        ({"a": (4,)}, {"a": (4,)}, "both branches call an output 'a'"),
        ({"a": (4,), "c": (4,)}, {"b": (4,)}, "2 and 1 outputs"),
    ],
)
def test_branches_agree_in_number_and_rank(build: Build, then: Any, other: Any, said: str) -> None:
    def branch(outputs: dict[str, tuple[int, ...]]) -> GraphProto:
        nodes = [helper.make_node("Identity", [f"{name}/w"], [name]) for name in outputs]
        weights = {f"{name}/w": np.ones(shape, np.float32) for name, shape in outputs.items()}
        return body(nodes, [], [value(name, list(shape)) for name, shape in outputs.items()], weights)

    node = helper.make_node("If", ["c"], ["y"], "if", then_branch=branch(then), else_branch=branch(other))
    model = build([node], {"c": ("BOOL",)}, {"y": None})
    found = [f for f in check(model, versions=("10.3", "10.4")) if f.rule == "if-branches"]
    assert [said in finding.message for finding in found] == ([True] if said else [])
