"""Average precision against worked examples and against pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.evaluate.datasets import Boxes
from edgekit.evaluate.metrics import COCO_THRESHOLDS, average_precision, top1
from edgekit.processing.detect import Detections


def found(*rows):
    """Rows of x1 y1 x2 y2 score label."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def truth(*rows):
    """Rows of x1 y1 x2 y2 label ignore."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Boxes(table[:, :4].astype(np.float32), table[:, 4].astype(np.int64), table[:, 5].astype(np.bool_))


def test_perfect_detections_score_one_at_every_threshold_even_at_one():
    boxes = (0, 0, 10, 10), (20, 20, 50, 40)
    result = average_precision(
        [found(*((*box, 0.9, 0) for box in boxes))],
        [truth(*((*box, 0, 0) for box in boxes))],
        1,
        (*COCO_THRESHOLDS, 1.0),
    )
    assert result.mean == pytest.approx(1, abs=1e-12)


def test_half_of_the_recall_at_full_precision_scores_the_51_points_up_to_it():
    result = average_precision(
        [found((0, 0, 10, 10, 0.9, 0))], [truth((0, 0, 10, 10, 0, 0), (50, 50, 60, 60, 0, 0))], 1, (0.5,)
    )
    assert result.mean == pytest.approx(51 / 101, abs=1e-12)


def test_a_better_scored_miss_halves_the_precision():
    result = average_precision(
        [found((80, 80, 90, 90, 0.95, 0), (0, 0, 10, 10, 0.9, 0))], [truth((0, 0, 10, 10, 0, 0))], 1, (0.5,)
    )
    assert result.mean == pytest.approx(0.5, abs=1e-12)


def test_a_second_detection_of_the_same_thing_is_a_miss():
    twice = found((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.7, 0))
    result = average_precision([twice], [truth((0, 0, 10, 10, 0, 0), (50, 50, 60, 60, 0, 0))], 1, (0.5,))
    assert result.mean == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)


def test_ignored_truths_count_neither_as_hit_nor_as_miss():
    truths = [truth((0, 0, 10, 10, 0, 0), (50, 50, 90, 90, 0, 1))]
    detections = [found((50, 50, 90, 90, 0.99, 0), (52, 52, 80, 80, 0.98, 0), (0, 0, 10, 10, 0.9, 0))]
    assert average_precision(detections, truths, 1).mean == pytest.approx(1, abs=1e-12)


def test_classes_without_truths_are_left_out_of_the_mean():
    result = average_precision([found((0, 0, 10, 10, 0.9, 0), (0, 0, 5, 5, 0.9, 1))], [truth((0, 0, 10, 10, 0, 0))], 3)
    assert result.per_class == (pytest.approx(1, abs=1e-12), None, None)
    assert result.mean == pytest.approx(1, abs=1e-12)


def test_a_class_that_is_never_found_scores_zero():
    result = average_precision([found()], [truth((0, 0, 10, 10, 0, 0))], 1)
    assert (result.mean, result.per_class) == (0.0, (0.0,))


def test_nothing_to_find_has_no_mean():
    assert average_precision([found()], [truth()], 2).mean is None


def test_one_answer_a_picture_is_demanded():
    with pytest.raises(InputError, match="1 predictions for 2 truths"):
        average_precision([found()], [truth(), truth()], 1)


def random_case(seed):
    """Pictures with jittered, doubled, missed and invented boxes, crowds, score ties, and more than 100 of a class."""
    random = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(int(random.integers(1, 8))):
        count = int(random.integers(0, 12))
        corner = random.integers(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + random.integers(1, 40, (count, 2))], axis=1)
        labels = random.integers(0, 3, count)
        truths.append(truth(*((*box, label, random.random() < 0.2) for box, label in zip(boxes, labels, strict=True))))
        rows = []
        for box, label in zip(boxes, labels, strict=True):
            for _ in range(int(random.integers(0, 4))):
                jitter = box + random.integers(-4, 5, 4) * (random.random() < 0.7)
                x1, y1, x2, y2 = jitter[0], jitter[1], max(jitter[0] + 1, jitter[2]), max(jitter[1] + 1, jitter[3])
                rows.append((x1, y1, x2, y2, random.integers(1, 20) / 20, label if random.random() < 0.9 else 0))
        for _ in range(150 if random.random() < 0.2 else 3):
            x, y, w, h = random.integers(1, 50, 4)
            rows.append((x, y, x + w, y + h, random.integers(1, 20) / 20, 0))
        detections.append(found(*rows))
    return detections, truths


def coco(detections, truths, classes):
    """AP, AP50 and AP a class, as pycocotools has them."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box):
        x1, y1, x2, y2 = map(float, box)
        return [x1, y1, x2 - x1, y2 - y1]

    annotations, results = [], []
    for image, (got, want) in enumerate(zip(detections, truths, strict=True), start=1):
        for box, label, ignore in zip(want.boxes, want.labels, want.ignore, strict=True):
            _, _, w, h = xywh(box)
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 1, "bbox": xywh(box)}
            annotations.append({**entry, "area": w * h, "iscrowd": int(ignore)})
        for box, score, label in zip(got.boxes, got.scores, got.labels, strict=True):
            results.append({"image_id": image, "category_id": int(label) + 1, "bbox": xywh(box), "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": i + 1} for i in range(len(truths))],
            "annotations": annotations,
            "categories": [{"id": i + 1} for i in range(classes)],
        }
        data.createIndex()
        run = COCOeval(data, data.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, 2]  # (thresholds, recalls, classes), all areas, 100 detections
    per_class = [None if (precision[:, :, c] < 0).all() else float(precision[:, :, c].mean()) for c in range(classes)]
    return float(run.stats[0]), float(run.stats[1]), per_class


@pytest.mark.parametrize("seed", range(40))
def test_average_precision_equals_pycocotools(seed):
    detections, truths = random_case(seed)
    if not any(len(item) for item in detections):
        detections[0] = found((0, 0, 1, 1, 0.5, 0))  # pycocotools reads no empty result
    ap, ap50, per_class = coco(detections, truths, 3)
    ours = average_precision(detections, truths, 3)
    assert ours.per_class == pytest.approx(per_class, abs=1e-9)
    if ours.mean is None:
        assert ap == -1
    else:
        assert ours.mean == pytest.approx(ap, abs=1e-9)
        assert average_precision(detections, truths, 3, (0.5,)).mean == pytest.approx(ap50, abs=1e-9)


def test_top1_is_the_share_of_right_answers():
    assert top1([1, 2, 3, 0], [1, 2, 0, 0]) == 0.75
    with pytest.raises(InputError):
        top1([], [])
