"""Multiply-accumulates a node, from the graph's shapes; symbolic dimensions count as 1."""

from __future__ import annotations

import math

from onnx import ModelProto, NodeProto, helper

Shapes = dict[str, tuple[int, ...]]


def macs_by_node(model: ModelProto) -> dict[str, int]:
    """Node name to MACs for `Conv`, `ConvTranspose`, `Gemm` and `MatMul`; bias and activation are not counted.

    The model's shapes must have been inferred; nodes of unknown rank are left out.
    """
    shapes = _shapes(model)
    counted = {}
    for node in model.graph.node:
        rule = _RULES.get(node.op_type)
        if rule is not None and all(name in shapes for name in (*node.input[:2], node.output[0])):
            counted[node.name] = rule(node, shapes)
    return counted


def _conv(node: NodeProto, shapes: Shapes) -> int:
    """Output elements times the taps of one filter: weight (out, in / groups, k...)."""
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _conv_transpose(node: NodeProto, shapes: Shapes) -> int:
    """Input elements times the taps each of them spreads to: weight (in, out / groups, k...)."""
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul(node: NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    transposed = any(a.name == "transA" and helper.get_attribute_value(a) for a in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


_RULES = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm}


def _shapes(model: ModelProto) -> Shapes:
    graph = model.graph
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(int(dim.dim_value) if dim.HasField("dim_value") else 1 for dim in dims)
    return shapes
