"""`edgekit attest`: a signed report about a bundle on this device, for strangers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.output import Json, emit_then, note, say, table

if TYPE_CHECKING:
    from edgekit.attest import Attestation


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed the bundle.")] = None,
    sign_key: Annotated[
        Path | None, typer.Option(help="Sign the report with this private key, not the device's.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one inference.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder, instead of the bundle's.")] = None,
    json: Json = False,
) -> None:
    """Prove the bundle here, and write what was found as a signed report without names, paths or serials."""
    from edgekit.attest import attest, write_attestation
    from edgekit.bundle import Bundle
    from edgekit.errors import GateError
    from edgekit.prove import prove

    proof = prove(bundle, key=key, threads=threads, announce=note)
    with Bundle.open(bundle, key=key) as opened:
        found = attest(opened, proof, sign_key)
    for path in write_attestation(found, output or bundle.resolve().parent, sign_key):
        note(f"wrote {path}")

    def check() -> None:
        if proof.failed:
            first = proof.failed[0]
            raise GateError(f"{first.id} failed here; the report says so", where=found.device.runtime, why=first.reason)

    emit_then(found, json, _print, check)


def _print(found: Attestation) -> None:
    from edgekit.profiler.table import interval, joules, quantile

    profile = found.profile
    say(f"{found.bundle} {found.version} for {found.target} on {found.device.model}, {found.device.runtime}")
    say(f"median {interval(profile.median_ms, 'ms')}; p99 {quantile(profile.p99_ms, profile.runs)}")
    unknown = profile.energy_unknown.reason if profile.energy_unknown else ""
    say(f"energy {joules(profile.energy.total) if profile.energy else f'n/a: {unknown}'}")
    say("valid" if profile.certificate.valid else f"not valid: {'; '.join(profile.certificate.reasons)}")
    rows = [
        (
            one.kind,
            one.predicted,
            None if one.measured is None else f"{one.measured:.4g}",
            one.unit,
            None if one.error is None else f"{one.error:+.1%}",
            one.reason,
        )
        for one in found.scores
    ]
    table(("prediction", "predicted", "measured", "unit", "error", "why not"), rows)
