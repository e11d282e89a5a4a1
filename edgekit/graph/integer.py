"""The integer reference: what a model with QuantizeLinear and DequantizeLinear means, computed without a runtime.

Floats are float64, so that sums of integer products are exact and a rounding is the one that ONNX defines: half to
even, once, in QuantizeLinear. Runtimes round their multipliers to float32, so a value that lies on the border between
two steps may fall to either side; more than one step apart is an error of somebody's. Over many layers such flips add
up, which is why `check_layers` starts every layer from the runtime's own inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekit.errors import InputError, UnsupportedError
from edgekit.graph import integer_ops as ops
from edgekit.graph.graph import STANDARD_DOMAINS, opset_of
from edgekit.graph.integer_ops import Array, Attributes, Lattice, Operand

# These neither change a value nor mix two: the step of their input is the step of their output.
_MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Slice"})
_LEVELS = 255  # steps in the range of an 8-bit tensor
_FLOAT32_ROUNDING = 1e-3  # of a step: real outputs are up to 256 of them, and float32 has 24 bits, so 2^-16 would do
_FLATTENED, _FLATTENED_UNTIL = frozenset({"Hardmax", "LogSoftmax", "Softmax"}), 13  # ONNX's change log of operators
_QDQ_DOMAINS = (*STANDARD_DOMAINS, "com.microsoft")  # ONNX Runtime's own had 16 bits before opset 21


@dataclass(frozen=True)
class LayerGap:
    """How far a runtime's tensor is from the reference.

    Attributes:
        tensor: its name.
        operator: the type of the operator that computes it; for a quantized tensor the one before QuantizeLinear.
        steps: the largest difference. Quantized tensors: whole steps. Others: in units of the DequantizeLinear scale
            behind them, or of 1/255 of the reference's range where they were never quantized. Infinite where a value is
            not a number.
        apart: how many elements differ by half a step or more.
        elements: how many there are.
    """

    tensor: str
    operator: str
    steps: float
    apart: int
    elements: int

    def within(self, steps: float) -> bool:
        """Whether no element is further than `steps` from the reference, but for a float32's own rounding."""
        return self.steps <= steps + _FLOAT32_ROUNDING


def run_integer(model: ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute `model` on `feeds` in float64 and integers.

    Args:
        model: ONNX, any opset that the reference of the onnx package knows; no subgraphs, no functions.
        feeds: graph input to array, of the model's shapes; floats of any width.

    Returns:
        Every tensor by name: initializers, inputs and what each node computes. Quantized tensors have their integer
        dtype, floats are float64.

    Raises:
        InputError: an input is missing, or a tensor that is quantized holds NaN.
        UnsupportedError: an operator, or a form of quantization, that the reference does not know.
    """
    return _Interpreter(model, {}).run(feeds)


def quantized_tensors(model: ModelProto) -> list[str]:
    """The outputs of QuantizeLinear, in the order of computation."""
    return [node.output[0] for node in model.graph.node if _is(node, "QuantizeLinear")]


def steps_apart(
    model: ModelProto, reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """For each quantized tensor that both sides have, in order: the largest difference in integer steps.

    Raises:
        InputError: the two disagree about a shape or an integer dtype.
    """
    both = [name for name in quantized_tensors(model) if name in reference and name in candidate]
    return {name: int(_distance(name, reference[name], candidate[name]).max(initial=0)) for name in both}


def output_gaps(
    model: ModelProto, reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray]
) -> list[LayerGap]:
    """The gap of every graph output, in the graph's order.

    Raises:
        InputError: the candidate lacks an output, or the two disagree about a shape.
    """
    missing = [value.name for value in model.graph.output if value.name not in candidate]
    if missing:
        raise InputError(f"the candidate has no output {missing[0]!r}", where="output_gaps")
    return [_gap(model, value.name, reference, candidate) for value in model.graph.output]


def check_layers(model: ModelProto, traced: Mapping[str, np.ndarray]) -> list[LayerGap]:
    """Recompute each layer of a runtime's trace from the runtime's own quantized tensors before it.

    Args:
        model: the model that was traced.
        traced: the graph inputs, and by name what the runtime computed: quantized tensors, and graph outputs. A tensor
            that is not there is computed, not checked.

    Returns:
        One gap for each traced output of QuantizeLinear, in the order of computation, and for each traced graph output
        that is none.

    Raises:
        InputError: a graph input is not in the trace, or a traced tensor has the wrong shape or integer dtype.
        UnsupportedError: as `run_integer`.
    """
    quantized = quantized_tensors(model)
    inputs = {value.name for value in model.graph.input}
    observed = {name: traced[name] for name in quantized if name in traced}
    local = _Interpreter(model, observed).run({name: traced[name] for name in inputs if name in traced})
    ends = [value.name for value in model.graph.output if value.name not in set(quantized)]
    return [_gap(model, name, local, traced) for name in [*quantized, *ends] if name in traced]


@dataclass
class _Interpreter:
    """Walks the nodes once. `observed` tensors are what later nodes see; what was computed for them is returned."""

    model: ModelProto
    observed: Mapping[str, Array]
    seen: dict[str, Array] = field(default_factory=dict)
    lattices: dict[str, Lattice] = field(default_factory=dict)
    computed: dict[str, Array] = field(default_factory=dict)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        weights = {each.name: _promoted(numpy_helper.to_array(each)) for each in self.model.graph.initializer}
        self._begin(weights)
        wanted = [value.name for value in self.model.graph.input if value.name not in weights]
        for name in wanted:
            if name not in feeds:
                raise InputError(f"no value for input {name!r}", where="integer reference", fix=f"feed {wanted}")
        self._begin({name: _promoted(np.asarray(feeds[name])) for name in wanted})
        for node in self.model.graph.node:
            for name, value in zip(node.output, self._compute(node), strict=False):
                if name:
                    self.computed[name] = value
                    self.seen[name] = _checked(name, value, self.observed[name]) if name in self.observed else value
        return self.computed

    def _begin(self, values: Mapping[str, Array]) -> None:
        self.computed.update(values)
        self.seen.update(values)

    def _compute(self, node: NodeProto) -> list[Array]:
        if _is(node, "QuantizeLinear"):
            return [self._quantize(node)]
        if _is(node, "DequantizeLinear"):
            return [self._dequantize(node)]
        attributes = ops.attributes_of(node)
        if node.domain in STANDARD_DOMAINS and node.op_type in _PRODUCTS:
            operands = [Operand(self.seen[name], self.lattices.get(name)) for name in node.input[:2]]
            bias = [self.seen[name] for name in node.input[2:] if name]
            return [_PRODUCTS[node.op_type](attributes, *operands, *(bias or _NO_BIAS[node.op_type]))]
        if node.domain in STANDARD_DOMAINS and node.op_type in _UNARY and len(node.output) == 1:
            try:
                return [_UNARY[node.op_type](attributes, self.seen[node.input[0]])]
            except ValueError as error:
                raise _unsupported(node, str(error)) from error
        return self._by_reference(node)

    def _quantize(self, node: NodeProto) -> Array:
        x, scale, zero_point, axis = self._scheme(node)
        if zero_point is None:
            dtype = ops.attributes_of(node).get("output_dtype", 0) or onnx.TensorProto.UINT8
            zero_point = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(dtype))
        if zero_point.dtype.kind not in "iu":
            raise _unsupported(node, f"steps of {zero_point.dtype} are not whole numbers")
        if np.isnan(x).any():
            raise InputError(f"tensor {node.input[0]!r} holds NaN", where=_where(node), why="it has no step")
        return ops.quantize(x, scale, zero_point, axis)

    def _dequantize(self, node: NodeProto) -> Array:
        x, scale, zero_point, axis = self._scheme(node)
        lattice = ops.dequantize(x, scale, zero_point, axis)
        self.lattices[node.output[0]] = lattice
        return lattice.values()

    def _scheme(self, node: NodeProto) -> tuple[Array, Array, Array | None, int | None]:
        """Input, scale, zero point and axis (None where one scale serves all) of a Q or DQ node."""
        attributes = ops.attributes_of(node)
        x, scale = self.seen[node.input[0]], self.seen[node.input[1]]
        zero_point = self.seen[node.input[2]] if len(node.input) > 2 and node.input[2] else None
        if attributes.get("block_size", 0) or scale.ndim > 1:
            raise _unsupported(node, "one scale per block of an axis is not implemented")
        one = scale.ndim == 0 or (scale.size == 1 and x.ndim == 0)
        axis = None if one else int(attributes.get("axis", 1)) % x.ndim
        if axis is not None and scale.size == 1:
            axis = None  # a vector of one scale: per tensor in all but its shape
        if axis is not None and scale.size != x.shape[axis]:
            raise _unsupported(node, f"{scale.size} scales for {x.shape[axis]} entries of axis {axis}")
        if axis is None:
            scale = scale.reshape(())
            zero_point = None if zero_point is None else zero_point.reshape(())
        return x, scale, zero_point, axis

    def _by_reference(self, node: NodeProto) -> list[Array]:
        """Any other operator, by the onnx package's own reference, floats in float64."""
        if any(each.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for each in node.attribute):
            raise _unsupported(node, "it holds a subgraph")
        if node.op_type in _FLATTENED and opset_of(self.model) < _FLATTENED_UNTIL:
            raise _unsupported(
                node, f"before opset {_FLATTENED_UNTIL} it flattens its input, and the reference does not"
            )
        names = list(dict.fromkeys(name for name in node.input if name))
        function = FunctionProto(name="node", domain="edgekit", opset_import=self.model.opset_import)
        function.input.extend(names)
        function.output.extend(name for name in node.output if name)
        function.node.append(node)
        try:
            evaluator = ReferenceEvaluator(function)
            results = iter(evaluator.run(None, {name: self.seen[name] for name in names}, {}))
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise _unsupported(node, f"{type(error).__name__}: {reason}") from error
        return [_promoted(np.asarray(next(results))) if name else np.empty(0) for name in node.output]


_PRODUCTS: dict[str, Callable[..., Array]] = {"Conv": ops.conv, "Gemm": ops.gemm, "MatMul": ops.matmul}
_NO_BIAS: dict[str, tuple[None, ...]] = {"Conv": (None,), "Gemm": (None,), "MatMul": ()}
_UNARY: dict[str, Callable[[Attributes, Array], Array]] = {
    "MaxPool": ops.max_pool,
    "AveragePool": ops.average_pool,
    "Gelu": ops.gelu,
}


def _promoted(value: Array) -> Array:
    """Floats of every width as float64; everything else as it is."""
    return value.astype(np.float64) if value.dtype.kind == "f" or value.dtype.name == "bfloat16" else value


def _checked(name: str, computed: Array, observed: Array) -> Array:
    if observed.shape != computed.shape or observed.dtype != computed.dtype:
        raise InputError(
            f"tensor {name!r} is {observed.dtype} {observed.shape}",
            where="integer reference",
            why=f"the model makes it {computed.dtype} {computed.shape}",
            fix="trace the very model that is checked",
        )
    return observed


def _distance(name: str, reference: Array, candidate: Array) -> Array:
    """Element by element, in whole steps: int64."""
    return np.abs(_checked(name, reference, candidate).astype(np.int64) - reference.astype(np.int64))


def _gap(model: ModelProto, name: str, reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> LayerGap:
    makers = {output: node for node in model.graph.node for output in node.output}
    wanted, got = reference[name], candidate[name]
    maker = makers.get(name)
    if wanted.dtype.kind in "iub":
        steps = _distance(name, wanted, got).astype(np.float64)
    else:
        got = _checked(name, wanted, _promoted(got))
        step = _step(makers, name, reference)
        with np.errstate(invalid="ignore"):  # an infinity equals itself, and else is infinitely far
            steps = np.where(got == wanted, 0.0, np.abs(got - wanted) / step)
    if maker is not None and _is(maker, "QuantizeLinear"):
        maker = makers.get(maker.input[0])
    largest = float(steps.max(initial=0.0))
    return LayerGap(
        tensor=name,
        operator=maker.op_type if maker is not None else "input",
        steps=math.inf if math.isnan(largest) else largest,
        apart=int((~(steps < 0.5)).sum()),
        elements=int(steps.size),
    )


def _step(makers: Mapping[str, NodeProto], name: str, reference: Mapping[str, Array]) -> Array:
    """What one step of a float tensor is worth, float64, broadcasting to it; see `LayerGap.steps`."""
    maker, moved = makers.get(name), False
    while maker is not None and maker.op_type in _MOVES:
        maker, moved = makers.get(maker.input[0]), True
    if maker is not None and _is(maker, "DequantizeLinear"):
        scale = reference[maker.input[1]]
        if scale.size == 1:
            return scale.reshape(())
        if not moved:
            dims = reference[name].ndim
            return ops.along(scale, int(ops.attributes_of(maker).get("axis", 1)) % dims, dims)
    values = reference[name][np.isfinite(reference[name])]
    spread = float(values.max() - values.min()) if values.size else 0.0
    return np.array(spread / _LEVELS or 1.0)  # a constant has no range: then absolute


def _is(node: NodeProto, op_type: str) -> bool:
    return bool(node.op_type == op_type and node.domain in _QDQ_DOMAINS)


def _where(node: NodeProto) -> str:
    return f"node {node.name or node.output[0]!r} ({node.op_type})"


def _unsupported(node: NodeProto, why: str) -> UnsupportedError:
    return UnsupportedError(
        "the integer reference cannot compute this node",
        where=_where(node),
        why=why,
        fix="compare two runtimes instead, or extend edgekit/graph/integer_ops.py",
    )
