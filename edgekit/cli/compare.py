"""`edgekit compare`: is it slower, which layers, and what else differs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.output import Json, emit_then, note, say, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.profiler.compare import Compared, Comparison

MOST_LAYERS = 10


def command(
    entrants: Annotated[
        list[Path], typer.Argument(help="Two or more: reports (NAME.profile.json), or bundles to race here.")
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Fresh processes of each bundle, in turns; 6 or more.")] = 12,
    margin: Annotated[float, typer.Option(help="Differences within this share are no change.")] = 0.02,
    max_slowdown: Annotated[
        float | None, typer.Option(help="Fail (3) where one is slower than this times the first; 5: not decided.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one inference; bundles only.")] = None,
    precision: Annotated[str | None, typer.Option(help="A variant's precision; bundles only.")] = None,
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed the bundles.")] = None,
    json: Json = False,
) -> None:
    """Compare reports, or race bundles: the ratio of medians with its interval, and what changed."""
    from edgekit.profiler.compare import compare, require_limit
    from edgekit.profiler.storage import SUFFIX, read_report

    reports = [entrant.name.endswith(SUFFIX) for entrant in entrants]
    if all(reports):
        names = [entrant.name.removesuffix(SUFFIX) for entrant in entrants]
        comparison = compare([read_report(entrant) for entrant in entrants], names, margin=margin)
    elif any(reports):
        raise UsageError(
            "reports and bundles are not compared with one another",
            where=", ".join(map(str, entrants)),
            why="a report was made at another time: fresh processes could not take turns",
            fix="name reports only, or bundles only",
        )
    else:
        from edgekit.profiler.turns import Race, compare_bundles

        race = Race(rounds=rounds, threads=threads, precision=precision, margin=margin)
        comparison = compare_bundles(entrants, race, key=key, told=note)
    emit_then(
        comparison, json, _print, lambda: None if max_slowdown is None else require_limit(comparison, max_slowdown)
    )


def _print(comparison: Comparison) -> None:
    for index, pair in enumerate(comparison.pairs):
        if index:
            say()
        _print_pair(pair)


def _print_pair(pair: Compared) -> None:
    from edgekit.profiler.table import interval, number, plain

    say(plain(f"{pair.other} against {pair.base}: {pair.outcome} ({pair.reason})"))
    medians = f"{number(pair.base_ms)} ms to {number(pair.other_ms)} ms"
    of = "ratio" if pair.medians is None else "ratio of first deciles"
    say(plain(f"  median {medians}; {of} {interval(pair.ratio)}, over {pair.method}"))
    if pair.medians is not None:
        say(plain(f"  ratio of medians {interval(pair.medians)}, with what else ran here in it"))
    if pair.layers is None:
        say(plain(f"  layers: n/a: {pair.layers_reason}"))
    elif not pair.layers:
        say("  layers: none changed by 1 % of all")
    else:
        rows = [
            (plain(one.name), *(_told(ms) for ms in (one.before_ms, one.after_ms)), f"{100 * one.share:+.1f} %")
            for one in pair.layers[:MOST_LAYERS]
        ]
        table(("layer", "before ms", "after ms", "share of all"), rows)
        if len(pair.layers) > MOST_LAYERS:
            say(f"and {len(pair.layers) - MOST_LAYERS} more")
    if pair.conditions:
        rows = [(plain(one.name), *(plain(text or "-") for text in (one.before, one.after))) for one in pair.conditions]
        table(("condition", "before", "after"), rows)
    else:
        say("  conditions: alike")


def _told(value: float | None) -> str | None:
    from edgekit.profiler.table import number

    return None if value is None else number(value, 3)
