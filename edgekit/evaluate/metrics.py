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
_BLOCK = 64  # of `_running_sums`: large enough for a matrix product, with few pictures in a block
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
    once = np.ones((len(truths), 1), np.int32)
    matched = match_classes(detections, truths, classes, thresholds, max_detections)
    per_class = tuple(None if np.isnan(value) else float(value) for value in (m.precision(once)[0] for m in matched))
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


@dataclass(frozen=True, eq=False)
class Matched:
    """The detections of one class over all pictures, matched to the truths, best score first.

    Attributes:
        picture: intp (n,), the index of the picture that each belongs to.
        hit: bool (thresholds, n): it found a truth.
        counted: bool (thresholds, n): it is a hit or a miss; False where it matched an ignored truth.
        wanted: int64 (pictures,), the truths to be found.
    """

    picture: npt.NDArray[np.intp]
    hit: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    wanted: npt.NDArray[np.int64]

    def precision(self, weights: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """AP if every picture stood in the data as often as its weight says.

        It equals matching, pooling and sorting the pictures with their copies, since a matching concerns one picture:
        the mean over thresholds of the precision's upper envelope at 101 recalls, 0 beyond the highest recall that
        was reached. The envelope rises only at hits, so it is looked at there alone.

        Args:
            weights: int32 (pictures, replicates), not negative.

        Returns:
            (replicates,), fractions of 1; NaN where there is nothing to find.
        """
        wanted = self.wanted @ weights
        total = np.zeros(weights.shape[1])
        light = weights.astype(np.float32)
        for hit, counted in zip(self.hit, self.counted, strict=True):
            found = self.picture[hit]
            right = _running_sums(found, np.arange(len(found)), light)
            seen = _running_sums(self.picture[counted], np.flatnonzero(hit[counted]), light)
            envelope = np.maximum.accumulate((right / (seen + np.spacing(1)))[::-1], axis=0)[::-1]
            recall = np.divide(right, wanted, out=right, where=wanted > 0)
            total += (envelope * np.diff(_recalls_reached(recall), axis=0, prepend=0)).sum(axis=0) / len(_RECALLS)
        return np.where(wanted > 0, total / len(self.hit), np.nan)


def _running_sums(
    owners: npt.NDArray[np.intp], stops: npt.NDArray[np.intp], weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The sums of `weights[owners[: stop + 1]]` at each stop, (stops, replicates).

    Stops are taken in blocks: how often each owner stands before a stop of its block is a small table, and its product
    with the weights is several times faster than a running sum over all owners. Whole numbers are exact.
    """
    sums = np.zeros((len(stops), weights.shape[1]))
    done = 0
    for start in range(0, len(stops), _BLOCK):
        block = stops[start : start + _BLOCK]
        members, column = np.unique(owners[done : block[-1] + 1], return_inverse=True)
        row = np.searchsorted(block, np.arange(done, block[-1] + 1))
        cells = np.bincount(row * len(members) + column.ravel(), minlength=len(block) * len(members))
        table = cells.reshape(len(block), -1).cumsum(axis=0, dtype=np.float32)
        with np.errstate(invalid="ignore"):  # OpenBLAS may look beyond small matrices: numpy issues 13173 and 24067
            sums[start : start + _BLOCK] = table @ weights[members]
        if start:
            sums[start : start + _BLOCK] += sums[start - 1]
        done = block[-1] + 1
    return sums


def _recalls_reached(recall: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """How many of the recalls are at most `recall`; a search that begins at the right place or beside it."""
    guess = (recall * (len(_RECALLS) - 1)).astype(np.intp)
    fences = np.append(_RECALLS, np.inf)
    reached: npt.NDArray[np.intp] = guess + (fences[guess] <= recall) + (fences[guess + 1] <= recall)
    return reached


def match_classes(
    detections: Sequence[Detections],
    truths: Sequence[Boxes],
    classes: int,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    max_detections: int = 100,
) -> list[Matched]:
    """Match detections to truths once, class by class; the arguments are those of `average_precision`."""
    levels = np.minimum(np.asarray(thresholds, np.float64), _TIE)
    return [_match_class(detections, truths, label, levels, max_detections) for label in range(classes)]


def _match_class(
    detections: Sequence[Detections], truths: Sequence[Boxes], label: int, levels: npt.NDArray[np.float64], most: int
) -> Matched:
    none = np.zeros((len(levels), 0), np.bool_)
    scores, hits, ignored, pictures = [np.zeros(0, np.float32)], [none], [none], [np.zeros(0, np.intp)]
    wanted = np.zeros(len(truths), np.int64)
    for index, (found, truth) in enumerate(zip(detections, truths, strict=True)):
        mine, theirs = np.flatnonzero(found.labels == label), np.flatnonzero(truth.labels == label)
        ignore = truth.ignore[theirs].astype(np.bool_)
        wanted[index] = len(theirs) - ignore.sum()
        if not len(mine):
            continue
        best = mine[np.argsort(-found.scores[mine], kind="stable")[:most]]
        hit, skip = _match(found.boxes[best], truth.boxes[theirs], ignore, levels)
        scores.append(found.scores[best])
        hits.append(hit)
        ignored.append(skip)
        pictures.append(np.full(len(best), index, np.intp))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    counted = ~np.concatenate(ignored, axis=1)[:, order]
    return Matched(np.concatenate(pictures)[order], np.concatenate(hits, axis=1)[:, order] & counted, counted, wanted)


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
