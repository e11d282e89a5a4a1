"""`edgekit verify`: is a bundle what it claims to be?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.output import Json, emit, say


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed it.")] = None,
    proof: Annotated[Path | None, typer.Option(help="A device's answer, BUNDLE.KEY.proof.json.")] = None,
    device_key: Annotated[Path | None, typer.Option(help="The public key of the device that gave it.")] = None,
    json: Json = False,
) -> None:
    """Check every file's hash, with --key the signature, and with --proof what a device found."""
    from edgekit.bundle import Bundle
    from edgekit.errors import UsageError
    from edgekit.prove import read_proof, require_passed

    if (proof is None) != (device_key is None):
        raise UsageError("--proof and --device-key belong together", where="edgekit verify")

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
        if proof and device_key:
            found = read_proof(proof, opened, device_key)
            require_passed(found)
            result["proof"] = f"{len(found.answers)} answers by {found.device['model']}, none says no"
    emit(
        result,
        json,
        lambda r: say(
            f"{r['bundle']}: {r['files']} files intact; signature: {r['signature']}"
            + (f"; proof: {r['proof']}" if "proof" in r else "")
        ),
    )
