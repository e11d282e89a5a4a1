"""Inputs on which a bundle is held against its parent: the user's data where there is any, and random ones always."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit.errors import UsageError
from edgekit.evaluate.datasets import Dataset
from edgekit.processing.preprocess import prepare
from edgekit.spec import ModelSpec, TensorSpec

Feeds = Mapping[str, np.ndarray]
Origin = Literal["real", "drawn", "random"]

RANDOM_SAMPLES = 2


@dataclass(frozen=True)
class Sample:
    """One input in two forms: as the parent takes it, and as the bundle does, where the graph normalises."""

    parent: Feeds
    bundle: Feeds
    origin: Origin


def collect(parent: ModelSpec, bundle: ModelSpec, data: Dataset | None, count: int) -> list[Sample]:
    """Up to `count` samples of `data` (or a drawn picture where there is none), then random ones.

    Raises:
        UsageError: the data are of a kind that this model, in this form, does not take.
    """
    random = np.random.default_rng(0)
    samples = [_sample(parent, bundle, item, "real") for item in _items(data, count)] if data else []
    if not samples and parent.preprocess is not None and parent.task == "detection":
        from edgekit.smear import draw_smear

        samples.append(_sample(parent, bundle, draw_smear(seed=0).image, "drawn"))
    return samples + [_sample(parent, bundle, _random_item(parent, random), "random") for _ in range(RANDOM_SAMPLES)]


def _sample(parent: ModelSpec, bundle: ModelSpec, item: np.ndarray | Feeds, origin: Origin) -> Sample:
    if isinstance(item, np.ndarray):
        if parent.preprocess is None or bundle.preprocess is None:
            raise UsageError(
                "the data are pictures, but nothing says how they become tensors",
                where="[model] preprocess",
                why=f"{parent.name} has no preprocessing",
                fix="declare it, or give tensors as .npz",
            )
        return Sample(
            {parent.preprocess.input: prepare(parent.preprocess, item)[0]},
            {bundle.preprocess.input: prepare(bundle.preprocess, item)[0]},
            origin,
        )
    if parent.inputs != bundle.inputs:
        raise UsageError(
            "the data are tensors for the model, but the bundle takes pixels",
            where="--input uint8-nhwc",
            why="the normalisation moved into the graph cannot be undone on them",
            fix="give pictures, or leave --input away",
        )
    return Sample(item, item, origin)


def _items(data: Dataset, count: int) -> Iterator[np.ndarray | Feeds]:
    for sample in data.first(count).samples:
        yield sample.read()


def _random_item(spec: ModelSpec, random: np.random.Generator) -> np.ndarray | Feeds:
    """A picture of noise for image models, else standard normal floats and integers that are 0 or 1."""
    if spec.preprocess is not None:
        size = (spec.preprocess.height, spec.preprocess.width, 3)
        return random.integers(0, 256, size, dtype=np.uint8)
    return {tensor.name: _random_tensor(tensor, random) for tensor in spec.inputs}


def _random_tensor(tensor: TensorSpec, random: np.random.Generator) -> np.ndarray:
    shape = [dim if isinstance(dim, int) else 1 for dim in tensor.shape]
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)
