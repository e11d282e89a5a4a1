"""`edgekit inspect`: what a bundle says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.output import Json, emit, say, table

if TYPE_CHECKING:
    from edgekit.bundle import Candidate, Coverage, Manifest, Quality

_SHOWN = 10  # rows of lists that are long


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
    _print_choice(manifest)
    for question in manifest.questions:
        say(f"open       {question.what}: {question.reason}")
    table(("file", "role", "bytes"), [(entry.path, entry.role, entry.size) for entry in manifest.files])


def _print_choice(manifest: Manifest) -> None:
    """Why this precision, what the others gave, and where quantization hurts."""
    choice = manifest.choice
    if choice is not None:
        say(f"precision  {choice.precision}, chosen by: {choice.chosen_by}; {choice.reason}")
        on = choice.measured_on
        if on is not None:
            say(f"measured   on {on.cpu} ({on.machine}), {on.runtime}, {on.instruction_set}, {on.threads} thread(s)")
        for candidate in choice.candidates:
            say(f"candidate  {_candidate(candidate)}")
        own = next((each.coverage for each in choice.candidates if each.precision == choice.precision), None)
        for node, reason in list(own.float_nodes.items())[:_SHOWN] if own else ():
            say(f"float      {node}: {reason}")
        if own and len(own.float_nodes) > _SHOWN:
            say(f"float      ... and {len(own.float_nodes) - _SHOWN} more; --json lists all")
    for variant in manifest.variants:
        found = ", ".join([*variant.files.values(), *_found(variant.quality, variant.coverage)])
        say(f"variant    {variant.precision}: {found}; self-tests within {variant.tolerance:.2g}")
    if manifest.layers:
        columns = ("noisiest layer", "SNR dB", "module", "source")
        rows = [
            (each.node, f"{each.snr_db:.1f}", each.module, f"{each.file}:{each.line}" if each.file else None)
            for each in manifest.layers[:_SHOWN]
        ]
        table(columns, rows)


def _candidate(candidate: Candidate) -> str:
    figures = [] if candidate.latency_ms is None else [f"{candidate.latency_ms:.3g} ms"]
    if candidate.speedup is not None:
        low, value, high = candidate.speedup
        figures.append(f"{value:.2f}x of float's speed ({low:.2f} to {high:.2f})")
    figures += _found(candidate.quality, candidate.coverage)
    figures += [] if candidate.eligible else ["not eligible"]
    figures += [candidate.reason] if candidate.reason else []
    return f"{candidate.precision}: {', '.join(figures)}"


def _found(quality: Quality | None, coverage: Coverage | None) -> list[str]:
    """What the gates found, in words."""
    found = []
    if quality is not None and quality.status == "measured":
        found.append(f"{quality.metric} {quality.parent:.2f} -> {quality.bundle:.2f}")
    if coverage is not None:
        told = "the runtime says" if coverage.source == "runtime" else "by rule"
        found.append(f"{coverage.share:.0%} of MACs in int8 ({told}; bar {coverage.bar:.0%})")
    return found


def _pairs(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
