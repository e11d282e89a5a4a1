"""Lowering: a prepared float graph and its neutral `QuantSpec` become one runtime's quantized graph.

Integers are written as QuantizeLinear and DequantizeLinear pairs around float operators; each runtime fuses them into
its own kernels. Node and tensor names of the float graph are kept, so that what runs can be joined with what was meant:
a tensor `t` keeps its name where it is computed, `t/q` are its integers, `t/dq` what readers see.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgekit.errors import UnsupportedError
from edgekit.graph.dialects import DIALECTS, Dialect
from edgekit.graph.dynamic import write_dynamic
from edgekit.graph.graph import Graph
from edgekit.graph.integer_weights import largest_integer, quantize_weight
from edgekit.graph.layers import MOVERS, Layer, data_inputs, find_layers, settled
from edgekit.graph.passes import infer_shapes
from edgekit.graph.quantspec import ActivationQuant, QuantSpec, WeightQuant
from edgekit.graph.wiring import Wiring, copy_of

_LARGEST_BIAS = 2.0**30
"""In accumulator steps: leaves half of int32 to the sum of products."""
_SMALLEST_HALF_SCALE = 2.0**-20
"""Of fp16's subnormal steps of 2^-24, sixteen: the rounding of a scale stays under 3 %, and quantization knows it."""


def lower(graph: Graph, spec: QuantSpec, runtime: str) -> Graph:
    """The quantized graph for `runtime`.

    Args:
        graph: the prepared graph that `spec` belongs to.
        runtime: a name in `DIALECTS`.

    Raises:
        UnsupportedError: the runtime cannot express the spec, or ONNX's checker refuses the result.
    """
    dialect = DIALECTS.get(runtime)
    if dialect is None:
        raise UnsupportedError(f"no int8 form is known for {runtime!r}", where="int8", fix="use a float precision")
    if spec.dynamic and not dialect.dynamic:
        raise UnsupportedError(
            f"{runtime} takes no ranges at run time",
            where="[quantization] activations",
            why="its quantized kernels need constant scales",
            fix='activations = "static"',
        )
    missing = [name for name in spec.layers if name not in {node.name for node in graph.model.graph.node}]
    if missing:
        raise UnsupportedError(f"the spec quantizes {missing[0]!r}, which this graph does not have", where="QuantSpec")
    writer = _Writer(graph.model, spec, dialect)
    model = write_dynamic(graph.model, spec) if spec.dynamic else writer.run()
    checked = infer_shapes(model)
    try:
        onnx.checker.check_model(checked, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        why = str(error).strip().splitlines()[0]
        raise UnsupportedError("the quantized graph is invalid", where=f"int8 for {runtime}", why=why) from error
    return graph.then(f"int8:{runtime}", checked)


@dataclass(frozen=True)
class Step:
    """The integers of one activation: real = (integer - zero) * scale."""

    scale: np.float32
    zero: np.generic


def activation_step(quant: ActivationQuant, dialect: Dialect) -> Step:
    """Scale and zero point of a clip range: uint8 affine, or int8 symmetric."""
    if dialect.affine:
        scale = np.float32((quant.high - quant.low) / 255)
        return Step(scale, np.uint8(np.clip(np.rint(-quant.low / float(scale)), 0, 255)))
    scale = np.float32(max(-quant.low, quant.high) / 127)
    if dialect.half_scales:
        scale = np.float32(np.float16(max(float(scale), _SMALLEST_HALF_SCALE)))
    return Step(scale, np.int8(0))


@dataclass
class _Writer:
    """Walks the nodes once, in order."""

    source: ModelProto
    spec: QuantSpec
    dialect: Dialect
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    seen_as: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wiring = Wiring(self.source)
        found, _ = find_layers(self.wiring)
        self.layers = {name: found[name] for name in self.spec.layers}
        self.carriers = set(self.spec.carriers)
        self.adders = {layer.adder: layer for layer in self.layers.values() if layer.adder}
        self.rounded = self._rounded()

    def run(self) -> ModelProto:
        for value in self.source.graph.input:
            self._round(value.name)
        for node in self.source.graph.node:
            layer = self.layers.get(node.name)
            if layer is not None:
                self._write_layer(layer)
            elif node.name not in self.adders or not self.dialect.gemm:
                self._copy(node)
            for name in self._computed(node):
                self._round(name)
        return self._assemble()

    def _computed(self, node: NodeProto) -> list[str]:
        """What is there once `node` is written; an adder's sum is there with its layer."""
        layer = self.layers.get(node.name)
        if self.dialect.gemm and layer is not None:
            return [layer.output]
        return [] if self.dialect.gemm and node.name in self.adders else [name for name in node.output if name]

    def _rounded(self) -> set[str]:
        """The tensors that become integers in this dialect."""
        read: set[str] = {layer.data for layer in self.layers.values()}
        for node in self.source.graph.node:
            if node.name in self.carriers:
                read |= set(data_inputs(node, self.wiring))
        if self.dialect.closed:
            read |= {
                settled(layer.output, self.wiring) for layer in self.layers.values() if layer.node.op_type == "Conv"
            }
            for node in self.source.graph.node:
                if node.name in self.carriers:
                    read |= {settled(name, self.wiring) for name in node.output if name}
        return read

    def _step(self, tensor: str) -> Step:
        """A mover passes on the integers that it reads, so its results have the step of its operand."""
        node = self.wiring.producers.get(tensor)
        if node is not None and node.name in self.carriers and node.op_type in MOVERS:
            return self._step(str(node.input[0]))
        return activation_step(self.spec.activations[tensor], self.dialect)

    def _round(self, tensor: str) -> None:
        """Write the pair after `tensor`, where it becomes integers; an output of the graph keeps its name."""
        if tensor not in self.rounded:
            return
        step = self._step(tensor)
        scale, zero = self._constant(f"{tensor}/scale", step.scale), self._constant(f"{tensor}/zero", step.zero)
        computed, seen = tensor, f"{tensor}/dq"
        if tensor in self.wiring.outputs:
            computed, seen = f"{tensor}/float", tensor
            _rename_output(self.nodes, tensor, computed)
        self.nodes.append(helper.make_node("QuantizeLinear", [computed, scale, zero], [f"{tensor}/q"], f"{tensor}/Q"))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}/q", scale, zero], [seen], f"{tensor}/DQ"))
        self.seen_as[tensor] = seen

    def _copy(self, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        for i, name in enumerate(copy.input):
            copy.input[i] = self.seen_as.get(name, name)
        self.nodes.append(copy)

    def _write_layer(self, layer: Layer) -> None:
        step = self._step(layer.data)
        quant = self._weight_quant(layer, step)
        weight = self._write_weight(layer, quant)
        data = self.seen_as[layer.data]
        if layer.adder and self.dialect.gemm:
            self._write_gemm(layer, data, weight, step, quant)
            return
        copy = NodeProto()
        copy.CopyFrom(layer.node)
        copy.input[0], copy.input[1] = data, weight
        if layer.bias and not layer.adder and self.dialect.int32_bias:
            copy.input[2] = self._write_bias(layer, step, quant)
        self.nodes.append(copy)
        if self.dialect.tiny_bias and not layer.bias and copy.op_type != "Conv":
            self._write_tiny_bias(layer, copy)

    def _write_tiny_bias(self, layer: Layer, product: NodeProto) -> None:
        """Lost in any sum, yet neither zero nor of one value: OpenVINO would fold it away."""
        width = self.wiring.weights[layer.weight].dims[layer.axis]
        tiny = self._constant(f"{layer.output}/tiny", np.float32(1e-30) * (1 + np.arange(width, dtype=np.float32) % 2))
        product.output[0] = f"{layer.output}/product"
        added = [product.output[0], tiny]
        self.nodes.append(helper.make_node("Add", added, [layer.output], f"{layer.name}/bias"))

    def _write_gemm(self, layer: Layer, data: str, weight: str, step: Step, quant: WeightQuant) -> None:
        """Rows in, rows out: a `MatMul` whose bias is added in float would become a float Gemm in ONNX Runtime."""
        depth, width = self.wiring.weights[layer.weight].dims
        shape = self.wiring.shapes.get(layer.data, ())
        bias = self._write_bias(layer, step, quant)
        if len(shape) == 2:
            self.nodes.append(helper.make_node("Gemm", [data, weight, bias], [layer.output], layer.name))
            return
        rows, flat = f"{layer.output}/rows", f"{layer.output}/flat"
        into = self._constant(f"{layer.output}/into", np.array([-1, depth], np.int64))
        self.nodes.append(helper.make_node("Reshape", [data, into], [rows], f"{layer.name}/rows"))
        self.nodes.append(helper.make_node("Gemm", [rows, weight, bias], [flat], layer.name))
        back = self._shape_back(layer, data, shape, int(width))
        self.nodes.append(helper.make_node("Reshape", [flat, back], [layer.output], f"{layer.name}/back"))

    def _shape_back(self, layer: Layer, data: str, shape: tuple[int | str, ...], width: int) -> str:
        sizes = [size if isinstance(size, int) else -1 for size in shape[:-1]]
        if shape and sizes.count(-1) <= 1:
            return self._constant(f"{layer.output}/back", np.array([*sizes, width], np.int64))
        lead, last, whole = (f"{layer.output}/{part}" for part in ("lead", "last", "back"))
        self.nodes.append(helper.make_node("Shape", [data], [lead], f"{layer.name}/lead", start=0, end=-1))
        self._constant(last, np.array([width], np.int64))
        self.nodes.append(helper.make_node("Concat", [lead, last], [whole], f"{layer.name}/shape", axis=0))
        return whole

    def _weight_quant(self, layer: Layer, step: Step) -> WeightQuant:
        """The spec's clips, wider where fp16 or an int32 bias needs it."""
        quant = self.spec.weights[layer.weight]
        scales = np.asarray(quant.clip, np.float64) / largest_integer(quant.bits)
        if layer.bias and self.dialect.int32_bias:
            bias = np.abs(self.wiring.weight(layer.bias).astype(np.float64)) / (_LARGEST_BIAS * float(step.scale))
            scales = np.maximum(scales, bias if quant.axis is not None else bias.max())
        if self.dialect.half_scales:
            scales = np.maximum(scales, _SMALLEST_HALF_SCALE).astype(np.float16).astype(np.float64)
        clip = scales.astype(np.float32).astype(np.float64) * largest_integer(quant.bits)
        return WeightQuant(quant.axis, tuple(clip.tolist()), quant.bits)

    def _write_weight(self, layer: Layer, quant: WeightQuant) -> str:
        name = layer.weight
        if self._known(f"{name}/q"):  # shared by layers whose biases ask for different steps
            name = f"{name}/{layer.name}"
        integers, scales = quantize_weight(self.wiring.weight(layer.weight), quant)
        flat = scales.reshape(-1).astype(np.float32)
        scale = flat if quant.axis is not None else np.float32(flat[0])
        zeros = np.zeros_like(scale, np.int8) if quant.axis is not None else np.int8(0)
        operands = [
            self._constant(f"{name}/q", integers),
            self._constant(f"{name}/scale", scale),
            self._constant(f"{name}/zero", zeros),
        ]
        return self._dequantized(name, operands, quant.axis)

    def _write_bias(self, layer: Layer, step: Step, quant: WeightQuant) -> str:
        """int32 in steps of the accumulator, activation scale times weight scale (ONNX, QLinearConv)."""
        assert layer.bias is not None
        name = f"{layer.bias}/{layer.name}"
        scales = np.float64(step.scale) * np.asarray(quant.clip, np.float64) / largest_integer(quant.bits)
        scale = scales.astype(np.float32)
        integers = np.rint(self.wiring.weight(layer.bias).astype(np.float64) / scale).astype(np.int32)
        per_channel = quant.axis is not None
        operands = [
            self._constant(f"{name}/q", integers),
            self._constant(f"{name}/scale", scale if per_channel else np.float32(scale[0])),
            self._constant(f"{name}/zero", np.zeros(len(scale), np.int32) if per_channel else np.int32(0)),
        ]
        return self._dequantized(name, operands, 0 if per_channel else None)

    def _dequantized(self, name: str, operands: list[str], axis: int | None) -> str:
        node = helper.make_node("DequantizeLinear", operands, [f"{name}/dq"], f"{name}/DQ")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return f"{name}/dq"

    def _constant(self, name: str, values: npt.NDArray[np.generic] | np.generic) -> str:
        self.initializers[name] = np.asarray(values)
        return name

    def _known(self, name: str) -> bool:
        return name in self.initializers

    def _assemble(self) -> ModelProto:
        model = copy_of(self.source)
        graph = model.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        used = set(Wiring(model).consumers) | self.wiring.outputs
        kept = [tensor for tensor in self.source.graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.initializers.items())
        return model


def _rename_output(nodes: list[NodeProto], old: str, new: str) -> None:
    for node in reversed(nodes):
        for i, name in enumerate(node.output):
            if name == old:
                node.output[i] = new
                return
