"""What a profile says: plain data, JSON both ways. Everything here was measured; what was not is None, with a reason.

Times are milliseconds, energies joules or millijoules, powers watts: the unit is in the name. Samples themselves stay
beside the report, as `.npy` files that `samples` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCHEMA = "edgekit/profile/1"

Mode = Literal["closed", "open"]


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its interval.

    Attributes:
        value: the estimate.
        low, high: the ends; None where the samples support none, and `reason` says why.
        confidence: of the interval, 0 to 1.
    """

    value: float
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    reason: str | None = None


@dataclass(frozen=True)
class Quantile:
    """One quantile of the latency.

    Attributes:
        q: 0 to 1.
        value_ms: the sample quantile; None where the samples are too few for an upper bound.
        upper_ms: distribution-free upper bound at `confidence`.
        needed: samples that a bound takes.
        reason: such as `98 < 299`, where there is no value.
    """

    q: float
    value_ms: float | None
    upper_ms: float | None
    lower_ms: float | None = None
    confidence: float = 0.95
    needed: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Cold:
    """What starting costs, each in a process of its own; medians over `processes`.

    Attributes:
        import_ms: importing edgekit and the runtime; load_ms: opening and compiling; first_ms: the first inference.
        peak_rss_bytes: VmHWM of the process.
    """

    import_ms: float
    load_ms: float
    first_ms: float
    peak_rss_bytes: int
    processes: int


@dataclass(frozen=True)
class Latency:
    """Warm latency of one run of the model, as the caller sees it.

    Attributes:
        mode, rate_hz: closed loop, or open at `rate_hz`, timed from the scheduled instant.
        runs, warmup_runs, processes: how many were timed, and how many before.
        steady: whether the warm-up reached a steady state; where not, nothing is decided by these figures.
        lag1, effective_runs: autocorrelation at lag 1, and what the runs are worth with it.
        mad_ms: median absolute deviation; cov: standard deviation over mean.
        late: in an open loop, how many started after the next was due.
        samples: the file with all of them, float64 milliseconds.
    """

    mode: Mode
    rate_hz: float | None
    batch: int
    runs: int
    warmup_runs: int
    processes: int
    steady: bool
    steady_reason: str | None
    median_ms: Interval
    quantiles: tuple[Quantile, ...]
    mean_ms: float
    mad_ms: float
    cov: float
    min_ms: float
    max_ms: float
    slope_per_s: float
    lag1: float
    effective_runs: float
    samples: str
    late: int = 0


@dataclass(frozen=True)
class Share:
    """One part of what the application waits for; median milliseconds, None with a reason where it cannot be told."""

    part: Literal["pre", "copy in", "device", "copy out", "post", "python"]
    median_ms: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Layer:
    """One layer's time, from a run of its own that is slower than the headline.

    Attributes:
        node: as the runtime names it; op, precision: as it ran.
        module, line: the torch module and source line, where they are known.
    """

    node: str
    op: str
    median_ms: float
    module: str | None = None
    line: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Throughput:
    """Inferences a second at a batch size and a number of streams, each a session in a thread of its own.

    Attributes:
        per_second: inputs a second, of all streams together: a run with a batch of 4 counts 4.
        latency_p50_ms: of one run, with all streams at work.
        threads: of one run; None where the runtime chooses.
    """

    batch: int
    streams: int
    per_second: Interval
    latency_p50_ms: float
    threads: int | None = None


@dataclass(frozen=True)
class HeldRate:
    """The highest rate at which the p99, from the instant that each run was due, was seen below a budget.

    Attributes:
        rate_hz: None where no rate held it, and `reason` says down to which; upper_ms: of the p99 at that rate.
        exceeded_hz: the lowest rate that was seen not to hold it; None where none was.
        most_hz: one over the mean time of a run: beyond it a queue grows without end.
        probes, runs: how many rates were tried, with how many runs in all.
    """

    budget_ms: float
    rate_hz: float | None
    upper_ms: float | None
    exceeded_hz: float | None
    most_hz: float
    probes: int
    runs: int
    confidence: float = 0.95
    reason: str | None = None


@dataclass(frozen=True)
class Soak:
    """What stays after minutes: medians in buckets of 10 s.

    Attributes:
        sustained_ratio: speed of the last fifth over the best bucket, at most 1.
        throttled_after_s: when the throttle counters or the clocks first moved; None where they never did.
        reason: what moved, or why nothing could be told.
        samples: the file with all latencies, float64 milliseconds.
    """

    seconds: float
    bucket_s: float
    medians_ms: tuple[float, ...]
    sustained_ratio: float
    throttled_after_s: float | None
    reason: str | None = None
    samples: str | None = None


@dataclass(frozen=True)
class Joules:
    """An energy with its expanded uncertainty, k = 2."""

    value_mj: float
    uncertainty_mj: float


@dataclass(frozen=True)
class Energy:
    """Energy of one window with many inferences in it.

    Attributes:
        meter, boundary: what was read, and what its figure covers.
        total: of the window over its inferences; above_idle: less the idle power that was seen before and after.
        average_w, idle_w: over the window, and idle with the model loaded.
        idle_drift: whether the two idle phases differ by more than 5 % or 0.2 W.
        rate_hz: at which inferences were asked for; None back to back.
        per_second_j: energy a second at that rate.
        samples: file with times and watts (power meters) or joules (counters).
    """

    meter: str
    boundary: str
    period_ms: float
    window_s: float
    inferences: int
    total: Joules
    above_idle: Joules
    average_w: float
    average_uncertainty_w: float
    idle_w: float
    idle_drift: bool
    rate_hz: float | None
    per_second_j: float
    readings: int
    effective_readings: float
    valid: bool
    reasons: tuple[str, ...]
    samples: str | None = None


@dataclass(frozen=True)
class Unknown:
    """Why a figure is not there, and what would bring it."""

    reason: str
    fix: str | None = None


@dataclass(frozen=True)
class Condition:
    """One fact about the machine during the run: before, and after where it may move."""

    name: str
    before: str | None
    after: str | None = None
    unit: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Certificate:
    """Whether the figures may be compared with others: `valid`, or the reasons why not; notes do not invalidate."""

    valid: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """The bundle that was profiled."""

    name: str
    version: int
    manifest_sha256: str
    target: str
    precision: str
    runtime: str
    signed: bool
    threads: int | None = None


@dataclass(frozen=True)
class Verdict:
    """A budget's outcome: `PASS` and `FAIL` by confidence bounds, `INCONCLUSIVE` with the runs that would decide."""

    budget: str
    limit: float
    outcome: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    value: float | None
    bound: float | None
    reason: str
    more_runs: int | None = None


@dataclass(frozen=True)
class Report:
    """A profile, the noun that the command writes and `compare` reads.

    Attributes:
        unknown: for each of `cold`, `layers`, `energy` that is None, the reason and what would bring it.
    """

    subject: Subject
    conditions: tuple[Condition, ...]
    certificate: Certificate
    latency: Latency
    cold: Cold | None
    split: tuple[Share, ...]
    layers: tuple[Layer, ...] | None
    energy: Energy | None
    unknown: dict[str, Unknown]
    throughput: tuple[Throughput, ...] = ()
    held: HeldRate | None = None
    soak: Soak | None = None
    verdicts: tuple[Verdict, ...] = ()
    started_utc: str = ""
    tools: dict[str, str] | None = None
    kind: Literal["measured"] = "measured"
    schema: str = SCHEMA
