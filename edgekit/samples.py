"""Inputs on which a bundle is held against its parent: the user's data where there is any, and random ones always."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekit.errors import UsageError
from edgekit.evaluate.datasets import Dataset
from edgekit.processing.preprocess import prepare, prepare_batch
from edgekit.spec import ModelSpec, TensorSpec

Feeds = Mapping[str, np.ndarray]
Origin = Literal["real", "drawn", "random"]

SYMBOLIC_SIZES = (1, 2)  # of symbolic dimensions, one random sample each


@dataclass(frozen=True)
class Sample:
    """One input in two forms: as the parent takes it, and as the bundle does, where the graph normalises."""

    parent: Feeds
    bundle: Feeds
    origin: Origin


def collect(
    parent: ModelSpec,
    bundle: ModelSpec,
    data: Dataset | None,
    count: int,
    drawn: npt.NDArray[np.uint8] | None = None,
) -> list[Sample]:
    """Up to `count` samples of `data` (or a drawn picture where there is none), then random ones.

    Raises:
        UsageError: the data are of a kind that this model, in this form, does not take.
    """
    random = np.random.default_rng(0)
    samples = [_sample(parent, bundle, item, "real") for item in _items(data, count)] if data else []
    if not samples and drawn is not None:
        samples.append(_sample(parent, bundle, drawn, "drawn"))
    return samples + [_random_sample(parent, bundle, size, random) for size in SYMBOLIC_SIZES]


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


def _random_sample(parent: ModelSpec, bundle: ModelSpec, size: int, random: np.random.Generator) -> Sample:
    """Pictures of noise for image models, else standard normal floats and integers that are 0 or 1."""
    pre, normalized = parent.preprocess, bundle.preprocess
    if pre is None or normalized is None:
        feeds = {tensor.name: _random_tensor(tensor, size, random) for tensor in parent.inputs}
        return Sample(feeds, feeds, "random")
    batch = parent.inputs[0].shape[0]
    count = batch if isinstance(batch, int) else size
    pictures = [random.integers(0, 256, (pre.height, pre.width, 3), dtype=np.uint8) for _ in range(count)]
    return Sample(
        {pre.input: prepare_batch(pre, pictures)[0]},
        {normalized.input: prepare_batch(normalized, pictures)[0]},
        "random",
    )


def _random_tensor(tensor: TensorSpec, size: int, random: np.random.Generator) -> np.ndarray:
    shape = [dim if isinstance(dim, int) else size for dim in tensor.shape]
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)
