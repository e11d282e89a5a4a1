"""Intervals by signed ranks: the published table, coverage, and one disturbed pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.profiler.ranks import least_pairs, typical_difference


@pytest.mark.parametrize(("pairs", "critical"), [(6, 0), (7, 2), (8, 3), (10, 8), (12, 13), (15, 25), (20, 52)])
def test_the_ends_are_those_of_the_published_critical_values(pairs, critical):
    """Wilcoxon's two-sided 5 % table: the rank sum that is just significant. Powers of 3 keep all means apart."""
    differences = np.array([3.0**i for i in range(pairs)])
    first, second = np.triu_indices(pairs)
    walsh = np.sort((differences[first] + differences[second]) / 2)
    value, low, high = typical_difference(differences)
    assert (low, high) == (walsh[critical], walsh[-1 - critical])
    assert value == np.median(walsh)


def test_few_pairs_carry_none():
    assert least_pairs() == 6 and least_pairs(0.99) == 8
    assert typical_difference(np.arange(5.0)) == (2.0, None, None)


def test_it_covers_what_it_should_and_one_disturbed_pair_of_twelve_does_not_carry_it_away():
    rng = np.random.default_rng(0)
    hits = disturbed = 0
    for _ in range(1000):
        differences = 0.01 + 0.005 * rng.standard_normal(12)
        _, low, high = typical_difference(differences)
        hits += low <= 0.01 <= high
        differences[0] = 5.0
        _, low, high = typical_difference(differences)
        disturbed += low <= 0.01 <= high and high < 0.1
    assert 930 <= hits <= 975
    assert disturbed >= 930


@given(hnp.arrays(np.float64, st.integers(6, 15), elements=st.integers(-100, 100).map(float)))
def test_changing_sides_changes_signs(differences):
    value, low, high = typical_difference(differences)
    other = typical_difference(-differences)
    assert other == (-value, -high, -low)
    assert low <= value <= high
