"""How sure a drop is: the paired bootstrap over samples.

Parent and bundle answered the same samples, so the samples are resampled with both answers together: what is hard for
both cancels out of the difference. Bounds are percentiles of the resampled drops (B. Efron, R. J. Tibshirani: An
Introduction to the Bootstrap, Chapman & Hall 1993, section 13.3; a thousand replicates or more are advised for
intervals in section 14.3). Samples must be independent of one another: frames of one video are not.

The bootstrap knows only what the samples showed. Where all answers are the same, its bounds are 0, and still up to
about 3 in n samples of the world may change (with 95 % confidence; J. A. Hanley, A. Lippman-Hand, JAMA 249, 1983).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.evaluate.datasets import Boxes
from edgekit.evaluate.metrics import COCO_THRESHOLDS, Matched, match_classes
from edgekit.processing.detect import Detections

Verdict = Literal["pass", "fail", "inconclusive"]
METHOD = "paired bootstrap over samples"
CONFIDENCE = 0.95
SHARE_REPLICATES = 10_000  # counts are drawn, not samples: they cost nothing
AP_REPLICATES = 1_000
CALL_REPLICATES = 200  # each calls a function of the user's twice

_SEED = 0
_CELLS = 1 << 21  # hits times replicates at once: some 100 MB of float64 arrays


@dataclass(frozen=True)
class Drop:
    """What the bundle lost against its parent, in points; below 0 it gained.

    Attributes:
        value: parent minus bundle on the samples as they are.
        upper, lower: one-sided bounds, each exceeded with a probability of 1 - `confidence`; infinite where too few
            replicates have a value, and for a single sample.
        replicates: how many resamplings they rest on.
        samples: how many samples were resampled.
    """

    value: float
    upper: float
    lower: float
    confidence: float
    replicates: int
    samples: int

    def verdict(self, max_drop: float) -> Verdict:
        """`pass` if the upper bound is within the bar, `fail` if the lower one is beyond it or there is no value."""
        if self.upper <= max_drop:
            return "pass"
        if self.lower > max_drop or not math.isfinite(self.value):
            return "fail"
        return "inconclusive"

    def more_samples(self, max_drop: float) -> int | None:
        """About how many more samples would decide, if the drop stays and its bounds close in with 1/sqrt(n).

        Two significant digits, rounded up; None where no number of samples is known to.
        """
        gap = abs(max_drop - self.value)
        reach = self.upper - self.value if self.value <= max_drop else self.value - self.lower
        if not 0 < reach < math.inf or gap == 0:
            return None
        more = self.samples * ((reach / gap) ** 2 - 1)
        unit = 10.0 ** max(0, math.floor(math.log10(max(more, 1))) - 1)
        return max(1, math.ceil(round(more / unit, 6)) * int(unit))


def paired_drop(
    metric_of_parent: Callable[[Sequence[int]], float],
    metric_of_bundle: Callable[[Sequence[int]], float],
    samples: int,
    *,
    confidence: float = CONFIDENCE,
    replicates: int = CALL_REPLICATES,
    seed: int = _SEED,
) -> Drop:
    """The drop of any metric.

    Args:
        metric_of_parent, metric_of_bundle: points on the samples of the given indices, in which a sample may occur
            several times; NaN where the metric has no value for them.
        samples: how many there are.
        confidence: of each bound, in (0.5, 1).
        seed: the same gives the same bounds.

    Raises:
        InputError: there are no samples.
        UsageError: the metric raises on resampled indices, or `confidence` is out of range.
    """
    _check(samples, confidence)
    every = range(samples)
    value = metric_of_parent(every) - metric_of_bundle(every)
    drops = np.empty(replicates)
    rng = np.random.default_rng(seed)
    for index in range(replicates):
        chosen = np.sort(rng.integers(0, samples, samples)).tolist()
        try:
            drops[index] = metric_of_parent(chosen) - metric_of_bundle(chosen)
        except Exception as error:  # a stranger's function may raise anything
            raise UsageError(
                "the metric fails on resampled samples",
                where=f"replicate {index + 1} of {replicates}",
                why=error.why if isinstance(error, EdgekitError) else f"{type(error).__name__}: {error}",
                fix="let it return NaN for samples on which it has no value; a sample may occur several times",
            ) from error
    return _drop(value, drops, samples, confidence)


def share_drop(
    parent: Sequence[bool],
    bundle: Sequence[bool],
    *,
    confidence: float = CONFIDENCE,
    replicates: int = SHARE_REPLICATES,
    seed: int = _SEED,
) -> Drop:
    """The drop of a share such as top-1: only samples that one side has right and the other wrong count.

    How often each of the two kinds stands in a resampling is multinomial, so the two counts are drawn at once.

    Args:
        parent, bundle: whether each sample was answered right.

    Raises:
        InputError: there are no samples, or not one answer of each a sample.
        UsageError: `confidence` is out of range.
    """
    _check(len(parent), confidence, len(bundle))
    samples = len(parent)
    before, after = np.asarray(parent, np.bool_), np.asarray(bundle, np.bool_)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    shares = np.array([lost, won, samples - lost - won]) / samples
    counts = np.random.default_rng(seed).multinomial(samples, shares, size=replicates)
    return _drop(100 * (lost - won) / samples, 100 * (counts[:, 0] - counts[:, 1]) / samples, samples, confidence)


def precision_drop(
    parent: Sequence[Detections],
    bundle: Sequence[Detections],
    truths: Sequence[Boxes],
    classes: int,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    *,
    confidence: float = CONFIDENCE,
    replicates: int = AP_REPLICATES,
    seed: int = _SEED,
) -> Drop:
    """The drop of `average_precision`, in points. Each picture is matched once; resampling changes its weight alone.

    Args:
        parent, bundle, truths: one of each a picture.
        classes, thresholds: as for `average_precision`.

    Raises:
        InputError: there are no pictures, or not one answer of each a picture.
        UsageError: `confidence` is out of range.
    """
    _check(len(truths), confidence, len(parent), len(bundle))
    sides = [match_classes(side, truths, classes, thresholds) for side in (parent, bundle)]
    most = max((int(matched.hit.sum(axis=1).max(initial=0)) for side in sides for matched in side), default=0)
    (value,) = _precision_drops(sides, np.ones((len(truths), 1), np.int32))
    chunks = _weights(len(truths), replicates, max(1, _CELLS // max(1, most, len(truths))), seed)
    drops = np.concatenate([_precision_drops(sides, weights) for weights in chunks])
    return _drop(float(value), drops, len(truths), confidence)


def _precision_drops(sides: Sequence[Sequence[Matched]], weights: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Points (replicates,); NaN where a resampling has nothing to find."""
    means = []
    for side in sides:
        per_class = [matched.precision(weights) for matched in side if matched.wanted.any()]
        known = np.sum([~np.isnan(values) for values in per_class], axis=0) * np.ones(weights.shape[1])
        means.append(np.divide(np.nansum(per_class, axis=0), known, out=np.full(known.shape, np.nan), where=known > 0))
    drops: npt.NDArray[np.float64] = 100 * (means[0] - means[1])
    return drops


def _weights(samples: int, replicates: int, width: int, seed: int) -> Iterator[npt.NDArray[np.int32]]:
    """How often each sample stands in each resampling, int32 (samples, at most `width`), all `replicates` in all."""
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, width):
        count = min(width, replicates - start)
        drawn = rng.integers(0, samples, (count, samples)) + samples * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * samples).reshape(count, samples)
        yield np.ascontiguousarray(counts.T, np.int32)


def _drop(value: float, drops: npt.NDArray[Any], samples: int, confidence: float) -> Drop:
    """Bounds are percentiles, and a replicate without a value could have had any; where none differs, they are 0.

    Raises:
        InputError: there are no replicates.
    """
    if not len(drops):
        raise InputError("no replicates", where="bootstrap", why="bounds rest on at least one resampling")
    unknown = np.isnan(drops)
    if value == 0 and not unknown.all() and not drops[~unknown].any():
        upper = lower = 0.0
    elif samples == 1 or math.isnan(value):
        upper, lower = math.inf, -math.inf
    else:
        rank = min(len(drops), math.ceil(confidence * len(drops))) - 1
        upper = float(np.sort(np.where(unknown, math.inf, drops))[rank])
        lower = float(np.sort(np.where(unknown, -math.inf, drops))[len(drops) - 1 - rank])
    return Drop(float(value), upper, lower, confidence, len(drops), samples)


def _check(samples: int, confidence: float, *others: int) -> None:
    if samples == 0 or any(other != samples for other in others):
        counted = ", ".join(map(str, (samples, *others)))
        raise InputError(
            "nothing to compare" if samples == 0 else f"{counted} answers cannot be paired",
            where="bootstrap",
            why="parent and bundle must both have answered the same samples, and at least one",
        )
    if not 0.5 < confidence < 1:
        raise UsageError(f"the confidence of a bound lies between 0.5 and 1, not at {confidence}", where="bootstrap")
