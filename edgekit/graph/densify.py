"""Grouped convolutions as dense ones, where the zeros cost less than a kernel for each group."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from edgekit.graph.graph import Graph
from edgekit.graph.layers import Layer, find_layers
from edgekit.graph.passes import check, infer_shapes
from edgekit.graph.wiring import Wiring, copy_of, replace_weight

MOST_GROUPS = 4
"""A dense weight multiplies `groups` times as often; TensorRT runs int8 groups one by one (NVIDIA/TensorRT#4529)."""


def densify(graph: Graph, names: Collection[str]) -> Graph:
    """The graph with those of the 1x1 convolutions `names` that have few groups made dense; it computes the same."""
    wiring = Wiring(graph.model)
    found, _ = find_layers(wiring)
    chosen = [found[name] for name in names if name in found and _worthwhile(found[name], wiring)]
    if not chosen:
        return graph
    model = copy_of(graph.model)
    for layer in chosen:
        replace_weight(model, layer.weight, _dense(wiring.weight(layer.weight), layer.groups))
        node = next(node for node in model.graph.node if node.name == layer.name)
        kept = [a for a in node.attribute if a.name != "group"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return graph.then(f"densify:{len(chosen)}", check(infer_shapes(model)))


def _worthwhile(layer: Layer, wiring: Wiring) -> bool:
    dims = wiring.weights[layer.weight].dims
    pointwise = layer.node.op_type == "Conv" and all(size == 1 for size in dims[2:])
    return pointwise and 1 < layer.groups <= MOST_GROUPS and len(wiring.consumers[layer.weight]) == 1


def _dense(weight: np.ndarray, groups: int) -> np.ndarray:
    """Block-diagonal: (outputs, inputs / groups, 1, 1) becomes (outputs, inputs, 1, 1)."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    dense = np.zeros((weight.shape[0], inputs * groups, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        dense[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return dense
