"""A report as one HTML page that needs no network and runs no script; plots are SVG made by matplotlib.

The only file that needs the extra `report`. Names in a report come from strangers: all text is escaped, none of it
reaches matplotlib, and the page's own policy forbids scripts and loading. Colours are CSS variables, so that the plots
follow the reader's light or dark setting with everything else.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle.atomic import publish, staging, unwritable_is_typed, write_file
from edgekit.errors import MissingError
from edgekit.profiler.markup import PAGE, bars, cards, escaped, figure, invalid, parts, section_html, verdict_badge
from edgekit.profiler.report import Energy, Report
from edgekit.profiler.storage import ENERGY_JOULES, ENERGY_TIMES, ENERGY_WATTS, PROCESSES, STARTS, Array, by_process
from edgekit.profiler.table import number, quantile_name, sections, setting, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, MAIN, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", MAIN: "--main", SECOND: "--second"}
"""Colours that nothing else has, to be replaced by the page's variables in the finished SVG."""

_POINTS = 2000  # more are drawn as the least, the middle and the greatest of groups: an SVG has an element a point
_GROUPS = 400
_BARS = 121
_SHOWN = 0.995  # of the latencies; the histogram says how many lie beyond, and how far

_STYLE: Any = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


def write_page(report: Report, arrays: Mapping[str, Array], path: Path) -> None:
    """Write the page to `path`, replacing what is there in one step.

    Raises:
        MissingError: matplotlib is not installed.
        InputError: the place cannot be written.
    """
    html = page(report, arrays).encode()
    with unwritable_is_typed(path), staging(path) as fresh:
        write_file(fresh, [html])
        publish(fresh, path, replace=True)


def page(report: Report, arrays: Mapping[str, Array]) -> str:
    """The report as HTML: what was measured and nothing else; what was not says why.

    Args:
        arrays: the samples by file name, as `read_report` gives them.

    Raises:
        MissingError: matplotlib is not installed.
    """
    tables = {section.key: section for section in sections(report)}
    made = []
    for key, section in tables.items():
        drawn = _drawn(key, report)
        above = drawn or _plots(key, report, arrays)
        made.append(section_html(section, above=above, rows=not drawn))
    return PAGE.format(
        title=escaped(report.subject.name),
        heading=escaped(title(report)),
        started=escaped(report.started_utc),
        badge=verdict_badge(report),
        invalid=invalid(report),
        cards=cards(report),
        sections="\n".join(made),
        manifest=escaped(report.subject.manifest_sha256),
        schema=escaped(report.schema),
    )


def _drawn(key: str, report: Report) -> str:
    """What takes a table's place."""
    if key == "layers" and report.layers is not None:
        return bars(report.layers)
    return parts(report.split) if key == "split" else ""


def _plots(key: str, report: Report, arrays: Mapping[str, Array]) -> str:
    if key == "latency":
        return figure(*_histogram(report, arrays)) + figure(*_series(report, arrays))
    if key == "energy" and report.energy is not None:
        read = _power(arrays)
        return "" if read is None else figure(*_trace(report.energy, *read))
    if key == "soak" and report.soak is not None:
        return figure(*_soak(report))
    return ""


def _histogram(report: Report, arrays: Mapping[str, Array]) -> tuple[str, str]:
    every = np.concatenate(by_process(report, arrays))
    end = float(np.quantile(every, _SHOWN))
    shown = every[every <= end]
    edges = np.histogram_bin_edges(shown, "fd" if len(shown) > 3 and np.ptp(shown) > 0 else 1)
    edges = edges if len(edges) <= _BARS else np.linspace(edges[0], edges[-1], _BARS)
    with _drawing() as (made, axes):
        axes.hist(shown, bins=edges.tolist(), color=MAIN, alpha=0.75, histtype="stepfilled")
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.16)
        _median_band(report, axes.axvline, axes.axvspan)
        marks = [(quantile_name(one.q), one.value_ms) for one in report.latency.quantiles if one.q != 0.5]
        for name, value in [("median", report.latency.median_ms.value), *marks]:
            if value is not None and value <= end * 1.02:
                dashes = (0, (4, 3)) if name != "median" else (0, ())
                axes.axvline(value, color=SECOND if name == "median" else INK, linewidth=1, linestyle=dashes)
                axes.annotate(name, (value, top * 1.09), (4, 0), textcoords="offset points")
        axes.set_xlabel("latency, ms")
        axes.set_ylabel("runs")
        axes.grid(visible=False, axis="x")
        svg = _svg(made, "histogram", f"Histogram of {len(every):,} latencies")
    beyond = len(every) - len(shown)
    tail = f" Beyond the right edge: {beyond:,} of {len(every):,} runs, up to {number(report.latency.max_ms)} ms."
    return svg, f"How often each latency was seen.{tail if beyond else ''} The band is the median's interval."


def _series(report: Report, arrays: Mapping[str, Array]) -> tuple[str, str]:
    times, borders = _instants(report, arrays)
    every = np.concatenate(by_process(report, arrays))
    grouped = len(every) > _POINTS
    with _drawing() as (made, axes):
        if grouped:
            _curve(axes, times, every, MAIN)
        else:
            axes.plot(times, every, linestyle="none", marker=".", markersize=3.5, color=MAIN, markeredgewidth=0)
        _median_band(report, axes.axhline, axes.axhspan)
        for border in borders:
            axes.axvline(border, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        greatest, usual = float(every.max()), float(np.quantile(every, 0.99))
        if greatest > 3 * usual:
            _logarithmic(axes, float(every.min()), greatest)
        axes.set_xlabel("time, s" if STARTS in arrays else "run")
        axes.set_ylabel("latency, ms")
        axes.margins(x=0.01)
        svg = _svg(made, "series", "Latency over time")
    how = (
        f"The least, the median and the greatest of about {len(every) // _GROUPS} runs in a row."
        if grouped
        else "Every run in the order in which it was made."
    )
    ends = " A new process starts at each dotted line." * bool(len(borders))
    return svg, f"{how} The band is the median's interval.{ends}"


def _instants(report: Report, arrays: Mapping[str, Array]) -> tuple[Array, list[float]]:
    """When each run started, processes one after the other, and where a new process starts."""
    series = by_process(report, arrays)
    if STARTS not in arrays:
        ends = np.cumsum([len(each) for each in series])
        return np.arange(1, ends[-1] + 1), [float(end) + 0.5 for end in ends[:-1]]
    processes = arrays.get(PROCESSES, np.zeros(len(arrays[STARTS]), np.int64))
    times, borders, now = [], [], 0.0
    for index, process in enumerate(np.unique(processes)):
        own = arrays[STARTS][processes == process]
        if index:
            borders.append(now)
        times.append(own - own[0] + now)
        now = float(times[-1][-1]) + float(series[index][-1]) / 1000
    return np.concatenate(times), borders


def _power(arrays: Mapping[str, Array]) -> tuple[Array, Array] | None:
    """Times in seconds from 0 and watts; of a counter, its rise from one reading to the next."""
    times, watts, joules = (arrays.get(name) for name in (ENERGY_TIMES, ENERGY_WATTS, ENERGY_JOULES))
    if times is None or (watts is None and joules is None):
        return None
    times = times - times[0]
    if watts is not None:
        return times, watts
    assert joules is not None
    apart = np.diff(times)
    rises = apart > 0
    return ((times[1:] + times[:-1]) / 2)[rises], np.diff(joules)[rises] / apart[rises]


def _trace(energy: Energy, times: Array, watts: Array) -> tuple[str, str]:
    with _drawing() as (made, axes):
        if len(watts) > _POINTS:
            _curve(axes, times, watts, SECOND)
        else:
            axes.plot(times, watts, color=SECOND, linewidth=1)
        axes.axhline(energy.average_w, color=INK, linewidth=1.2, label=f"average, {number(energy.average_w)} W")
        idle = f"idle with the model loaded, {number(energy.idle_w)} W"
        axes.axhline(energy.idle_w, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=idle)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("time, s")
        axes.set_ylabel("power, W")
        axes.margins(x=0.01)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
        svg = _svg(made, "power", "Power over time")
    return svg, "The meter's readings, idle before and after included. Energy is the area under them in the window."


def _soak(report: Report) -> tuple[str, str]:
    soak = report.soak
    assert soak is not None
    at = (np.arange(len(soak.medians_ms)) + 0.5) * soak.bucket_s
    with _drawing() as (made, axes):
        axes.plot(at, soak.medians_ms, color=MAIN, linewidth=1.4, marker=".", markersize=5)
        if soak.throttled_after_s is not None:
            axes.axvline(soak.throttled_after_s, color=SECOND, linewidth=1.4)
            axes.annotate(
                "throttled", (soak.throttled_after_s, axes.get_ylim()[1]), (4, -12), textcoords="offset points"
            )
        axes.set_xlabel("time, s")
        axes.set_ylabel("median latency, ms")
        svg = _svg(made, "soak", "Median latency over minutes")
    return svg, f"The median of every {setting(soak.bucket_s)} s."


def _median_band(report: Report, line: Callable[..., object], span: Callable[..., object]) -> None:
    median = report.latency.median_ms
    line(median.value, color=SECOND, linewidth=1.4)
    if median.low is not None and median.high is not None:
        span(median.low, median.high, color=SECOND, alpha=0.35, linewidth=0)


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low * 0.93, high * 1.1)


def _curve(axes: Axes, times: Array, values: Array, colour: str) -> None:
    """Values over time; of many, the median of each group as a line, and least to greatest as a band."""
    groups = np.array_split(np.arange(len(values)), _GROUPS)
    at = [float(np.median(times[group])) for group in groups]
    low, middle, high = (np.array([float(np.quantile(values[group], q)) for group in groups]) for q in (0.0, 0.5, 1.0))
    axes.fill_between(at, low, high, color=colour, alpha=0.3, linewidth=0)
    axes.plot(at, middle, color=colour, linewidth=1.4)


@contextmanager
def _drawing() -> Iterator[tuple[Figure, Axes]]:
    """An empty plot in the page's style."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        fix = "pip install 'edgekit[report]', or read the table and the JSON"
        raise MissingError("the page needs matplotlib", why="it is not installed", fix=fix) from error
    with mpl.rc_context(_STYLE):
        made = Figure(figsize=(8.4, 3.1), layout="constrained")
        yield made, made.add_subplot()


def _svg(made: Figure, name: str, label: str) -> str:
    """The plot as an SVG element for HTML: colours by variable, identifiers of its own, nothing to load."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        made.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escaped(label)}" ', 1)
