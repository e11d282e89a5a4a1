"""Decides which nodes keep float32 in an fp16 graph, and says why. `half.py` writes what is decided here.

fp16 has 11 significant bits, ends at 65504 and has no whole numbers beyond 2048 of which it skips none (IEEE 754-2019,
3.3). Sums, exponentials, statistics of norms and pixel coordinates need more, wherever the exporter has taken them
apart; products of matrices do not, for their sums are fp32 inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from edgekit.graph.end_to_end import PREFIX
from edgekit.graph.wiring import Wiring

_SUMS = frozenset(
    {
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("ReduceProd", "CumSum"),
    }
)
# Operators by what they do to values; results of the wide ones span more than fp16 does.
_WIDE = frozenset({*_SUMS, "Exp", "Pow", "Reciprocal"})
# Sums over many elements and exponentials overflow or lose digits in fp16, and positions lose pixels; the rest of the
# list fixes its own types.
ISLANDS = frozenset(
    {
        *("Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization"),
        *("RMSNormalization", "LpNormalization", "MeanVarianceNormalization"),
        *(*_WIDE, "Log", "Softplus", "GridSample", "RoiAlign", "DeformConv"),
        *("NonMaxSuppression", "Scan", "Loop", "If", "Cast", "CastLike", "Constant", "ConstantOfShape", "Range"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "EyeLike"),
        "DynamicQuantizeLinear",
    }
)
# Of these, the ones whose results show a rounding of what they read: e^x, states that add up, positions, whole numbers.
_SENSITIVE = frozenset(
    {
        *("Exp", "Softmax", "LogSoftmax", "Scan", "Loop", "If", "CumSum", "Cast", "Range"),
        *("GridSample", "RoiAlign", "DeformConv", "NonMaxSuppression"),
    }
)
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_PRODUCTS = frozenset(
    {
        *("Conv", "ConvTranspose", "ConvInteger", "Gemm", "MatMul", "MatMulInteger", "Einsum", "Attention"),
        *("LSTM", "GRU", "RNN", "DeformConv", "Loop", "Scan"),
    }
)
_MOVERS = frozenset(
    {
        *("Reshape", "Transpose", "Concat", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Split"),
        *("Gather", "GatherND", "GatherElements", "Tile", "DepthToSpace", "SpaceToDepth", "TopK"),
    }
)
# Elementwise, and exact on halves: their results are halves already. The slopes of leaky ones stay with their product.
_EXACT = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip", "Max", "Min", "Abs", "Neg", "Where", "Sign"})
_ROUNDING = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log", "Reciprocal", "Sum", "Mean", "Mod", "Erf"),
        *("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softplus", "Softsign", "Elu", "Selu", "Celu", "Gelu"),
        *("Mish", "Swish", "Sin", "Cos", "Tan", "Floor", "Ceil", "Round"),
    }
)
_ELEMENTWISE = _EXACT | _ROUNDING
_LARGEST = float(np.finfo(np.float16).max)
_HALF_STEP = 2.0**-11
"""Relative error of a rounding to a normal fp16 number, at most."""


def islands(model: ModelProto, floats: set[str]) -> dict[int, str]:
    """Index of each top-level node that keeps float32, with the reason.

    The rules, in order; the last two are applied until nothing changes:

    * operator: the node's operator is in `ISLANDS`.
    * constant: fp16 cannot hold a number that it reads: beyond 65504, off by a whole unit (grids of coordinates), or a
      lone number that loses digits or vanishes (the epsilons of norms).
    * decode: what follows the last product with weights on the way to the outputs, from its first rounding operator
      on: box coordinates arise there. So do the nodes that `--end-to-end` appends, and the expectation over a softmax
      that gives a box's sides (arXiv 2006.04388, eq. 5). A bias and an exact activation stay with their product, and so
      does what is quantized next.
    * range: elementwise on what a sum, an exponential, a power or a reciprocal gave, up to and with the operator that
      applies it to something else; and squares that are summed. Norms and softmax that torch took apart are this.
    * between: elementwise and read by islands only, one of which shows how its operand was rounded. A norm does not:
      else a whole residual stream would be drawn in.

    Args:
        model: with types and shapes.
        floats: the names of its float32 tensors; nodes that touch none are left out.
    """
    return _Islands(model, floats).run()


def read_names(node: NodeProto) -> set[str]:
    """The tensors that `node` reads, those that its subgraphs capture included."""
    inner = [name for a in node.attribute for child in a.g.node for name in read_names(child)]
    return {*node.input, *inner} - {""}


@dataclass
class _Islands:
    model: ModelProto
    floats: set[str]
    reasons: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes: list[NodeProto] = list(self.model.graph.node)
        self.wiring = Wiring(self.model)
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in read_names(node):
                self.readers.setdefault(name, []).append(i)

    def run(self) -> dict[int, str]:
        for i, node in enumerate(self.nodes):
            if not self.floats.isdisjoint((*node.input, *node.output)):
                if node.op_type in ISLANDS:
                    self.reasons[i] = "operator"
                elif node.name.startswith(PREFIX) or self._is_expectation(node):
                    self.reasons[i] = "decode"
                elif node.op_type not in _QUANTIZERS and any(self._breaks(node, name) for name in node.input):
                    self.reasons[i] = "constant"
        self._decode()
        before = -1
        while before != len(self.reasons):
            before = len(self.reasons)
            self._range()
            self._between()
        return self.reasons

    def _decode(self) -> None:
        for i, node in enumerate(self.nodes):
            if i not in self.tail or i in self.reasons or not self._is_free(node):
                continue
            starts = node.op_type in _ROUNDING and not self._is_bias(node)
            if starts or any(made in self.reasons and made in self.tail for made in self._makers(node)):
                self.reasons[i] = "decode"

    def _range(self) -> None:
        wide: set[str] = set()
        for i, node in enumerate(self.nodes):
            read = [name for name in node.input if name in self.floats and name not in self.wiring.weights]
            found = [name for name in read if name in wide]
            if node.op_type in _WIDE or (found and len(found) == len(read) and self._carries(node)):
                wide |= {name for name in node.output if name in self.floats}
                self.reasons.setdefault(i, "range")
            elif (found and node.op_type in _ELEMENTWISE) or self._is_summed_square(node):
                self.reasons.setdefault(i, "range")

    def _is_summed_square(self, node: NodeProto) -> bool:
        square = node.op_type == "Mul" and node.input[0] == node.input[1]
        return square and any(self.nodes[j].op_type in _SUMS for j in self.readers.get(node.output[0], []))

    def _between(self) -> None:
        for i, node in reversed(list(enumerate(self.nodes))):
            if i in self.reasons or not self._carries(node) or self._is_bias(node) or not self._is_free(node):
                continue
            readers = [j for name in node.output for j in self.readers.get(name, [])]
            if any(j not in self.reasons for j in readers) or not any(self._shows_rounding(j) for j in readers):
                continue
            made_half = any(made not in self.reasons for made in self._makers(node))
            if made_half and (node.op_type in _MOVERS or self._follows_product(node)):
                continue
            self.reasons[i] = "between"

    def _shows_rounding(self, index: int) -> bool:
        return self.nodes[index].op_type in _SENSITIVE or self.reasons.get(index) in ("between", "decode")

    @cached_property
    def tail(self) -> frozenset[int]:
        """What products lead to, and what leads to no product."""
        after: set[int] = set()
        for i, node in enumerate(self.nodes):
            makers = {self.maker[name] for name in node.input if name in self.maker}
            if any(made in after or self._is_product(self.nodes[made]) for made in makers):
                after.add(i)
        before: set[int] = set()
        for i, node in reversed(list(enumerate(self.nodes))):
            readers = [j for name in node.output for j in self.readers.get(name, [])]
            if any(j in before or self._is_product(self.nodes[j]) for j in readers):
                before.add(i)
        return frozenset(i for i in after - before if not self._is_product(self.nodes[i]))

    def _is_product(self, node: NodeProto) -> bool:
        return node.op_type in _PRODUCTS and not self._is_expectation(node)

    def _is_expectation(self, node: NodeProto) -> bool:
        """A convolution to one channel that reads a softmax: the mean of a distribution over distances."""
        if node.op_type != "Conv" or node.input[1] not in self.wiring.weights:
            return False
        return self.wiring.weights[node.input[1]].dims[0] == 1 and self._comes_from(node.input[0], "Softmax")

    def _comes_from(self, name: str, op: str) -> bool:
        made = self.maker.get(name)
        while made is not None and self.nodes[made].op_type in _MOVERS:
            made = self.maker.get(self.nodes[made].input[0])
        return made is not None and self.nodes[made].op_type == op

    def _breaks(self, node: NodeProto, name: str) -> bool:
        """Whether the constant `name` is no longer itself in fp16."""
        tensor = self.wiring.weights.get(name)
        if tensor is None or name not in self.floats or not any(tensor.dims or (1,)):
            return False
        exact = numpy_helper.to_array(tensor).astype(np.float64)
        if np.abs(exact).max(initial=0) > _LARGEST:
            return node.op_type != "Resize"
        if node.op_type not in _ELEMENTWISE:
            return False
        lost = np.abs(exact.astype(np.float16).astype(np.float64) - exact)
        digits = exact.size == 1 and lost.max(initial=0) > _HALF_STEP * np.abs(exact).max(initial=0)
        return bool(digits or lost.max(initial=0) >= 1)

    def _is_bias(self, node: NodeProto) -> bool:
        """A vector that is added to a product."""
        vectors = [name for name in node.input if name in self.wiring.weights and len(self.wiring.shapes[name]) == 1]
        return node.op_type == "Add" and bool(vectors) and self._follows_product(node)

    def _follows_product(self, node: NodeProto) -> bool:
        """Whether a product's kernel could compute the node as well."""
        fused = node.op_type in _EXACT or node.op_type == "Add"
        return fused and any(self.nodes[made].op_type in _PRODUCTS for made in self._makers(node))

    def _is_free(self, node: NodeProto) -> bool:
        """Whether no QuantizeLinear follows: integers are coarser than halves, and the kernels meet there."""
        readers = [self.nodes[j].op_type for name in node.output for j in self.readers.get(name, [])]
        return not self.floats.isdisjoint(node.output) and "QuantizeLinear" not in readers

    def _carries(self, node: NodeProto) -> bool:
        return node.op_type in _ELEMENTWISE or node.op_type in _MOVERS

    def _makers(self, node: NodeProto) -> list[int]:
        """The nodes that compute the float tensors which `node` reads."""
        return [self.maker[name] for name in node.input if name in self.maker and name in self.floats]
