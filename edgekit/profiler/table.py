"""A report as tables of text: for the terminal, and for the page, which prints the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgekit.profiler.modules import by_module
from edgekit.profiler.report import Condition, Energy, Interval, Joules, Quantile, Report, Unknown

MOST_MODULES = 12
"""Modules that the terminal shows; the page and the report have all."""

Row = tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        key: what it is about, such as `latency`; the page places it by that.
        rows: text, as many as columns each.
        notes: sentences under the table; all that there is where a figure is unknown.
    """

    key: str
    title: str
    columns: Row = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()


def render(report: Report) -> str:
    """The report for a terminal, plain text without control characters but the line breaks."""
    parts = [[title(report), *([report.started_utc] if report.started_utc else [])]]
    parts += [_lines(section) for section in sections(report)]
    return "\n\n".join("\n".join(map(plain, lines)) for lines in parts) + "\n"


def title(report: Report) -> str:
    """What was profiled, in one line."""
    one = report.subject
    threads = "" if one.threads is None else f", {one.threads} thread{'s' if one.threads != 1 else ''}"
    signed = "signed" if one.signed else "not signed"
    return f"{one.name} {one.version} for {one.target}: {one.runtime} {one.precision}{threads} ({signed})"


def sections(report: Report) -> tuple[Section, ...]:
    """Everything that a report says, in the order in which it is read; what is not in it is left out."""
    made = [make(report) for make in _SECTIONS]
    return tuple(section for section in made if section is not None)


def plain(text: str) -> str:
    """Text in one line that cannot steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text.replace("\n", " ").replace("\t", " "))


def number(value: float | None, figures: int = 4) -> str:
    """So many significant digits without an exponent, such as `0.01234` or `12,346`."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{_decimals(value, figures)}f}"


def uncertain(value: float, spread: float) -> str:
    """`88.0 ± 1.6`: two significant digits of the uncertainty, and as many decimals of the value (GUM 7.2.6)."""
    if spread <= 0 or not math.isfinite(spread):
        return f"{number(value)} ± {spread:g}"
    decimals = _decimals(spread, 2)
    return f"{value:,.{decimals}f} ± {spread:,.{decimals}f}"


def setting(value: float) -> str:
    """A number that somebody chose, as it was written: `600`, `6.6`."""
    return f"{value:,.10g}"


def interval(one: Interval, unit: str = "") -> str:
    """`8.21 ms [8.19, 8.24] at 95 %`, or why there is no interval."""
    head = f"{number(one.value)}{unit and ' ' + unit}"
    if one.low is None or one.high is None:
        return f"{head}, interval {one.reason or 'n/a'}"
    return f"{head} [{number(one.low)}, {number(one.high)}] at {percent(one.confidence)}"


def quantile(one: Quantile, runs: int) -> str:
    """`9.1 ms, at most 9.4 at 95 %`, or `n/a (98 < 299)`."""
    if one.value_ms is None:
        return f"n/a ({runs} < {one.needed})"
    bound = "" if one.upper_ms is None else f", at most {number(one.upper_ms)} at {percent(one.confidence)}"
    return f"{number(one.value_ms)} ms{bound}"


def quantile_name(q: float) -> str:
    """`p99.9` for 0.999."""
    return f"p{100 * q:.6g}"


def joules(one: Joules) -> str:
    """`12.30 ± 0.41 mJ (k = 2)`."""
    return f"{uncertain(one.value_mj, one.uncertainty_mj)} mJ (k = 2)"


def missing(one: Unknown | None) -> tuple[str, ...]:
    """The reason why a figure is not there, and the fix."""
    if one is None:
        return ("n/a: not measured",)
    return (f"n/a: {one.reason}", *([f"fix: {one.fix}"] if one.fix else []))


def percent(share: float, decimals: int | None = None) -> str:
    """`95 %`, or with so many decimals."""
    return f"{100 * share:.6g} %" if decimals is None else f"{100 * share:.{decimals}f} %"


def _decimals(value: float, figures: int) -> int:
    return max(0, min(9, figures - 1 - math.floor(math.log10(abs(value)))))


def _lines(section: Section) -> list[str]:
    lines = [section.title]
    cells = [row for row in (section.columns, *section.rows) if row]
    widths = [max(len(plain(row[i])) for row in cells) for i in range(len(cells[0]))] if cells else []
    for row in cells:
        text = "  ".join(plain(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"  {text}".rstrip())
    return [*lines, *(f"  {note}" for note in section.notes)]


def _latency(report: Report) -> Section:
    one = report.latency
    loop = "closed loop" if one.rate_hz is None else f"open loop at {setting(one.rate_hz)} a second"
    rows: list[Row] = [("median", interval(one.median_ms, "ms"))]
    rows += [(quantile_name(each.q), quantile(each, one.runs)) for each in one.quantiles if each.q != 0.5]
    rows += [
        ("mean", f"{number(one.mean_ms)} ms"),
        ("least, greatest", f"{number(one.min_ms)} ms, {number(one.max_ms)} ms"),
        ("spread", f"MAD {number(one.mad_ms, 3)} ms, CoV {percent(one.cov, 1)}"),
        ("runs", f"{one.runs:,} in {_counted(one.processes, 'process', 'processes')}, warm-up {one.warmup_runs:,}"),
        ("dependence", f"lag 1 {one.lag1:+.2f}, worth {one.effective_runs:,.0f} independent runs"),
        ("drift", f"{100 * one.slope_per_s:+.3f} % a second"),
        ("steady", "yes" if one.steady else f"no: {one.steady_reason or 'the reason was not kept'}"),
    ]
    if one.rate_hz is not None:
        rows.append(("late", f"{one.late:,} started after the next was due"))
    batch = "" if one.batch == 1 else f", batch {one.batch}"
    return Section("latency", f"Latency ({loop}{batch})", rows=tuple(rows))


def _split(report: Report) -> Section | None:
    if not report.split:
        return None
    rows = tuple((one.part, number(one.median_ms, 3), plain(one.reason or "")) for one in report.split)
    return Section("split", "What the application waits for", ("part", "median ms", ""), rows)


def _cold(report: Report) -> Section:
    one = report.cold
    if one is None:
        return Section("cold", "Cold start", notes=missing(report.unknown.get("cold")))
    rows = (
        ("import", f"{number(one.import_ms, 3)} ms"),
        ("load and compile", f"{number(one.load_ms, 3)} ms"),
        ("first inference", f"{number(one.first_ms, 3)} ms"),
        ("peak memory (VmHWM)", f"{number(one.peak_rss_bytes / 2**20)} MiB"),
    )
    counted = _counted(one.processes, "fresh process", "fresh processes")
    return Section("cold", f"Cold start (median of {counted})", rows=rows)


def _energy(report: Report) -> Section:
    one = report.energy
    if one is None:
        return Section("energy", "Energy", notes=missing(report.unknown.get("energy")))
    asked = "back to back" if one.rate_hz is None else f"at {setting(one.rate_hz)} a second"
    rows = (
        ("an inference, in total", joules(one.total)),
        ("an inference, above idle", joules(one.above_idle)),
        ("average power", f"{uncertain(one.average_w, one.average_uncertainty_w)} W (k = 2)"),
        ("idle power", f"{number(one.idle_w, 3)} W{', it drifted' if one.idle_drift else ''}"),
        ("a second", f"{number(one.per_second_j)} J, {asked}"),
        ("boundary", one.boundary),
        ("meter", f"{one.meter}, every {setting(one.period_ms)} ms"),
        ("window", f"{number(one.window_s, 3)} s, {one.inferences:,} inferences, {_readings(one)}"),
    )
    notes = () if one.valid else tuple(f"not valid: {reason}" for reason in one.reasons or ("the reason is unknown",))
    return Section("energy", "Energy", rows=rows, notes=notes)


def _readings(one: Energy) -> str:
    return f"{one.readings:,} readings worth {one.effective_readings:,.0f}"


def _layers(report: Report) -> Section:
    heading = "Layers by torch module (a run of its own, slower than the latency above)"
    if report.layers is None:
        return Section("layers", heading, notes=missing(report.unknown.get("layers")))
    found = by_module(report.layers)
    rows = tuple(
        (
            one.name if one.known else f"({one.name})",
            number(one.total_ms, 3),
            f"{one.share:.1%}",
            ", ".join(one.ops[:3]),
        )
        for one in found[:MOST_MODULES]
    )
    rest = found[MOST_MODULES:]
    notes = (f"and {len(rest)} more with {percent(sum(one.share for one in rest), 1)}",) if rest else ()
    return Section("layers", heading, ("module", "ms", "share", "operators"), rows, notes)


def _throughput(report: Report) -> Section | None:
    if not report.throughput:
        return None
    rows = tuple(
        (str(one.batch), str(one.streams), interval(one.per_second), number(one.latency_p50_ms))
        for one in report.throughput
    )
    return Section("throughput", "Throughput", ("batch", "streams", "inferences a second", "median ms"), rows)


def _held(report: Report) -> Section | None:
    one = report.held
    if one is None:
        return None
    rate = "none was found" if one.rate_hz is None else f"{number(one.rate_hz)} inferences a second"
    rows = [("highest rate", rate), ("back to back", f"{number(one.most_hz)} inferences a second")]
    if one.upper_ms is not None:
        rows.insert(1, ("p99 at that rate", f"at most {number(one.upper_ms)} ms at {percent(one.confidence)}"))
    if one.exceeded_hz is not None:
        rows.append(("exceeded at", f"{number(one.exceeded_hz)} inferences a second"))
    rows.append(("seen in", f"{one.runs:,} runs at {_counted(one.probes, 'rate', 'rates')}"))
    notes = (one.reason,) if one.reason else ()
    return Section("held", f"Rate that holds a p99 of {setting(one.budget_ms)} ms", rows=tuple(rows), notes=notes)


def _soak(report: Report) -> Section | None:
    one = report.soak
    if one is None:
        return None
    throttled = "never" if one.throttled_after_s is None else f"after {setting(one.throttled_after_s)} s"
    rows = (("sustained over best", percent(one.sustained_ratio, 1)), ("throttled", throttled))
    return Section("soak", f"Soak of {setting(one.seconds)} s", rows=rows, notes=(one.reason,) if one.reason else ())


def _budgets(report: Report) -> Section | None:
    if not report.verdicts:
        return None
    rows = tuple(
        (
            one.budget,
            f"{one.limit:g}",
            one.outcome if one.more_runs is None else f"{one.outcome} (run {one.more_runs:,} more)",
            number(one.value),
            one.reason,
        )
        for one in report.verdicts
    )
    return Section("budgets", "Budgets", ("budget", "limit", "outcome", "value", "why"), rows)


def _conditions(report: Report) -> Section:
    rows = tuple(
        (one.name, _before(one), "" if one.after in (None, one.before) else _known(one.after, one.unit))
        for one in report.conditions
    )
    tools = tuple((name, version, "") for name, version in sorted((report.tools or {}).items()))
    return Section("conditions", "Conditions", ("condition", "before", "after, if it moved"), (*rows, *tools))


def _certificate(report: Report) -> Section:
    one = report.certificate
    head = "valid: the figures may be compared" if one.valid else "not valid: do not compare these figures"
    notes = (*(f"because {reason}" for reason in one.reasons), *(f"note: {note}" for note in one.notes))
    return Section("certificate", f"Certificate: {head}", notes=notes)


def _before(one: Condition) -> str:
    if one.before is None and one.after is None and one.source:
        return f"unknown: {one.source}"
    return _known(one.before, one.unit)


def _known(text: str | None, unit: str | None) -> str:
    return "unknown" if text is None else f"{text} {unit}" if unit else text


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


_SECTIONS: Iterable[Callable[[Report], Section | None]] = (
    *(_latency, _split, _cold, _energy, _throughput, _held, _soak, _layers, _conditions, _certificate, _budgets),
)
