"""fp16 in the graph itself: right types everywhere, islands in float32, and values within fp16's error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import ModelProto, NodeProto, TensorProto, helper  # noqa: E402

from edgekit.errors import UnsupportedError  # noqa: E402
from edgekit.evaluate.parity import compare  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.half import ISLANDS, to_half  # noqa: E402
from edgekit.graph.half_reference import run_half  # noqa: E402
from edgekit.graph.passes import check, infer_shapes  # noqa: E402

Build = Callable[..., ModelProto]
Run = Callable[..., dict[str, np.ndarray]]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
PRECISION = 2**-11  # of a rounding to fp16, relative


def types(model: ModelProto) -> dict[str, int]:
    graph = model.graph
    found = {t.name: t.data_type for t in graph.initializer}
    return found | {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output, *graph.value_info]}


def halved(model: ModelProto) -> ModelProto:
    graph = to_half(Graph(check(infer_shapes(model)), {}, ("test",)))
    assert graph.passes[-1] == "fp16"
    return graph.model


def close(wanted: dict[str, np.ndarray], got: dict[str, np.ndarray], layers: int) -> None:
    for gap in compare(wanted, got):
        assert gap.within(4 * PRECISION * max(4, layers)), gap.describe()


def test_femtodet_computes_in_fp16_with_fp32_at_its_borders(shipped_graph: Graph, run: Run) -> None:
    half = to_half(shipped_graph).model
    kinds = types(half)
    assert kinds["image"] == kinds["head"] == FLOAT
    for node in half.graph.node:
        if node.op_type in ("Conv", "Relu", "Add"):
            assert {kinds[name] for name in (*node.input, *node.output)} == {HALF}, node.name
    assert Counter(node.op_type for node in half.graph.node)["Cast"] == 2  # one in, one out
    assert len(half.SerializeToString()) < 0.75 * len(shipped_graph.serialized())
    image = np.random.default_rng(0).standard_normal((1, 3, 416, 416)).astype(np.float32)
    wanted, got = run(shipped_graph.model, image=image), run(half, image=image)
    (gap,) = compare(wanted, got)
    assert 1e-6 < gap.relative < 3e-2


def test_scales_of_a_resize_stay_float32(shipped_graph: Graph) -> None:
    half = to_half(shipped_graph).model
    kinds = types(half)
    resizes = [node for node in half.graph.node if node.op_type == "Resize"]
    assert resizes
    for node in resizes:
        assert kinds[node.input[0]] == kinds[node.output[0]] == HALF
        assert all(kinds[name] == FLOAT for name in node.input[1:3] if name)


def test_the_graph_that_was_handed_in_is_untouched_and_halving_is_repeatable(shipped_graph: Graph) -> None:
    before = shipped_graph.serialized()
    assert to_half(shipped_graph).serialized() == to_half(shipped_graph).serialized()
    assert shipped_graph.serialized() == before


def test_names_of_the_nodes_survive(shipped_graph: Graph) -> None:
    names = {node.name for node in to_half(shipped_graph).model.graph.node}
    assert {node.name for node in shipped_graph.model.graph.node} <= names
    assert len(names) == len(to_half(shipped_graph).model.graph.node)


@pytest.mark.parametrize("op", ["Softmax", "Exp", "Log", "ReduceSum", "LayerNormalization", "Reciprocal"])
def test_islands_keep_float32_with_casts_at_their_shores(build: Build, run: Run, op: str) -> None:
    assert op in ISLANDS
    inputs = ["a", "scale"] if op == "LayerNormalization" else ["a"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node(op, inputs, ["b"], "island"),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    nodes[1].attribute.extend([helper.make_attribute("keepdims", 1)] if op == "ReduceSum" else [])
    weights = {"w": np.eye(4, dtype=np.float32) * 2, "all": np.int64([0]), "scale": np.ones(4, np.float32)}
    if op == "ReduceSum":
        nodes[1].input.append("all")
    model = build(nodes, {"x": (2, 4)}, {"y": None}, weights)
    half = halved(model)
    kinds = types(half)
    (island,) = [node for node in half.graph.node if node.name == "island"]
    assert {kinds[name] for name in (*island.input[:1], *island.output)} == {FLOAT}
    assert {kinds[name] for node in half.graph.node if node.op_type == "MatMul" for name in node.input} == {HALF}
    x = np.float32([[0.5, 1, 1.5, 2], [2.5, 3, 1, 0.25]])
    close(run(model, x=x), run(half, x=x), 2)


def test_a_weight_that_both_an_island_and_a_half_node_read_exists_twice(build: Build, run: Run) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["m"]),
        helper.make_node("Tanh", ["m"], ["t"]),
        helper.make_node("MatMul", ["t", "one"], ["p"]),
        helper.make_node("Pow", ["p", "w"], ["y"], "island"),
    ]
    model = build(nodes, {"x": (1, 2)}, {"y": (1, 2)}, {"w": np.float32([2.0]), "one": np.eye(2, dtype=np.float32)})
    half = halved(model)
    assert sorted(t.data_type for t in half.graph.initializer) == [FLOAT, HALF, HALF]
    x = np.float32([[1.5, 3]])
    close(run(model, x=x), run(half, x=x), 2)


def test_a_weight_that_is_no_number_is_refused_by_name(build: Build) -> None:
    weights = {"big": np.float32([1, float("nan")])}
    model = build([helper.make_node("Mul", ["x", "big"], ["y"])], {"x": (1, 2)}, {"y": (1, 2)}, weights)
    with pytest.raises(UnsupportedError, match="does not fit into fp16") as caught:
        halved(model)
    assert caught.value.where == "big"


def test_the_largest_fp16_number_fits(build: Build) -> None:
    model = build([helper.make_node("Mul", ["x", "w"], ["y"])], {"x": (1,)}, {"y": (1,)}, {"w": np.float32([65_504])})
    assert types(halved(model))["w_fp16"] == HALF


def test_whole_numbers_and_truth_values_stay_what_they_are(build: Build, run: Run) -> None:
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=1),
        helper.make_node("Greater", ["v", "zero"], ["b"]),
        helper.make_node("Where", ["b", "v", "zero"], ["y"]),
        helper.make_node("Shape", ["y"], ["s"]),
    ]
    outputs = {"y": (1, 2), "i": ("INT64", 1, 2), "b": ("BOOL", 1, 2), "s": ("INT64", 2)}
    model = build(nodes, {"x": (1, 4)}, outputs, {"k": np.int64([2]), "zero": np.float32([0])})
    half = halved(model)
    kinds = types(half)
    assert kinds["v"] == HALF and kinds["k"] == kinds["i"] == TensorProto.INT64 and kinds["b"] == TensorProto.BOOL
    x = np.float32([[0.5, -3, 7, -1]])
    got = run(half, x=x)
    close(run(model, x=x), got, 1)
    assert got["y"].dtype == np.float32 and got["i"].tolist() == [[2, 0]]


def test_an_output_that_is_also_used_inside_is_given_back_in_float32(build: Build, run: Run) -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["m"]), helper.make_node("Mul", ["m", "m"], ["y"])]
    model = build(nodes, {"x": (1, 3)}, {"m": (1, 3), "y": (1, 3)})
    half = halved(model)
    assert [value.name for value in half.graph.output] == ["m", "y"]
    x = np.float32([[-1, 0, 2]])
    got = run(half, x=x)
    assert {array.dtype for array in got.values()} == {np.dtype(np.float32)}
    close(run(model, x=x), got, 2)


@pytest.mark.parametrize("taken", [True, False])
def test_branches_read_outer_tensors_in_float32(build: Build, run: Run, taken: bool) -> None:
    def branch(op: str, name: str) -> Any:
        node = helper.make_node(op, ["m", "w"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, FLOAT, [1, 3])])

    nodes = [
        helper.make_node("Mul", ["x", "w"], ["m"]),
        helper.make_node("If", ["c"], ["b"], then_branch=branch("Add", "t"), else_branch=branch("Sub", "e")),
        helper.make_node("Mul", ["b", "w"], ["y"]),
    ]
    model = build(nodes, {"x": (1, 3), "c": ("BOOL",)}, {"y": (1, 3)}, {"w": np.float32([0.5])})
    x = np.float32([[1, 2, 3]])
    close(run(model, x=x, c=np.array(taken)), run(halved(model), x=x, c=np.array(taken)), 3)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("EyeLike", ["n"], ["f"], dtype=FLOAT),
        helper.make_node("Cast", ["n"], ["f"], to=FLOAT),
        helper.make_node("Constant", [], ["f"], value_float=2.0),
    ],
)
def test_operators_that_state_their_own_type_are_islands(build: Build, run: Run, node: NodeProto) -> None:
    model = build(
        [node, helper.make_node("Mul", ["x", "f"], ["y"])], {"x": (3, 3), "n": ("INT32", 3, 3)}, {"y": (3, 3)}
    )
    feeds = {"x": np.full((3, 3), 1.5, np.float32), "n": np.arange(9, dtype=np.int32).reshape(3, 3)}
    close(run(model, **feeds), run(halved(model), **feeds), 1)


UNARY = ["MatMul", "Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Softmax", "Exp", "Identity", "Softplus", "HardSwish"]
BINARY = ["Add", "Sub", "Mul", "Max"]
STEPS = st.lists(
    st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=7
)


@given(STEPS, st.integers(0, 2**16), st.sets(st.integers(0, 6), max_size=3))
@settings(max_examples=40, deadline=None)
def test_random_graphs_stay_valid_and_within_fp16s_error(
    build: Build, run: Run, steps: list[tuple[str, int, int]], seed: int, extra: set[int]
) -> None:
    """Chains of bounded operators over inputs, weights and earlier results, with some of them as outputs too."""
    nodes, names = [], ["x", "w"]
    for index, (op, a, b) in enumerate(steps):
        sources = [names[a % len(names)]] if op in UNARY else [names[a % len(names)], names[b % len(names)]]
        sources += ["turn"] if op == "MatMul" else []
        nodes.append(helper.make_node(op, sources, [f"raw{index}"], f"op{index}"))
        nodes.append(helper.make_node("Tanh", [f"raw{index}"], [f"t{index}"], f"bound{index}"))
        names.append(f"t{index}")
    outputs = {f"t{i}" for i in extra if i < len(steps)} | {names[-1]}
    random = np.random.default_rng(seed)
    weight = random.uniform(-1, 1, (2, 3)).astype(np.float32)
    weights = {"w": weight, "turn": np.float32([[0, 0.5, 0], [0.5, 0, 0], [0, 0, -0.5]])}
    model = build(nodes, {"x": (2, 3)}, dict.fromkeys(sorted(outputs), (2, 3)), weights)
    half = halved(model)
    x = random.uniform(-1, 1, (2, 3)).astype(np.float32)
    wanted, got = run(model, x=x), run(half, x=x)
    assert wanted.keys() == got.keys()
    rounded = run_half(half, {"x": x})
    for name, array in wanted.items():
        assert got[name].dtype == rounded[name].dtype == np.float32
        np.testing.assert_allclose(got[name], array, rtol=0, atol=40 * PRECISION)
        np.testing.assert_allclose(rounded[name], array, rtol=0, atol=40 * PRECISION)
