"""`edgekit validate`: the task metric of bundles, and of their parent, on data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.output import Json, emit, note, say, table

if TYPE_CHECKING:
    from edgekit.audit import Audit


def command(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Bundles to score.")] = None,
    data: Annotated[Path | None, typer.Option(help="A VOC or YOLO folder, a folder a class, or .npz.")] = None,
    split: Annotated[str | None, typer.Option(help="A split of the data.")] = None,
    source: Annotated[str | None, typer.Option("--source", "--model", help="Also score this model in torch.")] = None,
    spec: Annotated[str | None, typer.Option(help="A ModelSpec as JSON for --source.")] = None,
    metric: Annotated[str | None, typer.Option(help="ap50, ap or top1; by default the model's own.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Allow sources that execute code.")] = False,
    runtime: Annotated[str | None, typer.Option(help="Another runtime than the bundle's own.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one inference.")] = None,
    key: Annotated[Path | None, typer.Option(help="A public key; unsigned bundles are refused.")] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Hold int8 bundles against --source, layer by layer.")
    ] = False,
    json: Json = False,
) -> None:
    """Score bundles on labelled data, and their parent beside them; with --layers, find the layer that hurts."""
    from edgekit.config import ModelOptions
    from edgekit.errors import UsageError
    from edgekit.validate import validate_bundle, validate_source

    if layers:
        _audit(bundles or [], source, spec, trust_code, key, data, split, json)
        return
    if data is None:
        raise UsageError("no data to score on", where="--data", fix="--data FOLDER, or --layers with --source")
    if not bundles and source is None:
        raise UsageError("nothing to score", where="edgekit validate", fix="name bundles, or a model with --source")
    scores = []
    if source is not None:
        if not json:
            note(f"scoring {source}")
        options = ModelOptions(source=source, spec=spec, trust_code=trust_code)
        scores.append(validate_source(options, data, split, metric, samples))
    for bundle in bundles or []:
        if not json:
            note(f"scoring {bundle}")
        scores.append(validate_bundle(bundle, data, split, metric, samples, runtime, threads, key))
    labels = sorted({label for score in scores for label in score.per_class})
    emit(
        scores,
        json,
        lambda all_scores: table(
            ("what", "runs in", "metric", "value", *labels, "samples"),
            [
                (
                    s.what,
                    s.runtime,
                    s.metric,
                    f"{s.value:.2f}",
                    *(_percent(s.per_class.get(x)) for x in labels),
                    s.samples,
                )
                for s in all_scores
            ],
        ),
    )


def _audit(
    bundles: list[Path],
    source: str | None,
    spec: str | None,
    trust_code: bool,
    key: Path | None,
    data: Path | None,
    split: str | None,
    json: bool,
) -> None:
    from edgekit.audit import audit
    from edgekit.config import ModelOptions
    from edgekit.errors import UsageError

    if not bundles or source is None:
        raise UsageError("--layers compares bundles with their source", where="edgekit validate", fix="give both")
    options = ModelOptions(source=source, spec=spec, trust_code=trust_code)
    found = [audit(bundle, options, key, data, split) for bundle in bundles]
    emit(found, json, _print_audits)


def _print_audits(audits: list[Audit]) -> None:
    for each in audits:
        _print_audit(each)


def _print_audit(found: Audit) -> None:
    say(f"{found.bundle}: {found.precision}, self-tests within {found.selftest:.1e} of the parent")
    if found.coverage is not None:
        say(f"{100 * found.coverage.share:.1f} % of MACs in int8, counted by {found.coverage.source}")
    if found.quality is not None:
        say(f"{found.quality.metric} {found.quality.parent:.2f} -> {found.quality.bundle:.2f}")
    rows = [
        (f"{row.snr_db:.1f}", row.node, row.module or "", f"{row.file}:{row.line}" if row.file else "")
        for row in found.layers
    ]
    table(("SNR dB", "node", "module", "source"), rows)


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
