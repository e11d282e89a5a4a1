"""Takes a bundle's landmarks: values of every float tensor of a lowered graph, as the half reference computes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from edgekit.bundle.landmarks import MOST_VALUES, SCHEMA, Landmark, Landmarks, write_landmarks
from edgekit.graph.graph import Graph
from edgekit.graph.half_reference import open_half, origin_of
from edgekit.graph.islands import read_names

_CHOOSING = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress", "TopK"})
_AT_ONCE = 64
"""Tensors a run: more would hold all activations of a large model at the same time."""


def landmarks(graph: Graph, feeds: Mapping[str, np.ndarray], selftest: int = 0) -> bytes:
    """The content of `landmarks.json`.

    Integers, what weights alone determine, empty tensors and tensors without a finite element have no landmark; nor has
    what follows from a choice among values, such as suppression: its size is not known, and near-equal scores flip it.

    Args:
        graph: the lowered graph, fp16 or fp16 with Q/DQ, as it stands in the bundle.
        feeds: the inputs of self-test number `selftest`.

    Raises:
        InputError, UnsupportedError: the half reference cannot run the graph.
    """
    nodes = _depending_on(graph, set(feeds))
    makers = {name: node for node in nodes for name in node.output if name}
    names = list(makers)
    found: list[Landmark] = []
    engine = open_half(graph, names)
    try:
        for start in range(0, len(names), _AT_ONCE):
            values = engine.run_for(names[start : start + _AT_ONCE], feeds)
            found += [_landmark(graph, name, makers[name], value) for name, value in values.items() if _tells(value)]
    finally:
        engine.close()
    return write_landmarks(Landmarks(SCHEMA, selftest, tuple(found)))


def _tells(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind == "f" and bool(np.isfinite(value).any())


def _depending_on(graph: Graph, known: set[str]) -> list[NodeProto]:
    nodes = []
    chosen: set[str] = set()
    for node in graph.model.graph.node:
        if node.op_type in _CHOOSING or not chosen.isdisjoint(read_names(node)):
            chosen |= set(node.output)
        elif not known.isdisjoint(read_names(node)):
            known = known | set(node.output)
            nodes.append(node)
    return nodes


def _landmark(graph: Graph, name: str, node: NodeProto, value: npt.NDArray[np.floating]) -> Landmark:
    flat = value.reshape(-1).astype(np.float64)
    indices = _indices(flat)
    origin = origin_of(graph, node)
    line = f"{origin.file}:{origin.line}" if origin is not None and origin.file else None
    return Landmark(
        tensor=name,
        node=node.name,
        op=node.op_type,
        module=None if origin is None else origin.module,
        line=line,
        shape=tuple(value.shape),
        indices=tuple(indices.tolist()),
        values=tuple(flat[indices].tolist()),
        max_abs=float(np.abs(flat[np.isfinite(flat)]).max()),
    )


def _indices(flat: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The largest finite element and finite ones evenly spread over the tensor, ascending."""
    finite = np.flatnonzero(np.isfinite(flat))
    spread = finite[np.linspace(0, finite.size - 1, MOST_VALUES - 1).round().astype(np.int64)]
    largest = finite[np.abs(flat[finite]).argmax()]
    return np.unique(np.append(spread, largest))
