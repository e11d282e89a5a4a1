"""Is a bundle as good as its parent at the task? The parent answers once, and every candidate is held against that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from edgekit.bundle import Quality
from edgekit.errors import GateError, InconclusiveError, InputError
from edgekit.evaluate.bootstrap import METHOD, Drop, Verdict
from edgekit.evaluate.datasets import Dataset
from edgekit.evaluate.evaluate import Metric, Run, Score, answers, drop, score
from edgekit.spec import ModelSpec


class _Parent(Protocol):
    @property
    def spec(self) -> ModelSpec: ...

    @property
    def run(self) -> Run: ...


@dataclass(frozen=True, eq=False)
class ParentAnswers:
    """What the parent said on the held-out samples, or why that cannot be told.

    Attributes:
        spec: the parent's; it names the metric.
        data: the samples that were answered; `data.sha256` is of the whole set.
        metric: None for the spec's built-in one.
        predictions: one a sample; see `edgekit.evaluate.evaluate.evaluate`.
        score: the parent's.
        reason: why there is no score; None where there is one.
    """

    spec: ModelSpec
    data: Dataset | None = None
    metric: Metric | None = None
    predictions: tuple[Any, ...] = ()
    score: Score | None = None
    reason: str | None = None

    @classmethod
    def of(cls, parent: _Parent, data: Dataset | None, metric: Metric | None, limit: int | None) -> ParentAnswers:
        """Run the parent.

        Args:
            data: held-out samples.
            metric: None for the spec's built-in one, or a callable on predictions and truths that returns percent.
            limit: at most so many samples.

        Raises:
            UsageError: the spec's metric is not known.
            InputError: data and metric do not fit together, or there are no samples.
        """
        checked = "parity of outputs is all that was checked"
        if data is None:
            return cls(parent.spec, reason=f"no data was given: {checked}")
        if not data.has_truth:
            return cls(parent.spec, reason=f"the data has no labels: {checked}")
        if metric is None and parent.spec.metric is None:
            return cls(parent.spec, reason=f"no metric is set: {checked}")
        chosen = data.first(limit)
        if not chosen.samples:
            raise InputError("there are no samples to judge quality on", where=data.name, fix="give at least one")
        predictions = answers(parent.run, parent.spec, chosen)
        return cls(parent.spec, chosen, metric, tuple(predictions), score(parent.spec, predictions, chosen, metric))


@dataclass(frozen=True)
class QualityVerdict:
    """What the samples say about a bundle.

    Attributes:
        quality: for the manifest.
        verdict: `pass` if the drop's upper bound is within the bar, `fail` if its lower bound is beyond it or a value
            is no number, else `inconclusive`; that also where `quality.status` is `unknown` for want of data.
        drop: with its bounds; None where `quality.status` is `unknown`.
        data: what to call the samples in a sentence.
        tried: what a search tried, in order, and what each try came to; empty where there was none.
    """

    quality: Quality
    verdict: Verdict
    drop: Drop | None = None
    data: str = ""
    tried: tuple[str, ...] = ()

    def require(self) -> Quality:
        """The quality, unless the verdict stands in the way. For want of data it is `unknown`, and nothing does.

        Raises:
            GateError: the bundle loses more than the bar, or a value is no number.
            InconclusiveError: the samples do not decide.
        """
        quality, lost = self.quality, self.drop
        if lost is None or quality.max_drop is None:
            if self.verdict == "fail":
                raise GateError(f"quality: {quality.reason}", where=self.data, fix="see what the model gives for them")
            return quality
        if self.verdict == "pass":
            return quality
        values = f"{quality.metric} fell from {quality.parent:.2f} to {quality.bundle:.2f}"
        allowed = f"{lost.value:.2f} points are lost, allowed are {quality.max_drop:.2f}"
        searched = f"; tried: {'; '.join(self.tried)}" if self.tried else ""
        sure = f"with {100 * lost.confidence:g} % confidence"
        if self.verdict == "fail":
            raise GateError(
                f"quality: {values}",
                where=self.data,
                why=f"{allowed}; {sure} at least {lost.lower:.2f}{searched}",
                fix="export in a higher precision, or state another bar with --max-drop",
            )
        few = "they are too few for bounds"
        bounds = f"{sure} at least {lost.lower:.2f} and at most {lost.upper:.2f}"
        raise InconclusiveError(
            f"quality: {self.data} cannot decide whether {quality.metric} keeps the bar",
            where=self.data,
            why=f"{allowed}; {bounds if math.isfinite(lost.upper - lost.lower) else few}{searched}",
            fix=f"{_more(lost, quality.max_drop)}, or state another bar with --max-drop",
        )


def judge_quality(parent: ParentAnswers, spec: ModelSpec, run: Run, max_drop: float) -> QualityVerdict:
    """Judge a bundle by the paired bootstrap of its drop; see `edgekit.evaluate.bootstrap`.

    Args:
        parent: from `ParentAnswers.of`; one will do for any number of bundles.
        spec, run: the bundle's.
        max_drop: points that may be lost.

    Raises:
        UsageError: the metric is not known, or fails on resampled samples.
        InputError: data and metric do not fit together.
    """
    if parent.data is None or parent.score is None:
        return QualityVerdict(Quality(status="unknown", reason=parent.reason), "inconclusive")
    count = len(parent.data)
    data = f"{count} sample{'s' if count > 1 else ''} of {parent.data.name}"
    predictions = answers(run, spec, parent.data)
    before, after = parent.score, score(spec, predictions, parent.data, parent.metric)
    if not math.isfinite(before.value - after.value):
        reason = f"{before.metric} fell from {before.value:.2f} to {after.value:.2f}, which cannot be compared"
        return QualityVerdict(Quality(status="unknown", reason=reason), "fail", data=data)
    lost = drop(parent.spec, parent.predictions, predictions, parent.data, parent.metric)
    quality = Quality(
        status="measured",
        metric=before.metric,
        parent=before.value,
        bundle=after.value,
        max_drop=max_drop,
        samples=count,
        data_sha256=parent.data.sha256,
        drop=lost.value,
        drop_upper=lost.upper if math.isfinite(lost.upper) else None,
        drop_lower=lost.lower if math.isfinite(lost.lower) else None,
        confidence=lost.confidence,
        replicates=lost.replicates,
        method=METHOD,
    )
    return QualityVerdict(quality, lost.verdict(max_drop), lost, data)


def _more(lost: Drop, max_drop: float) -> str:
    more = lost.more_samples(max_drop)
    if more is not None:
        return f"give about {more} more samples, which would decide if the drop stays as it is"
    return "give more samples" + ("" if lost.value != max_drop else ", though a drop right at the bar may never decide")
