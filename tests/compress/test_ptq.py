"""Post-training quantization: what is decided, what is refused, and where each option wins."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import numpy_helper, parser

from edgekit.bundle.manifest import Origin
from edgekit.compress.observers import OBSERVERS
from edgekit.compress.ptq import PreparedGraph, PtqOptions, prepare
from edgekit.errors import InputError, UnsupportedError, UsageError
from edgekit.graph.graph import Graph, serialize, with_outputs
from edgekit.graph.passes import infer_shapes
from edgekit.graph.qdq import lower
from edgekit.graph.quantspec import QuantSpec
from edgekit.graph.wiring import Wiring
from edgekit.noise import snr_db
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND

Array = np.ndarray
Samples = list[dict[str, Array]]
NET = """(float[1,3,8,8] x) => (float[1,5,4,4] y) {
    a = Conv(x, w1, b1)  r = Relu(a)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)  y = Conv(p, w2, b2) }"""
FIRST, SECOND = "Conv:a", "Conv:y"
SHAPE = (1, 3, 8, 8)


def graph_of(text: str, weights: dict[str, Array], opset: int = 20) -> Graph:
    """A graph from ONNX's text form; nodes are called after their result."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> net {text}')
    for node in model.graph.node:
        node.name = f"{node.op_type}:{node.output[0]}"
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return Graph(infer_shapes(model), {}, ())


def net_weights() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 1, 1), "b1": (4,), "w2": (5, 4, 1, 1), "b2": (5,)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def net(opset: int = 20, **changed: Array) -> Graph:
    return graph_of(NET, net_weights() | changed, opset)


def samples(shape: tuple[int, ...] = SHAPE, count: int = 8, seed: int = 1, mean: float = 0.0) -> Samples:
    rng = np.random.default_rng(seed)
    return [{"x": (rng.standard_normal(shape) + mean).astype(np.float32)} for _ in range(count)]


def run(model: bytes, data: Samples) -> Array:
    engine = BACKEND.open(EngineRequest(model, threads=1))
    try:
        return np.stack([next(iter(engine.run(feeds).values())) for feeds in data])
    finally:
        engine.close()


def int8(graph: Graph, prepared: PreparedGraph, data: Samples) -> tuple[Array, Array]:
    """What the float graph and its int8 form say of `data`."""
    return run(graph.serialized(), data), run(lower(*prepared.spec(), "onnxruntime").serialized(), data)


@pytest.fixture(scope="module")
def prepared() -> PreparedGraph:
    return prepare(net(), samples())


def test_layers_carriers_and_their_tensors_are_found(prepared: PreparedGraph) -> None:
    graph, spec = prepared.spec()
    assert spec.layers == (FIRST, SECOND)
    assert spec.carriers == ("MaxPool:p",)
    assert set(spec.activations) == {"x", "r", "p", "y"}
    assert spec.activations["r"].low == 0
    assert {name: (quant.axis, len(quant.clip)) for name, quant in spec.weights.items()} == {
        "w1": (0, 4),
        "w2": (0, 5),
    }
    assert spec.samples == 8
    assert spec.float_nodes == {}
    assert graph.passes[-1] == "bias-correction"


def test_int8_means_what_the_float_graph_does(prepared: PreparedGraph) -> None:
    wanted, got = int8(net(), prepared, samples(seed=9))
    assert snr_db(wanted, got) > 30


@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_every_observer_gives_a_working_graph(observer: str) -> None:
    prepared = prepare(net(), samples(count=16), PtqOptions(observer=observer))
    _, spec = prepared.spec()
    assert {quant.observer for quant in spec.activations.values()} == {observer}
    assert f"observe:{observer}" in spec.steps
    wanted, got = int8(net(), prepared, samples(seed=9))
    assert snr_db(wanted, got) > 15


def test_clip_magnitudes_are_the_weights_largest(prepared: PreparedGraph) -> None:
    weights = {name: np.abs(Wiring(prepared.graph.model).weight(name)) for name in ("w1", "w2")}
    _, spec = prepared.spec()
    for name, values in weights.items():
        np.testing.assert_allclose(spec.weights[name].clip, values.max(axis=(1, 2, 3)))
    _, coarse = prepare(net(), samples(), PtqOptions(per_channel=False, equalize=False)).spec()
    assert coarse.weights["w1"].axis is None
    assert coarse.weights["w1"].clip == (pytest.approx(np.abs(net_weights()["w1"]).max()),)


def test_spec_is_pure(prepared: PreparedGraph) -> None:
    before = prepared.graph.serialized(), copy.deepcopy(dict(prepared.refused)), dict(prepared.ranges)
    first_graph, first = prepared.spec()
    _, fewer = prepared.spec([FIRST])
    again_graph, again = prepared.spec()
    assert first == again
    assert first_graph.serialized() == again_graph.serialized()
    assert fewer.layers == (SECOND,)
    assert fewer.float_nodes == {FIRST: "returned to float by the search"}
    assert before == (prepared.graph.serialized(), prepared.refused, prepared.ranges)


def test_the_same_data_give_the_same_spec(prepared: PreparedGraph) -> None:
    assert prepare(net(), iter(samples())).spec()[1] == prepared.spec()[1]
    other = prepare(net(), samples(seed=2)).spec()[1]
    assert other.calibration_sha256 != prepared.spec()[1].calibration_sha256


@pytest.mark.parametrize("options", [PtqOptions(), PtqOptions(per_channel=False, equalize=False)], ids=["", "coarse"])
def test_specs_are_read_back_equal(options: PtqOptions) -> None:
    _, spec = prepare(net(), samples(), options).spec()
    assert QuantSpec.from_json(spec.to_json()) == spec
    assert QuantSpec.from_json(spec.to_json()).to_json() == spec.to_json()


def test_rescaling_is_recorded_and_exact() -> None:
    text = "(float[1,3,8,8] x) => (float[1,5,8,8] y) { a = Conv(x, w1, b1)  r = Relu(a)  y = Conv(r, w2, b2) }"
    graph = graph_of(text, net_weights())
    prepared = prepare(graph, samples())
    _, spec = prepared.spec()
    assert set(spec.divisors) == {"r"}
    assert "equalize:1 tensors" in spec.steps
    data = samples(seed=9)
    np.testing.assert_allclose(
        run(prepared.graph.serialized(), data), run(graph.serialized(), data), rtol=1e-4, atol=1e-5
    )
    largest = run(_with_output(prepared.graph, "r"), samples()).max()
    assert 0.9 * largest <= spec.activations["r"].high <= largest * (1 + 1e-6)


def _with_output(graph: Graph, tensor: str) -> bytes:
    model = with_outputs(graph.model, {tensor})
    del model.graph.output[0]
    return serialize(model)


def coarse_linear() -> Graph:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((32, 16)) * 0.05
    weight[0, 0] = 4.0  # one clip for all, so that steps are coarse for the rest
    return graph_of(
        "(float[8,32] x) => (float[8,16] y) { y = Gemm(x, w, b) }", {"w": weight, "b": rng.standard_normal(16)}
    )


def test_bias_correction_wins_on_coarse_weights_and_inputs_off_zero() -> None:
    graph, data = coarse_linear(), samples((8, 32), 32, mean=3)
    fresh = samples((8, 32), 64, seed=9, mean=3)
    errors = []
    for correct in (False, True):
        prepared = prepare(graph, data, PtqOptions(per_channel=False, bias_correction=correct))
        wanted, got = int8(graph, prepared, fresh)
        errors.append(float(np.abs((got - wanted).mean(axis=(0, 1))).mean()))
    plain, corrected = errors
    assert corrected < 0.3 * plain


@pytest.mark.parametrize("group", [1, 2])
def test_bias_correction_of_convolutions_takes_out_the_mean(group: int) -> None:
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((6, 4 // group, 3, 3)) * 0.05
    weight[0, 0, 0, 0] = 4
    text = f"(float[1,4,10,10] x) => (float[1,6,8,8] y) {{ y = Conv<group={group}>(x, w, b) }}"
    graph = graph_of(text, {"w": weight, "b": np.zeros(6)})
    data = samples((1, 4, 10, 10), 16, mean=3)
    errors = []
    for correct in (False, True):
        prepared = prepare(graph, data, PtqOptions(per_channel=False, bias_correction=correct))
        wanted, got = int8(graph, prepared, data)
        errors.append(float(np.abs((got - wanted).mean(axis=(0, 1, 3, 4))).mean()))
    assert errors[1] < 0.3 * errors[0]


def test_a_tensor_may_be_read_by_convolutions_and_products_alike() -> None:
    text = """(float[1,4,5,6] x) => (float[1,4,5,3] y) {
        a = Conv(x, w, b)  c = Add(a, x)  m = MatMul(c, v)  y = Add(m, d)  unread = Conv(c, w2, b2) }"""
    rng = np.random.default_rng(6)
    shapes = {"w": (4, 4, 1, 1), "b": (4,), "v": (6, 3), "d": (3,), "w2": (2, 4, 1, 1), "b2": (2,)}
    graph = graph_of(text, {name: rng.standard_normal(shape) for name, shape in shapes.items()})
    data = samples((1, 4, 5, 6), mean=2)
    prepared = prepare(graph, data)
    assert prepared.means["MatMul:m"].shape == (6,)
    assert prepared.means["Conv:unread"].shape == (4,)
    wanted, got = int8(graph, prepared, data)
    assert snr_db(wanted, got) > 25


def test_kept_layers_are_recorded_with_the_pattern() -> None:
    _, spec = prepare(net(), samples(), PtqOptions(keep_float=("Conv:a*",))).spec()
    assert spec.layers == (SECOND,)
    assert spec.float_nodes == {FIRST: "kept float by 'Conv:a*'"}


def test_patterns_match_torch_modules_too() -> None:
    graph = net()
    named = Graph(graph.model, {FIRST: Origin("backbone.stem", None)}, ())
    _, spec = prepare(named, samples(), PtqOptions(keep_float=("backbone.*",))).spec()
    assert spec.layers == (SECOND,)


@pytest.mark.parametrize("pattern", ["head.*", "MaxPool:p", ""])
def test_patterns_that_match_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="matches no layer") as caught:
        prepare(net(), samples(), PtqOptions(keep_float=("Conv:a", pattern)))
    assert FIRST in str(caught.value)


def test_unknown_observers_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="unknown observer"):
        PtqOptions(observer="best")


def test_nothing_left_is_refused(prepared: PreparedGraph) -> None:
    with pytest.raises(UnsupportedError, match="nothing in this model") as caught:
        prepared.spec([FIRST, SECOND])
    assert caught.value.why == "returned to float by the search"


def test_an_old_opset_is_refused_before_data_are_read() -> None:
    def untouched() -> object:
        raise AssertionError("read")
        yield

    with pytest.raises(UnsupportedError, match="opset 11"):
        prepare(net(opset=11), untouched())  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 7])
def test_too_few_samples_are_refused(count: int) -> None:
    with pytest.raises(InputError, match="calibration sample"):
        prepare(net(), samples(count=count))


def test_a_nan_is_refused() -> None:
    data = samples()
    data[3]["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        prepare(net(), data)


TWO = """(float[1,3,8,8] x, float[1,3,8,8] z) => (float[1,5,8,8] y) {
    a = Conv(x, w1, b1)  s = Sigmoid(a)  y1 = Conv(s, w2, b2)  y2 = Conv(z, w3)  y = Add(y1, y2) }"""


@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_a_layer_that_was_never_exercised_stays_float(observer: str) -> None:
    weights = net_weights() | {"w3": np.random.default_rng(5).standard_normal((5, 3, 1, 1))}
    graph = graph_of(TWO, weights)
    data = [{**feeds, "z": np.zeros(SHAPE, np.float32)} for feeds in samples()]
    prepared = prepare(graph, data, PtqOptions(observer=observer))
    _, spec = prepared.spec()
    assert spec.layers == (FIRST, "Conv:y1")
    assert "never exercised" in spec.float_nodes["Conv:y2"]
    wanted, got = int8(graph, prepared, data)
    assert snr_db(wanted, got) > 15


def test_nothing_exercised_at_all_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="nothing in this model") as caught:
        prepare(net(b1=np.zeros(4)), [{"x": np.zeros(SHAPE, np.float32)}] * 8).spec()
    assert "never exercised" in str(caught.value)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("channels", [slice(1, 3), slice(None)])
def test_channels_of_zero_weights_stay_exact(per_channel: bool, channels: slice) -> None:
    second = net_weights()["w2"]
    second[channels] = 0
    graph = net(w2=second)
    prepared = prepare(graph, samples(), PtqOptions(per_channel=per_channel))
    _, spec = prepared.spec()
    assert min(spec.weights["w2"].clip) > 0
    wanted, got = int8(graph, prepared, samples(seed=9))
    assert np.isfinite(got).all()
    assert np.abs(wanted - got)[:, :, channels].max() <= 0.01 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_constant_activations_survive(observer: str) -> None:
    data = [{"x": np.full(SHAPE, 0.75, np.float32)} for _ in range(8)]
    graph = net(b1=np.full(4, 3.0))
    prepared = prepare(graph, data, PtqOptions(observer=observer))
    wanted, got = int8(graph, prepared, data)
    assert np.abs(wanted - got).max() <= 0.03 * np.abs(wanted).max()


def test_ranges_at_run_time_need_no_activations() -> None:
    graph = coarse_linear()
    _, spec = prepare(graph, samples((8, 32)), PtqOptions(dynamic=True)).spec()
    assert spec.dynamic
    assert (spec.activations, spec.carriers) == ({}, ())
    with pytest.raises(UnsupportedError, match="nothing in this model") as caught:
        prepare(net(), samples(), PtqOptions(dynamic=True)).spec()
    assert caught.value.why == "ranges at run time pay for matrix products only"
