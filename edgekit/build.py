"""`edgekit build`: on the board, an engine for every precision of a bundle, each held to the bundle's self-tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, UsageError
from edgekit.runtimes.backend import Builder, BuiltEngine
from edgekit.runtimes.session import backend_named, engine_request, require_fit


@dataclass(frozen=True)
class Build:
    """An engine of one precision."""

    precision: str
    runtime: str
    engine: BuiltEngine


def build(
    path: Path,
    *,
    key: Path | None = None,
    precision: str | None = None,
    threads: int | None = None,
    force: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> tuple[Build, ...]:
    """Have the engines of a bundle in this machine's cache, checked; the first that fails ends it.

    Args:
        path: the bundle.
        key: a public key; with one, the bundle must be signed by it.
        precision: only this one; None for all.
        threads: for the builder; None leaves it to the runtime.
        force: build even where an engine is there.
        announce: told of each stage.

    Raises:
        UsageError: the bundle's runtime builds nothing, or the bundle has no such precision.
        MissingError: the runtime, the machine, memory or room on the disk is missing.
        GateError: the runtime refuses the model, or an engine does not compute what the model did; it is deleted.
        IntegrityError, InputError: as `load`, or the cache is not to be trusted.
        InconclusiveError: the user stopped the build.
    """
    with Bundle.open(path, key=key) as bundle:
        bundle.verify()
        manifest = bundle.manifest
        backend = backend_named(manifest.target.runtime.name)
        if not isinstance(backend, Builder):
            raise UsageError(
                f"nothing is to be built for {manifest.name}",
                where=str(path),
                why=f"{backend.name} reads the bundle's files as they are",
                fix=f"edgekit run {path} PICTURE, or edgekit prove {path}",
            )
        require_fit(backend, manifest)
        runtime = f"{backend.name} {backend.version()}"
        found = []
        for name in manifest.precisions if precision is None else (precision,):

            def tell(stage: str, name: str = name) -> None:
                announce(f"{name}: {stage}")

            request = replace(engine_request(bundle, name), threads=threads, announce=tell)
            try:
                found.append(Build(name, runtime, backend.build(request, force=force)))
            except EdgekitError as error:
                raise type(error)(f"{name}: {error.what}", where=error.where, why=error.why, fix=error.fix) from error
        return tuple(found)
