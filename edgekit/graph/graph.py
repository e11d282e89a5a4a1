"""The canonical graph: an ONNX model, where each node came from, and the passes it went through."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

import onnx
from onnx import ModelProto, TensorProto, helper

from edgekit.bundle.manifest import Origin
from edgekit.spec import TensorSpec

STANDARD_DOMAINS = ("", "ai.onnx")
PROTOBUF_LIMIT = 2**31 - 1  # bytes: a larger model would need a side file


@dataclass(frozen=True)
class Graph:
    """An ONNX model with its history.

    Attributes:
        model: the model; treat it as read-only, passes copy.
        origins: node name to torch module and source line; empty for graphs that others made.
        passes: the names of the passes applied, in order.
    """

    model: ModelProto
    origins: dict[str, Origin]
    passes: tuple[str, ...]

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return opset_of(self.model)

    def serialized(self) -> bytes:
        """The model's bytes: equal models give equal bytes."""
        return serialize(self.model)

    def then(self, name: str, model: ModelProto) -> Graph:
        """The graph after one more pass."""
        return replace(self, model=model, passes=(*self.passes, name))


def serialize(model: ModelProto) -> bytes:
    """Deterministic protobuf bytes of `model`."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def opset_of(model: ModelProto) -> int:
    """The version of the default operator set that `model` imports."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)


def tensor_specs(values: list[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes of graph inputs or outputs; an unnamed unknown dimension is called `name_axis`."""
    specs = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(
            int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{axis}"
            for axis, dim in enumerate(tensor.shape.dim)
        )
        specs.append(TensorSpec(value.name, dtype_name(tensor.elem_type), shape))
    return tuple(specs)


def dtype_name(elem_type: int) -> str:
    """The numpy name of an ONNX element type, such as `float32`; `undefined` where it has none."""
    if elem_type == TensorProto.UNDEFINED:
        return "undefined"
    return str(helper.tensor_dtype_to_np_dtype(elem_type).name)


def with_all_outputs(model: ModelProto) -> ModelProto:
    """A copy that also returns every intermediate tensor, in the order of computation, for finding a divergence."""
    return with_outputs(model, {name for node in model.graph.node for name in node.output})


def with_outputs(model: ModelProto, tensors: Set[str]) -> ModelProto:
    """A copy that also returns those of `tensors` whose type is known, in the order of computation."""
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value for value in inferred.graph.value_info}
    outputs = {value.name for value in inferred.graph.output}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in model.graph.node:
        for name in node.output:
            if name in known and name in tensors and name not in outputs:
                copy.graph.output.append(known[name])
    return copy
