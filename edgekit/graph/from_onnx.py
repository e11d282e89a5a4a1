"""ONNX files that others made: read, refuse with a reason what cannot be served, and make canonical."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, shape_inference

from edgekit.errors import InputError, UnsupportedError
from edgekit.graph.graph import PROTOBUF_LIMIT, STANDARD_DOMAINS, Graph, tensor_specs
from edgekit.graph.passes import canonicalize, drop_initializer_inputs
from edgekit.spec import ModelSpec, TensorSpec


def read_onnx(path: Path) -> ModelProto:
    """Parse and check `path`, external weights included, without changing it.

    Raises:
        InputError: missing, truncated, not ONNX, or without inputs or outputs.
        UnsupportedError: operators outside the ONNX standard, functions of the file's own included.
    """
    if not path.is_file():
        raise InputError("no such file", where=str(path), why="the model's source is not there", fix="check the path")
    if path.stat().st_size > PROTOBUF_LIMIT:
        raise InputError("the file is too large for protobuf", where=str(path), why="2 GiB is the format's limit")
    try:
        model = onnx.load(str(path))
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputError(
            "this is not a readable ONNX file",
            where=str(path),
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="the file may be truncated, or external weights may be missing: export it again",
        ) from error
    has_operator_set = any(entry.domain in STANDARD_DOMAINS for entry in model.opset_import)
    if not model.graph.node or not model.graph.output or not has_operator_set:
        raise InputError(
            "this is not an ONNX model with a graph",
            where=str(path),
            why="it has no nodes, no outputs or no operator set",
            fix="the file may be truncated: export it again",
        )
    _refuse_custom_operators(model.graph, path)
    return model


def import_onnx(model: ModelProto, opset: int, ir_version: int) -> Graph:
    """The canonical graph of a foreign model at exactly `opset` and `ir_version`.

    Raises:
        UnsupportedError, InputError: as the passes say.
    """
    return canonicalize(Graph(model, {}, ("onnx",)), opset, ir_version)


def with_input_shapes(model: ModelProto, inputs: tuple[TensorSpec, ...]) -> ModelProto:
    """A copy whose inputs have the shapes of `inputs`: symbolic dimensions become sizes, unnamed ones get names."""
    copy = ModelProto()
    copy.CopyFrom(model)
    shapes = {tensor.name: tensor.shape for tensor in inputs}
    for value in copy.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = size
    copy.graph.ClearField("value_info")  # of the old shapes
    return copy


def infer_spec(model: ModelProto, name: str) -> ModelSpec:
    """What can be known of a foreign model without being told: its tensors."""
    graph = drop_initializer_inputs(shape_inference.infer_shapes(model)).graph
    spec = ModelSpec(name, "tensor", tensor_specs(list(graph.input)), tensor_specs(list(graph.output)))
    for tensor, value in zip(spec.inputs, graph.input, strict=True):
        if tensor.dtype == "undefined" or not value.type.tensor_type.HasField("shape"):
            raise InputError(
                f"input {tensor.name!r} has no dtype or shape",
                where=name,
                why="a runtime could not plan for it",
                fix="export the model with typed, shaped inputs",
            )
    return spec


def _refuse_custom_operators(graph: GraphProto, path: Path) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            _refuse_custom_operators(attribute.g, path)
        if node.domain not in STANDARD_DOMAINS:
            raise UnsupportedError(
                f"operator {node.domain}.{node.op_type} is not part of ONNX",
                where=f"{path}: node {node.name or node.output[0]}",
                why="only one runtime knows it, and edgekit exports to several",
                fix="export the model before the tool that inserted it ran",
            )
