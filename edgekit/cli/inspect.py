"""`edgekit inspect`: what a bundle says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.output import Json, emit, say, table

if TYPE_CHECKING:
    from edgekit.bundle import Manifest


def command(bundle: Annotated[Path, typer.Argument(help="A bundle.")], json: Json = False) -> None:
    """Show a bundle's manifest, after checking every file against it."""
    from edgekit.bundle import Bundle
    from edgekit.structure import encode

    with Bundle.open(bundle) as opened:
        opened.verify()
        if json:
            emit({**encode(opened.manifest), "signed": opened.signed}, True, lambda _: None)
        else:
            _print(opened.manifest, opened.signed)


def _print(manifest: Manifest, signed: bool) -> None:
    target, model = manifest.target, manifest.model
    below = f", < {target.runtime.below}" if target.runtime.below else ""
    say(f"{manifest.name} v{manifest.version} for {target.name}, {target.precision}")
    say(f"runtime    {target.runtime.name} >= {target.runtime.min}{below}  {_pairs(target.settings)}")
    say(f"signed     {'yes; edgekit verify --key checks by whom' if signed else 'no'}")
    say(f"task       {model.task}  {', '.join(model.labels[:8])}{' ...' if len(model.labels) > 8 else ''}")
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            say(f"{kind:<10} {tensor.name} {tensor.dtype} ({', '.join(map(str, tensor.shape))})")
    say(f"source     {manifest.source.kind}: {manifest.source.origin}  sha256 {manifest.source.sha256[:16]}...")
    say(f"steps      {' -> '.join(step.step for step in manifest.history)}")
    for parity in manifest.parity:
        figures = f"{parity.relative:.1e} of {parity.tolerance:.0e} on {parity.samples} {parity.inputs}"
        say(f"parity     {figures}; {parity.where}")
    quality = manifest.quality
    known = f"{quality.metric} {quality.parent} -> {quality.bundle} on {quality.samples} samples"
    say(f"quality    {known if quality.status == 'measured' else 'unknown: ' + str(quality.reason)}")
    for question in manifest.questions:
        say(f"open       {question.what}: {question.reason}")
    table(("file", "role", "bytes"), [(entry.path, entry.role, entry.size) for entry in manifest.files])


def _pairs(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
