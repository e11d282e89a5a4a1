"""Calibration runs the data once for all that was asked, and refuses data that say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import parser

from edgekit.compress import calibration as module
from edgekit.compress.calibration import MIN_SAMPLES, Need, calibrate, samples_of, text_samples
from edgekit.compress.statistics import ChannelMean, Histogram, HistogramOf
from edgekit.errors import InputError
from edgekit.evaluate.datasets import Dataset, Sample
from edgekit.graph.graph import Graph
from edgekit.runtimes.onnxruntime import BACKEND
from edgekit.spec import ImagePreprocess, ModelSpec, TensorSpec

Feeds = dict[str, np.ndarray]
NET = """<ir_version: 10, opset_import: ["" : 20]>
net (float[2,3] x) => (float[2,3] y) { root = Sqrt(x)  twice = Add(root, root)  y = Relu(twice) }"""
NEEDS = (Need("root", HistogramOf()), Need("x", ChannelMean(-1)), Need("y", HistogramOf()))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(parser.parse_model(NET), {}, ())


def data(count: int, seed: int = 0) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.uniform(0, 4, (2, 3)).astype(np.float32)} for _ in range(count)]


class Counting:
    """An engine that notes how often it ran."""

    def __init__(self) -> None:
        self.opened = self.runs = self.closed = 0

    def open(self, request: object) -> Counting:
        self.opened += 1
        self.engine = BACKEND.open(request)  # type: ignore[arg-type]
        return self

    def run(self, feeds: Feeds) -> object:
        self.runs += 1
        return self.engine.run(feeds)

    def close(self) -> None:
        self.closed += 1
        self.engine.close()


def test_the_data_are_run_once_for_all_needs(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting()
    monkeypatch.setattr(module, "ORT", counting)
    read = 0

    def once() -> Iterator[Feeds]:
        nonlocal read
        for feeds in data(MIN_SAMPLES):
            read += 1
            assert counting.runs == read - 1  # a sample is run before the next is read
            yield feeds

    found = calibrate(graph, [*NEEDS, *NEEDS], once())
    assert (counting.opened, counting.runs, counting.closed, read) == (1, MIN_SAMPLES, 1, MIN_SAMPLES)
    assert found.samples == MIN_SAMPLES
    assert set(found.found) == set(NEEDS)


def test_statistics_are_those_of_the_tensors(graph: Graph) -> None:
    samples = data(MIN_SAMPLES)
    found = calibrate(graph, NEEDS, samples)
    values = np.stack([feeds["x"] for feeds in samples])
    np.testing.assert_allclose(found.of("x", ChannelMean(-1)), values.mean(axis=(0, 1)), rtol=1e-5)
    for tensor, factor in (("root", 1), ("y", 2)):
        seen = found.of(tensor, HistogramOf())
        assert isinstance(seen, Histogram)
        assert seen.total == values.size
        assert (seen.low, seen.high) == pytest.approx(
            (factor * np.sqrt(values.min()), factor * np.sqrt(values.max())), rel=1e-5
        )


@pytest.mark.parametrize(("count", "what"), [(0, "there is no"), (1, "1 calibration"), (MIN_SAMPLES - 1, "too few")])
def test_too_few_samples_are_refused(graph: Graph, count: int, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        calibrate(graph, NEEDS, data(count))
    assert str(MIN_SAMPLES) in str(caught.value)


def test_fewer_are_taken_where_fewer_are_asked_for(graph: Graph) -> None:
    assert calibrate(graph, NEEDS, data(2), least=2).samples == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(graph: Graph, bad: float) -> None:
    samples = data(MIN_SAMPLES)
    samples[2]["x"][0, 1] = bad
    with pytest.raises(InputError, match="NaN or infinity") as caught:
        calibrate(graph, NEEDS, samples)
    assert caught.value.where == "calibration sample 3"


def test_an_activation_that_becomes_nan_is_named_and_the_engine_closed(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting()
    monkeypatch.setattr(module, "ORT", counting)
    samples = data(MIN_SAMPLES)
    samples[1]["x"][0, 1] = -1
    with pytest.raises(InputError, match="'root' holds NaN"):
        calibrate(graph, NEEDS[:1], samples)
    assert counting.closed == 1


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"z": np.zeros((2, 3), np.float32)},
        {"x": np.zeros((2, 3), np.float32), "z": np.zeros((2, 3), np.float32)},
        {"x": np.zeros((2, 4), np.float32)},
        {"x": np.zeros((2, 3), np.int64)},
    ],
    ids=["none", "another", "one more", "shape", "dtype"],
)
def test_samples_that_the_graph_does_not_take_are_refused(graph: Graph, feeds: Feeds) -> None:
    with pytest.raises(InputError):
        calibrate(graph, NEEDS, [feeds] * MIN_SAMPLES)


def test_the_hash_is_that_of_the_samples_and_their_order(graph: Graph) -> None:
    samples = data(MIN_SAMPLES)
    changed = [*samples[:-1], {"x": samples[-1]["x"] + np.float32(1e-3)}]
    hashes = [
        calibrate(graph, needs, feeds).sha256
        for needs, feeds in ((NEEDS, samples), (NEEDS[:1], samples), (NEEDS, samples[::-1]), (NEEDS, changed))
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    assert calibrate(graph, NEEDS, data(MIN_SAMPLES + 1)).sha256 != hashes[0]
    strided = [{"x": np.asfortranarray(feeds["x"])} for feeds in samples]
    assert calibrate(graph, NEEDS, strided).sha256 == hashes[0]


def spec_of(tensor: TensorSpec, preprocess: ImagePreprocess | None = None) -> ModelSpec:
    return ModelSpec("net", "tensor", (tensor,), (TensorSpec("y", "float32", (1,)),), preprocess)


PICTURE = TensorSpec("image", "float32", (1, 3, 8, 8))


def dataset(samples: list[Sample]) -> Dataset:
    return Dataset("images", Path("pictures"), None, tuple(samples))


def test_pictures_are_preprocessed_and_spread_over_the_set() -> None:
    pictures = dataset([Sample(str(n), np.full((8, 8, 3), 10 * n, np.uint8)) for n in range(12)])
    spec = spec_of(PICTURE, ImagePreprocess("image", 8, 8))
    found = list(samples_of(pictures, spec, 4))
    assert [feeds["image"].shape for feeds in found] == [(1, 3, 8, 8)] * 4
    assert [float(feeds["image"].max()) for feeds in found] == [0, 30, 60, 90]
    assert len(list(samples_of(pictures, spec, 100))) == 12


def test_tensors_are_handed_on_and_pictures_need_a_preprocess() -> None:
    feeds = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    assert list(samples_of(dataset([Sample("a", feeds=feeds)]), spec_of(PICTURE), 8)) == [feeds]
    with pytest.raises(InputError, match="nothing says how they become tensors"):
        list(samples_of(dataset([Sample("a", np.zeros((8, 8, 3), np.uint8))]), spec_of(PICTURE), 8))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(100)))
    return path


def test_text_becomes_windows_of_bytes(text: Path) -> None:
    found = list(text_samples(text, spec_of(TensorSpec("tokens", "int64", (2, 5))), 3))
    assert [feeds["tokens"].shape for feeds in found] == [(2, 5)] * 3
    assert found[0]["tokens"].dtype == np.int64
    assert found[0]["tokens"].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert [int(feeds["tokens"][0, 0]) for feeds in found] == [0, 30, 60]  # spread over the text


def test_symbolic_lengths_and_other_tokens_are_taken(tmp_path: Path, text: Path) -> None:
    spec = spec_of(TensorSpec("tokens", "int32", ("batch", "length")))
    found = list(text_samples(tmp_path / "unread", spec, 8, tokens=range(300)))
    assert [feeds["tokens"].shape for feeds in found] == [(1, 128)] * 2
    assert int(found[1]["tokens"][0, 0]) == 128
    with pytest.raises(InputError, match="too short"):
        list(text_samples(text, spec, 8))


@pytest.mark.parametrize("tensor", [PICTURE, TensorSpec("x", "int64", (4,)), TensorSpec("x", "float32", (1, 4))])
def test_text_is_refused_where_the_model_takes_no_tokens(text: Path, tensor: TensorSpec) -> None:
    with pytest.raises(InputError, match="models of tokens"):
        list(text_samples(text, spec_of(tensor), 8))


def test_a_missing_text_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(text_samples(tmp_path / "none.txt", spec_of(TensorSpec("x", "int64", (1, 4))), 8))
