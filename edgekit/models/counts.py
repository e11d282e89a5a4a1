"""Parameters and multiply-accumulates of a network, in the two conventions that papers mix.

RePaViT's table 1 counts `layers` and its figure 2 counts `all`; for DeiT-B these are 16.85 and 17.56 GMAC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class HasProducts(Protocol):
    """A module that multiplies activations with one another, as attention does."""

    def product_macs(self, x: Tensor) -> int:
        """Multiply-accumulates of these products for the input `x`."""
        ...


@dataclass(frozen=True)
class Counts:
    """What a network costs for one sample.

    Attributes:
        parameters: learned numbers; statistics of norms are none.
        macs_layers: of linear layers and convolutions alone, without biases: what ptflops reports.
        macs_all: with the products of attention, query times key and weights times value.
    """

    parameters: int
    macs_layers: int
    macs_all: int


def count(module: nn.Module, shape: tuple[int, ...]) -> Counts:
    """Count `module` on one input of `shape`, batch axis included and 1; on the device `meta` no memory is used."""
    layers = products = 0

    def hook(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal layers, products
        if isinstance(part, nn.Linear):
            layers += output.numel() * part.in_features
        elif isinstance(part, nn.Conv2d):
            layers += output.numel() * part.weight[0].numel()
        elif isinstance(part, HasProducts):
            products += part.product_macs(inputs[0])

    handles = [part.register_forward_hook(hook) for part in module.modules()]
    try:
        device = next(module.parameters()).device
        with torch.no_grad():
            module(torch.zeros(shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return Counts(sum(parameter.numel() for parameter in module.parameters()), layers, layers + products)
