"""The detection loss of YOLOX on FemtoDet's single grid: squared IoU, objectness, classes, and L1 at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.train.assign import Assignment, assign

IOU_LOSS_WEIGHT = 5.0


@dataclass(frozen=True)
class Truth:
    """The boxes of one training image: corners in pixels (n, 4) float32, labels int64 (n,)."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Predictions:
    """A head map taken apart, with one row a prior.

    Attributes:
        raw: (batch, priors, 4) box logits.
        boxes: (batch, priors, 4) decoded corners in pixels.
        objectness: (batch, priors) logits.
        classes: (batch, priors, classes) logits.
        priors: (priors, 2) cell corners in pixels.
    """

    raw: Tensor
    boxes: Tensor
    objectness: Tensor
    classes: Tensor
    priors: Tensor


def unpack(head: Tensor, stride: int) -> Predictions:
    """Decode a head map (batch, 5 + classes, h, w) of YOLOX logits; the prior of cell (i, j) is (j, i) * stride."""
    batch, channels, height, width = head.shape
    flat = head.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    priors = torch.stack([columns, rows], dim=-1).reshape(-1, 2).to(head) * stride
    raw = flat[..., :4]
    center, half = raw[..., :2] * stride + priors, raw[..., 2:].exp() * stride / 2
    return Predictions(raw, torch.cat([center - half, center + half], -1), flat[..., 4], flat[..., 5:], priors)


def detection_loss(head: Tensor, truths: list[Truth], stride: int, *, l1: bool, hard_classes: bool) -> Tensor:
    """The loss of a batch, divided by its number of positive priors.

    Args:
        head: (batch, 5 + classes, h, w) logits.
        truths: one an image.
        stride: pixels a cell.
        l1: add the L1 loss on the box logits (YOLOX does so for the last epochs).
        hard_classes: class targets are one-hot rather than scaled by IoU. Objects the size of one cell start with
            so small an IoU that scaled targets never let their class logit rise.
    """
    predictions = unpack(head, stride)
    assignments = [_assign_image(predictions, i, stride, truth) for i, truth in enumerate(truths)]
    positive = torch.stack([a.positive for a in assignments])  # (batch, priors)
    boxes = torch.cat([truth.boxes[a.matched] for truth, a in zip(truths, assignments, strict=True)])
    labels = torch.cat([truth.labels[a.matched] for truth, a in zip(truths, assignments, strict=True)])
    quality = torch.ones_like(labels, dtype=head.dtype) if hard_classes else torch.cat([a.iou for a in assignments])

    loss = F.binary_cross_entropy_with_logits(predictions.objectness, positive.to(head.dtype), reduction="sum")
    if labels.numel():
        target = F.one_hot(labels, predictions.classes.shape[-1]) * quality[:, None]
        loss = loss + F.binary_cross_entropy_with_logits(predictions.classes[positive], target, reduction="sum")
        iou = _aligned_iou(predictions.boxes[positive], boxes)
        loss = loss + IOU_LOSS_WEIGHT * (1 - iou**2).sum()
        if l1:
            priors = predictions.priors.expand(len(truths), -1, -1)[positive]
            loss = loss + (predictions.raw[positive] - _encode(boxes, priors, stride)).abs().sum()
    return loss / max(1, labels.numel())


def _assign_image(predictions: Predictions, index: int, stride: int, truth: Truth) -> Assignment:
    objectness, classes = predictions.objectness[index].sigmoid(), predictions.classes[index].sigmoid()
    scores = (classes * objectness[:, None]).sqrt().detach()
    boxes = predictions.boxes[index].detach()
    return assign(predictions.priors, stride, boxes, scores, truth.boxes, truth.labels)


def _aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (n,) of row i of `a` with row i of `b`."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - overlap
    return overlap / union.clamp(min=1e-6)


def _encode(boxes: Tensor, priors: Tensor, stride: int) -> Tensor:
    """The box logits that decode to `boxes`."""
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return torch.cat([(center - priors) / stride, torch.log(size.clamp(min=1e-3) / stride)], dim=1)
