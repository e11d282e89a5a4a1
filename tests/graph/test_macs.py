"""Multiply-accumulates of each counted operator, against a count by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, helper  # noqa: E402

from edgekit.graph.macs import macs_by_node  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("op", "options", "x", "weight", "macs"),
    [
        ("Conv", {"pads": [1, 1, 1, 1]}, (2, 3, 8, 6), ones(5, 3, 3, 3), 2 * 5 * 8 * 6 * 27),
        ("Conv", {"group": 4, "strides": [2, 2]}, (1, 4, 9, 9), ones(4, 1, 3, 3), 4 * 4 * 4 * 9),
        ("Conv", {}, ("batch", 3, 4, 4), ones(2, 3, 1, 1), 2 * 16 * 3),
        ("ConvTranspose", {"strides": [2, 2]}, (1, 3, 4, 5), ones(3, 2, 2, 2), 3 * 20 * 2 * 4),
        ("MatMul", {}, (7, 2, 3), ones(3, 4), 7 * 2 * 4 * 3),
        ("Gemm", {}, (2, 3), ones(3, 4), 2 * 3 * 4),
        ("Gemm", {"transA": 1, "transB": 1}, (3, 2), ones(4, 3), 2 * 3 * 4),
    ],
)
def test_operators_are_counted(
    build: Callable[..., ModelProto], op: str, options: dict[str, Any], x: Any, weight: np.ndarray, macs: int
) -> None:
    model = build([helper.make_node(op, ["x", "w"], ["y"], "it", **options)], {"x": x}, {"y": None}, {"w": weight})
    assert macs_by_node(infer_shapes(model)) == {"it": macs}


def test_what_multiplies_nothing_is_not_counted(build: Callable[..., ModelProto]) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"], "it")], {"x": (1, 3)}, {"y": (1, 3)})
    assert macs_by_node(model) == {}


def test_a_product_of_unknown_rank_is_left_out(build: Callable[..., ModelProto]) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"], "it"),
    ]
    model = build(nodes, {"x": (2, 3), "s": ("INT64", None)}, {"y": None}, {"w": ones(3, 4)})
    assert macs_by_node(infer_shapes(model)) == {}
