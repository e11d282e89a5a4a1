"""Rewrites an fp16 ONNX file so that a runtime which computes in fp32 rounds as the file says.

Each node that computes fp16 becomes the fp32 node followed by a Cast to fp16 and one back: its sums run in fp32, its
result is a half. What no arithmetic touches (casts, constants, the borders of loops) stays as it is, and bodies of
Loop, Scan and If are rewritten like the graph around them.

Names: a tensor `t` of the file keeps its name, type and value; `t@raw` is the fp32 result before it is rounded, `t@f32`
the rounded value in fp32, `t@flag` a float32 scalar that is 0 where all elements are finite and NaN where one is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference
from onnx.inliner import inline_local_functions

CONTAINERS = frozenset({"Loop", "Scan", "If"})
# These take or give fp16 without computing in it: a single conversion, a stated value, a border.
_NATIVE = frozenset(
    {
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "Shape", "Size", "Identity"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", *CONTAINERS),
    }
)
# Approximated in ONNX Runtime's float32 kernel to 6e-8, which is a whole step of the smallest halves: float64 here.
_APPROXIMATED = frozenset({"Sigmoid"})
_ZERO = "edgekit@zero"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Rounded:
    """The rewritten model.

    Attributes:
        model: what to run; its outputs are the tensors that were asked for, then the flags.
        flags: with flags, tensor name to the output that tells whether it is finite, in the order of computation. The
            first output `t` of a Loop, Scan or If has one more, `t@body`, for all that is computed inside.
    """

    model: ModelProto
    flags: dict[str, str] = field(default_factory=dict)


def rounding(model: ModelProto, fetch: Collection[str], flags: bool = False) -> Rounded:
    """`model` with every rounding to fp16 made explicit.

    Args:
        model: any ONNX model; local functions are inlined, bf16 is left to the runtime.
        fetch: names of top-level tensors to return, each in the file's own type.
        flags: whether to return a flag for every float tensor as well.
    """
    typed = shape_inference.infer_shapes(inline_local_functions(model) if model.functions else model)
    writer = _Writer(typed.graph, flags)
    writer.write(typed.graph)
    known = _values(typed.graph)
    graph = GraphProto(name=typed.graph.name, node=writer.nodes, input=typed.graph.input)
    graph.output.extend(known.get(name) or ValueInfoProto(name=name) for name in fetch)
    graph.output.extend(helper.make_tensor_value_info(flag, TensorProto.FLOAT, []) for flag in writer.flags.values())
    graph.sparse_initializer.extend(typed.graph.sparse_initializer)
    graph.initializer.extend(_used(typed.graph.initializer, writer, graph))
    result = ModelProto(ir_version=typed.ir_version, opset_import=typed.opset_import, graph=graph)
    return Rounded(result, writer.flags)


def computed_tensors(model: ModelProto) -> list[str]:
    """What the nodes of the top level compute, in order."""
    return [name for node in model.graph.node for name in node.output if name]


@dataclass
class _Writer:
    """Writes the nodes of one graph; a body has a writer of its own that knows the halves around it."""

    graph: GraphProto
    with_flags: bool
    outer: frozenset[str] = frozenset()
    nodes: list[NodeProto] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)
    widened: dict[str, TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        types = {name: _elem_type(value) for name, value in _values(self.graph).items()}
        types |= {tensor.name: tensor.data_type for tensor in self.graph.initializer}
        self.own = frozenset(name for name, kind in types.items() if kind == TensorProto.FLOAT16)
        self.halves = self.own | self.outer
        self.floats = frozenset(name for name, kind in types.items() if kind in _FLOATS)

    def write(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            if tensor.name in self.halves:
                wide = numpy_helper.to_array(tensor).astype(np.float32)
                self.widened[tensor.name] = numpy_helper.from_array(wide, f"{tensor.name}@f32")
        for value in graph.input:
            if value.name in self.own and value.name not in self.widened:
                self._cast(value.name, f"{value.name}@f32", TensorProto.FLOAT)
        for node in graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            if node.op_type in CONTAINERS:
                self._write_container(copy)
            else:
                self._write_node(copy)
            for name in node.output:
                self._flag(name)

    def _write_node(self, node: NodeProto) -> None:
        if node.op_type in _NATIVE or not any(name in self.halves for name in (*node.input, *node.output)):
            self.nodes.append(node)
            self._widen(node.output)
            return
        for i, name in enumerate(node.input):
            node.input[i] = f"{name}@f32" if name in self.halves else name
        rounded = [name for name in node.output if name in self.halves]
        for i, name in enumerate(node.output):
            node.output[i] = f"{name}@raw" if name in self.halves else name
        for attribute in node.attribute:
            if attribute.name in ("dtype", "output_dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        if node.op_type in _APPROXIMATED:
            self._write_in_float64(node)
        else:
            self.nodes.append(node)
        for name in rounded:
            self._cast(f"{name}@raw", name, TensorProto.FLOAT16)
        self._widen(rounded)

    def _write_in_float64(self, node: NodeProto) -> None:
        source, target = node.input[0], node.output[0]
        node.input[0], node.output[0] = f"{target}/from@f64", f"{target}/to@f64"
        self._cast(source, node.input[0], TensorProto.DOUBLE)
        self.nodes.append(node)
        self._cast(node.output[0], target, TensorProto.FLOAT)

    def _write_container(self, node: NodeProto) -> None:
        outputs, inside = list(node.output), f"{next(filter(None, node.output))}@body"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                self._write_body(attribute.g, f"{inside}/sum")
            if self.with_flags and attribute.name in ("scan_output_axes", "scan_output_directions"):
                attribute.ints.append(0)
        if self.with_flags:
            node.output.append(f"{inside}/each")
        self.nodes.append(node)
        self._widen(outputs)
        if self.with_flags:
            self._sum(f"{inside}/each", f"{inside}/flag")
            self.flags[inside] = f"{inside}/flag"

    def _write_body(self, body: GraphProto, flag: str) -> None:
        writer = _Writer(body, self.with_flags, self.halves)
        writer.write(body)
        initializers = [*body.initializer, *writer.widened.values()]
        outputs = list(body.output)
        if self.with_flags:
            writer.nodes.append(helper.make_node("Sum", [_ZERO, *writer.flags.values()], [flag]))
            outputs.append(helper.make_tensor_value_info(flag, TensorProto.FLOAT, []))
        del body.node[:], body.value_info[:], body.initializer[:], body.output[:]
        body.node.extend(writer.nodes)
        body.initializer.extend(initializers)
        body.output.extend(outputs)

    def _widen(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.halves:
                self._cast(name, f"{name}@f32", TensorProto.FLOAT)

    def _flag(self, name: str) -> None:
        """0 * x is NaN for infinity and NaN alone, and so is a sum that holds one."""
        if not self.with_flags or name not in self.floats:
            return
        wide = f"{name}@f32" if name in self.halves else name
        self.nodes.append(helper.make_node("Mul", [wide, _ZERO], [f"{name}@zeros"]))
        self._sum(f"{name}@zeros", f"{name}@flag")
        self.flags[name] = f"{name}@flag"

    def _sum(self, source: str, target: str) -> None:
        self.nodes.append(helper.make_node("ReduceSum", [source], [target], keepdims=0))

    def _cast(self, source: str, target: str, to: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], to=to))


def _used(initializers: Iterable[TensorProto], writer: _Writer, graph: GraphProto) -> list[TensorProto]:
    """The weights that are read in either form; what the file holds in fp16 is mostly read in fp32 alone."""
    read = _names_read(graph) | {value.name for value in graph.output}
    zero = numpy_helper.from_array(np.zeros((), np.float32), _ZERO)
    return [tensor for tensor in (*initializers, *writer.widened.values(), zero) if tensor.name in read]


def _names_read(graph: GraphProto) -> set[str]:
    names = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _names_read(attribute.g) | {value.name for value in attribute.g.output}
    return names


def _values(graph: GraphProto) -> dict[str, ValueInfoProto]:
    return {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}


def _elem_type(value: ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)
