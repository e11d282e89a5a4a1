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
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.errors import UnsupportedError
from edgekit.graph.dialects import DIALECTS, Dialect
from edgekit.graph.dynamic import write_dynamic
from edgekit.graph.graph import Graph
from edgekit.graph.integer_weights import largest_integer, quantize_weight
from edgekit.graph.layers import MOVERS, Layer, data_inputs, find_layers, find_products, is_product, settled
from edgekit.graph.passes import infer_shapes
from edgekit.graph.quantspec import ActivationQuant, QuantSpec, WeightQuant
from edgekit.graph.wiring import Wiring, attribute, copy_of

_LARGEST_BIAS = 2.0**30
"""In accumulator steps: leaves half of int32 to the sum of products."""
_SHAPERS = frozenset({"Reshape", "Transpose"})
_CONV_SYM_OUTPUTS = 16
"""MLAS packs this many output channels at a time; where some are left over, `ConvSym` is not taken (measured)."""
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
    scale = symmetric_step(quant).scale
    if dialect.half_scales:
        scale = np.float32(np.float16(max(float(scale), _SMALLEST_HALF_SCALE)))
    return Step(scale, np.int8(0))


def symmetric_step(quant: ActivationQuant) -> Step:
    """int8 from -127 to 127, zero point 0."""
    return Step(np.float32(max(-quant.low, quant.high) / 127), np.int8(0))


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
        self.multiplied = self._multiplied() - self.rounded
        self.early = self._early()

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

    def _multiplied(self) -> set[str]:
        """What attention's products round: neither operand where one has a zero point already, as a layer's data."""
        if not self.dialect.products:
            return set()
        found = find_products(self.wiring, self.layers.values())
        pairs = [{each.left, each.right} for each in found if each.name in self.spec.products]
        return set().union(*(pair for pair in pairs if not pair & self.rounded))

    def _early(self) -> dict[str, str]:
        """Attention's results, each to what it becomes when moved: rounded first, the kernel itself writes integers."""
        found = {}
        for tensor in self.rounded if self.dialect.products else ():
            source, node = tensor, self.wiring.producers.get(tensor)
            while node is not None and node.op_type in _SHAPERS and self.wiring.only_consumer(node.input[0]) is node:
                source = str(node.input[0])
                node = self.wiring.producers.get(source)
            if source != tensor and node is not None and is_product(node, self.wiring):
                found[source] = tensor
        return found

    def _step(self, tensor: str) -> Step:
        """A mover passes on the integers that it reads, so its results have the step of its operand."""
        if tensor in self.multiplied:
            return symmetric_step(self.spec.activations[tensor])
        node = self.wiring.producers.get(tensor)
        if node is not None and node.name in self.carriers and node.op_type in MOVERS:
            return self._step(str(node.input[0]))
        return activation_step(self.spec.activations[tensor], self.dialect)

    def _round(self, tensor: str) -> None:
        """Write the pair after `tensor`, where it becomes integers; an output of the graph keeps its name."""
        if tensor in self.early.values():
            self.seen_as[tensor] = tensor
            return
        if tensor not in self.rounded | self.multiplied | set(self.early):
            return
        step = self._step(self.early.get(tensor, tensor))
        scale, zero = self._constant(f"{tensor}/scale", step.scale), self._constant(f"{tensor}/zero", step.zero)
        computed, seen = tensor, f"{tensor}/dq"
        if tensor in self.wiring.outputs:
            computed, seen = f"{tensor}/float", tensor
            _rename_output(self.nodes, tensor, computed)
        if self.dialect.barrier and self._is_fixed_matrix(tensor):
            same = f"{tensor}/same"
            self.nodes.append(helper.make_node("LeakyRelu", [computed], [same], f"{tensor}/barrier", alpha=1.0))
            computed = same
        self.nodes.append(helper.make_node("QuantizeLinear", [computed, scale, zero], [f"{tensor}/q"], f"{tensor}/Q"))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}/q", scale, zero], [seen], f"{tensor}/DQ"))
        self.seen_as[tensor] = seen

    def _is_fixed_matrix(self, tensor: str) -> bool:
        """Computed, of two axes, and of a known number of rows."""
        shape = self.wiring.shapes.get(tensor, ())
        return tensor in self.wiring.producers and len(shape) == 2 and isinstance(shape[0], int)

    def _copy(self, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        for i, name in enumerate(copy.input):
            copy.input[i] = self.seen_as.get(name, name)
        if self.dialect.global_pool and node.name in self.carriers and _is_mean_of_space(node, self.wiring):
            copy.op_type = "GlobalAveragePool"
            del copy.attribute[:], copy.input[1:]
        self.nodes.append(copy)

    def _write_layer(self, layer: Layer) -> None:
        step = self._step(layer.data)
        quant = self._weight_quant(layer, step)
        added = self._channels_to_add(layer) if self.dialect.quads else 0
        weight = self._write_weight(layer, quant, added)
        data = self._fill_up(layer, added) if added else self.seen_as[layer.data]
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

    def _channels_to_add(self, layer: Layer) -> int:
        """How many channels a picture lacks to a multiple of four, in front of a convolution that gains by them."""
        outputs, channels, *kernel = self.wiring.weights[layer.weight].dims
        is_picture = layer.data in {value.name for value in self.source.graph.input}
        gains = layer.node.op_type == "Conv" and layer.groups == 1 and outputs % _CONV_SYM_OUTPUTS == 0
        return -channels % 4 if is_picture and gains and max(kernel) > 1 else 0

    def _fill_up(self, layer: Layer, added: int) -> str:
        """The picture with channels of zeros behind its own."""
        tensor, scale, zero = layer.data, f"{layer.data}/scale", f"{layer.data}/zero"
        filled = f"{tensor}/filled"
        if not self._known(f"{filled}/pads"):
            dims = len(self.wiring.weights[layer.weight].dims)
            pads = np.zeros(2 * dims, np.int64)
            pads[dims + 1] = added
            pads_name = self._constant(f"{filled}/pads", pads)
            self.nodes.append(helper.make_node("Pad", [f"{tensor}/q", pads_name, zero], [f"{filled}/q"], filled))
            operands = [f"{filled}/q", scale, zero]
            self.nodes.append(helper.make_node("DequantizeLinear", operands, [f"{filled}/dq"], f"{filled}/DQ"))
        return f"{filled}/dq"

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

    def _write_weight(self, layer: Layer, quant: WeightQuant, added: int = 0) -> str:
        name = layer.weight
        if self._known(f"{name}/q"):  # shared by layers whose biases ask for different steps
            name = f"{name}/{layer.name}"
        integers, scales = quantize_weight(self.wiring.weight(layer.weight), quant)
        if added:
            integers = np.pad(integers, [(0, 0), (0, added)] + [(0, 0)] * (integers.ndim - 2))
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

    def _read(self) -> list[NodeProto]:
        """The nodes without dequantized integers that nobody reads."""
        read = {name for node in self.nodes for name in node.input} | self.wiring.outputs
        return [node for node in self.nodes if node.op_type != "DequantizeLinear" or node.output[0] in read]

    def _assemble(self) -> ModelProto:
        model = copy_of(self.source)
        graph = model.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._read())
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


def _is_mean_of_space(node: NodeProto, wiring: Wiring) -> bool:
    """A ReduceMean over all axes but batch and channels, which it keeps."""
    shape = wiring.shapes.get(node.input[0], ())
    axes = attribute(node, "axes") if len(node.input) < 2 else wiring.weights.get(node.input[1])
    if node.op_type != "ReduceMean" or axes is None or len(shape) < 3 or not attribute(node, "keepdims", 1):
        return False
    values = numpy_helper.to_array(axes) if isinstance(axes, TensorProto) else np.asarray(axes)
    return sorted(int(axis) % len(shape) for axis in values) == list(range(2, len(shape)))
