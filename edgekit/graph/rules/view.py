"""A model as rules see it: every node with the bodies that hold it, and what is known of every tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edgekit.bundle.manifest import Origin
from edgekit.graph.graph import STANDARD_DOMAINS, opset_of
from edgekit.graph.rules.facts import Refuser, Release, Severity, Span
from edgekit.graph.rules.memory import at_largest, inferred, sizes_of
from edgekit.graph.wiring import attribute

Shapes = Mapping[str, Mapping[str, Sequence[int]]]
"""Input to label (`min`, `opt`, `max`) to sizes: an optimization profile."""
BODIES = frozenset({"If", "Loop", "Scan"})
# What sits between a layer and its quantization in a lowered graph: a node of these belongs to its neighbour's module.
_CARRIES = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Reshape", "Identity"})
# The operator lists' names of element types.
TYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FP64",
    TensorProto.INT4: "INT4",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.STRING: "STRING",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.FLOAT4E2M1: "FP4",
}


@dataclass(frozen=True)
class Site:
    """A node and where it stands: `top` is the main graph's node that holds it, `inside` the bodies around it."""

    node: NodeProto
    top: NodeProto
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        inner = f"{self.node.op_type} {name_of(self.node)!r}"
        return f"{inner} inside {' of '.join(reversed(self.inside))}" if self.inside else inner


@dataclass(frozen=True)
class Hit:
    """What a predicate found; None takes the rule's own value."""

    site: Site | None
    message: str
    source: str | None = None
    severity: Severity | None = None
    by: Refuser | None = None


@dataclass(frozen=True, eq=False)
class View:
    """A model, the versions that it must serve, and the board that it must fit on."""

    model: ModelProto
    span: Span
    release: Release
    profile: Shapes | None = None
    memory_bytes: int | None = None
    workspace_bytes: int = 0

    @cached_property
    def inferred(self) -> ModelProto:
        """The model with the types and shapes that ONNX can infer."""
        return inferred(self.model)

    @cached_property
    def opset(self) -> int:
        """The version of the default operator set."""
        return opset_of(self.model)

    @cached_property
    def functions(self) -> dict[tuple[str, str], onnx.FunctionProto]:
        """The model's local functions by domain and name."""
        return {(function.domain, function.name): function for function in self.model.functions}

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every node, those of bodies and local functions included, in order."""
        return tuple(site for node in self.inferred.graph.node for site in self._sites(node, node, ()))

    @cached_property
    def standard(self) -> tuple[Site, ...]:
        """The nodes of ONNX's own operator set."""
        return tuple(
            site
            for site in self.sites
            if site.node.domain in STANDARD_DOMAINS and (site.node.domain, site.node.op_type) not in self.functions
        )

    @cached_property
    def graphs(self) -> tuple[GraphProto, ...]:
        """The main graph and every body."""
        inner = [g for site in self.sites for a in site.node.attribute for g in (a.g, *a.graphs) if g.node or g.output]
        return (self.inferred.graph, *inner)

    @cached_property
    def types(self) -> dict[str, int]:
        """Tensor to ONNX element type, where it is known."""
        values = [v for g in self.graphs for v in (*g.input, *g.value_info, *g.output)]
        found = {v.name: v.type.tensor_type.elem_type for v in values if v.type.HasField("tensor_type")}
        found |= {t.name: t.data_type for g in self.graphs for t in g.initializer}
        return {name: kind for name, kind in found.items() if kind}

    @cached_property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Tensor to sizes, where the rank is known; an open dimension is its name, or ''."""
        found: dict[str, tuple[int | str, ...]] = {}
        for graph in self.graphs:
            for value in (*graph.input, *graph.value_info, *graph.output):
                if value.type.tensor_type.HasField("shape"):
                    found[value.name] = tuple(
                        int(dim.dim_value) if dim.HasField("dim_value") else str(dim.dim_param)
                        for dim in value.type.tensor_type.shape.dim
                    )
            found |= {tensor.name: tuple(int(size) for size in tensor.dims) for tensor in graph.initializer}
        return found

    @cached_property
    def largest(self) -> dict[str, tuple[int, ...]]:
        """Tensor to sizes at the profile's `max`, where all of them are known."""
        return sizes_of(at_largest(self.model, self.profile))

    @cached_property
    def tensors(self) -> dict[str, TensorProto]:
        """Initializers, and the values of `Constant` nodes."""
        found = {tensor.name: tensor for graph in self.graphs for tensor in graph.initializer}
        for site in self.standard:
            value = attribute(site.node, "value") if site.node.op_type == "Constant" else None
            if isinstance(value, TensorProto):
                found[site.node.output[0]] = value
        return found

    @cached_property
    def producers(self) -> dict[str, Site]:
        """Tensor to the node that computes it, in whichever graph."""
        return {name: site for site in self.sites for name in site.node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[Site]]:
        """Tensor to the nodes that read it, in whichever graph."""
        found: dict[str, list[Site]] = {}
        for site in self.sites:
            for name in site.node.input:
                found.setdefault(name, []).append(site)
        return found

    def constant(self, name: str) -> npt.NDArray[np.generic] | None:
        """The values of an initializer or `Constant`; None of anything else."""
        if name not in self.tensors:
            return None
        values: npt.NDArray[np.generic] = numpy_helper.to_array(self.tensors[name])
        return values

    def is_known(self, name: str) -> bool:
        """Whether `name` can be computed from initializers and fixed shapes alone."""
        site = self.producers.get(name)
        if name in self.tensors or site is None or not site.node.input:
            return name in self.tensors
        node = site.node
        if node.op_type in ("Shape", "Size"):
            sizes = self.shapes.get(node.input[0])
            return sizes is not None and all(isinstance(size, int) for size in sizes)
        return all(self.is_known(read) for read in node.input if read)

    def type_name(self, name: str) -> str | None:
        """The lists' name of a tensor's type, or ONNX's where they have none; None where it is not known."""
        kind = self.types.get(name)
        return None if kind is None else TYPE_NAMES.get(kind, TensorProto.DataType.Name(kind))

    def origin(self, node: NodeProto, origins: Mapping[str, Origin]) -> Origin | None:
        """Where a node came from; of what a lowering added, where its neighbour did."""
        if node.name in origins:
            return origins[node.name]
        for ahead in (True, False):
            seen: NodeProto | None = node
            while seen is not None and seen.op_type in _CARRIES:
                seen = self._next(seen, ahead)
                if seen is not None and seen.name in origins:
                    return origins[seen.name]
        return None

    def _next(self, node: NodeProto, ahead: bool) -> NodeProto | None:
        if not ahead:
            before = self.producers.get(node.input[0]) if node.input else None
            return before.node if before else None
        return next((site.node for site in self.readers.get(node.output[0], [])), None)

    def _sites(self, node: NodeProto, top: NodeProto, inside: tuple[str, ...]) -> Iterator[Site]:
        yield Site(node, top, inside)
        for item in node.attribute:
            for graph in (item.g, *item.graphs):
                for child in graph.node:
                    yield from self._sites(child, top, (*inside, str(node.op_type)))
        function = self.functions.get((node.domain, node.op_type))
        if function is not None and function.name not in inside:
            for child in function.node:
                yield from self._sites(child, top, (*inside, function.name))


def name_of(node: NodeProto) -> str:
    """The node's name, or its first output's where it has none."""
    return str(node.name or next(filter(None, node.output), node.op_type))
