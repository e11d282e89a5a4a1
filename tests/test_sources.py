"""Every source becomes a parent that runs, or is refused: by name, by shape, or because it executes code."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from edgekit.compress import Recipe  # noqa: E402
from edgekit.errors import InputError, UnsupportedError, UsageError  # noqa: E402
from edgekit.evaluate.parity import compare  # noqa: E402
from edgekit.graph.graph import Graph, tensor_specs  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND  # noqa: E402
from edgekit.sources import Parent, TorchParent, flat_tensors, open_source  # noqa: E402
from edgekit.spec import TensorSpec  # noqa: E402

MODULE = """
import torch
from torch import nn

marker = open("imported", "w").close()

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.scale = nn.Embedding(5, 4)

    def forward(self, image, kind):
        maps = self.conv(image) * self.scale(kind)[:, :, None, None]
        return {"maps": maps, "mean": maps.mean((2, 3))}

def pair():
    return Pair(), (torch.randn(1, 3, 8, 8), torch.tensor([4]))

def single():
    return nn.Linear(3, 2), torch.randn(4, 3)

class Star(nn.Module):
    def forward(self, *images):
        return images[0]

def star():
    return Star(), (torch.zeros(1),)

def text():
    return "a model"

def no_inputs():
    return nn.Linear(3, 2), ()

def not_tensors():
    return nn.Linear(3, 2), [1.0]

def none():
    return nn.Linear(3, 2), None

def returns_text():
    class Talk(nn.Module):
        def forward(self, x):
            return "hello"
    return Talk(), torch.zeros(1, 3)

constant = 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of the user's, forgotten again after the test."""
    (tmp_path / "mine_for_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("mine_for_test", None)


class Mixer(nn.Module):
    """Two inputs and a batch that may vary."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(left + right), left


def saved_program(path: Path, *, symbolic: bool = True) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    module = Mixer().eval()
    shapes = ({0: torch.export.Dim("n")},) * 2 if symbolic else None
    program = torch.export.export(module, (torch.randn(2, 3), torch.randn(2, 3)), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path, module


def same_as_parent(parent: Parent, graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    got = BACKEND.open(EngineRequest(graph.serialized(), threads=1)).run(feeds)
    for gap in compare(parent.run(feeds), got):
        assert gap.within(1e-5), gap.describe()


# --- what executes code -----------------------------------------------------------------------------------------------


def test_a_function_is_refused_without_trust_and_nothing_is_imported(project: Path) -> None:
    with pytest.raises(UsageError, match="executes code") as caught:
        open_source("mine_for_test:pair")
    assert "imports a module and calls it" in str(caught.value.why) and "--trust-code" in str(caught.value.fix)
    assert not (project / "imported").exists() and "mine_for_test" not in sys.modules


def test_a_program_is_refused_without_trust_and_the_reason_is_told(tmp_path: Path) -> None:
    path, _ = saved_program(tmp_path / "net.pt2")
    with pytest.raises(UsageError, match="executes code") as caught:
        open_source(str(path))
    assert "unpickles" in str(caught.value.why) and "--trust-code" in str(caught.value.fix)


def test_a_trusted_function_becomes_a_parent_whose_graph_agrees(project: Path) -> None:
    shapes: dict[str, tuple[int | str, ...]] = {"image": ("batch", 3, 8, 8), "kind": ("batch",)}
    parent = open_source("mine_for_test:pair", shapes=shapes, trust_code=True)
    assert parent.spec.name == "pair" and parent.source.kind == "module"
    assert parent.source.parameters == 3 * 4 * 9 + 4 + 8 + 20
    assert parent.spec.inputs == (
        TensorSpec("image", "float32", ("batch", 3, 8, 8)),
        TensorSpec("kind", "int64", ("batch",)),
    )
    assert [tensor.shape for tensor in parent.spec.outputs] == [("batch", 4, 8, 8), ("batch", 4)]
    graph, history = parent.to_graph(parent.spec, None, 20, 10)
    assert [step.step for step in history] == ["fuse", "rewrite"]
    assert not any(node.op_type == "BatchNormalization" for node in graph.model.graph.node)
    random = np.random.default_rng(0)
    for batch in (1, 3):
        image = random.standard_normal((batch, 3, 8, 8)).astype(np.float32)
        same_as_parent(parent, graph, {"image": image, "kind": random.integers(0, 5, batch)})
    assert {origin.file for origin in graph.origins.values()} == {"mine_for_test.py"}


def test_a_function_without_shapes_keeps_its_own_example(project: Path) -> None:
    parent = open_source("mine_for_test:pair", trust_code=True, name="mine")
    assert isinstance(parent, TorchParent)
    assert parent.spec.name == "mine" and parent.spec.inputs[1] == TensorSpec("kind", "int64", (1,))
    assert parent.example[1].tolist() == [4]


def test_a_single_tensor_is_an_example_as_well(project: Path) -> None:
    parent = open_source("mine_for_test:single", trust_code=True)
    assert [tensor.shape for tensor in (*parent.spec.inputs, *parent.spec.outputs)] == [(4, 3), (4, 2)]
    assert parent.spec.outputs[0].name == "output"


def test_the_hash_of_a_function_follows_its_weights(project: Path) -> None:
    first, second = (open_source("mine_for_test:pair", trust_code=True) for _ in range(2))
    assert first.source.sha256 == second.source.sha256
    torch.manual_seed(5)
    other = open_source("mine_for_test:single", trust_code=True)
    torch.manual_seed(6)
    assert other.source.sha256 != open_source("mine_for_test:single", trust_code=True).source.sha256


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("text", "does not return"),
        ("no_inputs", "example inputs are not tensors"),
        ("not_tensors", "example inputs are not tensors"),
        ("none", "example inputs are not tensors"),
        ("star", "example inputs are not tensors"),
        ("returns_text", "the model returns str"),
    ],
)
def test_a_function_that_gives_no_model_is_refused(project: Path, name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        open_source(f"mine_for_test:{name}", trust_code=True)


@pytest.mark.parametrize(
    "text", ["mine_for_test:nothing", "mine_for_test:constant", "no_such_module_here:pair", "mine_for_test.sub:pair"]
)
def test_a_function_that_does_not_exist_is_refused(project: Path, text: str) -> None:
    before = list(sys.path)
    with pytest.raises(UsageError, match=r"cannot find|importing mine_for_test\.sub failed"):
        open_source(text, trust_code=True)
    assert sys.path == before


def test_shapes_that_name_no_input_are_refused(project: Path) -> None:
    with pytest.raises(UsageError, match="no input 'img'") as caught:
        open_source("mine_for_test:pair", shapes={"img": (1, 3, 8, 8)}, trust_code=True)
    assert "image, kind" in str(caught.value.fix)


def test_a_trusted_program_keeps_its_symbolic_batch(tmp_path: Path) -> None:
    path, module = saved_program(tmp_path / "net.pt2")
    parent = open_source(str(path), trust_code=True)
    assert parent.source.kind == "pt2" and parent.source.parameters == 8
    assert parent.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    names = {tensor.shape[0] for tensor in (*parent.spec.inputs, *parent.spec.outputs)}
    assert len(names) == 1 and isinstance(names.pop(), str)
    assert [tensor.name for tensor in parent.spec.inputs] == ["left", "right"]
    graph, history = parent.to_graph(parent.spec, None, 20, 10)
    assert history == ()
    assert tensor_specs(list(graph.model.graph.input)) == parent.spec.inputs
    random = np.random.default_rng(0)
    for batch in (1, 2, 7):
        feeds = {name: random.standard_normal((batch, 3)).astype(np.float32) for name in ("left", "right")}
        same_as_parent(parent, graph, feeds)
        with torch.no_grad():
            wanted = module(*(torch.from_numpy(feed) for feed in feeds.values()))[0].numpy()
        assert np.allclose(parent.run(feeds)["output_0"], wanted, atol=1e-6)


def test_a_program_of_fixed_shapes_stays_fixed(tmp_path: Path) -> None:
    path, _ = saved_program(tmp_path / "net.pt2", symbolic=False)
    parent = open_source(str(path), trust_code=True)
    assert {tensor.shape for tensor in parent.spec.inputs} == {(2, 3)}


def test_a_program_takes_no_recipe_and_no_shapes(tmp_path: Path) -> None:
    path, _ = saved_program(tmp_path / "net.pt2")
    parent = open_source(str(path), trust_code=True)
    with pytest.raises(UsageError, match="takes no recipe"):
        parent.to_graph(parent.spec, Recipe.parse(["fuse"]), 20, 10)
    with pytest.raises(UsageError, match="takes no shapes"):
        open_source(str(path), trust_code=True, shapes={"left": (5, 3)})


@pytest.mark.parametrize("content", [b"", b"not a program", b"PK\x03\x04 torn", b"\x80\x02}."])
def test_a_file_that_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable exported program"):
        open_source(str(path), trust_code=True)


def test_a_truncated_program_is_refused(tmp_path: Path) -> None:
    path, _ = saved_program(tmp_path / "net.pt2")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable exported program"):
        open_source(str(path), trust_code=True)


def test_a_missing_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path / "net.pt2"), trust_code=True)


# --- what is data -----------------------------------------------------------------------------------------------------


def test_the_shipped_model_is_opened_by_its_name() -> None:
    parent = open_source("femtodet", name="cells")
    assert parent.spec.name == "cells" and parent.spec.labels == ("RBC", "WBC", "Platelets")
    assert parent.source.kind == "builtin" and parent.source.parameters == 67_669
    image = np.zeros((2, 3, 416, 416), np.float32)
    assert parent.run({"image": image})["head"].shape == (2, 8, 26, 26)
    assert parent.reference_name() == f"torch {torch.__version__}"


def test_a_folder_of_ours_in_hugging_face_layout_becomes_a_parent(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from edgekit.models.femtodet import FemtoDet, FemtoDetConfig

    network = FemtoDet(FemtoDetConfig(2)).eval()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "femtodet", "labels": ["a", "b"], "size": 64}))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    parent = open_source(str(tmp_path))
    assert parent.source.kind == "huggingface" and parent.source.origin == tmp_path.name
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        assert np.array_equal(parent.run({"image": image})["head"], network(torch.from_numpy(image)).numpy())
    with pytest.raises(UsageError, match="takes no shapes"):
        open_source(str(tmp_path), shapes={"image": (1, 3, 96, 96)})


def test_a_folder_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="'bert' is not one that edgekit can build"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("text", ["femtodett", "bert-base", "model.tflite", "nowhere/model"])
def test_an_unknown_name_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match="no model") as caught:
        open_source(text)
    assert "femtodet" in str(caught.value.fix)


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    """An ONNX file of opset 11 with an open batch."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "relu.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_onnx_file_is_its_own_reference(relu: Path) -> None:
    parent = open_source(str(relu))
    assert parent.spec.name == "relu" and parent.spec.inputs[0].shape == ("x_0", 3)
    assert parent.source.sha256 == hashlib.sha256(relu.read_bytes()).hexdigest()
    assert parent.reference_name().startswith("the original file in onnxruntime ")
    feeds = {"x": np.float32([[-1, 0, 2]])}
    assert parent.run(feeds)["y"].tolist() == parent.run(feeds)["y"].tolist() == [[0, 0, 2]]
    graph, _ = parent.to_graph(parent.spec, None, 20, 10)
    assert graph.opset == 20 and tensor_specs(list(graph.model.graph.input)) == parent.spec.inputs
    with pytest.raises(UsageError, match="takes no recipe"):
        parent.to_graph(parent.spec, Recipe.parse(["fuse"]), 20, 10)


def test_open_dimensions_of_an_onnx_file_can_be_fixed(relu: Path) -> None:
    parent = open_source(str(relu), shapes={"x": (2, 3)})
    graph, _ = parent.to_graph(parent.spec, None, 20, 10)
    assert tensor_specs(list(graph.model.graph.input)) == (TensorSpec("x", "float32", (2, 3)),)
    assert tensor_specs(list(graph.model.graph.output))[0].shape == (2, 3)


@pytest.mark.parametrize(("shapes", "told"), [({"z": (1, 3)}, "no input 'z'"), ({"x": (1, 3, 4)}, "another rank")])
def test_shapes_that_do_not_fit_an_onnx_file_are_refused(
    relu: Path, shapes: dict[str, tuple[int | str, ...]], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        open_source(str(relu), shapes=shapes)


def test_nested_outputs_are_flattened_in_order() -> None:
    a, b, c = (torch.tensor(i) for i in range(3))
    assert [int(tensor) for tensor in flat_tensors({"x": [a, (b,)], "y": c})] == [0, 1, 2]
