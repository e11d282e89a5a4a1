"""From a request to an engine that is checked and kept: the cache is asked, else the builder, and self-tests decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from edgekit.bundle.landmarks import Landmarks, read_landmarks
from edgekit.errors import EdgekitError, InputError, IntegrityError
from edgekit.runtimes import cuda
from edgekit.runtimes.backend import BuiltEngine, Check, Engine, EngineRequest
from edgekit.runtimes.tensorrt_builder import BuildOrder, BuildResult, build_plan
from edgekit.runtimes.tensorrt_cache import SCHEMA, CachedEngine, Checked, EngineCache, EngineNote, Place, engine_key
from edgekit.runtimes.tensorrt_cache import sha256 as sha256_of
from edgekit.runtimes.tensorrt_checks import breach, run_checks
from edgekit.runtimes.tensorrt_memory import MemoryWatch, free_memory
from edgekit.runtimes.tensorrt_recipe import BuildRecipe, Sizes, parse_recipe

E = TypeVar("E", bound=Engine)


@dataclass(eq=False)
class Job(Generic[E]):
    """One request on this machine; `load` makes a plan an engine."""

    request: EngineRequest
    raw_recipe: bytes
    recipe: BuildRecipe
    gpu: cuda.Gpu
    place: Place
    key: str
    cache: EngineCache
    load: Callable[[bytes], E]

    @classmethod
    def of(cls, request: EngineRequest, version: str, gpu: cuda.Gpu, load: Callable[[bytes], E]) -> Job[E]:
        """Read the recipe and look at the machine.

        Raises:
            InputError, IntegrityError: there is no recipe, or it, or the cache's folder, cannot be used.
        """
        raw = request.recipe
        if raw is None:
            raise InputError(
                "there is no recipe to build an engine by",
                where="the bundle",
                why="no file has the role 'recipe'",
                fix="export the model for a target with TensorRT, such as orin-nano",
            )
        recipe = parse_recipe(raw)
        place = Place(version, cuda.driver_version(), gpu.compute_capability, gpu.sm_count, gpu.name)
        return cls(request, raw, recipe, gpu, place, engine_key(request.model, raw, place), EngineCache.of_user(), load)

    def ready(self, *, force: bool, recheck: bool) -> tuple[E, BuiltEngine]:
        """The engine, from the cache or new, and how it came to be.

        Args:
            force: build it even where one is there.
            recheck: run the self-tests on one that is there, too.
        """
        cached = None if force else self.cache.load(self.key, self.place)
        if cached is None:
            return self.build(force)
        engine = self.load(cached.plan)
        checked = self.check(engine) if recheck else ()
        return engine, self.built(cached, None, "it was in the cache", checked)

    def build(self, force: bool) -> tuple[E, BuiltEngine]:
        """Build, check, keep."""
        model_sha256 = sha256_of(self.request.model)
        reason = "it was asked for" if force else self.cache.others(model_sha256, self.place) or "none was there"
        start = time.perf_counter()
        result = self._plan(self.recipe)
        seconds = time.perf_counter() - start
        if result.timing:
            self.cache.publish_timing(self.recipe.timing_cache, self.place, result.timing)
        engine = self.load(result.plan)
        try:
            checked = self.check(engine)
            note = EngineNote(
                schema=SCHEMA,
                key=self.key,
                model_sha256=model_sha256,
                recipe_sha256=sha256_of(self.raw_recipe),
                engine_sha256=sha256_of(result.plan),
                engine_bytes=len(result.plan),
                place=self.place,
                checked=checked,
            )
            cached = CachedEngine(result.plan, note)
            if self.request.checks is not None:  # what nobody can check serves this process alone
                self._tell("keep the engine")
                self.cache.publish(cached)
        except BaseException:
            engine.close()
            raise
        return engine, self.built(cached, seconds, reason, checked, result.notes)

    def check(self, engine: E) -> tuple[Checked, ...]:
        """Run the self-tests; after a breach no engine of this key is left, and the engine is closed.

        Raises:
            GateError: naming the first layer that computes something else.
        """
        checks = list(self.request.checks()) if self.request.checks is not None else []
        self._tell(f"run {len(checks)} self-test(s)")
        try:
            passed, said = run_checks(engine, checks)
        except EdgekitError:  # it cannot even run
            engine.close()
            self.cache.drop(self.key)
            raise
        if said is None:
            return passed
        engine.close()
        self.cache.drop(self.key)
        where = f"tensorrt {self.place.tensorrt} on {self.gpu.name}"
        raise breach(f"target {self.recipe.target}", where, said, self._culprit(checks))

    def built(
        self,
        cached: CachedEngine,
        seconds: float | None,
        reason: str,
        checked: tuple[Checked, ...],
        notes: tuple[str, ...] = (),
    ) -> BuiltEngine:
        return BuiltEngine(
            key=self.key,
            path=str(self.cache.place_of(self.key)),
            size_bytes=len(cached.plan),
            built=seconds is not None,
            reason=reason,
            seconds=seconds,
            checks=len(checked),
            relative=max((each.relative for each in checked), default=None),
            notes=notes,
        )

    def _plan(self, recipe: BuildRecipe, mark: tuple[str, ...] = ()) -> BuildResult:
        watch = MemoryWatch(recipe.memory, lambda: free_memory(self.gpu.integrated))
        notes = []
        try:
            timing = self.cache.timing(recipe.timing_cache, self.place)
        except IntegrityError as error:  # it only saves time
            timing, notes = b"", [f"the timing cache was not used: {error.what}"]
        order = BuildOrder(self.request.model, recipe, timing, watch, self._tell, mark, self.request.threads, notes)
        return build_plan(order)

    def _culprit(self, checks: list[Check]) -> str:
        """The first diverging layer, found with an engine that gives out its inner tensors, in words."""
        if self.request.landmarks is None:
            return "which layer is to blame is unknown: the bundle has no landmarks"
        try:
            return self._search(read_landmarks(self.request.landmarks), checks)
        except EdgekitError as error:  # the breach is what the reader must hear of
            return f"which layer is to blame could not be found: {error.what}"

    def _search(self, landmarks: Landmarks, checks: list[Check]) -> str:
        self._tell("build again with inner tensors as outputs, to find the layer")
        if landmarks.selftest >= len(checks):
            raise IntegrityError("the landmarks are of a self-test that is not there", where="landmarks.json")
        check = checks[landmarks.selftest]
        sizes = {name: Sizes(array.shape, array.shape, array.shape) for name, array in check.feeds.items()}
        recipe = replace(self.recipe, optimization_profiles=(sizes,))  # larger batches would only take memory
        result = self._plan(recipe, tuple(each.tensor for each in landmarks.tensors))
        engine = self.load(result.plan)
        try:
            outputs = engine.run(check.feeds)
        finally:
            engine.close()
        found = landmarks.first_deviating(outputs, check.tolerance)
        if found is not None:
            off = found.deviation(outputs[found.tensor])
            return (
                f"the first to deviate is tensor {found.tensor!r} of {found.describe()}: relative deviation {off:.3g}"
            )
        wanted = {name: outputs[name] for name in check.wanted if name in outputs}
        _, said = run_checks(_Given(wanted), [check])
        if said is None:
            return "with its inner tensors as outputs the engine is right: the fault is in how layers are fused"
        return f"none of the {len(result.marked)} inner tensors deviates: the fault is in what comes after them"

    def _tell(self, stage: str) -> None:
        if self.request.announce is not None:
            self.request.announce(stage)


@dataclass(frozen=True)
class _Given:
    """Outputs that are there already."""

    outputs: dict[str, np.ndarray]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002  # as `Runs` has it
        return self.outputs
