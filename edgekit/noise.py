"""Which layer hurts: the noise that quantization puts on each layer's result, with the line of code that made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgekit.bundle import LayerNoise
from edgekit.bundle.manifest import Origin
from edgekit.graph.layers import find_layers, settled
from edgekit.graph.quantspec import QuantSpec
from edgekit.graph.wiring import Wiring

Arrays = Mapping[str, npt.NDArray[np.float32]]

LARGEST_DB = 200.0
"""Reported where a tensor is reproduced to the last digit: float32 itself ends near 150 dB."""


def snr_db(reference: npt.NDArray[np.floating], candidate: npt.NDArray[np.floating]) -> float:
    """10 log10(sum a^2 / sum (a - b)^2) in decibels, at most 200; of a silent reference, -200 where it is not met."""
    exact = reference.astype(np.float64)
    signal, noise = float((exact**2).sum()), float(((exact - candidate.astype(np.float64)) ** 2).sum())
    if noise == 0:
        return LARGEST_DB
    if signal == 0:
        return -LARGEST_DB
    return max(-LARGEST_DB, min(LARGEST_DB, 10 * math.log10(signal / noise)))


def layer_noise(
    canonical: Wiring, spec: QuantSpec, origins: Mapping[str, Origin], reference: Arrays, candidate: Arrays
) -> tuple[LayerNoise, ...]:
    """The layers of `spec`, the worst first.

    Args:
        canonical: the float graph before equalisation.
        origins: of its nodes.
        reference: its tensors on some input, by name.
        candidate: the lowered graph's on the same input; rounded ones are called `t/dq`.
    """
    layers, _ = find_layers(canonical)
    rows = []
    for name in spec.layers:
        tensor = settled(layers[name].output, canonical)
        got = candidate.get(f"{tensor}/dq", candidate.get(tensor))
        wanted = reference.get(tensor)
        if got is None or wanted is None or got.shape != wanted.shape:
            continue
        origin = origins.get(name)
        place = (origin.module, origin.file, origin.line) if origin else (None, None, None)
        rows.append(LayerNoise(name, tensor, snr_db(_rescaled(wanted, spec.divisors.get(tensor)), got), *place))
    return tuple(sorted(rows, key=lambda row: row.snr_db))


def fallen(
    before: Sequence[LayerNoise], now: Iterable[LayerNoise], allowed_db: float
) -> list[tuple[LayerNoise, float]]:
    """The layers that lost more than `allowed_db` since `before`, the first in the graph first, with what they had."""
    had = {row.node: row.snr_db for row in before}
    return [(row, had[row.node]) for row in now if row.node in had and had[row.node] - row.snr_db > allowed_db]


def _rescaled(values: npt.NDArray[np.float32], divisors: Sequence[float] | None) -> npt.NDArray[np.floating]:
    """The tensor as equalisation left it: channels stand on axis 1 of pictures and on the last of everything else."""
    if divisors is None:
        return values
    shape = [1] * values.ndim
    shape[1 if values.ndim == 4 else -1] = -1
    rescaled: npt.NDArray[np.floating] = values / np.asarray(divisors).reshape(shape)
    return rescaled
