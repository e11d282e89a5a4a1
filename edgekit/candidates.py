"""One model in one precision: lowered, checked against its parent, and ready to be chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgekit.bundle import Coverage, HistoryStep, LayerNoise, Parity
from edgekit.compress.calibration import Feeds, samples_of, text_samples
from edgekit.compress.judge import Judge
from edgekit.compress.ptq import PreparedGraph, PtqOptions, prepare
from edgekit.config import Config
from edgekit.coverage import coverage_gate, measure_coverage
from edgekit.divergence import trace
from edgekit.errors import GateError, UsageError
from edgekit.evaluate.datasets import Dataset
from edgekit.exporters import Exported, LoweringRequest, Plan, exporter_for
from edgekit.gates import TOLERANCES, Run, detections_gate, locator, parity_gate
from edgekit.graph.graph import Graph
from edgekit.graph.half_reference import finite_gate
from edgekit.graph.macs import macs_by_node
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
from edgekit.sensitivity import by_sensitivity, tries
from edgekit.spec import DetectionPostprocess

HALVES = ("fp16", "int8")
"""Where a rehearsal computes in fp16, which ends at 65504."""
RANGE_SAMPLES = 16
"""Calibration samples on which no tensor may leave fp16's range, besides those of parity."""
LOSSY = ("int8", "bf16")
"""Judged by the task's metric: their outputs differ from the parent's by design."""
RETURNED = (0.5, 1.0)
"""What the search returns to float, try by try, as shares of what the coverage bar allows. Two tries and not ten: each
asks the held-out samples again, and among many answers one passes by luck."""
SENSITIVITY_SAMPLES = 8


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
        runtime=canonical.profile.runtime,
    )
    first = _int8(intake, config, canonical, prepared, ())
    if not options.search or first.verdict.verdict == "pass" or first.verdict.drop is None:
        return first
    return _search(intake, config, canonical, prepared, first)


def _search(intake: Intake, config: Config, canonical: LoweringRequest, prepared: PreparedGraph, first: Built) -> Built:
    """Return layers to float until the quality passes.

    A try that brings the outputs no nearer to float, on calibration data, is not put to the held-out samples: where
    layers' errors cancel, returning some makes things worse. Where no try passes, the one of the lowest upper bound,
    whose verdict tells of all of them: also of one that a gate refused, since neither that nor the drop before it is
    the whole reason.
    """
    assert first.coverage is not None
    macs = macs_by_node(canonical.graph.model)
    judge = Judge.of(canonical.graph, _few(intake, canonical, prepared), canonical.profile.runtime)
    allowance = (first.coverage.share - first.coverage.bar) * first.coverage.total_macs
    best, told = first, [f"all in int8: {_lost(first.verdict)}"]
    error_of_all = judge.error(*prepared.spec())
    for returned in tries(by_sensitivity(prepared, judge, macs), macs, allowance, RETURNED):
        label = f"{len(returned)} layer{'s' if len(returned) > 1 else ''} returned to float"
        if judge.error(*prepared.spec(returned)) >= error_of_all:
            told.append(f"{label}: outputs deviate no less from float on calibration data")
            continue
        try:
            built = _int8(intake, config, canonical, prepared, returned, tuple(told))
        except GateError as error:
            told.append(f"{label}: {error.what}")
            break
        if built.verdict.verdict == "pass":
            return built
        told.append(f"{label}: {_lost(built.verdict)}")
        best = min(best, built, key=lambda one: _upper(one.verdict))
    if len(told) == 1:
        told.append(f"no layer can be returned to float above the coverage bar of {100 * first.coverage.bar:.0f} %")
    return replace(best, verdict=replace(best.verdict, tried=tuple(told)))


def _upper(verdict: QualityVerdict) -> float:
    return math.inf if verdict.drop is None else verdict.drop.upper


def _lost(verdict: QualityVerdict) -> str:
    lost = verdict.drop
    return "no comparable value" if lost is None else f"{lost.value:.2f} points lost, at most {lost.upper:.2f}"


def _int8(
    intake: Intake,
    config: Config,
    canonical: LoweringRequest,
    prepared: PreparedGraph,
    returned: tuple[str, ...],
    tried: tuple[str, ...] = (),
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
        steps=(_step(config, prepared, quant, returned, tried),),
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
            where += f", rehearsing {request.profile.runtime}"
        if exported.rehearsal and precision in HALVES:
            finite_gate(exported.graph, _range_samples(intake, config, request, samples))
        locate = locator(intake.parent, request.graph, exported, backend, bar)
        parity = parity_gate(intake.parent, engine.run, samples, bar, where, locate, request.spec.derived)
        if request.spec.derived and isinstance(intake.spec.postprocess, DetectionPostprocess):
            detections_gate(intake.spec.postprocess, engine.run, samples, where)
        verdict = _verdict(intake, config, request, engine.run)
    finally:
        engine.close()
    seen = max(record.relative for record in parity)
    tolerance = min(bar, 1.25 * seen + 0.02) if precision in LOSSY else bar
    if precision == "int8":
        _one_thread_gate(intake, request, backend, opened, samples, tolerance)
    return Built(request, plan, exported, opened, tuple(samples), parity, verdict, tolerance, coverage)


def _one_thread_gate(
    intake: Intake,
    request: LoweringRequest,
    backend: Backend,
    opened: EngineRequest,
    samples: Sequence[Sample],
    tolerance: float,
) -> None:
    """Held to what its self-tests will be: on one thread a runtime may take other kernels (`Dialect.barrier`)."""
    engine = backend.open(replace(opened, threads=1))
    try:
        where = f"{backend.name} {backend.version()} on one thread of this machine"
        parity_gate(intake.parent, engine.run, samples, tolerance, where, lambda _: where, request.spec.derived)
    finally:
        engine.close()


def _range_samples(
    intake: Intake, config: Config, request: LoweringRequest, samples: Sequence[Sample]
) -> Iterator[Feeds]:
    yield from (sample.bundle for sample in samples)
    if intake.ranges is not None:
        count = min(RANGE_SAMPLES, config.calibration.calibration_samples)
        yield from calibration_feeds(intake, request, count)


def rehearsing(request: LoweringRequest, exported: Exported) -> Backend:
    """The backend that can run the lowered model on this machine."""
    return exported.rehearsal or backend_named(request.profile.runtime)


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


def _few(intake: Intake, request: LoweringRequest, prepared: PreparedGraph) -> list[Feeds]:
    """Samples to measure sensitivity on: of those that set no range, where there are any."""
    apart = prepared.calibration.apart
    if not apart:
        return list(calibration_feeds(intake, request, SENSITIVITY_SAMPLES))
    return list(apart[:: math.ceil(len(apart) / SENSITIVITY_SAMPLES)])


def _layers(canonical: LoweringRequest, quant: QuantSpec, exported: Exported, built: Built) -> tuple[LayerNoise, ...]:
    """Measured on the first self-test's input, so that the bundle can be asked again."""
    feeds = built.samples[0].bundle
    backend = rehearsing(canonical, exported)
    settings = {} if exported.rehearsal else dict(exported.settings)
    reference = trace(canonical.graph, ORT, feeds, {})
    candidate = trace(exported.graph, backend, feeds, settings)
    graph = canonical.graph
    return layer_noise(Wiring(graph.model), quant, graph.origins, reference, candidate)


def _step(
    config: Config, prepared: PreparedGraph, quant: QuantSpec, returned: tuple[str, ...], tried: tuple[str, ...]
) -> HistoryStep:
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
        "held_apart": len(prepared.calibration.apart),
        "observer": None if quant.dynamic else prepared.options.observer,
        "observer_errors": dict(prepared.judged),
        "steps": list(quant.steps),
        "int8_layers": len(quant.layers),
        "float_layers": dict(quant.float_nodes),
        "returned_to_float": list(returned),
        "tried": list(tried),
    }
    return HistoryStep("int8", asked, result)
