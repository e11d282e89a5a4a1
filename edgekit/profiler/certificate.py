"""Whether a run's figures may be compared with others: a table of named checks, each a reason against or a note."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edgekit.profiler.environment import Snapshot, changes, load_between
from edgekit.profiler.heat import Kind, moved
from edgekit.profiler.report import Certificate, Energy, Latency


@dataclass(frozen=True)
class Limits:
    """What a run may show and still be valid. All are our choices, not a standard's.

    Attributes:
        rise_c: of any zone's temperature. A run that warms a chip more than that began cold: its start is faster and
            leaks less than what a product sees, and a second run would not repeat it.
        others: share of all processor time that other processes may take, 0 to 1.
        stolen: share that the hypervisor may give to others, 0 to 1.
    """

    rise_c: float = 20.0
    others: float = 0.05
    stolen: float = 0.02


@dataclass(frozen=True)
class Evidence:
    """All that the checks look at."""

    before: Snapshot
    after: Snapshot
    latency: Latency
    energy: Energy | None
    limits: Limits


@dataclass(frozen=True)
class Check:
    """One question to a run.

    Attributes:
        find: what speaks against it, a sentence each; nothing where the run is fine.
        binds: whether what was found invalidates this run; where not, it is a note.
    """

    name: str
    find: Callable[[Evidence], Iterable[str]]
    binds: Callable[[Evidence], bool]


def certify(
    before: Snapshot, after: Snapshot, latency: Latency, energy: Energy | None, limits: Limits | None = None
) -> Certificate:
    """Ask every check of `CHECKS`; valid where none that binds found anything.

    Args:
        before, after: snapshots around everything that was measured.
        energy: None where there was no sensor; that is no reason against the latency.
        limits: the default ones where None.
    """
    evidence = Evidence(before, after, latency, energy, limits or Limits())
    reasons: list[str] = []
    notes: list[str] = []
    for check in CHECKS:
        (reasons if check.binds(evidence) else notes).extend(f"{check.name}: {text}" for text in check.find(evidence))
    return Certificate(not reasons, tuple(reasons), tuple(notes))


def _always(_: Evidence) -> bool:
    return True


def _never(_: Evidence) -> bool:
    return False


def _on_a_board(run: Evidence) -> bool:
    return run.before.board


def _counted(kind: Kind) -> Callable[[Evidence], Iterator[str]]:
    def find(run: Evidence) -> Iterator[str]:
        for move in moved(run.before.counters, run.after.counters):
            if move.kind == kind and move.events is None:
                yield f"{move.name} cannot be told: it fell or went away during the run ({move.source})"
            elif move.kind == kind and move.events:
                yield f"{move.name} rose by {move.events} during the run ({move.source})"

    return find


def _slowed(run: Evidence) -> Iterator[str]:
    ends = {"before": run.before, "after": run.after}
    for end, shot in ends.items():
        for device in shot.cooling:
            if device.state > 0:
                yield f"{device.name} is at {device.state} {end} the run ({device.source})"


def _changed(run: Evidence) -> Iterator[str]:
    for old, new in changes(run.before, run.after):
        yield f"{old.name} was {old.value or 'unknown'} before and {new.value or 'unknown'} after"


def _unsteady(run: Evidence) -> Iterator[str]:
    if not run.latency.steady:
        yield run.latency.steady_reason or "the warm-up did not reach a steady state"


def _few(run: Evidence) -> Iterator[str]:
    median = run.latency.median_ms
    if median.low is None or median.high is None:
        yield f"the median of {run.latency.runs} runs has no interval: {median.reason or 'n/a'}"


def _unsupported(run: Evidence) -> Iterator[str]:
    for quantile in run.latency.quantiles:
        if quantile.value_ms is None:
            yield f"p{100 * quantile.q:g} is n/a ({quantile.reason or f'{run.latency.runs} < {quantile.needed}'})"


def _warmed(run: Evidence) -> Iterator[str]:
    later = {zone.name: zone.celsius for zone in run.after.zones}
    for zone in run.before.zones:
        rise = later.get(zone.name, zone.celsius) - zone.celsius
        if rise > run.limits.rise_c:
            yield (
                f"{zone.name} rose by {rise:.1f} degC, from {zone.celsius:.1f}; the limit is {run.limits.rise_c:g}: "
                "run again while it is warm"
            )


def _near_passive(run: Evidence) -> Iterator[str]:
    for zone in run.after.zones:
        if zone.passive_c is not None and zone.celsius >= zone.passive_c:
            yield f"{zone.name} is at {zone.celsius:.1f} degC, the kernel slows the chip from {zone.passive_c:g}"


def _powersave(run: Evidence) -> Iterator[str]:
    for clock in run.before.clocks:
        if clock.kind == "cpu" and "powersave" in clock.governors:
            yield f"{clock.name} has the governor powersave ({clock.source}); {_fix(run)}"


def _unpinned(run: Evidence) -> Iterator[str]:
    for clock in run.before.clocks:
        if clock.pinned is False:
            top = f"{clock.cap_mhz:g} MHz" if clock.cap_mhz and math.isfinite(clock.cap_mhz) else "any"
            yield f"{clock.name} may move, {clock.floor_mhz or 0:g} to {top} ({clock.source}); {_fix(run)}"


def _unknown_clocks(run: Evidence) -> Iterator[str]:
    if not run.before.clocks:
        yield "whether the clocks are pinned cannot be told: no cpufreq here"
    for clock in run.before.clocks:
        if clock.pinned is None:
            yield f"whether {clock.name} is pinned cannot be told by this user ({clock.source})"


def _fix(run: Evidence) -> str:
    return "sudo jetson_clocks" if run.before.mode is not None else "sudo cpupower frequency-set -g performance"


def _others(run: Evidence) -> Iterator[str]:
    load = load_between(run.before, run.after)
    if load is not None and load.others is not None and load.others > run.limits.others:
        yield f"took {load.others:.0%} of the processor time, the limit is {run.limits.others:.0%}: close them"


def _others_unknown(run: Evidence) -> Iterator[str]:
    load = load_between(run.before, run.after)
    if load is None or load.others is None:
        yield "cannot be told: /proc/stat or /proc/self/stat is not readable, or the run is too short"


def _stolen(run: Evidence) -> Iterator[str]:
    load = load_between(run.before, run.after)
    if load is not None and load.stolen > run.limits.stolen:
        yield f"the hypervisor gave away {load.stolen:.0%} of the processor time, the limit is {run.limits.stolen:.0%}"


def _charging(run: Evidence) -> Iterator[str]:
    ends = {"before": run.before, "after": run.after}
    for end, shot in ends.items():
        for fact in shot.facts:
            if fact.name.startswith("battery ") and fact.value == "Charging":
                yield f"{fact.name} charges {end} the run, which heats it; unplug"


def _energy(run: Evidence) -> Iterator[str]:
    if run.energy is not None and not run.energy.valid:
        yield from run.energy.reasons or ("the energy is invalid, without a reason",)


def _elsewhere(run: Evidence) -> Iterator[str]:
    if run.before.on_target is False:
        yield f"this machine, {run.before.names[0]}, is no {run.before.target}: its figures are not that device's"


def _shared(run: Evidence) -> Iterator[str]:
    for name in ("virtual machine", "container", "cpu quota"):
        value = run.before.fact(name)
        if value is not None:
            yield f"{name}: {value}"


def _raised_limit(run: Evidence) -> Iterator[str]:
    set_w, stated = run.before.fact("power limit long_term"), run.before.power_limit_w
    if set_w is not None and stated is not None and float(set_w) != stated:
        yield f"the long-term limit is {set_w} W, the processor's own is {stated:g} W: other machines may differ"


CHECKS = (
    Check("throttled", _counted("throttle"), _always),
    Check("over-current", _counted("over-current"), _always),
    Check("cpu quota", _counted("quota"), _always),
    Check("slowed down", _slowed, _always),
    Check("changed during the run", _changed, _always),
    Check("not steady", _unsteady, _always),
    Check("too few samples", _few, _always),
    Check("temperature", _warmed, _always),
    Check("other processes", _others, _always),
    Check("stolen time", _stolen, _always),
    Check("battery", _charging, _always),
    Check("energy", _energy, _always),
    Check("governor", _powersave, _on_a_board),
    Check("clocks", _unpinned, _on_a_board),
    Check("clocks", _unknown_clocks, _never),
    Check("temperature", _near_passive, _never),
    Check("other processes", _others_unknown, _never),
    Check("not the target", _elsewhere, _never),
    Check("shared machine", _shared, _never),
    Check("power limit", _raised_limit, _never),
    Check("quantiles", _unsupported, _never),
)
"""Every check, the binding ones first."""
