"""Which layers cost most for what they save: each is quantized alone, and what the outputs lose is measured.

Alone, not returned alone: errors of layers add up to some degree, but what one layer less in int8 changes drowns in
how the noise of all the others falls. On FemtoDet, returning a layer that is in fact to blame made outputs worse as
often as better, and 30 % of the multiply-accumulates in this order took two thirds of the outputs' error away, in the
other order half (ONNX Runtime, 16 pictures of BCCD's training set that set no range).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edgekit.compress.judge import Judge
from edgekit.compress.ptq import PreparedGraph


def by_sensitivity(prepared: PreparedGraph, judge: Judge, macs: Mapping[str, int]) -> tuple[str, ...]:
    """The int8 layers, those first that add most to the outputs' error for each multiply-accumulate.

    Args:
        judge: a few samples are enough; every layer is run on each.
        macs: multiply-accumulates by node name; a layer that is not there counts as one.
    """
    layers = prepared.spec()[1].layers
    if len(layers) < 2:
        return layers
    density = {
        name: judge.error(*prepared.spec([other for other in layers if other != name])) / max(1, macs.get(name, 1))
        for name in layers
    }
    return tuple(sorted(layers, key=lambda name: -density[name]))


def affordable(order: Sequence[str], macs: Mapping[str, int], allowance: float) -> tuple[str, ...]:
    """The layers of `order` that fit into `allowance` multiply-accumulates, each if it fits behind those before it.

    The last of `order` is never among them, so that something stays in int8.
    """
    taken: list[str] = []
    for name in order[:-1]:
        if macs.get(name, 1) <= allowance:
            taken.append(name)
            allowance -= macs.get(name, 1)
    return tuple(taken)


def tries(
    order: Sequence[str], macs: Mapping[str, int], allowance: float, shares: Iterable[float]
) -> tuple[tuple[str, ...], ...]:
    """What to return to float, try by try, each larger than the one before: `affordable` at shares of `allowance`."""
    found: list[tuple[str, ...]] = []
    for share in shares:
        layers = affordable(order, macs, share * allowance)
        if layers and layers not in found:
            found.append(layers)
    return tuple(found)
