"""Run a model over a data set and score it. The model is any callable from feeds to outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError, UsageError
from edgekit.evaluate.bootstrap import Drop, paired_drop, precision_drop, share_drop
from edgekit.evaluate.datasets import Boxes, Dataset, Sample, Truth
from edgekit.evaluate.metrics import COCO_THRESHOLDS, average_precision, top1
from edgekit.processing.classify import top_k
from edgekit.processing.detect import Detections, detections
from edgekit.processing.preprocess import prepare_batch
from edgekit.spec import ClassificationPostprocess, DetectionPostprocess, ModelSpec

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Metric = Callable[[Sequence[Any], Sequence[Truth]], float]
Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""

_BATCH = 16  # pictures a run where the model leaves the batch open: enough to amortise a call, small in memory


@dataclass(frozen=True)
class Score:
    """How well it did.

    Attributes:
        metric: what was measured.
        value: in percent.
        per_class: by label, in percent; None for a class without truths. Empty where the metric has none.
        samples: on how many.
    """

    metric: str
    value: float
    per_class: dict[str, float | None]
    samples: int


def evaluate(
    run: Run, spec: ModelSpec, dataset: Dataset, metric: Metric | None = None, progress: Progress | None = None
) -> Score:
    """Score a model on a data set.

    Args:
        run: from input tensors by name to outputs by name.
        spec: how pictures become tensors and outputs become answers, and the metric: `ap50`, `ap` or `top1`.
        dataset: with truths.
        metric: instead of a built-in one; takes the predictions (`Detections`, rankings, or raw outputs where
            `spec.postprocess` is None) and the truths, returns percent.
        progress: called after every batch.

    Raises:
        UsageError: no metric is known for this model.
        InputError: data and metric do not fit together.
    """
    if metric is None:
        _built_in(spec)
    return score(spec, answers(run, spec, dataset, progress), dataset, metric)


def answers(run: Run, spec: ModelSpec, dataset: Dataset, progress: Progress | None = None) -> list[Any]:
    """The predictions for all samples, in order; the arguments are those of `evaluate`."""
    predictions: list[Any] = []
    for _, batch in predict(run, spec, dataset.samples):
        predictions += batch
        if progress:
            progress(len(predictions), len(dataset.samples))
    return predictions


def score(spec: ModelSpec, predictions: Sequence[Any], dataset: Dataset, metric: Metric | None = None) -> Score:
    """Score predictions that `answers` gave; arguments and errors are those of `evaluate`."""
    truths = [sample.truth for sample in dataset.samples]
    if metric is not None:
        return Score(metric_name(metric), float(metric(predictions, truths)), {}, len(truths))
    name = _built_in(spec)
    return _SCORERS[name](name, spec, predictions, truths)


def drop(
    spec: ModelSpec, parent: Sequence[Any], bundle: Sequence[Any], dataset: Dataset, metric: Metric | None = None
) -> Drop:
    """What is lost from the parent's predictions to the bundle's on the same samples, with bounds.

    Args:
        spec: names the metric.
        parent, bundle: what `answers` gave for the data set.
        dataset: with truths.
        metric: instead of a built-in one; it is called on resampled predictions and truths, in which a sample may
            occur several times.

    Raises:
        UsageError: no metric is known for this model, or it fails on resampled samples.
        InputError: data and metric do not fit together, or there are no samples.
    """
    truths = [sample.truth for sample in dataset.samples]
    if metric is None:
        name = _built_in(spec)
        return _DROPS[name](name, spec, parent, bundle, truths)

    def on(predictions: Sequence[Any]) -> Callable[[Sequence[int]], float]:
        return lambda chosen: float(metric([predictions[i] for i in chosen], [truths[i] for i in chosen]))

    return paired_drop(on(parent), on(bundle), len(truths))


def metric_name(metric: Metric) -> str:
    """What to call a function of the user's: `package:function`."""
    return f"{metric.__module__}:{getattr(metric, '__qualname__', type(metric).__qualname__)}"


def _built_in(spec: ModelSpec) -> str:
    if spec.metric is None or spec.metric not in _SCORERS:
        raise UsageError(
            f"no metric called {spec.metric!r}" if spec.metric else "no metric is known for this model",
            where=f"{spec.name}: metric",
            why="built in are: " + ", ".join(BUILT_IN_METRICS),
            fix="name one of them, or a function of yours as `package:function`",
        )
    return spec.metric


def predict(run: Run, spec: ModelSpec, samples: Sequence[Sample]) -> Iterator[tuple[list[Sample], list[Any]]]:
    """Samples and their predictions, batch by batch; see `evaluate` for what a prediction is.

    Several pictures go into one run only where the model's batch axis is symbolic, or fixed above 1; the last batch of
    a fixed size is filled up with its last picture.
    """
    first_axis = spec.inputs[0].shape[0] if spec.inputs and spec.inputs[0].shape else 1
    size = first_axis if isinstance(first_axis, int) else _BATCH
    rest = iter(samples)
    tensors = bool(samples) and samples[0].feeds is not None  # a data set holds one kind
    while batch := list(islice(rest, 1 if tensors else size)):
        items = [sample.read() for sample in batch]
        images = [item for item in items if isinstance(item, np.ndarray)]
        if not images:
            yield batch, [dict(run(item)) for item in items if isinstance(item, Mapping)]
            continue
        if isinstance(first_axis, int):
            images += [images[-1]] * (size - len(images))
        yield batch, _answers(run, spec, images)[: len(batch)]


def _answers(run: Run, spec: ModelSpec, images: list[npt.NDArray[np.uint8]]) -> list[Any]:
    if spec.preprocess is None:
        raise InputError(
            "the data set holds pictures, but nothing says how they become tensors",
            where=f"{spec.name}: preprocess",
            fix="describe the preprocessing, or give tensors as .npz",
        )
    tensor, placements = prepare_batch(spec.preprocess, images)
    outputs = run({spec.preprocess.input: tensor})
    if isinstance(spec.postprocess, DetectionPostprocess):
        return list(detections(spec.postprocess, outputs, placements))
    if isinstance(spec.postprocess, ClassificationPostprocess):
        return list(top_k(spec.postprocess, outputs))
    return [{name: array[i : i + 1] for name, array in outputs.items()} for i in range(len(images))]


_THRESHOLDS = {"ap50": (0.5,), "ap": COCO_THRESHOLDS}


def _score_boxes(name: str, spec: ModelSpec, predictions: Sequence[Any], truths: Sequence[Truth]) -> Score:
    boxes = _boxes(name, predictions, truths)
    result = average_precision(predictions, boxes, len(spec.labels), _THRESHOLDS[name])
    if result.mean is None:
        raise _misfit(name, "the data set has nothing to find")
    per_class = {
        label: None if value is None else 100 * value
        for label, value in zip(spec.labels, result.per_class, strict=True)
    }
    return Score(name, 100 * result.mean, per_class, len(truths))


def _drop_boxes(
    name: str, spec: ModelSpec, parent: Sequence[Any], bundle: Sequence[Any], truths: Sequence[Truth]
) -> Drop:
    boxes = _boxes(name, [*parent, *bundle], truths)
    return precision_drop(parent, bundle, boxes, len(spec.labels), _THRESHOLDS[name])


def _boxes(name: str, predictions: Sequence[Any], truths: Sequence[Truth]) -> list[Boxes]:
    """The truths, if predictions and truths are boxes."""
    if not all(isinstance(item, Detections) for item in predictions):
        raise _misfit(name, "the model's answers are not boxes")
    boxes = [truth for truth in truths if isinstance(truth, Boxes)]
    if len(boxes) != len(truths):
        raise _misfit(name, "the data set does not say which boxes are to be found")
    return boxes


def _score_classes(name: str, spec: ModelSpec, predictions: Sequence[Any], truths: Sequence[Truth]) -> Score:
    wanted, best = _classes(name, spec, truths), [ranking[0][0] for ranking in predictions]
    per_class: dict[str, float | None] = {}
    for index, label in enumerate(spec.labels):
        mine = [got for got, want in zip(best, wanted, strict=True) if want == index]
        per_class[label] = 100 * top1(mine, [index] * len(mine)) if mine else None
    return Score(name, 100 * top1(best, wanted), per_class, len(truths))


def _drop_classes(
    name: str, spec: ModelSpec, parent: Sequence[Any], bundle: Sequence[Any], truths: Sequence[Truth]
) -> Drop:
    wanted = _classes(name, spec, truths)
    before, after = (
        [ranking[0][0] == want for ranking, want in zip(side, wanted, strict=True)] for side in (parent, bundle)
    )
    return share_drop(before, after)


def _classes(name: str, spec: ModelSpec, truths: Sequence[Truth]) -> list[int]:
    """The truths, if the model's answers and they are classes."""
    if not isinstance(spec.postprocess, ClassificationPostprocess):
        raise _misfit(name, "the model's answers are not classes")
    wanted = [truth for truth in truths if isinstance(truth, int)]
    if len(wanted) != len(truths):
        raise _misfit(name, "the data set does not say which class is right")
    return wanted


_SCORERS: dict[str, Callable[[str, ModelSpec, Sequence[Any], Sequence[Truth]], Score]] = {
    "ap50": _score_boxes,
    "ap": _score_boxes,
    "top1": _score_classes,
}
_DROPS: dict[str, Callable[[str, ModelSpec, Sequence[Any], Sequence[Any], Sequence[Truth]], Drop]] = {
    "ap50": _drop_boxes,
    "ap": _drop_boxes,
    "top1": _drop_classes,
}
BUILT_IN_METRICS = tuple(_SCORERS)
"""AP at IoU 0.5; AP over IoU 0.5 to 0.95; the share of samples whose best class is right."""


def _misfit(metric: str, why: str) -> InputError:
    return InputError(f"cannot compute {metric}", where="evaluate", why=why)
