"""One spec, three lowerings: each is valid, means the float graph, and is what its runtime computes in int8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from onnx import ModelProto, TensorProto, helper, numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.ptq import PtqOptions, prepare  # noqa: E402
from edgekit.errors import UnsupportedError  # noqa: E402
from edgekit.exporters import Artifact, Exported  # noqa: E402
from edgekit.exporters.onnxruntime import EXPORTER as ORT_EXPORTER  # noqa: E402
from edgekit.exporters.openvino import EXPORTER as OPENVINO_EXPORTER  # noqa: E402
from edgekit.graph.dialects import DIALECTS  # noqa: E402
from edgekit.graph.from_torch import export_torch  # noqa: E402
from edgekit.graph.graph import Graph, with_outputs  # noqa: E402
from edgekit.graph.half import to_half  # noqa: E402
from edgekit.graph.integer import check_layers, quantized_tensors  # noqa: E402
from edgekit.graph.layers import COMPUTE  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.qdq import activation_step, lower  # noqa: E402
from edgekit.graph.quantspec import ActivationQuant, QuantSpec  # noqa: E402
from edgekit.graph.rules.tensorrt import explicit_int8_nodes, int8_cautions  # noqa: E402
from edgekit.graph.wiring import Wiring  # noqa: E402
from edgekit.noise import snr_db  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND as ORT  # noqa: E402
from edgekit.runtimes.session import backend_named  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

Array = np.ndarray
Build = Callable[..., ModelProto]
FLOAT_COMPUTE = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


class Pictures(nn.Module):
    """Conv, ReLU, conv, a residual Add, MaxPool, a strided conv, and a head that is decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.head = nn.Conv2d(32, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = nn.functional.max_pool2d(x + self.body(x), 2)
        score, size = self.head(torch.relu(self.down(x))).split((2, 4), 1)
        return torch.cat((torch.sigmoid(score), torch.exp(size)), 1)


class Linears(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@dataclass(frozen=True)
class Quantized:
    """A float graph, what was learned of it, and the inputs that it was learned from."""

    graph: Graph
    prepared: Graph
    spec: QuantSpec
    samples: tuple[dict[str, Array], ...]

    def lower(self, runtime: str) -> Graph:
        """The lowered graph in the form that the runtime's file has."""
        lowered = lower(self.prepared, self.spec, runtime)
        return to_half(lowered) if runtime == "tensorrt" else lowered

    def snr(self, runtime: str, lowered: Graph) -> float:
        """Of the first output, over all samples, in the runtime or its rehearsal; the worst of them."""
        engine = backend_named("openvino" if runtime == "openvino" else "onnxruntime")
        name = self.graph.model.graph.output[0].name
        wanted, got = (opened(backend, graph) for backend, graph in ((ORT, self.graph), (engine, lowered)))
        return min(snr_db(wanted(feeds)[name], got(feeds)[name]) for feeds in self.samples)


def opened(backend: Any, graph: Graph) -> Callable[[dict[str, Array]], dict[str, Array]]:
    outputs = tuple(value.name for value in graph.model.graph.output)
    return backend.open(EngineRequest(graph.serialized(), outputs=outputs, threads=1)).run


def quantized(graph: Graph, shape: Sequence[int], options: PtqOptions | None = None) -> Quantized:
    rng = np.random.default_rng(0)
    name = graph.model.graph.input[0].name
    samples = tuple({name: rng.normal(size=shape).astype(np.float32)} for _ in range(8))
    prepared, spec = prepare(graph, samples, options).spec()
    return Quantized(graph, prepared, spec, samples)


@cache
def of_torch(kind: type[nn.Module], shape: tuple[int, ...], symbolic: tuple[str, ...] = ()) -> Quantized:
    """`kind`, exported and calibrated; `symbolic` names the leading dimensions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind().eval()
        dims = (*symbolic, *shape[len(symbolic) :])
        example = torch.randn(*(max(size, 2) for size in shape))
        sides = (TensorSpec("x", "float32", dims),), (TensorSpec("y", "float32", dims),)
        graph = export_torch(module, (example,), ModelSpec("net", "tensor", *sides), 20, 10)
    return quantized(graph, shape)


def pictures() -> Quantized:
    return of_torch(Pictures, (1, 3, 16, 16), ("batch",))


LINEARS = {
    "rows": ((4, 32), ()),
    "rows, any batch": ((4, 32), ("batch",)),
    "tokens": ((2, 5, 32), ()),
    "tokens, any batch": ((2, 5, 32), ("batch",)),
    "tokens, any batch and length": ((2, 5, 32), ("batch", "length")),
}


def of_model(model: ModelProto, shape: Sequence[int], options: PtqOptions | None = None) -> Quantized:
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type}:{node.output[0]}"
    return quantized(Graph(infer_shapes(model), {}, ()), shape, options)


def weights_of(model: ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def optimized(graph: Graph) -> ModelProto:
    """What ONNX Runtime makes of it."""
    return onnx.load_from_string(ORT.optimized(EngineRequest(graph.serialized())))


def operators(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in optimized(graph).graph.node)


def openvino_int8(graph: Graph) -> frozenset[str]:
    files = (Artifact("model.onnx", "model", graph.serialized()), Artifact("none", "weights", b""))
    found = OPENVINO_EXPORTER.int8_nodes(Exported(files, graph, "int8", {}))
    compute = {node.name for node in graph.model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    return found & compute  # a primitive also tells what was fused into it


# --- every runtime


@pytest.mark.parametrize("runtime", DIALECTS)
@pytest.mark.parametrize("case", ["pictures", *LINEARS])
def test_each_lowering_is_valid_loads_and_means_the_float_graph(runtime: str, case: str) -> None:
    made = pictures() if case == "pictures" else of_torch(Linears, *LINEARS[case])
    lowered = made.lower(runtime)
    onnx.checker.check_model(lowered.model, full_check=True)
    assert lowered.passes[-1 if runtime != "tensorrt" else -2] == f"int8:{runtime}"
    assert made.snr(runtime, lowered) > 30
    assert lowered.model.graph.input == made.graph.model.graph.input
    assert [value.name for value in lowered.model.graph.output] == ["y"]
    names = {node.name for node in lowered.model.graph.node}
    assert set(made.spec.layers) <= names and len(names) == len(lowered.model.graph.node)


def test_the_same_spec_gives_the_same_bytes() -> None:
    made = pictures()
    for runtime in DIALECTS:
        assert made.lower(runtime).serialized() == made.lower(runtime).serialized()


def test_what_cannot_be_lowered_is_said() -> None:
    made = pictures()
    with pytest.raises(UnsupportedError, match="'qnn'"):
        lower(made.prepared, made.spec, "qnn")
    with pytest.raises(UnsupportedError, match="'nowhere'"):
        lower(made.prepared, replace(made.spec, layers=("nowhere",)), "openvino")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", ["pictures", "rows", "tokens"])
def test_every_layer_is_within_a_step_of_the_integer_reference(runtime: str, case: str) -> None:
    made = pictures() if case == "pictures" else of_torch(Linears, *LINEARS[case])
    lowered = lower(made.prepared, made.spec, runtime)
    keep = set(quantized_tensors(lowered.model))
    traced = lowered.then("trace", with_outputs(lowered.model, keep))
    feeds = made.samples[0]
    gaps = check_layers(lowered.model, {**opened(backend_named(runtime), traced)(feeds), **feeds})
    assert len(gaps) == len(keep) + 1
    assert all(gap.within(1) for gap in gaps), [gap for gap in gaps if not gap.within(1)]


# --- ONNX Runtime


def test_onnx_runtime_computes_a_residual_block_in_integers() -> None:
    lowered = pictures().lower("onnxruntime")
    found = operators(lowered)
    assert found["QLinearConv"] == 4 and found["QLinearAdd"] == 1 and not FLOAT_COMPUTE & set(found)
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1  # at the two ends
    exported = Exported((), lowered, "int8", {})
    assert ORT_EXPORTER.int8_nodes(exported) == set(pictures().spec.layers)


def test_weights_reach_onnx_runtime_as_int8_with_a_scale_a_channel() -> None:
    model = optimized(pictures().lower("onnxruntime"))
    weights = weights_of(model)
    for node in (node for node in model.graph.node if node.op_type == "QLinearConv"):
        integers, scales, zeros = (weights[name] for name in node.input[3:6])
        assert integers.dtype == zeros.dtype == np.int8 and not zeros.any()
        assert scales.shape == (integers.shape[0],)
        assert weights[node.input[8]].dtype == np.int32
    assert not [name for name, values in weights.items() if values.dtype == np.float32 and values.ndim > 1]


@pytest.mark.parametrize("case", LINEARS)
def test_linear_layers_become_integer_gemms(case: str) -> None:
    lowered = of_torch(Linears, *LINEARS[case]).lower("onnxruntime")
    found = operators(lowered)
    assert found["QGemm"] == 2 and not FLOAT_COMPUTE & set(found)
    assert ORT_EXPORTER.int8_nodes(Exported((), lowered, "int8", {})) == set(
        of_torch(Linears, *LINEARS[case]).spec.layers
    )


def test_an_activation_after_relu_is_uint8_from_zero() -> None:
    made = pictures()
    lowered = made.lower("onnxruntime")
    wiring, weights = Wiring(lowered.model), weights_of(lowered.model)
    rectified = [node.output[0] for node in made.prepared.model.graph.node if node.op_type == "Relu"]
    assert len(rectified) == 2
    for tensor in rectified:
        (reader,) = wiring.consumers[tensor]
        zero = weights[reader.input[2]]
        assert reader.op_type == "QuantizeLinear" and zero.dtype == np.uint8 and zero == 0
    assert weights["x/zero"].dtype == np.uint8 and 100 < weights["x/zero"] < 156


# --- OpenVINO


def test_openvino_computes_all_convolutions_in_int8() -> None:
    made = pictures()
    assert openvino_int8(made.lower("openvino")) == set(made.spec.layers)


# --- TensorRT


@pytest.mark.parametrize("case", ["pictures", *LINEARS])
def test_tensorrt_gets_symmetric_int8_and_standard_operators(case: str) -> None:
    made = pictures() if case == "pictures" else of_torch(Linears, *LINEARS[case])
    typed = lower(made.prepared, made.spec, "tensorrt").model
    weights = weights_of(typed)
    pairs = [node for node in typed.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        scale, zero = weights[node.input[1]], weights[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
        assert scale.dtype == np.float32 and np.array_equal(scale.astype(np.float16).astype(np.float32), scale)
        assert (scale >= 2.0**-20).all()
    lowered = made.lower("tensorrt").model
    assert {node.domain for node in lowered.graph.node} == {""}
    assert not [tensor.name for tensor in lowered.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    assert explicit_int8_nodes(lowered) == explicit_int8_nodes(typed) == set(made.spec.layers)


def test_a_zero_point_or_a_float_operand_is_no_explicit_int8() -> None:
    made = pictures()
    model = lower(made.prepared, made.spec, "onnxruntime").model
    found = explicit_int8_nodes(model)
    assert found < set(made.spec.layers) and made.spec.layers[0] not in found  # the picture has a zero point
    assert explicit_int8_nodes(made.graph.model) == frozenset()


def test_cautions_name_what_int8_tensor_cores_do_not_want(build: Build) -> None:
    weights = {
        "w0": np.ones((32, 32, 1, 1), np.float32),
        "w1": np.ones((32, 1, 3, 3), np.float32),
        "w2": np.ones((32, 8, 1, 1), np.float32),
        "w3": np.ones((20, 32, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "good"),
        helper.make_node("Conv", ["a", "w1"], ["b"], "deep", group=32),
        helper.make_node("Conv", ["b", "w2"], ["c"], "groups", group=4),
        helper.make_node("Conv", ["c", "w3"], ["y"], "odd"),
    ]
    said = int8_cautions(build(nodes, {"x": (1, 32, 8, 8)}, {"y": None}, weights))
    assert [text.rsplit(": ", 1)[1] for text in said] == ["odd", "deep", "groups"]
    assert all(text.startswith("int8: 1 layer(s)") and "NVIDIA/TensorRT#" in text for text in said)
    assert int8_cautions(build(nodes[:1], {"x": (1, 32, 8, 8)}, {"a": None}, {"w0": weights["w0"]})) == ()


# --- what lies between layers


@pytest.mark.parametrize("runtime", DIALECTS)
def test_add_and_pool_between_layers_stay_in_integers_and_decoding_does_not(runtime: str) -> None:
    made = pictures()
    lowered = lower(made.prepared, made.spec, runtime).model
    wiring = Wiring(lowered)
    dequantized = {name for node in lowered.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    kinds = {node.name: node.op_type for node in made.graph.model.graph.node}
    assert sorted(kinds[name] for name in made.spec.carriers) == ["Add", "MaxPool"]
    for node in lowered.graph.node:
        if node.op_type in ("Add", "MaxPool"):
            assert set(node.input) <= dequantized
            assert {reader.op_type for reader in wiring.consumers[node.output[0]]} == {"QuantizeLinear"}
        if node.op_type in ("Sigmoid", "Exp", "Concat"):
            assert not {name for name in node.input if name in dequantized}
    assert not [
        node.input[0] for node in lowered.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "y"
    ]


def test_a_mover_keeps_the_step_of_what_it_moves() -> None:
    made = pictures()
    for runtime in DIALECTS:
        lowered = lower(made.prepared, made.spec, runtime).model
        weights = weights_of(lowered)
        (pool,) = (node for node in made.prepared.model.graph.node if node.op_type == "MaxPool")
        for part in ("scale", "zero"):
            assert weights[f"{pool.input[0]}/{part}"] == weights[f"{pool.output[0]}/{part}"]


# --- numbers


def test_a_scale_below_fp16_is_raised_to_it() -> None:
    step = activation_step(ActivationQuant(0.0, 1e-7, "mse"), DIALECTS["tensorrt"])
    assert step.scale == np.float32(2.0**-20)


@pytest.mark.parametrize("runtime", DIALECTS)
def test_two_layers_that_share_a_weight(build: Build, runtime: str) -> None:
    rng = np.random.default_rng(4)
    weights = {
        "w": rng.normal(size=(8, 8, 3, 3)).astype(np.float32) / 8,
        "b0": rng.normal(size=8).astype(np.float32),
        "b1": 50 * rng.normal(size=8).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b0"], ["a"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w", "b1"], ["y"], "two", pads=[1, 1, 1, 1]),
    ]
    made = of_model(build(nodes, {"x": (1, 8, 6, 6)}, {"y": (1, 8, 6, 6)}, weights), (1, 8, 6, 6))
    assert made.spec.layers == ("one", "two") and list(made.spec.weights) == ["w"]
    lowered = made.lower(runtime)
    assert made.snr(runtime, lowered) > 35
    if runtime == "onnxruntime":
        assert operators(lowered)["QLinearConv"] == 2
    if runtime == "openvino":
        assert openvino_int8(lowered) == {"one", "two"}


def test_a_rounded_output_of_the_graph_keeps_its_name(build: Build, run: Callable[..., dict[str, Array]]) -> None:
    rng = np.random.default_rng(5)
    weights = {name: rng.normal(size=(4, 4, 1, 1)).astype(np.float32) for name in ("w0", "w1")}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["mid"], "relu"),
        helper.make_node("Conv", ["mid", "w1"], ["y"], "two"),
    ]
    shape = (1, 4, 5, 5)
    made = of_model(build(nodes, {"x": shape}, {"mid": shape, "y": shape}, weights), shape)
    for runtime in DIALECTS:
        got = run(made.lower(runtime).model, **made.samples[0])
        wanted = run(made.graph.model, **made.samples[0])
        assert list(got) == ["mid", "y"] and all(snr_db(wanted[name], got[name]) > 30 for name in got)


def test_compute_nodes_outside_of_the_spec_stay_as_they_were() -> None:
    made = pictures()
    first, *rest = made.spec.layers
    prepared = prepare(made.graph, made.samples).spec((first,))
    for runtime in DIALECTS:
        lowered = lower(*prepared, runtime).model
        node = next(node for node in lowered.graph.node if node.name == first)
        assert set(node.input[1:]) <= set(Wiring(lowered).weights)
        assert explicit_int8_nodes(lower(*prepared, "tensorrt").model) == set(rest)
        assert Counter(n.op_type for n in lowered.graph.node if n.op_type in COMPUTE) == {"Conv": 4}
