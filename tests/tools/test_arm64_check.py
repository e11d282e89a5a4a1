"""The Arm check: small int8 nets say the same here, on an emulated core and in integers; a wrong one is found out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import ModelProto, TensorProto, helper, numpy_helper  # noqa: E402

from edgekit.errors import GateError, InputError, MissingError, UsageError  # noqa: E402

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[Any]:
    """The package `arm64_check`, with its modules as attributes."""
    sys.path.insert(0, str(TOOLS))
    try:
        import arm64_check.__main__
        import arm64_check.cache
        import arm64_check.places
        import arm64_check.report
        import arm64_check.subjects

        yield arm64_check
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def emulator(tool: Any) -> Any:
    """The emulator in the cache; the test skips, and says why, where it is not there."""
    try:
        return tool.cache.find(tool.cache.default_folder())
    except MissingError as error:
        pytest.skip(f"{error.what}: {error.fix}")


class Net:
    """Writes a QDQ model by hand: uint8 activations with a zero point, int8 weights, int32 bias."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(7)

    def quantized(self, tensor: str, scale: float, zero: int) -> str:
        self.weights |= {f"{tensor}_s": np.float32(scale), f"{tensor}_z": np.uint8(zero)}
        scheme = [f"{tensor}_s", f"{tensor}_z"]
        self.nodes.append(helper.make_node("QuantizeLinear", [tensor, *scheme], [f"{tensor}_q"]))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}_q", *scheme], [f"{tensor}_d"]))
        return f"{tensor}_d"

    def weight(self, name: str, shape: tuple[int, ...], x_scale: float, axis: int | None = 0) -> tuple[str, str]:
        """Weights and bias, a scale per entry of `axis`; int8 bits to the full range."""
        outputs = shape[0] if axis is None else shape[axis]
        scales = self.random.uniform(0.002, 0.02, () if axis is None else outputs).astype(np.float32)
        self.weights |= {
            name: self.random.integers(-127, 128, shape, np.int8),
            f"{name}_s": scales,
            f"{name}_z": np.zeros(scales.shape, np.int8),
            f"{name}_b": self.random.integers(-3000, 3000, outputs, np.int32),
            f"{name}_bs": np.float32(x_scale) * scales,
            f"{name}_bz": np.zeros(scales.shape, np.int32),
        }
        inputs = [name, f"{name}_s", f"{name}_z"]
        axis_of = {} if axis is None else {"axis": axis}
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_d"], **axis_of))
        bias = [f"{name}_b", f"{name}_bs", f"{name}_bz"]
        self.nodes.append(
            helper.make_node("DequantizeLinear", bias, [f"{name}_bd"], **({} if axis is None else {"axis": 0}))
        )
        return f"{name}_d", f"{name}_bd"

    def then(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def model(self, inputs: dict[str, tuple[int, ...]], outputs: list[str]) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def conv_net() -> ModelProto:
    """Conv and Relu, depthwise, pointwise, and a sum around it, all between Q and DQ."""
    net = Net()
    x = net.quantized("x", 0.02, 120)
    a = net.then("Conv", [x, *net.weight("w0", (16, 3, 3, 3), 0.02)], "a0", strides=[2, 2], pads=[1, 1, 1, 1])
    a = net.quantized(net.then("Relu", [a], "a"), 0.03, 0)
    b = net.then("Conv", [a, *net.weight("w1", (16, 1, 3, 3), 0.03)], "b", group=16, pads=[1, 1, 1, 1])
    b = net.quantized(b, 0.02, 131)
    c = net.quantized(net.then("Conv", [b, *net.weight("w2", (16, 16, 1, 1), 0.02)], "c"), 0.04, 125)
    net.quantized(net.then("Add", [a, c], "y"), 0.06, 90)
    return net.model({"x": (2, 3, 24, 24)}, ["y_d"])


def gemm_net() -> ModelProto:
    """Gemm with quantized output, Gemm and MatMul with float outputs."""
    net = Net()
    x = net.quantized("x", 0.03, 110)
    w, b = net.weight("w0", (24, 40), 0.03)
    a = net.quantized(net.then("Gemm", [x, w, b], "a", transB=1), 0.05, 128)
    w, b = net.weight("w1", (24, 10), 0.05, None)
    net.weights["w1_b"] = net.weights["w1_b"][:10]
    net.then("Gemm", [a, w, b], "y")
    w, _ = net.weight("w2", (24, 12), 0.05, 1)
    net.then("MatMul", [a, w], "z")
    return net.model({"x": (5, 40)}, ["y", "z"])


def transformer_net() -> ModelProto:
    """An encoder's parts: normalized rows into a Gemm, softmax of float products, Gelu into a Gemm, a residual sum."""
    net = Net()
    net.weights |= {"gain": net.random.uniform(0.5, 1.5, 24).astype(np.float32), "shift": np.zeros(24, np.float32)}
    norm = net.then("LayerNormalization", ["x", "gain", "shift"], "n", axis=-1, epsilon=1e-6)
    n = net.quantized(norm, 0.03, 128)
    a = net.then("Gemm", [n, *net.weight("w0", (24, 24), 0.03)], "a", transB=1)
    net.weights["small"] = np.float32(1e-3)  # so that Softmax weighs several rows
    scores = net.then("MatMul", [a, net.then("Transpose", [a], "t", perm=[1, 0])], "products")
    scores = net.then("Mul", [scores, "small"], "scores")
    mixed = net.then("MatMul", [net.then("Softmax", [scores], "p", axis=-1), a], "mixed")
    e = net.quantized(net.then("Gelu", [mixed], "e"), 0.04, 10)
    net.then("Add", ["x", net.then("Gemm", [e, *net.weight("w1", (24, 24), 0.04)], "f", transB=1)], "y")
    return net.model({"x": (7, 24)}, ["y"])


NETS = {
    "conv": (conv_net, {"QLinearConv": 3}, ["x_q", "a_q", "b_q", "c_q", "y_q", "y_d"]),
    "gemm": (gemm_net, {"QGemm": 2, "MatMulIntegerToFloat": 1}, ["x_q", "a_q", "y", "z"]),
    "transformer": (transformer_net, {"QGemm": 2, "Gelu": 1, "Softmax": 1}, ["n_q", "e_q", "y"]),
}


@pytest.mark.parametrize("net", NETS)
def test_this_machine_an_emulated_core_and_the_integers_agree(
    tool: Any, emulator: Any, tmp_path: Path, net: str
) -> None:
    places = [tool.places.native("onnxruntime"), tool.places.emulated(emulator, "cortex-a76")]
    here, arm = (_checked(tool, tmp_path, place, net) for place in places)
    assert (here.ran.machine, arm.ran.machine) == ("x86_64", "aarch64")


@pytest.mark.parametrize("net", NETS)
def test_this_machine_and_the_integers_agree(tool: Any, tmp_path: Path, net: str) -> None:
    _checked(tool, tmp_path, tool.places.native("onnxruntime"), net)


@pytest.mark.parametrize("net", ["gemm", "transformer"])
def test_openvino_and_the_integers_agree(
    tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], net: str
) -> None:
    pytest.importorskip("openvino")
    path = _saved(NETS[net][0](), tmp_path)
    assert tool.__main__.main([str(path), "--openvino", "--offline", "--cache", str(tmp_path / "none")]) == 4
    assert capsys.readouterr().out.count("within 1 step(s)") == 2  # here, in both runtimes; Arm was skipped


def _checked(tool: Any, folder: Path, place: Any, net: str) -> Any:
    """Runs a net at a place: integer kernels took part, and no tensor is further than one step away."""
    build, kernels, tensors = NETS[net]
    (subject,) = tool.subjects.open_subjects(_saved(build(), folder), None, 3)
    ran = tool.places.run(place, subject.model.SerializeToString(), subject.samples, {}, 300)
    traced = tool.places.run(place, subject.traced(), subject.samples, {}, 300)
    assert {name: ran.operators.get(name) for name in kernels} == kernels
    comparison = tool.report.compare(subject, ran, traced)
    assert list(comparison.layers) == tensors
    assert comparison.beyond(1) == []
    assert comparison.disturbed == 0
    return comparison


@pytest.mark.parametrize("options", [[], ["--layers"]])
def test_a_model_that_computes_something_else_fails(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """A runtime that is off by two steps in one place: its run is made of another zero point."""
    true = tool.places.run

    def wrong(place: Any, model: bytes, *rest: Any) -> Any:
        changed = onnx.load_from_string(model)
        for each in changed.graph.initializer:
            if each.name == "c_z":
                each.CopyFrom(numpy_helper.from_array(np.uint8(127), "c_z"))
        del changed.graph.node[next(i for i, node in enumerate(changed.graph.node) if node.output[0] == "c_d")]
        dequantize = helper.make_node("DequantizeLinear", ["c_q", "c_s", "c_true"], ["c_d"])
        changed.graph.node.insert(
            next(i for i, node in enumerate(changed.graph.node) if "c_d" in node.input), dequantize
        )
        changed.graph.initializer.append(numpy_helper.from_array(np.uint8(125), "c_true"))
        return true(place, changed.SerializeToString(), *rest)

    monkeypatch.setattr(tool.__main__, "run", wrong)
    path = _saved(conv_net(), tmp_path)
    arguments = [str(path), "--offline", "--cache", str(tmp_path), *options]
    assert tool.__main__.main(arguments) == 3
    said = capsys.readouterr().out
    assert "FAILED  x86_64" in said and "1 tensor(s) beyond 1 step(s)" in said
    layers = [line.split() for line in said[said.index("layer by layer") :].splitlines()]
    assert next(line for line in layers if line[0] == "c_q")[2] == "2"
    assert any(line[0] == "b_q" for line in layers) == bool(options)


def test_without_the_emulator_it_says_so_and_checks_what_it_can(
    tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _saved(gemm_net(), tmp_path)
    assert tool.__main__.main([str(path), "--offline", "--cache", str(tmp_path / "none")]) == 4
    said = capsys.readouterr().out
    assert "ok      x86_64, onnxruntime" in said
    assert "skipped: aarch64: the Arm emulator is not in the cache" in said


def test_a_machine_without_debians_packages_says_what_is_missing(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool.__main__.main(["--prepare", "--cache", str(tmp_path / "none")]) == 4
    assert "skipped: aarch64: the Arm emulator cannot be fetched; apt-get is not installed" in capsys.readouterr().out


def test_an_emulator_that_was_not_finished_is_none(tool: Any, tmp_path: Path) -> None:
    tool.cache._folder(tmp_path).mkdir(parents=True)
    with pytest.raises(MissingError, match="not in the cache"):
        tool.cache.find(tmp_path)


@pytest.mark.parametrize("cpu", ["max", "neoverse-v1", ""])
def test_no_core_but_one_like_a_boards(tool: Any, tmp_path: Path, cpu: str) -> None:
    with pytest.raises(UsageError, match="no such core"):
        tool.places.emulated(tool.cache.Emulator(tmp_path), cpu)


def test_a_model_that_a_runtime_refuses_fails(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = conv_net()
    model.graph.node[-1].op_type = "Frobnicate"
    with pytest.raises(GateError, match="does not run") as caught:
        tool.places.run(tool.places.native("onnxruntime"), model.SerializeToString(), [], {}, 300)
    assert "Frobnicate" in str(caught.value)


def test_drawn_inputs_fill_the_range_that_the_model_quantizes_to(tool: Any, tmp_path: Path) -> None:
    (subject,) = tool.subjects.open_subjects(_saved(conv_net(), tmp_path), None, 0)
    x = subject.samples[0]["x"]
    assert x.dtype == np.float32 and x.shape == (2, 3, 24, 24)
    assert -2.4 <= x.min() < -2.3 and 2.6 < x.max() <= 2.7  # 0.02 * (0 - 120) and 0.02 * (255 - 120)


@pytest.mark.parametrize("case", ["missing", "garbage", "a bundle for another runtime"])
def test_what_is_no_model_is_unusable(tool: Any, request: Any, tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.onnx"
    if case == "garbage":
        path.write_bytes(b"\xff not a model")
    elif case != "missing":
        path = request.getfixturevalue("femtodet_bundles")["intel-n100"]
    with pytest.raises(InputError):
        tool.subjects.open_subjects(path, None, 0)


def test_a_bundles_self_test_is_its_input(tool: Any, femtodet_bundles: dict[str, Path]) -> None:
    (subject,) = tool.subjects.open_subjects(femtodet_bundles["snapdragon-865"], None, 0)
    assert subject.samples and {"image"} == set(subject.samples[0])
    assert subject.inputs == "of the bundle's self-test"


def _saved(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path
