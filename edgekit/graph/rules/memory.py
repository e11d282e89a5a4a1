"""How much memory a model takes on a board whose CPU and GPU share it: an estimate, from the graph alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from edgekit.errors import InputError

Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, estimated; what CUDA, TensorRT and the system take for themselves is not in it, and is unknown.

    Attributes:
        weights_bytes: all initializers, in the types that the file states.
        activations_bytes: the largest sum of intermediate tensors that are alive at one node, each counted from the
            node that computes it to the last that reads it. TensorRT's planner also shares memory by such lifetimes
            (NVIDIA TensorRT-LLM, Memory Usage), fuses nodes, which takes less, and pads channels, which takes more.
        io_bytes: the graph's inputs and outputs.
        workspace_bytes: scratch memory of the layers, as it was handed in.
        unknown: intermediate tensors whose size is not known, so that they count as nothing.
    """

    weights_bytes: int
    activations_bytes: int
    io_bytes: int
    workspace_bytes: int
    unknown: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """While the model runs."""
        return self.weights_bytes + self.activations_bytes + self.io_bytes + self.workspace_bytes

    @property
    def build_bytes(self) -> int:
        """While the engine is built: two more copies of the weights (NVIDIA, How TensorRT Works, The Build Phase)."""
        return self.total_bytes + 2 * self.weights_bytes


def estimate_memory(
    model: ModelProto,
    profile: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    workspace_bytes: int = 0,
) -> MemoryEstimate:
    """The estimate at the largest shapes of `profile`.

    Args:
        profile: input to `max` shape; an input without one, and an open dimension without it, count as they stand.
        workspace_bytes: what the layers' scratch memory may take.
    """
    fixed = at_largest(model, profile)
    types, sizes = _types(fixed.graph), sizes_of(fixed)
    lives = _Lives(types, sizes, [])
    borders = {value.name for value in (*fixed.graph.input, *fixed.graph.output)}
    weights = {tensor.name for tensor in fixed.graph.initializer}
    peak = lives.peak(fixed.graph, borders | weights)
    return MemoryEstimate(
        sum(_bytes(t.data_type, tuple(t.dims)) for graph in _graphs(fixed.graph) for t in graph.initializer),
        peak,
        sum(lives.bytes_of(name) for name in sorted(borders - weights)),
        workspace_bytes,
        tuple(lives.unknown),
    )


def at_largest(model: ModelProto, profile: Mapping[str, Mapping[str, Sequence[int]]] | None) -> ModelProto:
    """A copy with its inputs at the profile's `max` shapes, and all other shapes inferred from them."""
    copy = ModelProto()
    copy.CopyFrom(model)
    if not profile:
        return inferred(copy)
    for graph in _graphs(copy.graph):
        del graph.value_info[:]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in copy.graph.input:
        sizes = profile.get(value.name, {}).get("max")
        if sizes is not None:
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, list(sizes)))
    return inferred(copy)


def inferred(model: ModelProto) -> ModelProto:
    """The model with the types and shapes that ONNX can tell.

    Raises:
        InputError: a node has too many or too few inputs or outputs.
    """
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise InputError(
            "the ONNX model is malformed",
            where="TensorRT rules",
            why=str(error).strip().splitlines()[-1],
            fix="check the model with the tool that wrote it",
        ) from error


def sizes_of(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensor to sizes, where all of them are known."""
    found: dict[str, tuple[int, ...]] = {}
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                found[value.name] = tuple(int(dim.dim_value) for dim in dims)
    return found


@dataclass(frozen=True)
class _Lives:
    """Walks nodes in the order of the file, which is one that a runtime may take."""

    types: Mapping[str, int]
    sizes: Sizes
    unknown: list[str]

    def peak(self, graph: GraphProto, elsewhere: set[str]) -> int:
        """The largest sum of tensors alive at a node of `graph`; those in `elsewhere` are counted by others."""
        last = {name: i for i, node in enumerate(graph.node) for name in _reads(node)}
        last |= {value.name: len(graph.node) for value in graph.output}
        alive: dict[str, int] = {}
        peak = 0
        for i, node in enumerate(graph.node):
            made = [name for name in node.output if name and name not in elsewhere]
            alive |= {name: self.bytes_of(name) for name in made}
            inner = sum(self.peak(body, {t.name for t in body.initializer}) for body in _bodies(node))
            peak = max(peak, sum(alive.values()) + inner)
            alive = {name: size for name, size in alive.items() if last.get(name, -1) > i}
        return peak

    def bytes_of(self, name: str) -> int:
        """What a tensor takes; nothing, and a mention, where that is not known."""
        if name not in self.sizes or name not in self.types:
            self.unknown.append(name)
            return 0
        return _bytes(self.types[name], self.sizes[name])


def _bytes(kind: int, sizes: tuple[int, ...]) -> int:
    if kind in (TensorProto.STRING, TensorProto.UNDEFINED):
        return 0
    halved = kind in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)
    count = math.prod(sizes)
    return (count + 1) // 2 if halved else count * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _types(graph: GraphProto) -> dict[str, int]:
    values = [v for g in _graphs(graph) for v in (*g.input, *g.value_info, *g.output)]
    found = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return found | {tensor.name: int(tensor.data_type) for g in _graphs(graph) for tensor in g.initializer}


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from _graphs(body)


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def _reads(node: NodeProto) -> set[str]:
    inner = {name for body in _bodies(node) for child in body.node for name in _reads(child)}
    return {name for name in node.input if name} | inner
