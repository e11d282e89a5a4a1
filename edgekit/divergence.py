"""Finds where a bundle leaves its parent: in the torch module that the export changed, or in the target's runtime."""

from __future__ import annotations

import numpy as np
import torch

from edgekit.errors import EdgekitError
from edgekit.evaluate.parity import compare, first_divergence
from edgekit.exporters import Exported
from edgekit.graph.graph import Graph, serialize, with_all_outputs
from edgekit.parents import Parent, TorchParent, flat_tensors
from edgekit.runtimes.backend import Backend, EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.samples import Feeds, Sample


def first_divergence_of(
    parent: Parent, canonical: Graph, exported: Exported, backend: Backend, sample: Sample, tolerance: float
) -> str:
    """One line that names the culprit, as closely as it can be known.

    First the canonical graph in ONNX Runtime is compared with the parent, then the lowered one in the target's runtime
    with the canonical one, tensor by tensor in the order of computation.
    """
    try:
        reference = trace(canonical, ORT, sample.bundle, {})
        found = _in_export(parent, canonical, reference, sample, tolerance)
        return found or _in_runtime(canonical, reference, exported, backend, sample, tolerance)
    except EdgekitError as error:  # the breach is what the reader must hear of, not that it could not be traced
        return f"unknown: the graph cannot be computed tensor by tensor ({error.what})"


def trace(graph: Graph, backend: Backend, feeds: Feeds, settings: dict[str, str]) -> dict[str, np.ndarray]:
    """Every tensor that `graph` computes on `feeds`, in order."""
    traced = with_all_outputs(graph.model)
    names = tuple(value.name for value in traced.graph.output)
    engine = backend.open(EngineRequest(serialize(traced), settings=settings, outputs=names))
    try:
        outputs = engine.run(feeds)
    finally:
        engine.close()
    order = [name for node in graph.model.graph.node for name in node.output if name in outputs]
    return {name: outputs[name] for name in order}


def _in_export(
    parent: Parent, canonical: Graph, reference: dict[str, np.ndarray], sample: Sample, tolerance: float
) -> str | None:
    """What made the canonical graph compute something else than the parent; None where it does not."""
    wanted = parent.run(sample.parent)
    gaps = compare(wanted, {name: reference[name] for name in wanted if name in reference})
    wrong = next((gap for gap in gaps if not gap.within(tolerance)), None)
    if wrong is None:
        return None
    module = _diverging_module(parent, canonical, reference, sample, tolerance)
    return f"{module or f'output {wrong.tensor!r} of the canonical graph'}, before any runtime"


def _in_runtime(
    canonical: Graph,
    reference: dict[str, np.ndarray],
    exported: Exported,
    backend: Backend,
    sample: Sample,
    tolerance: float,
) -> str:
    settings = {} if exported.rehearsal else dict(exported.settings)
    candidate = trace(exported.graph, backend, sample.bundle, settings)
    same_dtype = {name: got.astype(reference[name].dtype) for name, got in candidate.items() if name in reference}
    gap = first_divergence(reference.items(), same_dtype, tolerance)
    if gap is None:
        return f"no tensor of the lowered graph diverges in {backend.name}: the written files differ from it"
    return f"tensor {gap.tensor!r} in {backend.name}, computed by {describe_tensor(canonical, gap.tensor)}"


def _diverging_module(
    parent: Parent, canonical: Graph, reference: dict[str, np.ndarray], sample: Sample, tolerance: float
) -> str | None:
    """The torch module from which on nothing agrees with the graph; None where modules do not tell.

    A module's output is the last tensor of the graph that comes from inside it. Modules that a rewrite gave another
    shape are skipped, and a deviation that heals is none: a convolution into which its norm was folded computes
    something else, and the two together the same.
    """
    if not isinstance(parent, TorchParent):
        return None
    culprit = None
    for module, value in _module_outputs(parent, sample.parent).items():
        nodes = [
            node
            for node in canonical.model.graph.node
            if (origin := canonical.origins.get(node.name)) and f"{origin.module}.".startswith(f"{module}.")
        ]
        got = reference.get(nodes[-1].output[0]) if nodes else None
        if got is None or got.shape != value.shape or got.dtype != value.dtype:
            continue
        if compare({module: value}, {module: got})[0].within(tolerance):
            culprit = None
        elif culprit is None:
            culprit = f"torch module {module!r} and {_describe(canonical, nodes[-1].name)}"
    return culprit


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


def describe_tensor(graph: Graph, tensor: str) -> str:
    """The node that computes `tensor`, with its torch module and source line where they are known."""
    return _describe(graph, next(node.name for node in graph.model.graph.node if tensor in node.output))


def _describe(graph: Graph, node: str) -> str:
    origin = graph.origins.get(node)
    if origin is None:
        return f"node {node!r}"
    line = f" ({origin.file}:{origin.line})" if origin.file else ""
    return f"node {node!r} of module {origin.module!r}{line}"
