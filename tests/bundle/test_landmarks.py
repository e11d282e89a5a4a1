"""Reading landmarks: strictly, and without torch or onnx."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.landmarks import Landmark, Landmarks, read_landmarks, write_landmarks
from edgekit.errors import EdgekitError, InputError, IntegrityError

GOOD = Landmark("t", "n", "Add", None, "a.py:1", (2, 3), (0, 5), (1.0, -2.0), 2.5)


def test_written_landmarks_are_read_back_equal() -> None:
    marks = Landmarks(
        "edgekit/landmarks/1", 0, (GOOD, dataclasses.replace(GOOD, tensor="u", shape=(), indices=(0,), values=(0.0,)))
    )
    assert read_landmarks(write_landmarks(marks)) == marks


@pytest.mark.parametrize(
    "change",
    [
        {"indices": [0, 6]},
        {"indices": [5, 0]},
        {"indices": [-1, 2]},
        {"indices": [0]},
        {"indices": [], "values": []},
        {"indices": list(range(17)), "values": [0.0] * 17, "shape": [20]},
        {"max_abs": 1.5},
        {"shape": [0, 3]},
        {"values": ["1", 2]},
        {"values": [True, 2]},
        {"module": 3},
        {"more": 1},
        {"op": None},
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(change: dict[str, Any]) -> None:
    data = json.loads(write_landmarks(Landmarks("edgekit/landmarks/1", 0, (GOOD,))))
    data["tensors"][0] |= change
    with pytest.raises(InputError) as caught:
        read_landmarks(json.dumps(data).encode())
    assert "landmarks.json.tensors[0]" in str(caught.value.where)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b'{"schema": "edgekit/landmarks/2", "selftest": 0, "tensors": []}',
        b'{"schema": "edgekit/landmarks/1", "selftest": -1, "tensors": []}',
        b'{"schema": "edgekit/landmarks/1", "selftest": 0, "selftest": 0, "tensors": []}',
        b"\xff",
    ],
)
def test_other_documents_are_refused(raw: bytes) -> None:
    with pytest.raises(EdgekitError):
        read_landmarks(raw)


def test_numbers_that_are_none_and_doubles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.loads(write_landmarks(Landmarks("edgekit/landmarks/1", 0, (GOOD,))))
    with pytest.raises(InputError, match="two landmarks"):
        read_landmarks(json.dumps({**data, "tensors": data["tensors"] * 2}).encode())
    data["tensors"][0]["values"] = [math.nan, 1]
    with pytest.raises(IntegrityError):
        read_landmarks(json.dumps(data).encode())
    monkeypatch.setattr("edgekit.bundle.landmarks.MOST_BYTES", 10)
    with pytest.raises(IntegrityError, match="too large"):
        read_landmarks(b"{" + b" " * 20)


def test_a_deviation_is_relative_to_the_tensors_largest_magnitude() -> None:
    array = np.float32([[1, 0, 0], [0, 0, -2]])
    assert GOOD.deviation(array) == 0
    assert GOOD.deviation(array.astype(np.float16) + np.float16(0.25)) == pytest.approx(0.1)
    assert GOOD.deviation(array.reshape(3, 2)) == GOOD.deviation(array - np.float32(np.inf)) == math.inf
    small = dataclasses.replace(GOOD, values=(0.0, 0.001), max_abs=0.001)
    assert small.deviation(array * 0) == pytest.approx(0.1)  # as if it reached 0.01
    assert GOOD.describe() == "node 'n' (Add) (a.py:1)"
