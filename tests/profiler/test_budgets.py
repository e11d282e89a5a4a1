"""Budgets: met, exceeded or undecided by bounds; what is missing fails, and what is not steady decides nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgekit.errors import GateError, InconclusiveError, UsageError
from edgekit.profiler.budgets import FIGURES, Figure, judge_budgets, parse_budgets, require
from edgekit.profiler.report import Interval, Throughput, Unknown, Verdict


def one(report: Any, name: str, limit: float, quality: Figure | None = None) -> Verdict:
    return judge_budgets(report, {name: limit}, quality)[0]


@pytest.mark.parametrize("name", ["latency_median_ms", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms"])
def test_a_latency_has_three_outcomes(made: Any, name: str) -> None:
    figure = FIGURES[name](made.report)
    assert figure.low is not None and figure.value is not None and figure.high is not None
    good = one(made.report, name, figure.high)
    assert (good.outcome, good.bound, good.value) == ("PASS", figure.high, figure.value)
    bad = one(made.report, name, figure.low * 0.999)
    assert (bad.outcome, bad.bound) == ("FAIL", figure.low)
    between = one(made.report, name, (figure.value + figure.high) / 2)
    assert between.outcome == "INCONCLUSIVE" and between.more_runs is not None and between.more_runs > 0


def test_the_further_the_limit_the_fewer_runs_it_takes(made: Any) -> None:
    figure = FIGURES["latency_median_ms"](made.report)
    assert figure.value is not None and figure.high is not None
    near, far = (figure.value + share * (figure.high - figure.value) for share in (0.2, 0.8))
    runs = [one(made.report, "latency_median_ms", limit).more_runs or 0 for limit in (near, far)]
    assert runs[0] > runs[1] > 0


def test_a_quantile_without_support_says_how_many_more_it_takes(make: Any) -> None:
    found = one(make([np.linspace(5, 6, 98)]).report, "latency_p99_ms", 20)
    assert (found.outcome, found.value, found.more_runs) == ("INCONCLUSIVE", None, 299 - 98)
    assert "98 < 299" in found.reason


def test_energy_that_is_not_there_fails(made: Any) -> None:
    for name in ("energy_mj", "energy_above_idle_mj", "power_w"):
        found = one(made.report, name, 1e9)
        assert (found.outcome, found.value, found.bound) == ("FAIL", None, None)
        assert "no power sensor was found" in found.reason


@pytest.mark.parametrize(("limit", "outcome"), [(89.7, "PASS"), (86.3, "FAIL"), (88.5, "INCONCLUSIVE")])
def test_energy_is_judged_by_its_uncertainty(powered: Any, limit: float, outcome: str) -> None:
    assert one(powered.report, "energy_mj", limit).outcome == outcome


@pytest.mark.parametrize("name", ["energy_mj", "power_w"])
def test_an_energy_window_that_is_not_valid_decides_nothing(powered: Any, name: str) -> None:
    energy = replace(powered.report.energy, valid=False, reasons=("a gap of 2 s",))
    found = one(replace(powered.report, energy=energy), name, 1e9)
    assert found.outcome == "INCONCLUSIVE" and "a gap of 2 s" in found.reason


def test_what_is_not_steady_decides_nothing_but_what_is_missing_fails_all_the_same(made: Any) -> None:
    latency = replace(made.report.latency, steady=False, steady_reason="it moves by +2.0% a second")
    report = replace(made.report, latency=latency)
    found = one(report, "latency_p99_ms", 1e9)
    assert found.outcome == "INCONCLUSIVE" and "+2.0%" in found.reason
    assert one(report, "energy_mj", 1e9).outcome == "FAIL"


@pytest.mark.parametrize(("limit", "outcome"), [(295, "PASS"), (325, "FAIL"), (305, "INCONCLUSIVE")])
def test_throughput_is_to_be_reached_and_the_best_counts(made: Any, limit: float, outcome: str) -> None:
    rates = tuple(Throughput(1, n, Interval(v, v - 10, v + 10), 5.0) for n, v in ((1, 200.0), (2, 310.0)))
    assert one(replace(made.report, throughput=rates), "throughput_per_s", limit).outcome == outcome
    assert one(made.report, "throughput_per_s", limit).outcome == "FAIL"


@pytest.mark.parametrize(("name", "value"), [("load_ms", 84.5), ("first_ms", 12.4), ("peak_rss_mib", 187.0)])
def test_cold_figures_are_compared_as_they_are(made: Any, name: str, value: float) -> None:
    assert one(made.report, name, value).outcome == "PASS"
    assert one(made.report, name, value * 0.99).outcome == "FAIL"
    gone = replace(made.report, cold=None, unknown={"cold": Unknown("it was not asked for")})
    assert "not asked for" in one(gone, name, 1e9).reason


def test_quality_is_judged_by_its_bounds_and_fails_without_data(made: Any) -> None:
    assert one(made.report, "quality_drop", 0.5, Figure(0.2, 0.1, 0.4)).outcome == "PASS"
    assert one(made.report, "quality_drop", 0.5, Figure(0.8, 0.6, 1.0)).outcome == "FAIL"
    assert one(made.report, "quality_drop", 0.5, Figure(0.4, 0.2, 0.6)).outcome == "INCONCLUSIVE"
    assert one(made.report, "quality_drop", 0.5).outcome == "FAIL"


def test_a_failure_comes_before_what_is_undecided(made: Any) -> None:
    good, fail, open_ = (
        Verdict(name, 1.0, outcome, None, None, why)
        for name, outcome, why in (("a", "PASS", "x"), ("b", "FAIL", "too slow"), ("c", "INCONCLUSIVE", "?"))
    )
    require([good])
    with pytest.raises(GateError, match="b exceeds"):
        require([good, open_, fail])
    with pytest.raises(InconclusiveError, match="c is not decided") as caught:
        require([good, replace(open_, more_runs=361)])
    assert caught.value.exit_code == 5 and "361" in str(caught.value.fix)


@pytest.mark.parametrize(
    "texts",
    [["latency_p98_ms=2"], ["latency_p99_ms"], ["latency_p99_ms="], ["latency_p99_ms=x"], ["latency_p99_ms=nan"],
     ["energy_mj=inf"], ["=3"], [""], ["load_ms=1", "load_ms=2"]],
)  # fmt: skip
def test_what_is_no_budget_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_budgets(texts)


def test_budgets_are_read() -> None:
    assert parse_budgets(["latency_p99_ms=20", "energy_mj=1.5e1"]) == {"latency_p99_ms": 20.0, "energy_mj": 15.0}
