"""`edgekit wheelhouse`: collect the wheels that a device without internet needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.output import Json, emit, note, say, table

if TYPE_CHECKING:
    from edgekit.profiler.remote.wheelhouse import Wheelhouse


def command(
    target: Annotated[str, typer.Option(help="The device that it is for; see `edgekit targets`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder.")],
    python: Annotated[
        str | None, typer.Option(help="The device's Python, such as 3.10; the target's by default.")
    ] = None,
    glibc: Annotated[
        str | None,
        typer.Option(help="The device's C library, such as 2.35; by default one that is old enough for all."),
    ] = None,
    constraint: Annotated[Path | None, typer.Option(help="A file of versions for pip to keep to.")] = None,
    json: Json = False,
) -> None:
    """Download, with pip, what edgekit needs on a device, for `edgekit profile --device ... --wheelhouse FOLDER`."""
    from edgekit.profiler.remote.wheelhouse import GLIBC, prepare_wheelhouse

    house = prepare_wheelhouse(target, output, python=python, glibc=glibc or GLIBC, constraint=constraint, told=note)
    if not json:
        note(f"wrote {output}")
    emit(house, json, _print)


def _print(house: Wheelhouse) -> None:
    rows = [(each.name, each.version, f"{each.size_bytes / (1 << 20):.1f} MiB") for each in house.wheels]
    table(("package", "version", "size"), rows)
    total = house.size_bytes / (1 << 20)
    say(f"{total:.0f} MiB for Python {house.python} on {house.isa} with glibc {house.glibc} or newer ({house.target})")
