"""Trains one of the benchmark nets on CIFAR-10, and writes its weights and a record of how they were made.

    PYTHONPATH=tools/bench python tools/train_cifar10.py cifar_resnet --epochs 30 --minutes 12

The last epoch is kept; nothing is selected on the test pictures, which are scored once, with the rounded weights that
are written. The learning rate follows whichever is further, the steps or the clock, so that a run which its minutes cut
short still anneals to zero; only a run without `--minutes` can be repeated exactly, on the same machine.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cifar10
import numpy as np
import torch
import zoo_nets
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).resolve().parent / "bench" / "weights"


@dataclass(frozen=True)
class Schedule:
    """How a net is trained: one cycle, linear warm-up and cosine to zero, label smoothing, flips and crops."""

    optimizer: str
    learning_rate: float
    weight_decay: float
    channels_last: bool
    batch: int = 128
    warm_up: float = 0.15  # share of the run
    smoothing: float = 0.1
    crop: int = 4  # pixels of padding
    clip: float = 1.0  # largest norm of the gradient; 0 is none
    seed: int = 0


SCHEDULES = {
    "cifar_resnet": Schedule("sgd", 0.2, 5e-4, channels_last=True, smoothing=0.05, clip=0.0),
    "cifar_mobilenet": Schedule("sgd", 0.2, 2e-4, channels_last=False, smoothing=0.05, clip=0.0),
    "cifar_deit": Schedule("adamw", 1.5e-3, 0.05, channels_last=False, warm_up=0.1),
}


def main() -> None:
    """Train, score, write."""
    arguments = _arguments()
    schedule = SCHEDULES[arguments.name]
    torch.manual_seed(schedule.seed)
    torch.set_num_threads(arguments.threads)
    module: nn.Module = getattr(zoo_nets, arguments.name)()
    _initialise(module)
    if schedule.channels_last:
        module = module.to(memory_format=torch.channels_last)
    pictures, labels = cifar10.load("train")
    started = time.monotonic()
    epochs = train(module, pictures, labels, schedule, arguments.epochs, arguments.minutes)
    minutes = (time.monotonic() - started) / 60
    stored = rounded(module)
    module.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}
    )
    top1 = score(module, *cifar10.load("test"))
    record = {
        "name": arguments.name,
        "top1_test": top1,
        "test_pictures": 10000,
        "epochs": epochs,
        "epochs_asked": arguments.epochs,
        "minutes": round(minutes, 1),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "torch": torch.__version__,
        "schedule": asdict(schedule),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"{arguments.name}.safetensors").write_bytes(save(stored))
    (arguments.output / f"{arguments.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


def train(
    module: nn.Module, pictures: np.ndarray, labels: np.ndarray, schedule: Schedule, epochs: int, minutes: float
) -> float:
    """Train in place, and leave `module` in evaluation mode; returns the epochs that were run."""
    optimizer = _optimizer(module, schedule)
    feed = Feed(pictures, labels, schedule)
    total = epochs * len(feed)
    started, step, seen, loss_sum = time.monotonic(), 0, 0, 0.0
    module.train()
    while True:
        for images, targets in feed.epoch():
            progress = max(step / total, (time.monotonic() - started) / (60 * minutes))
            if progress >= 1:
                module.eval()
                return step / len(feed)
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * one_cycle(progress, schedule.warm_up)
            with torch.autocast("cpu", torch.bfloat16):
                logits = module(images)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=schedule.smoothing)
            if not torch.isfinite(loss):
                raise ArithmeticError(f"the loss is {loss.item()} in step {step}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if schedule.clip:
                nn.utils.clip_grad_norm_(module.parameters(), schedule.clip)
            optimizer.step()
            step, seen, loss_sum = step + 1, seen + 1, loss_sum + loss.item()
        print(f"epoch {step / len(feed):.0f} loss {loss_sum / seen:.3f} {time.monotonic() - started:.0f} s", flush=True)
        seen, loss_sum = 0, 0.0


def one_cycle(progress: float, warm_up: float) -> float:
    """The share of the largest learning rate at `progress` in [0, 1): linear up to `warm_up`, then a half cosine."""
    if progress < warm_up:
        return 0.05 + 0.95 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


class Feed:
    """Shuffled batches, randomly shifted and mirrored, as float32 (n, 3, 32, 32) and labels int64 (n,)."""

    def __init__(self, pictures: np.ndarray, labels: np.ndarray, schedule: Schedule) -> None:
        edge = schedule.crop
        self.padded = torch.from_numpy(np.pad(pictures, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="reflect"))
        self.labels = torch.from_numpy(labels)
        self.random = torch.Generator().manual_seed(schedule.seed)
        self.schedule = schedule
        self.mean, self.std = torch.tensor(cifar10.MEAN), torch.tensor(cifar10.STD)

    def __len__(self) -> int:
        return len(self.labels) // self.schedule.batch

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass; a last, smaller batch is dropped."""
        size, order = self.schedule.batch, torch.randperm(len(self.labels), generator=self.random)
        for start in range(0, len(self) * size, size):
            chosen = order[start : start + size]
            rows, columns = self._places(size), self._places(size)
            mirrored = torch.rand(size, generator=self.random) < 0.5
            columns[mirrored] = columns[mirrored].flip(1)
            cut = self.padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]  # (n, 32, 32, 3)
            images = ((cut.float() - self.mean) / self.std).permute(0, 3, 1, 2)
            yield images if self.schedule.channels_last else images.contiguous(), self.labels[chosen]

    def _places(self, count: int) -> Tensor:
        first = torch.randint(0, 2 * self.schedule.crop + 1, (count, 1), generator=self.random)
        return first + torch.arange(32)


def rounded(module: nn.Module) -> dict[str, Tensor]:
    """The state as it is stored: floating point in float16.

    Raises:
        ArithmeticError: a value leaves float16's range.
    """
    state = {}
    for key, value in module.state_dict().items():
        half = value.detach().half().contiguous() if value.is_floating_point() else value.detach().clone()
        if half.is_floating_point() and not torch.isfinite(half).all():
            raise ArithmeticError(f"{key} does not fit float16")
        state[key] = half
    return state


def score(module: nn.Module, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 in percent, in float32 arithmetic."""
    right = 0
    module.eval()
    with torch.no_grad():
        for start in range(0, len(labels), 250):
            logits = module(torch.from_numpy(cifar10.normalise(pictures[start : start + 250])))
            right += int((logits.argmax(1).numpy() == labels[start : start + 250]).sum())
    return 100.0 * right / len(labels)


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
        elif isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
        elif isinstance(part, zoo_nets.VisionTransformer):
            nn.init.trunc_normal_(part.token, std=0.02)
            nn.init.trunc_normal_(part.positions, std=0.02)


def _optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Matrices and kernels decay; norms, biases, token and positions do not."""
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim in (2, 4)], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim not in (2, 4)], "weight_decay": 0.0},
    ]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, schedule.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, schedule.learning_rate)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SCHEDULES))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
