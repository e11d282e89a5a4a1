"""Networks survive the way through a folder in either form, and a folder that does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from edgekit.compress.repavit import reparameterize  # noqa: E402
from edgekit.errors import InputError, UsageError  # noqa: E402
from edgekit.models.catalog import load_folder, load_strictly  # noqa: E402
from edgekit.models.feedforward import meltable_layers  # noqa: E402
from edgekit.models.mixer import Mixer, MixerConfig  # noqa: E402
from edgekit.models.poolformer import PoolFormer, PoolFormerConfig  # noqa: E402
from edgekit.models.swin import SwinConfig, SwinTransformer  # noqa: E402
from edgekit.models.vision import NetworkFile, build_network, save_network  # noqa: E402
from edgekit.models.vit import VisionTransformer, ViTConfig  # noqa: E402
from edgekit.structure import decode  # noqa: E402

LABELS = ("a", "b", "c", "d", "e")
BATCH: dict[str, Any] = {"theta": 0.75, "normalization": "batch", "size": 32, "classes": 5}
MERGED = {"width": 32, "active": 32, "linear": True, "normalization": "none", "identity": "folded"}


def networks() -> dict[str, nn.Module]:
    made = {
        "vit": VisionTransformer(ViTConfig(**{**BATCH, "theta": (0.75, None)}, patch=8, width=32, depth=2, heads=2)),
        "swin": SwinTransformer(SwinConfig(**BATCH, patch=2, window=4, width=16, depths=(2, 2), heads=(2, 4))),
        "mixer": Mixer(MixerConfig(**BATCH, patch=8, width=32, depth=2, token_hidden=8, hidden=128)),
        "poolformer": PoolFormer(PoolFormerConfig(**BATCH, widths=(16, 32), depths=(1, 1))),
    }
    for module in made.values():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                assert part.running_mean is not None and part.running_var is not None
                part.running_mean.normal_(0, 0.5)
                part.running_var.uniform_(0.3, 2)
        module.eval()
    return made


def same(a: nn.Module, b: nn.Module, dtype: torch.dtype = torch.float32) -> bool:
    image = torch.randn(2, 3, 32, 32, dtype=dtype)
    with torch.no_grad():
        wanted: Tensor = a(image)
        return torch.equal(wanted, b(image))


@pytest.mark.parametrize("family", ["vit", "swin", "mixer", "poolformer"])
def test_both_forms_of_every_family_survive_a_folder(tmp_path: Path, family: str) -> None:
    trained = networks()[family]
    merged = reparameterize(trained)
    for name, module in (("trained", trained), ("merged", merged.module)):
        written = save_network(module, tmp_path / name, labels=LABELS, record={"merge": merged.record})
        loaded, spec, _ = load_folder(tmp_path / name)
        assert bool(meltable_layers(loaded)) == (name == "trained")
        assert same(module, loaded)
        assert (spec.task, spec.labels, spec.metric) == ("classification", LABELS, "top1")
        assert spec.inputs[0].shape == ("batch", 3, 32, 32) and spec.outputs[0].shape == ("batch", 5)
        assert len(written.merged) == (0 if name == "trained" else len(merged.layers))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_part_of_the_file(tmp_path: Path, dtype: torch.dtype) -> None:
    module = reparameterize(networks()["vit"].to(dtype)).module
    file = save_network(module, tmp_path)
    again = build_network(decode(NetworkFile, json.loads((tmp_path / "config.json").read_text()), "config.json"))
    assert next(again.parameters()).dtype == dtype
    load_strictly(again, module.state_dict(), "here")
    assert same(module, again, dtype)
    assert {shape.identity for shape in file.merged.values()} == {"added" if dtype == torch.bfloat16 else "folded"} | {
        "added"  # the plain layer, of which only the norms melt
    }


def test_the_weights_of_one_form_do_not_load_into_the_other(tmp_path: Path) -> None:
    trained = networks()["vit"]
    merged = reparameterize(trained).module
    save_network(trained, tmp_path / "trained")
    save_network(merged, tmp_path / "merged")
    (tmp_path / "merged" / "model.safetensors").write_bytes((tmp_path / "trained" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"are missing(.|\n)*linear|down"):
        load_folder(tmp_path / "merged")


@pytest.mark.parametrize("head", ["features", "tokens"])
def test_features_are_a_tensor_and_no_classification(tmp_path: Path, head: Any) -> None:
    config = ViTConfig(size=32, patch=8, width=32, depth=1, heads=2, head=head)
    save_network(VisionTransformer(config).eval(), tmp_path, name="eyes")
    _, spec, _ = load_folder(tmp_path)
    assert (spec.name, spec.task, spec.outputs[0].name) == ("eyes", "tensor", head)
    assert spec.outputs[0].shape == (("batch", 32) if head == "features" else ("batch", 17, 32))


@pytest.mark.parametrize(
    "change",
    [
        {"family": "resnet"},
        {"dtype": "int8"},
        {"labels": ["a"]},
        {"network": {"width": "wide"}},
        {"network": {"theta": 0.1}},
        {"network": {"colour": 3}},
        {"merged": {"blocks.9.ffn": MERGED}},
        {"merged": {"blocks.0.ffn": {**MERGED, "active": 0, "linear": False, "identity": "added"}}},
        {"merged": {"blocks.0.ffn": {**MERGED, "normalization": "layer"}}},
        {"extra": 1},
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save_network(networks()["vit"], tmp_path, labels=LABELS)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UsageError):
        load_folder(tmp_path)


def test_a_module_of_no_family_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no family"):
        save_network(nn.Linear(2, 2), tmp_path)
