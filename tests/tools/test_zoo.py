"""The benchmarks' models have the real shapes, stay sane through their depth, fold, export and score as told."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress import Recipe  # noqa: E402
from edgekit.compress.fuse import fuse  # noqa: E402
from edgekit.errors import InputError, MissingError, UsageError  # noqa: E402
from edgekit.graph.from_torch import export_torch  # noqa: E402
from edgekit.processing.preprocess import prepare_batch  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND  # noqa: E402
from edgekit.sources import open_source  # noqa: E402
from edgekit.spec import ModelSpec  # noqa: E402

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PARAMETERS = {"resnet50": 25_557_032, "mobilenetv2": 3_504_872, "deit_s": 22_050_664}
CIFAR = ("cifar_resnet", "cifar_mobilenet", "cifar_deit")


@pytest.fixture(scope="module")
def zoo() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS / "bench"))
        import zoo

        yield zoo


@pytest.fixture(scope="module")
def trainer(zoo: ModuleType) -> Any:
    spec = importlib.util.spec_from_file_location("train_cifar10", TOOLS / "train_cifar10.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def exported(zoo: ModuleType, module: nn.Module, spec: ModelSpec) -> Any:
    fused, _ = Recipe.parse(("fuse",)).apply(module, zoo.example(spec, batch=2))
    return export_torch(fused, zoo.example(spec, batch=2), spec, opset=20, ir_version=10).model


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_published_shapes_have_their_published_parameters(zoo: ModuleType, name: str, count: int) -> None:
    assert parameters(zoo.RANDOM[name]()) == count


def test_every_architecture_has_a_name_a_builder_and_a_source(zoo: ModuleType) -> None:
    assert set(zoo.NAMES) == {*PARAMETERS, *CIFAR}
    for name in zoo.NAMES:
        assert callable(getattr(zoo, name))


def test_an_unknown_name_is_refused_with_the_known_ones(zoo: ModuleType) -> None:
    with pytest.raises(UsageError) as caught:
        zoo.model("resnet51")
    assert all(name in str(caught.value) for name in zoo.NAMES)


@pytest.mark.parametrize("name", ["mobilenetv2", "deit_s"])
def test_random_weights_are_the_same_each_time(zoo: ModuleType, name: str) -> None:
    first, second = zoo.model(name)[0].state_dict(), zoo.model(name)[0].state_dict()
    other = zoo.random_weights(zoo.RANDOM[name](), seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    key = next(key for key in first if key.endswith("weight"))
    assert not torch.equal(first[key], other[key])


@pytest.mark.parametrize("name", PARAMETERS)
def test_activations_neither_explode_nor_die_through_the_depth(zoo: ModuleType, name: str) -> None:
    module, spec = zoo.model(name)
    seen: dict[str, torch.Tensor] = {}
    blocks = (zoo.zoo_nets.Residual, zoo.zoo_nets.InvertedResidual, zoo.zoo_nets.Encoder, nn.ReLU6)
    for path, part in module.named_modules():
        if isinstance(part, blocks):
            part.register_forward_hook(lambda _part, _inputs, out, path=path: seen.update({path: out}))
    pictures = zoo._picture_noise(2, spec.inputs[0].shape[-1], torch.Generator().manual_seed(9))
    with torch.no_grad():
        logits = module(pictures)
    assert len(seen) >= 12
    for path, out in seen.items():
        assert 0.2 < float(out.std()) < 6, path
        assert 0.2 < float((out > 0).float().mean()) < 0.95, path
    assert 0.2 < float(logits.std()) < 6
    assert float((logits[0] - logits[1]).std()) > 0.02, "the logits do not depend on the picture"


def test_random_norms_have_nothing_at_its_default(zoo: ModuleType) -> None:
    module, _ = zoo.model("mobilenetv2")
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 52 and not module.training
    for norm in (norm.requires_grad_(False) for norm in norms):
        assert float(norm.weight.std()) > 0.05 and float(norm.bias.std()) > 0.02
        assert float(norm.running_mean.abs().max()) > 0 and float(norm.running_var.min()) > 0
        assert not torch.allclose(norm.running_var, torch.ones_like(norm.running_var))


@pytest.mark.parametrize(
    ("name", "convolutions"), [("resnet50", 53), ("mobilenetv2", 52), ("cifar_resnet", 9), ("cifar_mobilenet", 28)]
)
def test_every_norm_folds(zoo: ModuleType, name: str, convolutions: int) -> None:
    build = {**zoo.RANDOM, **zoo.TRAINED}[name]
    module = zoo.random_weights(build())
    size = 64 if name in zoo.RANDOM else 32
    fused = fuse(module, (torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)),))
    kinds = Counter(type(part).__name__ for part in fused.modules())
    assert kinds["BatchNorm2d"] == 0 and kinds["Conv2d"] == convolutions


@pytest.mark.parametrize("name", CIFAR)
def test_the_exported_graph_is_plain_and_takes_any_batch(zoo: ModuleType, name: str) -> None:
    module, spec = zoo.random_weights(zoo.TRAINED[name]()), zoo._spec(name, 32, 10)
    model = exported(zoo, module, spec)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 0
    if name == "cifar_deit":
        depth = len(module.encoders)
        assert kinds["Softmax"] == depth
        assert kinds["MatMul"] == 6 * depth  # qkv, scores, mixture, projection and two of the network
        assert kinds["LayerNormalization"] == 2 * depth + 1
    images = zoo.example(spec, batch=3)[0]
    got = BACKEND.open(EngineRequest(model.SerializeToString(), threads=1)).run({"image": images.numpy()})
    with torch.no_grad():
        wanted = module(images).numpy()
    np.testing.assert_allclose(got["logits"], wanted, atol=1e-4 * float(np.abs(wanted).max()))


def test_missing_weights_name_the_command_that_trains_them(zoo: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        zoo.trained_weights("cifar_deit", zoo.zoo_nets.cifar_deit(), tmp_path)
    assert "train_cifar10.py cifar_deit" in str(caught.value) and str(tmp_path) in str(caught.value)


def test_weights_of_another_architecture_are_refused(zoo: ModuleType, tmp_path: Path) -> None:
    save_file(zoo.zoo_nets.cifar_resnet().state_dict(), tmp_path / "cifar_mobilenet.safetensors")
    with pytest.raises(InputError, match="do not fit cifar_mobilenet"):
        zoo.trained_weights("cifar_mobilenet", zoo.zoo_nets.cifar_mobilenet(), tmp_path)


@pytest.mark.parametrize("name", CIFAR)
def test_the_shipped_weights_are_small_rounded_and_recorded(zoo: ModuleType, name: str) -> None:
    path = zoo.WEIGHTS / f"{name}.safetensors"
    record = json.loads(path.with_suffix(".json").read_text())
    module, spec = zoo.model(name)
    assert path.stat().st_size < 2_500_000
    assert {value.dtype for value in load_file(path).values()} <= {torch.float16, torch.int64}
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert record["parameters"] == parameters(module)
    assert not any(part.training for part in module.modules())
    assert f"{record['top1_test']:.2f}" in (zoo.WEIGHTS / "README.md").read_text()
    assert ModelSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec


@pytest.mark.parametrize("name", CIFAR)
def test_the_shipped_nets_score_what_their_record_says(zoo: ModuleType, name: str, data_folder: Path) -> None:
    import cifar10

    record = json.loads((zoo.WEIGHTS / f"{name}.json").read_text())
    module, spec = zoo.model(name)
    pictures, labels = cifar10.load("test", step=20)
    images, _ = prepare_batch(spec.preprocess, list(pictures))
    with torch.no_grad():
        top1 = 100 * float((module(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())
    assert abs(top1 - record["top1_test"]) < 6  # three standard errors of 500 pictures


def test_a_source_opens_as_any_module_does(zoo: ModuleType) -> None:
    parent = open_source("zoo:mobilenetv2", shapes={"image": ("batch", 3, 224, 224)}, trust_code=True)
    assert [tensor.name for tensor in parent.spec.inputs] == ["image"]
    assert parent.spec.inputs[0].shape == ("batch", 3, 224, 224)


def test_training_sees_pictures_as_the_device_does(zoo: ModuleType) -> None:
    import cifar10

    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    spec = zoo._spec("cifar_resnet", 32, 10)
    prepared, _ = prepare_batch(spec.preprocess, list(pictures))
    np.testing.assert_allclose(cifar10.normalise(pictures), prepared, atol=1e-5)


def test_cifar10_is_read_by_part_in_order(zoo: ModuleType, data_folder: Path) -> None:
    import cifar10

    pictures, labels = cifar10.load("test", 2, 8, 3)
    every, every_label = cifar10.load("test", stop=8)
    assert pictures.shape == (2, 32, 32, 3) and pictures.dtype == np.uint8 and labels.dtype == np.int64
    assert np.array_equal(pictures, every[[2, 5]]) and np.array_equal(labels, every_label[[2, 5]])


def test_cifar10_that_is_not_there_names_the_variable(zoo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import cifar10

    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    with pytest.raises(MissingError, match="EDGEKIT_DATA"):
        cifar10.load("test")


@given(progress=st.floats(0, 1, exclude_max=True), warm_up=st.floats(0.01, 0.5))
def test_the_learning_rate_rises_once_and_falls_to_zero(trainer: Any, progress: float, warm_up: float) -> None:
    rate = trainer.one_cycle(progress, warm_up)
    later = trainer.one_cycle(min(progress + 0.01, 1.0), warm_up)
    assert 0 <= rate <= 1
    assert later >= rate or progress + 0.01 >= warm_up
    assert later <= rate or progress <= warm_up
    assert trainer.one_cycle(warm_up, warm_up) == 1 and trainer.one_cycle(1.0, warm_up) < 1e-9


def test_training_learns_repeats_itself_and_obeys_the_clock(trainer: Any) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(256) % 2
    pictures = (random.integers(0, 120, (256, 32, 32, 3)) + 130 * labels[:, None, None, None]).astype(np.uint8)
    schedule = trainer.Schedule("sgd", 0.05, 0.0, channels_last=False, batch=32)

    def trained(epochs: int, minutes: float) -> tuple[nn.Module, float]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
        return module, trainer.train(module, pictures, labels, schedule, epochs, minutes)

    module, epochs = trained(6, math.inf)
    again, _ = trained(6, math.inf)
    assert epochs == 6 and not module.training
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))
    assert trainer.score(module, pictures, labels) > 90
    assert trained(10**6, 0.002)[1] < 10**6


def test_a_value_beyond_float16_is_not_stored(trainer: Any) -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.bias[0] = 1e6
    with pytest.raises(ArithmeticError, match="bias"):
        trainer.rounded(module)
