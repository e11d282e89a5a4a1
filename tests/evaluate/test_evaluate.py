"""Running a callable over a data set and scoring it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import InputError, UsageError
from edgekit.evaluate.datasets import Boxes, Dataset, Sample
from edgekit.evaluate.evaluate import BUILT_IN_METRICS, evaluate, predict
from edgekit.spec import ClassificationPostprocess, DetectionPostprocess, ImagePreprocess, ModelSpec, TensorSpec

PRE = ImagePreprocess("x", 8, 8, resize="stretch")


def classifier(batch):
    """Says the index of the brightest channel."""
    shape = (batch, 3, 8, 8)
    return ModelSpec(
        "brightest",
        "classification",
        (TensorSpec("x", "float32", shape),),
        (TensorSpec("y", "float32", (batch, 3)),),
        PRE,
        ClassificationPostprocess(("y",), top_k=1),
        ("red", "green", "blue"),
        "top1",
    )


def brightest(feeds):
    brightest.batches.append(len(feeds["x"]))
    return {"y": feeds["x"].mean(axis=(2, 3)) / 255}


@pytest.fixture(autouse=True)
def _no_batches_yet():
    brightest.batches = []


def dataset(*samples):
    return Dataset("images", Path(), None, tuple(samples))


def coloured(count, wrong=()):
    samples = []
    for i in range(count):
        image = np.zeros((6, 7, 3), np.uint8)
        image[..., i % 3] = 200
        samples.append(Sample(str(i), image, truth=(i + 1) % 3 if i in wrong else i % 3))
    return dataset(*samples)


def test_accuracy_is_in_percent_in_all_and_by_label():
    score = evaluate(brightest, classifier(1), coloured(8, wrong=(0, 1)))
    assert (score.metric, score.value, score.samples) == ("top1", 75.0, 8)
    # truths: 1 2 2 0 1 2 0 1
    assert score.per_class == {"red": 100.0, "green": pytest.approx(200 / 3), "blue": pytest.approx(200 / 3)}


@pytest.mark.parametrize(("axis", "batches"), [(1, [1] * 20), ("batch", [16, 4]), (8, [8, 8, 8])])
def test_pictures_are_batched_only_where_the_model_says_so(axis, batches):
    data = coloured(20, wrong=(3,))
    assert evaluate(brightest, classifier(axis), data).value == 95.0
    assert brightest.batches == batches


def test_progress_counts_to_the_end():
    calls = []
    evaluate(brightest, classifier("n"), coloured(20), progress=lambda *done: calls.append(done))
    assert calls == [(16, 20), (20, 20)]


def test_a_metric_of_ones_own_gets_predictions_and_truths_and_is_named():
    def ones_own(predictions, truths):
        assert [ranking[0][0] for ranking in predictions] == truths == [0, 1, 2, 0]
        return 12.5

    score = evaluate(brightest, classifier(1), coloured(4), ones_own)
    assert score.value == 12.5
    assert score.metric.endswith("ones_own")
    assert score.per_class == {}


def detector(metric="ap50"):
    return ModelSpec(
        "d",
        "detection",
        (TensorSpec("x", "float32", (1, 3, 8, 8)),),
        (),
        PRE,
        DetectionPostprocess(("b", "s"), "boxes-scores", score_threshold=0.5),
        ("thing", "other"),
        metric,
    )


def seen(corners):
    truth = Boxes(np.array([corners], np.float32), np.zeros(1, np.int64), np.zeros(1, np.bool_))
    return dataset(Sample("a", np.zeros((16, 16, 3), np.uint8), truth=truth))


def always(_):
    return {"b": np.array([[[1, 1, 5, 5]]], np.float32), "s": np.array([[[0.9], [0.1]]], np.float32)}


def test_boxes_are_scored_in_pixels_of_the_picture():
    score = evaluate(always, detector(), seen([2, 2, 10, 10]))
    assert score.value == pytest.approx(100)
    assert score.per_class == {"thing": pytest.approx(100), "other": None}


def test_ap_is_stricter_than_ap50():
    data = seen([2, 2, 10, 8])  # IoU 0.75: six of the ten thresholds
    assert evaluate(always, detector("ap50"), data).value == pytest.approx(100)
    assert evaluate(always, detector("ap"), data).value == pytest.approx(60)


def test_tensors_are_fed_as_they_are_and_raw_outputs_are_handed_to_the_metric():
    spec = ModelSpec("t", "tensor", (TensorSpec("x", "float32", (1, 2)),), ())
    data = dataset(
        Sample("a", feeds={"x": np.ones((1, 2), np.float32)}), Sample("b", feeds={"x": np.ones((1, 2), np.float32)})
    )
    answers = [
        answer for _, batch in predict(lambda feeds: {"y": feeds["x"] * 2}, spec, data.samples) for answer in batch
    ]
    assert [answer["y"].tolist() for answer in answers] == [[[2, 2]], [[2, 2]]]
    assert evaluate(lambda feeds: feeds, spec, data, lambda predictions, truths: float(len(predictions))).value == 2


def test_a_model_without_a_metric_is_a_usage_error_that_lists_them():
    spec = ModelSpec("t", "tensor", (), ())
    for metric in (None, "mine:metric"):
        with pytest.raises(UsageError) as caught:
            evaluate(brightest, ModelSpec(**{**vars(spec), "metric": metric}), coloured(1))
        assert all(name in str(caught.value) for name in BUILT_IN_METRICS)


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        (classifier(1), dataset(Sample("a", np.zeros((4, 4, 3), np.uint8)))),
        (detector("top1"), seen([0, 0, 4, 4])),
        (detector("ap"), coloured(1)),
    ],
)
def test_data_that_do_not_fit_the_metric_are_refused(spec, data):
    run = brightest if spec.task == "classification" else always
    with pytest.raises(InputError, match="cannot compute"):
        evaluate(run, spec, data)


def test_pictures_for_a_model_that_cannot_take_them_are_refused():
    spec = ModelSpec(**{**vars(classifier(1)), "preprocess": None})
    with pytest.raises(InputError, match="nothing says how they become tensors"):
        evaluate(brightest, spec, coloured(1))
