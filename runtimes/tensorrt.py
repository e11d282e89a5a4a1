"""TensorRT on the GPU: engines that are built on the device, checked, kept in a cache, and run on one stream."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import EdgekitError, GateError, InputError, MissingError, UnsupportedError
from edgekit.runtimes import cuda
from edgekit.runtimes.backend import BuiltEngine, EngineRequest
from edgekit.runtimes.tensorrt_builder import Said, make_logger, require_tensorrt, started
from edgekit.runtimes.tensorrt_job import Job

if TYPE_CHECKING:
    import tensorrt as trt

GRAPH_SETTING = "cuda_graph"  # `off` in a manifest's settings launches kernel by kernel


@dataclass(frozen=True)
class _Slot:
    """An input or output of the engine with its memory.

    Attributes:
        least, most: an input's smallest and largest shape.
        device: the GPU's address; the same memory as `host` where that is mapped.
    """

    name: str
    dtype: np.dtype[Any]
    least: tuple[int, ...]
    most: tuple[int, ...]
    host: cuda.HostBuffer
    device: int

    @property
    def copied(self) -> bool:
        """Whether bytes have to be copied between `host` and `device`."""
        return self.host.device is None


class TensorRtEngine:
    """An engine with its execution context, its stream, and memory for its largest shapes.

    On an integrated GPU inputs and outputs lie in memory that CPU and GPU share; on others they are copied through
    pinned memory. Where all shapes are fixed, the run is captured once as a CUDA graph.

    Attributes:
        device_ms: time of the last run on the GPU, without copies, by its own events; None before the first.
        graph_reason: why no CUDA graph is used; None where one is.
    """

    def __init__(self, plan: bytes, *, integrated: bool, graph: bool = True) -> None:
        """Load `plan`.

        Raises:
            InputError: TensorRT refuses it: another version, another GPU, or damaged.
            UnsupportedError: an input or output is of a kind that numpy does not have, or its size depends on data.
            MissingError: memory is missing.
        """
        self.device_ms: float | None = None
        self.graph_reason: str | None = None
        self._asked: dict[str, tuple[int, ...]] = {}  # the inputs' shapes of the last run
        self._shapes: dict[str, tuple[int, ...]] = {}  # those and the outputs'
        self._broken = False
        self._graph: cuda.Graph | None = None
        self._owned = ExitStack()
        try:
            self._stream = cuda.Stream(self._owned)
            self._begin, self._end = cuda.Event(self._owned), cuda.Event(self._owned)
            self._owned.callback(self._release)
            self._said = Said()
            self._logger = make_logger(self._said)
            self._runtime, self._engine = self._deserialize(plan)
            self._context = self._new_context()
            self._inputs, self._outputs = self._allocate(integrated)
            self._capture(graph)
        except BaseException:
            self._broken = True
            self.close()
            raise

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; nothing of a failed run is ever returned.

        Raises:
            InputError: an input is missing or unknown, or of a dtype or shape that the engine was not built for.
            GateError: the GPU failed; the engine is of no use any more.
        """
        if self._broken:
            raise self._failed("an earlier run failed")
        self._said.errors.clear()
        self._take(feeds)
        self.device_ms = None
        try:
            self._execute()
        except EdgekitError:
            self._broken = True
            raise
        return {slot.name: slot.host.view(slot.dtype, self._shapes[slot.name]).copy() for slot in self._outputs}

    def close(self) -> None:
        """Give back everything on the GPU; closing twice does no harm."""
        # After a failure CUDA may answer every call with the same error, which was raised already.
        with suppress(EdgekitError) if self._broken else nullcontext():
            self._owned.close()
        self._broken = True

    def _deserialize(self, plan: bytes) -> tuple[trt.Runtime, trt.ICudaEngine]:
        import tensorrt as trt

        runtime = started(lambda: trt.Runtime(self._logger), self._said)
        runtime.engine_host_code_allowed = False  # an engine may carry code for the CPU: ours never do
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise InputError(
                "TensorRT refuses the engine",
                where=f"tensorrt {trt.__version__}",
                why=self._said.first,
                fix="build it again here: edgekit build BUNDLE --force",
            )
        return runtime, engine

    def _new_context(self) -> trt.IExecutionContext:
        context = self._engine.create_execution_context()
        if context is None:
            raise MissingError(
                "the engine needs more memory than is free",
                where=f"{self._engine.device_memory_size_v2 >> 20} MiB of activations",
                why=self._said.first,
                fix="close what else uses memory, or export for a smaller batch",
            )
        return context

    def _allocate(self, integrated: bool) -> tuple[list[_Slot], list[_Slot]]:
        import tensorrt as trt

        engine, context = self._engine, self._context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        ranges = {name: self._range(name) for name in inputs}
        for name in inputs:
            self._set_shape(name, ranges[name][1])
        self._infer_shapes()
        slots: dict[str, _Slot] = {}
        for name in names:
            dtype = _dtype_of(engine, name)
            least, most = ranges.get(name, ((), ()))
            if name in ranges:
                nbytes = int(np.prod(most, dtype=np.int64)) * dtype.itemsize
            else:
                self._require_known(name, tuple(context.get_tensor_shape(name)))
                nbytes = int(context.get_max_output_size(name))
            host = cuda.HostBuffer(max(1, nbytes), mapped=integrated, owner=self._owned)
            device = cuda.device_buffer(max(1, nbytes), self._owned) if host.device is None else host.device
            slots[name] = _Slot(name, dtype, least, most, host, device)
            if not context.set_tensor_address(name, device):
                raise self._failed(f"no address for {name!r}")
        return [slots[name] for name in inputs], [slots[name] for name in names if name not in ranges]

    def _range(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """An input's smallest and largest shape, by the only profile that edgekit writes."""
        import tensorrt as trt

        engine = self._engine
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE or engine.is_shape_inference_io(name):
            raise UnsupportedError(
                f"input {name!r} is a shape, not data",
                where="the engine",
                why="sizes that depend on values of an input are not built for",
                fix="fix the sizes with --shapes when you export",
            )
        fixed = tuple(engine.get_tensor_shape(name))
        if all(size >= 0 for size in fixed):
            return fixed, fixed
        least, _, most = engine.get_tensor_profile_shape(name, 0)
        return tuple(least), tuple(most)

    def _require_known(self, name: str, shape: tuple[int, ...]) -> None:
        if any(size < 0 for size in shape):
            raise UnsupportedError(
                f"the size of output {name!r} depends on the data",
                where="the engine",
                why=f"its shape is {shape} even where all inputs are known",
                fix="export the model without the operator that decides on its size, such as NonMaxSuppression",
            )

    def _capture(self, wanted: bool) -> None:
        """Run once on zeros, and record a second run where shapes are fixed."""
        fixed = all(slot.least == slot.most for slot in self._inputs)
        if not wanted:
            self.graph_reason = f"the setting {GRAPH_SETTING} is off"
        elif not fixed:
            self.graph_reason = "the batch may vary: a graph is recorded for one shape"
        self._take({slot.name: np.zeros(slot.most, slot.dtype) for slot in self._inputs})
        self._execute()  # lazy set-up inside a capture would fail it
        if self.graph_reason is None:
            found: list[Any] = []
            try:
                with cuda.capturing(self._stream, found):
                    self._enqueue()
                self._graph = cuda.Graph(found[0], self._owned)
            except GateError as error:
                self.graph_reason = f"the run could not be recorded: {error.what}: {error.why}"
        self.device_ms = None

    def _take(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Put the inputs where the GPU reads them, and tell the context of new shapes."""
        if feeds.keys() != {slot.name for slot in self._inputs}:
            raise _misfit(", ".join(sorted(feeds)), "the engine takes " + ", ".join(slot.name for slot in self._inputs))
        for slot in self._inputs:
            array = feeds[slot.name]
            if array.dtype != slot.dtype:
                raise _misfit(f"input {slot.name!r} is {array.dtype}", f"the engine takes {slot.dtype}")
            if not _within(array.shape, slot.least, slot.most):
                raise _misfit(
                    f"input {slot.name!r} is {array.shape}", f"the engine was built for {slot.least} to {slot.most}"
                )
        asked = {slot.name: feeds[slot.name].shape for slot in self._inputs}
        if asked != self._asked:
            self._asked = {}  # nothing is known of the context where the following fails
            for name, shape in asked.items():
                self._set_shape(name, shape)
            self._infer_shapes()
            found = {slot.name: tuple(self._context.get_tensor_shape(slot.name)) for slot in self._outputs}
            self._asked, self._shapes = asked, {**asked, **found}
        for slot in self._inputs:
            array = feeds[slot.name]
            np.copyto(slot.host.view(slot.dtype, array.shape), array)

    def _execute(self) -> None:
        for slot in self._inputs:
            if slot.copied:
                self._stream.copy_in(slot.device, slot.host.address, self._nbytes(slot))
        self._begin.record(self._stream)
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch(self._stream)
        self._end.record(self._stream)
        for slot in self._outputs:
            if slot.copied:
                self._stream.copy_out(slot.host.address, slot.device, self._nbytes(slot))
        self._stream.synchronize()
        self.device_ms = self._end.since_ms(self._begin)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise self._failed(self._said.first)

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise _misfit(f"input {name!r} is {shape}", self._said.first)

    def _infer_shapes(self) -> None:
        missing = self._context.infer_shapes()
        if missing:
            raise self._failed(f"no shape for {', '.join(missing)}")

    def _nbytes(self, slot: _Slot) -> int:
        return int(np.prod(self._shapes[slot.name], dtype=np.int64)) * slot.dtype.itemsize

    def _failed(self, why: str) -> GateError:
        return GateError(
            "TensorRT did not run the model",
            where="execute_async_v3",
            why=why,
            fix="its outputs were thrown away; load the bundle again",
        )

    def _release(self) -> None:
        """Let go of TensorRT's objects in the order in which they rest on one another."""
        for name in ("_context", "_engine", "_runtime"):
            if hasattr(self, name):
                delattr(self, name)


class TensorRtBackend:
    """The backend `tensorrt`."""

    name = "tensorrt"
    devices = ("gpu",)

    def version(self) -> str:
        require_tensorrt()
        import tensorrt as trt

        return str(trt.__version__)

    def device(self) -> str:
        """The GPU's name and compute capability."""
        gpu = cuda.gpu()
        return f"{gpu.name}, compute capability {gpu.compute_capability}"

    def open(self, request: EngineRequest) -> TensorRtEngine:
        """Load the engine of this request from the cache; build, check and keep it first where it is not there."""
        engine, _ = self._ready(request, force=False, recheck=False)
        return engine

    def build(self, request: EngineRequest, *, force: bool = False) -> BuiltEngine:
        """As `Builder` has it: an engine that is there already is checked again."""
        engine, built = self._ready(request, force=force, recheck=True)
        engine.close()
        return built

    def _ready(self, request: EngineRequest, *, force: bool, recheck: bool) -> tuple[TensorRtEngine, BuiltEngine]:
        version, gpu = self.version(), cuda.gpu()
        graph = request.settings.get(GRAPH_SETTING) != "off"

        def load(plan: bytes) -> TensorRtEngine:
            return TensorRtEngine(plan, integrated=gpu.integrated, graph=graph)

        return Job.of(request, version, gpu, load).ready(force=force, recheck=recheck)


def _dtype_of(engine: trt.ICudaEngine, name: str) -> np.dtype[Any]:
    import tensorrt as trt

    kind = engine.get_tensor_dtype(name)
    try:
        found: np.dtype[Any] = np.dtype(trt.nptype(kind))
    except TypeError as error:  # bf16, fp8 and narrower
        raise UnsupportedError(
            f"tensor {name!r} is of a type that numpy does not have",
            where="the engine",
            why=str(kind),
            fix="cast inputs and outputs to float32 in the model",
        ) from error
    return found


def _within(shape: tuple[int, ...], least: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return len(shape) == len(least) and all(a <= size <= b for size, a, b in zip(shape, least, most, strict=True))


def _misfit(where: str, why: str) -> InputError:
    return InputError(
        "the engine cannot run on this input", where=where, why=why, fix="edgekit inspect shows inputs and sizes"
    )


BACKEND = TensorRtBackend()
