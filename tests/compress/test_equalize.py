"""An equalised graph computes what the float graph does, and loses less of it in int8."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from onnx import numpy_helper, parser  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.calibration import calibrate  # noqa: E402
from edgekit.compress.equalize import LARGEST, SMALLEST, equalize, find_pairs, needs  # noqa: E402
from edgekit.compress.ptq import PtqOptions, prepare  # noqa: E402
from edgekit.graph.from_torch import export_torch  # noqa: E402
from edgekit.graph.graph import Graph, serialize  # noqa: E402
from edgekit.graph.layers import find_layers  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.qdq import lower  # noqa: E402
from edgekit.graph.wiring import Wiring  # noqa: E402
from edgekit.noise import snr_db  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

Array = np.ndarray
CHANNELS = 16
SPREAD = np.logspace(-1, 1, CHANNELS).astype(np.float32)
"""Channel ranges that differ by 100."""


def graph_of(text: str, **weights: Array) -> Graph:
    """A graph from ONNX's text form; nodes are called after their result."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> net {text}')
    for node in model.graph.node:
        node.name = f"{node.op_type}:{node.output[0]}"
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return Graph(infer_shapes(model), {}, ())


def exported(module: nn.Module, shape: tuple[int, ...]) -> Graph:
    module.eval()
    example = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = tuple(module(example).shape)
    spec = ModelSpec("net", "tensor", (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", out),))
    return export_torch(module, (example,), spec, 20, 10)


def samples(shape: tuple[int, ...], count: int = 8, seed: int = 1) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def run(model: bytes, feeds: dict[str, Array]) -> Array:
    engine = BACKEND.open(EngineRequest(model, threads=1))
    try:
        (out,) = engine.run(feeds).values()
    finally:
        engine.close()
    return out


def equalized(graph: Graph, data: list[dict[str, Array]]) -> tuple[Graph, dict[str, Array]]:
    wiring = Wiring(graph.model)
    pairs = find_pairs(wiring, list(find_layers(wiring)[0].values()))
    before = serialize(graph.model)
    model, divisors = equalize(graph.model, pairs, calibrate(graph, needs(pairs), data))
    assert serialize(graph.model) == before
    return graph.then("equalize", model), divisors


def assert_same(a: Graph, b: Graph, feeds: dict[str, Array]) -> None:
    wanted, got = run(a.serialized(), feeds), run(b.serialized(), feeds)
    assert np.abs(wanted - got).max() <= 1e-5 * np.abs(wanted).max()


def int8_snr(graph: Graph, data: list[dict[str, Array]], options: PtqOptions) -> float:
    """Of the int8 output over samples that calibration did not see."""
    prepared, spec = prepare(graph, data, options).spec()
    lowered = lower(prepared, spec, "onnxruntime").serialized()
    fresh = samples(data[0]["x"].shape, 4, seed=99)
    wanted, got = (np.stack([run(m, feeds) for feeds in fresh]) for m in (graph.serialized(), lowered))
    return float(snr_db(wanted, got))


class Separable(nn.Module):
    """conv, ReLU, depthwise, ReLU, conv; channels of the middle differ by 100 and matter alike."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, CHANNELS, 1)
        self.depthwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.project = nn.Conv2d(CHANNELS, 8, 1)
        spread = torch.from_numpy(SPREAD)
        with torch.no_grad():
            self.expand.weight.mul_(spread[:, None, None, None])
            self.expand.bias.mul_(spread)
            self.project.weight.div_(spread[:, None, None])
            self.depthwise.bias.mul_(spread)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(torch.relu(self.depthwise(torch.relu(self.expand(x)))))


class Normalized(nn.Module):
    """LayerNorm and a linear layer; a few channels of its input are 60 times as large as others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(64), nn.Linear(64, 32)
        with torch.no_grad():
            self.norm.bias.uniform_(-0.5, 0.5)
            self.norm.weight[:3] = 60
            self.norm.bias[:3] *= 60

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x))


IMAGE, ROWS = (1, 3, 12, 12), (4, 64)


@pytest.fixture(scope="module")
def separable() -> Graph:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return exported(Separable(), IMAGE)


@pytest.fixture(scope="module")
def normalized() -> Graph:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return exported(Normalized(), ROWS)


def test_equalised_convolutions_compute_the_same(separable: Graph) -> None:
    data = samples(IMAGE)
    after, divisors = equalized(separable, data)
    assert sorted(scales.shape for scales in divisors.values()) == [(CHANNELS,)] * 2
    assert all(scales.max() / scales.min() > 5 for scales in divisors.values())
    assert_same(separable, after, data[0])


def test_a_depthwise_consumer_takes_all_of_the_range(separable: Graph) -> None:
    data = samples(IMAGE)
    wiring = Wiring(separable.model)
    pairs = find_pairs(wiring, list(find_layers(wiring)[0].values()))
    calibration = calibrate(separable, needs(pairs), data)
    _, divisors = equalize(separable.model, pairs, calibration)
    free = [pair.is_free(wiring) for pair in pairs]
    assert sorted(free) == [False, True]
    pair = pairs[free.index(True)]
    left = calibration.of(pair.tensor, pair.statistic).largest / divisors[pair.tensor]
    np.testing.assert_allclose(left, left[0], rtol=1e-6)


def test_a_smoothed_layer_norm_computes_the_same(normalized: Graph) -> None:
    data = samples(ROWS)
    after, divisors = equalized(normalized, data)
    (scales,) = divisors.values()
    assert scales[:3].min() > 3 * np.median(scales)
    assert np.exp(np.log(scales).mean()) == pytest.approx(1)
    assert_same(normalized, after, data[0])


def test_equalisation_wins_where_channel_ranges_differ(separable: Graph) -> None:
    data = samples(IMAGE)
    plain, better = (int8_snr(separable, data, PtqOptions(equalize=on, observer="minmax")) for on in (False, True))
    assert better > plain + 6


def test_smoothing_wins_over_outlier_channels(normalized: Graph) -> None:
    data = samples(ROWS)
    plain, better = (int8_snr(normalized, data, PtqOptions(equalize=on, observer="minmax")) for on in (False, True))
    assert better > plain + 3


RNG = np.random.default_rng(7)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        pytest.param(
            "(float[2,6] x) => (float[2,3] y) { a = Gemm(x, w, b)  r = Relu(a)  y = Gemm<transB=1>(r, v, c) }",
            {"w": (6, 5), "b": (5,), "v": (3, 5), "c": (3,)},
            id="Gemm of either layout",
        ),
        pytest.param(
            "(float[2,6] x) => (float[2,5] y) { m = MatMul(x, w)  a = Add(m, b)  r = Relu(a)  y = MatMul(r, v) }",
            {"w": (6, 7), "b": (7,), "v": (7, 5)},
            id="MatMul and Add",
        ),
        pytest.param(
            "(float[1,4,5,5] x) => (float[1,6,5,5] y) { a = Conv(x, w, b)  y = Conv<group=2>(a, v) }",
            {"w": (8, 4, 1, 1), "b": (8,), "v": (6, 4, 1, 1)},
            id="grouped, without activation",
        ),
        pytest.param(
            "(float[2,6] x) => (float[2,3] y)"
            " { n = LayerNormalization(x, g)  p = MatMul(n, w)  q = MatMul(n, v)  y = Add(p, q) }",
            {"g": (6,), "w": (6, 3), "v": (6, 3)},
            id="two readers, no shift",
        ),
    ],
)
def test_every_form_computes_the_same(text: str, weights: dict[str, tuple[int, ...]]) -> None:
    values = {name: RNG.standard_normal(shape) * 3 for name, shape in weights.items()}
    graph = graph_of(text, **values)
    data = samples(tuple(d.dim_value for d in graph.model.graph.input[0].type.tensor_type.shape.dim))
    after, divisors = equalized(graph, data)
    assert len(divisors) == 1
    assert any(scales.max() > 1.1 * scales.min() for scales in divisors.values())
    assert_same(graph, after, data[0])


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        pytest.param(
            "(float[1,4,4,4] x) => (float[1,4,4,3] y) { a = Conv(x, w)  y = MatMul(a, v) }",
            {"w": (4, 4, 1, 1), "v": (4, 3)},
            id="channels of a convolution are no columns",
        ),
        pytest.param(
            "(float[1,4,4,4] x) => (float[1,2,4,4] y) { n = LayerNormalization(x, g)  y = Conv(n, v) }",
            {"g": (4,), "v": (2, 4, 1, 1)},
            id="a normalization over columns",
        ),
        pytest.param(
            "(float[1,4,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w)  s = Sigmoid(a)  y = Conv(s, v) }",
            {"w": (4, 4, 1, 1), "v": (2, 4, 1, 1)},
            id="a sigmoid does not scale",
        ),
        pytest.param(
            "(float[1,4,4,4] x) => (float[1,4,4,4] y) { a = Conv(x, w)  b = Conv(a, v)  y = Add(a, b) }",
            {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1)},
            id="another reader",
        ),
        pytest.param(
            "(float[1,4,4,4] x) => (float[1,4,4,4] a, float[1,4,4,4] y) { a = Conv(x, w)  y = Conv(a, v) }",
            {"w": (4, 4, 1, 1), "v": (4, 4, 1, 1)},
            id="an output of the graph",
        ),
        pytest.param(
            "(float[1,4,4,4] x) => (float[1,4,4,4] y) { a = Conv(x, w)  y = Conv(a, w) }",
            {"w": (4, 4, 1, 1)},
            id="a shared weight",
        ),
    ],
)
def test_what_cannot_be_rescaled_exactly_is_left_alone(text: str, weights: dict[str, tuple[int, ...]]) -> None:
    graph = graph_of(text, **{name: RNG.standard_normal(shape) for name, shape in weights.items()})
    wiring = Wiring(graph.model)
    assert find_pairs(wiring, list(find_layers(wiring)[0].values())) == ()


def test_silent_channels_keep_their_scale_and_extremes_are_bounded() -> None:
    weight = RNG.standard_normal((6, 3, 1, 1))
    weight[0] = 0  # never active
    weight[1] *= 1e12
    weight[2] *= 1e-12
    reader = RNG.standard_normal((2, 6, 1, 1))
    reader[:, 3] = 0  # never read
    graph = graph_of(
        "(float[1,3,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w)  r = Relu(a)  y = Conv(r, v) }", w=weight, v=reader
    )
    data = samples((1, 3, 4, 4))
    after, divisors = equalized(graph, data)
    scales = divisors["r"]
    assert scales[0] == scales[3] == 1
    assert scales.min() >= SMALLEST
    assert scales.max() <= LARGEST
    assert_same(graph, after, data[0])


def test_a_tensor_of_zeros_is_not_rescaled() -> None:
    graph = graph_of(
        "(float[1,3,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w)  r = Relu(a)  y = Conv(r, v) }",
        w=np.zeros((4, 3, 1, 1)),
        v=RNG.standard_normal((2, 4, 1, 1)),
    )
    _, divisors = equalized(graph, samples((1, 3, 4, 4)))
    assert (divisors["r"] == 1).all()
