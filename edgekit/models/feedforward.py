"""The channel-idle feed-forward layer of RePaViT, and the three matrices it melts into (Xu et al., arXiv 2505.21847).

In training, a share of the hidden channels passes by the activation: their path through both layers is linear, and is
merged afterwards. With n = norm(x), k active channels and h hidden ones (row vectors, equation 2 and 6 there):

    z = n W1' + b1;  a = [act(z[:k]), z[k:]];  y = x + scale (norm2(a) W2' + b2)
    merged:  y = act(n A' + a0) B' + n M' + c + x,  where M = W2[:, k:] W1[k:] has the size of the tokens' width

`batch` is the paper's normalization: batch norms before either linear layer, so that all of the norm melts as well and
the identity may be folded into M. `layer` keeps a LayerNorm in front, of which only the affine part melts: as exact,
fit for a batch of one and for weights that were trained with LayerNorm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.errors import InputError, UnsupportedError, UsageError
from edgekit.models.blocks import batch_norm_affine
from edgekit.models.idle import MULTIPLE, Activation, IdleShape, Layout, MergedShape, merged_shape

FOLDED = (torch.float64, torch.float32, torch.float16)  # dtypes in which 1 on the diagonal costs no precision elsewhere


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), as in CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, type[nn.Module]] = {"gelu": nn.GELU, "quick-gelu": QuickGELU, "relu": nn.ReLU}


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis; every token counts as a sample."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, self.num_features)).reshape(x.shape)


class LayerScale(nn.Module):
    """A learned factor a channel (Touvron et al., arXiv 2103.17239)."""

    def __init__(self, width: int, initial: float, layout: Layout = "tokens") -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.gamma if self.layout == "tokens" else self.gamma.view(-1, 1, 1))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv 1603.09382): a sample's branch is left out with this probability."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        keep = 1 - self.probability
        return x * x.new_empty((x.shape[0], *[1] * (x.ndim - 1))).bernoulli_(keep) / keep


def scale_of(width: int, initial: float | None, layout: Layout = "tokens") -> nn.Module:
    """A `LayerScale`, or nothing."""
    return nn.Identity() if initial is None else LayerScale(width, initial, layout)


class IdleBody(nn.Module):
    """The layer as it is trained, residual included.

    Exporting it is refused where it would melt: it runs no faster than a plain layer, and the gain would be lost
    silently. `allow_export` is for those who want to measure just that.
    """

    allow_export = False

    def __init__(self, shape: IdleShape) -> None:
        super().__init__()
        self.shape = shape
        batch = shape.normalization == "batch"
        self.norm = _batch_norm(shape, shape.width) if batch else _layer_norm(shape, affine=True)
        self.fc1 = _dense(shape.layout, shape.width, shape.hidden)
        self.act = ACTIVATIONS[shape.activation]()
        self.norm2 = _batch_norm(shape, shape.hidden) if batch else nn.Identity()
        self.fc2 = _dense(shape.layout, shape.hidden, shape.width)
        self.scale = scale_of(shape.width, shape.layer_scale, shape.layout)
        self.drop_path = DropPath(shape.drop_path)

    @property
    def meltable(self) -> bool:
        """Whether merging changes anything."""
        return self.shape.active < self.shape.hidden or self.shape.normalization == "batch"

    def forward(self, x: Tensor) -> Tensor:
        if self.meltable and not self.allow_export and _exporting():
            raise UnsupportedError(
                "a channel-idle layer is exported before it was merged: put the step 'reparameterize' into the recipe",
                where=type(self).__name__,
                why="unmerged it is no faster than a plain layer",
                fix="--steps reparameterize, or edgekit.compress.repavit.reparameterize(module)",
            )
        out: Tensor = x + self.drop_path(self.scale(self.fc2(self.norm2(self._activated(self.fc1(self.norm(x)))))))
        return out

    def _activated(self, z: Tensor) -> Tensor:
        active, hidden = self.shape.active, self.shape.hidden
        if active in (0, hidden):
            out: Tensor = self.act(z) if active else z
            return out
        axis = -1 if self.shape.layout == "tokens" else 1
        seen, idle = torch.split(z, [active, hidden - active], dim=axis)
        return torch.cat([self.act(seen), idle], dim=axis)


class MergedBody(nn.Module):
    """The layer as it is deployed, with keys of their own: `up`, `down` and `linear`."""

    def __init__(self, shape: MergedShape) -> None:
        super().__init__()
        self.shape = shape
        width, active, layout = shape.width, shape.active, shape.layout
        self.norm = nn.Identity() if shape.normalization == "none" else _layer_norm(shape, affine=False)
        self.linear = _dense(layout, width, width) if shape.linear else None
        self.up = _dense(layout, width, active) if active else None
        self.act = ACTIVATIONS[shape.activation]()
        self.down = _dense(layout, active, width, bias=not shape.linear) if active else None

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        parts = [] if self.linear is None else [self.linear(n)]
        if self.up is not None and self.down is not None:
            parts.append(self.down(self.act(self.up(n))))
        out: Tensor = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return out if self.shape.identity == "folded" else x + out


class FeedForward(nn.Module):
    """A residual feed-forward layer that can melt in place; `body` is one of its two forms."""

    def __init__(self, shape: IdleShape) -> None:
        super().__init__()
        self.body: IdleBody | MergedBody = IdleBody(shape)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    @property
    def meltable(self) -> bool:
        """Whether `reparameterize` would change anything."""
        return isinstance(self.body, IdleBody) and self.body.meltable

    def reparameterize(self) -> None:
        """Merge in place, as timm's `reparameterize_model` expects; a second call changes nothing.

        Raises:
            UsageError, InputError: see `merge`.
        """
        if isinstance(self.body, IdleBody) and self.body.meltable:
            self.body = merge(self.body)


def merge(
    body: IdleBody, fold: bool | None = None, multiple: int = MULTIPLE, where: str = "feed-forward"
) -> MergedBody:
    """The deployed form, computed in float64 and rounded once to the dtype of `body`, which is left as it is.

    Args:
        fold: add the identity to the merged matrix, where a norm does not stand in between. None does so in the dtypes
            of `FOLDED`. For int8 it must not be: a diagonal of 1 sets the step of weights fifty times smaller.
        multiple: rows of the first matrix are padded with zeros to a multiple of it; none is ever dropped.

    Raises:
        UsageError: training mode.
        InputError: mixed dtypes, values that are not finite, or a batch norm that was never trained.
    """
    refuse_unmergeable(body, where)
    shape, active, dtype = body.shape, body.shape.active, body.fc1.weight.dtype
    w1, b1, w2, b2 = _folded(body)
    out = MergedBody(merged_shape(shape, dtype in FOLDED if fold is None else fold, multiple))
    out.to(device=body.fc1.weight.device, dtype=dtype)
    if out.linear is not None:
        matrix = w2[:, active:] @ w1[active:]
        if out.shape.identity == "folded":
            matrix = matrix + torch.eye(shape.width, dtype=matrix.dtype, device=matrix.device)
        _fill(out.linear, matrix, w2[:, active:] @ b1[active:] + b2)
    if out.up is not None and out.down is not None:
        rest = out.shape.active - active
        _fill(out.up, F.pad(w1[:active], (0, 0, 0, rest)), F.pad(b1[:active], (0, rest)))
        _fill(out.down, F.pad(w2[:, :active], (0, rest)), None if out.shape.linear else b2)
    return out.eval()


def meltable_layers(module: nn.Module) -> dict[str, FeedForward]:
    """The channel-idle layers of a network that are not merged yet, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, FeedForward) and part.meltable}


def refuse_unmergeable(body: IdleBody, where: str) -> None:
    """Raise where `body` cannot be merged; see `merge`."""
    if any(part.training for part in body.modules()):
        raise UsageError(
            "a layer in training mode cannot be merged",
            where=where,
            why="in training mode, normalization uses the statistics of the batch, which nothing can fold",
            fix="call module.eval() first",
        )
    tensors = {key: value for key, value in body.state_dict().items() if value.is_floating_point()}
    dtypes = sorted({str(value.dtype) for value in tensors.values()})
    if len(dtypes) > 1:
        raise InputError(
            f"a layer holds {' and '.join(dtypes)}", where=where, why="one dtype is merged", fix="call module.to(dtype)"
        )
    broken = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError("weights are not finite", where=f"{where}: {', '.join(broken)}", fix="use another checkpoint")
    for name, norm in body.named_modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and _untrained(norm):
            raise InputError(
                "a batch norm was never trained",
                where=f"{where}.{name}",
                why="its running variance is zero, or its statistics are those it was made with",
                fix="train the network, or load a checkpoint with its running statistics",
            )


def _untrained(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return True
    return not bool((variance > 0).any()) or bool((mean == 0).all() and (variance == 1).all())


def _folded(body: IdleBody) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W1 (hidden, width), b1, W2 (width, hidden), b2 in float64, with norms and the branch's scale folded in.

    W1 s1, b1 + W1 t1; W2 s2, b2 + W2 t2; then both of the latter times gamma.
    """
    w1, b1 = _read(body.fc1)
    w2, b2 = _read(body.fc2)
    factor, shift = _affine(body.norm)
    b1 = b1 + w1 @ shift
    w1 = w1 * factor
    if not isinstance(body.norm2, nn.Identity):
        factor, shift = _affine(body.norm2)
        b2 = b2 + w2 @ shift
        w2 = w2 * factor
    if isinstance(body.scale, LayerScale):
        gamma = body.scale.gamma.detach().double()
        w2, b2 = gamma[:, None] * w2, gamma * b2
    return w1, b1, w2, b2


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Factor and shift of a norm, float64 (channels,)."""
    if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        return batch_norm_affine(norm)
    assert isinstance(norm, nn.LayerNorm | nn.GroupNorm)
    return norm.weight.detach().double(), norm.bias.detach().double()


def _read(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight.detach().double().flatten(1), layer.bias.detach().double()


@torch.no_grad()
def _fill(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    if layer.bias is not None and bias is not None:
        layer.bias.copy_(bias)


def _dense(layout: Layout, inputs: int, outputs: int, bias: bool = True) -> nn.Linear | nn.Conv2d:
    return nn.Linear(inputs, outputs, bias) if layout == "tokens" else nn.Conv2d(inputs, outputs, 1, bias=bias)


def _batch_norm(shape: IdleShape, channels: int) -> nn.Module:
    return (TokenBatchNorm if shape.layout == "tokens" else nn.BatchNorm2d)(channels, shape.eps)


def _layer_norm(shape: IdleShape | MergedShape, affine: bool) -> nn.Module:
    if shape.layout == "tokens":
        return nn.LayerNorm(shape.width, shape.eps, elementwise_affine=affine)
    return nn.GroupNorm(1, shape.width, shape.eps, affine=affine)


def _exporting() -> bool:
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
