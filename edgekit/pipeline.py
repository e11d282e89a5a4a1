"""The corridor: a model becomes a verified bundle, or the command says no and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgekit import profiles, tooling
from edgekit.bundle import (
    Bundle,
    HistoryStep,
    Manifest,
    Parity,
    Quality,
    RuntimeNeed,
    SelfTest,
    TargetNeed,
    encode_array,
    load_private_key,
    write_bundle,
)
from edgekit.bundle.atomic import unwritable_is_typed
from edgekit.compress import Applied, Recipe
from edgekit.config import Config
from edgekit.errors import EdgekitError, UsageError
from edgekit.exporters import Exported, LoweringRequest, Plan, exporter_for
from edgekit.gates import TOLERANCES, half_range_gate, locator, open_questions, parity_gate, quality_gate
from edgekit.graph.graph import Graph
from edgekit.graph.image_input import with_uint8_nhwc_input
from edgekit.intake import Intake, take_in
from edgekit.parents import Parent
from edgekit.profiles import DeviceProfile
from edgekit.progress import Progress
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.session import backend_named
from edgekit.samples import Sample, collect
from edgekit.spec import ModelSpec


@dataclass(frozen=True)
class ExportResult:
    """A published bundle: where it is, its manifest, the plan that it follows, and what each step cost."""

    path: Path
    manifest: Manifest
    plan: Plan
    progress: Progress


def plan(config: Config, target: str) -> Plan:
    """What an export would do, and what is in its way; nothing is written.

    Raises:
        EdgekitError: the model cannot be loaded or exported, or the target refuses the precision.
    """
    intake = take_in(config)
    request, _ = _lower(intake, config, profiles.get(target))
    return exporter_for(request.profile).plan(request)


def export(
    config: Config,
    target: str,
    output: Path | None = None,
    progress: Progress | None = None,
    intake: Intake | None = None,
) -> ExportResult:
    """Export the model that `config` describes for `target`, check it, and publish the bundle.

    Args:
        output: a folder, or a zip where it ends in `.edgekit`; by default `NAME-TARGET.edgekit` in the working
            folder. A bundle of the same model is replaced, its version counted up; the folder around it is made.
        progress: told of each step.
        intake: what `take_in(config)` gave, where several targets share it.

    Raises:
        UsageError, InputError: the configuration or the model is not usable.
        GateError: a check said no; nothing was written.
        MissingError: a tool of the target is not installed here.
    """
    progress = progress or Progress()
    profile = profiles.get(target)
    key = load_private_key(Path(config.export.sign_key)) if config.export.sign_key else None
    if intake is None:
        with progress.step("load the model"):
            intake = take_in(config)
    path = output or Path(f"{intake.spec.name}-{profile.name}.edgekit")
    version = next_version(path, intake.spec.name)
    with progress.step("export the graph"):
        request, history = _lower(intake, config, profile)
    with progress.step(f"lower to {profile.runtime}"):
        exporter = exporter_for(profile)
        plan = exporter.plan(request)
        exported = exporter.export(request, plan)
    with progress.step("check against the parent"):
        checked = _check(intake, request, exported, config)
    manifest = _manifest(intake, request, exported, history, checked, version)
    files = {artifact.path: (artifact.role, artifact.data) for artifact in exported.files} | checked.vectors
    with progress.step("write the bundle"):
        with unwritable_is_typed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with write_bundle(path, manifest, files, private_key=key, overwrite=version > 1) as bundle:
            return ExportResult(path, bundle.manifest, plan, progress)


def next_version(path: Path, name: str) -> int:
    """1 for a new bundle, one more than the version of a bundle of the same model that is there.

    Raises:
        UsageError: something else is there.
    """
    if not path.exists():
        return 1
    try:
        with Bundle.open(path) as bundle:
            there = bundle.manifest
    except EdgekitError as error:
        why = f"it is no intact bundle: {error.what}"
        raise UsageError(f"{path} is in the way", where=str(path), why=why, fix="choose another -o") from error
    if there.name != name:
        raise UsageError(f"{path} is a bundle of {there.name!r}", where=str(path), fix="choose another -o")
    return there.version + 1


@dataclass(frozen=True)
class _Checked:
    """What the gates found: records for the manifest, and self-test vectors with their files."""

    parity: tuple[Parity, ...]
    quality: Quality
    selftest: tuple[SelfTest, ...]
    vectors: dict[str, tuple[str, bytes]]
    tolerance: float


def _lower(intake: Intake, config: Config, profile: DeviceProfile) -> tuple[LoweringRequest, tuple[Applied, ...]]:
    """The canonical graph in the form that the target is asked to take."""
    recipe = Recipe.parse(config.recipe.steps) if config.recipe.steps is not None else None
    graph, history = _graph_of(intake.parent, intake.spec, recipe, profile.opset, profile.ir)
    spec = intake.spec
    if config.export.input == "uint8-nhwc":
        graph, spec = with_uint8_nhwc_input(graph, spec)
    return LoweringRequest(graph, spec, profile, config.export.precision), history


@lru_cache(maxsize=2)
def _graph_of(
    parent: Parent, spec: ModelSpec, recipe: Recipe | None, opset: int, ir_version: int
) -> tuple[Graph, tuple[Applied, ...]]:
    """Exporting for several targets traces the model once for each opset."""
    return parent.to_graph(spec, recipe, opset, ir_version)


def _check(intake: Intake, request: LoweringRequest, exported: Exported, config: Config) -> _Checked:
    """Run the bundle's own bytes in its runtime, or the rehearsal's, through the gates."""
    backend = backend_named(exported.rehearsal or request.profile.runtime)
    asked = config.quality.tolerance
    tolerance = TOLERANCES[exported.precision] if asked is None else asked
    count = config.calibration.calibration_samples
    samples = collect(intake.spec, request.spec, intake.calibration, count, intake.picture)
    engine = backend.open(_engine_request(exported, request.spec))
    try:
        where = f"{backend.name} {backend.version()} on this machine"
        if exported.rehearsal:
            where += f", rehearsing {request.profile.runtime}: fp16 is in the weights, arithmetic may be fp32"
        locate = locator(intake.parent, request.graph, exported, backend, tolerance)
        if exported.rehearsal and exported.precision == "fp16":
            half_range_gate(request.graph, exported, samples)
        parity = parity_gate(intake.parent, engine.run, samples, tolerance, where, locate)
        quality = quality_gate(
            intake.parent,
            request.spec,
            engine.run,
            intake.data,
            intake.metric,
            config.quality.max_drop,
            config.quality.quality_samples,
        )
    finally:
        engine.close()
    selftest, vectors = self_tests(samples, intake.parent.run, tolerance)
    return _Checked(parity, quality, selftest, vectors, tolerance)


def _engine_request(exported: Exported, spec: ModelSpec) -> EngineRequest:
    by_role = {artifact.role: artifact.data for artifact in exported.files}
    settings = {} if exported.rehearsal else exported.settings
    outputs = tuple(tensor.name for tensor in spec.outputs)
    return EngineRequest(by_role["model"], by_role.get("weights"), settings, outputs=outputs)


def self_tests(
    samples: list[Sample], reference: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]], tolerance: float
) -> tuple[tuple[SelfTest, ...], dict[str, tuple[str, bytes]]]:
    """One vector of each kind of sample: the bundle's inputs, and the outputs that the parent gave."""
    tests: list[SelfTest] = []
    files: dict[str, tuple[str, bytes]] = {}
    for index, sample in enumerate({sample.origin: sample for sample in reversed(samples)}.values()):
        tensors = {"inputs": sample.bundle, "outputs": reference(sample.parent)}
        paths: dict[str, dict[str, str]] = {}
        for kind, arrays in tensors.items():
            paths[kind] = {name: f"selftest/{index}/{kind}-{i}.npy" for i, name in enumerate(arrays)}
            files |= {paths[kind][name]: ("selftest", encode_array(array)) for name, array in arrays.items()}
        tests.append(SelfTest(paths["inputs"], paths["outputs"], tolerance, sample.origin))
    return tuple(tests), files


def _manifest(
    intake: Intake,
    request: LoweringRequest,
    exported: Exported,
    history: tuple[Applied, ...],
    checked: _Checked,
    version: int,
) -> Manifest:
    profile, graph = request.profile, exported.graph
    steps = [HistoryStep(step.step, step.config, step.result) for step in history]
    steps += [HistoryStep("graph", {"opset": profile.opset, "ir": profile.ir}, {"passes": list(graph.passes)})]
    return Manifest(
        name=intake.spec.name,
        version=version,
        model=request.spec,
        target=TargetNeed(
            profile.name,
            RuntimeNeed(profile.runtime, profile.runtime_min, profile.runtime_below),
            exported.precision,
            isa=() if exported.portable else profile.isa,
            identity=profile.identity,
            settings=dict(exported.settings),
        ),
        files=(),
        source=intake.parent.source,
        history=tuple(steps),
        parity=checked.parity,
        quality=checked.quality,
        questions=open_questions(profile, exported, checked.tolerance),
        selftest=checked.selftest,
        tools=tooling.versions(),
        origins={node.name: graph.origins[node.name] for node in graph.model.graph.node if node.name in graph.origins},
        licences=intake.licences,
    )
