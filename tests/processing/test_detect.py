"""Decoders against the formulas, cell by cell in float64, and the whole way from outputs to boxes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.processing.decode import DECODERS
from edgekit.processing.detect import detections
from edgekit.processing.preprocess import prepare
from edgekit.spec import DetectionPostprocess, ImagePreprocess

THRESHOLDS = [0.0, 1e-6, 0.01, 0.25, 0.6, 0.999, 1.0]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def as_rows(candidates):
    boxes, scores, labels = candidates
    assert boxes.dtype == np.float32
    assert scores.dtype == np.float32
    return [
        (*box, score, label) for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ]


def corners(cx, cy, w, h):
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def yolox_cell(cell, row, column, stride, _):
    r0, r1, r2, r3, objectness, *classes = cell
    box = corners((r0 + column) * stride, (r1 + row) * stride, math.exp(r2) * stride, math.exp(r3) * stride)
    best = max(range(len(classes)), key=classes.__getitem__)
    return (*box, sigmoid(objectness) * sigmoid(classes[best]), best)


def fastestdet_cell(cell, row, column, stride, shape):
    objectness, r0, r1, r2, r3, *classes = cell
    height, width = shape
    box = corners((math.tanh(r0) + column) / width, (math.tanh(r1) + row) / height, sigmoid(r2), sigmoid(r3))
    best = max(range(len(classes)), key=classes.__getitem__)
    scale = (width * stride, height * stride) * 2
    return (*(a * b for a, b in zip(box, scale, strict=True)), objectness**0.6 * classes[best] ** 0.4, best)


def grid(decode, seed=0, classes=3, shape=(5, 7)):
    random = np.random.default_rng(seed)
    map_ = random.normal(0, 2, (5 + classes, *shape)).astype(np.float32)
    if decode == "fastestdet-grid":
        map_[0] = random.random(shape)
        map_[5:] = random.dirichlet(np.ones(classes), shape).transpose(2, 0, 1)
    return map_


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(("decode", "cell"), [("yolox-grid", yolox_cell), ("fastestdet-grid", fastestdet_cell)])
def test_grids_follow_their_formulas_and_the_threshold_is_exact(decode, cell, threshold):
    map_ = grid(decode)
    spec = DetectionPostprocess(("y",), decode, stride=16, score_threshold=threshold)
    wanted = [
        cell(map_[:, row, column].astype(np.float64).tolist(), row, column, 16, map_.shape[1:])
        for row in range(map_.shape[1])
        for column in range(map_.shape[2])
    ]
    wanted = [item for item in wanted if item[4] >= threshold]
    got = as_rows(DECODERS[decode](spec, [map_]))
    assert len(got) == len(wanted)
    np.testing.assert_allclose(np.reshape(got, (-1, 6)), np.reshape(wanted, (-1, 6)), rtol=2e-5, atol=1e-4)


def test_a_logit_right_at_the_threshold_is_not_lost_to_the_first_selection():
    map_ = np.full((6, 1, 3), 60.0, np.float32)  # classes certain, so that the score is sigmoid(objectness)
    map_[:4] = 0
    map_[4, 0] = [math.log(0.25 / 0.75), math.log(0.25 / 0.75) - 1e-4, math.log(0.25 / 0.75) + 1e-4]
    spec = DetectionPostprocess(("y",), "yolox-grid", score_threshold=0.25)
    scores = DECODERS["yolox-grid"](spec, [map_]).scores
    assert len(scores) == 2
    assert (scores >= 0.25).all()


def test_untrained_logits_overflow_nothing():
    map_ = np.full((8, 4, 4), 1e4, np.float32)
    map_[5] = -1e4
    spec = DetectionPostprocess(("y",), "yolox-grid", score_threshold=0.5)
    boxes, scores, _ = DECODERS["yolox-grid"](spec, [map_])
    assert np.isfinite(boxes).all()
    assert (scores == 1).all()


def test_yolov8_rows_are_centres_sizes_and_class_probabilities():
    random = np.random.default_rng(0)
    rows = random.random((4 + 5, 50)).astype(np.float32)
    spec = DetectionPostprocess(("y",), "yolov8-rows", score_threshold=0.9)
    wanted = [
        (*corners(*rows[:4, i].tolist()), float(rows[4:, i].max()), int(rows[4:, i].argmax()))
        for i in range(50)
        if rows[4:, i].max() >= np.float32(0.9)
    ]
    assert 0 < len(wanted) < 50
    np.testing.assert_allclose(as_rows(DECODERS["yolov8-rows"](spec, [rows])), wanted, rtol=1e-6, atol=1e-6)


def test_boxes_scores_are_taken_as_they_are_with_the_best_class():
    random = np.random.default_rng(1)
    boxes, probabilities = random.random((50, 4)).astype(np.float32), random.random((5, 50)).astype(np.float32)
    spec = DetectionPostprocess(("b", "s"), "boxes-scores", score_threshold=0.9)
    wanted = [
        (*boxes[i].tolist(), float(probabilities[:, i].max()), int(probabilities[:, i].argmax()))
        for i in range(50)
        if probabilities[:, i].max() >= np.float32(0.9)
    ]
    assert 0 < len(wanted) < 50
    assert as_rows(DECODERS["boxes-scores"](spec, [boxes, probabilities])) == wanted


def test_half_precision_outputs_are_decoded_in_single_precision():
    map_ = grid("yolox-grid").astype(np.float16)
    spec = DetectionPostprocess(("y",), "yolox-grid", score_threshold=0.1)
    for got, wanted in zip(
        DECODERS["yolox-grid"](spec, [map_]), DECODERS["yolox-grid"](spec, [map_.astype(np.float32)]), strict=True
    ):
        assert np.array_equal(got, wanted)


PRE = ImagePreprocess("x", 64, 64)
POST = DetectionPostprocess(("y",), "yolox-grid", score_threshold=0.3, iou_threshold=0.65)


def scene(*objects, classes=3):
    """A map (1, 5 + classes, 4, 4) that is sure of (row, column, label) and of nothing else."""
    map_ = np.full((1, 5 + classes, 4, 4), -20, np.float32)
    map_[:, :4] = 0
    for row, column, label in objects:
        map_[0, 4, row, column] = 20
        map_[0, 5 + label, row, column] = 20
    return map_


def test_boxes_come_back_in_pixels_of_the_picture_and_clipped():
    _, placement = prepare(PRE, np.zeros((128, 256, 3), np.uint8))  # scale 1/4, padded below
    (found,) = detections(POST, {"y": scene((0, 0, 2), (1, 3, 1))}, [placement])
    assert len(found) == 2
    assert sorted(zip(found.boxes.tolist(), found.labels.tolist(), strict=True)) == [
        ([0, 0, 32, 32], 2),  # centre (0, 0), size 16 in the input: half of it is outside
        ([160, 32, 224, 96], 1),
    ]
    assert found.boxes.dtype == np.float32
    assert found.labels.dtype == np.int64


def test_boxes_are_clipped_only_if_the_spec_says_so():
    _, placement = prepare(PRE, np.zeros((128, 256, 3), np.uint8))
    (found,) = detections(replace(POST, clip=False), {"y": scene((0, 0, 2))}, [placement])
    assert found.boxes.tolist() == [[-32, -32, 32, 32]]


def test_each_picture_of_a_batch_has_its_own_answer():
    _, near = prepare(PRE, np.zeros((64, 64, 3), np.uint8))
    _, far = prepare(PRE, np.zeros((640, 640, 3), np.uint8))
    found = detections(POST, {"y": np.concatenate([scene((1, 1, 0)), scene((1, 1, 0), (2, 3, 1))])}, [near, far])
    assert [len(item) for item in found] == [1, 2]
    assert found[0].boxes.tolist() == [[8, 8, 24, 24]]
    assert [80, 80, 240, 240] in found[1].boxes.tolist()


def test_overlaps_are_suppressed_and_the_best_come_first():
    map_ = scene((1, 1, 0), (1, 2, 0), (3, 3, 0))
    map_[0, 0, 1, 2] = -0.9  # moves the second object almost onto the first
    map_[0, 4, 1, 1] = 1
    _, placement = prepare(PRE, np.zeros((64, 64, 3), np.uint8))
    (found,) = detections(POST, {"y": map_}, [placement])
    assert len(found) == 2
    assert (np.diff(found.scores) <= 0).all()


def test_an_empty_scene_gives_empty_arrays_of_the_right_shapes():
    _, placement = prepare(PRE, np.zeros((64, 64, 3), np.uint8))
    (found,) = detections(POST, {"y": scene()}, [placement])
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)


@pytest.mark.parametrize("channel", [0, 4, 6])
def test_nan_in_the_output_is_an_error_and_not_an_empty_answer(channel):
    map_ = scene((1, 1, 0))
    map_[0, channel, 1, 1] = np.nan
    _, placement = prepare(PRE, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="NaN"):
        detections(POST, {"y": map_}, [placement])


def test_a_missing_output_is_named():
    _, placement = prepare(PRE, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="'y'"):
        detections(POST, {"z": scene()}, [placement])


@pytest.mark.parametrize(
    "array", [scene()[0], scene()[:, :5], np.concatenate([scene(), scene()]), np.zeros((1, 8, 16))]
)
def test_an_output_of_another_shape_is_refused_with_its_shape(array):
    _, placement = prepare(PRE, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="cannot read an array of shape") as caught:
        detections(POST, {"y": array.astype(np.float32)}, [placement])
    assert "'y'" in str(caught.value)


def test_boxes_that_are_no_quadruples_are_refused():
    _, placement = prepare(PRE, np.zeros((64, 64, 3), np.uint8))
    post = DetectionPostprocess(("b", "s"), "boxes-scores")
    with pytest.raises(InputError, match="'boxes-scores'"):
        detections(post, {"b": np.zeros((1, 9, 5), np.float32), "s": np.zeros((1, 2, 9), np.float32)}, [placement])
