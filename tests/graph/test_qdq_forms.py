"""Lowering of what is rare: huge biases, every form of a matrix product, and what OpenVINO computes on one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from onnx import ModelProto, helper, numpy_helper  # noqa: E402

from edgekit import profiles  # noqa: E402
from edgekit.compress.ptq import PtqOptions, prepare  # noqa: E402
from edgekit.exporters import LoweringRequest  # noqa: E402
from edgekit.exporters.openvino import EXPORTER as OPENVINO_EXPORTER  # noqa: E402
from edgekit.graph.dialects import DIALECTS  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.half import to_half  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.qdq import activation_step, lower  # noqa: E402
from edgekit.graph.quantspec import ActivationQuant, QuantSpec  # noqa: E402
from edgekit.noise import snr_db  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.session import backend_named  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

Array = np.ndarray
Build = Callable[..., ModelProto]
Feeds = dict[str, Array]


def quantize(model: ModelProto, shape: tuple[int, ...], **options: Any) -> tuple[Graph, QuantSpec, list[Feeds]]:
    rng = np.random.default_rng(0)
    name = model.graph.input[0].name
    samples = [{name: rng.normal(size=shape).astype(np.float32)} for _ in range(8)]
    graph = Graph(infer_shapes(model), {}, ())
    return *prepare(graph, samples, PtqOptions(**options)).spec(), samples


def in_form(graph: Graph, spec: QuantSpec, runtime: str) -> Graph:
    lowered = lower(graph, spec, runtime)
    return to_half(lowered) if runtime == "tensorrt" else lowered


def compute(runtime: str, graph: Graph | ModelProto, feeds: Feeds, threads: int = 1) -> Array:
    """`y`, in the runtime or its rehearsal."""
    raw = graph.SerializeToString() if isinstance(graph, ModelProto) else graph.serialized()
    backend = backend_named("openvino" if runtime == "openvino" else "onnxruntime")
    engine = backend.open(EngineRequest(raw, outputs=("y",), threads=threads))
    try:
        return np.array(engine.run(feeds)["y"])
    finally:
        engine.close()


@pytest.mark.parametrize(("low", "high", "zero"), [(0.0, 6.0, 0), (-1.0, 1.55, 100), (-3.0, 0.0, 255)])
def test_a_clip_range_as_a_step(low: float, high: float, zero: int) -> None:
    affine = activation_step(ActivationQuant(low, high, "mse"), DIALECTS["onnxruntime"])
    assert affine.scale == np.float32((high - low) / 255) and affine.zero == zero and affine.zero.dtype == np.uint8
    symmetric = activation_step(ActivationQuant(low, high, "mse"), DIALECTS["tensorrt"])
    assert symmetric.zero == 0 and symmetric.zero.dtype == np.int8
    assert float(symmetric.scale) == pytest.approx(max(-low, high) / 127, rel=2**-11)


@pytest.mark.parametrize("runtime", DIALECTS)
def test_a_bias_beyond_int32_steps_gets_wider_ones(build: Build, runtime: str) -> None:
    rng = np.random.default_rng(3)
    w = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    w[1] *= 1e-7
    b = np.array([0.1, 100.0, -0.2, 0.0], np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    model = build([node], {"x": (1, 3, 8, 8)}, {"y": None}, {"w": w, "b": b})
    graph, spec, samples = quantize(model, (1, 3, 8, 8), observer="minmax")
    (quant,) = (quant for name, quant in spec.activations.items() if name == "x")
    assert 100.0 / ((quant.high - quant.low) / 255 * spec.weights["w"].clip[1] / 127) > 2**31
    lowered = in_form(graph, spec, runtime)
    wanted, got = compute("onnxruntime", model, samples[0]), compute(runtime, lowered, samples[0])
    assert np.abs(got - wanted).max() < (wanted.max() - wanted.min()) / 255
    if runtime == "onnxruntime":
        arrays = [numpy_helper.to_array(tensor) for tensor in lowered.model.graph.initializer]
        integers = [values.astype(np.int64) for values in arrays if values.dtype == np.int32 and values.any()]
        assert [np.abs(values).max() for values in integers] == [pytest.approx(2**30, rel=1e-6)]


KINDS: dict[str, tuple[int, ...] | None] = {
    "no bias": None,
    "transposed": (12,),
    "a bias of one row": (1, 12),
    "a bias of one number": (1,),
}


def products(build: Build, kind: str) -> ModelProto:
    """A MatMul without a bias, and a Gemm behind it."""
    rng = np.random.default_rng(6)
    transposed = kind == "transposed"
    weights = {"v": rng.normal(size=(16, 16)), "w": rng.normal(size=(12, 16) if transposed else (16, 12))}
    shape = KINDS[kind]
    weights |= {"b": rng.normal(size=shape)} if shape else {}
    nodes = [
        helper.make_node("MatMul", ["input", "v"], ["x"], "first"),
        helper.make_node("Gemm", ["x", "w", *(["b"] if shape else [])], ["y"], "gemm", transB=int(transposed)),
    ]
    floats = {name: values.astype(np.float32) for name, values in weights.items()}
    return build(nodes, {"input": (3, 16)}, {"y": (3, 12)}, floats)


@pytest.mark.parametrize("runtime", DIALECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_a_matrix_product(build: Build, runtime: str, kind: str) -> None:
    model = products(build, kind)
    graph, spec, samples = quantize(model, (3, 16))
    assert ("gemm" in spec.layers) == (kind in ("no bias", "transposed"))
    assert "gemm" in spec.layers or "no vector" in spec.float_nodes["gemm"]
    wanted = compute("onnxruntime", model, samples[0])
    assert snr_db(wanted, compute(runtime, in_form(graph, spec, runtime), samples[0])) > 30


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_computes_products_without_bias_the_same_on_any_number_of_threads(build: Build, threads: int) -> None:
    model = products(build, "no bias")
    graph, spec, samples = quantize(model, (3, 16))
    tensors = (TensorSpec("input", "float32", (3, 16)),), (TensorSpec("y", "float32", (3, 12)),)
    request = LoweringRequest(graph, ModelSpec("net", "tensor", *tensors), profiles.get("intel-cpu"), "int8", spec)
    exported = OPENVINO_EXPORTER.export(request, OPENVINO_EXPORTER.plan(request))
    assert {"first", "gemm"} <= OPENVINO_EXPORTER.int8_nodes(exported)
    reference = compute("onnxruntime", exported.graph, samples[0])
    np.testing.assert_allclose(compute("openvino", exported.graph, samples[0], threads), reference, rtol=0, atol=0.2)


@pytest.mark.parametrize("runtime", DIALECTS)
def test_a_weight_that_is_tied_to_its_transpose_is_quantized_for_one_of_the_two(build: Build, runtime: str) -> None:
    weights = {"w": np.random.default_rng(7).normal(size=(8, 12)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "into"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w"], ["y"], "back", transB=1),
    ]
    model = build(nodes, {"x": (3, 8)}, {"y": (3, 8)}, weights)
    graph, spec, samples = quantize(model, (3, 8))
    assert spec.layers == ("into",) and "another axis" in spec.float_nodes["back"]
    wanted = compute("onnxruntime", model, samples[0])
    assert snr_db(wanted, compute(runtime, in_form(graph, spec, runtime), samples[0])) > 30
