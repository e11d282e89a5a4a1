"""SimOTA label assignment (YOLOX, arXiv 2107.08430, section 2.1) with the settings FemtoDet uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CENTER_RADIUS = 2.5  # in strides
CANDIDATES = 10  # priors whose IoU is summed for the dynamic k
IOU_WEIGHT = 3.0
OUTSIDE_COST = 1e8


@dataclass(frozen=True)
class Assignment:
    """For one image: which priors are positive, and for each the index of its box and their IoU.

    Attributes:
        positive: bool (priors,).
        matched: int64 (positives,), indices into the boxes.
        iou: float (positives,), IoU of the prediction with its box.
    """

    positive: Tensor
    matched: Tensor
    iou: Tensor


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (n, m) of corner boxes `a` (n, 4) and `b` (m, 4)."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0).prod(dim=2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(dim=1), (b[:, 2:] - b[:, :2]).prod(dim=1)
    return overlap / (area_a[:, None] + area_b[None, :] - overlap).clamp(min=1e-6)


@torch.no_grad()
def assign(priors: Tensor, stride: int, predicted: Tensor, scores: Tensor, boxes: Tensor, labels: Tensor) -> Assignment:
    """Match priors to boxes at minimal cost.

    Args:
        priors: (priors, 2), x and y of the cell corners in pixels; half a stride is added to get the centres.
        stride: pixels a cell.
        predicted: (priors, 4), decoded corner boxes.
        scores: (priors, classes), sqrt(class probability x objectness).
        boxes: (boxes, 4), corners in pixels.
        labels: int64 (boxes,).
    """
    count = priors.shape[0]
    centers = priors + stride / 2
    if boxes.shape[0] == 0:
        none = torch.zeros(count, dtype=torch.bool)
        return Assignment(none, labels.new_zeros(0), predicted.new_zeros(0))
    in_box, in_center = _containment(centers, stride, boxes)
    candidate = (in_box | in_center).any(dim=1)

    iou = pairwise_iou(predicted[candidate], boxes)
    target = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
    class_cost = F.binary_cross_entropy(
        scores[candidate][:, None].expand(-1, len(boxes), -1), target.expand(iou.shape[0], -1, -1), reduction="none"
    ).sum(dim=2)
    cost = class_cost - IOU_WEIGHT * torch.log(iou + 1e-8)
    cost = cost + OUTSIDE_COST * ~(in_box & in_center)[candidate]

    matching = _dynamic_k(cost, iou)  # (candidates, boxes)
    chosen = matching.any(dim=1)
    positive = candidate.clone()
    positive[candidate] = chosen
    matched = matching[chosen].to(torch.int8).argmax(dim=1)
    return Assignment(positive, matched, iou[chosen, matched])


def _containment(centers: Tensor, stride: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Which prior centres (priors, boxes) lie inside a box, and which inside the square around its centre."""
    x, y = centers[:, None, 0], centers[:, None, 1]
    in_box = (x > boxes[:, 0]) & (y > boxes[:, 1]) & (x < boxes[:, 2]) & (y < boxes[:, 3])
    middle, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, CENTER_RADIUS * stride
    in_center = ((x - middle[:, 0]).abs() < radius) & ((y - middle[:, 1]).abs() < radius)
    return in_box, in_center


def _dynamic_k(cost: Tensor, iou: Tensor) -> Tensor:
    """Each box takes its k cheapest priors, k the sum of its best IoUs; a contested prior goes to its cheapest box."""
    matching = torch.zeros_like(cost, dtype=torch.bool)
    best = iou.topk(min(CANDIDATES, iou.shape[0]), dim=0).values
    for box, k in enumerate(best.sum(dim=0).int().clamp(min=1).tolist()):
        matching[cost[:, box].topk(min(k, cost.shape[0]), largest=False).indices, box] = True
    contested = matching.sum(dim=1) > 1
    if contested.any():
        winner = cost[contested].argmin(dim=1)
        matching[contested] = F.one_hot(winner, cost.shape[1]).bool()
    return matching
