"""Folds every block that knows its deployed form, and proves that the network still computes the same."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgekit.errors import GateError, UsageError
from edgekit.models.blocks import Fusable, fold_batch_norm

# Largest deviation allowed, relative to the largest output: room for the rounding of some fifty folded layers.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def fuse(module: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """Return a copy of `module` with every normalization and branch merged into its convolution.

    Folded are modules that offer `fused()` and, inside `nn.Sequential`, a `Conv2d` followed by a `BatchNorm2d` with
    running statistics; subclasses of the two may compute something else and are left alone. A second call changes
    nothing.

    Args:
        module: a network in evaluation mode; it is not modified.
        example: inputs on which both forms are compared, in the module's dtype.

    Raises:
        UsageError: the module is in training mode: its norms would use statistics of the batch.
        GateError: the fused network deviates beyond `TOLERANCE`.
    """
    refuse_training_mode(module, "fuse")
    fused = _fuse_children(copy.deepcopy(module))
    check_same(module, fused, example, "fuse")
    return fused


def refuse_training_mode(module: nn.Module, step: str) -> None:
    """Raise `UsageError` where any part of `module` is in training mode."""
    training = next((name or "the module itself" for name, part in module.named_modules() if part.training), None)
    if training is not None:
        raise UsageError(
            f"{step} was given a module in training mode",
            where=training,
            why="in training mode, normalization uses the statistics of the batch, which nothing can fold",
            fix="call module.eval() first",
        )


def check_same(before: nn.Module, after: nn.Module, example: tuple[Tensor, ...], step: str) -> float:
    """The largest deviation of `after` from `before` on `example`, relative to the largest output.

    Raises:
        GateError: beyond the tolerance of the output's dtype, not finite, of another shape, or nothing to compare.
    """
    with torch.no_grad():
        wanted, got = _tensors(before(*example)), _tensors(after(*example))
    if [a.shape for a in wanted] != [b.shape for b in got] or not wanted:
        raise GateError(
            f"{step} cannot be checked",
            where="outputs",
            why=f"{[tuple(b.shape) for b in got]} instead of {[tuple(a.shape) for a in wanted]}",
            fix="the network must return tensors, and rewriting it must keep their shapes",
        )
    worst = 0.0
    for index, (a, b) in enumerate(zip(wanted, got, strict=True)):
        deviation = _deviation(a, b)
        tolerance = TOLERANCE.get(a.dtype, 0.0)  # integers and booleans are equal or they are not
        if not deviation <= tolerance:
            raise GateError(
                f"{step} changed what the network computes",
                where=f"output {index}",
                why=f"relative deviation {deviation:.3g}, allowed {tolerance:.3g} in {a.dtype}",
                fix="a module's fused() is not equal to its forward()",
            )
        worst = max(worst, deviation)
    return worst


def _fuse_children(module: nn.Module) -> nn.Module:
    if isinstance(module, Fusable):
        return module.fused()
    if isinstance(module, nn.Sequential):
        _fold_pairs(module)
    for name, child in module.named_children():
        setattr(module, name, _fuse_children(child))
    return module


def _fold_pairs(sequence: nn.Sequential) -> None:
    for index in range(len(sequence) - 1):
        conv, bn = sequence[index], sequence[index + 1]
        if type(conv) is nn.Conv2d and type(bn) is nn.BatchNorm2d and bn.running_mean is not None:
            sequence[index] = fold_batch_norm(conv, bn)
            sequence[index + 1] = nn.Identity().eval()  # a new module is in training mode


def _deviation(a: Tensor, b: Tensor) -> float:
    """max|a - b| / max(1e-6, max|a|), in float64; 0 for empty tensors."""
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-6))


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list):
        return [tensor for item in output for tensor in _tensors(item)]
    if isinstance(output, dict):
        return [tensor for item in output.values() for tensor in _tensors(item)]
    return []
