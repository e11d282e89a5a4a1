"""Melts the channel-idle feed-forward layers of a network into their deployed form, and proves it layer by layer."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgekit.compress.fuse import TOLERANCE, check_same, refuse_training_mode
from edgekit.errors import GateError, UsageError
from edgekit.models.feedforward import IdleBody, MergedBody, meltable_layers, merge
from edgekit.models.idle import MULTIPLE

EXACT = 1e-12  # relative, in float64: the algebra itself; 2e-15 is seen at width 768
SAMPLES = 64  # drawn tokens, or pixels of maps, a layer


@dataclass(frozen=True)
class MergedLayer:
    """One layer that was merged.

    Attributes:
        name: of the layer in the network.
        active, padded: trained rows of the first matrix, and rows with the padding.
        identity: `folded` or `added`.
        exact: largest relative deviation of the merge in float64, on drawn tokens.
        deviation: the same in the network's own dtype.
    """

    name: str
    active: int
    padded: int
    identity: str
    exact: float
    deviation: float


@dataclass(frozen=True)
class Merged:
    """A network in its deployed form, in evaluation mode, and the proof that it computes the same.

    Attributes:
        module: the network; of the same dtype and device as the one handed in.
        layers: those that were merged now; none where all were already.
        deviation: of the whole network on the example, relative to the largest output; None without an example.
    """

    module: nn.Module
    layers: tuple[MergedLayer, ...]
    deviation: float | None

    @property
    def record(self) -> dict[str, Any]:
        """What is worth writing down, as JSON-ready data."""
        return {"deviation": self.deviation, "layers": [asdict(layer) for layer in self.layers]}


def reparameterize(
    module: nn.Module,
    example: tuple[Tensor, ...] | None = None,
    *,
    fold_identity: bool | None = None,
    multiple: int = MULTIPLE,
) -> Merged:
    """Merge every channel-idle layer in a copy of `module`; what is merged already is left as it is.

    Args:
        module: any network that contains `FeedForward` layers, in evaluation mode; it is not modified.
        example: inputs on which the whole network is compared, in its dtype.
        fold_identity: put the residual into the merged matrix, where no norm stands in between (`batch`). None folds
            in float64, float32 and float16 and not in bfloat16. Say False where int8 follows.
        multiple: the active rows are padded with zeros to a multiple of it: 16, or 32 for int8.

    Raises:
        UsageError: training mode, or `multiple` is below 1.
        InputError: a layer has mixed dtypes, values that are not finite, or a batch norm that was never trained.
        GateError: a merged layer, or the network, deviates from what it replaces.
    """
    if multiple < 1:
        raise UsageError(
            f"rows cannot be padded to a multiple of {multiple}", where="multiple", fix="16, or 32 for int8"
        )
    refuse_training_mode(module, "reparameterize")
    merged = copy.deepcopy(module)
    layers = []
    for name, part in meltable_layers(merged).items():
        body = part.body
        assert isinstance(body, IdleBody)
        part.body = merge(body, fold_identity, multiple, name or "feed-forward")
        layers.append(_checked(name, body, part.body, merge(_double(body), fold_identity, multiple)))
    deviation = None if example is None else check_same(module, merged, example, "reparameterize")
    return Merged(merged, tuple(layers), deviation)


@dataclass(frozen=True)
class Reparameterize:
    """Merge channel-idle feed-forward layers (RePaViT); a network without them is left as it is.

    The identity stays a residual by default, since the same graph may become int8: there, folding costs 16 dB of
    signal (DeiT-S, dynamic int8), while not folding costs a few percent of time in fp32.
    """

    fold_identity: bool = False
    multiple: int = 32
    name: ClassVar[str] = "reparameterize"
    follows: ClassVar[tuple[str | None, ...]] = (None, "fuse")

    def apply(self, module: nn.Module, example: tuple[Tensor, ...]) -> tuple[nn.Module, dict[str, Any]]:
        merged = reparameterize(module, example, fold_identity=self.fold_identity, multiple=self.multiple)
        return merged.module, merged.record


def _double(body: IdleBody) -> IdleBody:
    return copy.deepcopy(body).double()


def _checked(name: str, body: IdleBody, merged: MergedBody, exact: MergedBody) -> MergedLayer:
    """Compare on drawn tokens, as the layer's norm has seen them in training.

    Raises:
        GateError: the float64 merge is off by more than `EXACT`, or the rounded one by more than its dtype allows.
    """
    dtype = body.fc1.weight.dtype
    x = _tokens(body)
    with torch.no_grad():
        off = _relative(_double(body)(x), exact(x))
        rounded = _relative(body(x.to(dtype)), merged(x.to(dtype)))
    for deviation, allowed, what in ((off, EXACT, torch.float64), (rounded, TOLERANCE[dtype], dtype)):
        if not deviation <= allowed:
            raise GateError(
                "reparameterize changed what a layer computes",
                where=name,
                why=f"relative deviation {deviation:.3g}, allowed {allowed:.3g} in {what}",
                fix="its weights are ill-conditioned in this dtype: merge in a wider one, and report it",
            )
    return MergedLayer(name, body.shape.active, merged.shape.active, merged.shape.identity, off, rounded)


def _tokens(body: IdleBody) -> Tensor:
    """Drawn input, float64 (SAMPLES, width) or (1, width, 8, 8), with the statistics of a batch norm in front."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, body.shape.width, dtype=torch.float64, generator=random).to(body.fc1.weight.device)
    norm = body.norm
    if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.running_mean is not None:
        assert norm.running_var is not None
        x = x * norm.running_var.double().sqrt() + norm.running_mean.double()
    return x if body.shape.layout == "tokens" else x.T.reshape(1, body.shape.width, 8, 8)


def _relative(wanted: Tensor, got: Tensor) -> float:
    wanted, got = wanted.double(), got.double()
    return float((wanted - got).abs().max() / wanted.abs().max().clamp(min=1e-6))
