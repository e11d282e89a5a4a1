"""A torch module or exported program to the canonical graph, through torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn

from edgekit.errors import UnsupportedError, UsageError
from edgekit.graph.graph import Graph, opset_of, tensor_specs
from edgekit.graph.origins import collect_origins
from edgekit.graph.passes import canonicalize
from edgekit.spec import ModelSpec

OLDEST_OPSET = 18  # of torch 2.13's dynamo exporter


def export_torch(
    module: nn.Module | torch.export.ExportedProgram,
    example: tuple[Tensor, ...],
    spec: ModelSpec,
    opset: int,
    ir_version: int,
) -> Graph:
    """Export at exactly `opset` and `ir_version`.

    Args:
        module: a module in evaluation mode, or an exported program.
        example: inputs; a symbolic dimension must not have size 0 or 1 in them, torch specialises those.
        spec: names the inputs and outputs and their symbolic dimensions.
        opset: the default operator set's version, 18 or higher.
        ir_version: ONNX IR version.

    Raises:
        UnsupportedError: torch cannot export the module, or gave another opset or other input shapes than asked for.
        UsageError: a symbolic dimension's name is not an identifier.
    """
    if opset < OLDEST_OPSET:
        raise UnsupportedError(
            f"torch cannot export to opset {opset}",
            where="torch.onnx.export",
            why=f"its operators are written in opset {OLDEST_OPSET} and newer; older ones it converts to where it can",
            fix=f"choose a target whose opset is at least {OLDEST_OPSET}",
        )
    shapes = None if isinstance(module, torch.export.ExportedProgram) else _dynamic_shapes(spec)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs] or None,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        raise UnsupportedError(
            "torch cannot export this module to ONNX",
            where=type(module).__name__,
            why=_first_reason(error),
            fix="torch.export.export(module, example) shows the offending line; rewrite it with tensor operations",
        ) from error
    assert program is not None  # dynamo=True always returns a program
    model = program.model_proto
    written = opset_of(model)
    if written != opset:  # a failed conversion is only logged
        raise UnsupportedError(
            f"asked for opset {opset}, torch wrote {written}",
            where="torch.onnx.export",
            why="the conversion between the two failed",
            fix="choose a target with another opset",
        )
    _refuse_lost_dimensions(model, spec)
    return canonicalize(Graph(model, collect_origins(model), ("torch.onnx.export",)), opset, ir_version)


def _refuse_lost_dimensions(model: ModelProto, spec: ModelSpec) -> None:
    """Read the inputs back: where a module works for one size only, torch silently writes that size."""
    for asked, written in zip(spec.inputs, tensor_specs(list(model.graph.input)), strict=True):
        if asked.shape != written.shape:
            raise UnsupportedError(
                f"input {asked.name!r} of shape {asked.shape} was exported as {written.shape}",
                where="torch.onnx.export",
                why="the module computes with one fixed size where a symbolic dimension was asked for",
                fix="make forward work for any size, or state the fixed one in [model] shapes",
            )


def _dynamic_shapes(spec: ModelSpec) -> tuple[dict[int, Any], ...]:
    names = {dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    for name in sorted(names):
        if not name.isidentifier():
            raise UsageError(
                f"{name!r} cannot name a dimension",
                where="[model] shapes",
                why="torch takes identifiers only",
                fix="use letters, digits and underscores, such as batch",
            )
    dims = {name: torch.export.Dim(name) for name in sorted(names)}
    return tuple(
        {axis: dims[dim] for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)} for tensor in spec.inputs
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own progress and deprecation chatter off the user's terminal; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_reason(error: BaseException) -> str:
    """The message of the innermost cause: torch wraps the interesting one several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
