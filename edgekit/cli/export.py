"""`edgekit export`: a model becomes a verified bundle for each target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.output import Json, emit, emit_then, note, say, table

if TYPE_CHECKING:
    from edgekit.bundle import Choice, Variant
    from edgekit.exporters import Plan
    from edgekit.pipeline import ExportResult

MODEL, GATES, INT8, OUTPUT = "Model", "Gates", "Int8", "Export"


def command(
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="A board; repeat it for several.", rich_help_panel=OUTPUT)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            "--model",
            help="A shipped model, .onnx, .pt2, folder or module:function.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Another file than ./edgekit.toml.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name.", rich_help_panel=MODEL)] = None,
    spec: Annotated[str | None, typer.Option(help="A ModelSpec as JSON.", rich_help_panel=MODEL)] = None,
    shapes: Annotated[
        str | None, typer.Option(help="Symbolic shapes: 'image=[\"batch\",3,8,8]'.", rich_help_panel=MODEL)
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="A TOML table: '{resize=\"stretch\"}'.", rich_help_panel=MODEL)
    ] = None,
    postprocess: Annotated[str | None, typer.Option(help="A TOML table.", rich_help_panel=MODEL)] = None,
    labels: Annotated[str | None, typer.Option(help="A text file, one class a line.", rich_help_panel=MODEL)] = None,
    data: Annotated[str | None, typer.Option(help="Held-out data for the quality gate.", rich_help_panel=GATES)] = None,
    split: Annotated[str | None, typer.Option(help="A split of the data.", rich_help_panel=GATES)] = None,
    metric: Annotated[
        str | None, typer.Option(help="ap50, ap, top1 or package:function.", rich_help_panel=GATES)
    ] = None,
    trust_code: Annotated[
        bool | None,
        typer.Option("--trust-code/--no-trust-code", help="Allow sources that execute code.", rich_help_panel=MODEL),
    ] = None,
    steps: Annotated[str | None, typer.Option(help="The recipe: 'fuse,rewrite'.", rich_help_panel=MODEL)] = None,
    calibration_data: Annotated[
        str | None, typer.Option(help="Real inputs for ranges and parity, never held out.", rich_help_panel=INT8)
    ] = None,
    calibration_split: Annotated[
        str | None, typer.Option(help="Or a split of --data; by default train.", rich_help_panel=INT8)
    ] = None,
    calibration_samples: Annotated[int | None, typer.Option(help="How many of them.", rich_help_panel=INT8)] = None,
    observer: Annotated[
        str | None,
        typer.Option(
            help="What chooses clip ranges: auto (the one whose outputs deviate least on calibration samples that set "
            "no range), minmax, percentile, ema-percentile, mse, octav or entropy.",
            rich_help_panel=INT8,
        ),
    ] = None,
    activations: Annotated[
        str | None, typer.Option(help="static, or dynamic: ranges at run time.", rich_help_panel=INT8)
    ] = None,
    equalize: Annotated[
        bool | None,
        typer.Option("--equalize/--no-equalize", help="Move scales between layers.", rich_help_panel=INT8),
    ] = None,
    bias_correction: Annotated[
        bool | None,
        typer.Option(
            "--bias-correction/--no-bias-correction", help="Take mean errors out of biases.", rich_help_panel=INT8
        ),
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(help="Layers that stay float: a node or module, * allowed; repeat it.", rich_help_panel=INT8),
    ] = None,
    min_coverage: Annotated[
        float | None, typer.Option(help="Least share of MACs really in int8.", rich_help_panel=INT8)
    ] = None,
    search: Annotated[
        bool | None,
        typer.Option("--search/--no-search", help="Return layers to float until it passes.", rich_help_panel=INT8),
    ] = None,
    allow_slower: Annotated[
        bool | None,
        typer.Option("--allow-slower/--no-allow-slower", help="Publish int8 though slower.", rich_help_panel=INT8),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest relative deviation of a tensor.", rich_help_panel=GATES)
    ] = None,
    parity_samples: Annotated[int | None, typer.Option(help="Inputs to compare on.", rich_help_panel=GATES)] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points that may be lost.", rich_help_panel=GATES)] = None,
    quality_samples: Annotated[int | None, typer.Option(help="At most so many.", rich_help_panel=GATES)] = None,
    input: Annotated[str | None, typer.Option(help="as-is or uint8-nhwc.", rich_help_panel=OUTPUT)] = None,
    end_to_end: Annotated[
        bool | None,
        typer.Option(
            "--end-to-end/--no-end-to-end", help="A detector's boxes come out of the graph.", rich_help_panel=OUTPUT
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, fp16, bf16 or int8.", rich_help_panel=OUTPUT)
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="A folder, or a file ending in .edgekit.", rich_help_panel=OUTPUT),
    ] = None,
    sign_key: Annotated[str | None, typer.Option(help="Sign with this private key.", rich_help_panel=OUTPUT)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = False,
    json: Json = False,
) -> None:
    """Export a model for a board: lower it, check it against its parent, and publish a bundle.

    Options come from edgekit.toml in this folder; without one, the shipped FemtoDet is exported.
    """
    from edgekit import pipeline, profiles
    from edgekit.config import load_config, parse_flag_table
    from edgekit.errors import UsageError
    from edgekit.intake import take_in
    from edgekit.progress import Progress

    flags: dict[str, Any] = {
        "target": tuple(target) if target else None,
        "source": source,
        "name": name,
        "spec": spec,
        "labels": labels,
        "data": data,
        "split": split,
        "metric": metric,
        "trust_code": trust_code,
        "calibration_data": calibration_data,
        "calibration_split": calibration_split,
        "calibration_samples": calibration_samples,
        "observer": observer,
        "activations": activations,
        "equalize": equalize,
        "bias_correction": bias_correction,
        "keep_float": tuple(keep_float) if keep_float else None,
        "min_coverage": min_coverage,
        "search": search,
        "allow_slower": allow_slower,
        "parity_samples": parity_samples,
        "tolerance": tolerance,
        "max_drop": max_drop,
        "quality_samples": quality_samples,
        "input": input,
        "end_to_end": end_to_end,
        "precision": precision,
        "output": output,
        "sign_key": sign_key,
        "steps": tuple(filter(None, map(str.strip, steps.split(",")))) if steps is not None else None,
        "shapes": parse_flag_table(shapes, "--shapes") if shapes else None,
        "preprocess": parse_flag_table(preprocess, "--preprocess") if preprocess else None,
        "postprocess": parse_flag_table(postprocess, "--postprocess") if postprocess else None,
    }
    options, found = load_config(config, flags)
    targets = options.export.targets
    if not targets:
        raise UsageError(
            "no target", where="--target", why="neither flag nor file names one", fix="edgekit targets lists them"
        )
    for each in targets:
        profiles.get(each)  # a misspelt one is reported before the first is exported
    if not json:
        if found:
            note(f"options from {found}")
        elif source is None:
            note("no edgekit.toml here and no --source: exporting the shipped FemtoDet")
    if dry_run:
        plans = [pipeline.plan(options, each) for each in targets]
        emit_then(plans, json, _print_plans, lambda: _require_supported(plans))
        return
    results: list[ExportResult] = []
    loading = Progress(_announcer("model", quiet=json))
    with loading.step("load the model"):
        intake = take_in(options)
    for each in targets:
        progress = Progress(_announcer(each, quiet=json), [] if results else loading.costs)
        place = _place(options.export.output, each, len(targets))
        results.append(pipeline.export(options, each, place, progress, intake))
        if not json:
            _print_result(results[-1])
    if json:
        emit([_summary(result) for result in results], True, lambda _: None)


def _announcer(target: str, quiet: bool) -> Callable[[str], None]:
    return lambda step: None if quiet else note(f"{target}: {step}")


def _place(output: str | None, target: str, targets: int) -> Path | None:
    """With several targets, the output is a folder of bundles."""
    if output is None:
        return None
    return Path(output) if targets == 1 else Path(output) / f"{target}.edgekit"


def _summary(result: ExportResult) -> dict[str, Any]:
    manifest = result.manifest
    return {
        "bundle": str(result.path),
        "name": manifest.name,
        "version": manifest.version,
        "target": manifest.target,
        "parity": manifest.parity,
        "quality": manifest.quality,
        "choice": manifest.choice,
        "questions": manifest.questions,
        "bytes": sum(entry.size for entry in manifest.files),
        "costs": result.progress.costs,
    }


def _print_result(result: ExportResult) -> None:
    manifest = result.manifest
    size = sum(entry.size for entry in manifest.files if entry.role in ("model", "weights")) / 1024
    target = manifest.target
    what = f"{manifest.name} v{manifest.version} for {target.name}, {target.precision}"
    say(f"{result.path}  {what}, model {size:.0f} KiB")
    for parity in manifest.parity:
        figures = f"{parity.relative:.1e} relative on {parity.samples} {parity.inputs} input(s)"
        say(f"  parity   {figures}, allowed {parity.tolerance:.0e}; {parity.where} against {parity.against}")
    quality = manifest.quality
    if quality.status == "measured":
        sure = "" if quality.drop_upper is None else f", at most {quality.drop_upper:.2f} points lost (95 %)"
        values = f"{quality.metric} {quality.parent:.2f} -> {quality.bundle:.2f}"
        say(f"  quality  {values} on {quality.samples} samples{sure}")
    else:
        say(f"  quality  unknown: {quality.reason}")
    if manifest.choice is not None:
        _print_choice(manifest.choice, manifest.variants)
    for question in manifest.questions:
        say(f"  open     {question.what}: {question.reason}")
    if manifest.questions:
        say(f"  next     on the board: edgekit prove {result.path.name}")
    for cost in result.progress.costs:
        say(f"  took     {cost.seconds:5.1f} s, peak {cost.peak_rss_mib:.0f} MiB  {cost.step}")


def _print_choice(choice: Choice, variants: tuple[Variant, ...]) -> None:
    say(f"  chosen   {choice.precision} by {choice.chosen_by}: {choice.reason}")
    for each in choice.candidates:
        speed = f"{each.latency_ms:.2f} ms, {each.speedup[1]:.2f}x of float's speed" if each.speedup else ""
        cover = f"{100 * each.coverage.share:.0f} % of MACs in int8" if each.coverage else ""
        told = ", ".join(filter(None, (speed, cover, each.reason)))
        say(f"  {each.precision:<8} {'' if each.eligible else 'not eligible: '}{told}")
    if choice.measured_on is not None:
        on = choice.measured_on
        say(f"  measured on {on.cpu}, {on.runtime}, {on.instruction_set}, {on.threads} thread(s)")
    for variant in variants:
        say(f"  carries  {variant.precision} as well, to be raced on the board")


def _print_plans(plans: list[Plan]) -> None:
    for each in plans:
        _print_plan(each)


def _require_supported(plans: list[Plan]) -> None:
    for each in plans:
        each.require_supported()


def _print_plan(plan: Plan) -> None:
    say(f"{plan.target}: {plan.runtime}, {plan.precision} ({plan.reason})")
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row in plan.rows:
        groups.setdefault((row.op, row.where, row.precision), []).append(row.macs)
    rows = [
        (op, len(macs), where, kind, f"{sum(macs) / 1e6:.2f}") for (op, where, kind), macs in sorted(groups.items())
    ]
    table(("operator", "nodes", "where", "precision", "MMAC"), rows)
    for problem in plan.problems:
        say(f"unsupported: {problem.op} {problem.node}: {problem.problem}")
    for text in plan.notes:
        say(f"note: {text}")
