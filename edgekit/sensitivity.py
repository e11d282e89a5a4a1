"""Which layers cost most: each is returned to float alone, and what the outputs gain is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.compress.ptq import PreparedGraph
from edgekit.graph.graph import Graph
from edgekit.graph.qdq import lower
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT

Feeds = Mapping[str, np.ndarray]


def by_sensitivity(
    prepared: PreparedGraph, canonical: Graph, runtime: str, samples: Sequence[Feeds]
) -> tuple[str, ...]:
    """The int8 layers, those first whose return to float lowers the outputs' error most.

    The lowered graphs are computed by ONNX Runtime whatever their dialect: integers and scales are what differ.

    Args:
        samples: a few inputs; the error is the sum over outputs of squared deviations over squared values.
    """
    wanted = [_outputs(canonical, feeds) for feeds in samples]
    _, full = prepared.spec()

    def error(returned: tuple[str, ...]) -> float:
        graph, spec = prepared.spec(returned)
        engine = ORT.open(EngineRequest(lower(graph, spec, runtime).serialized()))
        try:
            return sum(_distance(want, engine.run(feeds)) for want, feeds in zip(wanted, samples, strict=True))
        finally:
            engine.close()

    remaining = {name: error((name,)) for name in full.layers} if len(full.layers) > 1 else {}
    return tuple(sorted(remaining, key=lambda name: remaining[name]))


def _outputs(graph: Graph, feeds: Feeds) -> dict[str, np.ndarray]:
    engine = ORT.open(EngineRequest(graph.serialized()))
    try:
        return engine.run(feeds)
    finally:
        engine.close()


def _distance(wanted: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> float:
    total = 0.0
    for name, values in wanted.items():
        if values.dtype.kind == "f":
            exact = values.astype(np.float64)
            total += float(((exact - got[name]) ** 2).sum() / max(1e-30, float((exact**2).sum())))
    return total
