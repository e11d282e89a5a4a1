"""CUDA's runtime as edgekit uses it: every status is checked, every handle has an owner, nothing else is wrapped.

The functions of `cuda.bindings.runtime` (cuda-python 12.6.1 to 13.x) return a tuple that begins with a status. The
module is imported when the first of these functions is called.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import EdgekitError, GateError, MissingError

DEVICE = 0  # CUDA_VISIBLE_DEVICES decides which one that is

# Statuses that say what this machine lacks; every other one is a computation that went wrong.
_NO_MEMORY = ("cudaErrorMemoryAllocation",)
_NO_DEVICE = (
    *("cudaErrorNoDevice", "cudaErrorInsufficientDriver", "cudaErrorInitializationError", "cudaErrorInvalidDevice"),
    *("cudaErrorDevicesUnavailable", "cudaErrorSystemNotReady", "cudaErrorSystemDriverMismatch"),
    *("cudaErrorStubLibrary", "cudaErrorOperatingSystem"),
)


@dataclass(frozen=True)
class Gpu:
    """What a GPU says of itself.

    Attributes:
        name: the chip's, such as `Orin`.
        compute_capability: major and minor, `8.7` for Orin.
        sm_count: multiprocessors that are powered now; a power mode of a Jetson may switch some off.
        integrated: it shares its memory with the CPU.
    """

    name: str
    compute_capability: str
    sm_count: int
    integrated: bool


def require_cuda() -> None:
    """See that `cuda.bindings` can be imported.

    Raises:
        MissingError: it cannot.
    """
    try:
        from cuda.bindings import runtime  # noqa: F401
    except ImportError as error:  # missing, or a library that it needs
        raise MissingError(
            "cuda-python is not installed, or not for this system",
            where="import cuda.bindings.runtime",
            why=str(error),
            fix="pip install 'cuda-python==12.6.*' on JetPack 6 (CUDA 12.6), 'cuda-python==13.2.*' on JetPack 7.2; "
            "elsewhere the release of the CUDA that the driver serves",
        ) from error


def gpu() -> Gpu:
    """The GPU that everything here uses.

    Raises:
        MissingError: there is none, or its driver is too old.
    """
    require_cuda()
    from cuda.bindings import runtime

    try:
        (count,) = _values("cudaGetDeviceCount", runtime.cudaGetDeviceCount())
    except RuntimeError as error:  # cuda-python 12.6 raises it where there is no libcuda.so.1; later ones say a status
        raise _failed("cudaGetDeviceCount", "cudaErrorInsufficientDriver", str(error)) from error
    if count < 1:
        raise _failed("cudaGetDeviceCount", "cudaErrorNoDevice", "no CUDA device is visible")
    _values("cudaSetDevice", runtime.cudaSetDevice(DEVICE))
    (properties,) = _values("cudaGetDeviceProperties", runtime.cudaGetDeviceProperties(DEVICE))
    name = properties.name
    attributes = runtime.cudaDeviceAttr
    major = _attribute(attributes.cudaDevAttrComputeCapabilityMajor)
    minor = _attribute(attributes.cudaDevAttrComputeCapabilityMinor)
    return Gpu(
        name=name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name),
        compute_capability=f"{major}.{minor}",
        sm_count=_attribute(attributes.cudaDevAttrMultiProcessorCount),
        integrated=bool(_attribute(attributes.cudaDevAttrIntegrated)),
    )


def driver_version() -> str:
    """The CUDA version that the driver serves, `12.6` on JetPack 6.2; the packages on top of it may be others."""
    require_cuda()
    from cuda.bindings import runtime

    (number,) = _values("cudaDriverGetVersion", runtime.cudaDriverGetVersion())
    return f"{number // 1000}.{number % 1000 // 10}"  # CUDA Runtime API: 1000 * major + 10 * minor


def free_bytes() -> int:
    """Device memory that is free now, by the driver's count."""
    from cuda.bindings import runtime

    free, _ = _values("cudaMemGetInfo", runtime.cudaMemGetInfo())
    return int(free)


class HostBuffer:
    """Memory of the CPU that the GPU can copy from without a detour, or, where it is mapped, use as its own.

    Attributes:
        nbytes: its size.
        device: the GPU's address of the same memory; None where it is not mapped.
    """

    def __init__(self, nbytes: int, *, mapped: bool, owner: ExitStack) -> None:
        from cuda.bindings import runtime

        self.nbytes = nbytes
        flags = runtime.cudaHostAllocMapped if mapped else runtime.cudaHostAllocDefault
        (address,) = _values("cudaHostAlloc", runtime.cudaHostAlloc(nbytes, flags))
        self.address = int(address)
        owner.callback(lambda: _values("cudaFreeHost", runtime.cudaFreeHost(self.address)))
        self.device: int | None = None
        if mapped:
            (device,) = _values("cudaHostGetDevicePointer", runtime.cudaHostGetDevicePointer(self.address, 0))
            self.device = int(device)
        self._bytes: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))

    def view(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The first bytes as an array; it dies with the buffer, so nothing outside may keep it."""
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._bytes[:count].view(dtype).reshape(shape)


def device_buffer(nbytes: int, owner: ExitStack) -> int:
    """Memory of the GPU: its address there."""
    from cuda.bindings import runtime

    (address,) = _values("cudaMalloc", runtime.cudaMalloc(nbytes))
    owner.callback(lambda: _values("cudaFree", runtime.cudaFree(address)))
    return int(address)


class Stream:
    """An order of work on the GPU."""

    def __init__(self, owner: ExitStack) -> None:
        from cuda.bindings import runtime

        (self.native,) = _values(
            "cudaStreamCreateWithFlags", runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)
        )
        self.handle = int(self.native)
        owner.callback(lambda: _values("cudaStreamDestroy", runtime.cudaStreamDestroy(self.native)))

    def copy_in(self, device: int, host: int, nbytes: int) -> None:
        """Copy from the CPU to the GPU, in order with everything else."""
        from cuda.bindings import runtime

        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _values("cudaMemcpyAsync", runtime.cudaMemcpyAsync(device, host, nbytes, kind, self.native))

    def copy_out(self, host: int, device: int, nbytes: int) -> None:
        """Copy from the GPU to the CPU, in order with everything else."""
        from cuda.bindings import runtime

        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _values("cudaMemcpyAsync", runtime.cudaMemcpyAsync(host, device, nbytes, kind, self.native))

    def synchronize(self) -> None:
        """Wait until all of it is done.

        Raises:
            GateError: something in it failed.
        """
        from cuda.bindings import runtime

        _values("cudaStreamSynchronize", runtime.cudaStreamSynchronize(self.native))


class Event:
    """A moment in a stream."""

    def __init__(self, owner: ExitStack) -> None:
        from cuda.bindings import runtime

        (self.native,) = _values("cudaEventCreate", runtime.cudaEventCreate())
        owner.callback(lambda: _values("cudaEventDestroy", runtime.cudaEventDestroy(self.native)))

    def record(self, stream: Stream) -> None:
        """Let it be the moment when the stream has come this far."""
        from cuda.bindings import runtime

        _values("cudaEventRecord", runtime.cudaEventRecord(self.native, stream.native))

    def since_ms(self, earlier: Event) -> float:
        """Milliseconds between two moments that have passed, by the GPU's clock."""
        from cuda.bindings import runtime

        (elapsed,) = _values("cudaEventElapsedTime", runtime.cudaEventElapsedTime(earlier.native, self.native))
        return float(elapsed)


class Graph:
    """Work that was captured once and is launched as a whole."""

    def __init__(self, captured: Any, owner: ExitStack) -> None:
        from cuda.bindings import runtime

        with ExitStack() as short:
            short.callback(lambda: _values("cudaGraphDestroy", runtime.cudaGraphDestroy(captured)))
            (self.native,) = _values("cudaGraphInstantiate", runtime.cudaGraphInstantiate(captured, 0))
        owner.callback(lambda: _values("cudaGraphExecDestroy", runtime.cudaGraphExecDestroy(self.native)))

    def launch(self, stream: Stream) -> None:
        """Put it into the stream."""
        from cuda.bindings import runtime

        _values("cudaGraphLaunch", runtime.cudaGraphLaunch(self.native, stream.native))


@contextmanager
def capturing(stream: Stream, found: list[Any]) -> Iterator[None]:
    """Record what is put into `stream` instead of running it; the recording is appended to `found`.

    Raises:
        GateError: the stream holds something that cannot be recorded; it is usable again.
    """
    from cuda.bindings import runtime

    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    _values("cudaStreamBeginCapture", runtime.cudaStreamBeginCapture(stream.native, mode))
    try:
        yield
    except BaseException:
        status, *graphs = runtime.cudaStreamEndCapture(stream.native)
        for graph in graphs if int(status) == 0 else ():
            runtime.cudaGraphDestroy(graph)
        runtime.cudaGetLastError()  # the failure under way is the one to report
        raise
    try:
        found.extend(_values("cudaStreamEndCapture", runtime.cudaStreamEndCapture(stream.native)))
    except EdgekitError:
        runtime.cudaGetLastError()  # a failed capture is remembered otherwise, and blamed on the next call
        raise


def _attribute(which: Any) -> int:
    from cuda.bindings import runtime

    (value,) = _values("cudaDeviceGetAttribute", runtime.cudaDeviceGetAttribute(which, DEVICE))
    return int(value)


def _values(call: str, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """What came with the status.

    Raises:
        MissingError: memory, a device or a driver is missing.
        GateError: any other failure.
    """
    status, *values = result
    if int(status) != 0:  # cudaSuccess
        from cuda.bindings import runtime

        _, text = runtime.cudaGetErrorString(status)
        said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise _failed(call, str(getattr(status, "name", status)), said)
    return tuple(values)


def _failed(call: str, status: str, said: str) -> EdgekitError:
    why = f"{status}: {said}"
    if status in _NO_MEMORY:
        return MissingError("the GPU has no memory left", where=call, why=why, fix="close what else uses memory")
    if status in _NO_DEVICE:
        return MissingError(
            "no GPU can be used here",
            where=call,
            why=why,
            fix="run it on the board itself; /etc/nv_tegra_release names its release",
        )
    return GateError("the GPU failed", where=call, why=why, fix="load the bundle again in a new process")
