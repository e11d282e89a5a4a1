"""Ranges and histograms of every activation of a graph: what int8 calibrates on where the data may not travel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.graph.graph import Graph, serialize, with_all_outputs
from edgekit.runtimes.backend import Engine, EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT

BINS = 1024

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Statistics:
    """What was seen of one tensor.

    Attributes:
        low, high: smallest and largest value.
        histogram: int64 (bins,), counts in equal bins from `low` to `high`.
    """

    low: float
    high: float
    histogram: np.ndarray


def tensor_statistics(graph: Graph, samples: Callable[[], Iterable[Feeds]], bins: int = BINS) -> dict[str, Statistics]:
    """Statistics by tensor name, inputs included, over all samples.

    Args:
        samples: called twice: a first pass finds the ranges, a second fills the histograms.
    """
    traced = with_all_outputs(graph.model)
    engine = ORT.open(EngineRequest(serialize(traced)))
    ranges: dict[str, tuple[float, float]] = {}
    for name, values in _observed(engine, samples()):
        low, high = ranges.get(name, (np.inf, -np.inf))
        ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))
    counts = {name: np.zeros(bins, np.int64) for name in ranges}
    for name, values in _observed(engine, samples()):
        counts[name] += np.histogram(values, bins, ranges[name])[0]
    return {name: Statistics(low, high, counts[name]) for name, (low, high) in ranges.items()}


def _observed(engine: Engine, samples: Iterable[Feeds]) -> Iterable[tuple[str, np.ndarray]]:
    for feeds in samples:
        for name, values in {**feeds, **engine.run(feeds)}.items():
            if values.dtype.kind == "f" and values.size:
                yield name, values
