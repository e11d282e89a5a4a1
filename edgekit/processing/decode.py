"""From the raw outputs of detectors to candidate boxes: one function a layout, and the table of them.

All filter by score before they compute boxes, because nearly every cell is background. A candidate carries one label,
its best class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekit.spec import DetectionPostprocess

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_LOGIT_MARGIN = 1e-3  # a first, cheap selection may let too much through, but nothing too little
LARGEST_EXPONENT = 20.0  # e^20 cells: beyond any picture, and areas still fit float32
_SMALLEST_LOGIT = -80.0  # sigmoid(-80) = 2e-35; e^89 would overflow float32


class Candidates(NamedTuple):
    """Boxes float32 (n, 4), corners in input pixels; scores float32 (n,); labels int64 (n,)."""

    boxes: Floats
    scores: Floats
    labels: npt.NDArray[np.int64]


Decoder = Callable[[DetectionPostprocess, list[Array]], Candidates]


def yolox_grid(spec: DetectionPostprocess, outputs: list[Array]) -> Candidates:
    """YOLOX (arXiv 2107.08430, sec. 2.1) and FemtoDet: one map of logits (4 + 1 + classes, h, w).

    With the cell's corner (x, y) = (column, row) * stride: centre = (x, y) + stride * (r0, r1), size = stride *
    (e^r2, e^r3), score = sigmoid(objectness) * max sigmoid(class).
    """
    cells, height, width = _flat(outputs[0])
    objectness = cells[4]
    near = np.flatnonzero(~(objectness < _logit(spec.score_threshold)))  # NaN stays in, to be reported
    found = cells.take(near, axis=1).astype(np.float32, copy=False)
    labels = found[5:].argmax(axis=0)
    scores = _sigmoid(found[4]) * _sigmoid(found[5:].max(axis=0))
    near, found, scores, labels = _above(spec.score_threshold, near, found, scores, labels)
    centre = (found[0:2] + _grid(height, width).take(near, axis=1)) * spec.stride
    half = np.exp(np.minimum(found[2:4], np.float32(LARGEST_EXPONENT))) * np.float32(spec.stride / 2)
    return Candidates(_corners(centre, half), scores, labels)


def fastestdet_grid(spec: DetectionPostprocess, outputs: list[Array]) -> Candidates:
    """FastestDet (github.com/dog-qiuqiu/FastestDet, BSD-3): one map (1 + 4 + classes, h, w), probabilities.

    In units of the input: centre = ((column, row) + tanh(r0, r1)) / (w, h), size = sigmoid(r2, r3), score =
    objectness^0.6 * (max class)^0.4 (`handle_preds` in its utils/tool.py).
    """
    cells, height, width = _flat(outputs[0])
    objectness = cells[0]
    bound = max(0.0, spec.score_threshold) ** (1 / 0.6) * (1 - _LOGIT_MARGIN)
    near = np.flatnonzero(~(objectness < bound))
    found = cells.take(near, axis=1).astype(np.float32, copy=False)
    labels = found[5:].argmax(axis=0)
    scores = found[0] ** np.float32(0.6) * found[5:].max(axis=0) ** np.float32(0.4)
    near, found, scores, labels = _above(spec.score_threshold, near, found, scores, labels)
    centre = (np.tanh(found[1:3]) + _grid(height, width).take(near, axis=1)) * spec.stride
    input_size = np.array([[width * spec.stride], [height * spec.stride]], np.float32)
    half = (_sigmoid(found[3:5]) * input_size / np.float32(2)).astype(np.float32, copy=False)
    return Candidates(_corners(centre, half), scores, labels)


def yolov8_rows(spec: DetectionPostprocess, outputs: list[Array]) -> Candidates:
    """(4 + classes, anchors): centre x, centre y, width, height in input pixels, then class probabilities."""
    rows = outputs[0]
    near = np.flatnonzero(~(rows[4:].max(axis=0) < spec.score_threshold))
    found = rows.take(near, axis=1).astype(np.float32, copy=False)
    return Candidates(
        _corners(found[0:2], found[2:4] * np.float32(0.5)), found[4:].max(axis=0), found[4:].argmax(axis=0)
    )


def boxes_scores(spec: DetectionPostprocess, outputs: list[Array]) -> Candidates:
    """(anchors, 4) corners in input pixels, and (classes, anchors) probabilities."""
    boxes, probabilities = outputs
    near = np.flatnonzero(~(probabilities.max(axis=0) < spec.score_threshold))
    found = probabilities.take(near, axis=1).astype(np.float32, copy=False)
    return Candidates(boxes[near].astype(np.float32, copy=False), found.max(axis=0), found.argmax(axis=0))


def finished(_: DetectionPostprocess, outputs: list[Array]) -> Candidates:
    """(k, 6): x1 y1 x2 y2 in input pixels, score and label, best first; rows without a positive score are empty."""
    rows = outputs[0].astype(np.float32, copy=False)
    found = rows[~(rows[:, 4] <= 0)]  # NaN stays in, to be reported
    return Candidates(found[:, :4], found[:, 4], found[:, 5].astype(np.int64))


DECODERS: dict[str, Decoder] = {
    "yolox-grid": yolox_grid,
    "fastestdet-grid": fastestdet_grid,
    "yolov8-rows": yolov8_rows,
    "boxes-scores": boxes_scores,
    "detections": finished,
}
SUPPRESSED = frozenset({"detections"})
"""The layouts in which overlaps are gone already."""


def _flat(map_: Array) -> tuple[Array, int, int]:
    channels, height, width = map_.shape
    return map_.reshape(channels, height * width), height, width


def _above(threshold: float, near: Array, found: Floats, scores: Floats, labels: Array) -> tuple[Array, ...]:
    """Only what reaches the threshold, or is NaN."""
    enough = ~(scores < threshold)
    if enough.all():
        return near, found, scores, labels
    return near[enough], found[:, enough], scores[enough], labels[enough]


def _sigmoid(logits: Floats) -> Floats:
    return np.float32(1) / (np.float32(1) + np.exp(-np.maximum(logits, np.float32(_SMALLEST_LOGIT))))


@lru_cache(maxsize=16)
def _logit(threshold: float) -> float:
    """A logit below which sigmoid surely stays under the threshold; a score is at most its objectness."""
    if not 0 < threshold < 1:
        return -math.inf
    return math.log(threshold / (1 - threshold)) - _LOGIT_MARGIN


@lru_cache(maxsize=16)
def _grid(height: int, width: int) -> Floats:
    """Column and row of every cell, (2, height * width)."""
    row, column = np.divmod(np.arange(height * width, dtype=np.float32), width)
    grid = np.stack([column, row]).astype(np.float32)
    grid.flags.writeable = False
    return grid


def _corners(centre: Floats, half: Floats) -> Floats:
    """Centres and half sizes, (2, n) each, as corners (n, 4)."""
    boxes = np.empty((centre.shape[1], 4), np.float32)
    np.subtract(centre, half, out=boxes.T[:2])
    np.add(centre, half, out=boxes.T[2:])
    return boxes
