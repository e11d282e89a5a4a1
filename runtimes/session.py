"""A loaded bundle: `run` tensors, or `predict` on pictures, the same over every backend."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from edgekit import plugins
from edgekit.bundle import Bundle, Manifest, RuntimeNeed
from edgekit.errors import InputError, IntegrityError, MissingError, UsageError
from edgekit.processing.classify import Ranking, top_k
from edgekit.processing.detect import Detections, detections
from edgekit.processing.preprocess import prepare_batch
from edgekit.runtimes.backend import Backend, Check, Engine, EngineRequest
from edgekit.spec import ClassificationPostprocess, DetectionPostprocess, ModelSpec, TensorSpec

Prediction = Detections | Ranking
OPTIONAL_ROLES = ("weights", "recipe", "landmarks")
# What gets a fitting version of a runtime that no pip install changes.
_VERSION_FIXES = {
    "tensorrt": "export the bundle for the JetPack that is on this board (edgekit targets lists them), or update it"
}


class Session:
    """A bundle that is loaded in its runtime. Use `load`; close it, or use it as a context manager.

    A session serves one thread at a time; load the bundle once a thread for more.

    Attributes:
        manifest, spec: what the bundle says of itself and of its model.
        runtime: what runs it, with its version.
        precision: of the model that was opened, the bundle's own or one of its variants'.
    """

    def __init__(self, manifest: Manifest, backend: Backend, engine: Engine, precision: str | None = None) -> None:
        self.manifest = manifest
        self.precision = precision or manifest.target.precision
        self.spec: ModelSpec = manifest.model
        self.runtime = f"{backend.name} {backend.version()}"
        self._engine = engine
        self._expected = {tensor.name: (_dtype(tensor), tensor.shape, len(tensor.shape)) for tensor in self.spec.inputs}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            feeds: every input by name, in the dtype and shape that `spec.inputs` states.

        Raises:
            InputError: an input is missing or unknown, or has another dtype or shape, or sizes do not fit together.
            UsageError: the session is closed.
        """
        if not isinstance(feeds, Mapping) or feeds.keys() != self._expected.keys():
            raise _wrong_names(feeds, list(self._expected))
        for name, array in feeds.items():
            dtype, shape, rank = self._expected[name]
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != rank:
                raise _wrong_array(name, array, dtype, shape)
            for have, want in zip(array.shape, shape, strict=True):
                if have != want and isinstance(want, int):
                    raise _wrong_array(name, array, dtype, shape)
        return self._engine.run(feeds)

    def predict(self, image: np.ndarray) -> Prediction:
        """From a picture, uint8 RGB (height, width, 3), to detections in its pixels or ranked classes.

        Raises:
            UsageError: the bundle carries no pre- or postprocessing.
            InputError: the picture has another dtype or shape.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """`predict` on several pictures: in one run where the batch dimension is symbolic, else in runs of its size."""
        pre, post = self.spec.preprocess, self.spec.postprocess
        if pre is None or post is None:
            raise UsageError(
                f"{self.spec.name} cannot take pictures",
                where="manifest: model",
                why="the bundle carries no " + ("preprocessing" if pre is None else "postprocessing"),
                fix="use run() with tensors, or export with [model] preprocess and postprocess",
            )
        if not images:
            return []
        size = self._expected[pre.input][1][0] if pre.input in self._expected else 1
        if isinstance(size, int) and 1 <= size != len(images):
            parts = [list(images[i : i + size]) for i in range(0, len(images), size)]
            full = [part + part[-1:] * (size - len(part)) for part in parts]  # the last is filled up with its last
            return [found for part in full for found in self.predict_batch(part)][: len(images)]
        tensor, placements = prepare_batch(pre, images)
        outputs = self.run({pre.input: tensor})
        if isinstance(post, DetectionPostprocess):
            return list(detections(post, outputs, placements))
        assert isinstance(post, ClassificationPostprocess)
        return list(top_k(post, outputs))

    def run_engine(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`run` without its checks, to time the runtime's own call."""
        return self._engine.run(feeds)

    @property
    def device_ms(self) -> float | None:
        """Time of the last run on the device, by its own clock; None where the runtime does not tell."""
        return getattr(self._engine, "device_ms", None)

    def warmup(self, count: int = 3) -> None:
        """Run `count` times on zeros, symbolic dimensions taken as 1, so that lazy set-up is over."""
        feeds = {
            name: np.zeros([dim if isinstance(dim, int) else 1 for dim in shape], dtype)
            for name, (dtype, shape, _) in self._expected.items()
        }
        for _ in range(count):
            self.run(feeds)

    def close(self) -> None:
        """Free what the runtime holds; closing twice does no harm."""
        self._engine.close()
        self._engine = _Closed()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Closed:
    """The engine of a closed session."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002  # as `Engine` has it
        raise UsageError("the session is closed", where="session.run", fix="load the bundle again")

    def close(self) -> None:
        pass


def load(
    path: str | Path,
    *,
    key: str | Path | bytes | None = None,
    threads: int | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> Session:
    """Load a bundle in the runtime that it was exported for.

    Args:
        path: a bundle, folder or `.edgekit` file.
        key: a public key; with one, unsigned and wrongly signed bundles are refused.
        threads: threads for one inference; None leaves it to the runtime.
        runtime: another runtime to use instead. Nothing falls back on its own: a bundle for a GPU runs on the CPU
            only where this says so.
        precision: opens the variant of that precision; None for the bundle's main model.
        announce: told of the stages where the runtime builds an engine first, which can take minutes.

    Raises:
        InputError: the path is no bundle.
        IntegrityError: the bundle was changed, or its signature does not fit `key`.
        MissingError: the runtime, or this machine, is not what the bundle needs.
        GateError: the runtime built an engine, and it does not compute what the model did.
        UsageError: `threads` is below 1, the model is not in a format of `runtime`, or the bundle has no variant of
            that `precision`.
    """
    with Bundle.open(Path(path), key=Path(key) if isinstance(key, str) else key) as bundle:
        return open_session(bundle, threads=threads, runtime=runtime, precision=precision, announce=announce)


def open_session(
    bundle: Bundle,
    *,
    threads: int | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> Session:
    """`load` for a bundle that is already open."""
    if threads is not None and threads < 1:
        raise UsageError("no inference runs on no thread", where=f"threads={threads}", fix="1 or more, or None")
    manifest = bundle.manifest
    need = manifest.target.runtime
    own = runtime is None or runtime == need.name
    backend = backend_named(runtime or need.name)
    if own:
        require_fit(backend, manifest)
    files, settings = _parts(bundle, precision)
    if not own and not files["model"].endswith(".onnx"):
        raise UsageError(
            f"{manifest.name} cannot run on {backend.name}",
            where=files["model"],
            why=f"its model is in the format of {need.name}",
            fix="export it for a target with that runtime",
        )
    request = replace(_request(bundle, files, settings if own else {}, precision), threads=threads, announce=announce)
    return Session(manifest, backend, backend.open(request), precision)


def engine_request(bundle: Bundle, precision: str | None = None) -> EngineRequest:
    """What the bundle's own runtime is asked to open, for any number of threads.

    Args:
        precision: the variant's; None for the main model.

    Raises:
        UsageError: the bundle has no such variant; the message lists what it has.
        IntegrityError: a file is not the one that the manifest names, or there is no model.
    """
    return _request(bundle, *_parts(bundle, precision), precision)


def _request(
    bundle: Bundle, files: Mapping[str, str], settings: Mapping[str, str], precision: str | None
) -> EngineRequest:
    read = {role: bundle.read(files[role]) for role in ("model", *OPTIONAL_ROLES) if role in files}
    return EngineRequest(
        model=read["model"],
        weights=read.get("weights"),
        settings=settings,
        outputs=tuple(tensor.name for tensor in bundle.manifest.model.outputs),
        recipe=read.get("recipe"),
        landmarks=read.get("landmarks"),
        checks=lambda: self_tests(bundle, precision),
    )


def self_tests(bundle: Bundle, precision: str | None = None) -> tuple[Check, ...]:
    """The bundle's self-tests, with the tolerance of the main model or of the variant of that `precision`.

    Raises:
        IntegrityError: a file is not the one that the manifest names.
    """
    variant = next((each for each in bundle.manifest.variants if each.precision == precision), None)
    return tuple(
        Check(
            f"selftest-{index}",
            {name: bundle.read_array(file) for name, file in test.inputs.items()},
            {name: bundle.read_array(file) for name, file in test.outputs.items()},
            test.tolerance if variant is None else variant.tolerance,
        )
        for index, test in enumerate(bundle.manifest.selftest)
    )


def _parts(bundle: Bundle, precision: str | None) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Files by role, and settings, of the main model or a variant."""
    manifest = bundle.manifest
    if precision is None or precision == manifest.target.precision:
        found = {role: bundle.files_with_role(role) for role in ("model", *OPTIONAL_ROLES)}
        if not found["model"]:
            raise IntegrityError("the bundle has no model", where=str(bundle.path), why="no file has the role 'model'")
        return {role: paths[0] for role, paths in found.items() if paths}, manifest.target.settings
    variant = next((variant for variant in manifest.variants if variant.precision == precision), None)
    if variant is None:
        raise UsageError(
            f"the bundle has no {precision!r}",
            where=str(bundle.path),
            why=f"it has {', '.join(manifest.precisions)}",
            fix="load one of these, or export again with --precision",
        )
    return variant.files, variant.settings


def backend_named(name: str) -> Backend:
    """The backend registered as `name`.

    Raises:
        MissingError: no installed package brings it.
    """
    if name not in plugins.names("edgekit.runtimes"):
        raise MissingError(
            f"no runtime {name!r} is available here",
            where="edgekit.runtimes",
            why="no installed package registers it; here are: "
            + (", ".join(plugins.names("edgekit.runtimes")) or "none"),
            fix="run it on the device, or pass runtime='onnxruntime' to compute on this CPU instead",
        )
    backend: Backend = plugins.load("edgekit.runtimes", name)
    return backend


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end: `1.20.0rc1` gives (1, 20), as `1.20` does."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def version_problem(version: str, least: str, below: str | None) -> str | None:
    """The range, in words, where the version is not within `least` (inclusive) and `below` (exclusive); else None."""
    have = version_numbers(version)
    if have < version_numbers(least) or (below and have >= version_numbers(below)):
        return f">= {least}" + (f", < {below}" if below else "")
    return None


def require_fit(backend: Backend, manifest: Manifest) -> None:
    """See that the runtime's version and this machine are what the bundle was exported for.

    Raises:
        MissingError: one is not, or the runtime is not installed.
    """
    _check_version(backend, manifest.target.runtime)
    _check_machine(manifest)


def _check_version(backend: Backend, need: RuntimeNeed) -> None:
    outside = version_problem(backend.version(), need.min, need.below)
    if outside:
        wanted = f"{need.name} {outside}"
        raise MissingError(
            f"the bundle needs {wanted}",
            where=f"{backend.name} {backend.version()}",
            why="outside that range the model was never checked",
            fix=_VERSION_FIXES.get(need.name, f"pip install '{wanted.replace(' ', '')}'"),
        )


def _check_machine(manifest: Manifest) -> None:
    isa = manifest.target.isa
    if isa and platform.machine() not in isa:
        raise MissingError(
            f"the bundle needs a machine with {' or '.join(isa)}",
            where=platform.machine(),
            why=f"it was exported for {manifest.target.name}",
            fix="run it there, or export for a target of this machine",
        )


def _dtype(tensor: TensorSpec) -> np.dtype:
    try:
        return np.dtype(tensor.dtype)
    except TypeError as error:
        raise IntegrityError(
            f"input {tensor.name!r} is of an unknown dtype", where="manifest: model.inputs", why=str(error)
        ) from error


def _wrong_names(feeds: object, want: list[str]) -> InputError:
    got = ", ".join(sorted(map(str, feeds))) if isinstance(feeds, Mapping) else f"{type(feeds).__name__}, not a mapping"
    return InputError(
        "the inputs do not match the model's",
        where=f"got {got or 'none'}",
        why=f"the model takes {', '.join(want)}",
        fix="session.spec.inputs lists names, dtypes and shapes",
    )


def _wrong_array(name: str, array: object, dtype: np.dtype, shape: tuple[int | str, ...]) -> InputError:
    got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    return InputError(
        f"input {name!r} is not what the model takes",
        where=f"got {got}",
        why=f"it takes {dtype} ({', '.join(map(str, shape))})",
        fix="convert the array; session.spec.inputs lists names, dtypes and shapes",
    )
