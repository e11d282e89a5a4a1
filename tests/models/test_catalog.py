"""The shipped models load, and folders of weights are built strictly or refused."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save  # noqa: E402

from edgekit.errors import InputError, UnsupportedError  # noqa: E402
from edgekit.models.catalog import CATALOG, load_folder  # noqa: E402
from edgekit.models.femtodet import FemtoDet, FemtoDetConfig  # noqa: E402

CONFIG = {"model_type": "femtodet", "labels": ["a", "b"], "width": 0.25, "size": 64}


def write(folder: Path, config: object = CONFIG, weights: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "model.safetensors").write_bytes(
        save(FemtoDet(FemtoDetConfig(2)).state_dict()) if weights is None else weights
    )
    return folder


def test_the_shipped_weights_are_those_of_the_catalog_and_finite() -> None:
    module, spec, digest = CATALOG["femtodet"].load()
    raw = files("edgekit.models").joinpath(CATALOG["femtodet"].weights).read_bytes()
    assert digest == hashlib.sha256(raw).hexdigest()
    assert sum(parameter.numel() for parameter in module.parameters()) == 67_669
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())
    assert not module.training
    assert spec.labels == ("RBC", "WBC", "Platelets")


def test_a_folder_in_hugging_face_layout_loads(tmp_path: Path) -> None:
    network = FemtoDet(FemtoDetConfig(2)).eval()
    module, spec, _ = load_folder(write(tmp_path / "mine", weights=save(network.state_dict())))
    image = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(module(image), network(image))
    assert spec.labels == ("a", "b")
    assert spec.inputs[0].shape == ("batch", 3, 64, 64)


@pytest.mark.parametrize("kind", ["bert", None, 3, ["femtodet"], {"a": 1}])
def test_an_unknown_model_type_is_refused_with_the_known_ones(tmp_path: Path, kind: object) -> None:
    with pytest.raises(UnsupportedError, match="known: femtodet"):
        load_folder(write(tmp_path / "other", {**CONFIG, "model_type": kind}))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": []},
        {"labels": "ab"},
        {"labels": [1, 2]},
        {"width": 0.3},
        {"width": "wide"},
        {"width": [0.25]},
        {"size": 65},
        {"size": "64"},
        {"size": 64.0},
        {"labels": ["a", "b", "c"]},
        {"width": 0.5},
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        load_folder(write(tmp_path / "wrong", {**CONFIG, **change}))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"femtodet"'])
def test_a_malformed_configuration_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        load_folder(write(tmp_path / "wrong", text))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_with_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "partial")
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_folder(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int) -> None:
    whole = save(FemtoDet(FemtoDetConfig(2)).state_dict())
    with pytest.raises(InputError, match="safetensors"):
        load_folder(write(tmp_path / "torn", weights=whole[:keep]))


def test_weights_with_a_missing_or_an_unknown_key_are_refused_by_name(tmp_path: Path) -> None:
    state = dict(FemtoDet(FemtoDetConfig(2)).state_dict())
    theta = state.pop("backbone.stages.0.0.depthwise.theta")
    with pytest.raises(InputError, match=r"are missing(.|\n)*depthwise\.theta"):
        load_folder(write(tmp_path / "less", weights=save(state)))
    extra = {**FemtoDet(FemtoDetConfig(2)).state_dict(), "backbone.theta2": theta}
    with pytest.raises(InputError, match=r"are unknown(.|\n)*theta2"):
        load_folder(write(tmp_path / "more", weights=save(extra)))
