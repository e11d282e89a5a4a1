"""The bounds of a drop: they cover what they promise, equal a resampling done by hand, and are honest about little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError, UsageError
from edgekit.evaluate.bootstrap import Drop, paired_drop, precision_drop, share_drop
from edgekit.evaluate.datasets import Boxes
from edgekit.evaluate.metrics import COCO_THRESHOLDS, Matched, average_precision, match_classes
from edgekit.processing.detect import Detections

CLASSES = 3


def random_pictures(count, seed, tied=False):
    """Truths, and detections that are jittered, doubled, missed and invented; scores differ unless `tied`."""
    random = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(count):
        wanted = int(random.integers(0, 7))
        corner = random.uniform(0, 80, (wanted, 2))
        boxes = np.concatenate([corner, corner + random.uniform(5, 30, (wanted, 2))], axis=1).astype(np.float32)
        labels = random.integers(0, CLASSES, wanted)
        truths.append(Boxes(boxes, labels, random.random(wanted) < 0.15))
        chosen = random.integers(0, wanted, 9) if wanted else np.zeros(0, np.int64)
        jittered = boxes[chosen] + random.normal(0, 2, (len(chosen), 4)).astype(np.float32)
        invented = np.tile(np.array([[3, 3, 20, 20]], np.float32), (4, 1)) * random.uniform(1, 4)
        scores = random.uniform(0.05, 1, len(chosen) + 4).astype(np.float32)
        classes = np.concatenate([labels[chosen], random.integers(0, CLASSES, 4)])
        found.append(
            Detections(
                np.concatenate([jittered, invented]).astype(np.float32), scores.round(1) if tied else scores, classes
            )
        )
    return found, truths


def shaken(found, size, seed=5):
    """The same detections with other scores."""
    random = np.random.default_rng(seed)
    return [
        Detections(item.boxes, (item.scores + random.normal(0, size, len(item.scores))).astype(np.float32), item.labels)
        for item in found
    ]


def by_hand(side, truths, chosen, thresholds):
    result = average_precision([side[i] for i in chosen], [truths[i] for i in chosen], CLASSES, thresholds)
    return math.nan if result.mean is None else 100 * result.mean


@pytest.mark.parametrize("thresholds", [(0.5,), COCO_THRESHOLDS], ids=["ap50", "ap"])
@pytest.mark.parametrize("seed", range(12))
def test_weights_give_the_average_precision_of_the_pictures_with_their_copies(seed, thresholds):
    found, truths = random_pictures(11, seed)
    random = np.random.default_rng(seed)
    draws = [range(11), *(np.sort(random.integers(0, 11, 11)) for _ in range(6))]
    weights = np.stack([np.bincount(draw, minlength=11) for draw in draws], axis=1).astype(np.int32)
    matched = match_classes(found, truths, CLASSES, thresholds)
    for column, draw in enumerate(draws):
        wanted = average_precision([found[i] for i in draw], [truths[i] for i in draw], CLASSES, thresholds)
        for one, value in zip(matched, wanted.per_class, strict=True):
            assert one.precision(weights)[column] == pytest.approx(
                np.nan if value is None else value, abs=1e-12, nan_ok=True
            )


def test_every_share_of_truths_reads_the_precision_at_the_recalls_that_numpy_finds():
    # Picture 0 holds a found truth, picture 1 a missed one: weights (hits, misses) make any recall, at precision 1.
    pairs = np.array([(hits, wanted - hits) for wanted in range(1, 260) for hits in range(wanted + 1)], np.int32).T
    yes = np.ones((1, 1), np.bool_)
    got = Matched(np.zeros(1, np.intp), yes, yes, np.ones(2, np.int64)).precision(np.ascontiguousarray(pairs))
    reached = np.searchsorted(np.linspace(0, 1, 101), pairs[0] / pairs.sum(axis=0), side="right")
    np.testing.assert_allclose(got, np.where(pairs[0] > 0, reached, 0) / 101, atol=1e-12)


def test_precision_drop_equals_the_bootstrap_of_any_metric_in_value_and_nearly_in_bounds():
    found, truths = random_pictures(24, 1)
    worse = shaken(found, 0.3)
    fast = precision_drop(found, worse, truths, CLASSES, (0.5,))
    slow = paired_drop(
        lambda chosen: by_hand(found, truths, chosen, (0.5,)),
        lambda chosen: by_hand(worse, truths, chosen, (0.5,)),
        len(truths),
        replicates=200,
    )
    wanted = by_hand(found, truths, range(24), (0.5,)) - by_hand(worse, truths, range(24), (0.5,))
    assert fast.value == pytest.approx(wanted, abs=1e-9) == slow.value
    assert fast.lower < fast.value < fast.upper
    width = fast.upper - fast.lower
    assert abs(fast.upper - slow.upper) < 0.2 * width and abs(fast.lower - slow.lower) < 0.2 * width
    assert (fast.samples, fast.replicates, slow.replicates) == (24, 1000, 200)


def test_the_bounds_do_not_hang_on_how_many_replicates_are_computed_at_once(monkeypatch):
    found, truths = random_pictures(12, 2)
    whole = precision_drop(found, shaken(found, 0.2), truths, CLASSES)
    monkeypatch.setattr("edgekit.evaluate.bootstrap._CELLS", 300)
    parts = precision_drop(found, shaken(found, 0.2), truths, CLASSES)
    assert (parts.upper, parts.lower) == pytest.approx((whole.upper, whole.lower), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_identical_answers_drop_exactly_nothing(seed):
    found, truths = random_pictures(9, seed, tied=True)
    right = np.random.default_rng(seed).random(50) < 0.8
    for drop in (
        precision_drop(found, found, truths, CLASSES),
        share_drop(right, right),
        paired_drop(len, len, 7),
        share_drop([True], [True]),
    ):
        assert (drop.value, drop.upper, drop.lower) == (0, 0, 0)
        assert drop.verdict(0.0) == "pass"


def test_almost_identical_detections_pass_a_narrow_bar():
    found, truths = random_pictures(40, 3)
    assert precision_drop(found, shaken(found, 1e-6), truths, CLASSES).verdict(0.05) == "pass"


def test_the_upper_bound_of_a_share_covers_the_true_drop_as_often_as_it_says():
    # Parent right and bundle wrong with 6 %, the reverse with 3 %: the true drop is 3 points.
    random, covered_above, covered_below = np.random.default_rng(0), 0, 0
    for _ in range(400):
        lot = random.random(300)
        drop = share_drop(~((lot > 0.06) & (lot < 0.09)), lot > 0.06, replicates=2000)
        covered_above += drop.upper >= 3.0 - 1e-9
        covered_below += drop.lower <= 3.0 + 1e-9
    assert 0.92 <= covered_above / 400 <= 0.98
    assert 0.92 <= covered_below / 400 <= 0.98


def test_the_upper_bound_of_average_precision_covers_the_drop_of_a_large_set():
    found, truths = random_pictures(1500, 9)
    worse = shaken(found, 0.15)
    world = precision_drop(found, worse, truths, CLASSES, (0.5,), replicates=1).value
    random, covered = np.random.default_rng(1), 0
    for _ in range(100):
        chosen = random.integers(0, 1500, 50)
        sides = ([side[i] for i in chosen] for side in (found, worse, truths))
        covered += precision_drop(*sides, CLASSES, (0.5,), replicates=200).upper >= world
    assert 0.88 <= covered / 100 <= 0.99  # three standard deviations of 100 draws about 0.95, downwards


answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40)


@given(answers, st.floats(0.51, 0.99), st.floats(0.51, 0.99))
def test_more_confidence_never_narrows_the_bounds(pairs, one, other):
    parent, bundle = zip(*pairs, strict=True)
    low, high = (share_drop(parent, bundle, confidence=c, replicates=200) for c in sorted((one, other)))
    assert low.upper <= high.upper and low.lower >= high.lower
    assert low.lower <= low.upper


@given(answers, st.randoms())
def test_the_order_of_samples_does_not_matter_to_a_share(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    one, other = (share_drop(*zip(*order, strict=True), replicates=200) for order in (pairs, shuffled))
    assert one == other


@settings(max_examples=15)
@given(st.integers(0, 1000), st.permutations(range(14)))
def test_the_order_of_pictures_matters_only_to_which_are_drawn(seed, order):
    found, truths = random_pictures(14, seed)
    worse = shaken(found, 0.2)
    one = precision_drop(found, worse, truths, CLASSES, (0.5,))
    other = precision_drop(*([side[i] for i in order] for side in (found, worse, truths)), CLASSES, (0.5,))
    assert other.value == pytest.approx(one.value, abs=1e-9)
    room = 0.2 * (one.upper - one.lower) + 1e-9  # noise of the two draws
    assert abs(other.upper - one.upper) <= room and abs(other.lower - one.lower) <= room


@given(st.integers(0, 1000))
def test_what_the_one_side_loses_the_other_gains(seed):
    found, truths = random_pictures(8, seed)
    worse = shaken(found, 0.3)
    there = precision_drop(found, worse, truths, CLASSES, (0.5,), replicates=50)
    back = precision_drop(worse, found, truths, CLASSES, (0.5,), replicates=50)
    assert (there.value, there.upper, there.lower) == pytest.approx((-back.value, -back.lower, -back.upper), abs=1e-9)


def drop(value, lower, upper, samples=100):
    return Drop(value, upper, lower, 0.95, 1000, samples)


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [
        (drop(0.1, -0.2, 0.5), "pass"),
        (drop(0.1, -0.2, 0.51), "inconclusive"),
        (drop(0.9, 0.5, 1.3), "inconclusive"),
        (drop(0.9, 0.51, 1.3), "fail"),
        (drop(-3.0, -4.0, -2.0), "pass"),
        (drop(0.0, -math.inf, math.inf), "inconclusive"),
        (drop(math.nan, -math.inf, math.inf), "fail"),
    ],
)
def test_the_bounds_decide_and_not_the_value(lost, verdict):
    assert lost.verdict(0.5) == verdict


def test_how_many_more_samples_follows_from_the_square_root_law():
    assert drop(0.3, -0.1, 0.7).more_samples(0.5) == 300  # 0.4 must become 0.2: four times as many
    assert drop(0.7, 0.3, 1.1).more_samples(0.5) == 300
    assert drop(0.1, -1.2, 1.333).more_samples(0.5) == 860  # 850.2, in two digits and rounded up
    assert drop(0.5, 0.1, 0.9).more_samples(0.5) is None
    assert drop(0.1, -math.inf, math.inf).more_samples(0.5) is None


def test_one_sample_bounds_nothing_unless_the_answers_are_the_same():
    lost = share_drop([True], [False])
    assert (lost.value, lost.lower, lost.upper) == (100, -math.inf, math.inf)


def test_replicates_without_a_value_count_against_both_bounds():
    # Two of ten pictures show anything: one resampling in ten shows nothing, and could have said anything.
    found, truths = random_pictures(40, 4)
    few = [i for i, item in enumerate(truths) if len(item.labels) > 2][:2]
    nothing = [i for i in range(40) if i not in few][:8]
    empty = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    wanted = [truths[i] for i in few] + [empty] * 8
    side = [found[i] for i in few + nothing]
    lost = precision_drop(side, shaken(side, 0.4), wanted, CLASSES, (0.5,))
    assert math.isfinite(lost.value) and (lost.lower, lost.upper) == (-math.inf, math.inf)
    assert paired_drop(lambda _: math.nan, lambda _: 0.0, 5).verdict(1.0) == "fail"


def test_a_metric_that_cannot_take_copies_is_named():
    def once(chosen):
        if len(set(chosen)) < len(chosen):
            raise ValueError("twice the same")
        return 1.0

    with pytest.raises(UsageError, match="fails on resampled samples") as caught:
        paired_drop(once, once, 6)
    assert "ValueError: twice the same" in str(caught.value.why)


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(InputError, match="nothing to compare"):
        share_drop([], [])
    with pytest.raises(InputError, match="3, 2 answers"):
        share_drop([True] * 3, [True] * 2)
    with pytest.raises(InputError, match="2, 1, 2 answers"):
        found, truths = random_pictures(2, 0)
        precision_drop(found[:1], found, truths, CLASSES)
    with pytest.raises(UsageError, match=r"between 0\.5 and 1"):
        share_drop([True], [True], confidence=95)
    with pytest.raises(InputError, match="no replicates"):
        share_drop([True], [False], replicates=0)
