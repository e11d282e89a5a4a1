"""Each pass does its one thing, and all together are idempotent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import ModelProto, helper, numpy_helper  # noqa: E402

from edgekit.errors import InputError  # noqa: E402
from edgekit.graph.graph import Graph, serialize  # noqa: E402
from edgekit.graph.passes import (  # noqa: E402
    canonical_passes,
    canonicalize,
    check,
    constants_to_initializers,
    infer_shapes,
    name_nodes,
    pin_ir,
)

Build = Callable[..., ModelProto]


def test_canonicalizing_twice_gives_the_same_bytes(shipped_graph: Graph) -> None:
    again = canonicalize(shipped_graph, shipped_graph.opset, shipped_graph.model.ir_version)
    assert again.serialized() == shipped_graph.serialized()


def test_the_list_of_passes_is_visible_and_ends_with_the_check() -> None:
    names = [name for name, _ in canonical_passes(20, 10)]
    assert names == [
        "strip-metadata",
        "drop-initializer-inputs",
        "pin-ir",
        "convert-opset",
        "constants-to-initializers",
        "name-nodes",
        "infer-shapes",
        "check",
    ]


@pytest.mark.parametrize(
    ("attribute", "array"),
    [
        ({"value": numpy_helper.from_array(np.float32([1, 2]))}, np.float32([1, 2])),
        ({"value_float": 2.5}, np.float32(2.5)),
        ({"value_floats": [1.5, 2.0]}, np.float32([1.5, 2])),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.int64([3, 4])),
    ],
)
def test_every_kind_of_constant_becomes_an_initializer(
    build: Build, run: Any, attribute: dict[str, Any], array: np.ndarray
) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], **attribute),
        helper.make_node("Cast", ["c"], ["f"], to=1),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    model = constants_to_initializers(build(nodes, {"x": (1, 2)}, {"y": (1, 2)}))
    assert [node.op_type for node in model.graph.node] == ["Cast", "Add"]
    (weight,) = model.graph.initializer
    found = numpy_helper.to_array(weight)
    assert weight.name == "c" and found.dtype == array.dtype and np.array_equal(found, array)
    wanted = np.zeros((1, 2), np.float32) + array.astype(np.float32)
    assert np.array_equal(run(model, x=np.zeros((1, 2), np.float32))["y"], wanted)


def test_constants_of_text_stay_nodes(build: Build) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], value_string=b"text"), helper.make_node("Relu", ["x"], ["y"])]
    model = constants_to_initializers(build(nodes, {"x": (1,)}, {"y": (1,)}))
    assert [node.op_type for node in model.graph.node] == ["Constant", "Relu"]


@given(st.lists(st.sampled_from(["", "a", "Relu:t1", "Relu:t2", "Relu:t3'", "Relu:t3"]), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_names_become_unique_and_given_ones_stay(names: list[str]) -> None:
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name) for i, name in enumerate(names)]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    named = [node.name for node in name_nodes(model).graph.node]
    assert all(named) and len(set(named)) == len(named)
    assert name_nodes(name_nodes(model)) == name_nodes(model)
    if len(set(names)) == len(names) and all(names):
        assert named == names


def test_shapes_are_inferred_with_symbolic_dimensions_kept(build: Build) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["y"])]
    model = infer_shapes(build(nodes, {"x": ("batch", 3, 2)}, {"y": ("batch", 6)}))
    (middle,) = model.graph.value_info
    assert middle.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_ir_is_pinned_on_a_copy(build: Build) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, {"y": (1,)}, ir=8)
    assert pin_ir(model, 10).ir_version == 10 and model.ir_version == 8


def test_an_invalid_model_is_refused(build: Build) -> None:
    model = build([helper.make_node("Relu", ["nowhere"], ["y"])], {"x": (1,)}, {"y": (1,)})
    with pytest.raises(InputError, match="invalid"):
        check(model)


def test_equal_models_give_equal_bytes(shipped_graph: Graph) -> None:
    copy = onnx.load_from_string(shipped_graph.serialized())
    assert serialize(copy) == shipped_graph.serialized()
