"""Samples in a row: coverage on autoregressive series, where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.profiler.blocks import (
    block_interval,
    block_length,
    effective_samples,
    lag1,
    long_run_ratio,
    quantile_interval,
    ratio_of_medians,
)

NORMAL = {0.5: 0.0, 0.99: 2.3263478740408408}  # quantiles of the standard normal distribution


def autoregressive(rng: np.random.Generator, phi: float, n: int, series: int) -> np.ndarray:
    """(series, n): stationary, standard normal at each instant."""
    noise = rng.standard_normal((n + 300, series))
    for i in range(1, len(noise)):
        noise[i] = phi * noise[i - 1] + math.sqrt(1 - phi**2) * noise[i]
    return np.exp(0.2 * noise[300:].T)


@pytest.mark.parametrize("q", [0.5, 0.99])
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.5])
def test_an_interval_of_95_percent_covers_93_to_97_on_dependent_series(phi: float, q: float) -> None:
    truth = math.exp(0.2 * NORMAL[q])
    found = [quantile_interval(each, q) for each in autoregressive(np.random.default_rng(11), phi, 1000, 500)]
    stated = [(one.low, one.high) for one in found if one.low is not None and one.high is not None]
    assert len(stated) >= 0.9 * len(found)
    covered = sum(low <= truth <= high for low, high in stated) / len(stated)
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(("phi", "q"), [(0.95, 0.5), (0.8, 0.99), (0.95, 0.99)])
def test_too_much_dependence_gets_no_interval(phi: float, q: float) -> None:
    found = [quantile_interval(each, q) for each in autoregressive(np.random.default_rng(12), phi, 1000, 100)]
    assert sum(one.low is None for one in found) >= 90
    assert all("n_eff" in (one.reason or "") for one in found if one.low is None)


def test_effective_samples_follow_the_closed_form() -> None:
    for phi in (0.0, 0.5, 0.9):
        series = np.log(autoregressive(np.random.default_rng(13), phi, 20_000, 1)[0])
        assert effective_samples(series) == pytest.approx(20_000 * (1 - phi) / (1 + phi), rel=0.2)
        assert lag1(series) == pytest.approx(phi, abs=0.03)


def test_blocks_grow_with_the_dependence_and_are_single_without() -> None:
    rng = np.random.default_rng(14)
    lengths = [block_length(np.log(autoregressive(rng, phi, 4000, 1)[0])) for phi in (0.0, 0.5, 0.9)]
    assert lengths[0] <= 2 < lengths[1] < lengths[2]


def test_the_block_bootstrap_agrees_where_both_hold() -> None:
    series = autoregressive(np.random.default_rng(15), 0.3, 2000, 1)[0]
    ours, blocks = quantile_interval(series, 0.5), block_interval(series, 0.5)
    assert ours.low is not None and ours.high is not None and blocks.low is not None and blocks.high is not None
    assert (blocks.high - blocks.low) == pytest.approx(ours.high - ours.low, rel=0.35)


@pytest.mark.parametrize("values", [np.ones(100), np.zeros(50)])
def test_a_constant_series_depends_on_nothing(values: np.ndarray) -> None:
    assert lag1(values) == 0.0
    assert long_run_ratio(values) == pytest.approx(1.0)


@pytest.mark.parametrize("paired", [False, True])
def test_a_ratio_of_medians_covers_the_truth_across_processes(paired: bool) -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        ours = [each * math.exp(rng.normal(0, 0.02)) for each in autoregressive(rng, 0.3, 100, 8)]
        theirs = [1.03 * each * math.exp(rng.normal(0, 0.02)) for each in autoregressive(rng, 0.3, 100, 8)]
        found = ratio_of_medians(ours, theirs, paired=paired)
        assert found.low is not None and found.high is not None
        covered += found.low <= 1 / 1.03 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairing_takes_out_what_both_suffered() -> None:
    rng = np.random.default_rng(5)
    mood = np.exp(rng.normal(0, 0.2, 8))
    ours = list(autoregressive(rng, 0, 400, 8) * mood[:, None])
    theirs = list(1.05 * autoregressive(rng, 0, 400, 8) * mood[:, None])
    paired, apart = ratio_of_medians(ours, theirs, paired=True), ratio_of_medians(ours, theirs)
    assert paired.low is not None and paired.high is not None and apart.low is not None and apart.high is not None
    assert paired.high < 1.0 < apart.high
    assert paired.high - paired.low < (apart.high - apart.low) / 3


def test_too_few_processes_say_so() -> None:
    found = ratio_of_medians([np.ones(9)] * 4, [np.ones(9)] * 9)
    assert (found.value, found.low) == (1.0, None)
    assert "4 of 5 processes" in (found.reason or "")
