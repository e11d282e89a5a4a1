"""OpenVINO: products of few rows whose results are rounded for the next one mean what the integers say.

Without `Dialect.barrier`, OpenVINO 2026.4.1 computed garbage for most of these on AVX-512.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from onnx import ModelProto, NodeProto, helper  # noqa: E402

from edgekit import profiles  # noqa: E402
from edgekit.compress.ptq import PtqOptions, prepare  # noqa: E402
from edgekit.exporters import LoweringRequest  # noqa: E402
from edgekit.exporters.openvino import EXPORTER  # noqa: E402
from edgekit.graph import qdq  # noqa: E402
from edgekit.graph.dialects import DIALECTS  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.integer import run_integer  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.qdq import lower  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.openvino import BACKEND  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

Build = Callable[..., ModelProto]
INNER, WIDTH, OUTER = 32, 24, 12

BIASES: dict[str, Any] = {
    "no bias": None,
    "a bias of zero": np.zeros(WIDTH),
    "a uniform bias": np.full(WIDTH, 0.7),
    "a bias": np.linspace(-1.0, 1.0, WIDTH),
}
TAILS: dict[str, tuple[str, Any] | None] = {
    "nothing": None,
    "plus a number": ("Add", 0.7),
    "plus a uniform row": ("Add", np.full((1, WIDTH), 0.7)),
    "times a number": ("Mul", 0.17),
    "times a row": ("Mul", np.linspace(0.5, 1.5, WIDTH)),
    "by a number": ("Div", 3.0),
    "negated": ("Neg", None),
    "rectified": ("Relu", None),
}
FORMS = ("MatMul", "Gemm", "transposed")


def net(build: Build, form: str, bias: str, tail: str, rows: int | str = 7) -> ModelProto:
    """A product `first`, what follows it, and a product `second` that reads the result as integers."""
    random = np.random.default_rng(6)
    weights = {"v": random.normal(size=(INNER, WIDTH)), "w": random.normal(size=(WIDTH, OUTER))}
    transposed = form == "transposed"
    if transposed:
        weights["v"] = weights["v"].T
    added = [] if BIASES[bias] is None else ["b"]
    weights |= {"b": BIASES[bias]} if added else {}
    if form == "MatMul":
        nodes: list[NodeProto] = [helper.make_node("MatMul", ["x", "v"], ["m" if added else "h"], "first")]
        nodes += [helper.make_node("Add", ["m", "b"], ["h"], "adder")] if added else []
    else:
        nodes = [helper.make_node("Gemm", ["x", "v", *added], ["h"], "first", transB=int(transposed))]
    read, then = "h", TAILS[tail]
    if then is not None:
        op, constant = then
        operands = ["h"] if constant is None else ["h", "c"]
        weights |= {} if constant is None else {"c": np.asarray(constant)}
        nodes.append(helper.make_node(op, operands, ["t"], "tail"))
        read = "t"
    nodes.append(helper.make_node("MatMul", [read, "w"], ["y"], "second"))
    floats = {name: values.astype(np.float32) for name, values in weights.items()}
    return build(nodes, {"x": (rows, INNER)}, {"y": (rows, OUTER)}, floats)


def samples(rows: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(rows, INNER)).astype(np.float32)} for _ in range(8)]


def lowered(model: ModelProto, rows: int, corrected: bool = False) -> Graph:
    options = PtqOptions(observer="minmax", bias_correction=corrected)
    graph, spec = prepare(Graph(infer_shapes(model), {}, ()), samples(rows), options).spec()
    assert set(spec.layers) == {"first", "second"}
    return lower(graph, spec, "openvino")


def off(graph: Graph, rows: int, threads: int = 1) -> float:
    """How far OpenVINO is from the integers' meaning, as a share of the outputs' range."""
    feeds = samples(rows)[0]
    wanted = run_integer(graph.model, feeds)["y"]
    engine = BACKEND.open(EngineRequest(graph.serialized(), outputs=("y",), threads=threads))
    try:
        return float(np.abs(engine.run(feeds)["y"] - wanted).max() / np.ptp(wanted))
    finally:
        engine.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("tail", TAILS)
def test_a_product_of_few_rows_is_what_its_integers_say(build: Build, form: str, bias: str, tail: str) -> None:
    assert off(lowered(net(build, form, bias, tail), 7), 7) < 0.02


@pytest.mark.parametrize("rows", [1, 2, 4, 6, 8, 9])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("corrected", [False, True])
def test_any_number_of_rows_and_threads_with_biases_corrected_or_not(
    build: Build, rows: int, threads: int, corrected: bool
) -> None:
    for bias, tail in (("no bias", "plus a number"), ("a bias", "times a number")):
        assert off(lowered(net(build, "MatMul", bias, tail, rows), rows, corrected), rows, threads) < 0.02


def test_the_runtime_keeps_the_products_apart_and_in_int8(build: Build) -> None:
    model = net(build, "MatMul", "a bias", "rectified")
    tensors = (TensorSpec("x", "float32", (7, INNER)),), (TensorSpec("y", "float32", (7, OUTER)),)
    graph, spec = prepare(Graph(infer_shapes(model), {}, ()), samples(7), PtqOptions(observer="minmax")).spec()
    request = LoweringRequest(graph, ModelSpec("net", "tensor", *tensors), profiles.get("intel-cpu"), "int8", spec)
    exported = EXPORTER.export(request, EXPORTER.plan(request))
    assert {"first", "second"} <= EXPORTER.int8_nodes(exported)


def test_matrices_of_a_known_number_of_rows_get_a_barrier_and_nothing_else_does(build: Build) -> None:
    def barriers(graph: Graph) -> list[tuple[str, str]]:
        return [(node.input[0], node.output[0]) for node in graph.model.graph.node if node.op_type == "LeakyRelu"]

    fixed = lowered(net(build, "MatMul", "a bias", "times a number"), 7)
    assert barriers(fixed) == [("t", "t/same")]  # the input is rounded as it comes
    assert next(node for node in fixed.model.graph.node if node.name == "t/Q").input[0] == "t/same"
    assert barriers(lowered(net(build, "MatMul", "a bias", "times a number", "batch"), 7)) == []
    assert [name for name, dialect in DIALECTS.items() if dialect.barrier] == ["openvino"]


def test_the_barrier_changes_no_value(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(build, "MatMul", "no bias", "times a number")
    with_it = lowered(model, 7)
    monkeypatch.setitem(qdq.DIALECTS, "openvino", replace(DIALECTS["openvino"], barrier=False))
    without = lowered(model, 7)
    feeds = samples(7)[0]
    assert len(with_it.model.graph.node) == len(without.model.graph.node) + 1
    np.testing.assert_array_equal(run_integer(with_it.model, feeds)["y"], run_integer(without.model, feeds)["y"])
