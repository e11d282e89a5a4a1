"""ONNX files that others made: read, refuse with a reason what cannot be served, and make canonical."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from edgekit.errors import InputError, UnsupportedError
from edgekit.graph.graph import PROTOBUF_LIMIT, Graph, tensor_specs
from edgekit.graph.passes import canonicalize, drop_initializer_inputs
from edgekit.spec import ModelSpec

STANDARD_DOMAINS = ("", "ai.onnx")


def read_onnx(path: Path) -> ModelProto:
    """Parse and check `path`, external weights included, without changing it.

    Raises:
        InputError: missing, truncated, not ONNX, or without inputs or outputs.
        UnsupportedError: operators outside the ONNX standard, or functions and training parts.
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
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise InputError(
            "this is not an ONNX model with a graph",
            where=str(path),
            why="it has no nodes, no outputs or no operator set",
            fix="the file may be truncated: export it again",
        )
    _refuse_custom_operators(model, path)
    return model


def import_onnx(model: ModelProto, opset: int, ir_version: int) -> Graph:
    """The canonical graph of a foreign model at exactly `opset` and `ir_version`.

    Raises:
        UnsupportedError, InputError: as the passes say.
    """
    return canonicalize(Graph(model, {}, ("onnx",)), opset, ir_version)


def infer_spec(model: ModelProto, name: str) -> ModelSpec:
    """What can be known of a foreign model without being told: its tensors."""
    graph = drop_initializer_inputs(model).graph
    spec = ModelSpec(name, "tensor", tensor_specs(list(graph.input)), tensor_specs(list(graph.output)))
    for tensor in spec.inputs:
        if tensor.dtype == "undefined" or not tensor.shape:
            raise InputError(
                f"input {tensor.name!r} has no dtype or shape",
                where=name,
                why="a runtime could not plan for it",
                fix="export the model with typed, shaped inputs",
            )
    return spec


def _refuse_custom_operators(model: ModelProto, path: Path) -> None:
    for node in model.graph.node:
        if node.domain not in STANDARD_DOMAINS:
            raise UnsupportedError(
                f"operator {node.domain}.{node.op_type} is not part of ONNX",
                where=f"{path}: node {node.name or node.output[0]}",
                why="only one runtime knows it, and edgekit exports to several",
                fix="export the model before the tool that inserted it ran",
            )
