"""Who makes and who reads each tensor of a graph, and which are weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


@dataclass(frozen=True, eq=False)
class Wiring:
    """The top level of a model's graph; build a new one after a change."""

    model: ModelProto

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """Tensor name to the node that computes it."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[NodeProto]]:
        """Tensor name to the nodes that read it, each once, subgraphs counted for their node."""
        readers: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            for name in sorted(_read_names(node)):
                readers.setdefault(name, []).append(node)
        return readers

    @cached_property
    def weights(self) -> dict[str, TensorProto]:
        """Initializers by name."""
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The names of the graph's outputs."""
        return frozenset(value.name for value in self.model.graph.output)

    @cached_property
    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Known shapes; a symbolic or unknown dimension is its name, or ''."""
        shapes: dict[str, tuple[int | str, ...]] = {name: tuple(t.dims) for name, t in self.weights.items()}
        graph = self.model.graph
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                shapes[value.name] = tuple(
                    int(dim.dim_value) if dim.HasField("dim_value") else str(dim.dim_param) for dim in dims
                )
        return shapes

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        """The values of an initializer."""
        values: npt.NDArray[np.float32] = numpy_helper.to_array(self.weights[name])
        return values

    def only_consumer(self, tensor: str) -> NodeProto | None:
        """The single reader of `tensor`; None where there are several, none, or it is an output of the graph."""
        readers = self.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def copy_of(model: ModelProto) -> ModelProto:
    """A deep copy."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def replace_weight(model: ModelProto, name: str, values: npt.NDArray[np.float32]) -> None:
    """Give an initializer of `model` other values, in place; its shape may be stated elsewhere as well."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    for index in [i for i, value in enumerate(model.graph.value_info) if value.name == name]:
        del model.graph.value_info[index]


def _read_names(node: NodeProto) -> set[str]:
    inner = {name for a in node.attribute for child in a.g.node for name in _read_names(child)}
    return {name for name in node.input if name} | inner
