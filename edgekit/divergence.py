"""Finds where a bundle leaves its parent: in the torch module that the export changed, or in the target's runtime."""

from __future__ import annotations

import numpy as np
import torch

from edgekit.errors import EdgekitError
from edgekit.evaluate.parity import compare, first_divergence
from edgekit.exporters import Exported
from edgekit.graph.graph import Graph, serialize, with_all_outputs
from edgekit.runtimes.backend import Backend, EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.samples import Feeds, Sample
from edgekit.sources import Parent, TorchParent, flat_tensors


def first_divergence_of(
    parent: Parent, canonical: Graph, exported: Exported, backend: Backend, sample: Sample, tolerance: float
) -> str:
    """One line that names the culprit, as closely as it can be known.

    First the torch modules are compared with the canonical graph in ONNX Runtime, then the canonical graph with the
    lowered one in the target's runtime, tensor by tensor in the order of computation.
    """
    settings = {} if exported.rehearsal else dict(exported.settings)
    try:
        reference = trace(canonical, ORT, sample.bundle, {})
        candidate = trace(exported.graph, backend, sample.bundle, settings)
    except EdgekitError as error:
        return f"unknown: the graph cannot be traced tensor by tensor ({error.what})"
    wanted = parent.run(sample.parent)
    before_runtime = [gap for gap in compare(wanted, {name: reference[name] for name in wanted if name in reference})]
    if not all(gap.within(tolerance) for gap in before_runtime):
        found = _diverging_module(parent, canonical, reference, sample, tolerance)
        return found or f"output {before_runtime[0].tensor!r} of the canonical graph, before any runtime"
    same_dtype = {name: got.astype(reference[name].dtype) for name, got in candidate.items() if name in reference}
    gap = first_divergence(reference.items(), same_dtype, tolerance)
    if gap is not None:
        producer = {output: node.name for node in canonical.model.graph.node for output in node.output}
        return f"tensor {gap.tensor!r} in {backend.name}, computed by {_describe(canonical, producer[gap.tensor])}"
    return f"no tensor of the lowered graph diverges in {backend.name}: the written files differ from it"


def trace(graph: Graph, backend: Backend, feeds: Feeds, settings: dict[str, str]) -> dict[str, np.ndarray]:
    """Every tensor that `graph` computes on `feeds`, in order."""
    traced = with_all_outputs(graph.model)
    names = tuple(value.name for value in traced.graph.output)
    engine = backend.open(EngineRequest(serialize(traced), settings=settings, outputs=names))
    outputs = engine.run(feeds)
    order = [name for node in graph.model.graph.node for name in node.output if name in outputs]
    return {name: outputs[name] for name in order}


def _diverging_module(
    parent: TorchParent, canonical: Graph, reference: dict[str, np.ndarray], sample: Sample, tolerance: float
) -> str | None:
    """The first torch module whose output is not what the graph computes for it; None where all agree.

    A module's output is the last tensor of the graph that comes from inside it. Modules that a rewrite gave another
    shape are skipped: their successors tell.
    """
    for module, value in _module_outputs(parent, sample.parent).items():
        nodes = [
            node
            for node in canonical.model.graph.node
            if (origin := canonical.origins.get(node.name)) and f"{origin.module}.".startswith(f"{module}.")
        ]
        got = reference.get(nodes[-1].output[0]) if nodes else None
        if got is None or got.shape != value.shape or got.dtype != value.dtype:
            continue
        if not compare({module: value}, {module: got})[0].within(tolerance):
            return f"torch module {module!r} and {_describe(canonical, nodes[-1].name)}, before any runtime"
    return None


def _module_outputs(parent: TorchParent, feeds: Feeds) -> dict[str, np.ndarray]:
    outputs: dict[str, np.ndarray] = {}
    hooks = []
    for name, module in parent.module.named_modules():
        if name:

            def record(_: object, __: object, output: object, name: str = name) -> None:
                if isinstance(output, torch.Tensor):
                    outputs[name] = flat_tensors(output)[0].detach().numpy().copy()

            hooks.append(module.register_forward_hook(record))
    try:
        parent.run(feeds)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _describe(graph: Graph, node: str) -> str:
    origin = graph.origins.get(node)
    if origin is None:
        return f"node {node!r}"
    line = f" ({origin.file}:{origin.line})" if origin.file else ""
    return f"node {node!r} of module {origin.module!r}{line}"
