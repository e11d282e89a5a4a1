"""Does a graph that suppresses overlaps itself say what numpy says of the same raw outputs?

Two runtimes round the last bit differently, and where two scores or an overlap lie that close to a decision, either
answer is right: one flip may free or suppress a chain of others, so answers cannot be compared box by box. Greedy
suppression has a definition that needs no order of computation, and that is checked, with a margin at each decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.processing.decode import DECODERS, Candidates
from edgekit.spec import DetectionPostprocess

Array = npt.NDArray[Any]

SCORE_MARGIN = 1e-5
"""Of scores from 0 to 1 in float32; sigmoids of two libraries differ by some 1e-7."""
IOU_MARGIN = 1e-4
BOX_MARGIN = 1e-4
"""Of a box's largest coordinate, or of one pixel, whichever is more."""


def suppression_fault(post: DetectionPostprocess, outputs: Mapping[str, Array], rows: Array) -> str | None:
    """What is wrong with `rows`, None where they are greedy class-wise suppression's answer.

    They are if each is a candidate, none overlaps another of its label, and each candidate that is not among them
    overlaps one that is at least as good, or is worse than all of a full table. Each within a margin.

    Args:
        post: how the raw outputs are laid out, and the thresholds.
        outputs: the raw outputs by name, batch axis first.
        rows: float32 (n, k, 6), x1 y1 x2 y2 score label, best first; empty rows have a score of 0 and a label of -1.
    """
    arrays = [outputs[name] for name in post.outputs]
    lenient = replace(post, score_threshold=max(0.0, post.score_threshold - SCORE_MARGIN))
    for picture, table in enumerate(rows):
        fault = _fault(post, DECODERS[post.decode](lenient, [array[picture] for array in arrays]), table)
        if fault is not None:
            return f"picture {picture} of the batch: {fault}"
    return None


def _fault(post: DetectionPostprocess, candidates: Candidates, table: Array) -> str | None:
    if not np.isfinite(table).all():
        return "a row holds NaN or infinity"
    count = int((table[:, 4] > 0).sum())
    found, empty = table[:count], table[count:]
    if not (np.diff(found[:, 4]) <= 0).all() or (empty != [0, 0, 0, 0, 0, -1]).any():
        return "its rows are not in order of score, with empty ones of score 0 and label -1 at the end"
    same = found[:, 5:] == candidates.labels
    boxes = np.abs(found[:, None, :4] - candidates.boxes).max(axis=2, initial=0)
    allowed = BOX_MARGIN * np.maximum(1, np.abs(candidates.boxes).max(axis=1, initial=0))
    alike = same & (boxes <= allowed) & (np.abs(found[:, 4:5] - candidates.scores) <= SCORE_MARGIN)
    strange = np.flatnonzero(~alike.any(axis=1))
    if strange.size:
        return f"row {strange[0]}, {_told(found[strange[0]])}, is no candidate of the raw outputs"
    among = _overlap(found[:, :4], found[:, :4]) > post.iou_threshold + IOU_MARGIN
    twice = np.argwhere(np.triu(among & (found[:, 5:] == found[:, 5]), 1))
    if twice.size:
        return f"rows {twice[0][0]} and {twice[0][1]} overlap and have one label"
    full = count == len(table) or count == post.max_detections
    worst = found[-1, 4] if full and count else max(0.0, post.score_threshold)
    owed = ~alike.any(axis=0) & (candidates.scores > worst + SCORE_MARGIN)
    close = _overlap(found[:, :4], candidates.boxes) >= post.iou_threshold - IOU_MARGIN
    better = found[:, 4:5] >= candidates.scores - SCORE_MARGIN
    missing = np.flatnonzero(owed & ~(same & close & better).any(axis=0))
    if missing.size:
        lost = [*candidates.boxes[missing[0]], candidates.scores[missing[0]], candidates.labels[missing[0]]]
        return f"{_told(np.asarray(lost))} is missing, and no better box of its label overlaps it"
    return None


def _overlap(one: Array, other: Array) -> Array:
    """Intersection over union, (len(one), len(other)); 0 where the union is empty."""
    low = np.maximum(one[:, None, :2], other[:, :2])
    size = np.maximum(np.minimum(one[:, None, 2:], other[:, 2:]) - low, 0)
    intersection = size[..., 0] * size[..., 1]
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1] - intersection
    overlap: Array = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return overlap


def _told(row: Array) -> str:
    corners = ", ".join(f"{value:.1f}" for value in row[:4])
    return f"box ({corners}) of label {int(row[5])} with score {row[4]:.4f}"
