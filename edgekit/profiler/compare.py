"""Did it get slower, by how much, and what else differs: reports against one another.

Two reports were made one after the other, and what the machine did in between is in their ratio; with
`edgekit.profiler.turns` fresh processes take turns instead, which is the way to tell a few per cent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.errors import GateError, InconclusiveError, UsageError
from edgekit.profiler.blocks import LEAST_PROCESSES, quantile_interval, ratio_of_medians
from edgekit.profiler.differences import ConditionChange, LayerChange, condition_changes, layer_changes
from edgekit.profiler.quantiles import Floats
from edgekit.profiler.report import Interval, Report
from edgekit.profiler.storage import Array, by_process

MARGIN = 0.02
"""By default, differences within 2 % either way are no change."""
UNSEEN = 0.05
"""What the medians of two processes of one bundle may differ by, where too few were measured to see it: of 53 on 2
shared cores, in which others disturbed fewer than 5 % of the runs, 95 % of pairs were closer than 4.9 %."""

Outcome = Literal["changed", "no change", "undecided"]


@dataclass(frozen=True)
class Compared:
    """One entrant against the first.

    Attributes:
        ratio: its latency over the first's, above 1 where it is slower, with an interval: of medians, or of the first
            deciles where processes took turns.
        medians: the ratio of medians then, which what else ran here is in.
        method: whether the interval is over processes that took turns, over processes, or over the runs of too few
            processes to see how much these differ.
        layers: by torch module, the greatest change first; None where a side has none, and `layers_reason` says why.
    """

    base: str
    other: str
    base_ms: float
    other_ms: float
    ratio: Interval
    outcome: Outcome
    reason: str
    method: Literal["interleaved processes", "processes", "runs"]
    layers: tuple[LayerChange, ...] | None
    layers_reason: str | None
    conditions: tuple[ConditionChange, ...]
    medians: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """All entrants against the first; differences within `margin` are no change."""

    margin: float
    pairs: tuple[Compared, ...]


def compare(
    reports: Sequence[tuple[Report, Mapping[str, Array]]], names: Sequence[str] | None = None, *, margin: float = MARGIN
) -> Comparison:
    """Each report against the first.

    Args:
        reports: as `read_report` gives them, two or more.
        names: what to call them; by default the bundles' names and versions.
        margin: 0.02 takes 2 % more or less for no change.

    Raises:
        UsageError: fewer than two reports, or a margin that is not between 0 and 1.
    """
    check_request(len(reports), margin)
    called = list(names) if names else [f"{one.subject.name} {one.subject.version}" for one, _ in reports]
    (first, first_arrays), *others = reports
    pairs = []
    for name, (report, arrays) in zip(called[1:], others, strict=True):
        ratio, method = ratio_between(by_process(report, arrays), by_process(first, first_arrays))
        outcome, reason = judge(ratio, margin, seen=method != "runs")
        doubt = _doubt((first, report))
        layers, why = layer_changes(first, report)
        pairs.append(
            Compared(
                called[0],
                name,
                first.latency.median_ms.value,
                report.latency.median_ms.value,
                ratio,
                "undecided" if doubt else outcome,
                doubt or reason,
                method,
                layers,
                why,
                condition_changes(first, report),
            )
        )
    return Comparison(margin, tuple(pairs))


def ratio_between(ours: Sequence[Floats], theirs: Sequence[Floats]) -> tuple[Interval, Literal["processes", "runs"]]:
    """The median of `ours` over that of `theirs`, a series a process each; `runs` where processes are too few."""
    ratio = ratio_of_medians(ours, theirs)
    if ratio.low is not None:
        return ratio, "processes"
    sides = [_over_runs(side) for side in (ours, theirs)]
    missing = next((one.reason for one in sides if one.low is None), None)
    if missing is not None:
        return Interval(ratio.value, None, None, ratio.confidence, missing), "runs"
    few = min(len(ours), len(theirs))
    why = f"over runs: {few} of {LEAST_PROCESSES} processes, and processes differ more than runs do"
    low, high = _recovered(*sides)
    return Interval(ratio.value, ratio.value * low, ratio.value * high, ratio.confidence, why), "runs"


def judge(ratio: Interval, margin: float, *, seen: bool = True) -> tuple[Outcome, str]:
    """What an interval of a ratio says, and why.

    No change: it lies within the margin (two one-sided tests; D. J. Schuirmann, J. Pharmacokin. Biopharm. 15, 1987).
    Changed: it leaves 1 out, and the margin too in part. Otherwise undecided.

    Args:
        seen: whether the interval holds what processes differ by; where not, it must be beyond that as well.
    """
    if ratio.low is None or ratio.high is None:
        return "undecided", ratio.reason or "there is no interval"
    told = f"{_percent(ratio.low)} to {_percent(ratio.high)}"
    if not seen:
        if ratio.low > 1 + UNSEEN or ratio.high < 1 / (1 + UNSEEN):
            return "changed", f"{told}, more than processes differ by ({100 * UNSEEN:g} %)"
        fix = f"profile with --processes {LEAST_PROCESSES} or more, or compare the bundles"
        return "undecided", f"{told}, and too few processes to see what they differ by: {fix}"
    if 1 / (1 + margin) <= ratio.low and ratio.high <= 1 + margin:
        return "no change", f"{told}, within {100 * margin:g} %"
    if ratio.low > 1 or ratio.high < 1:
        return "changed", told
    return "undecided", f"{told}: more processes would tell"


def require_limit(comparison: Comparison, most: float) -> None:
    """Raise where an entrant is slower than `most` times the first, or may be.

    Raises:
        UsageError: the limit is not a number above 0.
        GateError: one certainly is.
        InconclusiveError: none certainly is, and one may be.
    """
    if not (math.isfinite(most) and most > 0):
        raise UsageError("a slowdown is a ratio such as 1.03", where=f"--max-slowdown {most}")
    where, doubts = f"--max-slowdown {most:g}", []
    for pair in comparison.pairs:
        low, high = pair.ratio.low, pair.ratio.high
        wide = 1.0 if pair.method != "runs" else 1 + UNSEEN
        trusted = low is not None and high is not None and not pair.reason.startswith(_DOUBT)
        if trusted and low is not None and low > most * wide:
            fix = "see its layers and conditions, or allow more"
            raise GateError(f"{pair.other} is slower than {pair.base}", where=where, why=pair.reason, fix=fix)
        if not trusted or high is None or high * wide > most:
            doubts.append(pair)
    if doubts:
        why = f"{doubts[0].other}: {doubts[0].reason}"
        raise InconclusiveError("the slowdown is not decided", where=where, why=why, fix="more --rounds or --processes")


_DOUBT = "these figures may not be compared: "


def _doubt(reports: Sequence[Report]) -> str | None:
    for one in reports:
        name = f"{one.subject.name} {one.subject.version}"
        if not one.latency.steady:
            return f"{_DOUBT}{name} reached no steady state ({one.latency.steady_reason})"
        if not one.certificate.valid:
            return f"{_DOUBT}{name} is not valid ({'; '.join(one.certificate.reasons)})"
    return None


def _over_runs(series: Sequence[Floats]) -> Interval:
    """The median with its interval, of the process whose interval is the widest: they are not independent samples."""
    found = [quantile_interval(one, 0.5) for one in series]
    lost = next((one for one in found if one.low is None), None)
    return lost or max(found, key=_width)


def _width(one: Interval) -> float:
    assert one.low is not None and one.high is not None
    return one.high / one.low


def _recovered(ours: Interval, theirs: Interval) -> tuple[float, float]:
    """What to multiply the ratio by for its ends, from the two medians' intervals.

    Variances are recovered from the limits, on the logarithm (G. Y. Zou, A. Donner, Statistics in Medicine 27, 2008).
    """
    (below, above), (their_below, their_above) = (_logs(one) for one in (ours, theirs))
    return math.exp(-math.hypot(below, their_above)), math.exp(math.hypot(above, their_below))


def _logs(one: Interval) -> tuple[float, float]:
    assert one.low is not None and one.high is not None
    return math.log(one.value / one.low), math.log(one.high / one.value)


def check_request(count: int, margin: float) -> None:
    """Raise `UsageError` where there are fewer than two entrants, or the margin is not between 0 and 1."""
    if count < 2:
        raise UsageError("there is nothing to compare with", fix="name two or more")
    if not 0 < margin < 1:
        raise UsageError("a margin is a share such as 0.02", where=f"--margin {margin}")


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"
