"""Every observer ships with a case where it wins, measured on the data themselves, not on the histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.compress.observers import (
    AUTO,
    DEFAULT_OBSERVER,
    HISTOGRAM,
    JUDGED,
    LEVELS,
    OBSERVERS,
    UNJUDGED,
    observer_named,
)
from edgekit.errors import UsageError

Array = NDArray[np.float32]
NAMES = sorted(OBSERVERS)


def chosen(name: str, samples: Sequence[Array]) -> tuple[float, float]:
    observer = observer_named(name)
    accumulator = observer.statistic.start()
    for sample in samples:
        accumulator.update(sample)
    return observer.choose(accumulator.result())


def loss(clip: tuple[float, float], values: Array) -> float:
    """Mean squared error of 8-bit affine integers over `clip`."""
    low, high = clip
    step = (high - low) / (LEVELS - 1)
    zero = np.rint(-low / step)
    integers = np.clip(np.rint(values.astype(np.float64) / step) + zero, 0, LEVELS - 1)
    return float((((integers - zero) * step - values) ** 2).mean())


def laplace(count: int = 400_001) -> Array:
    """Quantiles of the Laplace distribution: a sample without the noise of sampling."""
    p = (np.arange(count) + 0.5) / count
    return np.where(p < 0.5, np.log(2 * p), -np.log(2 * (1 - p))).astype(np.float32)


def normal(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_minmax_wins_where_the_ends_are_as_frequent_as_the_middle() -> None:
    pixels = np.tile(np.arange(256, dtype=np.float32), 40)
    losses = {name: loss(chosen(name, [pixels]), pixels) for name in NAMES}
    assert losses["minmax"] == min(losses.values()) == pytest.approx(0, abs=1e-12)
    assert losses["octav"] > 1e-5


def test_nothing_beats_minmax_by_a_per_cent_on_uniform_values() -> None:
    values = np.linspace(-1, 1, 100_001, dtype=np.float32)
    losses = {name: loss(chosen(name, [values]), values) for name in NAMES}
    assert losses["minmax"] <= 1.01 * min(losses.values())


def test_percentile_wins_over_minmax_where_few_values_are_far_out() -> None:
    values = normal(1_000_000)
    values[:2] = 100, -100
    assert loss(chosen("percentile", [values]), values) < 0.5 * loss(chosen("minmax", [values]), values)


@pytest.mark.parametrize("name", ["mse", "octav"])
def test_mse_and_octav_win_over_minmax_and_percentile_on_long_tails(name: str) -> None:
    values = laplace()
    losses = {other: loss(chosen(other, [values]), values) for other in NAMES}
    assert losses[name] < 0.9 * losses["minmax"]
    assert losses[name] < losses["percentile"]


def test_mse_wins_over_octav_where_the_ends_differ() -> None:
    values = np.concatenate([np.abs(laplace()), np.full(4_000, -0.25, np.float32)])
    losses = {name: loss(chosen(name, [values]), values) for name in NAMES}
    assert losses["mse"] < losses["octav"]
    assert losses["mse"] < 0.9 * losses["minmax"]


def test_entropy_keeps_ordinary_values_better_than_mse_does() -> None:
    """Its criterion is the distribution, not the squared error, so that it gives up outliers."""
    ordinary = normal(100_000)
    values = np.concatenate([ordinary, np.full(20, 60, np.float32), np.full(20, -60, np.float32)])
    losses = {name: loss(chosen(name, [values]), ordinary) for name in ("entropy", "mse", "minmax")}
    assert losses["entropy"] < 0.5 * losses["mse"] < losses["minmax"]


@pytest.mark.parametrize("place", [0, 10, 31])
def test_ema_percentile_is_moved_less_by_one_odd_sample(place: int) -> None:
    samples = [normal(10_000, seed) for seed in range(32)]
    ordinary = np.concatenate([*samples[:place], *samples[place + 1 :]])
    samples[place] = samples[place] * 100
    assert loss(chosen("ema-percentile", samples), ordinary) < 0.05 * loss(chosen("minmax", samples), ordinary)
    if place:  # a first one weighs more until later ones have pushed it out
        losses = {name: loss(chosen(name, samples), ordinary) for name in ("ema-percentile", "percentile", "mse")}
        assert losses["ema-percentile"] == min(losses.values())


@pytest.mark.parametrize("one_sided", [False, True])
def test_octav_equals_the_clip_that_a_search_finds(one_sided: bool) -> None:
    values = np.abs(laplace()) if one_sided else laplace()
    low, high = chosen("octav", [values])
    clips = np.linspace(4, float(values.max()), 300)
    found = clips[np.argmin([loss((0.0 if one_sided else -clip, clip), values) for clip in clips])]
    assert high == pytest.approx(found, rel=0.02)
    assert low == (0 if one_sided else pytest.approx(-high))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [5.0, -0.3, 1e-6])
def test_constants_keep_their_value(name: str, value: float) -> None:
    values = np.full(1000, value, np.float32)
    low, high = chosen(name, [values])
    assert low <= 0 <= high
    assert low < high
    assert loss((low, high), values) <= (value / 100) ** 2


@pytest.mark.parametrize("name", NAMES)
def test_zeros_have_no_range(name: str) -> None:
    assert chosen(name, [np.zeros(100, np.float32)]) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(st.floats(-1e3, 1e3, width=32, allow_subnormal=False), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_ranges_span_zero_and_lie_within_the_data(name: str, values: list[float]) -> None:
    data = np.array(values, np.float32)
    low, high = chosen(name, [data])
    assert min(float(data.min()), 0) - 1e-3 <= low <= 0 <= high <= max(float(data.max()), 0) + 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_rectified_values_keep_all_levels_on_one_side(name: str) -> None:
    low, high = chosen(name, [np.maximum(normal(20_000), 0)])
    assert low == 0
    assert 1 < high < 6


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown observer 'best'") as caught:
        observer_named("best")
    assert "auto" in str(caught.value) and "octav" in str(caught.value)


def test_auto_tries_observers_of_one_statistic() -> None:
    assert DEFAULT_OBSERVER == AUTO
    assert AUTO not in OBSERVERS
    assert UNJUDGED in JUDGED
    assert {OBSERVERS[name].statistic for name in JUDGED} == {HISTOGRAM}
