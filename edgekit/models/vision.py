"""Vision networks with channel-idle layers as folders: what they are built from, in which form, and their weights.

`config.json` names the family, its configuration and every merged layer, so that the deployed network is built without
the weights it was merged from; `model.safetensors` holds those of this very form. The two forms have different keys
(`fc1`, `fc2`; `linear`, `up`, `down`), so that neither loads into the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import nn

from edgekit.errors import InputError, UsageError
from edgekit.models.feedforward import FOLDED, FeedForward, MergedBody, meltable_layers
from edgekit.models.idle import MULTIPLE, MergedShape, merged_shape
from edgekit.models.mixer import Mixer, MixerConfig
from edgekit.models.poolformer import PoolFormer, PoolFormerConfig
from edgekit.models.swin import SwinConfig, SwinTransformer
from edgekit.models.vit import VisionTransformer, ViTConfig
from edgekit.spec import ClassificationPostprocess, ImagePreprocess, ModelSpec, TensorSpec
from edgekit.structure import decode, encode

KIND = "repavit"
FAMILIES: dict[str, tuple[type, Callable[[Any], nn.Module]]] = {
    "vit": (ViTConfig, VisionTransformer),
    "swin": (SwinConfig, SwinTransformer),
    "mixer": (MixerConfig, Mixer),
    "poolformer": (PoolFormerConfig, PoolFormer),
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
# Mean and standard deviation of ImageNet as torchvision writes them, RGB, in units of 0 to 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class NetworkFile:
    """The contents of `config.json`.

    Attributes:
        family: `vit`, `swin`, `mixer` or `poolformer`.
        network: the fields of the family's configuration.
        name: of the model, in bundles and reports.
        labels: class names by index; empty where none are known.
        mean, std: of the preprocessing, RGB, 0 to 255.
        resize: see `ImagePreprocess`.
        dtype: of the weights.
        merged: the deployed layers by name; the others are in their training form.
        record: how it was merged or trained; never read.
    """

    family: Literal["vit", "swin", "mixer", "poolformer"]
    network: dict[str, Any]
    model_type: Literal["repavit"] = "repavit"
    name: str = "repavit"
    labels: tuple[str, ...] = ()
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: Literal["stretch", "crop", "letterbox"] = "stretch"
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    merged: dict[str, MergedShape] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


def save_network(module: nn.Module, folder: Path, **about: Any) -> NetworkFile:
    """Write `config.json` and `model.safetensors`, in whichever form `module` is; returns what was written.

    Args:
        module: of one of the `FAMILIES`.
        folder: made where it is missing; files of the same names are replaced.
        about: further fields of `NetworkFile`: `name`, `labels`, `mean`, `std`, `resize`, `record`.

    Raises:
        UsageError: the module is of no known family.
    """
    file = describe(module, **about)
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(save(state))
    text = json.dumps(encode(file), indent=1, allow_nan=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    return file


def describe(module: nn.Module, **about: Any) -> NetworkFile:
    """What `build_network` needs to build a network like `module`.

    Raises:
        UsageError: the module is of no known family.
    """
    family = next((name for name, (_, network) in FAMILIES.items() if type(module) is network), None)
    if family is None:
        raise UsageError(
            f"{type(module).__name__} is of no family that a folder can name",
            where="save_network",
            fix="known: " + ", ".join(sorted(FAMILIES)),
        )
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    merged = {
        name: part.body.shape
        for name, part in module.named_modules()
        if isinstance(part, FeedForward) and isinstance(part.body, MergedBody)
    }
    network = encode(module.config)
    return decode(
        NetworkFile,
        {"family": family, "network": network, "dtype": dtype, "merged": encode(merged), **about},
        "network",
    )


def build_network(file: NetworkFile, where: str = "config.json") -> nn.Module:
    """The network with drawn weights, in its dtype and form, in evaluation mode.

    Raises:
        InputError: the configuration is not one of the family, or names layers that it does not have.
    """
    config, network = FAMILIES[file.family]
    module = network(decode(config, file.network, f"{where}: network"))
    layers = {name: part for name, part in module.named_modules() if isinstance(part, FeedForward)}
    for name, shape in file.merged.items():
        if name not in layers:
            raise InputError(
                f"there is no layer {name!r} to be merged", where=where, why="the network has none so named"
            )
        layers[name].body = MergedBody(shape)
    return module.to(DTYPES[file.dtype]).eval()


def deployed_skeleton(module: nn.Module, fold: bool | None = None, multiple: int = MULTIPLE) -> nn.Module:
    """`module` itself with every meltable layer in its deployed form, without the weights: for counting; returns it."""
    for part in meltable_layers(module).values():
        assert not isinstance(part.body, MergedBody)
        weight = part.body.fc1.weight
        folds = weight.dtype in FOLDED if fold is None else fold
        with weight.device:
            part.body = MergedBody(merged_shape(part.body.shape, folds, multiple)).to(weight.dtype)
    return module.eval()


def network_and_spec(config: dict[str, Any], where: str) -> tuple[nn.Module, ModelSpec]:
    """The float32 network of a `config.json`, and what it is for the outside; weights of other dtypes are widened.

    Raises:
        InputError: the configuration is malformed.
    """
    file = replace(decode(NetworkFile, config, where), dtype="float32")
    module = build_network(file, where)
    return module, spec_of(module, file)


def spec_of(module: nn.Module, file: NetworkFile) -> ModelSpec:
    """`image` (batch, 3, size, size) to `logits` (batch, classes), or to `features`."""
    config: Any = module.config
    size: int = config.size
    classes: int = config.classes
    head: str = getattr(config, "head", "classes")
    if file.labels and len(file.labels) != classes:
        raise InputError(f"{len(file.labels)} labels for {classes} classes", where="labels", fix="name each class once")
    with torch.no_grad():
        shape = tuple(module(torch.zeros(1, 3, size, size, dtype=DTYPES[file.dtype])).shape[1:])
    image = ImagePreprocess("image", size, size, resize=file.resize, mean=file.mean, std=file.std)
    output = "logits" if head == "classes" else head
    return ModelSpec(
        name=file.name,
        task="classification" if head == "classes" else "tensor",
        inputs=(TensorSpec("image", "float32", ("batch", 3, size, size)),),
        outputs=(TensorSpec(output, "float32", ("batch", *shape)),),
        preprocess=image,
        postprocess=ClassificationPostprocess(("logits",)) if head == "classes" else None,
        labels=file.labels,
        metric="top1" if head == "classes" and file.labels else None,
    )
