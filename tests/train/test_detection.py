"""The loop learns, its rate follows the schedule, and what it keeps is the average."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgekit.errors import UsageError  # noqa: E402
from edgekit.models.femtodet import MEAN, STD, FemtoDet, FemtoDetConfig  # noqa: E402
from edgekit.train.augment import Augmentation, Picture  # noqa: E402
from edgekit.train.detection import DetectionSchedule, MovingAverage, learning_rate_factor, train_detector  # noqa: E402
from edgekit.train.losses import Truth  # noqa: E402

SCHEDULE = DetectionSchedule(
    sizes=((0.0, 64),), stride=16, mean=MEAN, std=STD, epochs=8, batch=2, augmentation=Augmentation.none()
)


def pictures() -> list[Picture]:
    """Two pictures, a bright and a dark square on grey."""
    found = []
    for label, (colour, corner) in enumerate([(250, 8), (10, 24)]):
        pixels = torch.full((3, 64, 64), 128, dtype=torch.uint8)
        pixels[:, corner : corner + 32, corner : corner + 32] = colour
        box = torch.tensor([[corner, corner, corner + 32, corner + 32]], dtype=torch.float32)
        found.append(Picture(pixels, Truth(box, torch.tensor([label]))))
    return found


def train(schedule: DetectionSchedule) -> tuple[list[float], nn.Module, nn.Module]:
    network = FemtoDet(FemtoDetConfig(2))
    losses: list[float] = []
    averaged = train_detector(network, pictures(), schedule, lambda epoch, loss, _: losses.append(loss))
    return losses, network, averaged


def test_the_loss_falls_within_a_few_steps_on_two_pictures(torch_seed: None) -> None:
    losses, _, averaged = train(replace(SCHEDULE, clean=0.0))
    assert len(losses) == 8 and all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.7 * losses[0]
    assert not averaged.training


def test_training_is_repeatable(torch_seed: None) -> None:
    state = copy.deepcopy(FemtoDet(FemtoDetConfig(2)).state_dict())
    found = []
    for _ in range(2):
        network = FemtoDet(FemtoDetConfig(2))
        network.load_state_dict(state)
        schedule = replace(SCHEDULE, epochs=2, augmentation=Augmentation())
        found.append(train_detector(network, pictures(), schedule, lambda *_: None).state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_fewer_pictures_than_a_batch_are_refused() -> None:
    with pytest.raises(UsageError, match="do not fill a batch"):
        train_detector(FemtoDet(), pictures(), replace(SCHEDULE, batch=3), lambda *_: None)


def test_the_rate_rises_quadratically_and_falls_as_a_cosine_to_a_twentieth() -> None:
    assert learning_rate_factor(0.0, 0.1) == 0.0
    assert learning_rate_factor(0.05, 0.1) == pytest.approx(0.25)
    assert learning_rate_factor(0.1, 0.1) == pytest.approx(1.0)
    assert learning_rate_factor(0.55, 0.1) == pytest.approx((1 + 0.05) / 2)
    assert learning_rate_factor(1.0, 0.1) == pytest.approx(0.05)
    assert learning_rate_factor(0.0, 0.0) == 1.0
    after = [learning_rate_factor(step / 100, 0.1) for step in range(10, 101)]
    assert after == sorted(after, reverse=True)


def test_the_picture_side_changes_at_its_fraction_of_the_run() -> None:
    schedule = replace(SCHEDULE, sizes=((0.0, 256), (0.5, 320), (0.9, 416)))
    assert [schedule.size_at(p) for p in (0.0, 0.49, 0.5, 0.89, 0.9, 1.0)] == [256, 256, 320, 320, 416, 416]


def test_norms_and_biases_do_not_decay() -> None:
    from edgekit.train.detection import _optimizer

    network = FemtoDet(FemtoDetConfig(2))
    decayed, plain = _optimizer(network, SCHEDULE).param_groups
    assert decayed["weight_decay"] == 5e-4 and plain["weight_decay"] == 0.0
    assert all(parameter.ndim == 4 for parameter in decayed["params"])
    assert sum(len(group["params"]) for group in (decayed, plain)) == len(list(network.parameters()))


def test_the_average_follows_the_weights_with_its_ramp_and_copies_counters() -> None:
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    module[0].weight.data.fill_(0.0)
    average = MovingAverage(module, decay=0.9)
    wanted = 0.0
    for update in range(1, 4):
        module[0].weight.data.fill_(float(update))
        module[1].num_batches_tracked.fill_(update)
        decay = 0.9 * (1 - math.exp(-update / 200))
        wanted = decay * wanted + (1 - decay) * update
        average.update(module)
        assert average.module[0].weight.item() == pytest.approx(wanted, rel=1e-5)
        assert int(average.module[1].num_batches_tracked) == update
    assert module[0].weight.item() == 3.0 and module.training and not average.module.training


def test_a_long_run_of_equal_weights_ends_at_them() -> None:
    module = nn.Linear(1, 1)
    average = MovingAverage(module, decay=0.5)
    module.weight.data.fill_(7.0)
    for _ in range(60):
        average.update(module)
    assert average.module.weight.item() == pytest.approx(7.0)
