"""The gates once more, on a bundle that was published: self-tests, coverage, layer by layer, and quality.

What the manifest promises is held against what the bundle's files compute here. A weight, scale or node that changed
after the export, or a runtime that fuses less than the one it was exported with, is named and refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from edgekit import profiles
from edgekit.bundle import Bundle, Coverage, LayerNoise, Manifest, Quality, Variant
from edgekit.compress import Recipe
from edgekit.compress.recipe import STEPS
from edgekit.config import ModelOptions, QualityOptions
from edgekit.coverage import coverage_gate, measure_coverage
from edgekit.divergence import trace
from edgekit.errors import GateError, UsageError
from edgekit.evaluate.datasets import Dataset, open_dataset
from edgekit.evaluate.parity import compare
from edgekit.exporters import Artifact, Exported, exporter_for
from edgekit.graph.end_to_end import with_detections
from edgekit.graph.graph import Graph
from edgekit.graph.half_reference import BACKEND as HALF
from edgekit.graph.image_input import with_uint8_nhwc_input
from edgekit.graph.quantspec import QuantSpec
from edgekit.graph.wiring import Wiring
from edgekit.intake import complete_spec
from edgekit.noise import fallen, layer_noise
from edgekit.parents import Parent
from edgekit.quality import ParentAnswers, judge_quality
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.runtimes.session import Session, engine_request, open_session
from edgekit.sources import open_source

ALLOWED_DB = 3.0
"""A layer whose noise doubled since the export is not the layer that was exported."""


@dataclass(frozen=True)
class Audit:
    """What was found; a breach raises instead.

    Attributes:
        selftest: largest relative deviation of a self-test from the parent's outputs.
        coverage: what the runtime says now; None for a float bundle.
        layers: the worst first; empty for a float bundle, and for OpenVINO's IR, whose tensors are not traced.
        quality: with `data` only; None without.
    """

    bundle: str
    precision: str
    selftest: float
    coverage: Coverage | None
    layers: tuple[LayerNoise, ...]
    quality: Quality | None = None


def audit(
    path: Path, options: ModelOptions, key: Path | None = None, data: Path | None = None, split: str | None = None
) -> Audit:
    """Hold a bundle against its source on this machine.

    Args:
        options: names the source that the bundle was exported from.
        data: held-out samples, on which the bundle may lose what its manifest allows.

    Raises:
        GateError: a layer, the coverage, a self-test or the quality is not what the manifest says.
        InconclusiveError: the samples do not decide about the quality.
        IntegrityError: a file is not what the manifest says.
        UsageError: the source is another one.
    """
    with Bundle.open(path, key=key) as bundle:
        bundle.verify()
        manifest = bundle.manifest
        parent = open_source(options.source, trust_code=options.trust_code)
        if parent.source.sha256 != manifest.source.sha256:
            raise UsageError(
                f"{options.source} is not what {path.name} was exported from",
                where="--source",
                why=f"the manifest names {manifest.source.origin}, sha256 {manifest.source.sha256[:16]}",
                fix="name that source",
            )
        parent = replace(parent, spec=complete_spec(parent.spec, options))  # type: ignore[type-var]
        precision = "int8" if "int8" in manifest.precisions else manifest.target.precision
        layers, coverage = _look_inside(bundle, parent, precision) if precision == "int8" else ((), None)
        selftest = _selftest(bundle, precision)
        quality = _quality(bundle, parent, precision, open_dataset(data, parent.spec, split)) if data else None
        return Audit(path.name, precision, selftest, coverage, layers, quality)


def _quality(bundle: Bundle, parent: Parent, precision: str, data: Dataset) -> Quality:
    allowed = bundle.manifest.quality.max_drop
    answers = ParentAnswers.of(parent, data, None, None)
    with _opened(bundle, precision) as session:
        bar = QualityOptions.max_drop if allowed is None else allowed
        return judge_quality(answers, session.spec, session.run, bar).require()


def _look_inside(bundle: Bundle, parent: Parent, precision: str) -> tuple[tuple[LayerNoise, ...], Coverage]:
    manifest = bundle.manifest
    canonical = _canonical(parent, manifest)
    quant = QuantSpec.from_json(bundle.read("quant.json"))
    exported = _exported(bundle, precision)
    exporter = exporter_for(profiles.get(manifest.target.name))
    layers: tuple[LayerNoise, ...] = ()
    if exported.graph.model.graph.node:
        feeds = {name: bundle.read_array(file) for name, file in manifest.selftest[0].inputs.items()}
        reference = trace(canonical, ORT, feeds, {})
        candidate = trace(exported.graph, HALF if _rehearsed(manifest) else ORT, feeds, {})
        layers = layer_noise(Wiring(canonical.model), quant, canonical.origins, reference, candidate)
        _refuse_fallen(manifest, canonical, layers)
    bar = next((c.coverage.bar for c in manifest.choice.candidates if c.coverage), 0.0) if manifest.choice else 0.0
    coverage = measure_coverage(canonical, exporter, exported, quant.float_nodes, bar)
    coverage_gate(coverage, canonical, manifest.target.runtime.name)
    return layers, coverage


def _refuse_fallen(manifest: Manifest, canonical: Graph, layers: tuple[LayerNoise, ...]) -> None:
    order = {node.name: index for index, node in enumerate(canonical.model.graph.node)}
    lost = sorted(fallen(manifest.layers, layers, ALLOWED_DB), key=lambda pair: order.get(pair[0].node, 0))
    if lost:
        row, had = lost[0]
        place = f" of module {row.module!r} ({row.file}:{row.line})" if row.module else ""
        raise GateError(
            f"layers: {row.node!r} is noisier than when it was exported",
            where=f"tensor {row.tensor!r}{place}",
            why=f"{row.snr_db:.1f} dB, the manifest says {had:.1f} dB; {len(lost)} layer(s) in all, this is the first",
            fix="its weights, scales or node were changed: export the bundle again",
        )


def _selftest(bundle: Bundle, precision: str) -> float:
    manifest = bundle.manifest
    variant = _variant(manifest, precision)
    worst = 0.0
    with _opened(bundle, precision) as session:
        for index, test in enumerate(manifest.selftest):
            feeds = {name: bundle.read_array(file) for name, file in test.inputs.items()}
            wanted = {name: bundle.read_array(file) for name, file in test.outputs.items()}
            bar = variant.tolerance if variant else test.tolerance
            for gap in compare(wanted, session.run(feeds), session.spec.derived):
                if not gap.within(bar):
                    raise GateError(
                        f"parity: output {gap.tensor!r} of self-test {index} is not the parent's",
                        where=f"{bundle.path.name}, {precision}, {session.runtime}",
                        why=f"{gap.describe()}, allowed is {bar:.3g}",
                        fix="export the bundle again; --layers names the layer of an int8 bundle",
                    )
                worst = max(worst, gap.relative)
    return worst


def _opened(bundle: Bundle, precision: str) -> Session:
    """In its own runtime; a TensorRT bundle in what rehearsed it at its export."""
    if _rehearsed(bundle.manifest):
        return Session(bundle.manifest, HALF, HALF.open(engine_request(bundle, precision)), precision)
    return open_session(bundle, precision=precision)


def _rehearsed(manifest: Manifest) -> bool:
    return manifest.target.runtime.name == "tensorrt"


def _variant(manifest: Manifest, precision: str) -> Variant | None:
    return next((variant for variant in manifest.variants if variant.precision == precision), None)


def _canonical(parent: Parent, manifest: Manifest) -> Graph:
    """The float graph as the export made it: the recipe's steps stand in the history."""
    profile = profiles.get(manifest.target.name)
    steps = [step.step for step in manifest.history if step.step in STEPS]
    recipe = Recipe.parse(steps) if manifest.source.kind not in ("onnx", "pt2") else None
    graph, _ = parent.to_graph(parent.spec, recipe, profile.opset, profile.ir)
    if parent.spec.inputs != manifest.model.inputs:
        graph, _ = with_uint8_nhwc_input(graph, parent.spec)
    if manifest.model.derived:
        graph, _ = with_detections(graph, parent.spec)
    return graph


def _exported(bundle: Bundle, precision: str) -> Exported:
    """The bundle's own files in the form that the exporter handed over."""
    manifest = bundle.manifest
    variant = _variant(manifest, precision)
    roles = ("model", "weights")
    places = variant.files if variant else {r: f[0] for r in roles if (f := bundle.files_with_role(r))}
    files = tuple(Artifact(path, role, bundle.read(path)) for role, path in places.items() if role in roles)
    settings = variant.settings if variant else manifest.target.settings
    holds_onnx = files[0].path.endswith(".onnx")
    model = onnx.load_from_string(files[0].data) if holds_onnx else onnx.ModelProto()
    return Exported(files, Graph(model, {}, ()), precision, settings)
