"""Arrays to `.npy` bytes and back, for plain numbers only: nothing is evaluated, unpickled or allocated on trust.

numpy's own reader evaluates the header as Python and allocates what it promises; this one matches the header that
numpy writes and accepts no other. Format: NEP 1, versions 1.0 and 2.0.
"""

from __future__ import annotations

import io
import math
import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError, IntegrityError

_PREFIX = re.compile(rb"\x93NUMPY(?:\x01\x00(?P<short>..)|\x02\x00(?P<long>....))", re.DOTALL)
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>\|b1|\|[iu]1|<[iu][248]|<f[248])', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>|[0-9]{1,18},|[0-9]{1,18}(?:, [0-9]{1,18}){1,31})\), \} *\n"
)


def encode_array(array: npt.ArrayLike) -> bytes:
    """The `.npy` bytes of an array of booleans, whole or floating-point numbers, little-endian; any shape.

    Raises:
        InputError: the array holds something else, such as text or objects.
    """
    values = np.asarray(array)
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise InputError(f"an array of {values.dtype} cannot go into a bundle", why="only plain numbers can")
    stream = io.BytesIO()
    np.save(stream, values.astype(values.dtype.newbyteorder("<"), copy=False), allow_pickle=False)
    return stream.getvalue()


def decode_array(data: bytes, where: str) -> npt.NDArray[Any]:
    """The array in `.npy` bytes, as a read-only view of `data`; any shape, dtype bool, (u)int8-64 or float16-64.

    Raises:
        IntegrityError: not a `.npy` file of plain little-endian numbers, or not as long as its header says.
    """
    prefix = _PREFIX.match(data)
    if not prefix:
        raise _malformed("it does not begin like one, or its version is not 1.0 or 2.0", where)
    start = prefix.end() + int.from_bytes(prefix["short"] or prefix["long"], "little")
    header = _HEADER.fullmatch(data, prefix.end(), start)
    if not header:
        raise _malformed("its header is not that of an array of plain numbers", where)
    dtype = np.dtype(str(header["dtype"], "ascii"))
    shape = tuple(int(size) for size in header["shape"].replace(b",", b" ").split())
    if start + math.prod(shape) * dtype.itemsize != len(data):
        raise _malformed(f"its header promises {shape} of {dtype}, and that is not what follows", where)
    order: Literal["F", "C"] = "F" if header["fortran"] == b"True" else "C"
    try:
        return np.ndarray(shape, dtype, buffer=memoryview(data)[start:], order=order)
    except ValueError as error:  # an empty array whose other sizes are beyond what numpy can address
        raise _malformed(str(error), where) from error


def _malformed(problem: str, where: str) -> IntegrityError:
    return IntegrityError("this is no .npy file of plain numbers", where=where, why=problem, fix="export it again")
