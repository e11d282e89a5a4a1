"""Pixels in, the same numbers out: normalisation inside the graph equals the host's, at the border too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgekit.errors import UsageError  # noqa: E402
from edgekit.evaluate.parity import compare  # noqa: E402
from edgekit.graph.graph import Graph, tensor_specs  # noqa: E402
from edgekit.graph.image_input import with_uint8_nhwc_input  # noqa: E402
from edgekit.graph.passes import check  # noqa: E402
from edgekit.processing.preprocess import prepare  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

Shipped = tuple[nn.Module, ModelSpec]


def test_uint8_pixels_give_what_the_hosts_normalisation_gives(shipped: Shipped, shipped_graph: Graph) -> None:
    spec = shipped[1]
    graph, moved = with_uint8_nhwc_input(shipped_graph, spec)
    check(graph.model)
    assert spec.preprocess is not None and moved.preprocess is not None
    assert moved.inputs == (TensorSpec("image", "uint8", ("batch", 416, 416, 3)),)
    assert tensor_specs(list(graph.model.graph.input)) == moved.inputs
    assert graph.passes[-1] == "uint8-nhwc-input"
    random = np.random.default_rng(0)
    host = BACKEND.open(EngineRequest(shipped_graph.serialized(), threads=1))
    device = BACKEND.open(EngineRequest(graph.serialized(), threads=1))
    for height, width in ((480, 640), (416, 416), (300, 200)):  # with padding and without
        picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        tensor, pixels = prepare(spec.preprocess, picture)[0], prepare(moved.preprocess, picture)[0]
        assert pixels.dtype == np.uint8 and pixels.shape == (1, 416, 416, 3)
        wanted, got = host.run({"image": tensor})["head"], device.run({"image": pixels})["head"]
        assert compare({"head": wanted}, {"head": got})[0].within(1e-5)
        border = [(0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)]
        for rows, columns in border:
            edge = {"head": wanted[..., rows, columns]}, {"head": got[..., rows, columns]}
            assert compare(*edge)[0].within(1e-5)


def test_the_graph_that_was_handed_in_is_untouched(shipped: Shipped, shipped_graph: Graph) -> None:
    before = shipped_graph.serialized()
    with_uint8_nhwc_input(shipped_graph, shipped[1])
    assert shipped_graph.serialized() == before


def test_a_model_without_float_image_preprocessing_is_refused(shipped: Shipped, shipped_graph: Graph) -> None:
    spec = shipped[1]
    assert spec.preprocess is not None
    _, moved = with_uint8_nhwc_input(shipped_graph, spec)
    for unfit in (
        replace(spec, preprocess=None),
        moved,
        replace(spec, preprocess=replace(spec.preprocess, layout="nhwc")),
    ):
        with pytest.raises(UsageError, match="uint8-nhwc needs"):
            with_uint8_nhwc_input(shipped_graph, unfit)


def test_preprocessing_that_feeds_no_image_input_is_refused(shipped: Shipped, shipped_graph: Graph) -> None:
    spec = shipped[1]
    assert spec.preprocess is not None
    elsewhere = replace(spec, preprocess=replace(spec.preprocess, input="pixels"))
    flat = replace(spec, inputs=(TensorSpec("image", "float32", (1, 3)),))
    for unfit in (elsewhere, flat):
        with pytest.raises(UsageError, match="no image input"):
            with_uint8_nhwc_input(shipped_graph, unfit)
