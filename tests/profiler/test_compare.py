"""A slowdown is found, no change is called no change, and what cannot be decided is called undecided."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from edgekit.errors import GateError, InconclusiveError, UsageError
from edgekit.profiler.compare import compare, judge, ratio_between, require_limit
from edgekit.profiler.differences import changes_of
from edgekit.profiler.report import Condition, Interval, Layer, Unknown

SEEDS = range(40)


def series(rng, processes, *, slower=1.0, between=0.006, runs=300):
    """Latencies around 8 ms: processes differ by `between`, runs in one by 2 % with a lag-1 of 0.4 and a tail."""
    made = []
    for _ in range(processes):
        noise = rng.standard_normal(runs)
        for i in range(1, runs):
            noise[i] = 0.4 * noise[i - 1] + noise[i] * np.sqrt(1 - 0.4**2)
        level = 8 * slower * np.exp(between * rng.standard_normal())
        made.append(level * (1 + 0.02 * noise + (rng.random(runs) < 0.01) * rng.exponential(0.5, runs)))
    return made


def outcomes(make, processes, slower, **kwargs):
    found = Counter()
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        first, second = make(series(rng, processes, **kwargs)), make(series(rng, processes, slower=slower, **kwargs))
        pair = compare([(first.report, first.arrays), (second.report, second.arrays)]).pairs[0]
        found[pair.outcome, pair.ratio.value > 1] += 1
    return found


@pytest.mark.parametrize("slower", [1.03, 1 / 1.03])
def test_three_per_cent_in_eight_processes_are_found_in_either_direction(make, slower):
    assert outcomes(make, 8, slower)["changed", slower > 1] >= 0.9 * len(SEEDS)


def test_no_change_is_called_no_change(make):
    found = outcomes(make, 8, 1.0)
    assert found["no change", True] + found["no change", False] >= 0.9 * len(SEEDS)
    assert found["changed", True] + found["changed", False] <= 0.05 * len(SEEDS)


def test_what_differs_less_than_processes_do_is_not_decided_from_few_of_them(make):
    """Runs alone would find a difference nearly always: one process is 2 % faster than another of the same bundle."""
    found = outcomes(make, 1, 1.0, between=0.012)
    assert {outcome for outcome, _ in found} == {"undecided"}


def test_a_great_difference_shows_in_single_processes_too(make):
    assert outcomes(make, 1, 1.2)["changed", True] == len(SEEDS)


def test_noise_is_undecided(make):
    found = outcomes(make, 5, 1.0, between=0.05)
    assert found["undecided", True] + found["undecided", False] >= 0.8 * len(SEEDS)


def test_the_method_and_its_reason_are_told(make):
    rng = np.random.default_rng(0)
    few, many = make(series(rng, 2)), make(series(rng, 6))
    pair = compare([(few.report, few.arrays), (many.report, many.arrays)]).pairs[0]
    assert pair.method == "runs" and "2 of 5 processes" in pair.ratio.reason
    assert pair.ratio.low < pair.ratio.value < pair.ratio.high
    assert "--processes 5" in pair.reason
    pair = compare([(many.report, many.arrays), (many.report, many.arrays)], ["a", "b"]).pairs[0]
    assert (pair.method, pair.ratio.value, pair.base, pair.other) == ("processes", 1.0, "a", "b")


def test_the_interval_over_runs_covers_the_ratio_of_single_processes():
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = (series(rng, 1, between=0.0, runs=600) for _ in range(2))
        ratio, method = ratio_between(a, b)
        hits += ratio.low <= 1 <= ratio.high
        assert method == "runs"
    assert 0.9 <= hits / 200 <= 0.99


def test_too_few_runs_have_no_interval():
    ratio, _ = ratio_between([np.full(9, 2.0)], [np.full(9, 1.0)])
    assert ratio.value == pytest.approx(2.0) and ratio.low is None and "n_eff" in ratio.reason
    assert judge(ratio, 0.02, seen=False)[0] == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.99, 1.01, "no change"),
        (1.002, 1.015, "no change"),
        (1.01, 1.04, "changed"),
        (0.95, 0.99, "changed"),
        (0.99, 1.03, "undecided"),
        (0.9, 1.1, "undecided"),
        (None, None, "undecided"),
    ],
)
def test_outcomes_follow_the_interval(low, high, outcome):
    assert judge(Interval(1.0, low, high), 0.02)[0] == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(1.06, 1.1, "changed"), (0.9, 0.94, "changed"), (1.01, 1.04, "undecided")]
)
def test_what_processes_may_differ_by_is_allowed_for_where_it_was_not_seen(low, high, outcome):
    assert judge(Interval(1.0, low, high), 0.02, seen=False)[0] == outcome
    assert judge(Interval(1.0, 0.999, 1.001), 0.02, seen=False)[0] == "undecided"


def test_figures_that_may_not_be_compared_decide_nothing(make):
    rng = np.random.default_rng(0)
    good, slow = make(series(rng, 8)), make(series(rng, 8, slower=2))
    invalid = replace(slow.report, certificate=replace(slow.report.certificate, valid=False, reasons=("it throttled",)))
    unsteady = replace(slow.report, latency=replace(slow.report.latency, steady=False, steady_reason="it drifts"))
    for report, why in ((invalid, "it throttled"), (unsteady, "it drifts")):
        for pair in (((good.report), report), (report, good.report)):
            comparison = compare([(one, slow.arrays if one is report else good.arrays) for one in pair])
            assert comparison.pairs[0].outcome == "undecided" and why in comparison.pairs[0].reason
            with pytest.raises(InconclusiveError):
                require_limit(comparison, 1.03)


def test_a_limit_is_kept_exceeded_or_not_decided(make):
    rng = np.random.default_rng(1)
    base, same, slow = make(series(rng, 8)), make(series(rng, 8)), make(series(rng, 8, slower=1.1))
    all_three = [(one.report, one.arrays) for one in (base, same, slow)]
    require_limit(compare(all_three[:2]), 1.03)
    require_limit(compare(all_three), 1.2)
    with pytest.raises(GateError, match="slower"):
        require_limit(compare(all_three, ["a", "b", "c"]), 1.03)
    with pytest.raises(InconclusiveError, match="not decided") as raised:
        require_limit(compare([all_three[0], all_three[2]]), 1.1)
    assert raised.value.exit_code == 5
    for limit in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            require_limit(compare(all_three), limit)


def test_single_processes_must_be_beyond_what_processes_differ_by(make):
    rng = np.random.default_rng(2)
    base, slower, slowest = (make(series(rng, 1, slower=by, between=0)) for by in (1, 1.06, 1.2))
    pairs = compare([(one.report, one.arrays) for one in (base, slower)])
    with pytest.raises(InconclusiveError):
        require_limit(pairs, 1.03)
    with pytest.raises(GateError):
        require_limit(compare([(one.report, one.arrays) for one in (base, slowest)]), 1.03)
    require_limit(pairs, 1.2)


def test_changed_layers_are_ranked_with_their_share():
    before = (Layer("a", "Conv", 4.0, "stem"), Layer("b", "Conv", 6.0, "head"), Layer("c", "Add", 0.01))
    after = (Layer("x", "Conv", 4.5, "stem"), Layer("y", "Conv", 5.0, "head"), Layer("z", "Mul", 0.3, "extra"))
    found = changes_of(before, after)
    assert [(one.name, one.before_ms, one.after_ms) for one in found] == [
        ("head", 6.0, 5.0),
        ("stem", 4.0, 4.5),
        ("extra", None, 0.3),
    ]
    assert found[0].share == pytest.approx(-1 / 10.01) and found[0].change_ms == -1.0
    assert changes_of(before, before) == ()


def test_layers_that_are_not_there_are_told(made):
    bare = replace(made.report, layers=None, unknown={"layers": Unknown("tensorrt does not time layers here")})
    pair = compare([(made.report, made.arrays), (bare, made.arrays)]).pairs[0]
    assert pair.layers is None and "does not time layers" in pair.layers_reason


def test_conditions_that_differ_are_told_and_readings_only_beyond_what_they_move(made):
    conditions = (
        Condition("governor", "powersave"),
        Condition("temperature", "48.0", "55.0", "°C"),
        Condition("load of other processes", "0.04", "0.06"),
        Condition("power mode", "15W"),
    )
    other = replace(
        made.report,
        conditions=conditions,
        subject=replace(made.report.subject, precision="int8", threads=None),
        tools={"python": "3.11.2", "onnxruntime": "1.33.0"},
    )
    pair = compare([(made.report, made.arrays), (other, made.arrays)]).pairs[0]
    assert {(one.name, one.before, one.after) for one in pair.conditions} == {
        ("precision", "fp32", "int8"),
        ("threads", "1", None),
        ("onnxruntime", "1.32.0", "1.33.0"),
        ("governor", "performance", "powersave"),
        ("power mode", None, "15W"),
    }
    same = compare([(made.report, made.arrays), (made.report, made.arrays)]).pairs[0]
    assert same.conditions == () and same.layers == ()
    hot = replace(made.report, conditions=(Condition("temperature", "48.0", "70.0", "°C"),))
    pair = compare([(made.report, made.arrays), (hot, made.arrays)]).pairs[0]
    assert ("temperature", "53.0 °C", "70.0 °C") in {(one.name, one.before, one.after) for one in pair.conditions}


def test_requests_that_make_no_sense_are_refused(made):
    one = (made.report, made.arrays)
    for reports, margin in (
        ([], 0.02),
        ([one], 0.02),
        ([one, one], 0.0),
        ([one, one], 1.0),
        ([one, one], float("nan")),
    ):
        with pytest.raises(UsageError):
            compare(reports, margin=margin)
