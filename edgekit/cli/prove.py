"""`edgekit prove`: answer a bundle's open questions on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.output import Json, emit_then, note, table

if TYPE_CHECKING:
    from edgekit.prove import Proof


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed the bundle.")] = None,
    sign_key: Annotated[
        Path | None, typer.Option(help="Sign the answer with this private key, not the device's.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one inference.")] = None,
    json: Json = False,
) -> None:
    """Replay the bundle's self-test and answer its open questions here; the signed answer is written beside it."""
    from edgekit.prove import prove, require_passed, write_proof

    proof = prove(bundle, key=key, threads=threads, announce=note)
    written = write_proof(proof, bundle, sign_key)
    if not json:
        note(f"wrote {written[0]} and {written[1].name}")
    emit_then(proof, json, _print, lambda: require_passed(proof))


def _print(proof: Proof) -> None:
    rows = [
        (
            a.id,
            a.kind,
            a.status,
            None if a.value is None else f"{a.value:.3g}",
            a.unit,
            a.samples,
            None if a.tolerance is None else f"{a.tolerance:.3g}",
            a.reason,
        )
        for a in proof.answers
    ]
    table(("question", "kind", "status", "value", "unit", "samples", "allowed", "reason"), rows)
