"""Distribution-free bounds: LoadGen's table, the law that they promise, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.profiler.quantiles import interval_ranks, least_samples, lower_bound, upper_bound


@pytest.mark.parametrize(
    ("q", "confidence", "slower", "wanted"),
    [
        *((0.5, 0.99, 0, 7), (0.5, 0.99, 1, 11), (0.5, 0.99, 5, 22)),
        *((0.9, 0.99, 0, 44), (0.9, 0.99, 1, 64), (0.9, 0.99, 5, 127)),
        *((0.95, 0.99, 0, 90), (0.95, 0.99, 1, 130), (0.95, 0.99, 5, 259)),
        *((0.99, 0.99, 0, 459), (0.99, 0.99, 1, 662), (0.99, 0.99, 5, 1307)),
        *((0.999, 0.99, 0, 4603), (0.999, 0.99, 1, 6636)),
        *((0.5, 0.95, 0, 5), (0.9, 0.95, 0, 29), (0.99, 0.95, 0, 299), (0.999, 0.95, 0, 2995)),
        *((0.9, 0.95, 1, 46), (0.99, 0.95, 1, 473), (0.999, 0.95, 1, 4742)),
    ],
)
def test_the_fewest_samples_are_those_of_loadgen(q: float, confidence: float, slower: int, wanted: int) -> None:
    assert least_samples(q, confidence, slower) == wanted


def test_one_sample_too_few_has_no_bound_and_enough_have_the_slowest() -> None:
    samples = np.arange(299.0)
    assert upper_bound(samples[:298], 0.99) is None
    assert upper_bound(samples, 0.99) == 298.0


@given(st.integers(60, 3000), st.sampled_from([0.5, 0.9, 0.95]))
def test_a_bound_keeps_its_confidence_and_the_next_order_statistic_does_not(n: int, q: float) -> None:
    bound = upper_bound(np.arange(float(n)), q)
    assert bound is not None
    rank = int(bound)  # so many samples lie below the bound
    assert _binomial_at_most(rank, n, q) >= 0.95 - 1e-9
    assert rank == 0 or _binomial_at_most(rank - 1, n, q) < 0.95 + 1e-9


@given(st.lists(st.floats(-1e6, 1e6), min_size=40, max_size=200))
def test_bounds_enclose_the_sample_quantile_and_mirror_each_other(values: list[float]) -> None:
    ordered = np.sort(np.array(values))
    low, high = lower_bound(ordered, 0.5), upper_bound(ordered, 0.5)
    assert low is not None and high is not None
    assert low <= float(np.median(ordered)) <= high
    assert upper_bound(-ordered[::-1], 0.5) == -low


def test_an_upper_bound_of_p99_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    truth = 2.3263478740408408  # of the standard normal distribution
    above = sum(bound > truth for _ in range(1000) if (bound := upper_bound(np.sort(rng.normal(size=700)), 0.99)))
    assert 930 <= above <= 1000


@given(st.floats(30, 5000), st.floats(0.05, 0.95))
def test_ranks_enclose_the_quantile_and_close_in_with_more_samples(n: float, q: float) -> None:
    low, high = interval_ranks(n, q)
    assert 0 <= low < q < high <= 1
    wider, narrower = interval_ranks(n, q), interval_ranks(9 * n, q)
    assert narrower[1] - narrower[0] < wider[1] - wider[0]


def _binomial_at_most(k: int, n: int, p: float) -> float:
    """By the plain sum, in exact integers."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)) if n < 1000 else _log(k, n, p)


def _log(k: int, n: int, p: float) -> float:
    terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log(1 - p)
        for i in range(k + 1)
    ]
    return math.fsum(math.exp(term) for term in terms)
