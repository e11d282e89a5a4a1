"""Printing: what people read and what `--json` gives come from the same value."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

from edgekit.errors import EdgekitError

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def emit(value: T, as_json: bool, render: Callable[[T], None]) -> None:
    """Print `value` as JSON, or hand it to `render`."""
    if as_json:
        from edgekit.structure import encode

        print(json.dumps(encode(value), indent=1, allow_nan=False, ensure_ascii=False))
    else:
        render(value)


def emit_then(value: T, as_json: bool, render: Callable[[T], None], check: Callable[[], None]) -> None:
    """`emit`, then `check`: with JSON, its error goes to standard error, since the one document is printed already."""
    emit(value, as_json, render)
    try:
        check()
    except EdgekitError as error:
        if not as_json:
            raise
        note(f"error: {error}")
        raise typer.Exit(error.exit_code) from error


def say(text: str = "") -> None:
    """A line for people."""
    typer.echo(text)


def note(text: str) -> None:
    """A line about progress, on standard error, so that it never mixes with results."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table of text, columns aligned; None is shown as a dash."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for line in [list(columns), *cells]:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
