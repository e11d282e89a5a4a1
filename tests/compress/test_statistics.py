"""Statistics in one pass equal those of all the data at once, in whatever order the data came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.compress.statistics import (
    ChannelHistograms,
    ChannelHistogramsOf,
    ChannelMean,
    EmaPercentiles,
    Histogram,
    HistogramOf,
    Statistic,
)

Array = NDArray[np.float32]
BINS = 64
# Subnormal quotients have no exact bin; real activations are far from them.
VALUES = st.floats(-1e4, 1e4, width=32, allow_subnormal=False).map(lambda x: x if abs(x) > 1e-6 else 0.0)
PARTS = st.lists(st.lists(VALUES, max_size=20).map(lambda part: np.array(part, np.float32)), min_size=1, max_size=6)


def collect(statistic: Statistic, samples: Sequence[NDArray[np.generic]]) -> object:
    accumulator = statistic.start()
    for sample in samples:
        accumulator.update(sample)
    return accumulator.result()


def histogram(samples: Sequence[NDArray[np.generic]], bins: int = BINS) -> Histogram:
    found = collect(HistogramOf(bins), samples)
    assert isinstance(found, Histogram)
    return found


def channels(samples: Sequence[NDArray[np.generic]], axis: int = 1, bins: int = BINS) -> ChannelHistograms:
    found = collect(ChannelHistogramsOf(axis, bins), samples)
    assert isinstance(found, ChannelHistograms)
    return found


@given(PARTS)
@settings(max_examples=150, deadline=None)
def test_one_pass_gives_the_histogram_of_all_values(parts: list[Array]) -> None:
    seen = histogram(parts)
    values = np.concatenate(parts).astype(np.float64)
    edges = np.arange(-BINS // 2, BINS // 2 + 1) * seen.width
    wanted, _ = np.histogram(values[values != 0], edges)
    np.testing.assert_array_equal(seen.counts, wanted)
    assert seen.zeros == np.count_nonzero(values == 0)
    assert seen.total == len(values)
    assert (seen.low, seen.high) == ((values.min(), values.max()) if len(values) else (0, 0))
    assert np.log2(seen.width).is_integer()


@given(PARTS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_samples_does_not_matter(parts: list[Array], random: object) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    a, b = histogram(parts), histogram(shuffled)
    np.testing.assert_array_equal(a.counts, b.counts)
    assert (a.width, a.low, a.high, a.zeros) == (b.width, b.low, b.high, b.zeros)


@given(st.lists(VALUES, min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_bins_are_no_wider_than_twice_what_the_data_need(values: list[float]) -> None:
    seen = histogram([np.array(values, np.float32)])
    largest = max(abs(value) for value in np.array(values, np.float32))
    assert largest < BINS // 2 * seen.width
    assert largest == 0 or largest >= BINS // 4 * seen.width


@pytest.mark.parametrize("size", [1e-30, 1e-37, 1e-40], ids=str)
def test_tiny_values_are_counted_too(size: float) -> None:
    seen = histogram([np.array([0, size, size / 2, -size], np.float32)])
    assert (seen.counts >= 0).all()
    assert (seen.total, seen.zeros) == (4, 1)
    by_channel = channels([np.array([[[0, size], [-size, size]]], np.float32)])
    assert (by_channel.counts >= 0).all()
    assert by_channel.counts.sum() + by_channel.zeros == 4


def test_half_precision_and_integers_are_counted() -> None:
    values = [-3, 0, 1, 2]
    wanted = histogram([np.array(values, np.float32)]).counts
    for dtype in (np.float16, np.float64, np.int64):
        np.testing.assert_array_equal(histogram([np.array(values, dtype)]).counts, wanted)


def test_centres_lie_in_the_middle_of_bins() -> None:
    seen = histogram([np.array([1.0, -1.0], np.float32)], 8)
    assert seen.width == 0.5
    np.testing.assert_array_equal(seen.centres, [-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75])


@given(PARTS, st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_channel_histograms_are_the_histograms_of_channels(parts: list[Array], count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    samples = [np.stack([part * 4.0 ** random.integers(-3, 3) for _ in range(count)]) for part in parts if part.size]
    if not samples:
        return
    samples = [sample.astype(np.float32) for sample in samples]
    seen = channels(samples, axis=0)
    for channel in range(count):
        alone = histogram([sample[channel] for sample in samples])
        if alone.counts.any():
            assert seen.widths[channel] == alone.width
            np.testing.assert_array_equal(seen.counts[channel], alone.counts)
        assert (seen.low[channel], seen.high[channel]) == (alone.low, alone.high)
        assert seen.largest[channel] == max(-alone.low, alone.high)


def test_divided_is_the_histogram_of_the_rescaled_tensor() -> None:
    random = np.random.default_rng(0)
    sizes = np.array([0.01, 1.0, 50.0])
    samples = [(random.standard_normal((2, 3, 40)) * sizes[:, None]).astype(np.float32) for _ in range(4)]
    samples[0][0, 1, :7] = 0
    bins = 256
    seen = channels(samples, bins=1024).divided(sizes, bins)
    values = np.concatenate([(s / sizes[:, None]).reshape(-1) for s in samples])
    assert (seen.low, seen.high) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert seen.zeros == 7
    assert seen.total == len(values)
    edges = np.arange(-bins // 2, bins // 2 + 1) * seen.width
    wanted = np.cumsum(np.histogram(values[values != 0], edges)[0])
    # A value moves by half a bin of its channel at most, so that the distributions differ by neighbours only.
    np.testing.assert_array_less(np.abs(np.cumsum(seen.counts) - wanted), 0.02 * len(values))


@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_divided_loses_no_value(scales: list[float], seed: int) -> None:
    samples = [np.random.default_rng(seed).standard_normal((1, 3, 30)).astype(np.float32)]
    seen = channels(samples).divided(np.array(scales), 128)
    assert seen.total == 90
    assert max(-seen.low, seen.high) < 64 * seen.width


def test_divided_of_zeros_is_empty() -> None:
    seen = channels([np.zeros((1, 3, 5), np.float32)]).divided(np.ones(3), 128)
    assert (seen.low, seen.high, seen.zeros, seen.counts.sum()) == (0, 0, 15, 0)


def test_channel_means_weigh_every_value_alike() -> None:
    samples = [np.random.default_rng(n).standard_normal((n, 4, 3)).astype(np.float32) for n in (1, 2, 5)]
    found = collect(ChannelMean(1), samples)
    np.testing.assert_allclose(found, np.concatenate(samples).mean(axis=(0, 2), dtype=np.float64), rtol=1e-6)  # type: ignore[arg-type]
    last = collect(ChannelMean(-1), samples)
    np.testing.assert_allclose(last, np.concatenate(samples).mean(axis=(0, 1), dtype=np.float64), rtol=1e-6)  # type: ignore[arg-type]


def test_moving_percentiles_follow_the_recurrence() -> None:
    samples = [np.random.default_rng(n).standard_normal(1000).astype(np.float32) * (n + 1) for n in range(3)]
    a, b, c = (np.percentile(sample, (1, 99)) for sample in samples)
    found = collect(EmaPercentiles(99, 0.75), samples)
    np.testing.assert_allclose(found, 0.75 * (0.75 * a + 0.25 * b) + 0.25 * c)  # type: ignore[arg-type]


@pytest.mark.parametrize("statistic", [HistogramOf(), EmaPercentiles(), ChannelHistogramsOf(1), ChannelMean(1)])
def test_empty_tensors_change_nothing(statistic: Statistic) -> None:
    sample = np.random.default_rng(0).standard_normal((1, 2, 5)).astype(np.float32)
    empty = np.zeros((0, 2, 5), np.float32)
    assert repr(collect(statistic, [empty, sample, empty])) == repr(collect(statistic, [sample]))


def test_equal_statistics_are_collected_once() -> None:
    assert len({HistogramOf(), HistogramOf(), HistogramOf(64), ChannelMean(1), ChannelMean(1), ChannelMean(-1)}) == 4
