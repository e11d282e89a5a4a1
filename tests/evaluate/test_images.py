"""Reading pictures."""

from __future__ import annotations

import builtins
import io

import numpy as np
import pytest

from edgekit.errors import InputError, MissingError
from edgekit.evaluate.images import image_size, read_image

PATTERN = np.zeros((4, 6, 3), np.uint8)
PATTERN[0, 0] = (255, 0, 0)


def encoded(mode="RGB", orientation=None, form="PNG"):
    image_module = pytest.importorskip("PIL.Image")
    image = image_module.fromarray(PATTERN).convert(mode)
    exif = image_module.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


def test_a_file_and_its_bytes_give_the_same_pixels(tmp_path):
    data = encoded()
    (tmp_path / "a.png").write_bytes(data)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), data, memoryview(data)):
        assert np.array_equal(read_image(source), PATTERN)
        assert image_size(source) == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size(orientation):
    turned = {
        1: PATTERN,
        2: PATTERN[:, ::-1],
        3: PATTERN[::-1, ::-1],
        4: PATTERN[::-1],
        5: PATTERN.transpose(1, 0, 2),
        6: PATTERN.transpose(1, 0, 2)[:, ::-1],
        7: PATTERN.transpose(1, 0, 2)[::-1, ::-1],
        8: PATTERN.transpose(1, 0, 2)[::-1],
    }[orientation]
    data = encoded(orientation=orientation)
    assert np.array_equal(read_image(data), turned)
    assert image_size(data) == turned.shape[:2]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_mode_becomes_rgb(mode):
    image = read_image(encoded(mode))
    assert image.shape == (4, 6, 3)
    assert image.dtype == np.uint8


def test_sixteen_bits_are_scaled_to_eight_and_not_clipped():
    buffer = io.BytesIO()
    deep = np.array([[0, 255, 256], [0x1234, 0x8000, 0xFFFF]], np.uint16)
    pytest.importorskip("PIL.Image").fromarray(deep).save(buffer, "PNG")
    image = read_image(buffer.getvalue())
    assert image.dtype == np.uint8
    for channel in range(3):
        assert image[..., channel].tolist() == [[0, 0, 1], [0x12, 0x80, 0xFF]]


def test_a_missing_file_is_an_input_error(tmp_path):
    pytest.importorskip("PIL")
    with pytest.raises(InputError, match="cannot read the picture"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("data", [b"", b"not a picture", encoded.__code__.co_code])
def test_garbage_is_an_input_error(data):
    pytest.importorskip("PIL")
    with pytest.raises(InputError, match="cannot read the picture"):
        read_image(data)


def test_a_truncated_picture_is_an_input_error():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(noise).save(buffer, "JPEG")
    with pytest.raises(InputError, match="cannot read the picture"):
        read_image(buffer.getvalue()[:1500])


def test_without_pillow_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "PIL":
            raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingError) as caught:
        read_image(b"")
    assert caught.value.fix == "pip install 'edgekit[image]'"
