"""Which nodes may run in int8, which stay float and why, and what lies between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, helper, numpy_helper  # noqa: E402

from edgekit.graph.integer_weights import quantize_weight, weight_scales  # noqa: E402
from edgekit.graph.layers import data_inputs, find_carriers, find_layers, settled  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.graph.quantspec import ActivationQuant, QuantSpec, WeightQuant  # noqa: E402
from edgekit.graph.wiring import Wiring, attribute, copy_of, replace_weight  # noqa: E402

Build = Callable[..., ModelProto]
node = helper.make_node


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def wired(build: Build, nodes: list[Any], shape: tuple[int | str, ...], weights: dict[str, np.ndarray]) -> Wiring:
    return Wiring(infer_shapes(build(nodes, {"x": shape}, {"y": None}, weights)))


# --- layers


def test_a_product_takes_the_constant_behind_it_for_its_bias(build: Build) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["m"], "product"),
        node("Add", ["b", "m"], ["s"], "sum"),
        node("MatMul", ["s", "v"], ["n"], "bare"),
        node("Add", ["n", "grid"], ["y"], "arithmetic"),
    ]
    weights = {"w": floats(4, 6), "b": floats(6), "v": floats(6, 3), "grid": floats(5, 3)}
    layers, refused = find_layers(wired(build, nodes, (2, 5, 4), weights))
    assert refused == {}
    first, second = layers["product"], layers["bare"]
    assert (first.data, first.weight, first.axis, first.output) == ("x", "w", 1, "s")
    assert (first.bias, first.adder, first.groups) == ("b", "sum", 1)
    assert (second.bias, second.adder, second.output) == (None, None, "n")


def test_a_sum_that_others_see_too_is_no_bias(build: Build) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["m"], "product"),
        node("Add", ["m", "b"], ["s"], "sum"),
        node("Mul", ["s", "m"], ["y"], "mul"),
    ]
    layers, _ = find_layers(wired(build, nodes, (2, 4), {"w": floats(4, 6), "b": floats(6)}))
    assert layers["product"].adder is None and layers["product"].output == "m"


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_output_channels_of_a_gemm_and_a_convolution(build: Build, transposed: int, axis: int) -> None:
    w = floats(6, 8) if transposed else floats(8, 6)
    nodes = [
        node("Conv", ["x", "k", "c"], ["p"], "conv", group=2),
        node("Flatten", ["p"], ["f"], "flatten"),
        node("Gemm", ["f", "w", "b"], ["y"], "gemm", transB=transposed),
    ]
    layers, refused = find_layers(
        wired(build, nodes, (1, 4, 1, 1), {"k": floats(8, 2, 1, 1), "c": floats(8), "w": w, "b": floats(6)})
    )
    assert not refused and (layers["conv"].axis, layers["conv"].groups, layers["conv"].bias) == (0, 2, "c")
    assert (layers["gemm"].axis, layers["gemm"].bias) == (axis, "b")


REFUSED: dict[str, tuple[Any, dict[str, np.ndarray]]] = {
    "attention": (node("MatMul", ["x", "t"], ["y"], "n"), {}),
    "stack": (node("MatMul", ["x", "w"], ["y"], "n"), {"w": floats(2, 4, 4)}),
    "alpha": (node("Gemm", ["x", "w"], ["y"], "n", alpha=0.5), {"w": floats(4, 4)}),
    "transposed input": (node("Gemm", ["x", "w"], ["y"], "n", transA=1), {"w": floats(4, 4)}),
    "bias is computed": (node("Gemm", ["x", "w", "t"], ["y"], "n"), {"w": floats(4, 4)}),
    "no vector": (node("Gemm", ["x", "w", "b"], ["y"], "n"), {"w": floats(4, 4), "b": floats(1, 4)}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_quantized_is_said(build: Build, reason: str) -> None:
    refused, weights = REFUSED[reason]
    layers, why = find_layers(wired(build, [node("Tanh", ["x"], ["t"], "tanh"), refused], (4, 4), weights))
    assert not layers and list(why) == ["n"] and reason in why["n"]


def test_a_transposed_convolution_and_a_computed_bias(build: Build) -> None:
    nodes = [
        node("ConvTranspose", ["x", "w"], ["u"], "up"),
        node("ReduceMax", ["u", "axes"], ["r"], "max", keepdims=0),
        node("Conv", ["u", "k", "r"], ["y"], "conv"),
    ]
    weights = {"w": floats(3, 5, 2, 2), "k": floats(5, 5, 1, 1), "axes": np.array([0, 2, 3])}
    layers, why = find_layers(wired(build, nodes, (1, 3, 4, 4), weights))
    assert not layers and "transposed" in why["up"] and "computed" in why["conv"]


# --- carriers


def carriers(build: Build, nodes: list[Any], weights: dict[str, np.ndarray]) -> list[str]:
    weights = {"w": floats(8, 8, 1, 1), **weights}
    whole = [node("Conv", ["x", "w"], ["c"], "first"), *nodes, node("Conv", ["z", "w"], ["y"], "last")]
    wiring = wired(build, whole, (1, 8, 4, 4), weights)
    return [each.name for each in find_carriers(wiring, find_layers(wiring)[0].values())]


def test_what_moves_or_adds_between_layers_is_carried(build: Build) -> None:
    nodes = [
        node("Relu", ["c"], ["r"], "relu"),
        node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2]),
        node("Resize", ["p", "", "", "size"], ["u"], "up", mode="nearest"),
        node("Add", ["u", "c"], ["s"], "sum"),
        node("Relu", ["s"], ["z"], "relu2"),
    ]
    assert carriers(build, nodes, {"size": np.array([1, 8, 4, 4])}) == ["pool", "up", "sum"]


@pytest.mark.parametrize(
    "middle",
    [
        [node("Sigmoid", ["c"], ["z"], "sigmoid")],
        [node("Softmax", ["c"], ["z"], "softmax")],
        [node("Add", ["c", "grid"], ["z"], "grid")],
        [node("Resize", ["c", "", "", "size"], ["z"], "linear", mode="linear")],
        [node("MaxPool", ["c"], ["z", "indices"], "pool", kernel_shape=[1, 1])],
        [node("Exp", ["c"], ["e"], "exp"), node("Add", ["c", "e"], ["z"], "sum")],
        [node("Clip", ["c", "low", "high"], ["k"], "clip"), node("Identity", ["k"], ["z"], "move")],
    ],
    ids=lambda nodes: nodes[-1].name,
)
def test_what_changes_values_is_not_carried(build: Build, middle: list[Any]) -> None:
    weights = {"grid": floats(4), "size": np.array([1, 8, 4, 4]), "low": np.float32(-1), "high": np.float32(1)}
    assert carriers(build, middle, weights) == []


def test_what_leads_nowhere_in_int8_is_not_carried(build: Build) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], "conv"),
        node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2]),
        node("Exp", ["p"], ["y"], "decode"),
    ]
    wiring = wired(build, nodes, (1, 8, 4, 4), {"w": floats(8, 8, 1, 1)})
    assert find_carriers(wiring, find_layers(wiring)[0].values()) == ()


def test_a_result_settles_behind_the_activation_that_is_fused(build: Build) -> None:
    nodes = [
        node("Relu", ["x"], ["a"], "relu"),
        node("Clip", ["a", "zero", "six"], ["b"], "relu6"),
        node("Clip", ["b", "six", "six"], ["c"], "odd"),
        node("Identity", ["c"], ["y"], "end"),
    ]
    wiring = wired(build, nodes, (2,), {"zero": np.float32(0), "six": np.float32(6)})
    assert [settled(name, wiring) for name in "xabcy"] == ["a", "b", "b", "c", "y"]
    assert data_inputs(nodes[1], wiring) == ["a"]


# --- wiring, weights and the spec


def test_wiring_knows_who_makes_and_who_reads(build: Build) -> None:
    inner = helper.make_graph([node("Add", ["a", "a"], ["i"])], "inner", [], [helper.make_empty_tensor_value_info("i")])
    nodes = [
        node("Relu", ["x"], ["a"], "relu"),
        node("Mul", ["a", "a"], ["y"], "square"),
        node("If", ["flag"], ["z"], "if", then_branch=inner, else_branch=inner),
    ]
    model = build(nodes, {"x": ("n", 2), "flag": ("BOOL",)}, {"y": ("n", 2), "z": None}, {"w": floats(3, 1)})
    wiring = Wiring(model)
    assert wiring.producers["a"].name == "relu"
    assert [each.name for each in wiring.consumers["a"]] == ["square", "if"]
    assert wiring.only_consumer("a") is None and wiring.only_consumer("y") is None
    assert wiring.only_consumer("x").name == "relu"
    assert wiring.shapes["x"] == ("n", 2) and wiring.shapes["w"] == (3, 1)
    assert attribute(nodes[2], "nothing", 7) == 7
    copy = copy_of(model)
    replace_weight(copy, "w", floats(3, 1) + 1)
    assert np.array_equal(Wiring(copy).weight("w"), floats(3, 1) + 1)
    assert np.array_equal(numpy_helper.to_array(model.graph.initializer[0]), floats(3, 1))


def test_weights_round_to_a_narrow_symmetric_range() -> None:
    values = np.array([[-2.0, 0.5, 2.0], [0.1, 0.05, -0.4]], np.float32)
    integers, scales = quantize_weight(values, WeightQuant(0, (1.0, 0.4)))
    assert integers.dtype == np.int8 and integers.tolist() == [[-127, 64, 127], [32, 16, -127]]
    assert scales.shape == (2, 1) and scales[1, 0] == pytest.approx(0.4 / 127)
    assert weight_scales(WeightQuant(None, (2.0,)), 4).shape == ()
    assert weight_scales(WeightQuant(1, (1.0, 2.0, 3.0)), 3).shape == (1, 3, 1)
    assert np.abs(quantize_weight(values, WeightQuant(None, (0.1,), bits=4))[0]).max() == 7


def test_a_spec_reads_back_equal_and_refuses_nonsense() -> None:
    spec = QuantSpec(
        ("conv",),
        ("add",),
        {"x": ActivationQuant(-1.0, 2.5, "mse")},
        {"w": WeightQuant(0, (0.5, 1.5))},
        {"head": "kept"},
        "0" * 64,
        8,
        divisors={"x": (1.0, 2.0)},
        steps=("observe:mse",),
    )
    assert QuantSpec.from_json(spec.to_json()) == spec
    assert spec.activations["x"].signed and not ActivationQuant(0.0, 1.0, "mse").signed
    for low, high in ((1.0, 2.0), (-2.0, -1.0), (0.0, 0.0)):
        with pytest.raises(ValueError, match="spans zero"):
            ActivationQuant(low, high, "mse")
    for clip in ((), (0.0,), (1.0, -1.0)):
        with pytest.raises(ValueError, match="positive"):
            WeightQuant(0, clip)
