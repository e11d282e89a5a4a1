"""Warm-up: what is steady, what is not, and why."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.profiler.steady import judge, mser5, theil_sen


def series(n: int = 2000, seed: int = 0) -> np.ndarray:
    return 10 + np.random.default_rng(seed).normal(0, 0.2, n)


def test_mser_cuts_off_the_start_and_little_else() -> None:
    values = series()
    values[:300] += np.linspace(8, 0, 300)
    assert 0.1 <= mser5(values) <= 0.2
    assert mser5(series(seed=1)) < 0.3


def test_theil_sen_is_the_slope_whatever_a_tenth_of_outliers_says() -> None:
    times = np.linspace(0, 10, 1000)
    values = 5 + 0.3 * times + np.random.default_rng(2).normal(0, 0.05, 1000)
    values[::10] += 100
    assert theil_sen(times, values) == pytest.approx(0.3, abs=0.02)


def test_a_settled_series_is_steady() -> None:
    found = judge(np.linspace(0, 20, 2000), series())
    assert found.steady and found.reason is None


@pytest.mark.parametrize(
    ("times", "values", "why"),
    [
        (np.linspace(0, 1, 2000), series(), "2 s"),
        (np.linspace(0, 9, 10), series(10), "20 runs"),
        (np.linspace(0, 20, 2000), series() * np.linspace(1, 1.5, 2000), "a second"),
        (np.linspace(0, 20, 2000), np.r_[series(1500) * 3, series(500)], "MSER-5"),
    ],
)
def test_what_still_moves_is_not_steady_and_says_why(times: np.ndarray, values: np.ndarray, why: str) -> None:
    found = judge(times, values)
    assert not found.steady and why in (found.reason or "")
