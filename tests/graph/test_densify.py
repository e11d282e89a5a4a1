"""Grouped convolutions made dense compute exactly the same, and only where it is worth it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, helper  # noqa: E402

from edgekit.graph.densify import densify  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.wiring import Wiring, attribute  # noqa: E402

Build = Callable[..., ModelProto]
Run = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def graph(build: Build) -> Graph:
    """1x1 convolutions of 4, 8 and 2 groups, a 3x3 one of 2, and two of 4 that share a weight."""
    rng = np.random.default_rng(0)
    shapes = {"four": (8, 2, 1, 1), "eight": (8, 1, 1, 1), "two": (12, 4, 1, 1), "wide": (12, 6, 3, 3)}
    shapes |= {"shared": (12, 3, 1, 1), "b": (8,)}
    # whole numbers: sums are exact in whatever order a kernel adds
    weights = {name: rng.integers(-8, 9, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "four", "b"], ["c0"], "four", group=4, strides=[2, 2]),
        helper.make_node("Conv", ["c0", "eight"], ["c1"], "eight", group=8),
        helper.make_node("Conv", ["c1", "two"], ["c2"], "two", group=2),
        helper.make_node("Conv", ["c2", "wide"], ["c3"], "wide", group=2, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c3", "shared"], ["c4"], "left", group=4),
        helper.make_node("Conv", ["c3", "shared"], ["c5"], "right", group=4),
        helper.make_node("Add", ["c4", "c5"], ["y"], "add"),
    ]
    return Graph(infer_shapes(build(nodes, {"x": (1, 8, 6, 6)}, {"y": None}, weights)), {}, ())


def groups(graph: Graph) -> dict[str, object]:
    return {node.name: attribute(node, "group", 1) for node in graph.model.graph.node if node.op_type == "Conv"}


def test_it_computes_the_same_to_the_last_digit(graph: Graph, run: Run) -> None:
    dense = densify(graph, groups(graph))
    x = np.random.default_rng(1).integers(-8, 9, (1, 8, 6, 6)).astype(np.float32)
    assert np.array_equal(run(graph.model, x=x)["y"], run(dense.model, x=x)["y"])
    onnx.checker.check_model(dense.model, full_check=True)


def test_few_groups_of_pointwise_convolutions_only(graph: Graph) -> None:
    dense = densify(graph, groups(graph))
    assert groups(dense) == {"four": 1, "eight": 8, "two": 1, "wide": 2, "left": 4, "right": 4}
    assert dense.passes == ("densify:2",)
    assert Wiring(dense.model).weight("four").shape == (8, 8, 1, 1)
    four = next(node for node in dense.model.graph.node if node.name == "four")
    assert attribute(four, "strides") == [2, 2]


def test_a_clip_for_each_output_channel_still_holds(graph: Graph) -> None:
    before, after = (Wiring(each.model).weight("two") for each in (graph, densify(graph, ["two"])))
    assert np.array_equal(np.abs(before).max(axis=(1, 2, 3)), np.abs(after).max(axis=(1, 2, 3)))
    assert np.array_equal(after[:6, :4], before[:6]) and np.array_equal(after[6:, 4:], before[6:])
    assert not after[:6, 4:].any() and not after[6:, :4].any()


def test_what_is_not_named_or_not_there_stays(graph: Graph) -> None:
    assert densify(graph, []) is graph
    assert densify(graph, ["eight", "wide", "nowhere"]) is graph
    assert groups(densify(graph, ["two"]))["four"] == 4
    assert groups(graph)["two"] == 2
