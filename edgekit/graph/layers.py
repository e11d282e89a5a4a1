"""Which nodes of a float graph could run in int8: layers with constant weights, and what lies between them.

What stays float by rule: decode arithmetic, softmax, normalization, and everything else that no table here names. A
product of exponentials and box offsets under one scale costs all accuracy (YOLOX issue 1638). Of attention, queries and
keys may become integers where a runtime gains by it; softmax's result, of which most is near zero, never does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import NodeProto

from edgekit.graph.wiring import Wiring, attribute

COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Applied to an accumulator before it is rounded: a clip range that starts at zero contains them.
FUSED = frozenset({"Relu", "Clip"})
# Moves values without changing them, so integers and their scale pass through.
MOVERS = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "Resize"}
)
# Computes on integers with a scale of its own on each side.
ARITHMETIC = frozenset({"Add", "Concat", "AveragePool", "GlobalAveragePool", "ReduceMean"})


ATTENTION = "both operands are activations: attention products stay float"
# Between queries or keys and their product, and between the product and softmax.
_SCALINGS = frozenset({"Mul", "Div"})
_TO_SOFTMAX = frozenset({"Mul", "Div", "Add"})


@dataclass(frozen=True)
class Product:
    """Attention's product of queries and keys, in front of a softmax.

    Attributes:
        node: the `MatMul`.
        left, right: the tensors to round: its operands before they are transposed, or scaled by one number.
    """

    node: NodeProto
    left: str
    right: str

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name)


@dataclass(frozen=True)
class Layer:
    """A compute node with a constant weight.

    Attributes:
        node: the `Conv`, `Gemm` or `MatMul`.
        data, weight: its two operands; `bias` is the third, or that of a following `Add`, or None.
        axis: the weight's axis of output channels.
        adder: the name of the `Add` that adds `bias` to a `MatMul`.
        output: the tensor that holds the result with its bias.
    """

    node: NodeProto
    data: str
    weight: str
    axis: int
    output: str
    bias: str | None = None
    adder: str | None = None

    @property
    def name(self) -> str:
        """The compute node's name."""
        return str(self.node.name)

    @property
    def groups(self) -> int:
        """The number of groups of a convolution, else 1."""
        groups = attribute(self.node, "group", 1)
        assert isinstance(groups, int)
        return groups


def find_layers(wiring: Wiring) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers that can be quantized by node name, and the compute nodes that cannot, with the reason."""
    layers: dict[str, Layer] = {}
    refused: dict[str, str] = {}
    axes: dict[str, int] = {}
    for node in wiring.model.graph.node:
        if node.op_type in COMPUTE:
            reason = _why_not(node, wiring)
            layer = None if reason else _layer(node, wiring)
            if layer is not None and axes.setdefault(layer.weight, layer.axis) == layer.axis:
                layers[node.name] = layer
            else:
                refused[node.name] = reason or "its weight has its output channels on another axis in an earlier layer"
    return layers, refused


def find_carriers(wiring: Wiring, layers: Iterable[Layer]) -> tuple[NodeProto, ...]:
    """The nodes between `layers` that can stay in int8: every operand comes from one, and the result reaches one.

    In the graph's order. Fused activations are not among them: they belong to the node before.
    """
    chosen = list(layers)
    adders = {layer.adder for layer in chosen}
    names = {layer.name for layer in chosen} | adders
    quantized = {layer.output for layer in chosen} | {layer.data for layer in chosen}
    candidates: set[str] = set()
    for node in wiring.model.graph.node:
        if node.name in names:
            continue
        data = data_inputs(node, wiring)
        if node.op_type in FUSED and _is_fused_relu(node, wiring) and node.input[0] in quantized:
            quantized.add(node.output[0])
        elif _is_carrier(node, wiring) and data and all(name in quantized for name in data):
            candidates.add(node.name)
            quantized |= set(node.output)
    wanted = {layer.data for layer in chosen}
    kept: list[NodeProto] = []
    for node in reversed(list(wiring.model.graph.node)):
        if node.name in candidates and any(name in wanted for name in node.output):
            kept.append(node)
            wanted |= set(data_inputs(node, wiring))
        elif node.op_type in FUSED and node.output[0] in wanted:
            wanted.add(node.input[0])
    return tuple(reversed(kept))


def find_products(wiring: Wiring, layers: Iterable[Layer]) -> tuple[Product, ...]:
    """Attention's products of queries and keys that are both results of `layers`, moved or scaled at most."""
    results = {layer.output for layer in layers}
    found = []
    for node in wiring.model.graph.node:
        if is_product(node, wiring) and _meets_softmax(node, wiring):
            left, right = (_upstream(name, wiring, frozenset({"Transpose"})) for name in node.input)
            if left != right and all(_upstream(name, wiring, MOVERS) in results for name in (left, right)):
                found.append(Product(node, left, right))
    return tuple(found)


def is_product(node: NodeProto, wiring: Wiring) -> bool:
    """A `MatMul` of two activations."""
    return node.op_type == "MatMul" and not set(node.input) & set(wiring.weights)


def data_inputs(node: NodeProto, wiring: Wiring) -> list[str]:
    """The operands that hold activations: of a mover only the first, the rest are sizes."""
    names = node.input[:1] if node.op_type in MOVERS or node.op_type == "ReduceMean" else node.input
    return [name for name in names if name and name not in wiring.weights]


def settled(tensor: str, wiring: Wiring) -> str:
    """Where a result is rounded: after the activation that follows `tensor` alone, else `tensor` itself."""
    reader = wiring.only_consumer(tensor)
    fused = reader is not None and reader.op_type in FUSED and _is_fused_relu(reader, wiring)
    return str(reader.output[0]) if reader is not None and fused else tensor


def _upstream(tensor: str, wiring: Wiring, movers: frozenset[str]) -> str:
    """The tensor behind any `movers`, and any products with one constant number, that `tensor` comes from."""
    while (node := wiring.producers.get(tensor)) is not None:
        scaled = [str(name) for name in node.input if not _is_number(name, wiring)]
        if node.op_type in movers or (node.op_type in _SCALINGS and scaled == [node.input[0]]):
            tensor = str(node.input[0])
        elif node.op_type == "Mul" and len(scaled) == 1:
            tensor = scaled[0]
        else:
            break
    return tensor


def _is_number(tensor: str, wiring: Wiring) -> bool:
    return tensor in wiring.weights and all(size == 1 for size in wiring.weights[tensor].dims)


def _meets_softmax(node: NodeProto, wiring: Wiring) -> bool:
    """Whether the result goes into a softmax and nowhere else, scaled or masked on the way."""
    reader = wiring.only_consumer(node.output[0])
    while reader is not None and reader.op_type in _TO_SOFTMAX:
        reader = wiring.only_consumer(reader.output[0])
    return reader is not None and reader.op_type == "Softmax"


def _is_fused_relu(node: NodeProto, wiring: Wiring) -> bool:
    """A Relu, or a Clip from zero up to a constant."""
    if node.op_type == "Relu":
        return True
    low = node.input[1] if len(node.input) > 1 else ""
    return node.op_type == "Clip" and low in wiring.weights and float(wiring.weight(low).reshape(-1)[0]) == 0.0


def _is_carrier(node: NodeProto, wiring: Wiring) -> bool:
    if node.op_type == "Resize":
        return attribute(node, "mode", b"nearest") == b"nearest"
    if node.op_type == "Add":  # with a constant it is arithmetic of the task, or a bias that no layer owns
        return not any(name in wiring.weights for name in node.input)
    if node.op_type == "MaxPool":
        return len(node.output) == 1
    return node.op_type in MOVERS or node.op_type in ARITHMETIC


def _why_not(node: NodeProto, wiring: Wiring) -> str | None:
    if node.op_type == "ConvTranspose":
        return "no runtime here has an int8 transposed convolution"
    if node.input[1] not in wiring.weights:
        return ATTENTION
    if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] and node.input[2] not in wiring.weights:
        return "its bias is computed"
    if node.op_type == "MatMul" and len(wiring.weights[node.input[1]].dims) != 2:
        return "its weight is a stack of matrices"
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        if not plain or attribute(node, "transA", 0):
            return "a Gemm with alpha, beta or a transposed input has no int8 form"
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and bias not in wiring.weights:
            return "its bias is computed"
        width = wiring.weights[node.input[1]].dims[0 if attribute(node, "transB", 0) else 1]
        if bias and list(wiring.weights[bias].dims) != [width]:
            return "its bias is no vector with a value for each output"
    return None


def _layer(node: NodeProto, wiring: Wiring) -> Layer:
    data, weight, output = str(node.input[0]), str(node.input[1]), str(node.output[0])
    if node.op_type == "Conv":
        axis = 0
    elif node.op_type == "Gemm":
        axis = 0 if attribute(node, "transB", 0) else 1
    else:
        axis = 1
    if node.op_type != "MatMul":
        bias = str(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return Layer(node, data, weight, axis, output, bias)
    reader = wiring.only_consumer(output)
    added = [name for name in reader.input if name != output] if reader is not None and reader.op_type == "Add" else []
    sizes = list(wiring.weights[added[0]].dims) if added and added[0] in wiring.weights else []
    if reader is not None and sizes == [wiring.weights[weight].dims[1]]:
        return Layer(node, data, weight, axis, str(reader.output[0]), added[0], str(reader.name))
    return Layer(node, data, weight, axis, output)
