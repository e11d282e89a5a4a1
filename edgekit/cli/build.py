"""`edgekit build`: build and check a bundle's engines on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.output import Json, emit, note, say, table

if TYPE_CHECKING:
    from edgekit.build import Build


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle for a runtime that builds on the device, such as TensorRT.")],
    precision: Annotated[str | None, typer.Option(help="Only this precision; all of them by default.")] = None,
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed the bundle.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for the builder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even where an engine is there.")] = False,
    json: Json = False,
) -> None:
    """Build the bundle's engines here, once; each is kept only if it passes the bundle's self-tests."""
    from edgekit.build import build

    found = build(bundle, key=key, precision=precision, threads=threads, force=force, announce=note)
    emit(found, json, _print)


def _print(found: tuple[Build, ...]) -> None:
    rows = [
        (
            each.precision,
            "built" if each.engine.built else "found",
            _size(each.engine.size_bytes),
            f"{each.engine.checks} passed" if each.engine.checks else "no self-test",
            None if each.engine.relative is None else f"{each.engine.relative:.2g}",
            each.engine.key[:16],
            each.engine.reason,
        )
        for each in found
    ]
    table(("precision", "engine", "size", "self-tests", "deviation", "key", "why"), rows)
    for each in found:
        say(f"{each.precision}: {each.engine.path}")
        for text in each.engine.notes:
            say(f"{each.precision}: {text}")


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / (1 << 10):.0f} KiB"
