"""The models that edgekit ships, and model folders in Hugging Face's layout of the same kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from edgekit.errors import InputError, UnsupportedError
from edgekit.models.femtodet import FemtoDet, FemtoDetConfig, femtodet_spec
from edgekit.models.vision import network_and_spec
from edgekit.smear import draw_smear
from edgekit.spec import ModelSpec

Loaded = tuple[nn.Module, ModelSpec, str]  # module, spec, SHA-256 of the weights file


@dataclass(frozen=True)
class Entry:
    """A shipped model.

    Attributes:
        summary: one line about it.
        config: what it is built from.
        weights: the file inside the package.
        picture: draws an input on which it finds something, uint8 RGB (h, w, 3).
        licences: of the weights, SPDX.
    """

    summary: str
    config: dict[str, Any]
    weights: str
    picture: Callable[[], npt.NDArray[np.uint8]]
    licences: tuple[str, ...] = ("Apache-2.0",)

    def load(self) -> Loaded:
        """The module with its weights, in evaluation mode, its spec, and the SHA-256 of the weights file."""
        raw = files("edgekit.models").joinpath(self.weights).read_bytes()
        return build(self.config, raw, self.weights)


def build(config: dict[str, Any], weights: bytes, where: str) -> Loaded:
    """A model from a `config.json`-like table and the bytes of a safetensors file.

    Raises:
        UnsupportedError: the `model_type` is none that edgekit knows.
        InputError: the weights do not fit the configuration.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _BUILDERS:
        raise UnsupportedError(
            f"model_type {kind!r} is not one that edgekit can build",
            where=where,
            why="a folder of weights holds no code, so the architecture must be known here",
            fix="known: " + ", ".join(sorted(_BUILDERS)) + "; or use module:function, .pt2 or .onnx",
        )
    module, spec = _BUILDERS[kind](config, where)
    try:
        state = load_tensors(weights)
    except SafetensorError as error:
        raise InputError(
            "this is not a readable safetensors file", where=where, why=str(error), fix="copy it again"
        ) from error
    load_strictly(module, state, where)
    return module.eval(), spec, hashlib.sha256(weights).hexdigest()


def load_folder(path: Path) -> Loaded:
    """A folder with `config.json` and `model.safetensors`.

    Raises:
        InputError: a file is missing or malformed, or weights and configuration do not fit.
        UnsupportedError: the `model_type` is unknown.
    """
    config_path, weights_path = path / "config.json", path / "model.safetensors"
    for needed in (config_path, weights_path):
        if not needed.is_file():
            raise InputError(f"{needed.name} is missing", where=str(path), why="a model folder holds both files")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("config.json is malformed", where=str(config_path), why=str(error)) from error
    if not isinstance(config, dict):
        raise InputError("config.json is not a table", where=str(config_path), why=f"it is {type(config).__name__}")
    return build(config, weights_path.read_bytes(), str(weights_path))


def load_strictly(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load `state` into `module`, every key and shape exactly.

    Raises:
        InputError: listing the first missing, unexpected or misshapen keys.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    for what, keys in (("are missing", missing), ("are unknown", unexpected), ("have another shape", misshapen)):
        if keys:
            raise InputError(
                f"{len(keys)} weight(s) {what}",
                where=where,
                why=", ".join(keys[:5]) + (", ..." if len(keys) > 5 else ""),
                fix="the file belongs to another architecture, width or number of classes",
            )
    with torch.no_grad():
        module.load_state_dict(state)


def _femtodet(config: dict[str, Any], where: str) -> tuple[nn.Module, ModelSpec]:
    labels = config.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise InputError("config.labels is not a list of class names", where=where, why="FemtoDet is built from them")
    try:
        network = FemtoDet(FemtoDetConfig(len(labels), config.get("width", 0.25)))
        spec = femtodet_spec(tuple(labels), config.get("size", 416))
    except (ValueError, TypeError) as error:
        raise InputError("config.json does not describe a FemtoDet", where=where, why=str(error)) from error
    return network, spec


_BUILDERS: dict[str, Callable[[dict[str, Any], str], tuple[nn.Module, ModelSpec]]] = {
    "femtodet": _femtodet,
    "repavit": network_and_spec,
}

CATALOG = {
    "femtodet": Entry(
        summary="detects red cells, white cells and platelets in blood smears; 67,669 parameters, 416x416",
        config={"model_type": "femtodet", "labels": ["RBC", "WBC", "Platelets"], "width": 0.25, "size": 416},
        weights="femtodet-bccd.safetensors",
        picture=lambda: draw_smear().image,
    ),
}
