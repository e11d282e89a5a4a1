"""The HTML around a report's plots: style, figures at a glance, tables, bars. Text only goes in through `escaped`."""

from __future__ import annotations

import html
from collections.abc import Sequence

from edgekit.profiler.modules import ModuleTime, by_module
from edgekit.profiler.report import Layer, Report, Share
from edgekit.profiler.table import Section, number, percent, plain, quantile_name, uncertain

MOST_BARS = 25
MOST_ROWS = 2000
"""Modules drawn as bars, and layers listed under them; the report itself has all."""


def escaped(text: str) -> str:
    """Text for HTML, in element content or a quoted attribute, on one line and without control characters."""
    return html.escape(plain(text), quote=True)


def figure(svg: str, caption: str) -> str:
    """A plot with its caption."""
    return f"<figure>{svg}<figcaption>{escaped(caption)}</figcaption></figure>\n"


def section_html(section: Section, *, above: str = "", rows: bool = True) -> str:
    """A section with its plots above its table."""
    body = _table(section) if rows and section.rows else ""
    notes = "".join(f"<p class=note>{escaped(note)}</p>" for note in section.notes) if rows or not above else ""
    heading = f"<h2>{escaped(section.title)}</h2>"
    return f'<section id="{escaped(section.key)}">{heading}\n{above}{body}{notes}</section>'


def cards(report: Report) -> str:
    """The figures that a reader looks for first."""
    latency = report.latency
    median = latency.median_ms
    spread = (
        "no interval"
        if median.low is None
        else f"{number(median.low)} to {number(median.high)}, {percent(median.confidence)}"
    )
    made = [_card("median latency", f"{number(median.value)} ms", spread)]
    for one in latency.quantiles:
        if one.q == 0.99:
            head = "n/a" if one.value_ms is None else f"{number(one.value_ms)} ms"
            lacking = f"{latency.runs:,} runs, a bound takes {one.needed:,}"
            bound = lacking if one.upper_ms is None else f"at most {number(one.upper_ms)}, {percent(one.confidence)}"
            made.append(_card(f"{quantile_name(one.q)} latency", head, bound))
    if report.energy is None:
        unknown = report.unknown.get("energy")
        made.append(_card("energy", "n/a", unknown.reason if unknown else "not measured"))
    else:
        total = report.energy.total
        made.append(
            _card(
                "energy an inference", f"{uncertain(total.value_mj, total.uncertainty_mj)} mJ", report.energy.boundary
            )
        )
    if report.cold is not None:
        made.append(_card("peak memory", f"{number(report.cold.peak_rss_bytes / 2**20)} MiB", "resident, VmHWM"))
        started = report.cold.import_ms + report.cold.load_ms + report.cold.first_ms
        made.append(_card("cold start", f"{number(started, 3)} ms", "import, load, first inference"))
    return "".join(made)


def verdict_badge(report: Report) -> str:
    """Whether the figures may be compared, and whether budgets were kept."""
    valid = report.certificate.valid
    made = [f"<span class='badge {'good' if valid else 'bad'}'>{'valid' if valid else 'not valid'}</span>"]
    kinds = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "open"}
    made += [
        f"<span class='badge {kinds[one.outcome]}'>{escaped(one.budget)} {escaped(one.outcome)}</span>"
        for one in report.verdicts
    ]
    return " ".join(made)


def bars(layers: Sequence[Layer]) -> str:
    """Time by torch module as bars, and every layer in a list to open."""
    modules = by_module(layers)
    most = max((one.total_ms for one in modules), default=0.0) or 1.0
    shown = "".join(_bar(one, most) for one in modules[:MOST_BARS])
    rest = modules[MOST_BARS:]
    share = sum(one.share for one in rest)
    more = f"<p class=note>{len(rest)} more modules take {percent(share, 1)}.</p>" if rest else ""
    rows = "".join(
        f"<tr><td>{escaped(one.node)}<td>{escaped(one.op)}<td class=n>{number(one.median_ms, 3)}<td>"
        f"{escaped(one.precision or '')}<td>{escaped(one.module or '')}<td>{escaped(one.line or '')}"
        for one in layers[:MOST_ROWS]
    )
    head = "".join(f"<th>{name}" for name in ("layer", "operator", "ms", "precision", "module", "line"))
    listed = f"all {len(layers)} layers" if len(layers) <= MOST_ROWS else f"{MOST_ROWS} of {len(layers)} layers"
    return (
        f"<div class=bars>{shown}</div>{more}<details><summary>{listed}</summary><div class=wide><table>"
        f"<tr>{head}{rows}</table></div></details>"
    )


def parts(shares: Sequence[Share]) -> str:
    """What the application waits for, as bars; the reason where a part is not known."""
    most = max((one.median_ms or 0.0 for one in shares), default=0.0) or 1.0
    made = []
    for one in shares:
        if one.median_ms is None:
            made.append(f"<div><span>{escaped(one.part)}</span><q>{escaped(one.reason or 'not known')}</q></div>")
            continue
        width = f"{100 * one.median_ms / most:.2f}"
        drawn = f"<i><b style='width:{width}%'></b></i><em>{number(one.median_ms, 3)} ms</em>"
        made.append(f"<div><span>{escaped(one.part)}</span>{drawn}</div>")
    return f"<div class=bars>{''.join(made)}</div>"


def invalid(report: Report) -> str:
    """The reasons why figures must not be compared, for the head of the page."""
    why = report.certificate.reasons
    return "" if report.certificate.valid else f"<p class=bad>{escaped('; '.join(why) or 'for no known reason')}</p>"


def _bar(one: ModuleTime, most: float) -> str:
    told = f"{', '.join(one.ops)}{f', {one.line}' if one.line else ''}"
    kind = "" if one.known else " class=loose"
    return (
        f"<div title='{escaped(told)}'><span{kind}>{escaped(one.name)}</span>"
        f"<i><b style='width:{100 * one.total_ms / most:.2f}%'></b></i>"
        f"<em>{number(one.total_ms, 3)} ms</em><em>{percent(one.share, 1)}</em></div>"
    )


def _card(label: str, value: str, below: str) -> str:
    return f"<div><small>{escaped(label)}</small><strong>{escaped(value)}</strong><small>{escaped(below)}</small></div>"


def _table(section: Section) -> str:
    head = "".join(f"<th>{escaped(name)}" for name in section.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escaped(cell)}" for cell in row) for row in section.rows)
    kind, first = ("grid", f"<tr>{head}") if head else ("pairs", "")
    return f"<div class=wide><table class={kind}>{first}{rows}</table></div>"


_STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf8;--card:#fff;--ink:#1d2127;--muted:#5b6470;--grid:#d9dce1;
--main:#2b6cb0;--second:#c05621;--good:#22733f;--bad:#b3261e;--open:#8a5a00}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1c2026;--ink:#e8eaed;--muted:#a3abb6;--grid:#363c45;
--main:#6cb2f5;--second:#f6995c;--good:#6fcf8e;--bad:#ff8a80;--open:#f0bf5a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:2rem 1.2rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:break-word}
h1{font-size:1.35rem;line-height:1.3;margin:0 0 .3rem}
h2{font-size:1.08rem;margin:0 0 .7rem}
header p:not(.bad),footer{color:var(--muted)}
header p,footer{margin:.2rem 0;font-size:.88rem}
section{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:1.1rem 1.2rem;margin:1rem 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.4rem,1fr));gap:.7rem;margin:1.1rem 0}
.cards>div{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:.75rem .9rem}
.cards small{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;overflow:hidden;
color:var(--muted);font-size:.8rem}
.cards strong{display:block;font-size:1.2rem;font-weight:600;white-space:nowrap;font-variant-numeric:tabular-nums}
.badge{display:inline-block;border:1px solid;border-radius:1rem;padding:0 .65rem;font-size:.82rem;font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}
figure{margin:.2rem 0 1.1rem}
figure{overflow-x:auto}
figure svg{display:block;width:100%;min-width:32rem;height:auto}
figure text{font-family:inherit!important}
figcaption,.note{color:var(--muted);font-size:.86rem;margin:.3rem 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;width:100%;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--muted)}
td,th{padding:.28rem .9rem .28rem 0;border-bottom:1px solid var(--grid);vertical-align:top}
tr:last-child td{border-bottom:0}
.pairs td:first-child{color:var(--muted);width:30%}
.pairs{table-layout:fixed}
td.n{text-align:right}
.bars>div{display:grid;grid-template-columns:minmax(8rem,17rem) 1fr 5.4rem 3.6rem;gap:.7rem;align-items:center;
font-size:.88rem;padding:.12rem 0}
.bars em{font-style:normal;text-align:right;font-variant-numeric:tabular-nums}
.bars em+em{color:var(--muted)}
.bars span,footer{overflow-wrap:anywhere}
.bars q{quotes:none;grid-column:2/-1;color:var(--muted)}
.bars i{height:.8rem}
.bars b{display:block;height:100%;min-width:2px;background:var(--main);border-radius:0 3px 3px 0}
.loose{color:var(--muted)}
details{margin-top:.8rem;font-size:.88rem}
summary{cursor:pointer;color:var(--muted)}
@media(max-width:40rem){.bars>div{grid-template-columns:1fr 5.4rem 3.6rem}.bars i{grid-column:1/-1;grid-row:2}}
@media print{section,.cards>div{break-inside:avoid}}
"""

PAGE = (
    """<!doctype html>
<html lang=en><head><meta charset=utf-8>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name=viewport content="width=device-width,initial-scale=1"><meta name=referrer content=no-referrer>
<title>{title}: edgekit profile</title>
<style>"""
    + _STYLE.replace("{", "{{").replace("}", "}}")
    + """</style></head><body>
<header><h1>{heading}</h1><p>measured {started}</p><p>{badge}</p>{invalid}</header>
<div class=cards>{cards}</div>
{sections}
<footer>Measured figures only. Manifest {manifest}; format {schema}.</footer>
</body></html>
"""
)
