"""The half reference: what a strongly typed fp16 file means, computed without a GPU.

ONNX Runtime and OpenVINO compute fp16 files in fp32 on a CPU and round rarely, so overflow never shows: a net whose
half-precision result is infinite gives 6404. Here every node's output is rounded to the type that the file states: to
nearest, ties to even, beyond 65520 to infinity (IEEE 754-2019, 4.3.1). Sums inside one node run in fp32, as a tensor
core's accumulators do; QuantizeLinear divides and rounds in fp32, as ONNX Runtime and ONNX up to opset 22 have it. A
builder may fuse nodes and so skip roundings: it then deviates by less than this reference from exact, not by the same.

The file is rewritten with its roundings made explicit (`half_rounding.py`) and runs in ONNX Runtime with all
optimizations off, so that one session computes whole models and no pair of casts is taken for a nothing. A canary
proves that on this machine before the first model is opened.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.bundle.manifest import Origin
from edgekit.errors import GateError, InputError, UnsupportedError
from edgekit.graph.graph import Graph, serialize
from edgekit.graph.half_rounding import CONTAINERS, Rounded, computed_tensors, rounding
from edgekit.graph.islands import read_names
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeEngine, import_onnxruntime

Feeds = Mapping[str, np.ndarray]
_CONVERTERS = ("Cast", "QuantizeLinear", "DequantizeLinear")


def run_half(graph: Graph | ModelProto, feeds: Feeds, fetch: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Compute a lowered graph, every node's output rounded to the type that the file states.

    Args:
        graph: fp16 or fp16 with QuantizeLinear and DequantizeLinear; fp32 tensors stay fp32.
        feeds: graph input to array, of the model's dtypes and shapes.
        fetch: tensors to return, intermediate ones too (`computed_tensors` lists them); None for the graph's outputs.

    Returns:
        Arrays by name, each in the file's own dtype. A model that runs often is opened once with `HalfBackend.open`.

    Raises:
        InputError: ONNX Runtime cannot load the model, or run it on these feeds.
        UnsupportedError: the model computes in bf16, or this machine's runtime drops roundings.
    """
    engine = open_half(graph, fetch)
    try:
        return engine.run(feeds)
    finally:
        engine.close()


def open_half(graph: Graph | ModelProto, fetch: Collection[str] | None = None) -> HalfEngine:
    """What `run_half` runs, for more than one run; arguments and errors are the same."""
    model = graph.model if isinstance(graph, Graph) else graph
    names = _outputs(model) if fetch is None else tuple(fetch)
    unknown = sorted(set(names) - {*computed_tensors(model), *_outputs(model)})
    if unknown:
        raise InputError(f"no node computes {unknown[0]!r}", where="half reference", fix="fetch what nodes compute")
    return _open(rounding(_checked(model), names), None)


class HalfEngine(OnnxRuntimeEngine):
    """A rewritten model, loaded."""

    def run_for(self, names: Collection[str], feeds: Feeds) -> dict[str, np.ndarray]:
        """As `run`, but only the tensors `names` of those that it was opened for."""
        part = copy.copy(self)
        part._outputs = list(names)
        return part.run(feeds)


class HalfBackend:
    """The backend `half-reference`: a rehearsal on the CPU for engines that compute in fp16 elsewhere.

    Its version is ONNX Runtime's, whose kernels do the arithmetic inside a node.
    """

    name = "half-reference"
    devices = ("cpu",)

    def version(self) -> str:
        return str(import_onnxruntime().__version__)

    def open(self, request: EngineRequest) -> HalfEngine:
        """Load `request.model`, an ONNX file; settings are other runtimes' and have no meaning here.

        Raises:
            MissingError: ONNX Runtime is not installed.
            InputError: the model cannot be read.
            UnsupportedError: as `run_half`.
        """
        try:
            model = onnx.load_model_from_string(request.model)
        except DecodeError as error:
            raise InputError("this is no ONNX file", where="half reference", why=str(error)) from error
        return _open(rounding(_checked(model), _outputs(model)), request.threads)


BACKEND = HalfBackend()


def finite_gate(graph: Graph, samples: Iterable[Feeds]) -> int:
    """Check that no tensor of a lowered graph becomes infinite or NaN, intermediate ones and loop bodies included.

    What the graph states itself passes on: a mask of -inf is no overflow, as long as no node makes a NaN from it and no
    output holds one. The verdict is on a node that makes something non-finite from finite inputs.

    Args:
        graph: the lowered graph, with origins.
        samples: feeds of the graph's inputs; calibration data, or whatever else is at hand.

    Returns:
        How many samples were checked.

    Raises:
        GateError: naming the node, the torch module and the source line it comes from, and the sample's index.
        InputError, UnsupportedError: as `run_half`.
    """
    rounded = rounding(_checked(graph.model), (), flags=True)
    engine = _open(rounded, None)
    index = -1
    try:
        for index, feeds in enumerate(samples):
            outputs = engine.run(feeds)
            bad = [tensor for tensor, flag in rounded.flags.items() if not np.isfinite(outputs[flag])]
            if bad:
                _judge(graph, feeds, bad, index)
    finally:
        engine.close()
    return index + 1


def _judge(graph: Graph, feeds: Feeds, bad: Collection[str], index: int) -> None:
    """Look closer at a run in which the tensors `bad` were not finite; raises if a node is to blame."""
    nodes = [node for node in graph.model.graph.node if not {*node.output, *_bodies(node)}.isdisjoint(bad)]
    touched = {name for node in nodes for name in (*read_names(node), *node.output)}
    values = run_half(graph, feeds, sorted(touched.intersection(computed_tensors(graph.model)))) | dict(feeds)
    weights = [tensor for tensor in graph.model.graph.initializer if tensor.name in touched]
    values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in weights}
    outputs = _outputs(graph.model)
    for node in nodes:
        read = [values[name] for name in sorted(read_names(node)) if name in values]
        from_finite = all(_is_finite(each) for each in read)
        if from_finite and not set(_bodies(node)).isdisjoint(bad):
            raise _not_finite(graph, node, "a tensor inside its body", "it becomes infinite or NaN", index)
        for name in node.output:
            value = values.get(name)
            if value is None or _is_finite(value):
                continue
            new_nan = _has_nan(value) and not any(_has_nan(each) for each in read)
            if from_finite or new_nan or name in outputs:
                raise _not_finite(graph, node, f"tensor {name!r}", _extremes(value, read), index)


def _not_finite(graph: Graph, node: NodeProto, what: str, found: str, index: int) -> GateError:
    return GateError(
        f"fp16: {what} is not finite",
        where=describe_node(graph, node),
        why=f"{found} on sample {index}; fp16 ends at 65504",
        fix="keep the layer in fp32, scale it down, or export with --precision fp32",
    )


def describe_node(graph: Graph, node: NodeProto) -> str:
    """The node with its torch module and source line, where they are known; see `origin_of`."""
    origin = origin_of(graph, node)
    named = f"node {node.name!r} ({node.op_type})"
    if origin is None:
        return named
    line = f" ({origin.file}:{origin.line})" if origin.file else ""
    return f"{named} of module {origin.module!r}{line}"


def origin_of(graph: Graph, node: NodeProto) -> Origin | None:
    """Where a node comes from; what a pass put in, a cast or a Q/DQ pair, has the origin of what it converts."""
    if node.name in graph.origins:
        return graph.origins[node.name]
    makers = {name: maker for maker in graph.model.graph.node for name in maker.output if name}
    while node.name not in graph.origins:
        maker = makers.get(node.input[0]) if node.op_type in _CONVERTERS and node.input else None
        if maker is None:
            return None
        node = maker
    return graph.origins[node.name]


def _extremes(value: np.ndarray, read: list[np.ndarray]) -> str:
    nans, infinities = int(np.isnan(value).sum()), int(np.isinf(value).sum())
    parts = [f"{count} {kind}" for count, kind in ((infinities, "infinite"), (nans, "NaN")) if count]
    largest = max(
        (float(np.abs(each[np.isfinite(each)]).max(initial=0)) for each in read if _is_float(each)), default=0
    )
    return f"{' and '.join(parts)} of {value.size} elements, from inputs of up to {largest:.4g}"


def _bodies(node: NodeProto) -> Iterator[str]:
    if node.op_type in CONTAINERS:
        yield f"{next(filter(None, node.output))}@body"


def _is_float(value: np.ndarray) -> bool:
    return value.dtype.kind == "f"


def _is_finite(value: np.ndarray) -> bool:
    return not _is_float(value) or bool(np.isfinite(value).all())


def _has_nan(value: np.ndarray) -> bool:
    return _is_float(value) and bool(np.isnan(value).any())


def _outputs(model: ModelProto) -> tuple[str, ...]:
    return tuple(value.name for value in model.graph.output)


def _checked(model: ModelProto) -> ModelProto:
    """Refuse what would silently not be rounded."""
    stated = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    stated |= {tensor.data_type for tensor in model.graph.initializer}
    if TensorProto.BFLOAT16 in stated:
        raise UnsupportedError("the half reference does not know bf16", where="half reference", fix="use fp16 or fp32")
    return model


def _open(rounded: Rounded, threads: int | None) -> HalfEngine:
    _require_roundings()
    return _UNOPTIMIZED.open(EngineRequest(serialize(rounded.model), threads=threads))


class _Unoptimized(OnnxRuntimeBackend):
    """ONNX Runtime with its graph optimizations off."""

    def open(self, request: EngineRequest) -> HalfEngine:
        options = import_onnxruntime().SessionOptions()
        options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        return HalfEngine(self._session(request, options))


_UNOPTIMIZED = _Unoptimized()


@lru_cache(maxsize=1)
def _require_roundings() -> None:
    """Compute a few roundings and compare them with IEEE 754's.

    Raises:
        UnsupportedError: this machine's ONNX Runtime took a pair of casts for a nothing, or rounds in another way.
    """
    wide = np.array(
        [1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, -7e4, 2**-25, 2**-25 + 2**-40, 3 * 2**-25, 0.1], np.float32
    )
    half = np.array([1, 1 + 2**-9, 65504, np.inf, -np.inf, 0, 2**-24, 2**-23, 0.0999755859375], np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
            helper.make_node("Neg", ["y"], ["z"]),
        ],
        "canary",
        [value("x", TensorProto.FLOAT, [wide.size])],
        [value("z", TensorProto.FLOAT, [wide.size])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    engine = _UNOPTIMIZED.open(EngineRequest(serialize(model), threads=1))
    found = -engine.run({"x": np.asarray(wide)})["z"]
    engine.close()
    if not np.array_equal(found, half):
        raise UnsupportedError(
            "ONNX Runtime does not round to fp16 where it is told to",
            where=f"onnxruntime {import_onnxruntime().__version__}",
            why=f"{wide.tolist()} became {found.tolist()}",
            fix="install the version that edgekit names in its requirements",
        )
