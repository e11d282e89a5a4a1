"""Post-training quantization: from a float graph and samples to a prepared graph and a neutral `QuantSpec`.

`prepare` runs the data once for statistics; `PreparedGraph.spec` is pure, so that a search over which layers stay float
costs no run. The observer `auto` is chosen by what the quantized graph's outputs say of samples that the statistics
have not seen: each candidate runs them once more, and labels are never asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto

from edgekit.compress.calibration import MIN_SAMPLES, Calibration, Feeds, Need, calibrate
from edgekit.compress.equalize import Pair, equalize, find_pairs
from edgekit.compress.equalize import needs as equalisation_needs
from edgekit.compress.judge import Judge
from edgekit.compress.observers import (
    AUTO,
    DEFAULT_OBSERVER,
    HISTOGRAM,
    JUDGED,
    UNJUDGED,
    Observer,
    min_max,
    observer_named,
    percentile,
)
from edgekit.compress.statistics import ChannelMean
from edgekit.errors import UnsupportedError, UsageError
from edgekit.graph.graph import Graph
from edgekit.graph.integer_weights import quantize_weight
from edgekit.graph.layers import ATTENTION, Layer, data_inputs, find_carriers, find_layers, find_products, settled
from edgekit.graph.passes import check, infer_shapes
from edgekit.graph.quantspec import ActivationQuant, QuantSpec, WeightQuant
from edgekit.graph.wiring import Wiring, copy_of, replace_weight

Floats = npt.NDArray[np.float64]

MULTIPLIED = "attention's product: in int8 where the runtime gains by it, which it does not tell, so counted as float"
LEAST_APART = 4
"""Fewer samples say little of which observer is better."""


@dataclass(frozen=True)
class PtqOptions:
    """How to quantize.

    Attributes:
        observer: chooses clip ranges, see `observers.OBSERVERS`; `auto` tries those in `observers.JUDGED`.
        equalize: move scales between layers where that is exact.
        bias_correction: take the mean error of rounded weights out of each bias.
        per_channel: weights get a clip for every output channel.
        keep_float: patterns of node names or torch modules that stay float; each must match something.
        dynamic: activations get their ranges at run time.
    """

    observer: str = DEFAULT_OBSERVER
    equalize: bool = True
    bias_correction: bool = True
    per_channel: bool = True
    keep_float: tuple[str, ...] = ()
    dynamic: bool = False

    def __post_init__(self) -> None:
        if self.observer != AUTO:
            observer_named(self.observer)


@dataclass(frozen=True, eq=False)
class PreparedGraph:
    """A float graph that computes what its source does, rescaled for integers, and what calibration saw of it.

    Attributes:
        graph: the prepared graph.
        layers: what could run in int8, by node name.
        refused: compute nodes that cannot, with the reason.
        ranges: the clip range of each tensor that may become integers.
        divisors: what each channel of a rescaled tensor was divided by, float64 (channels,).
        means: channel means, float64 (channels,), of each layer's data, by node name.
        options: as asked, but for the observer, which is the chosen one where `auto` was asked.
        judged: the output error of each observer that `auto` tried, see `judge.output_error`; empty where none was.
    """

    graph: Graph
    layers: Mapping[str, Layer]
    refused: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    divisors: Mapping[str, Floats]
    means: Mapping[str, Floats]
    calibration: Calibration
    options: PtqOptions
    steps: tuple[str, ...] = field(default=())
    judged: Mapping[str, float] = field(default_factory=dict)

    def spec(self, keep_float: Collection[str] = ()) -> tuple[Graph, QuantSpec]:
        """The graph with corrected biases and its spec, without the nodes in `keep_float`.

        Raises:
            UnsupportedError: nothing is left to quantize.
        """
        wiring = Wiring(self.graph.model)
        refused = dict(self.refused) | dict.fromkeys(keep_float, "returned to float by the search")
        chosen = {name: layer for name, layer in self.layers.items() if name not in refused}
        while not self.options.dynamic:  # a tensor that was never exercised takes its layers out, and so on
            points = quantized_tensors(wiring, chosen.values(), find_carriers(wiring, chosen.values()))
            empty = {name for name in points if self.ranges[name][0] == self.ranges[name][1]}
            silent = [
                layer for layer in chosen.values() if layer.data in empty or settled(layer.output, wiring) in empty
            ]
            if not silent:
                break
            refused |= {layer.name: "the calibration data never exercised it: all zeros" for layer in silent}
            chosen = {name: layer for name, layer in chosen.items() if name not in refused}
        if not chosen:
            raise UnsupportedError(
                "nothing in this model can run in int8",
                where=next(iter(refused), "the graph"),
                why=next(iter(refused.values()), "it has no layers with weights"),
                fix="export it with a float precision",
            )
        carriers = () if self.options.dynamic else find_carriers(wiring, chosen.values())
        activations = {} if self.options.dynamic else self._activations(wiring, chosen.values(), carriers)
        products = [
            each.name
            for each in find_products(wiring, chosen.values())
            if refused.get(each.name) == ATTENTION and {each.left, each.right} <= set(activations)
        ]
        refused |= dict.fromkeys(products, MULTIPLIED)
        weights = {layer.weight: self._weight(wiring, layer) for layer in chosen.values()}
        graph = self._corrected(chosen.values(), weights) if self.options.bias_correction else self.graph
        return graph, QuantSpec(
            layers=tuple(chosen),
            carriers=tuple(node.name for node in carriers),
            products=tuple(products),
            activations=activations,
            weights=weights,
            float_nodes=refused,
            calibration_sha256=self.calibration.sha256,
            samples=self.calibration.samples,
            divisors={tensor: tuple(scales.tolist()) for tensor, scales in self.divisors.items()},
            dynamic=self.options.dynamic,
            steps=self.steps,
        )

    def _activations(
        self, wiring: Wiring, layers: Iterable[Layer], carriers: Iterable[NodeProto]
    ) -> dict[str, ActivationQuant]:
        points = sorted(quantized_tensors(wiring, layers, carriers))
        seen = [name for name in points if self.ranges[name][0] < self.ranges[name][1]]  # a product's may be all zeros
        return {name: ActivationQuant(*self.ranges[name], self.options.observer) for name in seen}

    def _weight(self, wiring: Wiring, layer: Layer) -> WeightQuant:
        values = np.abs(wiring.weight(layer.weight))
        axis = layer.axis if self.options.per_channel else None
        rest = tuple(i for i in range(values.ndim) if i != axis)
        clip = np.atleast_1d(values.max(axis=rest)).astype(np.float64)
        return WeightQuant(axis, tuple(float(size) if size > 0 else 1.0 for size in clip))

    def _corrected(self, layers: Iterable[Layer], weights: Mapping[str, WeightQuant]) -> Graph:
        model = copy_of(self.graph.model)
        for layer in layers:
            if layer.bias is not None and len(Wiring(model).consumers[layer.bias]) == 1:
                _correct_bias(model, layer, weights[layer.weight], self.means[layer.name])
        return self.graph.then("bias-correction", model)


def prepare(
    graph: Graph,
    samples: Iterable[Feeds],
    options: PtqOptions | None = None,
    least: int = MIN_SAMPLES,
    runtime: str = "onnxruntime",
) -> PreparedGraph:
    """Calibrate on `samples`, once, and rescale the graph for integers.

    Args:
        graph: a canonical float graph of opset 13 or later, shapes inferred.
        samples: input tensors by name. Of the observer `auto`, a part is held apart to judge on.
        runtime: whose dialect `auto` judges in.

    Raises:
        InputError: too few samples, or values that are no numbers.
        UnsupportedError: an opset whose integers have no channel axis, or `auto` finds nothing to quantize.
        UsageError: a pattern in `keep_float` matches nothing.
    """
    options = options or PtqOptions()
    _refuse_old_opset(graph)
    wiring = Wiring(graph.model)
    layers, refused = find_layers(wiring)
    products = [each.name for each in find_products(wiring, layers.values())]
    refused |= _kept(graph, [*layers, *products], options.keep_float)
    if options.dynamic:
        convolutions = [name for name, layer in layers.items() if layer.node.op_type == "Conv"]
        refused |= dict.fromkeys(convolutions, "ranges at run time pay for matrix products only")
    candidates = [layer for name, layer in layers.items() if name not in refused]
    points = quantized_tensors(wiring, candidates, find_carriers(wiring, candidates))
    pairs = find_pairs(wiring, candidates) if options.equalize else ()
    judging = options.observer == AUTO and not options.dynamic
    names = () if options.dynamic else JUDGED if judging else (options.observer,)
    observers = [observer_named(name) for name in names]
    calibration = calibrate(
        graph,
        [
            *(Need(tensor, observer.statistic) for tensor in points for observer in observers),
            *(Need(layer.data, _mean_of(layer)) for layer in candidates if options.bias_correction),
            *equalisation_needs(pairs),
        ],
        samples,
        least,
        hold_apart=judging,
    )
    rescaled = _rescaled(graph, candidates, refused, pairs, calibration, options)
    if options.dynamic:
        return replace(rescaled, steps=("observe:at run time", *rescaled.steps))
    each = [_observed(rescaled, points, observer, {pair.tensor: pair for pair in pairs}) for observer in observers]
    return _judged(graph, each, runtime) if judging else each[0]


def _refuse_old_opset(graph: Graph) -> None:
    if graph.opset < 13:
        raise UnsupportedError(
            f"opset {graph.opset} cannot hold weights that are quantized by channel",
            where="graph",
            why="DequantizeLinear has no `axis` before opset 13 (ONNX operator specification)",
            fix="convert the model to a later opset first; every target profile asks for one",
        )


def _rescaled(
    graph: Graph,
    candidates: Sequence[Layer],
    refused: Mapping[str, str],
    pairs: Sequence[Pair],
    calibration: Calibration,
    options: PtqOptions,
) -> PreparedGraph:
    """All but the ranges."""
    model, divisors = equalize(graph.model, pairs, calibration)
    prepared = graph.then("equalize", check(infer_shapes(model))) if pairs else graph
    means = {
        layer.name: calibration.of(layer.data, _mean_of(layer)) / divisors.get(layer.data, 1.0)
        for layer in candidates
        if options.bias_correction
    }
    rewired, _ = find_layers(Wiring(prepared.model))
    kept = {name: layer for name, layer in rewired.items() if name not in refused}
    steps: tuple[str, ...] = (f"equalize:{len(pairs)} tensors",) if pairs else ()
    steps += ("bias-correction",) if options.bias_correction else ()
    return PreparedGraph(prepared, kept, refused, {}, divisors, means, calibration, options, steps)


def _observed(
    rescaled: PreparedGraph, points: Collection[str], observer: Observer, pairs: Mapping[str, Pair]
) -> PreparedGraph:
    """With the observer's ranges."""
    ranges = {
        tensor: _range(tensor, observer, pairs.get(tensor), rescaled.divisors, rescaled.calibration)
        for tensor in points
    }
    options = replace(rescaled.options, observer=observer.name)
    return replace(rescaled, ranges=ranges, options=options, steps=(f"observe:{observer.name}", *rescaled.steps))


def _judged(graph: Graph, each: Sequence[PreparedGraph], runtime: str) -> PreparedGraph:
    """The candidate whose outputs deviate least on the samples that set no range."""
    apart = each[0].calibration.apart
    if len(apart) < LEAST_APART:
        taken = next(one for one in each if one.options.observer == UNJUDGED)
        why = f"auto:not judged, {each[0].calibration.samples} samples leave too few to hold apart"
        return replace(taken, steps=(why, *taken.steps))
    judge = Judge.of(graph, apart, runtime)
    errors = {one.options.observer: judge.error(*one.spec()) for one in each}
    best = min(each, key=lambda one: errors[one.options.observer])
    figures = ", ".join(f"{name} {error:.4g}" for name, error in errors.items())
    step = f"auto:output error of {figures} on {len(apart)} samples held apart"
    return replace(best, steps=(step, *best.steps), judged=errors)


def quantized_tensors(wiring: Wiring, layers: Iterable[Layer], carriers: Iterable[NodeProto]) -> set[str]:
    """The tensors that become integers in one dialect or another: operands, settled results, queries and keys."""
    layers = list(layers)
    points = {name for each in find_products(wiring, layers) for name in (each.left, each.right)}
    for layer in layers:
        points |= {layer.data, settled(layer.output, wiring)}
    for node in carriers:
        points |= set(data_inputs(node, wiring)) | {settled(name, wiring) for name in node.output if name}
    return points


def _range(
    tensor: str,
    observer: Observer,
    pair: Pair | None,
    divisors: Mapping[str, Floats],
    calibration: Calibration,
) -> tuple[float, float]:
    """The clip range; of a rescaled tensor from its channels' histograms, moving percentiles become plain ones."""
    if pair is None:
        return observer.choose(calibration.of(tensor, observer.statistic))
    channels = calibration.of(tensor, pair.statistic)
    histogram = channels.divided(divisors[tensor], HISTOGRAM.bins)
    choose = observer.choose if observer.statistic == HISTOGRAM else percentile
    low, high = choose(histogram)
    whole = min_max(histogram)
    return (low, high) if low < high else whole


def _correct_bias(model: ModelProto, layer: Layer, quant: WeightQuant, mean: Floats) -> None:
    """Take the expected error out of the bias: E[y] - E[y_q] = -(W_q - W) E[x].

    Nagel et al. (ICCV 2019), section 4.2; taps of a convolution are summed as if there were no border.
    """
    assert layer.bias is not None
    wiring = Wiring(model)
    values = wiring.weight(layer.weight).astype(np.float64)
    integers, scales = quantize_weight(values, quant)
    error = integers * scales - values
    if layer.node.op_type == "Conv":
        groups = layer.groups
        taps = error.reshape(groups, len(error) // groups, error.shape[1], -1).sum(axis=3)
        shift = (taps * mean.reshape(groups, 1, -1)).sum(axis=2).reshape(-1)
    else:
        shift = (error if layer.axis == 0 else error.T) @ mean
    replace_weight(model, layer.bias, (wiring.weight(layer.bias) - shift).astype(np.float32))


def _mean_of(layer: Layer) -> ChannelMean:
    return ChannelMean(1 if layer.node.op_type == "Conv" else -1)


def _kept(graph: Graph, layers: Sequence[str], patterns: tuple[str, ...]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for pattern in patterns:
        names = {name: origin.module for name, origin in graph.origins.items() if name in layers}
        matching = [n for n in layers if fnmatchcase(n, pattern) or (n in names and fnmatchcase(names[n], pattern))]
        if not matching:
            raise UsageError(
                f"keep_float: {pattern!r} matches no layer",
                where="[quantization] keep_float",
                why="neither a node nor a torch module is called so",
                fix="edgekit export --dry-run lists them; for example " + ", ".join(list(layers)[:3]),
            )
        kept |= dict.fromkeys(matching, f"kept float by {pattern!r}")
    return kept
