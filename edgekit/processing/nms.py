"""Class-wise greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

_BLOCK = 128  # boxes compared at once: 128 x 128 overlaps fit the cache, and memory stays bounded for any input


def nms(
    boxes: Floats, scores: Floats, labels: npt.NDArray[np.int64], iou_threshold: float, max_detections: int
) -> Indices:
    """Which boxes to keep, best first.

    From the highest score down, a box is kept unless its intersection over union with a kept box of the same label
    exceeds the threshold. Sizes are `x2 - x1`, without the `+ 1` of integer pixel boxes. Equal scores keep their order.

    Args:
        boxes: (n, 4), corners x1 y1 x2 y2.
        scores, labels: (n,).
        iou_threshold: boxes with an IoU of at most this are kept.
        max_detections: keep at most so many, all labels together.

    Returns:
        Indices into `boxes`.
    """
    order = np.argsort(-scores, kind="stable")
    kept = order[:0]
    for start in range(0, order.size, _BLOCK):
        block = order[start : start + _BLOCK]
        if kept.size:
            block = block[~_overlapping(boxes, labels, block, kept, iou_threshold).any(axis=1)]
        alive = _greedy(_overlapping(boxes, labels, block, block, iou_threshold))
        kept = np.concatenate([kept, block[alive]])
        if kept.size >= max_detections:
            return kept[:max_detections]
    return kept


def _overlapping(
    boxes: Floats, labels: npt.NDArray[np.int64], rows: Indices, columns: Indices, threshold: float
) -> npt.NDArray[np.bool_]:
    """(rows, columns): same label and IoU above the threshold. Written without a division, so empty boxes are fine."""
    x1, y1, x2, y2 = boxes[rows].T[:, :, None]
    u1, v1, u2, v2 = boxes[columns].T
    width = np.minimum(x2, u2)
    width -= np.maximum(x1, u1)
    np.maximum(width, 0, out=width)
    height = np.minimum(y2, v2)
    height -= np.maximum(y1, v1)
    np.maximum(height, 0, out=height)
    intersection = np.multiply(width, height, out=width)
    union = np.add((x2 - x1) * (y2 - y1), (u2 - u1) * (v2 - v1), out=height)
    union -= intersection
    union *= np.float32(threshold)
    over: npt.NDArray[np.bool_] = intersection > union
    over &= labels[rows, None] == labels[columns]
    return over


def _greedy(overlapping: npt.NDArray[np.bool_]) -> list[int]:
    """The survivors of a square table of overlaps in order of score. Rows are bit masks: one `or` suppresses many."""
    packed = np.packbits(overlapping, axis=1, bitorder="little")
    step, masks = packed.shape[1], packed.tobytes()
    survivors, suppressed = [], 0
    for row in range(len(overlapping)):
        if not suppressed >> row & 1:
            survivors.append(row)
            suppressed |= int.from_bytes(masks[row * step : (row + 1) * step], "little")
    return survivors
