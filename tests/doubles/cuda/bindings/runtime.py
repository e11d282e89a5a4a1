"""Double of `cuda.bindings.runtime`: the functions that edgekit calls, over memory of the host.

Work in a stream is put off until somebody waits for the stream; fresh memory holds rubbish; addresses of the device
differ from those of the host by a tag, so that mixing them up is seen. Events tell no time: what would be measured
here is nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from switches import NOW

cudaHostAllocDefault, cudaHostAllocMapped = 0, 2
cudaStreamNonBlocking = 1
_DEVICE_TAG = 1 << 60
_RUBBISH = 0xCD


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaDeviceAttr(IntEnum):
    cudaDevAttrMultiProcessorCount = 16
    cudaDevAttrIntegrated = 18
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaDeviceProp:
    def __init__(self) -> None:
        self.name = NOW.gpu.encode()


class _Handle:
    """A stream, event or graph: something with an address."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.failed = False
        self.moment: int | None = None

    def __int__(self) -> int:
        return id(self)


cudaStream_t = cudaEvent_t = cudaGraph_t = cudaGraphExec_t = _Handle
OK = cudaError_t.cudaSuccess

_memory: dict[int, tuple[Any, int, str]] = {}  # address as handed out -> buffer, size, what freed it
_handles: dict[int, tuple[_Handle, str]] = {}
_moments = 0


def live() -> dict[str, int]:
    """What was not given back, by kind."""
    found: dict[str, int] = {}
    for kind in [kind for _, _, kind in _memory.values()] + [kind for _, kind in _handles.values()]:
        found[kind] = found.get(kind, 0) + 1
    return found


def put(stream: int, work: Callable[[], None]) -> bool:
    """Put work into the stream of that handle; False where it takes none."""
    handle = _handles[stream][0]
    if handle.captured is not None:
        if NOW.capture_fails:
            handle.failed = True
            return False
        handle.captured.append(work)
    else:
        handle.work.append(work)
    return True


def capturing(stream: int) -> bool:
    """Whether the stream of that handle records work instead of doing it."""
    return _handles[stream][0].captured is not None


def at(address: int, nbytes: int) -> Any:
    """The bytes at an address of the device, as a ctypes array. IndexError where they are not all there."""
    if not address & _DEVICE_TAG:
        raise IndexError(f"{address:#x} is no address of the device")
    return _at(address & ~_DEVICE_TAG, nbytes)


def _at(address: int, nbytes: int) -> Any:
    for start, (buffer, size, _) in _memory.items():
        base = start & ~_DEVICE_TAG
        if base <= address and address + nbytes <= base + size:
            del buffer
            return (ctypes.c_uint8 * nbytes).from_address(address)
    raise IndexError(f"{nbytes} bytes at {address:#x} were never taken, or given back")


def _take(size: int, tag: int, kind: str) -> tuple[cudaError_t, int | None]:
    if NOW.alloc_fails:
        return cudaError_t.cudaErrorMemoryAllocation, None
    buffer = (ctypes.c_uint8 * size)()
    ctypes.memset(buffer, _RUBBISH, size)
    address = ctypes.addressof(buffer) | tag
    _memory[address] = (buffer, size, kind)
    return OK, address


def _give(address: int, kind: str) -> tuple[cudaError_t]:
    if _memory.get(address, (None, 0, ""))[2] != kind:
        return (cudaError_t.cudaErrorInvalidValue,)
    del _memory[address]
    return (OK,)


def _new(kind: str) -> tuple[cudaError_t, _Handle]:
    handle = _Handle()
    _handles[id(handle)] = (handle, kind)
    return OK, handle


def _end(handle: _Handle, kind: str) -> tuple[cudaError_t]:
    if _handles.get(id(handle), (None, ""))[1] != kind:
        return (cudaError_t.cudaErrorInvalidResourceHandle,)
    del _handles[id(handle)]
    return (OK,)


def cudaGetDeviceCount() -> tuple[Any, ...]:
    if NOW.no_driver:
        raise RuntimeError("Failed to dlopen libcuda.so.1")
    return (OK, NOW.devices) if NOW.devices else (cudaError_t.cudaErrorNoDevice, None)


def cudaSetDevice(device: int) -> tuple[Any, ...]:
    return (OK if 0 <= device < NOW.devices else cudaError_t.cudaErrorInvalidDevice,)


def cudaGetDeviceProperties(device: int) -> tuple[Any, ...]:
    return OK, cudaDeviceProp()


def cudaDeviceGetAttribute(attr: cudaDeviceAttr, device: int) -> tuple[Any, ...]:
    values = {
        cudaDeviceAttr.cudaDevAttrMultiProcessorCount: NOW.sm_count,
        cudaDeviceAttr.cudaDevAttrIntegrated: int(NOW.integrated),
        cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor: NOW.capability[0],
        cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor: NOW.capability[1],
    }
    return OK, values[attr]


def cudaDriverGetVersion() -> tuple[Any, ...]:
    return OK, NOW.driver


def cudaMemGetInfo() -> tuple[Any, ...]:
    return OK, NOW.memory, 8 << 30


def cudaHostAlloc(size: int, flags: int) -> tuple[Any, ...]:
    return _take(size, 0, "mapped memory" if flags == cudaHostAllocMapped else "pinned memory")


def cudaHostGetDevicePointer(pHost: int, flags: int) -> tuple[Any, ...]:
    if _memory.get(pHost, (None, 0, ""))[2] != "mapped memory":
        return cudaError_t.cudaErrorInvalidValue, None
    return OK, pHost | _DEVICE_TAG


def cudaFreeHost(ptr: int) -> tuple[Any, ...]:
    kind = _memory.get(ptr, (None, 0, ""))[2]
    return _give(ptr, kind if kind in ("mapped memory", "pinned memory") else "host memory")


def cudaMalloc(size: int) -> tuple[Any, ...]:
    return _take(size, _DEVICE_TAG, "device memory")


def cudaFree(devPtr: int) -> tuple[Any, ...]:
    return _give(devPtr, "device memory")


def cudaMemcpyAsync(dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: _Handle) -> tuple[Any, ...]:
    to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
    if bool(dst & _DEVICE_TAG) != to_device or bool(src & _DEVICE_TAG) == to_device:
        return (cudaError_t.cudaErrorInvalidValue,)

    def copy() -> None:
        ctypes.memmove(_at(dst & ~_DEVICE_TAG, count), _at(src & ~_DEVICE_TAG, count), count)

    return (OK if put(int(stream), copy) else cudaError_t.cudaErrorStreamCaptureUnsupported,)


def cudaStreamCreateWithFlags(flags: int) -> tuple[Any, ...]:
    return _new("stream")


def cudaStreamDestroy(stream: _Handle) -> tuple[Any, ...]:
    return _end(stream, "stream")


def cudaStreamSynchronize(stream: _Handle) -> tuple[Any, ...]:
    if stream.captured is not None:
        return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
    while stream.work and not stream.failed:
        work = stream.work.pop(0)
        try:
            work()
        except RuntimeError:
            stream.failed = True
    return (cudaError_t.cudaErrorIllegalAddress if stream.failed else OK,)


def cudaStreamBeginCapture(stream: _Handle, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
    stream.captured = []
    return (OK,)


def cudaStreamEndCapture(stream: _Handle) -> tuple[Any, ...]:
    captured, stream.captured = stream.captured, None
    if stream.failed:
        stream.failed = False
        return cudaError_t.cudaErrorStreamCaptureInvalidated, None
    status, graph = _new("graph")
    graph.work = captured or []
    return status, graph


def cudaGraphInstantiate(graph: _Handle, flags: int) -> tuple[Any, ...]:
    status, made = _new("executable graph")
    made.work = list(graph.work)
    return status, made


def cudaGraphLaunch(graphExec: _Handle, stream: _Handle) -> tuple[Any, ...]:
    stream.work += graphExec.work
    return (OK,)


def cudaGraphExecDestroy(graphExec: _Handle) -> tuple[Any, ...]:
    return _end(graphExec, "executable graph")


def cudaGraphDestroy(graph: _Handle) -> tuple[Any, ...]:
    return _end(graph, "graph")


def cudaEventCreate() -> tuple[Any, ...]:
    return _new("event")


def cudaEventRecord(event: _Handle, stream: _Handle) -> tuple[Any, ...]:
    def pass_by() -> None:
        global _moments
        _moments += 1
        event.moment = _moments

    event.moment = None
    put(int(stream), pass_by)
    return (OK,)


def cudaEventElapsedTime(start: _Handle, end: _Handle) -> tuple[Any, ...]:
    if start.moment is None or end.moment is None or start.moment > end.moment:
        return cudaError_t.cudaErrorInvalidValue, None
    return OK, 0.0


def cudaEventDestroy(event: _Handle) -> tuple[Any, ...]:
    return _end(event, "event")


def cudaGetErrorString(error: cudaError_t) -> tuple[Any, ...]:
    return OK, error.name.encode()


def cudaGetLastError() -> tuple[Any, ...]:
    return (OK,)
