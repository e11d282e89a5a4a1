"""The loss decodes as the device does, and falls where the prediction gets better."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgekit.train.losses import Truth, detection_loss, unpack  # noqa: E402

STRIDE = 16


def perfect_head(truth: Truth, grid: int = 6, classes: int = 2, confidence: float = 12.0) -> Tensor:
    """Logits whose every cell predicts the first box, with all confidence in the cells inside it."""
    x1, y1, x2, y2 = truth.boxes[0].tolist()
    head = torch.full((1, 5 + classes, grid, grid), -confidence)
    for i in range(grid):
        for j in range(grid):
            head[0, 0, i, j] = (x1 + x2) / 2 / STRIDE - j
            head[0, 1, i, j] = (y1 + y2) / 2 / STRIDE - i
            head[0, 2, i, j] = math.log((x2 - x1) / STRIDE)
            head[0, 3, i, j] = math.log((y2 - y1) / STRIDE)
            head[0, 5 + int(truth.labels[0]), i, j] = confidence
    return head


TRUTH = Truth(torch.tensor([[20.0, 30.0, 60.0, 90.0]]), torch.tensor([1]))


def test_a_head_map_is_decoded_cell_by_cell() -> None:
    head = torch.randn(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    found = unpack(head, STRIDE)
    for n, i, j in [(0, 0, 0), (0, 2, 3), (1, 1, 2)]:
        cell, p = head[n, :, i, j], i * 4 + j
        x, y = float(cell[0]) * 16 + j * 16, float(cell[1]) * 16 + i * 16
        w, h = math.exp(cell[2]) * 16, math.exp(cell[3]) * 16
        wanted = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        assert found.boxes[n, p].tolist() == pytest.approx(wanted, rel=1e-5)
        assert found.priors[p].tolist() == [j * 16, i * 16]
        assert found.objectness[n, p] == cell[4] and torch.equal(found.classes[n, p], cell[5:])


def test_decoding_agrees_with_the_devices_own() -> None:
    from edgekit.processing.detect import detections
    from edgekit.processing.preprocess import prepare
    from edgekit.spec import DetectionPostprocess, ImagePreprocess

    head = perfect_head(TRUTH)
    head[0, 4] = -20
    head[0, 4, 2, 2] = 20
    post = DetectionPostprocess(outputs=("head",), decode="yolox-grid", stride=STRIDE, score_threshold=0.5)
    image = torch.zeros(96, 96, 3, dtype=torch.uint8).numpy()
    _, placement = prepare(ImagePreprocess(input="image", height=96, width=96), image)
    (found,) = detections(post, {"head": head.numpy()}, [placement])
    assert found.boxes[0].tolist() == pytest.approx(unpack(head, STRIDE).boxes[0, 14].tolist(), abs=1e-3)
    assert found.labels.tolist() == [1]


def test_a_perfect_prediction_costs_almost_nothing_beyond_objectness() -> None:
    head = perfect_head(TRUTH)
    positives = unpack(head, STRIDE)
    assert torch.allclose(positives.boxes[0, 0], TRUTH.boxes[0], atol=1e-3)
    loss = detection_loss(head, [TRUTH], STRIDE, l1=True, hard_classes=True)
    head[:, 4] = 0  # what is left is the objectness of 36 cells at one half
    count = 10  # all candidates overlap perfectly, so the ten best are taken
    even = detection_loss(head, [TRUTH], STRIDE, l1=True, hard_classes=True)
    assert float(even) == pytest.approx(36 * math.log(2) / count, rel=1e-3)
    assert loss > even  # confident that there is nothing is worse than not to know


def test_moving_a_box_away_costs_and_l1_adds_to_it() -> None:
    near, far = perfect_head(TRUTH), perfect_head(TRUTH)
    far[:, 0] += 0.3
    for l1 in (False, True):
        cost = [float(detection_loss(head, [TRUTH], STRIDE, l1=l1, hard_classes=True)) for head in (near, far)]
        assert cost[1] > cost[0]
    without, with_l1 = (float(detection_loss(far, [TRUTH], STRIDE, l1=l1, hard_classes=True)) for l1 in (False, True))
    assert with_l1 - without == pytest.approx(0.3, rel=1e-3)  # a positive: 0.3 cells


def test_class_targets_are_scaled_by_iou_unless_they_are_hard() -> None:
    head = perfect_head(TRUTH, confidence=3.0)
    head[:, 0] += 0.5
    soft = detection_loss(head, [TRUTH], STRIDE, l1=False, hard_classes=False)
    hard = detection_loss(head, [TRUTH], STRIDE, l1=False, hard_classes=True)
    overlap = (40 - 8) / (40 + 8)
    logit = torch.tensor(3.0)
    difference = F.binary_cross_entropy_with_logits(logit, torch.tensor(overlap)) - F.binary_cross_entropy_with_logits(
        logit, torch.tensor(1.0)
    )
    assert float(soft - hard) == pytest.approx(float(difference), rel=1e-3)


def test_images_without_objects_cost_objectness_only_and_have_a_gradient() -> None:
    empty = Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    head = torch.zeros(2, 7, 3, 3, requires_grad=True)
    loss = detection_loss(head, [empty, empty], STRIDE, l1=True, hard_classes=False)
    assert loss.item() == pytest.approx(18 * math.log(2), rel=1e-5)
    loss.backward()
    assert head.grad is not None and bool((head.grad[:, 4] > 0).all()) and not head.grad[:, :4].any()


def test_objects_of_one_image_are_matched_in_that_image_only() -> None:
    empty = Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    head = perfect_head(TRUTH).repeat(2, 1, 1, 1).requires_grad_()
    detection_loss(head, [empty, TRUTH], STRIDE, l1=True, hard_classes=True).backward()
    assert head.grad is not None
    assert not head.grad[0, 5:].any() and head.grad[1, 5:].any()
