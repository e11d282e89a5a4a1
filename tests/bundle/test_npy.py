"""Arrays in and out, and `.npy` files made by an attacker."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle.npy import decode_array, encode_array
from edgekit.bundle.writer import write_bundle
from edgekit.errors import InputError, IntegrityError

DTYPES = ["?", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=5), st.sampled_from("CF"), st.integers(0, 2**32))
def test_arrays_of_every_plain_kind_and_shape_read_back_equal(dtype, shape, order, seed):
    numbers = np.random.default_rng(seed).integers(0, 100, shape)
    array = np.asarray(numbers, dtype=dtype, order=order)
    data = encode_array(array)
    ours, numpys = decode_array(data, "x"), np.load(io.BytesIO(data), allow_pickle=False)
    np.testing.assert_array_equal(ours, array)
    assert ours.dtype == array.dtype == numpys.dtype and ours.shape == array.shape
    assert not ours.flags.writeable


def test_big_endian_numbers_are_written_little_endian():
    data = encode_array(np.array([1, 256], ">u2"))
    np.testing.assert_array_equal(decode_array(data, "x"), [1, 256])


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([object()]), np.array([1j]), np.zeros(2, "f4,i4")])
def test_arrays_of_other_things_are_not_written(array):
    with pytest.raises(InputError, match="cannot go into a bundle"):
        encode_array(array)


def npy(header: bytes, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


GOOD = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x93NUMPY",
        npy(GOOD),
        npy(GOOD, bytes(7)),
        npy(GOOD, bytes(9)),
        npy(GOOD, bytes(8), b"\3\0"),
        npy(GOOD.replace(b"<f4", b"|O"), bytes(16)),
        npy(GOOD.replace(b"<f4", b">f4"), bytes(8)),
        npy(GOOD.replace(b"<f4", b"<f1"), bytes(2)),
        npy(GOOD.replace(b"<f4", b"<U4"), bytes(32)),
        npy(GOOD.replace(b"(2,)", b"(-2,)"), bytes(8)),
        npy(GOOD.replace(b"(2,)", b"(2)"), bytes(8)),
        npy(GOOD.replace(b"(2,)", b"(9999999999999,)"), bytes(8)),
        npy(GOOD.replace(b"(2,)", b"(0, 999999999999999999, 999999999999999999)")),
        npy(GOOD.replace(b"(2,)", b"(" + b"1, " * 40 + b"2)"), bytes(8)),
        npy(GOOD.replace(b"False", b"__import__('os')"), bytes(8)),
        npy(b"(" * 5000, bytes(8)),
        npy(GOOD, bytes(8)).replace(b"\n", b" "),
        npy(GOOD, bytes(8))[:20],
    ],
)
def test_a_file_that_is_not_a_plain_array_is_refused(raw):
    with pytest.raises(IntegrityError, match=r"no \.npy file"):
        decode_array(raw, "x")


@given(st.data())
def test_a_changed_byte_gives_an_array_of_the_same_bytes_or_an_integrity_error(data):
    raw = bytearray(encode_array(np.arange(6, dtype=np.int16).reshape(2, 3)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    try:
        array = decode_array(bytes(raw), "x")
    except IntegrityError:
        return
    assert math.prod(array.shape) * array.dtype.itemsize == 12


def test_a_pickle_in_a_bundle_is_not_opened(tmp_path, minimal):
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with write_bundle(tmp_path / "b", minimal, {"x.npy": ("label", stream.getvalue())}) as bundle:
        with pytest.raises(IntegrityError, match="plain numbers") as caught:
            bundle.read_array("x.npy")
        assert "x.npy" in caught.value.where
