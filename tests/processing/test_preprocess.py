"""From pictures to tensors, and boxes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.processing.antialias import resample_antialiased
from edgekit.processing.preprocess import prepare, prepare_batch
from edgekit.processing.resize import resize_bilinear
from edgekit.spec import ImagePreprocess

FEMTODET = ImagePreprocess("images", 416, 416, mean=(123.675, 116.28, 103.53), std=(58.82, 58.82, 58.82))
SMALL = ImagePreprocess("x", 32, 48)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_femtodet_pads_below_with_grey_before_it_normalises():
    image = picture(480, 640)
    tensor, placement = prepare(FEMTODET, image)
    assert tensor.shape == (1, 3, 416, 416)
    assert tensor.dtype == np.float32
    canvas = np.full((416, 416, 3), 114, np.uint8)
    canvas[:312] = resize_bilinear(image, 312, 416)
    expected = (canvas.astype(np.float64) - FEMTODET.mean) / FEMTODET.std
    np.testing.assert_allclose(tensor[0], expected.transpose(2, 0, 1), rtol=1e-6, atol=1e-6)
    assert (placement.scale_x, placement.scale_y, placement.offset_x, placement.offset_y) == (0.65, 0.65, 0, 0)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("anchor", ["top-left", "center"])
@pytest.mark.parametrize("size", [(17, 91), (90, 11), (32, 48), (33, 49)])
def test_every_layout_and_dtype_holds_the_same_pixels(antialias, colour, resize, anchor, size):
    spec = replace(SMALL, antialias=antialias, colour=colour, resize=resize, anchor=anchor)
    image = picture(*size)
    planar, placement = prepare(replace(spec, dtype="uint8"), image)
    for layout, dtype in (("nhwc", "uint8"), ("nhwc", "float32"), ("nchw", "float32")):
        tensor, other = prepare(replace(spec, layout=layout, dtype=dtype), image)
        assert tensor.dtype == dtype
        assert other == placement
        assert np.array_equal(tensor if layout == "nchw" else tensor.transpose(0, 3, 1, 2), planar)


def test_bgr_is_blue_first_and_mean_and_std_stand_in_the_order_of_the_tensor():
    image = np.zeros((32, 48, 3), np.uint8)
    image[...] = (10, 20, 30)
    spec = replace(SMALL, colour="bgr", mean=(1, 2, 3), std=(1, 2, 4))
    for layout, axes in (("nchw", (0, 1, 2, 3)), ("nhwc", (0, 3, 1, 2))):
        tensor = prepare(replace(spec, layout=layout), image)[0].transpose(axes)
        assert tensor[0, :, 5, 5].tolist() == [29, 9, 1.75]


def test_letterbox_in_the_centre_splits_the_padding():
    tensor, placement = prepare(
        replace(SMALL, anchor="center", layout="nhwc", dtype="uint8"), np.zeros((10, 48, 3), np.uint8)
    )
    rows = tensor[0, :, 0, 0]
    assert (rows[:11] == 114).all()
    assert (rows[11:21] == 0).all()
    assert (rows[21:] == 114).all()
    assert placement.offset_y == 11


def test_crop_keeps_the_middle_at_the_scale_of_the_shorter_side():
    image = np.zeros((64, 288, 3), np.uint8)
    image[:, 96:192] = 200
    tensor, placement = prepare(replace(SMALL, resize="crop", layout="nhwc", dtype="uint8"), image)
    assert (tensor == 200).all()
    assert placement.offset_x == -48


@pytest.mark.parametrize(
    ("resize", "size", "seen", "covered"),
    [
        ("stretch", (32, 48), np.s_[:, :], np.s_[:, :]),
        ("letterbox", (32, 16), np.s_[:, :], np.s_[:, 16:32]),  # 90 x 45, centred
        ("crop", (96, 48), np.s_[32:64, :], np.s_[:, :]),
    ],
)
def test_antialiasing_changes_how_pixels_are_made_and_not_where_they_lie(resize, size, seen, covered):
    image = picture(90, 45)
    spec = replace(SMALL, resize=resize, anchor="center", layout="nhwc", dtype="uint8", antialias=True)
    tensor, placement = prepare(spec, image)
    assert np.array_equal(tensor[0][covered], resample_antialiased(image, *size)[seen])
    plain, where = prepare(replace(spec, antialias=False), image)
    assert placement == where
    assert not np.array_equal(plain, tensor)


def test_a_sliver_keeps_at_least_one_pixel():
    tensor, _ = prepare(replace(SMALL, layout="nhwc", dtype="uint8"), np.full((1, 1000, 3), 9, np.uint8))
    assert (tensor[0, 0] == 9).all()
    assert (tensor[0, 1:] == 114).all()


def test_sizes_round_half_up_as_mmcv_does():
    # scale = 32 / 64 = 0.5; 45 * 0.5 = 22.5 becomes 23
    assert prepare(SMALL, picture(64, 45))[1].scale_x == 23 / 45


@given(
    st.sampled_from(["letterbox", "stretch", "crop"]),
    st.sampled_from(["top-left", "center"]),
    st.integers(5, 200),
    st.integers(5, 200),
)
def test_boxes_that_are_mapped_there_and_back_are_the_same(resize, anchor, height, width):
    placement = prepare(replace(SMALL, resize=resize, anchor=anchor), np.zeros((height, width, 3), np.uint8))[1]
    boxes = np.array([[1, 2, width - 1, height - 2], [0, 0, width, height]], np.float32)
    scale = np.array([placement.scale_x, placement.scale_y] * 2, np.float32)
    offset = np.array([placement.offset_x, placement.offset_y] * 2, np.float32)
    np.testing.assert_allclose(placement.to_picture(boxes * scale + offset), boxes, rtol=1e-4, atol=1e-3)


def test_boxes_are_clipped_to_the_picture():
    placement = prepare(FEMTODET, np.zeros((480, 640, 3), np.uint8))[1]
    got = placement.to_picture(np.array([[-50, -50, 500, 500]], np.float32))
    assert got.tolist() == [[0, 0, 640, 480]]
    assert got.dtype == np.float32


def test_boxes_may_reach_beyond_the_picture_where_that_is_asked_for():
    placement = prepare(FEMTODET, np.zeros((480, 640, 3), np.uint8))[1]
    got = placement.to_picture(np.array([[-65, -130, 650, 325]], np.float32), clip=False)
    np.testing.assert_allclose(got, [[-100, -200, 1000, 500]], rtol=1e-6)
    assert got.dtype == np.float32


def test_a_batch_is_its_pictures_one_by_one():
    images = [picture(20, 30), picture(50, 11, 1), picture(32, 48, 2)]
    tensor, placements = prepare_batch(SMALL, images)
    assert tensor.shape == (3, 3, 32, 48)
    for row, placement, image in zip(tensor, placements, images, strict=True):
        alone, where = prepare(SMALL, image)
        assert np.array_equal(row, alone[0])
        assert placement == where


def test_a_float_picture_is_refused_rather_than_guessed_at():
    with pytest.raises(InputError, match="uint8"):
        prepare(SMALL, np.zeros((10, 10, 3), np.float32))


def test_tensors_of_different_calls_share_no_memory():
    first, second = prepare(SMALL, picture(20, 30))[0], prepare(SMALL, picture(20, 30, 1))[0]
    assert not np.shares_memory(first, second)
    assert np.array_equal(first, prepare(SMALL, picture(20, 30))[0])


def test_a_tensor_that_is_handed_in_is_overwritten_completely_if_it_fits():
    image = picture(20, 30)
    old = np.full((1, 3, 32, 48), np.nan, np.float32)
    tensor, _ = prepare_batch(SMALL, [image], old)
    assert tensor is old
    assert np.array_equal(tensor, prepare(SMALL, image)[0])
    for unfit in (old[0], old.astype(np.float64), np.concatenate([old, old])):
        assert prepare_batch(SMALL, [image], unfit)[0] is not unfit
