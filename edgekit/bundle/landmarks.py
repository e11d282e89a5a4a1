"""Landmarks: a few values of every float tensor of a bundle's graph, so that a board can say where an engine errs.

The file travels with role `landmarks`. It is written where the bundle is exported (`edgekit.landmarks`), from the half
reference's run on one self-test's inputs, and read on the board without torch or onnx.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekit.bundle.strictjson import parse_json, render_json
from edgekit.errors import IntegrityError
from edgekit.structure import decode, encode

ROLE = "landmarks"
SCHEMA: Literal["edgekit/landmarks/1"] = "edgekit/landmarks/1"
MOST_VALUES = 16
MOST_BYTES = 64 * 2**20
"""A model of 10000 tensors has landmarks of about 8 MiB."""
_FLOOR = 1e-2  # as in edgekit.evaluate.parity: smaller tensors are judged as if they reached this


@dataclass(frozen=True)
class Landmark:
    """What one tensor was.

    Attributes:
        tensor: its name in the bundle's graph.
        node: the name of the node that computes it, `op` its operator.
        module: the torch module that the node comes from, None where it is not known; `line` is `file.py:123`.
        shape: of the tensor, for the self-test's inputs.
        indices: flat, row-major, ascending.
        values: of the elements at `indices`.
        max_abs: the largest magnitude of all finite elements.
    """

    tensor: str
    node: str
    op: str
    module: str | None
    line: str | None
    shape: tuple[int, ...]
    indices: tuple[int, ...]
    values: tuple[float, ...]
    max_abs: float

    def __post_init__(self) -> None:
        if not 0 < len(self.indices) == len(self.values) <= MOST_VALUES:
            raise ValueError(f"a landmark has 1 to {MOST_VALUES} values with an index each")
        if min(self.shape, default=1) < 1 or not 0 <= self.indices[0] <= self.indices[-1] < math.prod(self.shape):
            raise ValueError(f"indices {self.indices[0]} to {self.indices[-1]} are outside of a tensor of {self.shape}")
        if any(a >= b for a, b in zip(self.indices, self.indices[1:], strict=False)):
            raise ValueError("the indices of a landmark ascend")
        if not self.max_abs >= max(abs(value) for value in self.values):
            raise ValueError(f"max_abs is {self.max_abs}, but a value is larger")

    def deviation(self, array: npt.NDArray[Any]) -> float:
        """max|a - b| / max(0.01, max_abs) over the values that were kept; infinite for another shape, or no number."""
        if array.shape != self.shape:
            return math.inf
        seen = array.reshape(-1)[list(self.indices)].astype(np.float64)
        if not np.isfinite(seen).all():
            return math.inf
        return float(np.abs(seen - np.asarray(self.values)).max()) / max(_FLOOR, self.max_abs)

    def describe(self) -> str:
        """The node, with module and source line where they are known."""
        module = f" of module {self.module!r}" if self.module is not None else ""
        line = f" ({self.line})" if self.line else ""
        return f"node {self.node!r} ({self.op}){module}{line}"


@dataclass(frozen=True)
class Landmarks:
    """All landmarks, in the order of computation.

    Attributes:
        schema: the format's name.
        selftest: index of the self-test whose inputs were fed.
    """

    schema: Literal["edgekit/landmarks/1"]
    selftest: int
    tensors: tuple[Landmark, ...]

    def __post_init__(self) -> None:
        if self.selftest < 0:
            raise ValueError(f"a self-test's index is not {self.selftest}")
        if len({landmark.tensor for landmark in self.tensors}) != len(self.tensors):
            raise ValueError("a tensor has two landmarks")

    def first_deviating(self, arrays: Mapping[str, npt.NDArray[Any]], tolerance: float) -> Landmark | None:
        """The first landmark whose tensor deviates by more than `tolerance`; tensors not in `arrays` are skipped."""
        found = (each for each in self.tensors if each.tensor in arrays)
        return next((each for each in found if not each.deviation(arrays[each.tensor]) <= tolerance), None)


def write_landmarks(landmarks: Landmarks) -> bytes:
    """The file's bytes.

    Raises:
        InputError: a number is not finite.
    """
    return render_json(encode(landmarks), "landmarks.json")


def read_landmarks(raw: bytes) -> Landmarks:
    """The landmarks in a file's bytes.

    Raises:
        IntegrityError: too large, or not the JSON that edgekit writes.
        InputError: naming the first field that does not fit.
    """
    if len(raw) > MOST_BYTES:
        raise IntegrityError(
            "the landmarks are too large",
            where="landmarks.json",
            why=f"{len(raw)} bytes, at most {MOST_BYTES} are read",
            fix="get the bundle again from where it came from",
        )
    return decode(Landmarks, parse_json(raw, "landmarks.json"), "landmarks.json")
