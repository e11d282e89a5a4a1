"""Boxes follow the pixels: a painted rectangle is found again where its box says it is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor  # noqa: E402

from edgekit.train.augment import MIN_SIDE, PAD, Augmentation, Picture, _clip, _turn, _warp, compose  # noqa: E402
from edgekit.train.losses import Truth  # noqa: E402

SEEDS = st.integers(0, 2**31)


def painted(height: int, width: int, box: tuple[int, int, int, int], colour: int = 255) -> Picture:
    """A black picture with one bright rectangle, whose upper left quarter is marked in red."""
    x1, y1, x2, y2 = box
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    pixels[:, y1:y2, x1:x2] = colour
    return Picture(pixels, Truth(torch.tensor([box], dtype=torch.float32), torch.tensor([0])))


def extent(pixels: Tensor) -> list[float]:
    """The corners of what is bright in all channels."""
    rows, columns = (pixels.float().min(dim=0).values > 185).nonzero(as_tuple=True)
    return [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_boxes_follow_the_pixels_exactly_under_turns_and_flips(seed: int) -> None:
    picture = painted(40, 60, (7, 3, 31, 15))
    turned = _turn(picture, Augmentation(), torch.Generator().manual_seed(seed))
    assert turned.truth.boxes[0].tolist() == extent(turned.pixels)


def test_turns_reach_all_eight_symmetries_of_the_square() -> None:
    picture = painted(64, 64, (2, 8, 20, 13))
    random = torch.Generator().manual_seed(0)
    seen = {tuple(_turn(picture, Augmentation(), random).truth.boxes[0].tolist()) for _ in range(200)}
    assert len(seen) == 8


@given(SEEDS, st.sampled_from([(120, 160), (160, 120), (128, 128)]), st.sampled_from([96, 128, 200]))
@settings(max_examples=60, deadline=None)
def test_boxes_follow_the_pixels_under_zoom_and_shift(seed: int, shape: tuple[int, int], size: int) -> None:
    picture = painted(*shape, (40, 44, 80, 76))
    pixels, truth = _warp(picture, size, Augmentation(), torch.Generator().manual_seed(seed))
    assert pixels.shape == (3, size, size)
    if len(truth.boxes):
        assert truth.boxes[0].tolist() == pytest.approx(extent(pixels), abs=1.6)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_boxes_follow_the_pixels_through_a_mosaic(seed: int) -> None:
    picture = painted(100, 100, (30, 36, 70, 68))
    how = Augmentation(mosaic=1.0, colour=0.0)
    pixels, truth = compose([picture] * 3, 0, 128, how, torch.Generator().manual_seed(seed))
    assert pixels.shape == (3, 128, 128)
    for box in truth.boxes:
        left, top = (64 * (box[:2] >= 64).int()).tolist()
        found = extent(pixels[:, top : top + 64, left : left + 64])
        assert box.tolist() == pytest.approx(
            [found[0] + left, found[1] + top, found[2] + left, found[3] + top], abs=1.6
        )


def test_without_augmentation_a_picture_is_letterboxed_as_at_test_time() -> None:
    from edgekit.processing.preprocess import prepare
    from edgekit.spec import ImagePreprocess

    random = torch.Generator().manual_seed(3)
    smooth = torch.rand(3, 6, 8, generator=random) * 255
    resized = torch.nn.functional.interpolate(smooth[None], size=(96, 128), mode="bilinear")[0]
    picture = Picture(resized.to(torch.uint8), Truth(torch.tensor([[16.0, 24.0, 64.0, 48.0]]), torch.tensor([2])))
    pixels, truth = compose([picture], 0, 64, Augmentation.none(), random)
    pre = ImagePreprocess(input="image", height=64, width=64)
    wanted = prepare(pre, picture.pixels.permute(1, 2, 0).contiguous().numpy())[0][0]
    difference = (pixels - torch.from_numpy(wanted)).abs()
    assert float(difference[:, :47].max()) <= 1.0  # half a grey level of rounding; the last row blends with the padding
    assert bool((pixels[:, 49:] == PAD).all())
    assert truth.boxes.tolist() == [[8.0, 12.0, 32.0, 24.0]] and truth.labels.tolist() == [2]


def test_the_same_seed_gives_the_same_sample() -> None:
    pictures = [painted(50, 70, (10, 10, 40, 40), 200), painted(70, 50, (5, 20, 45, 60), 250)]
    first, second = (compose(pictures, 1, 64, Augmentation(), torch.Generator().manual_seed(8)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1].boxes, second[1].boxes)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_samples_stay_within_pixel_values_and_boxes_within_the_picture(seed: int) -> None:
    pictures = [painted(50, 70, (0, 0, 70, 50)), painted(70, 50, (30, 40, 50, 70))]
    pixels, truth = compose(pictures, 0, 95, Augmentation(), torch.Generator().manual_seed(seed))
    assert float(pixels.min()) >= 0 and float(pixels.max()) <= 255
    assert bool((truth.boxes >= 0).all()) and bool((truth.boxes <= 95).all())
    assert bool((truth.boxes[:, 2:] > truth.boxes[:, :2]).all())
    assert len(truth.boxes) == len(truth.labels)


def test_boxes_that_are_cut_to_slivers_are_dropped() -> None:
    boxes = torch.tensor([[-30.0, 0, 10, 40], [-5, 0, 35, 40], [10, 10, 10 + MIN_SIDE, 60], [200, 200, 260, 260]])
    kept = _clip(boxes, torch.arange(4), 100)
    assert kept.labels.tolist() == [1]  # the others: a quarter visible, too thin, outside
    assert kept.boxes.tolist() == [[0.0, 0.0, 35.0, 40.0]]


def test_a_picture_without_boxes_stays_without() -> None:
    empty = Picture(
        torch.zeros(3, 20, 30, dtype=torch.uint8), Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    )
    _, truth = compose([empty], 0, 64, Augmentation(mosaic=1.0), torch.Generator().manual_seed(0))
    assert truth.boxes.shape == (0, 4) and truth.labels.shape == (0,)
