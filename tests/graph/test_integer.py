"""The integer reference says what ONNX says, exactly, and its checks find the layer that is wrong and no other."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import ModelProto, TensorProto, helper  # noqa: E402

from edgekit.errors import InputError, UnsupportedError  # noqa: E402
from edgekit.graph.graph import with_all_outputs  # noqa: E402
from edgekit.graph.integer import check_layers, output_gaps, quantized_tensors, run_integer, steps_apart  # noqa: E402

Build = Callable[..., ModelProto]
Run = Callable[..., dict[str, np.ndarray]]
X_SCALE, W_SCALE, Y_SCALE, Z_SCALE = np.float32(0.017), np.float32([0.004, 0.011, 0.007, 0.002]), 0.043, 0.031


def scale(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


@pytest.fixture
def chain(build: Build) -> ModelProto:
    """x -> Q, DQ -> Conv (per channel, int32 bias) -> Relu -> Q, DQ -> depthwise Conv -> Q, DQ -> mean -> Gemm -> y."""
    rng = np.random.default_rng(0)
    weights = {
        "xs": scale(X_SCALE),
        "xz": np.uint8(113),
        "ys": scale(Y_SCALE),
        "yz": np.uint8(0),
        "zs": scale(Z_SCALE),
        "zz": np.uint8(131),
        "w0s": W_SCALE,
        "w1s": W_SCALE[::-1],
        "wz": np.zeros(4, np.int8),
        "w0": rng.integers(-127, 128, (4, 3, 3, 3), np.int8),
        "b0": rng.integers(-4000, 4000, 4, np.int32),
        "b0s": W_SCALE * X_SCALE,
        "w1": rng.integers(-127, 128, (4, 1, 3, 3), np.int8),
        "w2": rng.integers(-127, 128, (5, 4), np.int8),
        "w2s": scale(0.02),
    }
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        node("DequantizeLinear", ["w0", "w0s", "wz"], ["w0d"], axis=0),
        node("DequantizeLinear", ["b0", "b0s"], ["b0d"], axis=0),
        node("Conv", ["xd", "w0d", "b0d"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c0"], ["r0"]),
        node("QuantizeLinear", ["r0", "ys", "yz"], ["yq"]),
        node("DequantizeLinear", ["yq", "ys", "yz"], ["yd"]),
        node("DequantizeLinear", ["w1", "w1s", "wz"], ["w1d"], axis=0),
        node("Conv", ["yd", "w1d"], ["c1"], group=4, auto_pad="SAME_UPPER"),
        node("QuantizeLinear", ["c1", "zs", "zz"], ["zq"]),
        node("DequantizeLinear", ["zq", "zs", "zz"], ["zd"]),
        node("GlobalAveragePool", ["zd"], ["m"]),
        node("QuantizeLinear", ["m", "zs", "zz"], ["mq"]),
        node("DequantizeLinear", ["mq", "zs", "zz"], ["md"]),
        node("Flatten", ["md"], ["f"]),
        node("DequantizeLinear", ["w2", "w2s"], ["w2d"]),
        node("Gemm", ["f", "w2d"], ["y"], transB=1),
    ]
    return build(nodes, {"x": (2, 3, 9, 9)}, {"y": (2, 5)}, weights)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1.9, 2.4, (2, 3, 9, 9)).astype(np.float32)


def test_a_chain_is_what_plain_integers_give(chain: ModelProto, x: np.ndarray) -> None:
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in chain.graph.initializer}
    tensors = run_integer(chain, {"x": x})
    xq = [[_round(Fraction(float(v)) / Fraction(float(X_SCALE))) for v in row] for row in x[0].reshape(3, -1)]
    whole = np.clip(np.array(xq) + 113, 0, 255).reshape(3, 9, 9)
    assert np.array_equal(tensors["xq"][0], whole)
    padded = np.pad(whole.astype(np.int64) - 113, [(0, 0), (1, 1), (1, 1)])
    for channel, row, column in np.ndindex(4, 5, 5):
        window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        total = int((window * weights["w0"][channel].astype(np.int64)).sum())
        real = Fraction(float(X_SCALE)) * Fraction(float(W_SCALE[channel])) * total
        real += Fraction(float(weights["b0s"][channel])) * int(weights["b0"][channel])
        wanted = min(255, max(0, _round(real / Fraction(float(scale(Y_SCALE))))))
        assert tensors["yq"][0, channel, row, column] == wanted
    assert tensors["yq"].dtype == np.uint8
    assert tensors["y"].dtype == np.float64


def test_sums_beyond_float32_are_exact(build: Build) -> None:
    rows, model = 4096, None
    weights = {"s": scale(1.0), "w": np.full((rows, 1), 127, np.int8), "xz": np.uint8(0), "wz": np.int8(0)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    model = build(nodes, {"x": ("UINT8", 1, rows)}, {"y": (1, 1)}, weights)
    feed = np.full((1, rows), 255, np.uint8)
    feed[0, 0] = 254  # the sum is odd and above 2^24
    assert run_integer(model, {"x": feed})["y"][0, 0] == 127 * (255 * rows - 1)


@given(st.lists(st.integers(-600, 600), min_size=1, max_size=20), st.integers(-3, 3), st.sampled_from(["u1", "i1"]))
@settings(max_examples=40, deadline=None)
def test_ties_go_to_even_and_the_rest_saturates(halves: list[int], exponent: int, dtype: str) -> None:
    zero = np.array(3, dtype)
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])]
    initializers = [onnx.numpy_helper.from_array(scale(2.0**exponent), "s"), onnx.numpy_helper.from_array(zero, "z")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(halves)])]
    outputs = [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(zero.dtype), [len(halves)])]
    model = helper.make_model(helper.make_graph(nodes, "ties", inputs, outputs, initializers))
    x = (np.array(halves) / 2 * 2.0**exponent).astype(np.float32)
    limits = np.iinfo(zero.dtype)
    wanted = [min(limits.max, max(limits.min, _round(Fraction(half, 2)) + 3)) for half in halves]
    assert run_integer(model, {"x": x})["y"].tolist() == wanted


def test_onnx_runtime_is_at_most_one_step_away(chain: ModelProto, x: np.ndarray, run: Run) -> None:
    reference = run_integer(chain, {"x": x})
    traced = run(_tracing(chain), x=x)
    assert all(steps <= 1 for steps in steps_apart(chain, reference, traced).values())
    assert list(steps_apart(chain, reference, traced)) == ["xq", "yq", "zq", "mq"]
    (gap,) = output_gaps(chain, reference, traced)
    assert gap.tensor == "y" and gap.operator == "Gemm" and gap.steps < 3
    assert all(each.within(1) for each in check_layers(chain, {**traced, "x": x}))


CONVS: list[tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ({"pads": [0, 1, 2, 1], "strides": [2, 1]}, (1, 4, 8, 9), (6, 4, 3, 3)),
    ({"group": 2, "dilations": [2, 1]}, (2, 4, 9, 7), (6, 2, 3, 2)),
    ({"group": 4, "auto_pad": "SAME_LOWER", "strides": [2, 3]}, (1, 4, 7, 8), (4, 1, 4, 3)),
    ({"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 4, 8, 7), (8, 1, 3, 3)),
    ({"auto_pad": "VALID"}, (1, 3, 6, 6), (2, 3, 2, 2)),
    ({"pads": [2, 1]}, (1, 3, 11), (2, 3, 4)),
    ({"strides": [1, 2, 1]}, (1, 2, 5, 6, 4), (3, 2, 2, 3, 1)),
]


@pytest.mark.parametrize(("attributes", "shape", "kernel"), CONVS)
def test_every_form_of_convolution(
    build: Build, run: Run, attributes: dict[str, Any], shape: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(2)
    w, b = rng.normal(size=kernel).astype(np.float32), rng.normal(size=kernel[0]).astype(np.float32)
    model = build(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)], {"x": shape}, {"y": None}, {"w": w, "b": b}
    )
    _same_as_runtime(model, run, rng.normal(size=shape).astype(np.float32))


POOLS: list[tuple[str, dict[str, Any]]] = [
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
]


@pytest.mark.parametrize(("kind", "attributes"), POOLS)
def test_every_form_of_pooling(build: Build, run: Run, kind: str, attributes: dict[str, Any]) -> None:
    model = build([helper.make_node(kind, ["x"], ["y"], **attributes)], {"x": (2, 3, 8, 10)}, {"y": None})
    _same_as_runtime(model, run, np.random.default_rng(3).normal(size=(2, 3, 8, 10)).astype(np.float32))


def test_pooling_of_the_steps_themselves(build: Build) -> None:
    nodes = [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[3, 3])]
    model = build(nodes, {"x": ("INT8", 1, 1, 4, 4)}, {"y": None})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    y = run_integer(model, {"x": np.full((1, 1, 4, 4), -128, np.int8)})["y"]
    assert y.dtype == np.int8 and (y == -128).all()


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_takes_scales_out_of_the_sum_along_its_kept_axis(build: Build, run: Run, transposed: int) -> None:
    rng = np.random.default_rng(4)
    scales = rng.uniform(0.001, 0.1, 6).astype(np.float32)
    w = rng.integers(-127, 128, (6, 7) if transposed else (7, 6), np.int8)
    c = rng.normal(size=6).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0 if transposed else 1),
        helper.make_node("Gemm", ["xd", "wd", "c"], ["y"], transB=transposed, alpha=0.5, beta=2.0),
    ]
    weights = {"xs": scale(0.05), "xz": np.uint8(90), "w": w, "ws": scales, "c": c}
    model = build(nodes, {"x": ("UINT8", 4, 7)}, {"y": (4, 6)}, weights)
    x = rng.integers(0, 256, (4, 7), np.uint8)
    real = (x.astype(np.int64) - 90) @ (w.T if transposed else w).astype(np.int64) * np.float64(scale(0.05)) * scales
    np.testing.assert_allclose(run_integer(model, {"x": x})["y"], 0.5 * real + 2.0 * c, rtol=1e-13, atol=1e-13)


def test_other_operators_are_computed_in_float64(build: Build, run: Run) -> None:
    node = helper.make_node
    nodes = [
        node("Sigmoid", ["x"], ["a"]),
        node("Mul", ["a", "x"], ["b"]),
        node("Concat", ["a", "b"], ["c"], axis=1),
        node("Clip", ["c", "", "six"], ["d"]),
        node("Reshape", ["d", "to"], ["e"]),
        node("Softmax", ["e"], ["f"]),
        node("Split", ["f"], ["g", "h"], num_outputs=2, axis=1),
        node("Add", ["g", "h"], ["y"]),
    ]
    weights = {"six": np.float32(0.6), "to": np.array([2, -1])}
    model = build(nodes, {"x": (2, 3, 4)}, {"y": None}, weights)
    x = np.random.default_rng(5).normal(size=(2, 3, 4)).astype(np.float32)
    tensors = run_integer(model, {"x": x})
    assert all(tensors[name].dtype == np.float64 for name in "abcdefghy")
    np.testing.assert_allclose(tensors["a"], 1 / (1 + np.exp(-x.astype(np.float64))), rtol=1e-14)
    _same_as_runtime(model, run, x)


@pytest.mark.parametrize("form", ["none", "tanh", None])
def test_gelu_is_its_formula(build: Build, run: Run, form: str | None) -> None:
    x = np.concatenate([np.linspace(-9, 9, 181), [-37.5, 37.5]]).astype(np.float32)
    node = helper.make_node("Gelu", ["x"], ["y"], **({"approximate": form} if form else {}))
    model = build([node], {"x": x.shape}, {"y": x.shape})
    if form == "tanh":
        wanted = [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]
    else:  # erfc, because 1 + erf loses all digits far below zero
        wanted = [v / 2 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()]
    np.testing.assert_allclose(run_integer(model, {"x": x})["y"], wanted, rtol=1e-12, atol=1e-14)
    _same_as_runtime(model, run, x)


def test_an_attention_block_is_computed_in_float64(build: Build, run: Run) -> None:
    """What a transformer has beside its layers: LayerNormalization, Softmax of products, Gelu, a residual sum."""
    rng = np.random.default_rng(6)
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "g", "b"], ["n", "mean", "deviation"], axis=-1, epsilon=1e-6),
        node("Transpose", ["n"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["n", "t"], ["m"]),
        node("Softmax", ["m"], ["p"], axis=-1),
        node("MatMul", ["p", "n"], ["a"]),
        node("Gelu", ["a"], ["e"]),
        node("Add", ["x", "e"], ["y"]),
    ]
    gains = {"g": rng.uniform(0.5, 1.5, 8).astype(np.float32), "b": rng.normal(size=8).astype(np.float32)}
    model = build(nodes, {"x": (2, 5, 8)}, {"y": (2, 5, 8)}, gains)
    x = rng.normal(3, 2, (2, 5, 8)).astype(np.float32)
    tensors = run_integer(model, {"x": x})
    assert all(tensors[name].dtype == np.float64 for name in "ntmpaey")
    real = x.astype(np.float64)
    centred = real - real.mean(-1, keepdims=True)
    norm = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-6)) * gains["g"] + gains["b"]
    np.testing.assert_allclose(tensors["n"], norm, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(tensors["p"].sum(-1), 1, rtol=1e-14)
    _same_as_runtime(model, run, x)


def test_a_wrong_layer_is_named_alone(chain: ModelProto, x: np.ndarray) -> None:
    traced = {**run_integer(chain, {"x": x}), "x": x}
    wrong = traced["yq"].copy()
    wrong[0, 1, 2, 3] += 5
    changed = {**traced, "yq": wrong}
    for name in ("zq", "mq", "y"):  # a runtime that errs once, and computes on with what it has
        changed[name] = _without(chain, name, changed)
    gaps = {gap.tensor: gap for gap in check_layers(chain, changed)}
    assert list(gaps) == ["xq", "yq", "zq", "mq", "y"]
    assert (gaps["yq"].steps, gaps["yq"].apart, gaps["yq"].elements, gaps["yq"].operator) == (5, 1, wrong.size, "Relu")
    assert [gaps[name].steps for name in ("xq", "zq", "mq", "y")] == [0, 0, 0, 0]
    assert steps_apart(chain, traced, changed)["zq"] > 1  # end to end the error reaches the layers behind it
    assert not gaps["yq"].within(1) and gaps["zq"].within(1)


def test_what_was_not_traced_is_computed_and_not_checked(chain: ModelProto, x: np.ndarray) -> None:
    tensors = run_integer(chain, {"x": x})
    assert [gap.tensor for gap in check_layers(chain, {"x": x, "mq": tensors["mq"]})] == ["mq"]


def test_an_output_is_judged_in_its_scale_or_in_its_range(build: Build) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Reshape", ["d", "to"], ["near"]),
        helper.make_node("Exp", ["x"], ["far"]),
    ]
    weights = {"s": scale(0.5), "z": np.uint8(9), "to": np.array([-1])}
    model = build(nodes, {"x": (2, 2)}, {"near": (4,), "far": (2, 2)}, weights)
    tensors = run_integer(model, {"x": np.log(scale([[1, 2], [3, 52]]))})
    moved = {"near": tensors["near"] + [0, 1.0, 0, 0.1], "far": tensors["far"] - [[0, 0], [0, 0.6]]}
    near, far = output_gaps(model, tensors, moved)
    assert (near.steps, near.apart) == (pytest.approx(2), 1)
    assert (far.steps, far.apart) == (pytest.approx(0.6 / (51 / 255), rel=1e-5), 1)
    moved["far"][0, 0] = np.nan
    assert output_gaps(model, tensors, moved)[1].steps == math.inf
    assert not output_gaps(model, tensors, moved)[1].within(1e9)


def test_a_vector_of_one_scale_is_a_scalar(build: Build) -> None:
    nodes = [helper.make_node("QuantizeLinear", ["x", "s"], ["y"], axis=0)]
    model = build(nodes, {"x": (3,)}, {"y": ("UINT8", 3)}, {"s": scale([0.5])})
    y = run_integer(model, {"x": scale([1, 2, -3])})["y"]
    assert y.tolist() == [2, 4, 0] and y.dtype == np.uint8


def test_an_input_that_is_missing_or_not_a_number(chain: ModelProto, x: np.ndarray) -> None:
    with pytest.raises(InputError, match="no value for input 'x'"):
        run_integer(chain, {})
    x[1, 2, 3, 4] = np.nan
    with pytest.raises(InputError, match="'x' holds NaN"):
        run_integer(chain, {"x": x})


def test_a_trace_of_another_model_is_refused(chain: ModelProto, x: np.ndarray) -> None:
    tensors = run_integer(chain, {"x": x})
    with pytest.raises(InputError, match="'yq' is int8"):
        check_layers(chain, {"x": x, "yq": tensors["yq"].astype(np.int8)})
    with pytest.raises(InputError, match="'zq' is uint8"):
        steps_apart(chain, tensors, {"zq": tensors["zq"][:1]})


@pytest.mark.parametrize("case", ["blocks", "subgraph", "unknown", "float8", "gelu"])
def test_what_it_cannot_compute_is_named(build: Build, case: str) -> None:
    then = helper.make_graph([], "then", [], [])
    node, weights = {
        "blocks": (
            helper.make_node("DequantizeLinear", ["q", "s"], ["y"], block_size=2),
            {"q": np.zeros((4, 4), np.int8)},
        ),
        "subgraph": (helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=then), {"c": np.bool_(True)}),
        "unknown": (helper.make_node("Frobnicate", ["x"], ["y"], domain="ai.edgekit"), {}),
        "float8": (helper.make_node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=TensorProto.FLOAT8E4M3FN), {}),
        "gelu": (helper.make_node("Gelu", ["x"], ["y"], approximate="cubic"), {}),
    }[case]
    node.name = "the culprit"
    shape = (2, 4) if case == "blocks" else ()
    model = build([node], {"x": (2,)}, {"y": None}, {**weights, "s": np.ones(shape, np.float32)}, opset=23)
    with pytest.raises(UnsupportedError, match="the culprit"):
        run_integer(model, {"x": np.ones(2, np.float32)})


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax", "Hardmax"])
def test_an_old_softmax_is_refused_and_not_computed_wrongly(build: Build, run: Run, kind: str) -> None:
    """Before opset 13 it runs over all axes from `axis` on; the reference of the onnx package runs over that one."""
    x = np.random.default_rng(8).normal(size=(2, 3, 4)).astype(np.float32)
    node = helper.make_node(kind, ["x"], ["y"], name="old", axis=1)
    with pytest.raises(UnsupportedError, match=r"(?s)old.*opset 13"):
        run_integer(build([node], {"x": x.shape}, {"y": None}, opset=12, ir=7), {"x": x})
    _same_as_runtime(build([node], {"x": x.shape}, {"y": None}, opset=13), run, x)


def _round(value: Fraction) -> int:
    """Half to even, as `round` of a fraction is."""
    return round(value)


def _tracing(model: ModelProto) -> ModelProto:
    """The model, returning its quantized tensors as well."""
    every = with_all_outputs(model)
    keep = {*quantized_tensors(model), *(value.name for value in model.graph.output)}
    outputs = [value for value in every.graph.output if value.name in keep]
    del every.graph.output[:]
    every.graph.output.extend(outputs)
    return every


def _without(model: ModelProto, name: str, traced: dict[str, np.ndarray]) -> np.ndarray:
    """What the tensor should be, given the traced tensors before it."""
    from edgekit.graph.integer import _Interpreter

    observed = {each: traced[each] for each in quantized_tensors(model) if each in traced}
    return _Interpreter(model, observed).run({"x": traced["x"]})[name]


def _same_as_runtime(model: ModelProto, run: Run, x: np.ndarray) -> None:
    got = run_integer(model, {"x": x})["y"]
    np.testing.assert_allclose(got, run(model, x=x)["y"], rtol=1e-5, atol=1e-5)
