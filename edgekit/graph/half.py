"""Writes fp16 into the graph itself: strongly typed runtimes compute in just the types that the file states.

Inputs and outputs stay as they are; what `islands.py` names keeps float32, with casts at its shores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.errors import UnsupportedError
from edgekit.graph.graph import Graph
from edgekit.graph.islands import ISLANDS, islands, read_names
from edgekit.graph.passes import check, infer_shapes

__all__ = ["FLOAT_INPUTS", "ISLANDS", "island_reasons", "to_half"]

# Inputs that ONNX types as float32 whatever the operator computes in: (operator, input index).
FLOAT_INPUTS = frozenset({("Resize", 1), ("Resize", 2), ("Upsample", 1)})


def to_half(graph: Graph) -> Graph:
    """The graph with float32 arithmetic turned into float16, except the islands.

    Raises:
        UnsupportedError: a weight is not a number, or a scale of a quantization does not fit into fp16.
    """
    model = _Converter(graph.model).run()
    return graph.then("fp16", check(infer_shapes(model)))


def island_reasons(graph: Graph) -> dict[str, str]:
    """Name of each float node that `to_half` leaves in float32, with the rule that says so; see `islands`."""
    nodes = graph.model.graph.node
    return {nodes[i].name: why for i, why in sorted(islands(graph.model, _float_tensors(graph.model)).items())}


@dataclass
class _Converter:
    """Walks the nodes once, in order, keeping for each tensor the names under which it exists in either type."""

    source: ModelProto
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    in_half: dict[str, str] = field(default_factory=dict)
    in_float: dict[str, str] = field(default_factory=dict)

    def run(self) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(self.source)
        graph = model.graph
        floats = _float_tensors(self.source)
        weights = {tensor.name: tensor for tensor in self.source.graph.initializer}
        outputs = {value.name for value in graph.output}
        for name in floats:
            self.in_float[name] = name
        kept_wide = islands(self.source, floats)
        for i, node in enumerate(self.source.graph.node):
            copy = NodeProto()
            copy.CopyFrom(node)
            if i in kept_wide or not any(name in floats for name in (*node.input, *node.output)):
                self._island(copy, weights)
            else:
                self._half_node(copy, floats, weights, outputs)
        used = {name for node in self.nodes for name in read_names(node)}
        kept = [tensor for tensor in self.source.graph.initializer if tensor.name not in floats or tensor.name in used]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend([*kept, *self.initializers.values()])
        return model

    def _island(self, node: NodeProto, weights: dict[str, TensorProto]) -> None:
        _rename_inputs(node, {name: self._as_float(name, weights) for name in sorted(read_names(node))})
        self.nodes.append(node)

    def _half_node(self, node: NodeProto, floats: set[str], weights: dict[str, TensorProto], outputs: set[str]) -> None:
        for i, name in enumerate(node.input):
            if name in floats:
                wants_float = (node.op_type, i) in FLOAT_INPUTS
                node.input[i] = self._as_float(name, weights) if wants_float else self._as_half(name, weights)
        restored = []
        for i, name in enumerate(node.output):
            if name in floats:
                half = f"{name}_fp16" if name in outputs else name
                node.output[i] = half
                self.in_half[name] = half
                del self.in_float[name]
                restored += [name] if name in outputs else []
        self.nodes.append(node)
        for name in restored:
            self._cast(self.in_half[name], name, TensorProto.FLOAT)
            self.in_float[name] = name

    def _as_half(self, name: str, weights: dict[str, TensorProto]) -> str:
        if name not in self.in_half:
            self.in_half[name] = f"{name}_fp16"
            if name in weights:
                self.initializers[name] = _half_tensor(weights[name], f"{name}_fp16")
            else:
                self._cast(name, f"{name}_fp16", TensorProto.FLOAT16)
        return self.in_half[name]

    def _as_float(self, name: str, weights: dict[str, TensorProto]) -> str:
        if name in self.in_half and name not in self.in_float and name not in weights:
            self.in_float[name] = f"{name}_fp32"
            self._cast(self.in_half[name], f"{name}_fp32", TensorProto.FLOAT)
        return self.in_float.get(name, name)

    def _cast(self, source: str, target: str, to: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], f"{target}/cast", to=to))


def _float_tensors(model: ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    names = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _half_tensor(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    limit = float(np.finfo(np.float16).max)
    if values.size and not np.abs(values).max() <= limit:
        raise UnsupportedError(
            "a weight does not fit into fp16",
            where=tensor.name,
            why=f"its largest magnitude is {np.abs(values).max():.4g}, fp16 ends at {limit:.0f}",
            fix="export with --precision fp32",
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


def _rename_inputs(node: NodeProto, names: dict[str, str]) -> None:
    """Let `node`, its subgraphs included, read the tensors in `names` under their new names."""
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for attribute in node.attribute:
        for child in attribute.g.node:
            _rename_inputs(child, names)
