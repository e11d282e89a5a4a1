"""Comparing two runs: what passes, and what never may."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.evaluate.parity import compare, first_divergence

ONE = np.array([1.0, -2.0, 4.0], np.float32)


def gap(reference, candidate):
    (only,) = compare({"y": np.asarray(reference)}, {"y": np.asarray(candidate)})
    return only


def test_deviation_is_relative_to_the_largest_value_of_the_reference():
    only = gap(ONE, ONE + np.array([0, 0.5, 0], np.float32))
    assert (only.max_abs, only.relative, only.finite) == (0.5, 0.125, True)
    assert only.within(0.125)
    assert not only.within(0.12)


def test_tensors_near_zero_are_not_blown_up():
    assert gap(np.zeros(3, np.float32), np.full(3, 1e-9, np.float32)).relative == pytest.approx(1e-7, rel=1e-5)


@pytest.mark.parametrize(("size", "judged_as"), [(1e-6, 0.01), (0.009, 0.01), (0.02, 0.02)])
def test_a_tensor_below_a_hundredth_is_judged_as_if_it_were_that_large(size, judged_as):
    reference = np.array([size, 0], np.float64)
    assert gap(reference, reference + np.array([0, 1e-6])).relative == pytest.approx(1e-6 / judged_as)


@pytest.mark.parametrize(
    "candidate",
    [
        ONE[:2],
        ONE[None],
        ONE.astype(np.float64),
        np.array([1, np.nan, 4], np.float32),
        np.array([1, -2, np.inf], np.float32),
    ],
)
def test_another_shape_dtype_or_a_lost_number_never_passes(candidate):
    only = gap(ONE, candidate)
    assert not only.within(math.inf)
    assert only.reason
    assert only.reason in only.describe()


def test_numbers_where_the_reference_is_infinite_never_pass():
    endless = np.array([1, -np.inf, np.inf], np.float32)
    assert not gap(endless, ONE).within(math.inf)
    assert not gap(endless, -endless).within(math.inf)
    assert gap(endless, endless.copy()).within(0)


def test_a_reference_of_nan_proves_nothing():
    broken = np.array([1, np.nan], np.float32)
    assert not gap(broken, broken.copy()).within(math.inf)


def test_missing_and_additional_tensors_never_pass():
    gaps = {gap.tensor: gap for gap in compare({"a": ONE, "b": ONE}, {"a": ONE, "c": ONE})}
    assert list(gaps) == ["a", "b", "c"]
    assert gaps["a"].within(0)
    assert not gaps["b"].within(math.inf)
    assert not gaps["c"].within(math.inf)


def test_whole_numbers_are_compared_exactly():
    big = np.array([2**60 + 1], np.int64)
    assert gap(big, big.copy()).relative == 0
    assert gap(np.array([3]), np.array([4])).max_abs == 1
    assert not gap(np.array([True, False]), np.array([True, True])).within(0.5)


def test_whole_numbers_that_float64_cannot_tell_apart_do_not_pass_at_zero():
    assert not gap(np.array([2**60 + 1]), np.array([2**60])).within(0)


def test_text_cannot_be_compared():
    assert not gap(np.array(["a"]), np.array(["a"])).within(math.inf)


def test_the_first_divergence_in_order_of_computation_is_found():
    reference = [("conv1", ONE), ("fused_away", ONE), ("conv2", ONE), ("conv3", ONE)]
    candidate = {"conv1": ONE * 1.0001, "conv2": ONE * 1.1, "conv3": ONE * 2}
    found = first_divergence(reference, candidate, 1e-3)
    assert found is not None
    assert found.tensor == "conv2"
    assert first_divergence(reference, candidate, 1.5) is None
