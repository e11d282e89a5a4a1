"""CUDA's statuses become our errors, and what was taken is given back; against a double of cuda-python."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from edgekit.errors import GateError, MissingError
from edgekit.runtimes import cuda


def test_a_gpu_says_what_it_is(board: Any) -> None:
    assert cuda.gpu() == cuda.Gpu("Double of Orin", "8.7", 8, integrated=True)
    board.become(capability=(12, 0), sm_count=132, integrated=False)
    assert cuda.gpu() == cuda.Gpu("Double of Orin", "12.0", 132, integrated=False)


@pytest.mark.parametrize(("number", "text"), [(12060, "12.6"), (13020, "13.2"), (12000, "12.0"), (13100, "13.10")])
def test_the_drivers_version_is_read(board: Any, number: int, text: str) -> None:
    board.become(driver=number)
    assert cuda.driver_version() == text


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("cudaErrorMemoryAllocation", MissingError),
        ("cudaErrorNoDevice", MissingError),
        ("cudaErrorIllegalAddress", GateError),
        ("cudaErrorInvalidValue", GateError),
    ],
)
def test_every_status_is_an_error_with_its_name(board: Any, status: str, kind: type[Exception]) -> None:
    from cuda.bindings import runtime

    with pytest.raises(kind) as caught:
        cuda._values("cudaMemGetInfo", (runtime.cudaError_t[status], 0))
    assert status in str(caught.value) and "cudaMemGetInfo" in str(caught.value)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_buffer_is_seen_from_both_sides_and_given_back(board: Any, mapped: bool) -> None:
    from cuda.bindings import runtime

    with ExitStack() as owner:
        buffer = cuda.HostBuffer(64, mapped=mapped, owner=owner)
        assert (buffer.device is not None) == mapped
        buffer.view(np.dtype(np.float32), (2, 3))[...] = 5
        stream = cuda.Stream(owner)
        device = cuda.device_buffer(64, owner)
        back = cuda.HostBuffer(64, mapped=False, owner=owner)
        stream.copy_in(device, buffer.address, 24)
        stream.copy_out(back.address, device, 24)
        stream.synchronize()
        np.testing.assert_array_equal(back.view(np.dtype(np.float32), (2, 3)), np.full((2, 3), 5, np.float32))
        assert sum(runtime.live().values()) == 4
    assert runtime.live() == {}


def test_a_capture_that_fails_leaves_the_stream_usable(board: Any) -> None:
    with ExitStack() as owner:
        stream, event = cuda.Stream(owner), cuda.Event(owner)
        with pytest.raises(ZeroDivisionError), cuda.capturing(stream, []):
            raise ZeroDivisionError
        event.record(stream)
        stream.synchronize()
        assert event.since_ms(event) == 0.0
