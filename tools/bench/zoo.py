"""The benchmarks' models by name: three of ImageNet's shapes with random weights, three trained on CIFAR-10.

    module, spec = zoo.model("cifar_deit")
    PYTHONPATH=tools/bench edgekit export --source zoo:resnet50 --trust-code

The random ones serve latency and coverage, and their spec therefore has no metric; the trained ones serve accuracy.
Modules are in evaluation mode, with their normalization unfolded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cifar10
import torch
import zoo_nets
from safetensors.torch import load_file
from torch import Tensor, nn

from edgekit.errors import InputError, MissingError, UsageError
from edgekit.spec import ClassificationPostprocess, ImagePreprocess, ModelSpec, TensorSpec

RANDOM: dict[str, Callable[[], nn.Module]] = {
    "resnet50": zoo_nets.resnet50,
    "mobilenetv2": zoo_nets.mobilenetv2,
    "deit_s": zoo_nets.deit_s,
}
TRAINED: dict[str, Callable[[], nn.Module]] = {
    "cifar_resnet": zoo_nets.cifar_resnet,
    "cifar_mobilenet": zoo_nets.cifar_mobilenet,
    "cifar_deit": zoo_nets.cifar_deit,
}
NAMES = (*RANDOM, *TRAINED)
WEIGHTS = Path(__file__).resolve().parent / "weights"

# ImageNet's statistics as torchvision writes them, in units of 0 to 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def model(name: str) -> tuple[nn.Module, ModelSpec]:
    """A model in evaluation mode, float32, and its spec: `image` (batch, 3, size, size) to `logits` (batch, classes).

    Raises:
        UsageError: no model has this name.
        MissingError: the trained weights are not there.
        InputError: the weights are those of another architecture.
    """
    if name in RANDOM:
        return random_weights(RANDOM[name]()), _spec(name, 224, 1000)
    if name in TRAINED:
        return trained_weights(name, TRAINED[name]()), _spec(name, 32, 10)
    raise UsageError(f"no model {name!r} in the zoo", where="zoo.model", fix="choose one of " + ", ".join(NAMES))


def example(spec: ModelSpec, batch: int = 1) -> tuple[Tensor]:
    """A drawn input, float32 (batch, 3, size, size) of mean 0 and deviation 1, the same in every call."""
    shape = [dim if isinstance(dim, int) else batch for dim in spec.inputs[0].shape]
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)


def resnet50() -> tuple[nn.Module, tuple[Tensor]]:
    """ResNet-50 with random weights as a source, `zoo:resnet50`."""
    return _source("resnet50")


def mobilenetv2() -> tuple[nn.Module, tuple[Tensor]]:
    """MobileNetV2 1.0 with random weights as a source, `zoo:mobilenetv2`."""
    return _source("mobilenetv2")


def deit_s() -> tuple[nn.Module, tuple[Tensor]]:
    """DeiT-S with random weights as a source, `zoo:deit_s`."""
    return _source("deit_s")


def cifar_resnet() -> tuple[nn.Module, tuple[Tensor]]:
    """The trained residual network as a source, `zoo:cifar_resnet`."""
    return _source("cifar_resnet")


def cifar_mobilenet() -> tuple[nn.Module, tuple[Tensor]]:
    """The trained inverted-residual network as a source, `zoo:cifar_mobilenet`."""
    return _source("cifar_mobilenet")


def cifar_deit() -> tuple[nn.Module, tuple[Tensor]]:
    """The trained transformer as a source, `zoo:cifar_deit`."""
    return _source("cifar_deit")


def trained_weights(name: str, module: nn.Module, folder: Path = WEIGHTS) -> nn.Module:
    """`module` with the weights that `tools/train_cifar10.py` wrote, float16 in the file, in evaluation mode.

    Raises:
        MissingError: there is no such file.
        InputError: its tensors are not those of `module`.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise MissingError(
            f"{name} is not trained",
            where=str(path),
            fix=f"PYTHONPATH=tools/bench python tools/train_cifar10.py {name}",
        )
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"the weights do not fit {name}",
            where=str(path),
            why=str(error).strip().splitlines()[-1].strip(),
            fix=f"train it again: PYTHONPATH=tools/bench python tools/train_cifar10.py {name}",
        ) from error
    return module.eval()


@torch.no_grad()
def random_weights(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw the parameters of `module`, the same for a seed, so that activations neither explode nor die; returns it.

    Weights keep the variance of what they multiply: N(0, 2 / fan-in) before a rectifier (He et al., arXiv 1502.01852),
    N(0, 1 / fan-in) elsewhere. Norms get drawn gains and shifts, smaller ones where a branch ends, as training leaves
    them. Running statistics are measured on one drawn batch and then disturbed, so that folding has something to do.
    """
    random = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_in = math.prod(part.weight.shape[1:])
            part.weight.normal_(0.0, math.sqrt(2 / fan_in), generator=random)
        elif isinstance(part, nn.Linear):
            part.weight.normal_(0.0, math.sqrt(1 / part.in_features), generator=random)
        elif isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            part.weight.uniform_(0.6, 1.4, generator=random)
        elif isinstance(part, zoo_nets.VisionTransformer):
            part.token.normal_(0.0, 0.5, generator=random)
            part.positions.normal_(0.0, 0.5, generator=random)
        bias = getattr(part, "bias", None)
        if isinstance(bias, Tensor):
            bias.normal_(0.0, 0.1, generator=random)
    for part in module.modules():
        if isinstance(part, zoo_nets.Residual):
            part.branch[-1].weight.mul_(0.5)
    return _settle_norms(module, random)


def _settle_norms(module: nn.Module, random: torch.Generator) -> nn.Module:
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0  # the statistics of this one batch
        module.train()(_picture_noise(4, 224, random))
    for norm in norms:
        norm.momentum = 0.1
        assert norm.running_mean is not None and norm.running_var is not None
        shift = torch.empty_like(norm.running_mean).normal_(0.0, 0.1, generator=random)
        norm.running_mean.add_(shift * norm.running_var.sqrt())
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.8, 1.25, generator=random))
    return module.eval()


def _picture_noise(count: int, size: int, random: torch.Generator) -> Tensor:
    """Noise with large shapes in it, as pictures have: float32 (count, 3, size, size) of mean 0 and deviation 1."""
    coarse = torch.randn(count, 3, size // 16, size // 16, generator=random)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    noise = smooth + 0.5 * torch.randn(count, 3, size, size, generator=random)
    return (noise - noise.mean()) / noise.std()


def _source(name: str) -> tuple[nn.Module, tuple[Tensor]]:
    module, spec = model(name)
    return module, example(spec)


def _spec(name: str, size: int, classes: int) -> ModelSpec:
    trained = name in TRAINED
    return ModelSpec(
        name=name,
        task="classification",
        inputs=(TensorSpec("image", "float32", ("batch", 3, size, size)),),
        outputs=(TensorSpec("logits", "float32", ("batch", classes)),),
        preprocess=ImagePreprocess(
            "image",
            height=size,
            width=size,
            resize="stretch",
            mean=cifar10.MEAN if trained else IMAGENET_MEAN,
            std=cifar10.STD if trained else IMAGENET_STD,
        ),
        postprocess=ClassificationPostprocess(outputs=("logits",)),
        labels=cifar10.CLASSES if trained else (),
        metric="top1" if trained else None,
    )
