"""What else differs between two reports: the layers that took another time, and the conditions that were not alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.profiler.modules import ModuleTime, by_module
from edgekit.profiler.report import Condition, Layer, Report, Subject

Facts = Mapping[str, tuple[str | None, str | None]]

LEAST = 0.01
"""Layers are told of where they changed by 1 % of all layers' time: each was timed in one run, without an interval."""

# A reading that moves by itself differs only beyond this.
_TOLERANCES = {"degC": 5.0, "°C": 5.0, "%": 5.0, "MHz": 50.0}


@dataclass(frozen=True)
class LayerChange:
    """A torch module's time on both sides, None where it is not on one.

    Attributes:
        change_ms: the second less the first.
        share: of the time of all the first's layers; its sum over all layers is how much these changed in all.
    """

    name: str
    before_ms: float | None
    after_ms: float | None
    change_ms: float
    share: float


@dataclass(frozen=True)
class ConditionChange:
    """A fact that was not the same; None where it was not known."""

    name: str
    before: str | None
    after: str | None


def layer_changes(first: Report, second: Report) -> tuple[tuple[LayerChange, ...] | None, str | None]:
    """The modules whose time changed, the greatest change first; None and the reason where a side has no layers."""
    for report in (first, second):
        if report.layers is None:
            unknown = report.unknown.get("layers")
            return None, f"{report.subject.name}: {unknown.reason if unknown else 'its layers were not timed'}"
    return changes_of(first.layers or (), second.layers or ()), None


def changes_of(first: Sequence[Layer], second: Sequence[Layer]) -> tuple[LayerChange, ...]:
    """The modules whose time changed by 1 % of all of the first's, the greatest change first."""
    before = {one.name: one for one in by_module(first)}
    after = {one.name: one for one in by_module(second)}
    whole = sum(one.total_ms for one in before.values()) or 1.0
    changes = [_change(name, before.get(name), after.get(name), whole) for name in dict.fromkeys([*before, *after])]
    told = [one for one in changes if abs(one.share) >= LEAST]
    return tuple(sorted(told, key=lambda one: (-abs(one.change_ms), one.name)))


def condition_changes(first: Report, second: Report) -> tuple[ConditionChange, ...]:
    """The facts about subject, way of measuring, tools and machine that differ; readings by more than they move."""
    return differing(_facts(first), _facts(second))


def differing(before: Facts, after: Facts) -> tuple[ConditionChange, ...]:
    """The facts that are not the same on both sides."""
    found = []
    for name in dict.fromkeys([*before, *after]):
        (old, unit), (new, _) = before.get(name, (None, None)), after.get(name, (None, None))
        if not _alike(old, new, unit):
            found.append(ConditionChange(name, _with(old, unit), _with(new, unit)))
    return tuple(found)


def _change(name: str, before: ModuleTime | None, after: ModuleTime | None, whole: float) -> LayerChange:
    old, new = before.total_ms if before else None, after.total_ms if after else None
    change = (new or 0.0) - (old or 0.0)
    return LayerChange(name, old, new, change, change / whole)


def facts_of(subject: Subject, **more: object) -> dict[str, tuple[str | None, str | None]]:
    """What a bundle is and how it was run, and further facts; name to value and unit."""
    told: dict[str, object] = {
        "bundle": f"{subject.name} {subject.version}",
        "manifest": subject.manifest_sha256,
        "target": subject.target,
        "precision": subject.precision,
        "runtime": subject.runtime,
        "threads": subject.threads,
        **more,
    }
    return {name: (None if value is None else str(value), None) for name, value in told.items()}


def _facts(report: Report) -> Facts:
    latency = report.latency
    facts = facts_of(report.subject, batch=latency.batch, loop=latency.mode, rate=latency.rate_hz)
    facts.update({name: (version, None) for name, version in (report.tools or {}).items()})
    facts.update({one.name: (_latest(one), one.unit) for one in report.conditions})
    return facts


def _latest(one: Condition) -> str | None:
    return one.before if one.after is None else one.after


def _alike(old: str | None, new: str | None, unit: str | None) -> bool:
    tolerance = _TOLERANCES.get(unit or "")
    if old == new or tolerance is None or old is None or new is None:
        return old == new
    try:
        return abs(float(old) - float(new)) <= tolerance
    except ValueError:
        return False


def _with(value: str | None, unit: str | None) -> str | None:
    return value if value is None or unit is None else f"{value} {unit}"
