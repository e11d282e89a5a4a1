"""Puts together what an export starts from: the parent, what it is for the outside, the data and the metric."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.config import Config, ModelOptions
from edgekit.errors import InputError, UsageError
from edgekit.evaluate.datasets import Dataset, open_dataset
from edgekit.evaluate.evaluate import BUILT_IN_METRICS
from edgekit.models.catalog import CATALOG
from edgekit.parents import Parent
from edgekit.sources import open_source
from edgekit.spec import ImagePreprocess, ModelSpec, TensorSpec
from edgekit.structure import decode
from edgekit.usercode import call, resolve

TRAIN = "train"
"""The split that calibration takes where nothing else is said."""


@dataclass(frozen=True)
class Intake:
    """The parent with its completed spec, and the data of the gates; None where there is none.

    Attributes:
        metric: a callable of the user's, or None for the spec's built-in one.
        calibration: real inputs for the parity gate.
        ranges: what int8 takes its ranges from, a data set or a text file; never the held-out samples.
        picture: a drawn one that a shipped model brings for want of them, uint8 RGB (h, w, 3).
    """

    parent: Parent
    data: Dataset | None
    calibration: Dataset | None
    metric: Callable[..., float] | None
    picture: npt.NDArray[np.uint8] | None = None
    licences: tuple[str, ...] = ()
    ranges: Dataset | Path | None = None

    @property
    def spec(self) -> ModelSpec:
        """What the model is for the outside."""
        return self.parent.spec


def take_in(config: Config) -> Intake:
    """Load the model and complete its spec from the configuration.

    Raises:
        UsageError, InputError: something does not exist, is malformed, or does not fit together.
    """
    options = config.model
    parent = open_source(options.source, shapes=options.shapes, trust_code=options.trust_code, name=options.name)
    spec = complete_spec(parent.spec, options)
    parent = replace(parent, spec=spec)  # type: ignore[type-var]  # every Parent is a frozen dataclass
    data = open_dataset(options.data, spec, options.split) if options.data else None
    if options.metric is not None and (data is None or not data.has_truth):
        raise UsageError(
            f"metric {options.metric!r} needs labelled data",
            where="[model] data",
            why="no data is given" if data is None else f"{data.name} has no labels",
            fix="give labelled data, or leave the metric away: parity is checked all the same",
        )
    ranges = _ranges(config, spec, data)
    shipped = CATALOG.get(options.source)
    return Intake(
        parent,
        data,
        ranges if isinstance(ranges, Dataset) and config.calibration.calibration_data else data,
        _metric(options),
        shipped.picture() if shipped else None,
        shipped.licences if shipped else (),
        ranges,
    )


def _ranges(config: Config, spec: ModelSpec, data: Dataset | None) -> Dataset | Path | None:
    """The calibration data: a file or folder of its own, or another split of the held-out data's set."""
    options, split = config.calibration, config.calibration.calibration_split
    if options.calibration_data is not None:
        path = Path(options.calibration_data)
        return path if path.suffix == ".txt" else open_dataset(path, spec, split)
    if data is None or data.split is None:
        return None
    if split == data.split:
        raise UsageError(
            f"the split {split!r} is held out",
            where="[calibration] calibration_split",
            why="ranges that were fitted to it would flatter its score",
            fix="calibrate on another split",
        )
    if split is None and data.split == TRAIN:
        return None
    try:
        return open_dataset(data.root, spec, split or TRAIN)
    except InputError:
        if split is not None:
            raise
        return None  # a set without a train split


def complete_spec(spec: ModelSpec, options: ModelOptions) -> ModelSpec:
    """`spec` as the source knows it, overridden by `--spec`, then by single options."""
    if options.spec is not None:
        told = read_spec(Path(options.spec))
        inputs = _agreed("inputs", spec.inputs, told.inputs, options.spec)
        outputs = _agreed("outputs", spec.outputs, told.outputs, options.spec)
        spec = replace(told, inputs=inputs, outputs=outputs, name=options.name or told.name)
    if options.labels is not None:
        spec = replace(spec, labels=_labels(options.labels))
    if options.preprocess is not None:
        spec = replace(spec, preprocess=_preprocess(spec, options.preprocess))
    if options.postprocess is not None:
        spec = replace(spec, postprocess=options.postprocess, task=options.postprocess.kind)
    _check_agreement(spec)
    if options.metric in BUILT_IN_METRICS:
        spec = replace(spec, metric=options.metric)
    elif spec.metric is None and spec.postprocess is not None:
        spec = replace(spec, metric={"detection": "ap50", "classification": "top1"}[spec.postprocess.kind])
    return spec


def read_spec(path: Path) -> ModelSpec:
    """A ModelSpec in JSON.

    Raises:
        InputError: missing, not JSON, or a field that does not fit.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("the spec cannot be read", where=str(path), why=error.strerror or str(error)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("the spec is not JSON", where=str(path), why=str(error)) from error
    return ModelSpec.from_json(data, str(path))


def _agreed(
    kind: str, found: tuple[TensorSpec, ...], told: tuple[TensorSpec, ...], where: str
) -> tuple[TensorSpec, ...]:
    """The told tensors, where they are the model's own by name, dtype and rank; unknown ones take any."""

    def agree(own: TensorSpec, other: TensorSpec) -> bool:
        dtypes = own.dtype in (other.dtype, "undefined")
        sizes = all(isinstance(a, str) or a == b for a, b in zip(own.shape, other.shape, strict=False))
        return own.name == other.name and dtypes and (not own.shape or len(own.shape) == len(other.shape)) and sizes

    if len(found) != len(told) or not all(map(agree, found, told)):
        shown = "; ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in found)
        raise InputError(f"the spec's {kind} are not the model's", where=where, why=f"the model has {shown}")
    return told


def _check_agreement(spec: ModelSpec) -> None:
    """Refuse pre- and postprocessing that reads or makes tensors which the model does not have."""
    pre, post = spec.preprocess, spec.postprocess
    outputs = [tensor.name for tensor in spec.outputs]
    unknown = [name for name in post.outputs if name not in outputs] if post else []
    if unknown:
        raise UsageError(
            f"postprocess reads no output {unknown[0]!r}",
            where="[model] postprocess.outputs",
            why="the model has no such output",
            fix="outputs: " + ", ".join(outputs),
        )
    if pre is None:
        return
    image = next((tensor for tensor in spec.inputs if tensor.name == pre.input), None)
    size = (pre.height, pre.width)
    made = (3, *size) if pre.layout == "nchw" else (*size, 3)
    takes = image.shape[1:] if image else ()
    fits = len(takes) == 3 and all(isinstance(a, str) or a == b for a, b in zip(takes, made, strict=True))
    if image is None or not fits:
        has = "; ".join(f"{tensor.name} {tensor.shape}" for tensor in spec.inputs)
        raise UsageError(
            f"preprocess makes {pre.input!r} of shape {('batch', *made)}, which the model does not take",
            where="[model] preprocess",
            why=f"the model takes {has}",
            fix="state the input, layout, height and width of the model",
        )
    if image.dtype != pre.dtype:
        raise UsageError(
            f"preprocess makes {pre.dtype}, the model takes {image.dtype}",
            where="[model] preprocess.dtype",
            fix=f'dtype = "{image.dtype}", where that is float32 or uint8',
        )


def _preprocess(spec: ModelSpec, table: Mapping[str, Any]) -> ImagePreprocess:
    """The declared preprocessing; what the model's input already says may be left out."""
    image = spec.inputs[0]
    if len(image.shape) != 4:
        raise UsageError(
            "preprocess needs an image input of four dimensions",
            where=f"input {image.name}",
            why=f"its shape is {image.shape}",
        )
    layout = table.get("layout", "nhwc" if image.shape[3] == 3 else "nchw")
    height, width = (image.shape[1], image.shape[2]) if layout == "nhwc" else (image.shape[2], image.shape[3])
    known = {"input": image.name, "layout": layout, "dtype": image.dtype, "height": height, "width": width}
    known = {
        key: value for key, value in known.items() if key in ("input", "layout", "dtype") or isinstance(value, int)
    }
    return decode(ImagePreprocess, {**known, **table}, "[model] preprocess")


def _labels(labels: str | tuple[str, ...]) -> tuple[str, ...]:
    """Class names, or a text file with one a line."""
    if isinstance(labels, tuple):
        return labels
    try:
        return tuple(line.strip() for line in Path(labels).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "the labels cannot be read", where=labels, why=str(error), fix="a text file, one name a line"
        ) from error


def _metric(options: ModelOptions) -> Callable[..., float] | None:
    """The user's own metric; a name of a built-in one stands in the spec."""
    if options.metric is None or options.metric in BUILT_IN_METRICS:
        return None
    if ":" not in options.metric:
        raise UsageError(
            f"unknown metric {options.metric!r}",
            where="[model] metric",
            fix=f"built in: {', '.join(BUILT_IN_METRICS)}; or package:function with --trust-code",
        )
    if not options.trust_code:
        raise UsageError(
            f"metric {options.metric!r} executes code",
            where="[model] metric",
            why="package:function imports a module and calls it",
            fix="if you trust it, repeat with --trust-code",
        )
    function, name = resolve(options.metric), options.metric

    def number(predictions: object, truths: object) -> float:
        return float(function(predictions, truths))

    def metric(predictions: object, truths: object) -> float:
        return call(number, predictions, truths, what=name)  # type: ignore[no-any-return]  # number gives a float

    metric.__module__, _, metric.__qualname__ = name.partition(":")  # what the manifest calls it
    return metric
