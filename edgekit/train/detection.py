"""Trains a grid detector: SGD with warm-up and cosine, exponential averaging, mosaics that stop before the end."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.train.augment import Augmentation, Picture, compose
from edgekit.train.losses import Truth, detection_loss


@dataclass(frozen=True)
class DetectionSchedule:
    """A plain schedule; fractions are of the whole run.

    Attributes:
        sizes: (from which fraction on, picture side in pixels), in order; small pictures first cost less.
        stride: pixels a cell.
        mean, std: normalisation, 0 to 255.
        learning_rate, momentum, weight_decay: SGD with Nesterov momentum; no decay on norms and biases.
        warm_up: fraction with quadratically rising rate; then cosine to 5 % of it (YOLOX).
        clean: fraction at the end with letterboxed pictures only and the L1 loss on.
        hard_classes: fraction at the start with one-hot class targets.
        ema: decay of the exponential moving average of the weights, which is what is kept.
    """

    sizes: tuple[tuple[float, int], ...]
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    epochs: int = 200
    batch: int = 16
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.03
    clean: float = 0.1
    hard_classes: float = 0.3
    ema: float = 0.998
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def size_at(self, progress: float) -> int:
        """The picture side at `progress` (0 to 1)."""
        return [size for start, size in self.sizes if progress >= start][-1]


class MovingAverage:
    """The exponential moving average of a module's floating-point state, with the usual ramp at the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval()
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards `module`."""
        self._updates += 1
        decay = self._decay * (1 - math.exp(-self._updates / 200))
        for average, value in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if average.dtype.is_floating_point:
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


def train_detector(
    model: nn.Module,
    pictures: list[Picture],
    schedule: DetectionSchedule,
    after_epoch: Callable[[int, float, nn.Module], None],
) -> nn.Module:
    """Train `model` in place and return its averaged copy, in evaluation mode.

    Args:
        model: maps float32 (n, 3, size, size) to logits (n, 5 + classes, size / stride, size / stride).
        pictures: the training set, held in memory.
        schedule: the hyperparameters.
        after_epoch: called with the epoch (from 1), its mean loss and the averaged model.

    Raises:
        UsageError: there are fewer pictures than a batch holds.
    """
    if len(pictures) < schedule.batch:
        raise UsageError(
            f"{len(pictures)} picture(s) do not fill a batch of {schedule.batch}",
            where="train_detector",
            why="an epoch would hold no step",
            fix="train on more pictures, or with a smaller batch",
        )
    random = torch.Generator().manual_seed(schedule.seed)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster here on depthwise layers
    optimizer = _optimizer(model, schedule)
    average = MovingAverage(model, schedule.ema)
    steps = schedule.epochs * (len(pictures) // schedule.batch)
    step = 0
    for epoch in range(schedule.epochs):
        progress = epoch / schedule.epochs
        closing = progress >= 1 - schedule.clean
        augmentation = Augmentation.none() if closing else schedule.augmentation
        model.train()
        losses = []
        for images, truths in _batches(pictures, schedule, schedule.size_at(progress), augmentation, random):
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * learning_rate_factor(step / steps, schedule.warm_up)
            loss = detection_loss(
                model(images), truths, schedule.stride, l1=closing, hard_classes=progress < schedule.hard_classes
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            average.update(model)
            losses.append(loss.item())
            step += 1
        after_epoch(epoch + 1, sum(losses) / len(losses), average.module)
    return average.module


def learning_rate_factor(progress: float, warm_up: float) -> float:
    """Quadratic warm-up, then cosine from 1 to 0.05 (the YOLOX schedule)."""
    if progress < warm_up:
        return (progress / warm_up) ** 2
    after = (progress - warm_up) / (1 - warm_up)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * after))


def _optimizer(model: nn.Module, schedule: DetectionSchedule) -> torch.optim.SGD:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum, nesterov=True)


def _batches(
    pictures: list[Picture], schedule: DetectionSchedule, size: int, augmentation: Augmentation, random: torch.Generator
) -> Iterator[tuple[Tensor, list[Truth]]]:
    mean = torch.tensor(schedule.mean).view(1, 3, 1, 1)
    std = torch.tensor(schedule.std).view(1, 3, 1, 1)
    order = torch.randperm(len(pictures), generator=random).tolist()
    for start in range(0, len(order) - schedule.batch + 1, schedule.batch):
        chosen = order[start : start + schedule.batch]
        samples = [compose(pictures, index, size, augmentation, random) for index in chosen]
        images = (torch.stack([pixels for pixels, _ in samples]) - mean) / std
        yield images.contiguous(memory_format=torch.channels_last), [truth for _, truth in samples]
