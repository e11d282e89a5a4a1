"""Budgets: a limit on a figure, met, exceeded or undecided by the figure's confidence bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.errors import GateError, InconclusiveError, UsageError
from edgekit.profiler.report import Joules, Report, Verdict


@dataclass(frozen=True)
class Figure:
    """A figure with its bounds; a bound that is None is not known, and decides nothing.

    Attributes:
        needed: samples that a bound takes, of which there are `have`.
        missing: why there is no figure at all; a budget on it then fails.
    """

    value: float | None
    low: float | None
    high: float | None
    have: int = 0
    needed: int = 0
    missing: str | None = None
    undecided: str | None = None


def parse_budgets(texts: Sequence[str]) -> dict[str, float]:
    """`latency_p99_ms=20` to a name and a limit.

    Raises:
        UsageError: an unknown name, no number, or one named twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, limit = text.partition("=")
        if name not in FIGURES:
            raise UsageError(f"unknown budget {name!r}", where=f"--budget {text}", fix=", ".join(FIGURES))
        if name in found:
            raise UsageError(f"{name} has two limits", where=f"--budget {text}", fix="state one")
        try:
            found[name] = float(limit)
        except ValueError as error:
            raise UsageError("a budget is NAME=NUMBER", where=f"--budget {text}", fix=f"--budget {name}=20") from error
        if not math.isfinite(found[name]):
            raise UsageError("a limit is a finite number", where=f"--budget {text}")
    return found


def judge_budgets(report: Report, limits: Mapping[str, float], quality: Figure | None = None) -> tuple[Verdict, ...]:
    """The outcome of each budget.

    Args:
        quality: points of the task's metric that the bundle lost, for `quality_drop`.
    """
    return tuple(
        _verdict(name, limit, quality or _NO_QUALITY if name == "quality_drop" else FIGURES[name](report), report)
        for name, limit in limits.items()
    )


def require(verdicts: Sequence[Verdict]) -> None:
    """Raise where not every budget is met.

    Raises:
        GateError: one is exceeded.
        InconclusiveError: none is, but one is undecided.
    """
    for outcome, kind, what in (
        ("FAIL", GateError, "exceeds its budget"),
        ("INCONCLUSIVE", InconclusiveError, "is not decided"),
    ):
        for verdict in verdicts:
            if verdict.outcome == outcome:
                more = "" if verdict.more_runs is None else f"run {verdict.more_runs} more: --runs"
                raise kind(
                    f"{verdict.budget} {what}",
                    where=f"--budget {verdict.budget}={verdict.limit:g}",
                    why=verdict.reason,
                    fix=more or "see the report",
                )


def _verdict(name: str, limit: float, figure: Figure, report: Report) -> Verdict:
    at_least = name in AT_LEAST
    if figure.value is None and figure.missing is not None:
        return Verdict(name, limit, "FAIL", None, None, f"there is no figure: {figure.missing}")
    if not report.latency.steady:
        why = f"the warm-up reached no steady state: {report.latency.steady_reason}"
        return Verdict(name, limit, "INCONCLUSIVE", figure.value, None, why)
    good, bad = (figure.low, figure.high) if at_least else (figure.high, figure.low)
    sign = -1 if at_least else 1
    if good is not None and sign * good <= sign * limit:
        return Verdict(name, limit, "PASS", figure.value, good, f"its bound, {good:.4g}, keeps {limit:g}")
    if bad is not None and sign * bad > sign * limit:
        return Verdict(name, limit, "FAIL", figure.value, bad, f"its bound, {bad:.4g}, is beyond {limit:g}")
    more = max(1, figure.needed - figure.have) if good is None and figure.needed > figure.have else _more(figure, limit)
    why = figure.undecided or f"between {_told(figure.low)} and {_told(figure.high)}, {limit:g} is not decided"
    return Verdict(name, limit, "INCONCLUSIVE", figure.value, good, why, more)


def _more(figure: Figure, limit: float) -> int | None:
    """Runs after which an interval that closes in with 1/sqrt(n) would leave the limit out, if the value stays."""
    if figure.value is None or figure.low is None or figure.high is None or not figure.have or figure.value == limit:
        return None
    reach = figure.high - figure.value if figure.value < limit else figure.value - figure.low
    return max(1, math.ceil(figure.have * ((reach / abs(limit - figure.value)) ** 2 - 1)))


def _told(bound: float | None) -> str:
    return "?" if bound is None else f"{bound:.4g}"


def _quantile(q: float) -> Callable[[Report], Figure]:
    def read(report: Report) -> Figure:
        one = next(each for each in report.latency.quantiles if each.q == q)
        undecided = f"{one.reason} runs" if one.reason else None
        return Figure(one.value_ms, one.lower_ms, one.upper_ms, report.latency.runs, one.needed, undecided=undecided)

    return read


def _median(report: Report) -> Figure:
    one = report.latency.median_ms
    return Figure(one.value, one.low, one.high, report.latency.runs, undecided=one.reason)


def _energy(pick: Callable[[Report], Joules]) -> Callable[[Report], Figure]:
    def read(report: Report) -> Figure:
        if report.energy is None:
            return Figure(None, None, None, missing=report.unknown["energy"].reason)
        if not report.energy.valid:
            reason = "; ".join(report.energy.reasons)
            return Figure(pick(report).value_mj, None, None, undecided=f"the window is not valid: {reason}")
        joules = pick(report)
        return Figure(joules.value_mj, joules.value_mj - joules.uncertainty_mj, joules.value_mj + joules.uncertainty_mj)

    return read


def _power(report: Report) -> Figure:
    energy = report.energy
    if energy is None:
        return Figure(None, None, None, missing=report.unknown["energy"].reason)
    if not energy.valid:
        reason = "; ".join(energy.reasons)
        return Figure(energy.average_w, None, None, undecided=f"the window is not valid: {reason}")
    spread = energy.average_uncertainty_w
    return Figure(energy.average_w, energy.average_w - spread, energy.average_w + spread)


def _cold(field: str, scale: float = 1.0) -> Callable[[Report], Figure]:
    """Of a few processes only the middle is known, not its spread: it is compared as it is."""

    def read(report: Report) -> Figure:
        if report.cold is None:
            return Figure(None, None, None, missing=report.unknown["cold"].reason)
        value = float(getattr(report.cold, field)) * scale
        return Figure(value, value, value)

    return read


def _throughput(report: Report) -> Figure:
    if not report.throughput:
        return Figure(None, None, None, missing="no throughput was measured: --streams or --batch")
    best = max(report.throughput, key=lambda one: one.per_second.value).per_second
    return Figure(best.value, best.low, best.high, undecided=best.reason)


def _total(report: Report) -> Joules:
    assert report.energy is not None
    return report.energy.total


def _above_idle(report: Report) -> Joules:
    assert report.energy is not None
    return report.energy.above_idle


_NO_QUALITY = Figure(None, None, None, missing="it is read from a bundle, and this report has none")

FIGURES: dict[str, Callable[[Report], Figure]] = {
    "latency_median_ms": _median,
    "latency_p50_ms": _quantile(0.5),
    "latency_p90_ms": _quantile(0.9),
    "latency_p99_ms": _quantile(0.99),
    "latency_p999_ms": _quantile(0.999),
    "energy_mj": _energy(_total),
    "energy_above_idle_mj": _energy(_above_idle),
    "power_w": _power,
    "load_ms": _cold("load_ms"),
    "first_ms": _cold("first_ms"),
    "peak_rss_mib": _cold("peak_rss_bytes", 1 / 2**20),
    "throughput_per_s": _throughput,
    "quality_drop": lambda _: _NO_QUALITY,
}
"""What a budget may name, and where its figure stands in a report. `energy_mj` is the total, the idle board's included:
subtracting idle power flatters a slow model."""

AT_LEAST = frozenset({"throughput_per_s"})
"""Budgets that a figure must reach; it must keep below all others."""
