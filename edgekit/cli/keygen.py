"""`edgekit keygen`: a key pair for signing bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.output import Json, emit, say


def command(stem: Annotated[Path, typer.Argument(help="Writes STEM.key and STEM.pub.")], json: Json = False) -> None:
    """Make an Ed25519 key pair: keep STEM.key secret, give STEM.pub to the devices."""
    from edgekit.bundle import generate_keys

    private, public = generate_keys(stem)
    emit(
        {"private": str(private), "public": str(public)},
        json,
        lambda r: say(f"wrote {r['private']} (keep it secret) and {r['public']}"),
    )
