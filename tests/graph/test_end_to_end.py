"""Decode and suppression inside the graph say what numpy says, for every layout, whatever the maps hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import ModelProto, TensorProto, helper  # noqa: E402

from edgekit.errors import InputError, UsageError  # noqa: E402
from edgekit.evaluate.suppression import suppression_fault  # noqa: E402
from edgekit.graph.end_to_end import OUTPUT, PREFIX, with_detections  # noqa: E402
from edgekit.graph.graph import Graph, tensor_specs  # noqa: E402
from edgekit.graph.half import to_half  # noqa: E402
from edgekit.graph.layers import find_layers  # noqa: E402
from edgekit.graph.rules.tensorrt import unsupported_nodes  # noqa: E402
from edgekit.graph.wiring import Wiring  # noqa: E402
from edgekit.plugins import load  # noqa: E402
from edgekit.processing.detect import Detections, detections  # noqa: E402
from edgekit.processing.preprocess import Placement, prepare  # noqa: E402
from edgekit.runtimes.backend import Engine, EngineRequest  # noqa: E402
from edgekit.spec import DetectionPostprocess, ImagePreprocess, ModelSpec, TensorSpec  # noqa: E402

Array = np.ndarray
LAYOUTS = ("yolox-grid", "fastestdet-grid", "yolov8-rows", "boxes-scores")
CLASSES, HEIGHT, WIDTH, STRIDE = 3, 5, 7, 8
ANCHORS = HEIGHT * WIDTH
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "yolox-grid": {"head": (5 + CLASSES, HEIGHT, WIDTH)},
    "fastestdet-grid": {"head": (5 + CLASSES, HEIGHT, WIDTH)},
    "yolov8-rows": {"rows": (4 + CLASSES, ANCHORS)},
    "boxes-scores": {"boxes": (ANCHORS, 4), "scores": (CLASSES, ANCHORS)},
}
POST = DetectionPostprocess(("head",), "yolox-grid", STRIDE, 0.05, 0.5, max_detections=20, clip=False)


def placement() -> Placement:
    """A picture that fills the input, so that boxes stay in the input's pixels."""
    pre = ImagePreprocess("image", HEIGHT * STRIDE, WIDTH * STRIDE, resize="stretch")
    return prepare(pre, np.zeros((HEIGHT * STRIDE, WIDTH * STRIDE, 3), np.uint8))[1]


def detector(
    decode: Any, batch: int | str = "batch", dtype: str = "float32", **options: Any
) -> tuple[Graph, ModelSpec]:
    """A graph that hands its inputs through as a detector's raw outputs."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shapes = {name: (batch, *shape) for name, shape in SHAPES[decode].items()}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_in"], [name], f"give_{name}") for name in shapes],
        "detector",
        [helper.make_tensor_value_info(f"{name}_in", kind, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    spec = ModelSpec(
        "detector",
        "detection",
        tuple(TensorSpec(f"{name}_in", dtype, shape) for name, shape in shapes.items()),
        tuple(TensorSpec(name, dtype, shape) for name, shape in shapes.items()),
        postprocess=replace(POST, outputs=tuple(shapes), decode=decode, **options),
        labels=("a", "b", "c"),
    )
    return Graph(model, {}, ()), spec


def maps(decode: str, seed: int, batch: int = 2, spread: float = 2.0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    made = {}
    for name, shape in SHAPES[decode].items():
        values = random.normal(0, spread, (batch, *shape)).astype(np.float32)
        if decode == "fastestdet-grid":
            values[:, [0, *range(5, 5 + CLASSES)]] = random.random((batch, 1 + CLASSES, HEIGHT, WIDTH))
        elif decode == "yolov8-rows":
            values[:, :2] = random.uniform(0, 50, (batch, 2, ANCHORS))
            values[:, 2:4] = random.uniform(1, 30, (batch, 2, ANCHORS))
            values[:, 4:] = random.random((batch, CLASSES, ANCHORS))
        elif name == "boxes":
            low = random.uniform(0, 40, (batch, ANCHORS, 2))
            values = np.concatenate([low, low + random.uniform(1, 30, low.shape)], -1).astype(np.float32)
        elif name == "scores":
            values = random.random((batch, *shape)).astype(np.float32)
        made[name] = values
    return made


def opened(graph: Graph, spec: ModelSpec, runtime: str = "onnxruntime") -> Engine:
    names = tuple(tensor.name for tensor in spec.outputs)
    engine: Engine = load("edgekit.runtimes", runtime).open(EngineRequest(graph.serialized(), threads=1, outputs=names))
    return engine


def feeds(raw: dict[str, Array]) -> dict[str, Array]:
    return {f"{name}_in": values for name, values in raw.items()}


def found(spec: ModelSpec, outputs: dict[str, Array]) -> list[Detections]:
    assert isinstance(spec.postprocess, DetectionPostprocess)
    batch = len(next(iter(outputs.values())))
    return detections(spec.postprocess, outputs, [placement()] * batch)


def agree(wanted: list[Detections], got: list[Detections]) -> None:
    assert len(wanted) == len(got)
    for one, other in zip(wanted, got, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(one.boxes, other.boxes, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("decode", LAYOUTS)
def test_the_graph_finds_what_numpy_finds(decode: str, runtime: str) -> None:
    pytest.importorskip(runtime)
    graph, spec = detector(decode)
    ended, told = with_detections(graph, spec)
    engine = opened(ended, told, runtime)
    some = 0
    for seed in range(6):
        raw = maps(decode, seed, batch=1 + seed % 3)
        outputs = engine.run(feeds(raw))
        assert outputs[OUTPUT].shape == (len(raw[next(iter(raw))]), 20, 6)
        assert outputs[OUTPUT].dtype == np.float32
        for name, values in raw.items():
            np.testing.assert_array_equal(outputs[name], values)
        wanted = found(spec, raw)
        agree(wanted, found(told, outputs))
        some += sum(map(len, wanted))
    assert some > 30


@pytest.fixture(scope="module", params=LAYOUTS)
def loose(request: pytest.FixtureRequest) -> tuple[ModelSpec, ModelSpec, Engine]:
    """A detector that keeps everything, and its engine."""
    graph, spec = detector(request.param, score_threshold=0.0, max_detections=300)
    ended, told = with_detections(graph, spec)
    return spec, told, opened(ended, told)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0.1, 3), batch=st.integers(1, 3))
def test_for_any_map_with_more_rows_than_anchors(loose: Any, seed: int, spread: float, batch: int) -> None:
    spec, told, engine = loose
    raw = maps(spec.postprocess.decode, seed, batch, spread)
    outputs = engine.run(feeds(raw))
    assert outputs[OUTPUT].shape == (batch, ANCHORS, 6)
    agree(found(spec, raw), found(told, outputs))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("decode", LAYOUTS)
def test_nothing_found_leaves_rows_that_say_so(decode: str, runtime: str) -> None:
    pytest.importorskip(runtime)
    graph, spec = detector(decode, score_threshold=1.0)
    ended, told = with_detections(graph, spec)
    outputs = opened(ended, told, runtime).run(feeds(maps(decode, 0)))
    np.testing.assert_array_equal(outputs[OUTPUT], np.broadcast_to([0, 0, 0, 0, 0, -1], (2, 20, 6)))
    assert [len(each) for each in found(told, outputs)] == [0, 0]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("decode", LAYOUTS)
def test_equal_scores_and_classes_take_the_first(decode: str, runtime: str) -> None:
    """Every cell says the same, so only the order of anchors decides; a score at the threshold passes.

    OpenVINO promises no order of equal scores: its answer is another one that is right.
    """
    pytest.importorskip(runtime)
    raw = maps(decode, 3, batch=2)
    for name, values in raw.items():
        if name == "boxes":
            continue
        first = {"head": 5, "rows": 4, "scores": 0}[name]
        values[:, first:] = 0.25
        if name == "head":
            values[:, 0 if decode == "fastestdet-grid" else 4] = 0.25
    threshold = 0.25 if decode in ("yolov8-rows", "boxes-scores") else 0.2
    graph, spec = detector(decode, score_threshold=threshold, max_detections=9)
    ended, told = with_detections(graph, spec)
    outputs = opened(ended, told, runtime).run(feeds(raw))
    got = found(told, outputs)
    assert [len(each) for each in got] == [9, 9]
    assert not any(each.labels.any() for each in got)
    assert isinstance(spec.postprocess, DetectionPostprocess)
    assert suppression_fault(spec.postprocess, outputs, outputs[OUTPUT]) is None
    if runtime == "onnxruntime":
        agree(found(spec, raw), got)


@pytest.mark.parametrize("decode", LAYOUTS)
def test_suppression_is_class_by_class(decode: str) -> None:
    """All boxes in one place: one a class is left, the best."""
    raw = maps(decode, 5, batch=1, spread=1.0)
    for name, values in raw.items():
        if name == "boxes":
            values[:] = [3, 4, 20, 30]
        elif decode == "yolov8-rows":
            values[:, :4] = np.array([20, 20, 10, 10])[:, None]
        elif name == "head":
            rows = slice(0, 4) if decode == "yolox-grid" else slice(1, 5)
            values[:, rows] = np.array([0, 0, 9, 9])[:, None, None]  # so large that shifts by cells do not matter
    graph, spec = detector(decode, score_threshold=0.0, iou_threshold=0.05)
    ended, told = with_detections(graph, spec)
    (got,) = found(told, opened(ended, told).run(feeds(raw)))
    assert sorted(got.labels.tolist()) == [0, 1, 2]
    agree(found(spec, raw), [got])


@pytest.mark.parametrize("decode", LAYOUTS)
def test_nan_is_told_and_not_dropped(decode: str) -> None:
    graph, spec = detector(decode)
    ended, told = with_detections(graph, spec)
    engine = opened(ended, told)
    raw = maps(decode, 1, batch=1)
    for name, values in raw.items():
        for place in range(1, values[0].size, 11):
            spoilt = {key: array.copy() for key, array in raw.items()}
            spoilt[name].reshape(-1)[place] = np.nan
            outputs = engine.run(feeds(spoilt))
            try:
                found(spec, spoilt)
            except InputError:
                with pytest.raises(InputError, match="NaN"):
                    found(told, outputs)


@pytest.mark.parametrize("batch", [1, 2, "batch"])
def test_the_shape_is_fixed_but_for_the_batch(batch: int | str) -> None:
    graph, spec = detector("yolox-grid", batch)
    before = graph.serialized()
    ended, told = with_detections(graph, spec)
    assert graph.serialized() == before
    assert tensor_specs(list(ended.model.graph.output)) == told.outputs
    assert told.outputs[-1] == TensorSpec("detections", "float32", (batch, 20, 6))
    assert told.outputs[:-1] == spec.outputs
    assert ended.passes[-1] == "end-to-end"
    assert ModelSpec.from_json(told.as_json()) == told
    count = batch if isinstance(batch, int) else 3
    raw = maps("yolox-grid", 0, count)
    agree(found(spec, raw), found(told, opened(ended, told).run(feeds(raw))))


def test_raw_outputs_in_half_are_decoded_in_single() -> None:
    graph, spec = detector("yolox-grid", dtype="float16")
    ended, told = with_detections(graph, spec)
    raw = {name: values.astype(np.float16) for name, values in maps("yolox-grid", 2).items()}
    outputs = opened(ended, told).run(feeds(raw))
    assert outputs[OUTPUT].dtype == np.float32
    agree(found(spec, raw), found(told, outputs))


@pytest.mark.parametrize("decode", LAYOUTS)
def test_what_is_added_is_named_plain_and_never_a_layer(decode: str) -> None:
    graph, spec = detector(decode)
    ended, _ = with_detections(graph, spec)
    added = list(ended.model.graph.node)[len(graph.model.graph.node) :]
    assert all(node.name.startswith(PREFIX) and not node.domain for node in added)
    names = [name for node in added for name in node.output]
    assert len(set(names)) == len(names)
    assert all(name == OUTPUT or name.startswith(PREFIX) for name in names)
    assert unsupported_nodes(ended.model) == {}
    assert sum(node.op_type == "NonMaxSuppression" for node in added) == 1
    (scatter,) = (node for node in added if node.op_type == "ScatterND")
    assert not scatter.attribute  # before 10.9, TensorRT's parser refuses even the default
    assert find_layers(Wiring(ended.model)) == ({}, {})


def types_of(model: ModelProto) -> dict[str, int]:
    values = [*onnx.shape_inference.infer_shapes(model).graph.value_info, *model.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def halves(graph: Graph) -> tuple[Graph, set[str]]:
    """The graph in half precision, and its nodes that read or make halves."""
    half = to_half(graph)
    types = types_of(half.model) | {tensor.name: tensor.data_type for tensor in half.model.graph.initializer}
    touched = {
        node.name
        for node in half.model.graph.node
        if TensorProto.FLOAT16 in {types.get(name) for name in (*node.input, *node.output)}
    }
    return half, touched


@pytest.mark.parametrize("decode", LAYOUTS)
def test_half_precision_leaves_it_alone(decode: str) -> None:
    graph, spec = detector(decode)
    ended, told = with_detections(graph, spec)
    half, touched = halves(ended)
    assert not any(name.startswith(PREFIX) for name in touched)
    outputs = opened(half, told).run(feeds(maps(decode, 4)))
    agree(found(spec, outputs), found(told, outputs))


def test_half_precision_ends_at_the_shipped_models_raw_outputs(
    shipped: tuple[Any, ModelSpec], shipped_graph: Graph
) -> None:
    _, touched = halves(with_detections(shipped_graph, shipped[1])[0])
    assert len(touched) > 20
    assert not any(name.startswith(PREFIX) for name in touched)


@pytest.mark.parametrize("decode", LAYOUTS)
def test_only_inner_tensors_have_sizes_that_depend_on_data(decode: str) -> None:
    """They lie between NonMaxSuppression and ScatterND, and nowhere else."""
    ended, _ = with_detections(*detector(decode, batch=2))
    values = {value.name: value for value in ended.model.graph.value_info}
    open_sizes = {
        name
        for name, value in values.items()
        if not all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
    inner = {"kept", "places", "kept_anchors", "there", "ones"}
    assert open_sizes <= {PREFIX + name for name in inner}
    assert PREFIX + "kept" in open_sizes
    assert TensorProto.FLOAT16 not in types_of(ended.model).values()


def test_what_cannot_be_ended_is_refused() -> None:
    graph, spec = detector("yolox-grid")
    ended, told = with_detections(graph, spec)
    with pytest.raises(UsageError, match="needs a detector") as again:
        with_detections(ended, told)
    assert "already" in str(again.value.why)
    with pytest.raises(UsageError, match="needs a detector"):
        with_detections(graph, replace(spec, task="tensor", postprocess=None))
    renamed = replace(spec, inputs=(replace(spec.inputs[0], name="detections"),))
    with pytest.raises(UsageError, match="called 'detections'"):
        with_detections(graph, renamed)
    for shape in (("batch", 8, "h", 7), ("batch", 8, 35)):
        unfit = replace(spec, outputs=(replace(spec.outputs[0], shape=shape),))
        with pytest.raises(UsageError, match="4 axes and known sizes"):
            with_detections(graph, unfit)


def test_more_rows_than_tensorrt_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "yolov8-rows", {"rows": (4 + CLASSES, 3840)})
    with_detections(*detector("yolov8-rows", max_detections=3839))
    with pytest.raises(UsageError, match="cannot rank 3840 detections") as refused:
        with_detections(*detector("yolov8-rows", max_detections=5000))
    assert "max_detections" in str(refused.value.where)
