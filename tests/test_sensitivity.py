"""Layers are returned to float by what they add to the outputs' error for each multiply-accumulate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")

from onnx import numpy_helper, parser

from edgekit.compress.judge import Judge
from edgekit.compress.ptq import PreparedGraph, PtqOptions, prepare
from edgekit.graph.graph import Graph
from edgekit.graph.macs import macs_by_node
from edgekit.graph.passes import infer_shapes
from edgekit.sensitivity import affordable, by_sensitivity, tries

MACS = {"a": 50, "b": 30, "c": 15, "d": 5}
SHARES = (0.5, 1.0)


@pytest.fixture(scope="module")
def judged() -> tuple[PreparedGraph, Judge, dict[str, int]]:
    """Three layers; a channel of `bad` has weights so large that one step of their clip is as large as the others."""
    rng = np.random.default_rng(0)
    text = """(float[1,4,8,8] x) => (float[1,4,8,8] y) {
        p = Conv(x, wide)  q = Tanh(p)  r = Conv(q, bad)  s = Tanh(r)  y = Conv(s, small) }"""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> net {text}')
    weights = {"wide": (64, 4, 1, 1), "bad": (4, 64, 1, 1), "small": (4, 4, 1, 1)}
    for node in model.graph.node:
        node.name = node.input[1] if node.op_type == "Conv" else node.output[0]
    for name, shape in weights.items():
        values = rng.standard_normal(shape) / np.sqrt(shape[1])
        if name == "bad":
            values[:, 0] = 40.0
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    graph = Graph(infer_shapes(model), {}, ())
    data = [{"x": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(24)]
    prepared = prepare(graph, data, PtqOptions(equalize=False))
    return prepared, Judge.of(graph, data[:4], "onnxruntime"), macs_by_node(graph.model)


def test_the_layer_to_blame_comes_first(judged: tuple[PreparedGraph, Judge, dict[str, int]]) -> None:
    prepared, judge, _ = judged
    assert by_sensitivity(prepared, judge, dict.fromkeys(prepared.layers, 1))[0] == "bad"


def test_what_a_layer_saves_counts_too(judged: tuple[PreparedGraph, Judge, dict[str, int]]) -> None:
    prepared, judge, macs = judged
    assert by_sensitivity(prepared, judge, macs)[0] == "bad"
    assert by_sensitivity(prepared, judge, macs | {"bad": 10**9})[-1] == "bad"


def test_returning_the_first_helps_most(judged: tuple[PreparedGraph, Judge, dict[str, int]]) -> None:
    prepared, judge, _ = judged
    first, *others = by_sensitivity(prepared, judge, {})
    error = judge.error(*prepared.spec([first]))
    assert error < min(judge.error(*prepared.spec([other])) for other in others)


def test_a_layer_that_does_not_fit_is_passed_over() -> None:
    assert affordable("abcd", MACS, 20) == ("c",)
    assert affordable("dcba", MACS, 20) == ("d", "c")
    assert affordable("abcd", MACS, -1) == ()


def test_something_stays_in_int8() -> None:
    assert affordable("abcd", MACS, 1000) == ("a", "b", "c")
    assert affordable("a", MACS, 1000) == ()


@given(st.permutations("abcd"), st.floats(-10, 200), st.lists(st.floats(0, 1), max_size=5))
@settings(max_examples=60, deadline=None)
def test_no_try_exceeds_the_allowance_or_comes_twice(order: list[str], allowance: float, shares: list[float]) -> None:
    found = tries(order, MACS, allowance, shares)
    assert len(set(found)) == len(found)
    assert all(0 < sum(MACS[name] for name in layers) <= allowance for layers in found)
