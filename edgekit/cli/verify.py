"""`edgekit verify`: is a bundle what it claims to be?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.output import Json, emit, say


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed it.")] = None,
    json: Json = False,
) -> None:
    """Check every file's hash, and with --key the signature."""
    from edgekit.bundle import Bundle

    with Bundle.open(bundle, key=key) as opened:
        opened.verify()
        result = {
            "bundle": str(bundle),
            "name": opened.manifest.name,
            "version": opened.manifest.version,
            "files": len(opened.manifest.files),
            "manifest_sha256": opened.digest,
            "signature": "valid" if key else ("present, not checked: no --key" if opened.signed else "none"),
        }
    emit(result, json, lambda r: say(f"{r['bundle']}: {r['files']} files intact; signature: {r['signature']}"))
