"""Task metrics: average precision as COCO computes it, and top-1 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError
from edgekit.evaluate.datasets import Boxes
from edgekit.processing.detect import Detections

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""IoU thresholds of AP (cocodataset/cocoapi, `Params.setDetParams`)."""
_RECALLS = np.linspace(0, 1, 101)  # the recalls at which precision is read, same source
_TIE = 1 - 1e-10  # `COCOeval.evaluateImg` caps thresholds here, so that perfect overlap passes a threshold of 1


@dataclass(frozen=True)
class AveragePrecision:
    """Fractions of 1.

    Attributes:
        mean: over the classes that have truths, and the thresholds; None where there is nothing to find.
        per_class: by class index; None for a class without truths.
    """

    mean: float | None
    per_class: tuple[float | None, ...]


def average_precision(
    detections: Sequence[Detections],
    truths: Sequence[Boxes],
    classes: int,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    max_detections: int = 100,
) -> AveragePrecision:
    """AP over all areas with 101-point interpolation, equal to pycocotools' `COCOeval`.

    Args:
        detections, truths: one of each a picture.
        classes: how many there are.
        thresholds: IoU from which on a detection hits; `(0.5,)` gives AP50.
        max_detections: per class and picture, the best are looked at.

    Raises:
        InputError: the two sequences differ in length.
    """
    if len(detections) != len(truths):
        raise InputError(
            f"{len(detections)} predictions for {len(truths)} truths",
            where="average_precision",
            why="there must be one of each a picture",
        )
    levels = np.minimum(np.asarray(thresholds, np.float64), _TIE)
    per_class = tuple(_class_precision(detections, truths, label, levels, max_detections) for label in range(classes))
    known = [value for value in per_class if value is not None]
    return AveragePrecision(float(np.mean(known)) if known else None, per_class)


def top1(predictions: Sequence[int], truths: Sequence[int]) -> float:
    """The fraction of samples whose best class is the right one.

    Raises:
        InputError: there are no samples, or not one prediction a sample.
    """
    if len(predictions) != len(truths) or not truths:
        raise InputError(f"{len(predictions)} predictions for {len(truths)} truths", where="top1")
    return sum(got == want for got, want in zip(predictions, truths, strict=True)) / len(truths)


def _class_precision(
    detections: Sequence[Detections], truths: Sequence[Boxes], label: int, levels: npt.NDArray[np.float64], most: int
) -> float | None:
    scores, hits, ignored, wanted = [], [], [], 0
    for found, truth in zip(detections, truths, strict=True):
        mine, theirs = found.labels == label, truth.labels == label
        best = np.argsort(-found.scores[mine], kind="stable")[:most]
        hit, ignore = _match(
            found.boxes[mine][best], truth.boxes[theirs], truth.ignore[theirs].astype(np.bool_), levels
        )
        scores.append(found.scores[mine][best])
        hits.append(hit)
        ignored.append(ignore)
        wanted += int((theirs & ~truth.ignore).sum())
    if wanted == 0:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit, skip = np.concatenate(hits, axis=1)[:, order], np.concatenate(ignored, axis=1)[:, order]
    return float(np.mean([_interpolated(h & ~s, ~h & ~s, wanted) for h, s in zip(hit, skip, strict=True)]))


def _match(
    boxes: npt.NDArray[Any], truths: npt.NDArray[Any], ignore: npt.NDArray[np.bool_], levels: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Greedy matching in order of score, (thresholds, detections): matched at all, and matched to an ignored truth.

    A detection takes the free truth that it overlaps most (the later of equals); only if none is left does it look at
    ignored ones, which any number of detections may take and whose overlap is measured on the detection's area alone.
    """
    hit = np.zeros((len(levels), len(boxes)), np.bool_)
    ignored = np.zeros_like(hit)
    if not len(boxes) or not len(truths):
        return hit, ignored
    overlaps = _overlaps(boxes, truths, ignore)
    overlaps, ignore = overlaps[:, np.argsort(ignore, kind="stable")], np.sort(ignore)
    counted = len(ignore) - int(ignore.sum())
    free = np.ones((len(levels), counted), np.bool_)
    rows = np.arange(len(levels))
    for column in np.flatnonzero(overlaps.max(axis=1) >= levels.min()):
        row = overlaps[column]
        if counted:
            reach = np.where(free & (row[:counted] >= levels[:, None]), row[:counted], -1.0)
            choice = counted - 1 - reach[:, ::-1].argmax(axis=1)
            taken = reach[rows, choice] >= 0
            free[rows[taken], choice[taken]] = False
            hit[:, column] = taken
        if counted < len(row):
            ignored[:, column] = ~hit[:, column] & (row[counted:].max() >= levels)
            hit[:, column] |= ignored[:, column]
    return hit, ignored


def _overlaps(
    boxes: npt.NDArray[Any], truths: npt.NDArray[Any], ignore: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """IoU in float64 (detections, truths); for ignored truths the intersection over the detection's area."""
    boxes, truths = boxes.astype(np.float64), truths.astype(np.float64)
    corner = np.maximum(boxes[:, None, :2], truths[:, :2])
    size = np.maximum(np.minimum(boxes[:, None, 2:], truths[:, 2:]) - corner, 0)
    intersection = size[..., 0] * size[..., 1]
    own = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[:, None]
    other = (truths[:, 2] - truths[:, 0]) * (truths[:, 3] - truths[:, 1])
    union = np.where(ignore, own, own + other - intersection)
    shares: npt.NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return shares


def _interpolated(hits: npt.NDArray[np.bool_], misses: npt.NDArray[np.bool_], wanted: int) -> float:
    """The mean of the precision's upper envelope at 101 recalls; 0 beyond the highest recall that was reached."""
    right, wrong = np.cumsum(hits, dtype=np.float64), np.cumsum(misses, dtype=np.float64)
    recall = right / wanted
    precision = right / (right + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    reached = at < len(envelope)
    return float(envelope[at[reached]].sum() / len(_RECALLS))
