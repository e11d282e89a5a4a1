"""ONNX files of others: what can be served is made canonical and computes the same, the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, TensorProto, helper  # noqa: E402

from edgekit.errors import InputError, UnsupportedError  # noqa: E402
from edgekit.evaluate.parity import compare  # noqa: E402
from edgekit.graph.from_onnx import import_onnx, infer_spec, read_onnx, with_input_shapes  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.spec import TensorSpec  # noqa: E402

Build = Callable[..., ModelProto]
FOREIGN = ["FastestDet.onnx", "yunet_n_320_320.onnx"]


def relu(build: Build, **options: Any) -> ModelProto:
    return build([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 3)}, {"y": (1, 3)}, **options)


def written(path: Path, model: ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_foreign_model_is_upgraded_and_computes_what_the_original_does(
    data_folder: Path, name: str, runtime: str
) -> None:
    pytest.importorskip(runtime)
    import onnxruntime

    from edgekit.runtimes.session import backend_named

    path = data_folder / "onnx" / name
    original = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    graph = import_onnx(read_onnx(path), 20, 10)
    assert (graph.opset, graph.model.ir_version) == (20, 10)
    spec = infer_spec(graph.model, name)
    outputs = tuple(tensor.name for tensor in spec.outputs)
    settings = {"INFERENCE_PRECISION_HINT": "f32"} if runtime == "openvino" else {}
    engine = backend_named(runtime).open(
        EngineRequest(graph.serialized(), settings=settings, threads=1, outputs=outputs)
    )
    random = np.random.default_rng(0)
    shape = [int(size) for size in spec.inputs[0].shape]
    for feed in (random.uniform(0, 1, shape), random.uniform(0, 255, shape)):
        feeds = {spec.inputs[0].name: feed.astype(np.float32)}
        wanted = dict(zip(outputs, original.run(list(outputs), feeds), strict=True))
        for gap in compare(wanted, engine.run(feeds)):
            assert gap.within(1e-4), f"{gap.tensor}: {gap.describe()}"


def test_weights_listed_as_inputs_are_dropped_from_them(build: Build, run: Any) -> None:
    model = build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        {"x": (1, 3), "w": (3,)},
        {"y": (1, 3)},
        {"w": np.float32([1, 2, 3])},
        opset=9,
        ir=3,
    )
    assert [tensor.name for tensor in infer_spec(model, "m").inputs] == ["x"]
    graph = import_onnx(model, 20, 10)
    assert [value.name for value in graph.model.graph.input] == ["x"]
    assert run(graph.model, x=np.zeros((1, 3), np.float32))["y"].tolist() == [[1, 2, 3]]


def test_an_import_does_not_change_the_model_that_was_read(build: Build) -> None:
    model = relu(build, opset=11, ir=6)
    before = model.SerializeToString()
    import_onnx(model, 20, 10)
    with_input_shapes(model, (TensorSpec("x", "float32", (4, 3)),))
    assert model.SerializeToString() == before


def test_constants_that_the_conversion_adds_become_initializers(build: Build, run: Any) -> None:
    squeeze = helper.make_node("Squeeze", ["x"], ["y"], axes=[0])  # opset 13 turned the attribute into an input
    graph = import_onnx(build([squeeze], {"x": (1, 3)}, {"y": (3,)}, opset=11, ir=6), 20, 10)
    assert [node.op_type for node in graph.model.graph.node] == ["Squeeze"]
    assert run(graph.model, x=np.float32([[1, 2, 3]]))["y"].tolist() == [1, 2, 3]


def test_an_opset_that_cannot_be_reached_is_refused(build: Build) -> None:
    gelu = build([helper.make_node("Gelu", ["x"], ["y"])], {"x": (1, 3)}, {"y": (1, 3)}, opset=20)
    with pytest.raises(UnsupportedError, match="cannot be converted from opset 20 to 18"):
        import_onnx(gelu, 18, 8)


def test_a_graph_that_contradicts_itself_is_refused(build: Build) -> None:
    model = build([helper.make_node("MatMul", ["x", "x"], ["y"])], {"x": (2, 3)}, {"y": (2, 3)})
    with pytest.raises(InputError, match="contradict"):
        import_onnx(model, 20, 10)


@pytest.mark.parametrize("content", [b"", b"\x00", b"not onnx at all\n", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_onnx(path)
    assert caught.value.where == str(path) and caught.value.exit_code == 2


def test_a_file_truncated_anywhere_is_refused(tmp_path: Path, build: Build) -> None:
    whole = relu(build, weights={"w": np.ones((64, 64), np.float32)}).SerializeToString()
    assert read_onnx(written(tmp_path / "whole.onnx", relu(build))).graph.node
    path = tmp_path / "torn.onnx"
    for keep in [*range(0, len(whole), 499), *range(len(whole) - 20, len(whole))]:
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError):
            read_onnx(path)


@pytest.mark.parametrize("make", [lambda p: p, lambda p: p.mkdir()])
def test_a_path_without_a_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="no such file"):
        read_onnx(tmp_path / "model.onnx")


def test_missing_external_weights_are_refused(tmp_path: Path, build: Build) -> None:
    model = build(
        [helper.make_node("Add", ["x", "w"], ["y"])], {"x": (1, 3)}, {"y": (1, 3)}, {"w": np.ones(3, np.float32)}
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="model.data", size_threshold=0)
    assert read_onnx(path).graph.initializer[0].raw_data
    (tmp_path / "model.data").unlink()
    with pytest.raises(InputError, match="not a readable ONNX file"):
        read_onnx(path)


def test_an_operator_outside_the_standard_is_refused_by_name(tmp_path: Path, build: Build) -> None:
    model = build(
        [helper.make_node("FusedConv", ["x"], ["y"], "odd", domain="com.vendor")], {"x": (1, 3)}, {"y": (1, 3)}
    )
    model.opset_import.append(helper.make_opsetid("com.vendor", 1))
    with pytest.raises(UnsupportedError, match=r"com\.vendor\.FusedConv is not part of ONNX") as caught:
        read_onnx(written(tmp_path / "m.onnx", model))
    assert "node odd" in str(caught.value.where)


def test_an_operator_outside_the_standard_is_refused_inside_a_branch_too(tmp_path: Path, build: Build) -> None:
    def branch(name: str, domain: str) -> Any:
        node = helper.make_node("Relu", ["x"], [name], domain=domain)
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3])])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("t", ""), else_branch=branch("e", "com.vendor"))
    model = build([node], {"c": ("BOOL",), "x": (1, 3)}, {"y": (1, 3)})
    model.opset_import.append(helper.make_opsetid("com.vendor", 1))
    with pytest.raises(UnsupportedError, match=r"com\.vendor\.Relu"):
        read_onnx(written(tmp_path / "m.onnx", model))


@pytest.mark.parametrize("domain", [None, "ai.onnx.ml"])
def test_a_model_without_the_default_operator_set_is_refused(tmp_path: Path, build: Build, domain: str | None) -> None:
    model = relu(build)
    del model.opset_import[:]
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 3))
    with pytest.raises(InputError, match="not an ONNX model"):
        read_onnx(written(tmp_path / "m.onnx", model))


def test_a_spec_of_tensors_is_read_from_the_graph(build: Build) -> None:
    model = build(
        [helper.make_node("Cast", ["n"], ["f"], to=1), helper.make_node("Mul", ["x", "f"], ["y"])],
        {"x": ("batch", 3, None), "n": ("INT64",)},
        {"y": None},
    )
    spec = infer_spec(model, "mine")
    assert spec.task == "tensor" and spec.name == "mine"
    assert spec.inputs == (TensorSpec("x", "float32", ("batch", 3, "x_2")), TensorSpec("n", "int64", ()))
    assert len(spec.outputs[0].shape) == 3  # found by inference, the file does not say


def test_an_input_of_unknown_rank_is_refused(build: Build) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], {"x": None}, {"y": None})
    with pytest.raises(InputError, match="'x' has no dtype or shape"):
        infer_spec(model, "mine")


def test_open_dimensions_can_be_fixed_or_named(build: Build) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], {"x": ("n", 3, None)}, {"y": ("n", 3, None)})
    shaped = with_input_shapes(model, (TensorSpec("x", "float32", (4, 3, "width")),))
    spec = infer_spec(import_onnx(shaped, 20, 10).model, "m")
    assert spec.inputs[0].shape == (4, 3, "width")
    assert spec.outputs[0].shape[0] == 4
