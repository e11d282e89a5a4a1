"""The check of a suppressed table: numpy's own answer passes, so does one that rounding excuses, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.evaluate.suppression import suppression_fault
from edgekit.processing.decode import boxes_scores
from edgekit.processing.nms import nms
from edgekit.spec import DetectionPostprocess

Array = np.ndarray
POST = DetectionPostprocess(("boxes", "scores"), "boxes-scores", 1, 0.2, 0.5, max_detections=12)
EMPTY = [0, 0, 0, 0, 0, -1]


def raw(seed: int, anchors: int = 40) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    low = random.uniform(0, 40, (1, anchors, 2))
    boxes = np.concatenate([low, low + random.uniform(5, 30, low.shape)], -1)
    return {"boxes": boxes.astype(np.float32), "scores": random.random((1, 2, anchors)).astype(np.float32)}


def table(post: DetectionPostprocess, outputs: dict[str, Array], rows: int = 12) -> Array:
    """What the graph should give: (1, rows, 6)."""
    boxes, scores, labels = boxes_scores(post, [outputs["boxes"][0], outputs["scores"][0]])
    kept = nms(boxes, scores, labels, post.iou_threshold, post.max_detections)
    found = np.concatenate([boxes[kept], scores[kept, None], labels[kept, None]], 1)
    return np.concatenate([found, np.broadcast_to(EMPTY, (rows - len(kept), 6))])[None].astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    score=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    iou=st.sampled_from([0.0, 0.3, 0.65, 1.0]),
    most=st.sampled_from([1, 12, 40]),
)
def test_numpys_own_answer_passes(seed: int, score: float, iou: float, most: int) -> None:
    post = replace(POST, score_threshold=score, iou_threshold=iou, max_detections=most)
    outputs = raw(seed)
    assert suppression_fault(post, outputs, table(post, outputs, most)) is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), row=st.integers(0, 11))
def test_a_row_that_is_left_out_is_missed(seed: int, row: int) -> None:
    outputs = raw(seed)
    good = table(POST, outputs)
    row = min(row, int((good[0, :, 4] > 0).sum()) - 1)
    short = np.concatenate([np.delete(good[0], row, 0), [EMPTY]])[None]
    assert "is missing" in str(suppression_fault(POST, outputs, short))


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [(0, 1.0, "no candidate"), (3, -0.5, "no candidate"), (4, 1e-3, "no candidate"), (5, 1.0, "no candidate")],
)
def test_a_row_of_another_box_score_or_label_is_no_candidate(column: int, change: float, said: str) -> None:
    outputs = raw(1)
    rows = table(POST, outputs)
    rows[0, 0, column] += change
    assert said in str(suppression_fault(POST, outputs, rows))


def test_overlaps_order_and_padding_are_checked() -> None:
    outputs = raw(2)
    good = table(POST, outputs)
    count = int((good[0, :, 4] > 0).sum())
    assert count > 3
    swapped = good.copy()
    swapped[0, [0, 1]] = good[0, [1, 0]]
    assert "not in order" in str(suppression_fault(POST, outputs, swapped))
    padded = np.concatenate([good, np.zeros((1, 1, 6), np.float32)], 1)
    assert "not in order" in str(suppression_fault(POST, outputs, padded))
    loose = table(replace(POST, iou_threshold=1.0, max_detections=40), outputs, 40)
    assert "overlap and have one label" in str(suppression_fault(POST, outputs, loose))
    for wrong in (np.nan, np.inf):
        spoilt = good.copy()
        spoilt[0, 0, 4] = wrong
        assert "NaN or infinity" in str(suppression_fault(POST, outputs, spoilt))


def test_a_low_score_is_no_candidate() -> None:
    outputs = raw(3)
    everything = table(replace(POST, score_threshold=0.0, max_detections=40), outputs, 40)
    everything = everything[:, everything[0, :, 4] > 0]
    assert everything[0, -1, 4] < 0.2
    assert suppression_fault(POST, outputs, everything) is not None


def test_scores_that_rounding_cannot_tell_apart_may_change_places() -> None:
    """A and B overlap, B and C do, A and C do not: either A and C are kept, or B alone."""
    boxes = np.array([[[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]], np.float32)
    post = replace(POST, iou_threshold=0.3)
    for gap, either in ((1e-7, True), (1e-3, False)):
        outputs = {"boxes": boxes, "scores": np.array([[[0.5, 0.5 - gap, 0.4]]], np.float32)}
        honest = table(post, outputs, 3)
        assert suppression_fault(post, outputs, honest) is None
        flipped = np.array([[[4, 0, 14, 10, 0.5 - gap, 0], EMPTY, EMPTY]], np.float32)
        assert (suppression_fault(post, outputs, flipped) is None) == either
