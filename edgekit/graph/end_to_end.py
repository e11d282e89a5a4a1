"""Appends a detector's decode and suppression to its graph: the device then reads finished boxes.

The canonical graph goes without; this is the variant for devices on which the host's share costs more than it is
worth. Every operator is of opset 20 and in TensorRT's list, where `NonMaxSuppression` becomes its INMSLayer. How many
boxes survive depends on the data, so the survivors are scattered into a mask over all anchors, and the best rows of
that have a fixed number: no shape that depends on data leaves the graph.

Every node and tensor is named `end_to_end/...`: they stay float32 in every precision (centres of boxes need more than
the 11 bits of half precision, and e^20 overflows it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.errors import UsageError
from edgekit.graph.graph import Graph
from edgekit.graph.passes import check, infer_shapes
from edgekit.processing.decode import LARGEST_EXPONENT
from edgekit.processing.detect import AXES
from edgekit.spec import DetectionPostprocess, ModelSpec, TensorSpec

PREFIX = "end_to_end/"
"""What the names of all nodes and inner tensors here begin with."""
OUTPUT = "detections"
MOST_ROWS = 3839
"""TensorRT's TopK takes a `K` below 3840 (onnx/onnx-tensorrt docs/operators.md, branch 10.1-GA)."""
_EMPTY = (0.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def with_detections(graph: Graph, spec: ModelSpec) -> tuple[Graph, ModelSpec]:
    """Append decode and class-wise suppression, as `edgekit.processing` does them in numpy.

    The new last output `detections`, float32 (n, k, 6), holds x1 y1 x2 y2 in pixels of the input, score and label,
    best first; k is `max_detections`, or the number of anchors where that is less. Rows beyond what was found are
    0 0 0 0 0 -1. A detection with a score of exactly 0 is such a row. A cell that holds NaN scores infinity, so that
    reading the row raises, as reading the raw outputs would. The raw outputs stay.

    Among equal scores ONNX Runtime takes the first anchor first, as numpy does; OpenVINO and TensorRT promise nothing.
    TensorRT considers the best 5000 candidates of a picture (INMSLayer, TopK box limit).

    Raises:
        UsageError: the model is no detector, ends in detections already, has outputs of open sizes or a tensor called
            `detections`, or finds more than TensorRT can rank.
    """
    post = spec.postprocess
    if not isinstance(post, DetectionPostprocess) or post.decode not in _DECODERS:
        raise UsageError(
            "--end-to-end needs a detector",
            where=spec.name,
            why="its graph ends in detections already"
            if isinstance(post, DetectionPostprocess)
            else f"its task is {spec.task}: there are no boxes to decode",
            fix="declare how its outputs are laid out in [model] postprocess, or leave --end-to-end away",
        )
    outputs = _raw_outputs(spec, post)
    taken = {name for node in graph.model.graph.node for name in node.output}
    if OUTPUT in taken | {tensor.name for tensor in (*spec.inputs, *spec.outputs)}:
        raise UsageError(
            f"the graph has a tensor called {OUTPUT!r} already",
            where=spec.name,
            why="--end-to-end adds an output of that name",
            fix="rename it, or leave --end-to-end away",
        )
    tail = _Tail()
    decoded = _DECODERS[post.decode](tail, post, outputs)
    rows = min(post.max_detections, decoded.anchors)
    if rows > MOST_ROWS:
        raise UsageError(
            f"--end-to-end cannot rank {rows} detections",
            where=f"{spec.name}: postprocess.max_detections",
            why=f"TensorRT's TopK returns at most {MOST_ROWS}",
            fix=f"max_detections = {MOST_ROWS} or less",
        )
    _suppress(tail, post, decoded, rows)
    batch = outputs[0].shape[0]
    model = _append(graph.model, tail, (batch, rows, 6))
    ended = replace(post, outputs=(OUTPUT,), decode="detections")
    tensor = TensorSpec(OUTPUT, "float32", (batch, rows, 6))
    told = replace(spec, outputs=(*spec.outputs, tensor), postprocess=ended)
    return graph.then("end-to-end", check(infer_shapes(model))), told


@dataclass
class _Tail:
    """Nodes and constants in the making; each call returns the name of the tensor that it makes."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.split(op, inputs, name, [PREFIX + name], **attributes)
        return PREFIX + name

    def split(self, op: str, inputs: Sequence[str], name: str, outputs: list[str], **attributes: Any) -> list[str]:
        self.nodes.append(helper.make_node(op, inputs, outputs, PREFIX + name, **attributes))
        return outputs

    def floats(self, name: str, values: npt.ArrayLike) -> str:
        return self._constant(name, np.asarray(values, np.float32))

    def integers(self, name: str, values: npt.ArrayLike) -> str:
        return self._constant(name, np.asarray(values, np.int64))

    def channels(self, tensor: str, sizes: dict[str, int]) -> list[str]:
        """`tensor` (n, channels, anchors) in parts of these sizes, named by the keys."""
        counts = self.integers("sizes", list(sizes.values()))
        return self.split("Split", [tensor, counts], "split", [PREFIX + name for name in sizes], axis=1)

    def _constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(values, PREFIX + name))
        return PREFIX + name


class _Decoded(NamedTuple):
    """Names of tensors: boxes float32 (n, anchors, 4), corners; the best class's score float32 and label int64, both
    (n, 1, anchors); and float32 (n, any, anchors) in which a NaN spoils its anchor."""

    boxes: str
    scores: str
    labels: str
    numbers: str
    classes: int
    anchors: int


def _yolox_grid(tail: _Tail, post: DetectionPostprocess, outputs: Sequence[TensorSpec]) -> _Decoded:
    classes, height, width = _sizes(outputs[0], extra=5)
    cells = _flat(tail, outputs[0])
    offsets, sizes, objectness, logits = tail.channels(
        cells, {"offsets": 2, "log_sizes": 2, "objectness": 1, "logits": classes}
    )
    best, labels = _best(tail, logits)
    scores = tail.add(
        "Mul",
        [tail.add("Sigmoid", [objectness], "object_score"), tail.add("Sigmoid", [best], "class_score")],
        "scores",
    )
    bounded = tail.add("Min", [sizes, tail.floats("largest_exponent", LARGEST_EXPONENT)], "bounded")
    half = tail.add(
        "Mul", [tail.add("Exp", [bounded], "exp"), tail.floats("half_stride", post.stride / 2)], "half_sizes"
    )
    boxes = _corners(tail, _centres(tail, offsets, height, width, post.stride), half)
    return _Decoded(boxes, scores, labels, cells, classes, height * width)


def _fastestdet_grid(tail: _Tail, post: DetectionPostprocess, outputs: Sequence[TensorSpec]) -> _Decoded:
    classes, height, width = _sizes(outputs[0], extra=5)
    cells = _flat(tail, outputs[0])
    objectness, offsets, sizes, probabilities = tail.channels(
        cells, {"objectness": 1, "raw_offsets": 2, "raw_sizes": 2, "probabilities": classes}
    )
    best, labels = _best(tail, probabilities)
    scores = tail.add(
        "Mul",
        [
            tail.add("Pow", [objectness, tail.floats("object_power", 0.6)], "object_score"),
            tail.add("Pow", [best, tail.floats("class_power", 0.4)], "class_score"),
        ],
        "scores",
    )
    input_size = np.array([[[width * post.stride / 2], [height * post.stride / 2]]])
    half = tail.add(
        "Mul", [tail.add("Sigmoid", [sizes], "relative_sizes"), tail.floats("half_input", input_size)], "half_sizes"
    )
    moved = tail.add("Tanh", [offsets], "offsets")
    boxes = _corners(tail, _centres(tail, moved, height, width, post.stride), half)
    return _Decoded(boxes, scores, labels, cells, classes, height * width)


def _yolov8_rows(tail: _Tail, _: DetectionPostprocess, outputs: Sequence[TensorSpec]) -> _Decoded:
    classes, anchors = _sizes(outputs[0], extra=4)
    cells = _as_float(tail, outputs[0])
    centres, sizes, probabilities = tail.channels(cells, {"centres": 2, "box_sizes": 2, "probabilities": classes})
    scores, labels = _best(tail, probabilities)
    half = tail.add("Mul", [sizes, tail.floats("half", 0.5)], "half_sizes")
    return _Decoded(_corners(tail, centres, half), scores, labels, cells, classes, anchors)


def _boxes_scores(tail: _Tail, _: DetectionPostprocess, outputs: Sequence[TensorSpec]) -> _Decoded:
    classes, anchors = _sizes(outputs[1], extra=0)
    boxes, probabilities = (_as_float(tail, output) for output in outputs)
    scores, labels = _best(tail, probabilities)
    numbers = tail.add(
        "Concat", [tail.add("Transpose", [boxes], "corners", perm=[0, 2, 1]), probabilities], "numbers", axis=1
    )
    return _Decoded(boxes, scores, labels, numbers, classes, anchors)


_DECODERS: dict[str, Callable[[_Tail, DetectionPostprocess, Sequence[TensorSpec]], _Decoded]] = {
    "yolox-grid": _yolox_grid,
    "fastestdet-grid": _fastestdet_grid,
    "yolov8-rows": _yolov8_rows,
    "boxes-scores": _boxes_scores,
}


def _best(tail: _Tail, classes: str) -> tuple[str, str]:
    """The largest of (n, classes, anchors) over the classes, and the first class that has it; (n, 1, anchors) each."""
    best = tail.add("ReduceMax", [classes, tail.integers("class_axis", [1])], "best", keepdims=1)
    return best, tail.add("ArgMax", [classes], "labels", axis=1, keepdims=1)


def _centres(tail: _Tail, offsets: str, height: int, width: int, stride: int) -> str:
    """(offset + (column, row)) * stride, (n, 2, anchors)."""
    row, column = np.divmod(np.arange(height * width), width)
    cell = tail.add("Add", [offsets, tail.floats("grid", np.stack([column, row])[None])], "cells")
    return tail.add("Mul", [cell, tail.floats("stride", stride)], "centres")


def _corners(tail: _Tail, centres: str, half: str) -> str:
    """Centres and half sizes, (n, 2, anchors) each, as corners (n, anchors, 4)."""
    ends = [tail.add("Sub", [centres, half], "low_corners"), tail.add("Add", [centres, half], "high_corners")]
    return tail.add("Transpose", [tail.add("Concat", ends, "corners", axis=1)], "boxes", perm=[0, 2, 1])


def _suppress(tail: _Tail, post: DetectionPostprocess, decoded: _Decoded, rows: int) -> None:
    """From candidates to `detections`.

    Runtimes differ in whether a score at the threshold passes, so the threshold is applied here, and
    `NonMaxSuppression` gets half of it: it separates candidates from zeros either way. An anchor has one label, so the
    survivors of all classes fit into one mask over the anchors.
    """
    zero = tail.floats("zero", 0.0)
    ranked = _ranked(tail, post, decoded, zero)
    numbers = tail.integers("class_numbers", np.arange(decoded.classes).reshape(1, -1, 1))
    own = tail.add("Equal", [decoded.labels, numbers], "own_class")
    limits = [
        tail.integers("most_of_a_class", [rows]),
        tail.floats("iou_threshold", [post.iou_threshold]),
        tail.floats("score_floor", [post.score_threshold / 2]),
    ]
    by_class = tail.add("Where", [own, ranked, zero], "scores_by_class")
    kept = tail.add("NonMaxSuppression", [decoded.boxes, by_class, *limits], "kept")
    flat = tail.add("Squeeze", [ranked, tail.integers("squeezed", [1])], "ranked_flat")
    alive = tail.add("Where", [_mask(tail, kept, flat), flat, zero], "alive")
    best, order = tail.split(
        "TopK",
        [alive, tail.integers("rows", [rows])],
        "best_rows",
        [PREFIX + "row_scores", PREFIX + "row_anchors"],
        axis=1,
        largest=1,
        sorted=1,
    )
    last = tail.integers("last_axis", [2])
    as_float = tail.add("Cast", [decoded.labels], "float_labels", to=TensorProto.FLOAT)
    columns = [
        decoded.boxes,
        tail.add("Unsqueeze", [alive, last], "score_column"),
        tail.add("Transpose", [as_float], "label_column", perm=[0, 2, 1]),
    ]
    table = tail.add("Concat", columns, "table", axis=2)
    places = tail.add("Unsqueeze", [order, last], "row_places")
    chosen = tail.add("GatherND", [table, places], "chosen", batch_dims=1)
    found = tail.add("Greater", [tail.add("Unsqueeze", [best, last], "row_score_column"), zero], "found")
    tail.split("Where", [found, chosen, tail.floats("empty_row", _EMPTY)], OUTPUT, [OUTPUT])


def _ranked(tail: _Tail, post: DetectionPostprocess, decoded: _Decoded, zero: str) -> str:
    """Scores (n, 1, anchors), 0 below the threshold, infinite where the model gave NaN."""
    enough = tail.add(
        "GreaterOrEqual", [decoded.scores, tail.floats("score_threshold", post.score_threshold)], "enough"
    )
    passed = tail.add("Where", [enough, decoded.scores, zero], "passed")
    sums = tail.add("ReduceSum", [decoded.numbers, tail.integers("sum_axis", [1])], "sums", keepdims=1)
    spoilt = tail.add("IsNaN", [sums], "spoilt")
    return tail.add("Where", [spoilt, tail.floats("infinity", math.inf), passed], "ranked")


def _mask(tail: _Tail, kept: str, like: str) -> str:
    """Booleans of the shape of `like`, (n, anchors): true where `kept`, int64 (any, 3), names picture and anchor.

    The ones to scatter are computed from `kept`, so that nothing has to ask for a shape that depends on data. The
    attribute `reduction` stays away: TensorRT's parser refuses it before 10.9, its default too
    (microsoft/onnxruntime#23618).
    """
    places = tail.add("Gather", [kept, tail.integers("picture_and_anchor", [0, 2])], "places", axis=1)
    anchor = tail.add("Gather", [kept, tail.integers("anchor", 2)], "kept_anchors", axis=1)
    there = tail.add("GreaterOrEqual", [anchor, tail.integers("first_anchor", 0)], "there")
    ones = tail.add("Cast", [there], "ones", to=TensorProto.FLOAT)
    blank = tail.add("ConstantOfShape", [tail.add("Shape", [like], "shape")], "blank")
    return tail.add("Cast", [tail.add("ScatterND", [blank, places, ones], "mask")], "survives", to=TensorProto.BOOL)


def _flat(tail: _Tail, output: TensorSpec) -> str:
    """A map (n, channels, h, w) as (n, channels, h * w)."""
    channels, height, width = output.shape[1:]
    shape = tail.integers("flat_shape", [0, channels, int(height) * int(width)])  # 0 keeps the batch
    return tail.add("Reshape", [_as_float(tail, output), shape], "flat")


def _as_float(tail: _Tail, output: TensorSpec) -> str:
    if output.dtype == "float32":
        return output.name
    return tail.add("Cast", [output.name], f"{output.name}_float", to=TensorProto.FLOAT)


def _sizes(output: TensorSpec, extra: int) -> tuple[int, ...]:
    """The sizes after the batch, the first without the `extra` channels that are no classes."""
    channels, *rest = (int(dim) for dim in output.shape[1:])
    return (channels - extra, *rest)


def _raw_outputs(spec: ModelSpec, post: DetectionPostprocess) -> list[TensorSpec]:
    """The outputs that the decode reads; all their sizes but the batch are known."""
    known = {tensor.name: tensor for tensor in spec.outputs}
    for name, axes in zip(post.outputs, AXES[post.decode], strict=True):
        shape = known[name].shape if name in known else ()
        if len(shape) != axes or any(isinstance(dim, str) for dim in shape[1:]):
            raise UsageError(
                f"--end-to-end needs an output {name!r} of {axes} axes and known sizes",
                where=spec.name,
                why=f"its shape is {shape}" if shape else "the model has no such output",
                fix="fix the sizes of the input with [model] shapes, or leave --end-to-end away",
            )
    return [known[name] for name in post.outputs]


def _append(model: ModelProto, tail: _Tail, shape: tuple[int | str, ...]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(tail.nodes)
    copy.graph.initializer.extend(tail.constants)
    copy.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, list(shape)))
    return copy
