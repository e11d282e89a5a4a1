"""Top classes."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.processing.classify import top_k
from edgekit.spec import ClassificationPostprocess


def test_logits_become_probabilities_best_first():
    logits = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 1000.0]], np.float32)
    first, second = top_k(ClassificationPostprocess(("y",), top_k=2), {"y": logits})
    exact = np.exp([1.0, 3.0, 2.0]) / np.exp([1.0, 3.0, 2.0]).sum()
    assert [label for label, _ in first] == [1, 2]
    np.testing.assert_allclose([p for _, p in first], [exact[1], exact[2]], rtol=1e-6)
    assert second[0] == (2, 1.0)


def test_probabilities_are_left_as_they_are():
    (ranking,) = top_k(ClassificationPostprocess(("y",), softmax=False), {"y": np.array([[0.25, 0.75]], np.float32)})
    assert ranking == [(1, 0.75), (0, 0.25)]


def test_axes_of_size_one_after_the_classes_are_allowed():
    (ranking,) = top_k(ClassificationPostprocess(("y",), softmax=False), {"y": np.ones((1, 3, 1, 1), np.float32)})
    assert [label for label, _ in ranking] == [0, 1, 2]


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"y": np.zeros(3, np.float32)},
        {"y": np.zeros((1, 3, 2), np.float32)},
        {"y": np.full((1, 3), np.nan, np.float32)},
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(outputs):
    with pytest.raises(InputError) as caught:
        top_k(ClassificationPostprocess(("y",)), outputs)
    assert "'y'" in str(caught.value)
