"""One model in one precision: lowered, checked against its parent, and ready to be chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Coverage, HistoryStep, LayerNoise, Parity
from edgekit.compress.calibration import Feeds, samples_of, text_samples
from edgekit.compress.ptq import PreparedGraph, PtqOptions, prepare
from edgekit.config import Config
from edgekit.coverage import coverage_gate, measure_coverage
from edgekit.divergence import trace
from edgekit.errors import GateError, UsageError
from edgekit.evaluate.datasets import Dataset
from edgekit.exporters import Exported, LoweringRequest, Plan, exporter_for
from edgekit.gates import TOLERANCES, Run, half_range_gate, locator, parity_gate
from edgekit.graph.graph import Graph
from edgekit.graph.quantspec import QuantSpec
from edgekit.graph.wiring import Wiring
from edgekit.intake import Intake
from edgekit.noise import layer_noise
from edgekit.parents import Parent
from edgekit.quality import ParentAnswers, QualityVerdict, judge_quality
from edgekit.runtimes.backend import Backend, EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.runtimes.session import backend_named
from edgekit.samples import Sample, collect
from edgekit.sensitivity import by_sensitivity

LOSSY = ("int8", "bf16")
"""Judged by the task's metric: their outputs differ from the parent's by design."""
RETURNED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""How many of the worst layers the search returns to float, try by try."""


@dataclass(frozen=True, eq=False)
class Built:
    """A precision that passed its gates, but for quality, whose verdict the chooser reads.

    Attributes:
        engine: how its runtime, or the rehearsal's, opens it here.
        samples: the inputs that its parity was checked on.
        tolerance: the bound for its self-tests: what was seen, with a margin, where the precision is lossy.
    """

    request: LoweringRequest
    plan: Plan
    exported: Exported
    engine: EngineRequest
    samples: tuple[Sample, ...]
    parity: tuple[Parity, ...]
    verdict: QualityVerdict
    tolerance: float
    coverage: Coverage | None = None
    layers: tuple[LayerNoise, ...] = ()
    steps: tuple[HistoryStep, ...] = ()

    @property
    def precision(self) -> str:
        """What it computes or stores in."""
        return self.exported.precision


def build(intake: Intake, config: Config, canonical: LoweringRequest, precision: str) -> Built:
    """Lower `canonical` and check it.

    Raises:
        UnsupportedError: the target does not take the precision, or the model.
        GateError: parity, range or coverage say no. Quality does not raise here.
        InputError: the calibration data are not usable.
    """
    request = replace(canonical, precision=precision)
    if precision in LOSSY:
        _require_bar(intake, config, precision)
    if precision == "int8":
        return _build_int8(intake, config, request)
    exporter = exporter_for(request.profile)
    plan = exporter.plan(request)
    exported = exporter.export(request, plan)
    written = holds_quantized_layers(request.graph)
    coverage = None
    if written:  # quantized by whoever made it: int8 by name is held to the same bar
        coverage = measure_coverage(request.graph, exporter, exported, {}, config.quantization.min_coverage)
        coverage_gate(coverage, request.graph, request.profile.runtime)
    return _checked(intake, config, request, plan, exported, coverage)


def holds_quantized_layers(graph: Graph) -> bool:
    """Whether the source itself holds quantized layers."""
    producers = Wiring(graph.model).producers
    return any(
        (made := producers.get(name)) is not None and made.op_type == "DequantizeLinear"
        for node in graph.model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        for name in node.input[:1]
    )


def why_not_int8(intake: Intake) -> str | None:
    """Why `auto` does not consider int8, None where it does."""
    if intake.ranges is None:
        return "no calibration data: give --calibration-data, or --calibration-split of the data"
    return why_not_lossy(intake)


def why_not_lossy(intake: Intake) -> str | None:
    """Why nobody could say what a lossy precision costs, None where the metric does."""
    if intake.data is None or not intake.data.has_truth:
        return "no labelled held-out data (--data): nobody could say what it costs"
    if intake.metric is None and intake.spec.metric is None:
        return "no metric is known for this model: nobody could say what it costs"
    return None


def calibration_feeds(intake: Intake, request: LoweringRequest, count: int) -> Iterator[Feeds]:
    """The samples that ranges are taken from, in the form that the bundle's graph takes.

    Raises:
        UsageError: there are none.
    """
    if intake.ranges is None:
        raise UsageError(
            "int8 needs calibration data",
            where="[calibration] calibration_data",
            why="ranges of activations come from real inputs",
            fix="--calibration-data FOLDER, or --calibration-split of --data; never the held-out samples",
        )
    if isinstance(intake.ranges, Path):
        return text_samples(intake.ranges, request.spec, count)
    return samples_of(intake.ranges, request.spec, count)


def _build_int8(intake: Intake, config: Config, canonical: LoweringRequest) -> Built:
    options = config.quantization
    prepared = prepare(
        canonical.graph,
        calibration_feeds(intake, canonical, config.calibration.calibration_samples),
        PtqOptions(
            observer=options.observer,
            equalize=options.equalize,
            bias_correction=options.bias_correction,
            keep_float=options.keep_float,
            dynamic=options.activations == "dynamic",
        ),
    )
    first = built = _int8(intake, config, canonical, prepared, ())
    order: Sequence[str] = ()
    for count in RETURNED:
        if built.verdict.verdict == "pass" or built.verdict.drop is None or not options.search:
            break
        if not order:
            order = by_sensitivity(prepared, canonical.graph, canonical.profile.runtime, _few(intake, canonical))
        if count >= len(order):
            break
        try:
            built = _int8(intake, config, canonical, prepared, tuple(order[:count]))
        except GateError:  # too little is left in int8: what the first attempt said of quality stands
            return first
    return built


def _int8(
    intake: Intake, config: Config, canonical: LoweringRequest, prepared: PreparedGraph, returned: tuple[str, ...]
) -> Built:
    graph, quant = prepared.spec(returned)
    request = replace(canonical, graph=graph, quant=quant)
    exporter = exporter_for(request.profile)
    plan = exporter.plan(request)
    exported = exporter.export(request, plan)
    coverage = measure_coverage(
        canonical.graph, exporter, exported, quant.float_nodes, config.quantization.min_coverage
    )
    coverage_gate(coverage, canonical.graph, request.profile.runtime)
    built = _checked(intake, config, request, plan, exported, coverage)
    return replace(
        built,
        layers=_layers(canonical, quant, exported, built),
        steps=(_step(config, quant, returned),),
    )


def _checked(
    intake: Intake,
    config: Config,
    request: LoweringRequest,
    plan: Plan,
    exported: Exported,
    coverage: Coverage | None,
) -> Built:
    """Run the bundle's own bytes in its runtime, or the rehearsal's, through the gates."""
    backend = rehearsing(request, exported)
    precision = exported.precision
    bar = TOLERANCES[precision] if config.quality.tolerance is None else config.quality.tolerance
    samples = _samples(intake, config, request, precision)
    opened = engine_request(exported, request.spec.outputs)
    engine = backend.open(opened)
    try:
        where = f"{backend.name} {backend.version()} on this machine"
        if exported.rehearsal:
            where += f", rehearsing {request.profile.runtime}: fp16 is in the weights, arithmetic may be fp32"
        if exported.rehearsal and precision in ("fp16", "int8"):
            half_range_gate(request.graph, exported, samples)
        locate = locator(intake.parent, request.graph, exported, backend, bar)
        parity = parity_gate(intake.parent, engine.run, samples, bar, where, locate)
        verdict = _verdict(intake, config, request, engine.run)
    finally:
        engine.close()
    seen = max(record.relative for record in parity)
    tolerance = min(bar, 1.25 * seen + 0.02) if precision in LOSSY else bar
    return Built(request, plan, exported, opened, tuple(samples), parity, verdict, tolerance, coverage)


def rehearsing(request: LoweringRequest, exported: Exported) -> Backend:
    """The backend that can run the lowered model on this machine."""
    return backend_named(exported.rehearsal or request.profile.runtime)


def engine_request(exported: Exported, outputs: Sequence[Any]) -> EngineRequest:
    """How a backend opens what was exported."""
    by_role = {artifact.role: artifact.data for artifact in exported.files}
    settings = {} if exported.rehearsal else exported.settings
    names = tuple(tensor.name for tensor in outputs)
    return EngineRequest(by_role["model"], by_role.get("weights"), settings, outputs=names)


def _samples(intake: Intake, config: Config, request: LoweringRequest, precision: str) -> list[Sample]:
    """Noise is far from what ranges were taken from, so a lossy precision is not held to it where there is better."""
    count = config.quality.parity_samples
    samples = collect(intake.spec, request.spec, intake.calibration, count, intake.picture)
    real = [sample for sample in samples if sample.origin != "random"]
    return real if real and precision in LOSSY else samples


def _verdict(intake: Intake, config: Config, request: LoweringRequest, run: Run) -> QualityVerdict:
    parent = _answers(intake.parent, intake.data, intake.metric, config.quality.quality_samples)
    return judge_quality(parent, request.spec, run, config.quality.max_drop)


@lru_cache(maxsize=2)
def _answers(parent: Parent, data: Dataset | None, metric: Any, limit: int | None) -> ParentAnswers:
    """The parent answers once for all targets and precisions."""
    return ParentAnswers.of(parent, data, metric, limit)


def _require_bar(intake: Intake, config: Config, precision: str) -> None:
    """A lossy precision changes the outputs by design, so something has to say how much is too much."""
    if why_not_lossy(intake) is not None and config.quality.tolerance is None:
        raise GateError(
            f"quality: {precision} without a bar",
            where=f"--precision {precision}",
            why=why_not_lossy(intake),
            fix="give labelled --data and a metric, or state with --tolerance how far outputs may deviate",
        )


def _few(intake: Intake, request: LoweringRequest) -> list[Mapping[str, np.ndarray]]:
    return list(calibration_feeds(intake, request, 4))


def _layers(canonical: LoweringRequest, quant: QuantSpec, exported: Exported, built: Built) -> tuple[LayerNoise, ...]:
    """Measured on the first self-test's input, so that the bundle can be asked again."""
    feeds = built.samples[0].bundle
    backend = rehearsing(canonical, exported)
    settings = {} if exported.rehearsal else dict(exported.settings)
    reference = trace(canonical.graph, ORT, feeds, {})
    candidate = trace(exported.graph, backend, feeds, settings)
    graph = canonical.graph
    return layer_noise(Wiring(graph.model), quant, graph.origins, reference, candidate)


def _step(config: Config, quant: QuantSpec, returned: tuple[str, ...]) -> HistoryStep:
    options = config.quantization
    asked = {
        "observer": options.observer,
        "activations": options.activations,
        "equalize": options.equalize,
        "bias_correction": options.bias_correction,
        "keep_float": list(options.keep_float),
    }
    result = {
        "calibration_sha256": quant.calibration_sha256,
        "calibration_samples": quant.samples,
        "steps": list(quant.steps),
        "int8_layers": len(quant.layers),
        "float_layers": dict(quant.float_nodes),
        "returned_to_float": list(returned),
    }
    return HistoryStep("int8", asked, result)
