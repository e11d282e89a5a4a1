"""The passes that make any ONNX model canonical, in one visible list.

A pass is a pure function from model to model with a name that goes into the history.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper, shape_inference, version_converter

from edgekit.errors import InputError, UnsupportedError
from edgekit.graph.graph import STANDARD_DOMAINS, Graph, opset_of
from edgekit.graph.origins import strip_metadata

Pass = Callable[[ModelProto], ModelProto]


def canonical_passes(opset: int, ir_version: int) -> tuple[tuple[str, Pass], ...]:
    """The list, in order, for a target that takes `opset` and `ir_version`."""
    return (
        ("strip-metadata", strip_metadata),
        ("drop-initializer-inputs", drop_initializer_inputs),
        ("pin-ir", partial(pin_ir, ir_version=ir_version)),  # before IR 4, weights had to be inputs
        ("convert-opset", partial(convert_opset, opset=opset)),
        ("constants-to-initializers", constants_to_initializers),  # the conversion adds constants
        ("name-nodes", name_nodes),
        ("infer-shapes", infer_shapes),
        ("check", check),
    )


def canonicalize(graph: Graph, opset: int, ir_version: int) -> Graph:
    """Run the canonical passes over `graph`.

    Raises:
        UnsupportedError: the model cannot be brought to the asked opset.
        InputError: the model is invalid.
    """
    for name, apply in canonical_passes(opset, ir_version):
        graph = graph.then(name, apply(graph.model))
    return graph


def drop_initializer_inputs(model: ModelProto) -> ModelProto:
    """Remove initializers from the graph's inputs: they are weights, not feeds, and listing them blocks folding."""
    copy = _copy(model)
    weights = {tensor.name for tensor in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in weights]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    return copy


def constants_to_initializers(model: ModelProto) -> ModelProto:
    """Turn `Constant` nodes, except sparse and text ones, into initializers: every weight is found in one place."""
    copy = _copy(model)
    kept = []
    for node in copy.graph.node:
        value = _constant_value(node)
        if value is None:
            kept.append(node)
        else:
            tensor = copy.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
    nodes = [_copy_node(node) for node in kept]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def convert_opset(model: ModelProto, opset: int) -> ModelProto:
    """Bring the default operator set to exactly `opset`, and read it back.

    Raises:
        UnsupportedError: onnx knows no way from the model's opset to the asked one.
    """
    before = opset_of(model)
    if before == opset:
        return model
    try:
        converted = version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError, version_converter.ConvertError) as error:
        raise UnsupportedError(
            f"the model cannot be converted from opset {before} to {opset}",
            where="pass convert-opset",
            why=str(error).strip().splitlines()[-1],
            fix=f"export the model again at opset {opset} or lower",
        ) from error
    after = opset_of(converted)
    if after != opset:
        raise UnsupportedError(
            f"asked for opset {opset}, the converter gave {after}",
            where="pass convert-opset",
            why="the target's ceiling would be exceeded",
            fix=f"export the model again at opset {opset}",
        )
    return converted


def pin_ir(model: ModelProto, ir_version: int) -> ModelProto:
    """Set the IR version to the target's, never to what the installed onnx happens to write."""
    copy = _copy(model)
    copy.ir_version = ir_version
    return copy


def name_nodes(model: ModelProto) -> ModelProto:
    """Give every unnamed or doubly named node a stable name from its first output."""
    copy = _copy(model)
    seen: set[str] = set()
    for node in copy.graph.node:
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}:{next(filter(None, node.output), 'none')}"
            while node.name in seen:
                node.name += "'"
        seen.add(node.name)
    return copy


def infer_shapes(model: ModelProto) -> ModelProto:
    """Fill in the shapes and types of all intermediate tensors, symbolic dimensions kept."""
    try:
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError) as error:
        raise InputError(
            "the graph's shapes or types contradict each other",
            where="pass infer-shapes",
            why=str(error).strip().splitlines()[-1],
            fix="check the model with the tool that wrote it",
        ) from error


def check(model: ModelProto) -> ModelProto:
    """Run onnx's own checker."""
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise InputError(
            "the ONNX model is invalid",
            where="pass check",
            why=str(error).strip().splitlines()[0],
            fix="export it again",
        ) from error
    return model


def _constant_value(node: NodeProto) -> TensorProto | None:
    """The tensor that a `Constant` node of the default domain holds."""
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
        return None
    attribute: onnx.AttributeProto = node.attribute[0]
    if attribute.name == "value":
        tensor: TensorProto = attribute.t
        return tensor
    if attribute.name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), np.float32))
    if attribute.name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), np.int64))
    return None


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
