"""Suppression against the definition, box by box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.processing import nms as module
from edgekit.processing.nms import nms


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inner = max(width, 0) * max(height, 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - inner
    return inner / union if union else 0.0


def slow(boxes, scores, labels, threshold, most):
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(labels[i] != labels[j] or iou(boxes[i].tolist(), boxes[j].tolist()) <= threshold for j in kept):
            kept.append(i)
    return kept[:most]


def scene(count, seed, classes=2, area=40):
    random = np.random.default_rng(seed)
    corner = random.integers(0, area, (count, 2))
    boxes = np.concatenate([corner, corner + random.integers(0, 20, (count, 2))], axis=1).astype(np.float32)
    scores = (random.integers(1, 20, count) / 20).astype(np.float32)  # with ties
    return boxes, scores, random.integers(0, classes, count)


@given(st.integers(0, 60), st.integers(0, 1000), st.sampled_from([0.0, 0.25, 0.45, 0.5, 0.65, 1.0]), st.integers(1, 70))
def test_the_kept_are_those_of_the_definition(count, seed, threshold, most):
    boxes, scores, labels = scene(count, seed)
    assert nms(boxes, scores, labels, threshold, most).tolist() == slow(boxes, scores, labels, threshold, most)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_more_boxes_than_a_block_are_treated_alike(seed):
    boxes, scores, labels = scene(300, seed, area=200)
    assert len(scores) > 2 * module._BLOCK
    assert nms(boxes, scores, labels, 0.3, 1000).tolist() == slow(boxes, scores, labels, 0.3, 1000)


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)  # IoU 0.5
    scores, labels = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64)
    assert nms(boxes, scores, labels, 0.5, 10).tolist() == [0, 1]
    assert nms(boxes, scores, labels, 0.49, 10).tolist() == [0]


def test_pixels_are_not_counted_inclusively():
    # with `+ 1` the IoU would be 2 * 3 / (2 * 9 - 6) = 0.5; without it is 1 * 2 / (2 * 4 - 2) = 1/3
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2]], np.float32)
    assert len(nms(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), 0.4, 10)) == 2


def test_a_suppressed_box_suppresses_nothing():
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert nms(boxes, scores, np.zeros(3, np.int64), 0.4, 10).tolist() == [0, 2]


def test_classes_do_not_suppress_one_another():
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (3, 1))
    assert nms(boxes, np.array([0.1, 0.9, 0.5], np.float32), np.array([0, 1, 0]), 0.5, 10).tolist() == [1, 2]


def test_equal_scores_keep_their_order():
    boxes = np.array([[i * 20, 0, i * 20 + 10, 10] for i in range(5)], np.float32)
    assert nms(boxes, np.full(5, 0.5, np.float32), np.zeros(5, np.int64), 0.5, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_empty_boxes_neither_suppress_nor_warn(threshold):
    boxes = np.zeros((3, 4), np.float32)
    assert nms(boxes, np.ones(3, np.float32), np.zeros(3, np.int64), threshold, 10).tolist() == [0, 1, 2]


def test_nothing_in_gives_nothing_out():
    assert nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5, 10).tolist() == []
