"""SimOTA, held against a slow reference that follows the paper loop by loop."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor  # noqa: E402

from edgekit.train.assign import assign, pairwise_iou  # noqa: E402

STRIDE = 16


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / max(union, 1e-6)


def simota(
    priors: Tensor, predicted: Tensor, scores: Tensor, boxes: Tensor, labels: Tensor
) -> dict[int, tuple[int, float]]:
    """Positive prior to (box, IoU): YOLOX, section 2.1, with center radius 2.5, top 10, and IoU weight 3."""
    cost: dict[tuple[int, int], float] = {}
    overlap: dict[tuple[int, int], float] = {}
    inside: dict[tuple[int, int], tuple[bool, bool]] = {}
    for p, (px, py) in enumerate(priors.tolist()):
        x, y = px + STRIDE / 2, py + STRIDE / 2
        for b, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
            reach = 2.5 * STRIDE
            in_box = x1 < x < x2 and y1 < y < y2
            in_center = abs(x - middle_x) < reach and abs(y - middle_y) < reach
            inside[p, b] = (in_box, in_center)
    candidates = [p for p in range(len(priors)) if any(any(inside[p, b]) for b in range(len(boxes)))]
    for p in candidates:
        for b, label in enumerate(labels.tolist()):
            overlap[p, b] = iou(predicted[p].tolist(), boxes[b].tolist())
            entropy = 0.0
            for c, score in enumerate(scores[p].tolist()):
                entropy -= math.log(score) if c == label else math.log(1 - score)
            outside = 0.0 if all(inside[p, b]) else 1e8
            cost[p, b] = entropy - 3 * math.log(overlap[p, b] + 1e-8) + outside
    taken: dict[int, list[int]] = {p: [] for p in candidates}
    for b in range(len(boxes)):
        best = sorted((overlap[p, b] for p in candidates), reverse=True)[:10]
        k = max(1, int(sum(best)))
        for p in sorted(candidates, key=lambda p: cost[p, b])[:k]:
            taken[p].append(b)
    matched = {}
    for p, claimants in taken.items():
        if claimants:
            b = claimants[0] if len(claimants) == 1 else min(range(len(boxes)), key=lambda b: cost[p, b])
            matched[p] = (b, overlap[p, b])
    return matched


def scene(seed: int, count: int, grid: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Priors, predictions, scores, boxes and labels in float64: sums near a whole number fall on one side."""
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    priors = torch.stack([columns, rows], -1).reshape(-1, 2).double() * STRIDE
    side = grid * STRIDE
    corner, extent = uniform(count, 2) * side * 0.7, 8 + uniform(count, 2) * side * 0.5
    boxes = torch.cat([corner, (corner + extent).clamp(max=float(side))], 1)
    center, half = priors + 8 + (uniform(len(priors), 2) - 0.5) * 30, 4 + uniform(len(priors), 2) * 40
    predicted = torch.cat([center - half, center + half], 1)
    scores = 0.02 + 0.96 * uniform(len(priors), 3)
    labels = torch.randint(3, (count,), generator=random)
    return priors, predicted, scores, boxes, labels


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(4, 8))
@settings(max_examples=40, deadline=None)
def test_assignment_equals_the_slow_reference(seed: int, count: int, grid: int) -> None:
    priors, predicted, scores, boxes, labels = scene(seed, count, grid)
    found = assign(priors, STRIDE, predicted, scores, boxes, labels)
    wanted = simota(priors, predicted, scores, boxes, labels)
    assert found.positive.nonzero().flatten().tolist() == sorted(wanted)
    assert found.matched.tolist() == [wanted[p][0] for p in sorted(wanted)]
    assert found.iou.tolist() == pytest.approx([wanted[p][1] for p in sorted(wanted)], rel=1e-9)


def test_an_image_without_boxes_has_no_positive() -> None:
    priors, predicted, scores, boxes, labels = scene(0, 1, 4)
    found = assign(priors, STRIDE, predicted, scores, boxes[:0], labels[:0])
    assert not found.positive.any() and found.positive.shape == (16,)
    assert found.matched.shape == (0,) and found.iou.shape == (0,)


def test_a_box_out_of_reach_of_all_priors_is_left_alone() -> None:
    priors, predicted, scores, _, labels = scene(0, 1, 4)
    far = torch.tensor([[1000.0, 1000.0, 1010.0, 1010.0]], dtype=torch.float64)
    assert not assign(priors, STRIDE, predicted, scores, far, labels).positive.any()


def test_every_box_within_reach_gets_a_prior_even_where_nothing_overlaps() -> None:
    priors, predicted, scores, _, _ = scene(1, 1, 6)
    boxes = torch.tensor([[3.0, 3.0, 9.0, 9.0], [80.0, 80.0, 88.0, 90.0]], dtype=torch.float64)
    found = assign(priors, STRIDE, predicted + 500, scores, boxes, torch.tensor([0, 1]))
    assert sorted(found.matched.tolist()) == [0, 1]


def test_iou_of_touching_nested_and_empty_boxes() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 0, 0]])
    b = torch.tensor([[2.0, 0, 4, 2], [0, 0, 1, 1], [1, 1, 3, 3]])
    assert torch.allclose(pairwise_iou(a, b), torch.tensor([[0, 1 / 4, 1 / 7], [0, 0, 0]]))
