"""Times layer by layer, from a run of their own, with the torch module that each layer came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgekit.bundle import Bundle, Origin
from edgekit.errors import UnsupportedError
from edgekit.profiler.report import Layer
from edgekit.runtimes.backend import LayerTimer
from edgekit.runtimes.session import backend_named, engine_request

RUNS = 30

# What runtimes append to names; ONNX Runtime also calls a node by its output, for which torch's exporter says `node_`.
_DECORATION = re.compile(r"(/WithoutBiases|_token_\d+|_nchwc|_quant|/fused.*|_\d+)$")


def layer_times(
    bundle: Bundle, feeds: Mapping[str, np.ndarray], *, threads: int | None = None, precision: str | None = None
) -> tuple[Layer, ...]:
    """The layers in the order of their cost.

    Raises:
        UnsupportedError: the runtime does not time layers.
    """
    name = bundle.manifest.target.runtime.name
    backend = backend_named(name)
    if not isinstance(backend, LayerTimer):
        raise UnsupportedError(
            f"{name} does not time layers here", where=name, fix="its own tools do: trtexec --dumpProfile"
        )
    request = replace(engine_request(bundle, precision), threads=threads)
    origins = bundle.manifest.origins
    found = [
        Layer(each.node, each.op, each.median_ms, *_origin(each.node, origins), each.precision)
        for each in backend.layer_times(request, feeds, RUNS)
    ]
    return tuple(sorted(found, key=lambda layer: -layer.median_ms))


def _origin(node: str, origins: Mapping[str, Origin]) -> tuple[str | None, str | None]:
    """The module and line of the graph node that a runtime's name begins with; the longest that fits."""
    name = node
    while (origin := origins.get(name) or origins.get(f"node_{name}")) is None:
        shorter = _DECORATION.sub("", name)
        if shorter == name:
            return None, None
        name = shorter
    return origin.module, f"{origin.file}:{origin.line}" if origin.file else None
