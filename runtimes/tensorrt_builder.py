"""From ONNX to an engine, through TensorRT's parser and builder, by a recipe; what they say comes out as typed errors.

Nothing that TensorRT calls back (its log, its progress) may raise: an exception cannot cross the C++ in between.
"""

# mypy: disable-error-code="import-not-found", disallow-subclassing-any=False

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from edgekit.errors import GateError, InconclusiveError, MissingError, UnsupportedError
from edgekit.runtimes.tensorrt_memory import MemoryWatch, workspace_bytes
from edgekit.runtimes.tensorrt_recipe import BuildRecipe, Sizes

if TYPE_CHECKING:
    import tensorrt as trt

T = TypeVar("T")

_KEPT_LINES = 20  # of the log: the first error is the cause, what follows are consequences
_IMPLIED = {"STRONGLY_TYPED": 11}  # network flag to the major version from which on every network is so


@dataclass(frozen=True)
class BuildResult:
    """An engine, serialized; what the builder learned about kernels; and what is to be known about the build.

    Attributes:
        marked: the inner tensors that became outputs.
    """

    plan: bytes
    timing: bytes
    notes: tuple[str, ...]
    marked: tuple[str, ...] = ()


@dataclass(eq=False)
class BuildOrder:
    """What is to be built, and who is told.

    Attributes:
        model: the ONNX file.
        timing: a timing cache of this GPU and TensorRT; empty for none.
        watch: of free memory.
        announce: told of stages.
        mark: inner tensors to give out as outputs.
        threads: for the builder; None leaves it to TensorRT.
        notes, failure: what the build leaves: things to be known, and what a callback ran into.
    """

    model: bytes
    recipe: BuildRecipe
    timing: bytes
    watch: MemoryWatch
    announce: Callable[[str], None] = lambda _: None
    mark: Sequence[str] = ()
    threads: int | None = None
    notes: list[str] = field(default_factory=list)
    failure: Exception | None = None


def require_tensorrt() -> None:
    """See that TensorRT can be imported.

    Raises:
        MissingError: it cannot.
    """
    try:
        import tensorrt  # noqa: F401
    except ImportError as error:  # missing, or a library that it needs
        raise MissingError(
            "TensorRT is not installed, or not for this Python",
            where="import tensorrt",
            why=str(error),
            fix="on a Jetson: sudo apt install python3-libnvinfer, and python3 -m venv --system-site-packages for a "
            "virtual environment; elsewhere: pip install 'edgekit[tensorrt]', or pass runtime='onnxruntime' to compute "
            "on this CPU instead",
        ) from error


def major_version() -> int:
    """TensorRT's."""
    import tensorrt as trt

    return int(trt.__version__.split(".")[0])


class Said:
    """What TensorRT logged: the errors, and the last warnings."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, level: int, text: str) -> None:
        """Keep one line; `level` is TensorRT's severity: 0 internal error, 1 error, 2 warning."""
        lines = self.errors if level < 2 else self.warnings if level == 2 else None
        if lines is not None and len(lines) < _KEPT_LINES:
            lines.append(text.strip())

    @property
    def first(self) -> str:
        """The first error, or that there was none."""
        return self.errors[0] if self.errors else "TensorRT gave no reason"

    @property
    def out_of_memory(self) -> bool:
        """Whether an error speaks of memory."""
        return any("outofmemory" in text.lower().replace(" ", "").replace("_", "") for text in self.errors)


def make_logger(said: Said) -> trt.ILogger:
    """A logger that prints nothing and keeps what matters."""
    import tensorrt as trt

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            said.add(int(severity), msg)

    return Logger()


def started(make: Callable[[], T], said: Said) -> T:
    """One of TensorRT's factories, called.

    Raises:
        MissingError: it gives nothing, as pybind11 says with a TypeError: the libraries and the driver do not fit.
    """
    try:
        return make()
    except (TypeError, RuntimeError) as error:
        raise MissingError(
            "TensorRT cannot start",
            where="TensorRT's libraries",
            why=said.errors[0] if said.errors else str(error),
            fix="see that the driver, CUDA and TensorRT are of one JetPack or one CUDA release",
        ) from error


def build_plan(order: BuildOrder) -> BuildResult:
    """Build.

    Raises:
        UnsupportedError: the parser or the builder refuses the model; the message names nodes.
        MissingError: memory ran low, before or meanwhile.
        InconclusiveError: the user stopped it.
    """
    import tensorrt as trt

    said = Said()
    logger = make_logger(said)
    free = order.watch.before()
    builder = started(lambda: trt.Builder(logger), said)
    if order.threads is not None:
        builder.max_threads = order.threads
    order.announce("parse the model")
    network = builder.create_network(_network_flags(order.recipe))
    parser = trt.OnnxParser(network, logger)  # it owns the weights that the network reads: both live until the end
    if not parser.parse(order.model):
        raise _parser_error(parser, said)
    marked = _mark(network, order.mark)
    config = builder.create_builder_config()
    _configure(config, order, free)
    for sizes in order.recipe.optimization_profiles:
        _add_profile(builder, config, network, sizes)
    timing = _timing_cache(config, order)
    with _stoppable() as stopped:
        monitor = _make_monitor(order, stopped)
        config.progress_monitor = monitor
        order.announce("build the engine")
        memory = builder.build_serialized_network(network, config)
    if memory is None or order.failure is not None or stopped.is_set():
        raise _builder_error(order, said, stopped)
    return BuildResult(bytes(memory), bytes(timing.serialize()) if timing else b"", tuple(order.notes), marked)


def _network_flags(recipe: BuildRecipe) -> int:
    import tensorrt as trt

    flags = 0
    for name in recipe.network_flags:
        if name in _IMPLIED and major_version() >= _IMPLIED[name]:
            continue
        flags |= 1 << int(_member(trt.NetworkDefinitionCreationFlag, name, "network flag"))
    return flags


def _member(kind: Any, name: str, what: str) -> Any:
    """A member of an enumeration by name: the numbers differ between versions, and so does what exists."""
    import tensorrt as trt

    found = getattr(kind, name, None)
    if found is None:
        raise UnsupportedError(
            f"TensorRT {trt.__version__} has no {what} {name}",
            where="build.json",
            why="the recipe was written for another version",
            fix="export the bundle for the JetPack that is on this board",
        )
    return found


def _configure(config: trt.IBuilderConfig, order: BuildOrder, free: int) -> None:
    import tensorrt as trt

    recipe = order.recipe
    for name in recipe.builder_flags:
        config.set_flag(_member(trt.BuilderFlag, name, "builder flag"))
    for name in recipe.builder_flags_off:
        config.clear_flag(_member(trt.BuilderFlag, name, "builder flag"))
    config.builder_optimization_level = recipe.builder_optimization_level
    config.profiling_verbosity = _member(trt.ProfilingVerbosity, recipe.profiling_verbosity, "profiling verbosity")
    workspace = workspace_bytes(recipe.workspace, free)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    order.notes.append(f"workspace {workspace >> 20} MiB: {recipe.workspace.fraction:.0%} of {free >> 20} MiB free")


def _add_profile(
    builder: trt.Builder, config: trt.IBuilderConfig, network: trt.INetworkDefinition, sizes: dict[str, Sizes]
) -> None:
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    if sorted(inputs) != sorted(sizes):
        raise UnsupportedError(
            "the recipe does not fit the model",
            where="build.json: optimization_profiles",
            why=f"it states sizes of {', '.join(sorted(sizes))}; the inputs are {', '.join(sorted(inputs))}",
            fix="export the bundle again",
        )
    name = ""
    try:
        for name, size in sizes.items():
            profile.set_shape(name, size.min, size.opt, size.max)
    except ValueError as error:
        raise _misfit(f"input {name!r}: {error}") from error
    if config.add_optimization_profile(profile) < 0:
        raise _misfit("the sizes contradict the model's")


def _misfit(why: str) -> UnsupportedError:
    return UnsupportedError(
        "TensorRT does not take the sizes in the recipe",
        where="build.json: optimization_profiles",
        why=why,
        fix="export the bundle again",
    )


def _mark(network: trt.INetworkDefinition, wanted: Sequence[str]) -> tuple[str, ...]:
    """Give out inner tensors as outputs, those that the network knows by these names."""
    names, marked = set(wanted), []
    for index in range(network.num_layers if names else 0):
        layer = network.get_layer(index)
        for number in range(layer.num_outputs):
            tensor = layer.get_output(number)
            if tensor.name in names and not tensor.is_network_output:
                network.mark_output(tensor)
                marked.append(tensor.name)
    return tuple(marked)


def _timing_cache(config: trt.IBuilderConfig, order: BuildOrder) -> trt.ITimingCache | None:
    """What earlier builds learned, or an empty cache where that is not usable; None where TensorRT takes neither."""
    for data in filter(None, (order.timing, b"new")):
        cache = config.create_timing_cache(b"" if data == b"new" else data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        order.notes.append("the timing cache was not usable" if data != b"new" else "no timing cache was made")
    return None


def _make_monitor(order: BuildOrder, stopped: threading.Event) -> trt.IProgressMonitor:
    """Tells the stages, and stops the build where memory runs low, the user said so, or telling failed."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._guarded(lambda: order.announce(f"{phase_name}, {num_steps} steps"))

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002  # as TensorRT calls it
            self._guarded(order.watch.check)
            return order.failure is None and not stopped.is_set()

        def phase_finish(self, phase_name: str) -> None:
            pass

        def _guarded(self, act: Callable[[], None]) -> None:
            try:
                act()
            except Exception as error:  # noqa: BLE001  # `build_plan` raises it when TensorRT has returned
                order.failure = order.failure or error

    return Monitor()


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of raising, since it could be raised inside a callback of TensorRT's."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # as `signal` calls it
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _parser_error(parser: trt.OnnxParser, said: Said) -> GateError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    nodes = list(dict.fromkeys(f"{error.node_operator()} {error.node_name()}".strip() for error in errors))
    reasons = list(dict.fromkeys(error.desc().strip() for error in errors))
    return UnsupportedError(
        f"TensorRT's parser does not take {len(errors) or 'some'} node(s) of the model",
        where=", ".join(filter(None, nodes)) or "the ONNX file",
        why="; ".join(filter(None, reasons)) or said.first,
        fix="keep the operator out of the graph, or export for a JetPack whose TensorRT has it",
    )


def _builder_error(order: BuildOrder, said: Said, stopped: threading.Event) -> Exception:
    if order.failure is not None:
        return order.failure
    if stopped.is_set():
        return InconclusiveError(
            "the build was stopped", where="edgekit build", why="you said so (Ctrl-C)", fix="start it again"
        )
    if said.out_of_memory:
        return MissingError(
            "TensorRT ran out of memory",
            where="build_serialized_network",
            why=said.first,
            fix="close the desktop and other programs: sudo systemctl isolate multi-user.target; or add swap",
        )
    return UnsupportedError(
        "TensorRT cannot build the model",
        where="build_serialized_network",
        why="; ".join(said.errors[:3]) or said.first,
        fix="export with --precision fp32 to see whether a layer or its precision is to blame",
    )
