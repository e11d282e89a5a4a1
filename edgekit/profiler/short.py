"""A short profile, for a device's signed answer: latency with bounds, energy where there is a meter, conditions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgekit.bundle import Bundle
from edgekit.bundle.strictjson import render_json
from edgekit.errors import EdgekitError
from edgekit.profiler.certificate import certify
from edgekit.profiler.energy.find import find_meter
from edgekit.profiler.energy.measure import measure_energy
from edgekit.profiler.environment import conditions, snapshot
from edgekit.profiler.latency import Plan, measure, summarise
from edgekit.profiler.report import Certificate, Condition, Energy, Interval, Quantile, Unknown
from edgekit.profiler.storage import LATENCY
from edgekit.profiler.subject import device_of, feeds_of
from edgekit.profiles import DeviceProfile
from edgekit.runtimes.session import Session

PLAN = Plan(least_s=3.0, most_s=10.0, warmup_s=10.0)
IDLE_S = 5.0
WINDOW_S = 10.0


@dataclass(frozen=True)
class ShortProfile:
    """What a device showed in half a minute, closed loop; `edgekit profile` says more.

    Attributes:
        steady, steady_reason: whether the warm-up reached a steady state, and why not.
        energy: None without a meter, and `energy_unknown` says why.
        conditions: before and after, without the places that they were read from.
        conditions_sha256: of those that do not move by themselves: equal for runs under equal settings.
    """

    median_ms: Interval
    p99_ms: Quantile
    runs: int
    warmup_runs: int
    steady: bool
    steady_reason: str | None
    energy: Energy | None
    energy_unknown: Unknown | None
    certificate: Certificate
    conditions: tuple[Condition, ...]
    conditions_sha256: str


def short_profile(
    bundle: Bundle, session: Session, *, told: Callable[[str], None] | None = None, plan: Plan | None = None
) -> ShortProfile:
    """Measure the open session on the bundle's first self-test.

    Args:
        told: is told of each part as it starts.
        plan: `PLAN` by default.
    """
    told = told or (lambda _: None)
    plan = plan or PLAN
    device = device_of(bundle.manifest.target.name)
    feeds = feeds_of(bundle)
    before = snapshot(device)
    told("profile: latency")
    found = measure(lambda: session.run(feeds), plan)
    told("profile: energy")
    energy = _energy(device, session, feeds)
    after = snapshot(device)
    latency = summarise([found], plan, 1, LATENCY)
    known = energy if isinstance(energy, Energy) else None
    rows = tuple(replace(row, source=None) for row in conditions(before, after))
    return ShortProfile(
        median_ms=latency.median_ms,
        p99_ms=next(each for each in latency.quantiles if each.q == 0.99),
        runs=latency.runs,
        warmup_runs=latency.warmup_runs,
        steady=latency.steady,
        steady_reason=latency.steady_reason,
        energy=known,
        energy_unknown=energy if isinstance(energy, Unknown) else None,
        certificate=certify(before, after, latency, known),
        conditions=rows,
        conditions_sha256=conditions_digest(rows),
    )


def conditions_digest(rows: tuple[Condition, ...]) -> str:
    """SHA-256 over name and value of the settings, as sorted JSON: what neither moves nor is about the run itself."""
    settings = (row for row in rows if row.after is None and not row.name.endswith(" in the run"))
    fixed = {row.name: row.before for row in settings if row.before is not None}
    return hashlib.sha256(render_json(fixed, "conditions")).hexdigest()


def _energy(device: DeviceProfile, session: Session, feeds: Mapping[str, np.ndarray]) -> Energy | Unknown:
    meter = find_meter(device)
    if isinstance(meter, Unknown):
        return meter
    try:
        return measure_energy(
            meter,
            lambda: session.run(feeds),
            sync=lambda: None,  # `run` returns when the outputs are there, on every backend
            idle_s=IDLE_S,
            window_s=max(WINDOW_S, meter.least_window_s),
        )
    except EdgekitError as error:
        return Unknown(f"{error.what}: {error.why}" if error.why else error.what, error.fix)
