"""Torch's export is pinned and read back, keeps symbolic dimensions, and computes what torch does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from torch import Tensor, nn  # noqa: E402

from edgekit.errors import UnsupportedError, UsageError  # noqa: E402
from edgekit.evaluate.parity import compare  # noqa: E402
from edgekit.graph.from_torch import export_torch  # noqa: E402
from edgekit.graph.graph import Graph, dtype_name, tensor_specs, with_all_outputs  # noqa: E402
from edgekit.graph.passes import canonical_passes  # noqa: E402
from edgekit.processing.preprocess import prepare  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND  # noqa: E402
from edgekit.smear import draw_smear  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
Shipped = tuple[nn.Module, ModelSpec]


def spec_of(shape: tuple[int | str, ...], outputs: int = 1) -> ModelSpec:
    names = tuple(TensorSpec(f"y{i}", "float32", shape) for i in range(outputs))
    return ModelSpec("m", "tensor", (TensorSpec("x", "float32", shape),), names)


def test_the_deployed_graph_computes_what_the_trained_network_does(shipped: Shipped, shipped_graph: Graph) -> None:
    module, spec = shipped
    assert spec.preprocess is not None
    engine = BACKEND.open(EngineRequest(shipped_graph.serialized(), threads=1))
    smear = prepare(spec.preprocess, draw_smear(seed=3).image)[0]
    noise = np.random.default_rng(0).standard_normal((3, 3, 416, 416)).astype(np.float32)
    for image in (smear, noise):
        with torch.no_grad():
            wanted = module(torch.from_numpy(image)).numpy()
        (gap,) = compare({"head": wanted}, engine.run({"image": image}))
        assert gap.within(1e-5), gap.describe()


def test_opset_and_ir_are_those_that_were_asked_for(shipped_graph: Graph) -> None:
    model = onnx.load_from_string(shipped_graph.serialized())
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    assert shipped_graph.opset == 20


@pytest.mark.parametrize(("opset", "ir"), [(18, 8), (21, 10)])
def test_another_opset_and_ir_can_be_pinned(opset: int, ir: int) -> None:
    graph = export_torch(nn.ReLU().eval(), (torch.randn(2, 3),), spec_of((2, 3)), opset, ir)
    assert (graph.opset, graph.model.ir_version) == (opset, ir)


@pytest.mark.parametrize("opset", [17, 11, 0])
def test_an_opset_that_torch_does_not_write_is_refused(opset: int) -> None:
    with pytest.raises(UnsupportedError, match=f"opset {opset}"):
        export_torch(nn.ReLU().eval(), (torch.randn(2, 3),), spec_of((2, 3)), opset, 8)


def test_nothing_is_written_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = nn.Linear(600, 600).eval()  # 1.4 MB: above the size at which torch moves weights into side files
    graph = export_torch(network, (torch.randn(2, 600),), spec_of((2, 600)), 20, 10)
    assert list(tmp_path.iterdir()) == []
    assert all(not tensor.external_data for tensor in graph.model.graph.initializer)
    assert len(graph.serialized()) > 4 * 600 * 600


def test_the_symbolic_batch_is_kept_from_input_to_output(shipped_graph: Graph, shipped: Shipped) -> None:
    graph = shipped_graph.model.graph
    assert tensor_specs(list(graph.input)) == shipped[1].inputs
    assert tensor_specs(list(graph.output)) == shipped[1].outputs
    computed = {name for node in graph.node for name in node.output}
    between = [value.type.tensor_type.shape.dim for value in graph.value_info if value.name in computed]
    assert len(between) > 50 and all(shape[0].dim_param == "batch" for shape in between)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_runs_and_pictures_do_not_touch_each_other(shipped_graph: Graph, batch: int) -> None:
    engine = BACKEND.open(EngineRequest(shipped_graph.serialized(), threads=1))
    images = np.random.default_rng(1).standard_normal((5, 3, 416, 416)).astype(np.float32)[:batch]
    together = engine.run({"image": images})["head"]
    alone = np.concatenate([engine.run({"image": images[i : i + 1]})["head"] for i in range(batch)])
    assert together.shape == (batch, 8, 26, 26)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)


def test_inputs_hold_no_weights_and_no_constant_nodes_are_left(shipped_graph: Graph) -> None:
    graph = shipped_graph.model.graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["head"]
    assert not any(node.op_type == "Constant" for node in graph.node)
    assert sum(int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.data_type == 1) >= 63_552


def test_every_node_has_a_unique_name_and_comes_from_a_module_and_a_line(
    shipped: Shipped, shipped_graph: Graph
) -> None:
    names = [node.name for node in shipped_graph.model.graph.node]
    assert len(set(names)) == len(names) and all(names)
    assert set(names) == set(shipped_graph.origins)
    for origin in shipped_graph.origins.values():
        assert origin.file is not None and origin.line is not None
        assert not Path(origin.file).is_absolute() and ".." not in Path(origin.file).parts
        source = (REPOSITORY / origin.file).read_text(encoding="utf-8").splitlines()
        assert origin.file.startswith("edgekit/models/") and source[origin.line - 1].strip()
    modules = {origin.module for origin in shipped_graph.origins.values()}
    assert {"backbone.stem.0", "backbone.stages.6.0.project", "neck.laterals.2.0", "head"} <= modules
    assert all(module.split(".")[0] in ("backbone", "neck", "head") for module in modules)


def test_the_bytes_tell_nothing_of_where_they_were_made(shipped_graph: Graph) -> None:
    data = shipped_graph.serialized()
    secrets = {str(REPOSITORY), str(Path.home()), str(Path(torch.__file__).parent), ".py", "stack_trace", "pkg.torch"}
    secrets |= {os.environ[name] for name in ("USER", "LOGNAME", "HOSTNAME") if len(os.environ.get(name, "")) > 4}
    for secret in secrets:
        assert secret.encode() not in data, secret
    assert shipped_graph.model.producer_name == "edgekit"
    assert not any(node.metadata_props or node.doc_string for node in shipped_graph.model.graph.node)


def test_the_passes_that_were_applied_stand_in_the_history(shipped_graph: Graph) -> None:
    assert shipped_graph.passes == ("torch.onnx.export", *(name for name, _ in canonical_passes(20, 10)))


class Branches(nn.Module):
    """A graph with a subgraph in each branch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))


def test_subgraphs_are_stripped_as_well() -> None:
    graph = export_torch(Branches().eval(), (torch.ones(2, 3),), spec_of((2, 3)), 20, 10)
    assert any(node.op_type == "If" for node in graph.model.graph.node)
    assert b".py" not in graph.serialized() and b"pkg.torch" not in graph.serialized()
    engine = BACKEND.open(EngineRequest(graph.serialized()))
    x = np.full((2, 3), -1, np.float32)
    np.testing.assert_allclose(engine.run({"x": x})["y0"], np.cos(x), rtol=1e-6)


class DataDependent(nn.Module):
    """What torch cannot export."""

    def forward(self, x: Tensor) -> Tensor:
        return x * len(x.nonzero().tolist())


class Fixed(nn.Module):
    """Works for a batch of two and no other."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(2, 3)


def test_a_module_that_torch_cannot_export_is_refused_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedError, match="torch cannot export") as caught:
        export_torch(DataDependent().eval(), (torch.ones(2, 3),), spec_of((2, 3)), 20, 10)
    assert caught.value.where == "DataDependent" and caught.value.why and caught.value.fix
    assert capfd.readouterr().out == ""


def test_a_symbolic_dimension_that_the_module_fixes_is_refused_and_not_lost() -> None:
    with pytest.raises(UnsupportedError, match=r"\('batch', 3\) was exported as \(2, 3\)"):
        export_torch(Fixed().eval(), (torch.ones(2, 3),), spec_of(("batch", 3)), 20, 10)
    assert export_torch(Fixed().eval(), (torch.ones(2, 3),), spec_of((2, 3)), 20, 10).opset == 20


@pytest.mark.parametrize("name", ["batch-size", "2b", "N x"])
def test_a_symbolic_dimension_that_torch_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a dimension"):
        export_torch(nn.ReLU().eval(), (torch.ones(2, 3),), spec_of((name, 3)), 20, 10)


def test_every_tensor_of_a_graph_can_be_looked_at(shipped_graph: Graph) -> None:
    seen = with_all_outputs(shipped_graph.model)
    outputs = {name for node in shipped_graph.model.graph.node for name in node.output}
    assert {value.name for value in seen.graph.output} == outputs
    assert len(shipped_graph.model.graph.output) == 1


def test_dtypes_have_numpy_names() -> None:
    assert [dtype_name(number) for number in (0, 1, 7, 9, 10)] == ["undefined", "float32", "int64", "bool", "float16"]
