"""`edgekit prove`: answer a bundle's open questions on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.output import Json, emit, note, table


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed the bundle.")] = None,
    sign_key: Annotated[
        Path | None, typer.Option(help="Sign the answer with this private key, not the device's.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one inference.")] = None,
    json: Json = False,
) -> None:
    """Replay the bundle's self-test and answer its open questions here; the signed answer is written beside it."""
    from edgekit.prove import prove, require_passed, write_proof

    proof = prove(bundle, key=key, threads=threads)
    written = write_proof(proof, bundle, sign_key)
    emit(
        proof,
        json,
        lambda p: table(
            ("question", "kind", "status", "value", "unit", "samples", "allowed", "reason"),
            [
                (
                    a.id,
                    a.kind,
                    a.status,
                    None if a.value is None else f"{a.value:.3g}",
                    a.unit,
                    a.samples,
                    a.tolerance,
                    a.reason,
                )
                for a in p.answers
            ],
        ),
    )
    if not json:
        note(f"wrote {written[0]} and {written[1].name}")
    require_passed(proof)
