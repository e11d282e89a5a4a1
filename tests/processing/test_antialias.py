"""Antialiased resizing against Pillow, bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.processing.antialias import _axis, resample_antialiased

PIL = pytest.importorskip("PIL", reason="Pillow is the oracle")
from PIL import Image  # noqa: E402

SIDES = st.integers(1, 40) | st.integers(1, 150)
REAL = [
    ((480, 640), (352, 352)),  # both shrink, rows first
    ((640, 480), (352, 352)),  # columns first
    ((1080, 1920), (234, 416)),
    ((97, 61), (352, 352)),  # both grow
    ((300, 100), (40, 333)),  # one shrinks, one grows
    ((100, 300), (333, 40)),
    ((352, 500), (352, 352)),  # one pass only
    ((500, 352), (352, 352)),
    ((3, 3000), (5, 2)),  # more than a thousand taps
    ((3000, 3), (2, 5)),
]


def noise(height, width, seed, extreme=False):
    random = np.random.default_rng(seed)
    if extreme:  # only 0 and 255: sums come as close to overflow as they can
        return random.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_pillow(image, height, width):
    """`Image.resize` of Pillow 13; an older one, which knows but one order, is led through the passes one by one."""
    picture, bilinear = Image.fromarray(image), Image.Resampling.BILINEAR
    lost_height, lost_width = image.shape[0] - height, image.shape[1] - width
    if int(PIL.__version__.split(".")[0]) < 13 and lost_height > 0 and lost_height > 2 * lost_width:
        picture = picture.resize((image.shape[1], height), bilinear)
    return np.asarray(picture.resize((width, height), bilinear))


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9), st.booleans())
def test_any_size_to_any_size_is_pillows_picture(h, w, height, width, seed, extreme):
    image = noise(h, w, seed, extreme)
    got = resample_antialiased(image, height, width)
    assert got.dtype == np.uint8
    assert np.array_equal(got, by_pillow(image, height, width))


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(("source", "target"), REAL)
def test_real_sizes_are_pillows_picture(source, target, extreme):
    image = noise(*source, seed=1, extreme=extreme)
    assert np.array_equal(resample_antialiased(image, *target), by_pillow(image, *target))


@pytest.mark.parametrize(("source", "target"), [*REAL, ((50, 70), (50, 70))])
def test_layout_and_channel_order_are_mere_permutations(source, target):
    image = noise(*source, seed=2)
    plain = resample_antialiased(image, *target)
    for planar in (False, True):
        for reverse in (False, True):
            memory = np.full(plain.size, 99, np.uint8)
            got = resample_antialiased(image, *target, planar=planar, reverse=reverse, out=memory)
            wanted = plain[..., ::-1] if reverse else plain
            assert np.array_equal(got, wanted.transpose(2, 0, 1) if planar else wanted)
            assert got.flags.c_contiguous
            assert np.shares_memory(got, memory)


def test_flat_pictures_stay_exactly_as_they_are():
    for grey in (0, 1, 127, 254, 255):
        for target in ((13, 77), (77, 13), (1, 1)):
            assert (resample_antialiased(np.full((31, 45, 3), grey, np.uint8), *target) == grey).all()


def test_a_thin_line_survives_a_reduction_that_nearest_neighbours_would_lose_it_in():
    image = np.zeros((200, 200, 3), np.uint8)
    image[:, 101] = 255
    row = resample_antialiased(image, 20, 20)[0, :, 0].astype(int)
    assert row[10] > 15 and row.sum() == pytest.approx(25.5, abs=2)


def test_pictures_with_gaps_in_memory_are_read_right_and_left_alone():
    image = noise(60, 80, 4)
    image.flags.writeable = False
    for view in (image[::2, ::2], image[:, ::-1], image[5:40, 7:50]):
        assert np.array_equal(resample_antialiased(view, 25, 31), by_pillow(view.copy(), 25, 31))


def test_sums_of_weights_leave_room_in_32_bits_for_every_side_that_a_jpeg_can_have():
    for size in (1, 2, 3, 1000, 16_447, 16_449, 30_000, 65_500):
        for new in (1, 2, 3, 352):
            most = int(_axis(size, new).weights.sum(axis=0, dtype=np.int64).max())
            assert 255 * most + (1 << 23) < 1 << 32


def test_threads_do_not_disturb_one_another():
    images = [noise(90, 120, seed) for seed in range(8)]
    alone = [resample_antialiased(image, 40, 50) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = list(pool.map(lambda image: resample_antialiased(image, 40, 50), images))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
