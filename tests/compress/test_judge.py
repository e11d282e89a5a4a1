"""The judge measures outputs against float, by channel; `auto` takes the observer that it finds nearest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")

from onnx import numpy_helper, parser

from edgekit.compress import judge as module
from edgekit.compress.calibration import MIN_SAMPLES, MOST_APART, Need, calibrate
from edgekit.compress.judge import Judge, output_error
from edgekit.compress.observers import JUDGED, UNJUDGED
from edgekit.compress.ptq import LEAST_APART, PtqOptions, prepare
from edgekit.compress.statistics import HistogramOf
from edgekit.errors import InputError
from edgekit.graph.end_to_end import OUTPUT, with_detections
from edgekit.graph.graph import Graph, tensor_specs
from edgekit.graph.passes import infer_shapes
from edgekit.runtimes.onnxruntime import BACKEND
from edgekit.spec import DetectionPostprocess, ModelSpec

Array = np.ndarray
Draw = Callable[[np.random.Generator], Array]
SHAPE = (1, 2, 48, 48)
COUNT = 40


def graph_of(nodes: str, bias: float = 0.0) -> Graph:
    """Two channels that a 1 x 1 convolution leaves as they are, but for `bias`."""
    sides = ",".join(map(str, SHAPE))
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> net (float[{sides}] x) => (float[{sides}] y) {{ {nodes} }}'
    )
    model.graph.node[0].name = "conv"
    for name, values in (("w", np.eye(2).reshape(2, 2, 1, 1)), ("b", np.full(2, bias))):
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return Graph(infer_shapes(model), {}, ())


PLAIN = graph_of("y = Conv(x, w, b)")


def samples(draw: Draw, count: int = COUNT, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": draw(rng).astype(np.float32)} for _ in range(count)]


def normal(rng: np.random.Generator) -> Array:
    return rng.standard_normal(SHAPE)


def with_outliers(rng: np.random.Generator) -> Array:
    return np.where(rng.random(SHAPE) < 3e-5, 400.0, rng.standard_normal(SHAPE))


def long_on_one_side(rng: np.random.Generator) -> Array:
    values = np.abs(rng.standard_t(5, size=SHAPE))
    return np.where(rng.random(SHAPE) < 0.2, -0.25, values)


def long_on_both(rng: np.random.Generator) -> Array:
    return rng.standard_t(3, size=SHAPE)


WINS = {
    "percentile": (graph_of("c = Conv(x, w, b)  y = Tanh(c)"), with_outliers),  # how large they are does not matter
    "mse": (PLAIN, long_on_one_side),
    "octav": (PLAIN, long_on_both),
    "minmax": (graph_of("c = Conv(x, w, b)  y = Relu(c)", -4.0), normal),  # the last of the tail is all that matters
}


@pytest.mark.parametrize("winner", JUDGED)
def test_auto_takes_each_observer_where_it_serves_the_outputs_best(winner: str) -> None:
    graph, draw = WINS[winner]
    data = samples(draw, seed=3 if winner == "mse" else 0)
    prepared = prepare(graph, data)
    assert min(prepared.judged, key=lambda name: prepared.judged[name]) == winner
    assert prepared.options.observer == winner
    _, spec = prepared.spec()
    assert {quant.observer for quant in spec.activations.values()} == {winner}
    assert f"{winner} {prepared.judged[winner]:.4g}" in spec.steps[0]
    assert spec.steps[1] == f"observe:{winner}"
    fresh = Judge.of(graph, samples(draw, seed=9), "onnxruntime")
    others = [prepare(graph, data, PtqOptions(observer=name)) for name in JUDGED if name != winner]
    assert fresh.error(*prepared.spec()) < min(fresh.error(*other.spec()) for other in others)


def test_the_choice_is_the_same_each_time_and_for_a_stream() -> None:
    first, again = prepare(PLAIN, samples(normal)), prepare(PLAIN, iter(samples(normal)))
    assert first.judged == again.judged
    assert first.spec()[1] == again.spec()[1]


def test_ranges_come_from_the_samples_that_are_not_judged_on() -> None:
    data = samples(normal)
    prepared = prepare(PLAIN, data)
    apart = {id(feeds) for feeds in prepared.calibration.apart}
    rest = [feeds for feeds in data if id(feeds) not in apart]
    alone = prepare(PLAIN, rest, PtqOptions(observer=prepared.options.observer))
    assert 0 < len(apart) < len(data) == prepared.calibration.samples
    assert alone.ranges == prepared.ranges
    assert alone.calibration.apart == ()


def test_too_few_samples_to_hold_any_apart_are_told() -> None:
    prepared = prepare(PLAIN, samples(normal, MIN_SAMPLES + LEAST_APART - 1))
    assert (prepared.options.observer, dict(prepared.judged)) == (UNJUDGED, {})
    assert prepared.steps[0].startswith("auto:not judged")


def test_ranges_at_run_time_are_not_judged() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> net (float[4,8] x) => (float[4,8] y) { y = MatMul(x, w) }'
    )
    model.graph.node[0].name = "product"
    model.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    data = [{"x": np.ones((4, 8), np.float32)}] * COUNT
    prepared = prepare(Graph(infer_shapes(model), {}, ()), data, PtqOptions(dynamic=True))
    assert (prepared.steps[0], prepared.calibration.apart) == ("observe:at run time", ())


def test_a_nan_in_a_sample_that_is_held_apart_is_refused() -> None:
    data = samples(normal)
    apart = prepare(PLAIN, data).calibration.apart
    data[next(i for i, feeds in enumerate(data) if feeds is apart[0])]["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN") as caught:
        prepare(PLAIN, data)
    assert "held apart" in str(caught.value)


def test_the_float_graph_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []

    class Counting:
        def open(self, request: object) -> object:
            opened.append(request)
            return BACKEND.open(request)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "ORT", Counting())
    prepare(PLAIN, samples(normal))
    assert len(opened) == 1 + len(JUDGED)


def detector() -> tuple[Graph, ModelSpec]:
    """A detector of 64 anchors and two classes: a convolution whose channels are `yolov8-rows`."""
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> net (float[1,6,8,8] x) => (float[1,6,64] y)'
        "{ c = Conv(x, w)  y = Reshape(c, s) }"
    )
    model.graph.node[0].name = "conv"
    model.graph.initializer.append(numpy_helper.from_array(np.eye(6, dtype=np.float32).reshape(6, 6, 1, 1), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 6, 64]), "s"))
    post = DetectionPostprocess(("y",), "yolov8-rows", score_threshold=0.3)
    inputs, outputs = tensor_specs(model.graph.input), tensor_specs(model.graph.output)
    return Graph(infer_shapes(model), {}, ()), ModelSpec("net", "detection", inputs, outputs, postprocess=post)


def test_detections_that_a_graph_makes_of_its_other_outputs_are_not_judged() -> None:
    plain, spec = detector()
    ended, told = with_detections(plain, spec)
    assert told.derived == {OUTPUT}
    rng = np.random.default_rng(0)
    data = [{"x": rng.random((1, 6, 8, 8), np.float32)} for _ in range(COUNT)]
    judges = [Judge.of(graph, data[:4], "onnxruntime") for graph in (plain, ended)]
    assert [[set(outputs) for outputs in judge.wanted] for judge in judges] == [[{"y"}] * 4] * 2
    errors = [
        judge.error(*prepare(graph, data, PtqOptions(observer="minmax")).spec())
        for judge, graph in zip(judges, (plain, ended), strict=True)
    ]
    assert 0 < errors[0] == errors[1]
    judged = [dict(prepare(graph, data).judged) for graph in (plain, ended)]
    assert judged[0] == judged[1] and set(judged[0]) == set(JUDGED)


@pytest.mark.parametrize("count", [MIN_SAMPLES, 30, 140, 600])
def test_samples_held_apart_are_spread_over_all_and_every_other_one_is_counted(count: int) -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> net (float[1] x) => (float[1] y) { y = Relu(x) }'
    )

    def numbered() -> Iterator[dict[str, Array]]:
        for index in range(count):
            yield {"x": np.array([index + 1], np.float32)}

    need = Need("x", HistogramOf())
    found = calibrate(Graph(model, {}, ()), [need], numbered(), hold_apart=True)
    whole = calibrate(Graph(model, {}, ()), [need], numbered())
    apart = [int(feeds["x"][0]) - 1 for feeds in found.apart]
    assert found.samples == whole.samples == count
    assert found.sha256 == whole.sha256
    assert found.of("x", need.statistic).total == count - len(apart)
    assert len(apart) <= MOST_APART
    assert all(index >= MIN_SAMPLES for index in apart)
    if apart:
        assert len(set(np.diff(apart))) == 1
        assert apart[-1] >= count - np.diff(apart)[0]


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_the_error_has_no_unit(seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    wanted = [{"y": rng.standard_normal((1, 3, 4, 5))} for _ in range(3)]
    got = [{"y": outputs["y"] + 0.1 * rng.standard_normal((1, 3, 4, 5))} for outputs in wanted]
    units = 10.0 ** (power * np.arange(3)).reshape(1, 3, 1, 1)

    def scaled(answers: list[dict[str, Array]]) -> list[dict[str, Array]]:
        return [{"y": outputs["y"] * units + 5 * units} for outputs in answers]

    assert output_error(scaled(wanted), scaled(got)) == pytest.approx(output_error(wanted, got), rel=1e-6)
    assert output_error(wanted, wanted) == 0


def test_the_error_is_a_mean_over_channels_and_outputs() -> None:
    column = np.array([[0.0], [2.0]])
    wanted = [{"a": np.hstack([column, column]), "b": column, "index": np.array([1])}]
    got = [{"a": np.hstack([column, column + 1]), "b": column + 2, "index": np.array([7])}]
    assert output_error(wanted, got) == pytest.approx((0.5 * (0 + 1) + 4) / 2)


def test_channels_that_never_vary_have_no_scale_unless_all_are_so() -> None:
    varying, still = np.array([[0.0], [2.0]]), np.array([[3.0], [3.0]])
    assert output_error([{"y": np.hstack([varying, still])}], [{"y": np.hstack([varying, still + 9])}]) == 0
    assert output_error([{"y": still}], [{"y": still + 1}]) == pytest.approx(2 / 18)
    assert output_error([{"y": 0 * still}], [{"y": still}]) == 0
