"""The drawn picture: always the same, and its cells are where it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.smear import HEIGHT, WIDTH, draw_smear


def test_the_same_seed_draws_the_same_picture() -> None:
    one, other = draw_smear(3), draw_smear(3)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert not np.array_equal(one.image, draw_smear(4).image)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 9))
def test_one_white_cell_and_the_red_ones_lie_inside_and_do_not_touch(seed: int, red_cells: int) -> None:
    smear = draw_smear(seed, red_cells)
    assert smear.image.shape == (HEIGHT, WIDTH, 3)
    assert smear.image.dtype == np.uint8
    assert smear.boxes.dtype == np.float32
    assert smear.labels.count("WBC") == 1
    assert len(smear.labels) == len(smear.boxes) <= red_cells + 1
    assert (smear.boxes >= 0).all()
    assert (smear.boxes[:, 2] <= WIDTH).all()
    assert (smear.boxes[:, 3] <= HEIGHT).all()
    centres = (smear.boxes[:, :2] + smear.boxes[:, 2:]) / 2
    radii = (smear.boxes[:, 2] - smear.boxes[:, 0]) / 2
    for i in range(len(radii)):
        for j in range(i):
            assert np.hypot(*(centres[i] - centres[j])) > radii[i] + radii[j]


def test_cells_are_darker_than_the_background_and_the_white_ones_nucleus_is_violet() -> None:
    smear = draw_smear()
    background = np.median(smear.image[:8].reshape(-1, 3), axis=0)
    for (x1, y1, x2, y2), label in zip(smear.boxes.astype(int), smear.labels, strict=True):
        cell = smear.image[y1:y2, x1:x2].reshape(-1, 3).astype(float)
        assert cell[:, 1].mean() < background[1] - 5
        darkest = cell[cell.sum(axis=1).argsort()[:50]].mean(axis=0)
        assert (darkest[2] > darkest[0]) == (label == "WBC")


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_red_cells_can_be_asked_for(count: int) -> None:
    assert draw_smear(0, count).labels.count("RBC") == count
