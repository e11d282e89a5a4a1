"""Task metrics of bundles and of their parents on labelled data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgekit.config import ModelOptions
from edgekit.errors import UsageError
from edgekit.evaluate.datasets import open_dataset
from edgekit.evaluate.evaluate import BUILT_IN_METRICS, evaluate
from edgekit.runtimes.session import load
from edgekit.spec import ModelSpec


@dataclass(frozen=True)
class Validation:
    """A score and what got it.

    Attributes:
        what: the bundle or source.
        runtime: what computed it, such as `onnxruntime 1.23.2`.
        value: in percent; `per_class` likewise, None for a class without truth.
    """

    what: str
    runtime: str
    metric: str
    value: float
    samples: int
    per_class: dict[str, float | None] = field(default_factory=dict)


def validate_bundle(
    path: Path,
    data: Path,
    split: str | None = None,
    metric: str | None = None,
    samples: int | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    key: Path | None = None,
) -> Validation:
    """Score a bundle.

    Raises:
        UsageError: the metric is unknown, or neither given nor part of the bundle.
        InputError, IntegrityError, MissingError: as `load`, and as the data set's reader.
    """
    with load(path, key=key, runtime=runtime, threads=threads) as session:
        return _score(path.name, session.runtime, session.run, session.spec, data, split, metric, samples)


def validate_source(
    options: ModelOptions, data: Path, split: str | None, metric: str | None, samples: int | None
) -> Validation:
    """Score a model as it is, in torch or, for an ONNX file, in ONNX Runtime."""
    from edgekit.intake import complete_spec
    from edgekit.sources import open_source

    parent = open_source(options.source, trust_code=options.trust_code)
    spec = complete_spec(parent.spec, options)
    return _score(options.source, parent.reference_name(), parent.run, spec, data, split, metric, samples)


def _score(
    what: str,
    runtime: str,
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
    spec: ModelSpec,
    data: Path,
    split: str | None,
    metric: str | None,
    samples: int | None,
) -> Validation:
    name = metric or spec.metric
    if name not in BUILT_IN_METRICS:
        raise UsageError(
            f"metric {name!r} is not built in" if name else "no metric is known for this model",
            where=what,
            fix=f"--metric {' or '.join(BUILT_IN_METRICS)}",
        )
    dataset = open_dataset(data, spec, split).first(samples)
    if not dataset.has_truth:
        raise UsageError("the data has no labels", where=str(data), why="a metric compares with the truth")
    score = evaluate(run, replace(spec, metric=name), dataset)
    return Validation(what, runtime, score.metric, score.value, score.samples, dict(score.per_class))
