"""The half reference: roundings where the file states them, overflow seen, and a gate that names its source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as nps  # noqa: E402
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from edgekit.bundle.manifest import Origin  # noqa: E402
from edgekit.divergence import trace  # noqa: E402
from edgekit.errors import GateError, InputError, UnsupportedError  # noqa: E402
from edgekit.graph import half_reference  # noqa: E402
from edgekit.graph.graph import Graph, serialize  # noqa: E402
from edgekit.graph.half import to_half  # noqa: E402
from edgekit.graph.half_reference import BACKEND, finite_gate, run_half  # noqa: E402
from edgekit.graph.half_rounding import computed_tensors  # noqa: E402
from edgekit.runtimes.backend import Backend, EngineRequest  # noqa: E402

Build = Callable[..., ModelProto]
Run = Callable[..., dict[str, np.ndarray]]
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
HALVES = nps.arrays(np.uint16, st.integers(1, 40)).map(lambda bits: bits.view(np.float16))
SINGLES = nps.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32))


def half_net(build: Build, nodes: list[NodeProto], shape: tuple[Any, ...], weights: Any = None, **more: Any) -> Any:
    """fp32 input `x`, cast to `h`; `nodes` compute `r`, which is cast to the output `y`."""
    ends = [
        helper.make_node("Cast", ["x"], ["h"], "in", to=HALF),
        helper.make_node("Cast", ["r"], ["y"], "out", to=FLOAT),
    ]
    return build([ends[0], *nodes, ends[1]], {"x": shape}, {"y": None}, weights, **more)


def rounded(values: Any) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values).astype(np.float16)


def overflowing(build: Build) -> ModelProto:
    """80 * 80 + 80 * 80 * 10 overflows on the way, and half of a tenth of it would fit again."""
    nodes = [
        helper.make_node("Mul", ["h", "h"], ["square"], "square"),
        helper.make_node("Mul", ["square", "ten"], ["large"], "large"),
        helper.make_node("Mul", ["large", "tenth"], ["r"], "small"),
    ]
    return half_net(build, nodes, (1, 2), {"ten": np.float16(16), "tenth": np.float16(1 / 16)})


def test_overflow_that_onnx_runtime_hides_is_infinite_here(build: Build, run: Run) -> None:
    model = overflowing(build)
    x = np.float32([[80, 1]])
    assert run(model, x=x)["y"].tolist() == [[6400, 1]]
    assert run_half(model, {"x": x})["y"].tolist() == [[np.inf, 1]]


def test_infinity_minus_infinity_is_nan(build: Build) -> None:
    nodes = [helper.make_node("Mul", ["h", "h"], ["m"]), helper.make_node("Sub", ["m", "m"], ["r"])]
    assert np.isnan(run_half(half_net(build, nodes, (1,)), {"x": np.float32([300])})["y"]).all()


def test_subnormals_are_kept_and_rounded(build: Build) -> None:
    nodes = [helper.make_node("Mul", ["h", "half"], ["r"])]
    model = half_net(build, nodes, (4,), {"half": np.float16(0.5)})
    x = np.float32([2**-24, 3 * 2**-24, 2**-14, -(2**-23)])
    assert run_half(model, {"x": x})["y"].tolist() == [0, 2**-23, 2**-15, -(2**-24)]


def test_an_island_of_float32_is_not_rounded_inside(build: Build) -> None:
    nodes = [
        helper.make_node("Cast", ["h"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "f"], ["square"]),
        helper.make_node("Sqrt", ["square"], ["root"]),
        helper.make_node("Cast", ["root"], ["r"], to=HALF),
    ]
    values = run_half(half_net(build, nodes, (2,)), {"x": np.float32([1000, 1.001])}, ["square", "r"])
    assert values["square"].dtype == np.float32 and values["square"][0] == 1e6
    assert values["r"].dtype == np.float16 and values["r"][0] == 1000


@given(HALVES, HALVES, st.sampled_from(["Add", "Sub", "Mul", "Div"]))
@settings(max_examples=60, deadline=None)
def test_elementwise_arithmetic_equals_numpys(build: Build, a: np.ndarray, b: np.ndarray, op: str) -> None:
    """float32 holds sums and products of halves well enough that two roundings equal one (Figueroa 1995)."""
    size = min(a.size, b.size)
    a, b = a[:size], b[:size]
    model = build(
        [helper.make_node(op, ["a", "b"], ["y"])],
        {"a": ("FLOAT16", None), "b": ("FLOAT16", None)},
        {"y": ("FLOAT16", None)},
    )
    with np.errstate(all="ignore"):
        wanted = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op](a, b)
    got = run_half(model, {"a": a, "b": b})["y"]
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, wanted)


@given(SINGLES)
@settings(max_examples=60, deadline=None)
def test_a_cast_rounds_as_ieee_says_and_rounding_is_idempotent(build: Build, x: np.ndarray) -> None:
    model = half_net(build, [helper.make_node("Identity", ["h"], ["r"])], (None,))
    once = run_half(model, {"x": x})["y"]
    np.testing.assert_array_equal(once, rounded(x).astype(np.float32))
    np.testing.assert_array_equal(run_half(model, {"x": once})["y"], once)


UNARY = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda x: np.clip(np.float32(0.2) * x + 0.5, 0, 1),
    "Tanh": np.tanh,
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Relu": lambda x: np.maximum(x, 0),
    "Reciprocal": lambda x: 1 / x,
}


@pytest.mark.parametrize("op", UNARY)
def test_functions_are_float64s_but_for_one_rounding(build: Build, op: str) -> None:
    """All halves. float32 kernels err by some 1e-7, which moves a result over a border between halves now and then."""
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    model = build([helper.make_node(op, ["x"], ["y"])], {"x": ("FLOAT16", None)}, {"y": ("FLOAT16", None)})
    got = run_half(model, {"x": x})["y"]
    with np.errstate(all="ignore"):
        wanted = rounded(UNARY[op](x.astype(np.float64)))
    apart = got != wanted
    apart[np.isnan(got) & np.isnan(wanted)] = False
    assert apart.mean() < 5e-3
    steps = np.abs(got[apart].view(np.int16).astype(int) - wanted[apart].view(np.int16).astype(int))
    assert steps.max(initial=0) <= 1


def within_a_rounding(got: np.ndarray, exact: np.ndarray, magnitude: np.ndarray) -> None:
    """`exact` rounded to half, up to float32 sums whose terms have the sum of magnitudes `magnitude`."""
    slack = magnitude * 2.0**-20
    assert (got >= rounded(exact - slack)).all() and (got <= rounded(exact + slack)).all()


def test_sums_inside_a_convolution_and_a_product_are_not_rounded(build: Build) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 64, 9, 9)).astype(np.float16)
    w = random.standard_normal((8, 64, 3, 3)).astype(np.float16)
    m = random.standard_normal((5, 5)).astype(np.float16)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Slice", ["c", "zero", "five", "axes"], ["s"]),
        helper.make_node("MatMul", ["s", "m"], ["y"]),
    ]
    weights = {"w": w, "m": m, "zero": np.int64([0, 0]), "five": np.int64([5, 5]), "axes": np.int64([2, 3])}
    model = build(nodes, {"x": ("FLOAT16", *x.shape)}, {"y": ("FLOAT16", None)}, weights)
    values = run_half(model, {"x": x}, ["c", "s", "y"])
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(2, 3))
    wide = w.astype(np.float64)
    exact, size = (np.einsum("nchwij,ocij->nohw", f(windows), f(wide)) for f in (np.asarray, np.abs))
    within_a_rounding(values["c"], exact, size)
    s, wide = values["s"].astype(np.float64), m.astype(np.float64)
    within_a_rounding(values["y"], s @ wide, np.abs(s) @ np.abs(wide))


def test_every_node_of_femtodet_is_a_rounding_of_what_float64_gives(shipped_graph: Graph) -> None:
    """Each node again, by onnx's own reference in float64, from the inputs that the half reference had."""
    model = to_half(shipped_graph).model
    image = np.random.default_rng(0).standard_normal((1, 3, 416, 416)).astype(np.float32)
    values: dict[str, Any] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer} | {"image": image}
    values |= run_half(model, {"image": image}, computed_tensors(model))
    checked = 0
    for node in model.graph.node:
        got = values[node.output[0]]
        if got.dtype != np.float16 or node.op_type == "Resize":
            continue
        feeds = {name: values[name].astype(np.float64) for name in node.input if name}
        if node.op_type == "Cast":
            exact = feeds[node.input[0]]
        else:
            names = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in feeds]
            ends = [helper.make_tensor_value_info(node.output[0], TensorProto.DOUBLE, None)]
            (exact,) = ReferenceEvaluator(helper.make_model(helper.make_graph([node], "one", names, ends))).run(
                None, feeds
            )
        within_a_rounding(got, exact, np.full(got.shape, np.abs(exact).max() * 4))
        checked += 1
    assert checked > 60


@given(SINGLES, st.sampled_from([0.0123, 2**-20, 1.0, 300.0]))
@settings(max_examples=60, deadline=None)
def test_quantizing_rounds_half_to_even_saturates_and_gives_back_halves(
    build: Build, x: np.ndarray, size: float
) -> None:
    scale, zero = np.float16(size), np.int8(0)
    x = x[np.isfinite(rounded(x))]
    nodes = [
        helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["r"]),
    ]
    model = half_net(build, nodes, (None,), {"scale": scale, "zero": zero}, opset=19)
    values = run_half(model, {"x": x}, ["q", "r"])
    steps = np.rint(rounded(x).astype(np.float32) / np.float32(scale))
    wanted = np.clip(steps, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(values["q"], wanted)
    np.testing.assert_array_equal(values["r"], rounded(wanted.astype(np.float32) * np.float32(scale)))


def test_ties_go_to_even_steps(build: Build) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["r"]),
    ]
    weights = {"scale": np.float16(2), "zero": np.int8(0)}
    x = np.float32([1, 3, 5, -1, -3, 1000, -1000])
    got = run_half(half_net(build, nodes, (7,), weights, opset=19), {"x": x}, ["q"])["q"]
    assert got.tolist() == [0, 2, 2, 0, -2, 127, -128]


def value(name: str, *shape: Any, kind: int = HALF) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def scan(build: Build, steps: int, factor: float) -> ModelProto:
    """state = state * factor + x, all in fp16, in a body that reads `factor` from outside."""
    nodes = [helper.make_node("Mul", ["s", "factor"], ["m"]), helper.make_node("Add", ["m", "e"], ["next"])]
    nodes.append(helper.make_node("Identity", ["next"], ["seen"]))
    body = helper.make_graph(nodes, "body", [value("s", 1), value("e", 1)], [value("next", 1), value("seen", 1)])
    outer = [helper.make_node("Scan", ["start", "h"], ["last", "r"], "scan", body=body, num_scan_inputs=1)]
    return half_net(build, outer, (steps, 1), {"start": np.float16([0]), "factor": np.float16(factor)})


def test_every_turn_of_a_scan_rounds(build: Build) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (40, 1)).astype(np.float32)
    model = scan(build, 40, 0.9)
    state, wanted = np.float16([0]), []
    for element in x.astype(np.float16):
        state = rounded(rounded(state.astype(np.float32) * np.float32(np.float16(0.9))) + element)
        wanted.append(state)
    np.testing.assert_array_equal(run_half(model, {"x": x})["y"], np.stack(wanted).astype(np.float32))


def test_a_scan_that_overflows_in_a_turn_does_so_here_alone(build: Build, run: Run) -> None:
    model, x = scan(build, 8, 8.0), np.ones((8, 1), np.float32)
    assert np.isfinite(run(model, x=x)["y"]).sum() >= np.isfinite(run_half(model, {"x": x})["y"]).sum() == 6
    with pytest.raises(GateError, match="not finite") as caught:
        finite_gate(Graph(model, {"scan": Origin("ssm", "ssm.py", 7)}, ()), [{"x": x}])
    assert "'scan' (Scan) of module 'ssm' (ssm.py:7)" in str(caught.value.where)


def loop(build: Build) -> ModelProto:
    """Four times: state = state + min(20000 * state, 1); the product overflows and stays inside."""
    nodes = [
        helper.make_node("Mul", ["s", "much"], ["large"]),
        helper.make_node("Min", ["large", "one"], ["bounded"]),
        helper.make_node("Add", ["s", "bounded"], ["next"]),
        helper.make_node("Identity", ["go"], ["on"]),
    ]
    inputs = [value("i", kind=TensorProto.INT64), value("go", kind=TensorProto.BOOL), value("s", 1)]
    body = helper.make_graph(nodes, "body", inputs, [value("on", kind=TensorProto.BOOL), value("next", 1)])
    outer = [helper.make_node("Loop", ["turns", "", "h"], ["r"], "loop", body=body)]
    weights = {"turns": np.int64(4), "much": np.float16(2e4), "one": np.float16(1)}
    return half_net(build, outer, (1,), weights)


def test_what_overflows_inside_a_loop_and_does_not_leave_it_is_found(build: Build) -> None:
    graph = Graph(loop(build), {}, ())
    assert run_half(graph, {"x": np.float32([3])})["y"].tolist() == [7]
    with pytest.raises(GateError, match="a tensor inside its body") as caught:
        finite_gate(graph, [{"x": np.float32([0])}, {"x": np.float32([3])}])
    assert "'loop'" in str(caught.value.where) and "sample 1" in str(caught.value.why)


@pytest.mark.parametrize("taken", [True, False])
def test_both_branches_round_and_are_watched(build: Build, taken: bool) -> None:
    def branch(op: str, name: str) -> Any:
        return helper.make_graph([helper.make_node(op, ["h", "w"], [name])], name, [], [value(name, 1)])

    nodes = [helper.make_node("If", ["c"], ["r"], "if", then_branch=branch("Mul", "t"), else_branch=branch("Add", "e"))]
    model = half_net(build, nodes, (1,), {"w": np.float16(4000)})
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    feeds = {"x": np.float32([2049]), "c": np.array(taken)}
    assert run_half(model, feeds)["y"].tolist() == [np.inf if taken else 6048]
    if not taken:
        assert finite_gate(Graph(model, {}, ()), [feeds]) == 1
        return
    with pytest.raises(GateError, match="not finite"):
        finite_gate(Graph(model, {}, ()), [feeds])


def test_the_gate_names_node_module_and_line_of_the_first_overflow(build: Build) -> None:
    origins = {
        "square": Origin("net.a", "a.py", 1),
        "large": Origin("net.b", "b.py", 12),
        "small": Origin("net.c", None, None),
    }
    graph = Graph(overflowing(build), origins, ())
    assert finite_gate(graph, [{"x": np.float32([[50, 1]])}]) == 1
    assert finite_gate(graph, []) == 0
    with pytest.raises(GateError) as caught:
        finite_gate(graph, iter([{"x": np.float32([[1, 1]])}, {"x": np.float32([[80, 1]])}]))
    assert caught.value.where == "node 'large' (Mul) of module 'net.b' (b.py:12)"
    assert "1 infinite of 2 elements, from inputs of up to 6400 on sample 1" in str(caught.value.why)


def test_a_cast_that_overflows_is_named_by_what_it_converts(build: Build) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"], "exp"), helper.make_node("MatMul", ["e", "w"], ["y"], "product")]
    model = build(nodes, {"x": (1, 2)}, {"y": (1, 2)}, {"w": np.eye(2, dtype=np.float32)})
    graph = to_half(Graph(onnx.shape_inference.infer_shapes(model), {"exp": Origin("gate", "g.py", 3)}, ()))
    assert finite_gate(graph, [{"x": np.float32([[11, 0]])}]) == 1
    with pytest.raises(GateError) as caught:
        finite_gate(graph, [{"x": np.float32([[12, 0]])}])
    assert caught.value.where == "node 'e_fp16/cast' (Cast) of module 'gate' (g.py:3)"


def test_a_mask_of_minus_infinity_passes_until_it_makes_a_nan(build: Build) -> None:
    nodes = [
        helper.make_node("Less", ["h", "zero"], ["below"]),
        helper.make_node("Where", ["below", "never", "h"], ["masked"], "mask"),
        helper.make_node("Softmax", ["masked"], ["r"], "softmax"),
    ]
    graph = Graph(half_net(build, nodes, (1, 3), {"zero": np.float16(0), "never": np.float16(-np.inf)}), {}, ())
    assert finite_gate(graph, [{"x": np.float32([[1, -1, 2]])}]) == 1
    with pytest.raises(GateError) as caught:
        finite_gate(graph, [{"x": np.float32([[-1, -1, -2]])}])
    assert "'softmax'" in str(caught.value.where)


def test_the_backend_opens_bytes_and_traces_every_tensor(build: Build) -> None:
    backend: Backend = BACKEND
    model = overflowing(build)
    assert (backend.name, backend.devices) == ("half-reference", ("cpu",)) and backend.version()
    engine = backend.open(EngineRequest(serialize(model), settings={"ignored": "1"}, threads=1, outputs=("y",)))
    assert engine.run({"x": np.float32([[80, 1]])})["y"].tolist() == [[np.inf, 1]]
    engine.close()
    traced = trace(Graph(model, {}, ()), backend, {"x": np.float32([[80, 1]])}, {})
    assert list(traced) == ["h", "square", "large", "r", "y"]
    assert traced["large"].dtype == np.float16 and traced["large"][0, 0] == np.inf


def test_what_cannot_be_read_or_computed_is_refused(build: Build) -> None:
    with pytest.raises(InputError, match="no ONNX file"):
        BACKEND.open(EngineRequest(b"\x00 no protobuf"))
    with pytest.raises(InputError, match="no node computes 'z'"):
        run_half(overflowing(build), {"x": np.float32([[1, 1]])}, ["z"])
    model = build([helper.make_node("Neg", ["x"], ["y"])], {"x": ("BFLOAT16", 1)}, {"y": ("BFLOAT16", 1)})
    with pytest.raises(UnsupportedError, match="bf16"):
        run_half(model, {})


def test_local_functions_round_inside(build: Build) -> None:
    model = half_net(build, [helper.make_node("Cube", ["h"], ["r"], domain="own")], (1,))
    imports = [helper.make_opsetid("", 20)]
    nodes = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Div", ["s", "a"], ["b"])]
    model.functions.append(helper.make_function("own", "Cube", ["a"], ["b"], nodes, imports))
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert run_half(model, {"x": np.float32([300])})["y"].tolist() == [np.inf]


def test_a_runtime_that_drops_roundings_is_refused(monkeypatch: pytest.MonkeyPatch, build: Build) -> None:
    class Careless:
        def open(self, _: EngineRequest) -> Any:
            return self

        def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"z": -feeds["x"]}

        def close(self) -> None: ...

    half_reference._require_roundings.cache_clear()
    monkeypatch.setattr(half_reference, "_UNOPTIMIZED", Careless())
    with pytest.raises(UnsupportedError, match="does not round"):
        run_half(overflowing(build), {"x": np.float32([[1, 1]])})
