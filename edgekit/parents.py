"""A model as it was handed in, and how to run it as the reference that every export is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.bundle import Source
from edgekit.compress import DEFAULT_RECIPE, Applied, Recipe
from edgekit.errors import InputError, UsageError
from edgekit.graph.from_onnx import import_onnx, read_onnx, with_input_shapes
from edgekit.graph.from_torch import export_torch
from edgekit.graph.graph import Graph
from edgekit.runtimes.backend import Engine, EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.spec import ModelSpec

Feeds = Mapping[str, np.ndarray]


class Parent(Protocol):
    """A model as it was handed in."""

    @property
    def source(self) -> Source:
        """Where it came from, for the manifest."""
        ...

    @property
    def spec(self) -> ModelSpec:
        """What it is for the outside."""
        ...

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The reference outputs by name."""
        ...

    def to_graph(
        self, spec: ModelSpec, recipe: Recipe | None, opset: int, ir_version: int
    ) -> tuple[Graph, tuple[Applied, ...]]:
        """The canonical graph after the recipe's steps, and their history; None is the source's usual recipe."""
        ...

    def reference_name(self) -> str:
        """What computes the reference: `torch 2.13.0`."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class TorchParent:
    """A module in evaluation mode, or an exported program, with example inputs."""

    source: Source
    spec: ModelSpec
    module: nn.Module
    example: tuple[Tensor, ...]
    program: torch.export.ExportedProgram | None = None

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(np.ascontiguousarray(feeds[tensor.name])) for tensor in self.spec.inputs]
        with torch.no_grad():
            outputs = flat_tensors(self.module(*tensors))
        return {tensor.name: out.numpy() for tensor, out in zip(self.spec.outputs, outputs, strict=True)}

    def to_graph(
        self, spec: ModelSpec, recipe: Recipe | None, opset: int, ir_version: int
    ) -> tuple[Graph, tuple[Applied, ...]]:
        if self.program is not None:
            _refuse_recipe(recipe, "an exported program's modules are gone")
            return export_torch(self.program, self.example, spec, opset, ir_version), ()
        steps = recipe if recipe is not None else Recipe.parse(DEFAULT_RECIPE)
        module, history = steps.apply(self.module, self.example)
        return export_torch(module, self.example, spec, opset, ir_version), history

    def reference_name(self) -> str:
        return f"torch {torch.__version__}"


@dataclass(frozen=True)
class OnnxParent:
    """An ONNX file; its reference is the file as it is, in ONNX Runtime."""

    source: Source
    spec: ModelSpec
    path: Path

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._engine.run(feeds)

    def to_graph(
        self, spec: ModelSpec, recipe: Recipe | None, opset: int, ir_version: int
    ) -> tuple[Graph, tuple[Applied, ...]]:
        _refuse_recipe(recipe, "an ONNX file has no torch modules")
        return import_onnx(with_input_shapes(read_onnx(self.path), spec.inputs), opset, ir_version), ()

    @cached_property
    def _engine(self) -> Engine:
        return ORT.open(EngineRequest(read_onnx(self.path).SerializeToString()))

    def reference_name(self) -> str:
        return f"the original file in onnxruntime {ORT.version()}"


def flat_tensors(output: Any) -> list[Tensor]:
    """The tensors in a module's output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for item in output.values() for tensor in flat_tensors(item)]
    if isinstance(output, tuple | list):
        return [tensor for item in output for tensor in flat_tensors(item)]
    raise InputError(
        f"the model returns {type(output).__name__}",
        where="forward",
        why="only tensors, tuples, lists and dicts can be exported",
    )


def _refuse_recipe(recipe: Recipe | None, why: str) -> None:
    if recipe is not None and recipe.steps:
        raise UsageError("this source takes no recipe", where="[recipe] steps", why=why, fix="leave the recipe empty")
