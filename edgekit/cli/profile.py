"""`edgekit profile`: latency and energy of a bundle on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.output import Json, emit_then, note, say

if TYPE_CHECKING:
    from edgekit.profiler.remote.measure import Outcome
    from edgekit.profiler.report import Report

LATENCY, RATES, PARTS, OUTPUT = "Latency", "Throughput and sustained speed", "Parts", "Report"
DEVICE = "Another machine"


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    key: Annotated[Path | None, typer.Option(help="The public key that must have signed the bundle.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one inference.")] = None,
    precision: Annotated[str | None, typer.Option(help="One of the bundle's variants.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Inferences a second, timed from when each was due.", rich_help_panel=LATENCY),
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Exactly so many, instead of as many as decide.", rich_help_panel=LATENCY)
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs in one inference.", rich_help_panel=LATENCY)] = 1,
    processes: Annotated[
        int, typer.Option(min=1, help="Fresh processes; 5 or more for comparisons.", rich_help_panel=LATENCY)
    ] = 1,
    most: Annotated[
        float, typer.Option(help="Seconds that measuring latency may take a process.", rich_help_panel=LATENCY)
    ] = 60.0,
    streams: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Throughput with so many sessions at once; repeat it.", rich_help_panel=RATES),
    ] = None,
    hold_p99: Annotated[
        float | None,
        typer.Option(help="Search the highest rate whose p99 keeps so many milliseconds.", rich_help_panel=RATES),
    ] = None,
    soak: Annotated[
        str | None, typer.Option(help="Run on for so long, such as 20m: what speed stays.", rich_help_panel=RATES)
    ] = None,
    cold: Annotated[bool, typer.Option(help="Time starts in fresh processes.", rich_help_panel=PARTS)] = True,
    layers: Annotated[bool, typer.Option(help="Time layers, in a run of their own.", rich_help_panel=PARTS)] = True,
    energy: Annotated[bool, typer.Option(help="Measure joules, where there is a meter.", rich_help_panel=PARTS)] = True,
    budget: Annotated[
        list[str] | None, typer.Option(help="A limit, such as latency_p99_ms=20; repeat it.", rich_help_panel=OUTPUT)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="NAME: writes NAME.profile.json and its samples.", rich_help_panel=OUTPUT),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as one HTML page too.", rich_help_panel=OUTPUT)] = None,
    meter: Annotated[
        str | None,
        typer.Option(help="A program that prints `t_monotonic_ns,volt,amp` lines.", rich_help_panel=PARTS),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="ssh://user@host[:port], adb:SERIAL or local.", rich_help_panel=DEVICE)
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option(help="Packages for it, of edgekit wheelhouse.", rich_help_panel=DEVICE)
    ] = None,
    remote_python: Annotated[str, typer.Option(help="The Python to use there.", rich_help_panel=DEVICE)] = "python3",
    remote_root: Annotated[str, typer.Option(help="The folder to use there.", rich_help_panel=DEVICE)] = "",
    resume: Annotated[
        str | None, typer.Option(help="Fetch a run whose connection was lost.", rich_help_panel=DEVICE)
    ] = None,
    json: Json = False,
) -> None:
    """Measure latency and energy, with intervals, conditions and reasons; budgets decide the exit code."""
    from edgekit.cli.elsewhere import Elsewhere
    from edgekit.profiler.budgets import parse_budgets
    from edgekit.profiler.latency import Plan
    from edgekit.profiler.profile import Options, profile
    from edgekit.profiler.soak import parse_duration
    from edgekit.profiler.storage import SUFFIX, write_report

    limits = parse_budgets(budget or [])
    place = (output or Path(bundle.name.removesuffix(".edgekit"))).with_suffix("")
    there = Elsewhere(device, wheelhouse, remote_python, remote_root, resume)
    if there.asked:
        asked = {
            "threads": threads,
            "precision": precision,
            "rate": rate,
            "runs": runs,
            "batch": batch,
            "processes": processes,
            "most": most,
            "streams": streams,
            "hold_p99": hold_p99,
            "soak": soak,
            "cold": cold,
            "layers": layers,
            "energy": energy,
            "budget": budget,
            "meter": meter,
        }
        _show(*_fetched(there.measure(bundle, place, key, asked)), html, json)
        return
    plan = Plan(rate_hz=rate, runs=runs, most_s=most, least_s=min(10.0, most))
    options = Options(
        plan,
        threads,
        precision,
        batch,
        processes,
        cold,
        layers,
        energy,
        streams=tuple(streams or ()),
        hold_p99_ms=hold_p99,
        soak_s=None if soak is None else parse_duration(soak),
        budgets=limits,
        meter=meter,
    )
    found = profile(bundle, options, key=key, told=lambda part: note(f"profile: {part}"))
    path = place.with_name(place.name + SUFFIX)
    write_report(found, path)
    note(f"wrote {path}")
    _show(found.report, found.arrays, html, json)


def _fetched(outcome: Outcome) -> tuple[Report, Mapping[str, Any]]:
    from edgekit.errors import InconclusiveError
    from edgekit.profiler.storage import read_report

    if outcome.report is None:
        raise InconclusiveError("no report came back", where=f"run {outcome.run_id}", why=outcome.log[-500:])
    note(f"fetched {outcome.report}")
    return read_report(outcome.report)


def _show(report: Report, arrays: Mapping[str, Any], html: Path | None, json: bool) -> None:
    from edgekit.profiler.budgets import require
    from edgekit.profiler.table import render

    if html is not None:
        from edgekit.profiler.page import write_page

        write_page(report, arrays, html)
        note(f"wrote {html}")
    emit_then(report, json, lambda one: say(render(one)), lambda: require(report.verdicts))
