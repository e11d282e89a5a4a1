"""The memory estimate: weights in their stored types, and the largest sum of tensors that live at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import ModelProto, helper, numpy_helper  # noqa: E402

from edgekit.graph.rules.memory import estimate_memory  # noqa: E402

Build = Callable[..., ModelProto]
FLOAT = 4  # bytes


def chain(lengths: list[int], size: int) -> ModelProto:
    """Relus in a row; at each of `lengths`, a tensor that many nodes back is read once more."""
    nodes, names = [], ["x"]
    for i, back in enumerate(lengths):
        reads = [names[-1], names[max(0, len(names) - 1 - back)]]
        nodes.append(helper.make_node("Add", reads, [f"t{i}"], f"n{i}"))
        names.append(f"t{i}")
    nodes.append(helper.make_node("Relu", [names[-1]], ["y"], "last"))
    sides = [helper.make_tensor_value_info(name, 1, [size]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", sides[:1], sides[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def by_hand(lengths: list[int]) -> int:
    """The largest number of intermediate tensors alive at one node of `chain`."""
    last: dict[int, int] = {}
    for i, back in enumerate(lengths):
        for read in (i - 1, max(-1, i - 1 - back)):
            last[read] = i
    last[len(lengths) - 1] = len(lengths)
    alive = [sum(1 for t in range(len(lengths)) if t <= step <= max(last.get(t, t), t)) for step in range(len(lengths))]
    return max([*alive, 1])


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=12), size=st.integers(1, 9))
def test_the_peak_is_the_largest_sum_of_living_tensors(lengths: list[int], size: int) -> None:
    found = estimate_memory(chain(lengths, size))
    assert found.activations_bytes == by_hand(lengths) * size * FLOAT
    assert found.io_bytes == 2 * size * FLOAT
    assert (found.weights_bytes, found.unknown) == (0, ())
    assert found.total_bytes == found.activations_bytes + found.io_bytes


def test_weights_count_as_they_are_stored_and_thrice_while_building(build: Build) -> None:
    weights = {"a": np.zeros((4, 4), np.float16), "b": np.zeros(8, np.int8)}
    nodes = [helper.make_node("MatMul", ["x", "a"], ["y"])]
    found = estimate_memory(build(nodes, {"x": ("FLOAT16", 2, 4)}, {"y": ("FLOAT16", 2, 4)}, weights), None, 100)
    assert found.weights_bytes == 32 + 8
    assert (found.io_bytes, found.workspace_bytes) == (32, 100)
    assert found.build_bytes == found.total_bytes + 2 * 40 == 40 + 32 + 100 + 80


def test_an_open_batch_counts_at_the_largest_of_the_profile(build: Build) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    model = build(nodes, {"x": ("n", 10)}, {"y": ("n", 10)})
    profile = {"x": {"min": [1, 10], "opt": [1, 10], "max": [8, 10]}}
    assert estimate_memory(model, profile).activations_bytes == 8 * 10 * FLOAT
    assert set(estimate_memory(model).unknown) == {"a", "x", "y"}


def test_a_body_counts_while_it_runs(build: Build) -> None:
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["big"]), helper.make_node("Relu", ["big"], ["out"])],
        "body",
        [],
        [value("out", 1, [100])],
        [numpy_helper.from_array(np.zeros(7, np.float32), "held")],
    )
    node: Any = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    found = estimate_memory(build([node], {"x": (100,)}, {"y": (100,)}, {"c": np.bool_(True)}))
    assert found.weights_bytes == 1 + 2 * 7 * FLOAT
    assert found.activations_bytes >= 200 * FLOAT
