"""Noise by layer: decibels as defined, the worst layer first, with the line of code that made it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch import nn  # noqa: E402

from edgekit.bundle import LayerNoise  # noqa: E402
from edgekit.bundle.manifest import Origin  # noqa: E402
from edgekit.compress.ptq import PtqOptions, prepare  # noqa: E402
from edgekit.divergence import trace  # noqa: E402
from edgekit.graph.from_torch import export_torch  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.qdq import lower  # noqa: E402
from edgekit.graph.quantspec import QuantSpec  # noqa: E402
from edgekit.graph.wiring import Wiring  # noqa: E402
from edgekit.noise import fallen, layer_noise, snr_db  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

Arrays = dict[str, np.ndarray]


class Chain(nn.Module):
    """Convolutions whose channels differ in size, so that equalisation has something to divide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.stem.weight *= torch.logspace(-1, 1, 8).reshape(-1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))))


@pytest.fixture(scope="module")
def quantized() -> tuple[Graph, Graph, QuantSpec, Arrays]:
    """The canonical graph, the prepared one, its spec, and an input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sides = (TensorSpec("x", "float32", (1, 3, 8, 8)),), (TensorSpec("y", "float32", (1, 4, 8, 8)),)
        spec = ModelSpec("chain", "tensor", *sides)
        graph = export_torch(Chain().eval(), (torch.randn(1, 3, 8, 8),), spec, 20, 10)
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    return graph, *prepare(graph, samples, PtqOptions(bias_correction=False)).spec(), samples[0]


def rows(graph: Graph, spec: QuantSpec, candidate: Arrays, feeds: Arrays) -> tuple[LayerNoise, ...]:
    return layer_noise(Wiring(graph.model), spec, graph.origins, trace(graph, BACKEND, feeds, {}), candidate)


def test_decibels() -> None:
    signal = np.array([3.0, 4.0], np.float32)
    assert snr_db(signal, signal + np.array([0.5, 0.0], np.float32)) == pytest.approx(20.0)
    assert snr_db(signal, signal) == 200 and snr_db(signal, -signal) == pytest.approx(-6.0206, abs=1e-4)
    silence = np.zeros(2, np.float32)
    assert snr_db(silence, silence) == 200 and snr_db(silence, signal) == -200
    assert snr_db(signal, silence) == 0
    assert snr_db(np.float32([1e-30]), np.float32([1e30])) == -200


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_every_layer_has_a_row_with_its_module_and_line_the_worst_first(
    quantized: tuple[Graph, Graph, QuantSpec, Arrays], runtime: str
) -> None:
    graph, prepared, spec, feeds = quantized
    found = rows(graph, spec, trace(lower(prepared, spec, runtime), BACKEND, feeds, {}), feeds)
    assert {row.node for row in found} == set(spec.layers)
    assert [row.snr_db for row in found] == sorted(row.snr_db for row in found)
    assert {row.module for row in found} == {"stem", "body", "head"}
    assert all(row.line and row.file and row.file.endswith(Path(__file__).name) for row in found)
    assert all(25 < row.snr_db < 70 for row in found)


def test_what_equalisation_divided_is_no_noise(quantized: tuple[Graph, Graph, QuantSpec, Arrays]) -> None:
    graph, prepared, spec, feeds = quantized
    assert len(spec.divisors) == 2 and max(max(d) / min(d) for d in spec.divisors.values()) > 2
    same = rows(graph, spec, trace(prepared, BACKEND, feeds, {}), feeds)
    assert all(row.snr_db > 110 for row in same)
    blind = QuantSpec(**{**vars(spec), "divisors": {}})
    assert rows(graph, blind, trace(prepared, BACKEND, feeds, {}), feeds)[0].snr_db < 20


def test_a_broken_layer_stands_first(quantized: tuple[Graph, Graph, QuantSpec, Arrays]) -> None:
    graph, prepared, spec, feeds = quantized
    candidate = trace(lower(prepared, spec, "onnxruntime"), BACKEND, feeds, {})
    before = rows(graph, spec, candidate, feeds)
    body = next(row for row in before if row.module == "body")
    now = rows(graph, spec, {**candidate, f"{body.tensor}/dq": candidate[f"{body.tensor}/dq"] * 0.5}, feeds)
    assert now[0].node == body.node and now[0].snr_db == pytest.approx(6, abs=0.5)
    assert [(row.node, had) for row, had in fallen(before, now, 3.0)] == [(body.node, body.snr_db)]
    assert fallen(before, before, 0.0) == [] and fallen((), now, 3.0) == []


def test_tensors_that_cannot_be_compared_have_no_row(quantized: tuple[Graph, Graph, QuantSpec, Arrays]) -> None:
    graph, _, spec, feeds = quantized
    reference = trace(graph, BACKEND, feeds, {})
    candidate = {name: values[:, :1] if name == "y" else values for name, values in reference.items()}
    found = layer_noise(Wiring(graph.model), spec, {spec.layers[0]: Origin("only")}, reference, candidate)
    assert [row.module for row in found if row.node == spec.layers[0]] == ["only"]
    assert {row.node for row in found} == set(spec.layers[:2])
    assert [row.module for row in found if row.node == spec.layers[1]] == [None]
    assert layer_noise(Wiring(graph.model), spec, {}, {}, candidate) == ()
