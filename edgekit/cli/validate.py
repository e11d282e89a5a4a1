"""`edgekit validate`: the task metric of bundles, and of their parent, on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.output import Json, emit, note, table


def command(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Bundles to score.")] = None,
    data: Annotated[Path, typer.Option(help="A VOC or YOLO folder, a folder a class, or .npz.")] = ...,  # type: ignore[assignment]
    split: Annotated[str | None, typer.Option(help="A split of the data.")] = None,
    source: Annotated[str | None, typer.Option("--source", "--model", help="Also score this model in torch.")] = None,
    spec: Annotated[str | None, typer.Option(help="A ModelSpec as JSON for --source.")] = None,
    metric: Annotated[str | None, typer.Option(help="ap50, ap or top1; by default the model's own.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Allow sources that execute code.")] = False,
    runtime: Annotated[str | None, typer.Option(help="Another runtime than the bundle's own.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one inference.")] = None,
    key: Annotated[Path | None, typer.Option(help="A public key; unsigned bundles are refused.")] = None,
    json: Json = False,
) -> None:
    """Score bundles on labelled data, and their parent beside them."""
    from edgekit.config import ModelOptions
    from edgekit.errors import UsageError
    from edgekit.validate import validate_bundle, validate_source

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


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
