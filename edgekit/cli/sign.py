"""`edgekit sign`: sign a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.output import Json, emit, say


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    key: Annotated[Path, typer.Option(help="The private key, STEM.key.")],
    json: Json = False,
) -> None:
    """Verify a bundle and sign its manifest, byte for byte as it stands."""
    from edgekit.bundle import load_private_key, sign_bundle
    from edgekit.bundle.signing import key_id

    private = load_private_key(key)
    sign_bundle(bundle, private)
    emit(
        {"bundle": str(bundle), "key_id": key_id(private.public_key())},
        json,
        lambda r: say(f"signed {r['bundle']} with key {r['key_id']}"),
    )
