"""Equalisation: moving scales between neighbouring layers, so that all channels of a tensor use its integers well.

Dividing channel c of a tensor by s_c and multiplying the weights that read it by s_c changes nothing in real numbers,
where only a positively homogeneous function lies between. Between convolutions this is cross-layer equalisation
(Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019, section 4.1); from
a layer normalization into a linear layer it is SmoothQuant (Xiao et al., ICML 2023, equation 4):
s_c = a_c^alpha / w_c^(1 - alpha), a the activation's and w the weights' largest magnitude of the channel.

Into a depthwise convolution the move is free: its weights have a clip for every channel anyway, so alpha is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgekit.compress.calibration import Calibration, Need
from edgekit.compress.statistics import ChannelHistogramsOf
from edgekit.graph.layers import Layer
from edgekit.graph.wiring import Wiring, copy_of, replace_weight

Floats = npt.NDArray[np.float64]

ALPHA = 0.5
"""SmoothQuant, section 4: one half suits most models."""
SMALLEST, LARGEST = 1e-3, 1e3
"""Beyond these, float32 weights would lose digits for channels that hardly occur."""


@dataclass(frozen=True)
class Pair:
    """A tensor whose channels may be rescaled.

    Attributes:
        tensor: between producer and consumers.
        axis: of its channels.
        producers: initializers whose output channels (axis by name) are divided: weight and bias, or gain and shift.
        consumers: the layers that read it.
    """

    tensor: str
    axis: int
    producers: Mapping[str, int]
    consumers: tuple[Layer, ...]

    @property
    def statistic(self) -> ChannelHistogramsOf:
        """What calibration has to collect at the tensor."""
        return ChannelHistogramsOf(self.axis)

    def is_free(self, wiring: Wiring) -> bool:
        """Whether every consumer is depthwise, so that it has a clip of its own for each of these channels."""
        return all(layer.groups > 1 and wiring.weights[layer.weight].dims[1] == 1 for layer in self.consumers)


def find_pairs(wiring: Wiring, layers: Sequence[Layer]) -> tuple[Pair, ...]:
    """The tensors between `layers`, or between a layer normalization and them, that can be rescaled exactly."""
    by_output = {layer.output: layer for layer in layers}
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        readers.setdefault(layer.data, []).append(layer)
    pairs = []
    for tensor, consumers in readers.items():
        if len(wiring.consumers[tensor]) != len(consumers) or tensor in wiring.outputs:
            continue
        axis = _channel_axis(consumers[0])
        if not all(_scalable(layer, wiring) and _channel_axis(layer) == axis for layer in consumers):
            continue
        found = _producers(tensor, axis, wiring, by_output)
        if found and all(len(wiring.consumers[name]) == 1 for name in found):
            pairs.append(Pair(tensor, axis, found, tuple(consumers)))
    return tuple(pairs)


def needs(pairs: Sequence[Pair]) -> list[Need]:
    """What calibration has to collect for `equalize`."""
    return [Need(pair.tensor, pair.statistic) for pair in pairs]


def equalize(
    model: ModelProto, pairs: Sequence[Pair], calibration: Calibration, alpha: float = ALPHA
) -> tuple[ModelProto, dict[str, Floats]]:
    """A model that computes the same in real numbers, and the divisors, float64 (channels,), by tensor."""
    copy = copy_of(model)
    divisors: dict[str, Floats] = {}
    for pair in pairs:
        wiring = Wiring(copy)
        seen = calibration.of(pair.tensor, pair.statistic).largest
        scales = _scales(pair, seen, wiring, alpha)
        for name, axis in pair.producers.items():
            replace_weight(copy, name, _scaled(wiring.weight(name), 1 / scales, axis))
        for layer in pair.consumers:
            replace_weight(copy, layer.weight, _scale_input(layer, wiring.weight(layer.weight), scales))
        divisors[pair.tensor] = scales
    return copy, divisors


def _scales(pair: Pair, activation: Floats, wiring: Wiring, alpha: float) -> Floats:
    weight = np.max([_input_magnitude(layer, wiring.weight(layer.weight)) for layer in pair.consumers], axis=0)
    used = (activation > 0) & (weight > 0)
    if not used.any():
        return np.ones(len(activation))
    power = 1.0 if pair.is_free(wiring) else alpha
    raw = np.where(used, activation, 1.0) ** power / np.where(used, weight, 1.0) ** (1 - power)
    centred = raw / np.exp(np.log(raw[used]).mean())
    return np.where(used, np.clip(centred, SMALLEST, LARGEST), 1.0)


def _channel_axis(layer: Layer) -> int:
    """Of what the layer reads and of what it computes."""
    return 1 if layer.node.op_type == "Conv" else -1


def _producers(tensor: str, axis: int, wiring: Wiring, by_output: Mapping[str, Layer]) -> dict[str, int]:
    """The initializers to divide, with their axis; empty where `axis` of `tensor` cannot be rescaled there."""
    node = wiring.producers.get(tensor)
    if node is not None and node.op_type == "Relu" and wiring.only_consumer(node.input[0]) is not None:
        tensor = str(node.input[0])
        node = wiring.producers.get(tensor)
    layer = by_output.get(tensor)
    if layer is not None:
        if _channel_axis(layer) != axis:
            return {}
        return {layer.weight: layer.axis} | ({layer.bias: -1} if layer.bias else {})
    if node is not None and node.op_type == "LayerNormalization" and len(node.output) == 1 and axis == -1:
        names = [name for name in node.input[1:] if name]
        return dict.fromkeys(names, -1) if all(name in wiring.weights for name in names) else {}
    return {}


def _scalable(layer: Layer, wiring: Wiring) -> bool:
    return len(wiring.consumers[layer.weight]) == 1


def _scaled(values: npt.NDArray[np.float32], scales: Floats, axis: int) -> npt.NDArray[np.float32]:
    shape = [1] * values.ndim
    shape[axis] = -1
    return (values.astype(np.float64) * scales.reshape(shape)).astype(np.float32)


def _grouped(layer: Layer, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The weight as (groups, outputs, inputs, taps): input channel g * inputs + i is [g, :, i]."""
    if layer.node.op_type != "Conv":
        rows = values if layer.axis == 0 else values.T
        return rows.reshape(1, *rows.shape, 1)
    groups = layer.groups
    return values.reshape(groups, len(values) // groups, values.shape[1], -1)


def _input_magnitude(layer: Layer, values: npt.NDArray[np.float32]) -> Floats:
    grouped = np.abs(_grouped(layer, values)).max(axis=(1, 3))
    magnitudes: Floats = grouped.reshape(-1).astype(np.float64)
    return magnitudes


def _scale_input(layer: Layer, values: npt.NDArray[np.float32], scales: Floats) -> npt.NDArray[np.float32]:
    grouped = _grouped(layer, values)
    by_channel = scales.reshape(grouped.shape[0], 1, grouped.shape[2], 1)
    scaled = (grouped.astype(np.float64) * by_channel).astype(np.float32)
    if layer.node.op_type != "Conv" and layer.axis == 1:
        return np.ascontiguousarray(scaled.reshape(values.T.shape).T)
    return scaled.reshape(values.shape)
