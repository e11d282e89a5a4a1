"""Bundles against one another in fresh processes that take turns: what disturbs the machine disturbs all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import UnsupportedError, UsageError
from edgekit.profiler.compare import MARGIN, Compared, Comparison, Outcome, check_request, judge
from edgekit.profiler.differences import LayerChange, changes_of, differing, facts_of
from edgekit.profiler.latency import Measured, Plan
from edgekit.profiler.layers import layer_times
from edgekit.profiler.quantiles import Floats
from edgekit.profiler.ranks import least_pairs, typical_difference
from edgekit.profiler.report import Interval, Layer, Subject
from edgekit.profiler.subject import feeds_of, subject_of
from edgekit.profiler.worker import Task, measure_apart
from edgekit.runtimes.session import open_session

ROUNDS = 12
TURN = Plan(least_s=1.0, most_s=3.0, warmup_s=6.0)
"""What each process does in its turn: the interval is over processes, so more of them tell more than longer ones."""
QUIET = 0.1
"""The quantile of each turn that is compared. Other processes only ever add to a run, and where they take the processor
from half of the runs, a median says which half it fell on. Seen here on 2 cores with a load of 4, in the 26 windows of
12 out of 37 rounds: by first deciles, equal bundles were no change in 26, by medians in 5; 3 % more work was found in
all of them by both."""


@dataclass(frozen=True)
class Race:
    """How bundles are compared.

    Attributes:
        rounds: processes of each bundle; 6 or more, as fewer carry no interval.
        plan: of each process.
        layers: whether to time layers too, in a run of its own afterwards.
    """

    rounds: int = ROUNDS
    plan: Plan = TURN
    threads: int | None = None
    precision: str | None = None
    batch: int = 1
    margin: float = MARGIN
    layers: bool = True

    def __post_init__(self) -> None:
        if self.rounds < least_pairs():
            why, fix = "fewer carry no interval", f"{least_pairs()} or more"
            raise UsageError("too few rounds", where=f"--rounds {self.rounds}", why=why, fix=fix)


def compare_bundles(
    paths: Sequence[Path],
    race: Race | None = None,
    *,
    key: Path | None = None,
    told: Callable[[str], None] = lambda _: None,
    measure: Callable[[Task], Measured] = measure_apart,
) -> Comparison:
    """Each bundle against the first; the order of turns is reversed in every other round, so that drift cancels.

    Args:
        key: a public key; with one, all bundles must be signed by it.
        told: is told of each round as it starts.
        measure: what a turn is; a fresh process by default.

    Raises:
        UsageError: fewer than two bundles.
        MissingError: this machine does not have a bundle's runtime.
        IntegrityError, InputError: as `load`.
        InconclusiveError: a process died or did not end.
    """
    race = race or Race()
    check_request(len(paths), race.margin)
    subjects, layers = zip(*(_looked_at(path, race, key) for path in paths), strict=True)
    tasks = [Task(str(path.resolve()), race.plan, race.threads, race.precision, race.batch) for path in paths]
    series: list[list[Floats]] = [[] for _ in paths]
    for number in range(race.rounds):
        told(f"round {number + 1} of {race.rounds}")
        turns = range(len(tasks))
        for index in reversed(turns) if number % 2 else turns:
            series[index].append(measure(tasks[index]).laps.latency_ms)
    pairs = []
    for index in range(1, len(paths)):
        ratio, medians = (paired_ratio(series[index], series[0], q) for q in (QUIET, 0.5))
        outcome, reason = _judged(ratio, medians, race.margin)
        changes, why = _changes(layers[0], layers[index])
        pairs.append(
            Compared(
                paths[0].name,
                paths[index].name,
                float(np.median(np.concatenate(series[0]))),
                float(np.median(np.concatenate(series[index]))),
                ratio,
                outcome,
                reason,
                "interleaved processes",
                changes,
                why,
                differing(facts_of(subjects[0]), facts_of(subjects[index])),
                medians,
            )
        )
    return Comparison(race.margin, tuple(pairs))


def paired_ratio(ours: Sequence[Floats], theirs: Sequence[Floats], q: float, confidence: float = 0.95) -> Interval:
    """The q-quantile of `ours` over that of `theirs`, typical of the rounds, by signed ranks.

    Args:
        ours, theirs: a series a process, as many of each; those of one round have the same index.
    """
    logs = np.array([np.log(np.quantile(a, q) / np.quantile(b, q)) for a, b in zip(ours, theirs, strict=True)])
    value, low, high = typical_difference(logs, confidence)
    if low is None or high is None:
        return Interval(
            math.exp(value), None, None, confidence, f"n/a ({len(logs)} < {least_pairs(confidence)} rounds)"
        )
    return Interval(math.exp(value), math.exp(low), math.exp(high), confidence)


def _judged(ratio: Interval, medians: Interval, margin: float) -> tuple[Outcome, str]:
    """By the quiet runs; where these are alike and the medians certainly are not, only the other runs changed."""
    outcome, reason = judge(ratio, margin)
    only, why = judge(medians, margin)
    beyond = medians.low is not None and (medians.low > 1 + margin or (medians.high or 1.0) < 1 / (1 + margin))
    if outcome == "no change" and only == "changed" and beyond:
        return "changed", f"{why} in medians; the quickest tenth of runs did not change"
    return outcome, reason


def _looked_at(path: Path, race: Race, key: Path | None) -> tuple[Subject, tuple[Layer, ...] | str]:
    """What a bundle is, and its layers or why there are none; before anything is raced, so that refusals come early."""
    with Bundle.open(path, key=key) as bundle:
        bundle.verify()
        with open_session(bundle, threads=race.threads, precision=race.precision) as session:
            subject = subject_of(bundle, session, race.threads)
        if not race.layers:
            return subject, "layers were not asked for"
        try:
            feeds = feeds_of(bundle, race.batch)
            return subject, layer_times(bundle, feeds, threads=race.threads, precision=race.precision)
        except UnsupportedError as error:
            return subject, str(error.what)


def _changes(
    first: tuple[Layer, ...] | str, second: tuple[Layer, ...] | str
) -> tuple[tuple[LayerChange, ...] | None, str | None]:
    for side in (first, second):
        if isinstance(side, str):
            return None, side
    assert not isinstance(first, str) and not isinstance(second, str)
    return changes_of(first, second), None
