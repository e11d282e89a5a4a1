"""Run a model over a data set and score it. The model is any callable from feeds to outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError, UsageError
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
    if metric is None and spec.metric not in _SCORERS:
        raise UsageError(
            f"no metric called {spec.metric!r}" if spec.metric else "no metric is known for this model",
            where=f"{spec.name}: metric",
            why="built in are: " + ", ".join(BUILT_IN_METRICS),
            fix="name one of them, or a function of yours as `package:function`",
        )
    predictions, truths = [], []
    for batch, answers in predict(run, spec, dataset.samples):
        predictions += answers
        truths += [sample.truth for sample in batch]
        if progress:
            progress(len(predictions), len(dataset.samples))
    if metric is not None:
        name = f"{metric.__module__}:{getattr(metric, '__qualname__', type(metric).__qualname__)}"
        return Score(name, float(metric(predictions, truths)), {}, len(truths))
    assert spec.metric is not None
    return _SCORERS[spec.metric](spec.metric, spec, predictions, truths)


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


def _score_boxes(name: str, spec: ModelSpec, predictions: list[Any], truths: list[Truth]) -> Score:
    if not all(isinstance(item, Detections) for item in predictions):
        raise _misfit(name, "the model's answers are not boxes")
    boxes = [truth for truth in truths if isinstance(truth, Boxes)]
    if len(boxes) != len(truths):
        raise _misfit(name, "the data set does not say which boxes are to be found")
    thresholds = (0.5,) if name == "ap50" else COCO_THRESHOLDS
    result = average_precision(predictions, boxes, len(spec.labels), thresholds)
    if result.mean is None:
        raise _misfit(name, "the data set has nothing to find")
    per_class = {
        label: None if value is None else 100 * value
        for label, value in zip(spec.labels, result.per_class, strict=True)
    }
    return Score(name, 100 * result.mean, per_class, len(truths))


def _score_classes(name: str, spec: ModelSpec, predictions: list[Any], truths: list[Truth]) -> Score:
    if not isinstance(spec.postprocess, ClassificationPostprocess):
        raise _misfit(name, "the model's answers are not classes")
    wanted = [truth for truth in truths if isinstance(truth, int)]
    if len(wanted) != len(truths):
        raise _misfit(name, "the data set does not say which class is right")
    best = [ranking[0][0] for ranking in predictions]
    per_class: dict[str, float | None] = {}
    for index, label in enumerate(spec.labels):
        mine = [got for got, want in zip(best, wanted, strict=True) if want == index]
        per_class[label] = 100 * top1(mine, [index] * len(mine)) if mine else None
    return Score(name, 100 * top1(best, wanted), per_class, len(truths))


_SCORERS: dict[str, Callable[[str, ModelSpec, list[Any], list[Truth]], Score]] = {
    "ap50": _score_boxes,
    "ap": _score_boxes,
    "top1": _score_classes,
}
BUILT_IN_METRICS = tuple(_SCORERS)
"""AP at IoU 0.5; AP over IoU 0.5 to 0.95; the share of samples whose best class is right."""


def _misfit(metric: str, why: str) -> InputError:
    return InputError(f"cannot compute {metric}", where="evaluate", why=why)
