"""The models that the benchmarks run: FemtoDet unfused and deployed, as ONNX bytes."""

from __future__ import annotations

from functools import cache

from edgekit.compress import Recipe
from edgekit.config import Config, ExportOptions, ModelOptions
from edgekit.graph.image_input import with_uint8_nhwc_input
from edgekit.sources import open_source


@cache
def femtodet_onnx(*steps: str, uint8: bool = False) -> bytes:
    """FemtoDet after the recipe's steps (none: as it was trained), with a symbolic batch."""
    parent = open_source("femtodet")
    graph, _ = parent.to_graph(parent.spec, Recipe.parse(steps), opset=20, ir_version=10)
    if uint8:
        graph, _ = with_uint8_nhwc_input(graph, parent.spec)
    return graph.serialized()


def export_options(**export: object) -> Config:
    """A configuration that exports the shipped FemtoDet."""
    return Config(model=ModelOptions(), export=ExportOptions(**export))  # type: ignore[arg-type]
