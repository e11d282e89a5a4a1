"""Which nodes TensorRT's ONNX parser does not take: the published operator list, held against a graph."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from edgekit.graph.layers import find_layers
from edgekit.graph.wiring import Wiring

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The published list's names of element types, for those that a tensor of a graph may have.
TYPE_NAMES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FP64",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.STRING: "STRING",
}


def unsupported_nodes(model: ModelProto) -> dict[str, str]:
    """Node name to the reason why TensorRT's parser would refuse it; a node answers for the subgraphs inside it."""
    types = _element_types(model.graph)
    found = {}
    for node in model.graph.node:
        reason = next(filter(None, (_reason(inner, types) for inner in _with_subgraphs(node))), None)
        if reason:
            found[node.name] = reason
    return found


def restrictions(model: ModelProto) -> list[str]:
    """What the list says besides of the operators that `model` uses: to be read, since no rule here decides it."""
    operators = operator_table()["operators"]
    used = sorted({inner.op_type for node in model.graph.node for inner in _with_subgraphs(node)})
    said = [(name, operators[name]["restriction"]) for name in used if operators.get(name, {}).get("restriction")]
    return [f"{name}: {restriction}" for name, restriction in said]


def int8_cautions(model: ModelProto) -> tuple[str, ...]:
    """Where int8 may lose to fp16 on a Jetson; warnings, since only the board measures it."""
    wiring = Wiring(model)
    layers = find_layers(wiring)[0].values()
    convolutions = [(layer, wiring.weights[layer.weight].dims) for layer in layers if layer.node.op_type == "Conv"]
    rules = (
        (
            "channels that are no multiple of 32, which int8 tensor cores want (NVIDIA/TensorRT#1310, maintainer)",
            [each.name for each, dims in convolutions if dims[0] % 32 or (dims[1] * each.groups) % 32],
        ),
        (
            "depthwise, where int8 often loses to fp16 on Orin (NVIDIA/TensorRT#2067)",
            [each.name for each, dims in convolutions if each.groups > 1 and dims[1] == 1],
        ),
        (
            "grouped, which int8 splits into a kernel a group (NVIDIA/TensorRT#4529)",
            [each.name for each, dims in convolutions if each.groups > 1 and dims[1] > 1],
        ),
    )
    return tuple(f"int8: {len(names)} layer(s) {why}: {', '.join(names[:3])}" for why, names in rules if names)


def explicit_int8_nodes(model: ModelProto) -> frozenset[str]:
    """The compute nodes whose data and weight are both dequantized right before, with zero points of zero.

    That is TensorRT's rule for explicit quantization (Developer Guide, "Explicit Quantization"); nothing inside a loop
    counts, since Q/DQ is not taken there.
    """
    wiring = Wiring(model)
    return frozenset(
        str(node.name)
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and all(_dequantized(name, wiring) for name in node.input[:2])
    )


def _dequantized(tensor: str, wiring: Wiring) -> bool:
    node = wiring.producers.get(tensor)
    if node is None or node.op_type != "DequantizeLinear":
        return False
    zero = node.input[2] if len(node.input) > 2 else ""
    return not zero or (zero in wiring.weights and not wiring.weight(zero).any())


@cache
def operator_table() -> dict[str, Any]:
    """The list with its source: `operators` by name with types and restrictions, and `unsupported`."""
    return tomllib.loads(files(__package__).joinpath("tensorrt_ops.toml").read_text(encoding="utf-8"))


def _reason(node: NodeProto, types: dict[str, str]) -> str | None:
    table = operator_table()
    if node.op_type not in table["operators"]:
        return f"{node.op_type} is not in TensorRT's operator list ({table['source']})"
    wrong = sorted({types[name] for name in node.input if types.get(name) in ("FP64", "STRING")})
    if wrong and wrong[0] not in table["operators"][node.op_type].get("types", []):
        return f"{node.op_type} does not take {wrong[0]} in TensorRT ({table['source']})"
    return None


def _with_subgraphs(node: NodeProto) -> Iterator[NodeProto]:
    yield node
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _with_subgraphs(inner)


def _element_types(graph: GraphProto) -> dict[str, str]:
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: TYPE_NAMES.get(value.type.tensor_type.elem_type, "") for value in values}
    return types | {tensor.name: TYPE_NAMES.get(tensor.data_type, "") for tensor in graph.initializer}
