"""The corridor: a model becomes a verified bundle, or the command says no and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgekit import profiles, tooling
from edgekit.bundle import (
    Bundle,
    HistoryStep,
    Manifest,
    RuntimeNeed,
    SelfTest,
    TargetNeed,
    Variant,
    encode_array,
    load_private_key,
    write_bundle,
)
from edgekit.bundle.atomic import unwritable_is_typed
from edgekit.bundle.landmarks import ROLE as LANDMARKS_ROLE
from edgekit.candidates import Built
from edgekit.choose import Chosen, choose
from edgekit.compress import Applied, Recipe
from edgekit.config import Config
from edgekit.errors import EdgekitError, UsageError
from edgekit.exporters import LoweringRequest, Plan, exporter_for
from edgekit.gates import open_questions
from edgekit.graph.end_to_end import with_detections
from edgekit.graph.graph import Graph
from edgekit.graph.image_input import with_uint8_nhwc_input
from edgekit.intake import Intake, take_in
from edgekit.landmarks import landmarks
from edgekit.parents import Parent
from edgekit.profiles import DeviceProfile
from edgekit.progress import Progress
from edgekit.spec import ModelSpec

QUANT = "quant.json"
LANDMARKS = "landmarks.json"


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
    chosen = choose(intake, config, request, progress)
    vectors = self_tests(intake, chosen)
    manifest = _manifest(intake, chosen, history, vectors.tests, version)
    files = {artifact.path: (artifact.role, artifact.data) for artifact in chosen.main.exported.files}
    files |= _extra_files(chosen) | vectors.files
    with progress.step("take landmarks"):
        files |= _landmarks(chosen, vectors)
    with progress.step("write the bundle"):
        with unwritable_is_typed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with write_bundle(path, manifest, files, private_key=key, overwrite=version > 1) as bundle:
            return ExportResult(path, bundle.manifest, chosen.main.plan, progress)


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


def _lower(intake: Intake, config: Config, profile: DeviceProfile) -> tuple[LoweringRequest, tuple[Applied, ...]]:
    """The canonical graph in the form that the target is asked to take."""
    recipe = Recipe.parse(config.recipe.steps) if config.recipe.steps is not None else None
    graph, history = _graph_of(intake.parent, intake.spec, recipe, profile.opset, profile.ir)
    spec = intake.spec
    if config.export.input == "uint8-nhwc":
        graph, spec = with_uint8_nhwc_input(graph, spec)
    if config.export.end_to_end:
        graph, spec = with_detections(graph, spec)
    return LoweringRequest(graph, spec, profile, config.export.precision), history


@lru_cache(maxsize=2)
def _graph_of(
    parent: Parent, spec: ModelSpec, recipe: Recipe | None, opset: int, ir_version: int
) -> tuple[Graph, tuple[Applied, ...]]:
    """Exporting for several targets traces the model once for each opset."""
    return parent.to_graph(spec, recipe, opset, ir_version)


@dataclass(frozen=True)
class Vectors:
    """Self-tests and their files, path to role and bytes; `first` is what the first of them feeds."""

    tests: tuple[SelfTest, ...]
    first: Mapping[str, np.ndarray]
    files: dict[str, tuple[str, bytes]]


def self_tests(intake: Intake, chosen: Chosen) -> Vectors:
    """One vector of each kind of sample that every precision in the bundle was held to, with the parent's outputs."""
    held = [{sample.origin for sample in one.samples} for one in (chosen.main, *chosen.variants)]
    common = set.intersection(*held)
    tests: list[SelfTest] = []
    files: dict[str, tuple[str, bytes]] = {}
    samples = {sample.origin: sample for sample in reversed(chosen.main.samples) if sample.origin in common}
    for index, sample in enumerate(samples.values()):
        tensors = {"inputs": sample.bundle, "outputs": intake.parent.run(sample.parent)}
        paths: dict[str, dict[str, str]] = {}
        for kind, arrays in tensors.items():
            paths[kind] = {name: f"selftest/{index}/{kind}-{i}.npy" for i, name in enumerate(arrays)}
            files |= {paths[kind][name]: ("selftest", encode_array(array)) for name, array in arrays.items()}
        tests.append(SelfTest(paths["inputs"], paths["outputs"], chosen.main.tolerance, sample.origin))
    return Vectors(tuple(tests), next(iter(samples.values())).bundle, files)


def _variant_path(precision: str, path: str) -> str:
    return f"variants/{precision}/{path}"


def _extra_files(chosen: Chosen) -> dict[str, tuple[str, bytes]]:
    """The files of the variants, and what calibration learned."""
    files: dict[str, tuple[str, bytes]] = {}
    for one in chosen.variants:
        for artifact in one.exported.files:
            files[_variant_path(one.precision, artifact.path)] = ("variant", artifact.data)
    for one in (chosen.main, *chosen.variants):
        if one.request.quant is not None:
            files[QUANT] = ("quantspec", one.request.quant.to_json())
    return files


def _landmarks(chosen: Chosen, vectors: Vectors) -> dict[str, tuple[str, bytes]]:
    """For engines that the board builds: known values inside, by which `edgekit build` names a layer that is wrong."""
    files = {}
    for one in (chosen.main, *chosen.variants):
        if one.exported.rehearsal:
            main = one is chosen.main
            path, role = (LANDMARKS, LANDMARKS_ROLE) if main else (_variant_path(one.precision, LANDMARKS), "variant")
            files[path] = (role, landmarks(one.exported.graph, vectors.first))
    return files


def _variant_files(one: Built) -> dict[str, str]:
    files = {artifact.role: _variant_path(one.precision, artifact.path) for artifact in one.exported.files}
    if one.exported.rehearsal:
        files[LANDMARKS_ROLE] = _variant_path(one.precision, LANDMARKS)
    return files


def _variants(chosen: Chosen) -> tuple[Variant, ...]:
    return tuple(
        Variant(
            one.precision,
            _variant_files(one),
            dict(one.exported.settings),
            one.tolerance,
            one.verdict.quality,
            one.coverage,
        )
        for one in chosen.variants
    )


def _manifest(
    intake: Intake, chosen: Chosen, history: tuple[Applied, ...], tests: tuple[SelfTest, ...], version: int
) -> Manifest:
    main = chosen.main
    request, exported = main.request, main.exported
    profile, graph = request.profile, exported.graph
    steps = [HistoryStep(step.step, step.config, step.result) for step in history]
    steps += [HistoryStep("graph", {"opset": profile.opset, "ir": profile.ir}, {"passes": list(graph.passes)})]
    steps += [step for one in (main, *chosen.variants) for step in one.steps]
    layers = next((one.layers for one in (main, *chosen.variants) if one.layers), ())
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
        parity=main.parity,
        quality=main.verdict.quality,
        questions=open_questions(profile, exported, main.tolerance, [one.precision for one in chosen.variants]),
        selftest=tests,
        tools=tooling.versions(),
        origins={node.name: graph.origins[node.name] for node in graph.model.graph.node if node.name in graph.origins},
        licences=intake.licences,
        choice=chosen.choice,
        variants=_variants(chosen),
        layers=layers,
    )
