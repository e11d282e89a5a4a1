"""Double of `tensorrt`: the classes and signatures that edgekit uses, over ONNX Runtime on the CPU.

It is no device and stands for none: what it shows is that edgekit calls TensorRT as the bindings want it, and what
happens when TensorRT says no. An "engine" here is a header and the ONNX file. Faults are switched in `switches.NOW`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import onnxwire
from cuda.bindings import runtime as gpu
from switches import NOW

from edgekit.runtimes.onnxruntime import import_onnxruntime

__version__ = NOW.tensorrt
_MAGIC = b"a double of a TensorRT engine\n"
_ELEVEN = __version__.startswith("11.")
_TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(int8)": ("INT8", np.int8),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(bool)": ("BOOL", np.bool_),
    "tensor(bfloat16)": ("BF16", None),
}


class DataType(IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4 = range(10)


if _ELEVEN:

    class NetworkDefinitionCreationFlag(IntEnum):
        STRONGLY_TYPED = 0

    class BuilderFlag(IntEnum):
        DEBUG, GPU_FALLBACK, REFIT, DISABLE_TIMING_CACHE, TF32, SPARSE_WEIGHTS = range(2, 8)
else:

    class NetworkDefinitionCreationFlag(IntEnum):  # type: ignore[no-redef]
        EXPLICIT_BATCH, STRONGLY_TYPED = range(2)

    class BuilderFlag(IntEnum):  # type: ignore[no-redef]
        FP16, INT8, DEBUG, GPU_FALLBACK, REFIT, DISABLE_TIMING_CACHE, TF32, SPARSE_WEIGHTS = range(8)


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class TensorIOMode(IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(IntEnum):
    DEVICE, HOST = range(2)


class Dims(tuple):  # type: ignore[type-arg]
    """Sizes, -1 where they are open."""


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self._started = True

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError("a logger overrides log")


class IProgressMonitor:
    def __init__(self) -> None:
        self._started = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


def _started(made: Any, kind: type, what: str) -> Any:
    """As pybind11 does: an argument of the wrong class, or one whose base was never initialised, is a TypeError."""
    if not isinstance(made, kind):
        raise TypeError(f"incompatible function arguments: {what} is {type(made).__name__}")
    if kind in (ILogger, IProgressMonitor) and not hasattr(made, "_started"):
        raise TypeError(f"{kind.__name__}.__init__() must be called when overriding __init__")
    return made


def _factory(logger: ILogger) -> ILogger:
    _started(logger, ILogger, "logger").log(ILogger.Severity.INFO, "[MemUsageChange] a double uses none")
    if NOW.no_start:
        raise TypeError("pybind11::init(): factory function returned nullptr")
    return logger


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data)


class ITensor:
    def __init__(self, name: str, is_output: bool) -> None:
        self.name = name
        self.is_network_output = is_output


class ILayer:
    def __init__(self, node: onnxwire.Node, outputs: set[str]) -> None:
        self.name = node.name
        self._outputs = [ITensor(name, name in outputs) for name in node.outputs if name]

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self._model = b""
        self._io: _Io | None = None
        self._layers: list[ILayer] = []
        self._marked: list[str] = []

    @property
    def num_inputs(self) -> int:
        return len(self._io.inputs) if self._io else 0

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        assert self._io is not None
        return ITensor(list(self._io.inputs)[index], False)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def mark_output(self, tensor: ITensor) -> None:
        self._marked.append(_started(tensor, ITensor, "tensor").name)


class ParserError:
    def __init__(self, node: onnxwire.Node, desc: str) -> None:
        self._node = node
        self._desc = desc

    def desc(self) -> str:
        return self._desc

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = _started(network, INetworkDefinition, "network")
        self._logger = _started(logger, ILogger, "logger")
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            found = onnxwire.nodes(bytes(model))
        except ValueError as error:
            self._logger.log(ILogger.Severity.ERROR, f"Failed to parse ONNX model: {error}")
            return False
        refused = _refusals(bytes(model))
        for node in found:
            if node.op in NOW.refuse or node.name in refused:
                reason = refused.get(node.name, f"No importer registered for op: {node.op}")
                self._errors.append(ParserError(node, reason))
                self._logger.log(ILogger.Severity.ERROR, f"ModelImporter: node {node.name}: {reason}")
        if self._errors:
            return False
        try:
            io = _Io.of(bytes(model))
        except Exception as error:  # noqa: BLE001  # ONNX Runtime's kinds share no other base
            self._logger.log(ILogger.Severity.ERROR, f"Failed to parse ONNX model: {error}")
            return False
        self._network._model, self._network._io = bytes(model), io
        self._network._layers = [ILayer(node, set(io.outputs)) for node in found]
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self._sizes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        sizes = [list(min), list(opt), list(max)]
        ordered = len({len(each) for each in sizes}) == 1 and all(
            0 <= a <= b <= c for a, b, c in zip(*sizes, strict=True)
        )
        if not ordered:
            raise ValueError(f"Shape provided for min, opt or max of {input} is inconsistent")
        self._sizes[input] = sizes


class IBuilderConfig:
    def __init__(self) -> None:
        self.builder_optimization_level = 3
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None
        self._flags = {BuilderFlag.TF32}
        self._limits: dict[MemoryPoolType, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(_started(flag, BuilderFlag, "flag"))

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(_started(flag, BuilderFlag, "flag"))

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        if not isinstance(pool_size, int) or pool_size < 0:
            raise TypeError("incompatible function arguments: pool_size")
        self._limits[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(_started(profile, IOptimizationProfile, "profile"))
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._data and NOW.timing_refused and not ignore_mismatch:
            return False
        self._cache = _started(cache, ITimingCache, "cache")
        return True


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = _factory(logger)
        self.max_threads = 1

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        problem = self._problem(network, config)
        if problem:
            self._logger.log(ILogger.Severity.ERROR, problem)
            return None
        if not self._steps(config.progress_monitor):
            self._logger.log(ILogger.Severity.ERROR, "the build was cancelled by the progress monitor")
            return None
        model = onnxwire.with_outputs(network._model, network._marked)
        if NOW.wrong_from and not (NOW.only_fused and network._marked):
            model = onnxwire.spoiled(model, NOW.wrong_from, ("Neg",))
        if NOW.nan_from:
            model = onnxwire.spoiled(model, NOW.nan_from, ("Abs", "Neg", "Log"))
        header = {
            "tensorrt": __version__,
            "capability": list(NOW.capability),
            "sizes": config._profiles[0]._sizes if config._profiles else {},
        }
        if config._cache is not None:
            config._cache._data += b"a kernel "
        raw = json.dumps(header).encode()
        return IHostMemory(_MAGIC + len(raw).to_bytes(4, "little") + raw + model)

    def _problem(self, network: INetworkDefinition, config: IBuilderConfig) -> str | None:
        io = network._io
        if io is None:
            return "Error Code 4: the network has no layers"
        if not _ELEVEN and not network.flags >> int(NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1:
            return "Error Code 4: this double takes strongly typed networks only"
        for name, (_, shape) in io.inputs.items():
            sizes = next((profile._sizes[name] for profile in config._profiles if name in profile._sizes), None)
            if sizes is None and -1 in shape:
                return (
                    f"Error Code 4: input {name} has dynamic dimensions, but no optimization profile has been defined"
                )
            for size in sizes or []:
                if len(size) != len(shape) or any(b not in (-1, a) for a, b in zip(size, shape, strict=True)):
                    return f"Error Code 4: {size} contradicts {shape} of input {name}"
        return NOW.build_fails

    def _steps(self, monitor: IProgressMonitor | None) -> bool:
        if monitor is None:
            return True
        _started(monitor, IProgressMonitor, "monitor")
        monitor.phase_start("Building Engine from Subgraph", None, 4)
        monitor.phase_start("Tactic Selection", "Building Engine from Subgraph", 2)
        going = True
        for step in range(4):
            if NOW.on_step is not None:
                NOW.on_step()
            going = going and monitor.step_complete("Building Engine from Subgraph", step)
        monitor.phase_finish("Tactic Selection")
        monitor.phase_finish("Building Engine from Subgraph")
        return going


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = _factory(logger)
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        assert not self.engine_host_code_allowed, "an engine must not run code on the CPU"
        data = bytes(serialized_engine)
        if not data.startswith(_MAGIC):
            return self._refuse("Error Code 1: Serialization (Serialization assertion magicTag failed)")
        size = int.from_bytes(data[len(_MAGIC) : len(_MAGIC) + 4], "little")
        header = json.loads(data[len(_MAGIC) + 4 : len(_MAGIC) + 4 + size])
        if header["tensorrt"] != __version__:
            return self._refuse("Error Code 1: Serialization (Version tag does not match)")
        if header["capability"] != list(NOW.capability):
            return self._refuse("Error Code 6: the engine was built for another compute capability")
        return ICudaEngine(data[len(_MAGIC) + 4 + size :], header["sizes"], self._logger)

    def _refuse(self, text: str) -> None:
        self._logger.log(ILogger.Severity.ERROR, text)


class ICudaEngine:
    def __init__(self, model: bytes, sizes: dict[str, list[list[int]]], logger: ILogger) -> None:
        self._io = _Io.of(model)
        self._sizes = sizes
        self._logger = logger
        self.device_memory_size_v2 = 1 << 20

    @property
    def num_io_tensors(self) -> int:
        return len(self._io.inputs) + len(self._io.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self._io.inputs, *self._io.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name in self._io.inputs:
            return TensorIOMode.INPUT
        return TensorIOMode.OUTPUT if name in self._io.outputs else TensorIOMode.NONE

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[_TYPES[self._io.kind(name)][0]]

    def get_tensor_shape(self, name: str) -> Dims:
        least, _, most = self._sizes[name]
        return Dims(size if size == other else -1 for size, other in zip(least, most, strict=True))

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        assert profile_index == 0
        return [Dims(size) for size in self._sizes[name]]

    def create_execution_context(self) -> IExecutionContext | None:
        if NOW.no_context:
            self._logger.log(ILogger.Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 1048576 bytes.)")
            return None
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._warm = False  # the first run with new shapes sets things up, which cannot be recorded

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        least, _, most = self._engine._sizes[name]
        if len(shape) != len(least) or not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            self._engine._logger.log(ILogger.Severity.ERROR, f"Error Code 3: {tuple(shape)} of {name} is out of range")
            return False
        self._shapes[name] = tuple(shape)
        self._warm = False
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._io.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> Dims:
        if name in NOW.data_dependent:
            return Dims((-1, 3))
        return Dims(self._shapes.get(name) or self._engine._io.output_shape(name, self._shapes))

    def get_max_output_size(self, name: str) -> int:
        most = {key: tuple(sizes[2]) for key, sizes in self._engine._sizes.items()}
        dtype = np.dtype(_TYPES[self._engine._io.kind(name)][1])
        return int(np.prod(self._engine._io.output_shape(name, most))) * dtype.itemsize

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        count = NOW.count("execute_async_v3")
        names = [*self._engine._io.inputs, *self._engine._io.outputs]
        if any(name not in self._addresses for name in names) or self.infer_shapes():
            self._engine._logger.log(ILogger.Severity.ERROR, "Error Code 3: addresses or shapes are not set")
            return False
        if NOW.enqueue_fails is not None and count >= NOW.enqueue_fails:
            self._engine._logger.log(ILogger.Severity.ERROR, "Error Code 1: Cuda Runtime (launch failed)")
            return False
        if gpu.capturing(stream_handle) and not self._warm:
            self._engine._logger.log(
                ILogger.Severity.ERROR, "Error Code 1: Cuda Runtime (not permitted when capturing)"
            )
            return False
        self._warm = True
        return gpu.put(stream_handle, self._work(dict(self._shapes), dict(self._addresses)))

    def _work(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> Callable[[], None]:
        io = self._engine._io

        def work() -> None:
            if NOW.run_fails is not None and NOW.count("run") >= NOW.run_fails:
                raise RuntimeError("an illegal memory access was encountered")
            feeds = {name: _array(addresses[name], shapes[name], io.kind(name)).copy() for name in io.inputs}
            for name, value in zip(io.outputs, io.session.run(list(io.outputs), feeds), strict=True):
                _array(addresses[name], value.shape, io.kind(name))[...] = value

        return work


class _Io:
    """A model's inputs and outputs by ONNX Runtime: name to type and shape, -1 or a symbol where it is open."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.inputs = {
            each.name: (each.type, tuple(dim if isinstance(dim, int) else -1 for dim in each.shape))
            for each in session.get_inputs()
        }
        self._symbols = {each.name: tuple(each.shape) for each in session.get_inputs()}
        self.outputs = {each.name: (each.type, tuple(each.shape)) for each in session.get_outputs()}
        self._seen: dict[tuple[Any, ...], dict[str, tuple[int, ...]]] = {}

    @classmethod
    def of(cls, model: bytes) -> _Io:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        return cls(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]))

    def kind(self, name: str) -> str:
        return str((self.inputs.get(name) or self.outputs[name])[0])

    def output_shape(self, name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        known: dict[Any, int] = {}
        for each, dims in self._symbols.items():
            known |= {dim: size for dim, size in zip(dims, shapes[each], strict=True) if isinstance(dim, str)}
        dims = [dim if isinstance(dim, int) else known.get(dim) for dim in self.outputs[name][1]]
        if self.outputs[name][1] and None not in dims:
            return tuple(dims)  # type: ignore[arg-type]
        key = tuple(sorted(shapes.items()))
        if key not in self._seen:  # the symbols do not tell: a run on zeros does
            zeros = {each: np.zeros(shapes[each], _TYPES[self.kind(each)][1]) for each in self.inputs}
            values = self.session.run(list(self.outputs), zeros)
            self._seen[key] = {each: value.shape for each, value in zip(self.outputs, values, strict=True)}
        return self._seen[key][name]


def _array(address: int, shape: tuple[int, ...], kind: str) -> Any:
    dtype = np.dtype(_TYPES[kind][1])
    count = int(np.prod(shape, dtype=np.int64))
    raw = gpu.at(address, max(1, count * dtype.itemsize))
    return np.ctypeslib.as_array(raw)[: count * dtype.itemsize].view(dtype).reshape(shape)


def _refusals(model: bytes) -> dict[str, str]:
    """What edgekit's own rules call unsupported, where the host side is installed: node to reason."""
    if not NOW.rules:
        return {}
    try:
        import onnx

        from edgekit.graph.rules import tensorrt as rules
    except ImportError:
        return {}
    try:
        parsed = onnx.load_from_string(model)
    except Exception:  # noqa: BLE001  # protobuf's kinds differ by version; the parser says so itself
        return {}
    found = rules.refusals(parsed, __version__)
    return {str(finding.node): f"{finding.message} [{finding.rule}]" for finding in found}


def nptype(trt_type: DataType) -> Any:
    found = next((dtype for name, dtype in _TYPES.values() if name == trt_type.name), None)
    if found is None:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return found
