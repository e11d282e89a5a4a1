"""Resizing against an exact bilinear reference in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.processing import resize
from edgekit.processing.resize import resample, resize_bilinear

SIDES = st.integers(1, 70)


def exact(image, height, width):
    """Half-pixel centres, edges clamped, no antialiasing: the slow way."""

    def axis(size, new):
        centre = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
        low = np.floor(centre).astype(int)
        return low, np.minimum(low + 1, size - 1), centre - low

    y0, y1, fy = axis(image.shape[0], height)
    x0, x1, fx = axis(image.shape[1], width)
    pixels, fy, fx = image.astype(np.float64), fy[:, None, None], fx[None, :, None]
    upper = pixels[y0][:, x0] * (1 - fx) + pixels[y0][:, x1] * fx
    lower = pixels[y1][:, x0] * (1 - fx) + pixels[y1][:, x1] * fx
    return upper * (1 - fy) + lower * fy


def noise(height, width, seed, extreme=False):
    random = np.random.default_rng(seed)
    if extreme:  # only 0 and 255: the worst case for rounded weights
        return random.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9), st.booleans())
def test_any_size_to_any_size_is_within_one_grey_level_of_the_exact_value(h, w, height, width, seed, extreme):
    image = noise(h, w, seed, extreme)
    got = resize_bilinear(image, height, width)
    assert got.shape == (height, width, 3)
    assert got.dtype == np.uint8
    assert np.abs(got - np.rint(exact(image, height, width))).max() <= 1


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(
    ("source", "target"), [((1080, 1920), (234, 416)), ((480, 640), (416, 555)), ((97, 61), (352, 352))]
)
def test_real_sizes_are_within_one_grey_level_and_right_on_average(source, target, extreme):
    image = noise(*source, seed=1, extreme=extreme)
    error = resize_bilinear(image, *target) - exact(image, *target)
    assert np.abs(error).max() < 1.5  # 255/256 from the weights and 1/2 from the last rounding
    assert abs(error.mean()) < 0.05  # rounding to nearest; truncating would leave 0.5


def test_flat_pictures_stay_exactly_as_they_are():
    for grey in (0, 1, 127, 254, 255):
        assert (resize_bilinear(np.full((31, 45, 3), grey, np.uint8), 77, 13) == grey).all()


def test_the_same_size_is_a_copy():
    image = noise(20, 30, 0)
    same = resize_bilinear(image, 20, 30)
    assert np.array_equal(same, image)
    assert not np.shares_memory(same, image)


@pytest.mark.parametrize("target", [(20, 30), (13, 50)])
def test_layout_and_channel_order_are_mere_permutations(target):
    image = noise(20, 30, 0)
    plain = resample(image, *target)
    assert np.array_equal(resample(image, *target, planar=True), plain.transpose(2, 0, 1))
    assert np.array_equal(resample(image, *target, reverse=True), plain[..., ::-1])
    assert np.array_equal(resample(image, *target, planar=True, reverse=True), plain[..., ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("planar", [False, True])
def test_work_in_blocks_gives_the_same_as_work_in_one_go(monkeypatch, planar):
    image = noise(50, 70, 3)
    whole = resample(image, 33, 41, planar=planar)
    monkeypatch.setattr(resize, "_BLOCK_PIXELS", 200)
    resize._plan.cache_clear()
    try:
        assert len(resize._plan(50, 70, 33, 41, planar, False).blocks) > 2
        assert np.array_equal(resample(image, 33, 41, planar=planar), whole)
    finally:
        resize._plan.cache_clear()


def test_pictures_with_gaps_in_memory_are_read_right():
    image = noise(60, 80, 4)
    for view in (image[::2, ::2], image[:, ::-1], image[5:40, 7:50]):
        assert np.array_equal(resize_bilinear(view, 25, 31), resize_bilinear(view.copy(), 25, 31))


def test_read_only_pictures_are_accepted_and_left_alone():
    image = noise(40, 50, 5)
    before = image.copy()
    image.flags.writeable = False
    resize_bilinear(image, 20, 20)
    assert np.array_equal(image, before)


def test_threads_do_not_disturb_one_another():
    images = [noise(200, 300, seed) for seed in range(8)]
    alone = [resize_bilinear(image, 90, 110) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = list(pool.map(lambda image: resize_bilinear(image, 90, 110), images))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        [[1, 2, 3]],
    ],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(InputError, match="expected a picture"):
        resize_bilinear(image, 4, 4)


def test_a_size_of_nothing_is_refused():
    with pytest.raises(InputError, match="0x4"):
        resize_bilinear(noise(4, 4, 0), 0, 4)
