"""Calibration: algorithms declare the statistics that they need of named tensors, and the data is run once for all.

What follows are pure steps over the collected statistics. Samples may be held apart from them, so that what the
statistics led to can be judged on inputs that they have not seen.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from edgekit.compress.statistics import Accumulator, Statistic
from edgekit.errors import InputError
from edgekit.evaluate.datasets import Dataset
from edgekit.graph.graph import Graph, serialize, with_outputs
from edgekit.processing.preprocess import prepare
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.spec import ModelSpec

Feeds = Mapping[str, np.ndarray]

MIN_SAMPLES = 8
"""Fewer say nothing about ranges: the maximum of n samples is exceeded by the next with probability 1 / (n + 1)."""
MOST_APART = 32
"""They are kept in memory: 64 MiB of 416 x 416 pictures."""


@dataclass(frozen=True)
class Need:
    """A statistic that an algorithm asks for, at one tensor."""

    tensor: str
    statistic: Statistic


@dataclass(frozen=True, eq=False)
class Calibration:
    """What one run over the data gave.

    Attributes:
        found: the statistics by need.
        sha256: of the samples' names, dtypes, shapes and bytes, in order.
        samples: how many there were, those held apart included.
        apart: the samples that no statistic has seen.
    """

    found: Mapping[Need, Any]
    sha256: str
    samples: int
    apart: tuple[Feeds, ...] = ()

    def of(self, tensor: str, statistic: Statistic) -> Any:
        """The statistic of `tensor`, as `Statistic.start().result()` gives it."""
        return self.found[Need(tensor, statistic)]


@dataclass
class _Apart:
    """Takes every fourth sample beyond the first `least`; where it has too many, every eighth, and so on.

    What it gives up goes to the statistics late, so that those kept are spread over the data, however many follow.
    """

    least: int
    stride: int = 4
    kept: list[tuple[int, Feeds]] = field(default_factory=list)

    def split(self, samples: Iterable[Feeds]) -> Iterator[Feeds]:
        """The samples for the statistics."""
        for index, feeds in enumerate(samples):
            if index < self.least or not self._takes(index):
                yield feeds
                continue
            self.kept.append((index, feeds))
            if len(self.kept) > MOST_APART:
                self.stride *= 2
                released = [feeds for index, feeds in self.kept if not self._takes(index)]
                self.kept = [(index, feeds) for index, feeds in self.kept if self._takes(index)]
                yield from released

    def _takes(self, index: int) -> bool:
        return index % self.stride == self.stride - 1


def calibrate(
    graph: Graph, needs: Iterable[Need], samples: Iterable[Feeds], least: int = MIN_SAMPLES, hold_apart: bool = False
) -> Calibration:
    """Run `graph` on every sample, once, and collect what was asked for.

    Args:
        graph: a float graph.
        needs: each counted once, however many algorithms ask for it.
        samples: input tensors by name, as the graph takes them.
        least: how many samples there must be.
        hold_apart: keep about a quarter of the samples beyond the first `least`, at most `MOST_APART`, from the run.

    Raises:
        InputError: too few samples, a sample that the graph does not take, or values that are no numbers.
    """
    wanted = sorted(set(needs), key=lambda need: (need.tensor, repr(need.statistic)))
    accumulators: dict[Need, Accumulator] = {need: need.statistic.start() for need in wanted}
    engine = ORT.open(EngineRequest(serialize(_observed(graph.model, {need.tensor for need in wanted}))))
    inputs = {value.name for value in graph.model.graph.input} - {t.name for t in graph.model.graph.initializer}
    digest, count = hashlib.sha256(), 0

    def counted() -> Iterator[Feeds]:
        nonlocal count
        for feeds in samples:
            count += 1
            _refuse_other_names(inputs, feeds, count)
            for name in sorted(feeds):
                digest.update(f"{name} {feeds[name].dtype} {feeds[name].shape}\0".encode())
                digest.update(np.ascontiguousarray(feeds[name]).data)
            yield feeds

    apart = _Apart(least)
    try:
        for feeds in apart.split(counted()) if hold_apart else counted():
            values = {**feeds, **engine.run(feeds)}
            for need, accumulator in accumulators.items():
                _refuse_nonsense(need.tensor, values[need.tensor], count)
                accumulator.update(values[need.tensor])
    finally:
        engine.close()
    if count < least:
        raise InputError(
            f"{count} calibration sample(s) are too few" if count else "there is no calibration sample",
            where="calibration",
            why=f"ranges are taken from at least {least}",
            fix="give more with --calibration-data and --calibration-samples; 128 are usual",
        )
    found = {need: accumulator.result() for need, accumulator in accumulators.items()}
    return Calibration(found, digest.hexdigest(), count, tuple(feeds for _, feeds in apart.kept))


def samples_of(data: Dataset, spec: ModelSpec, count: int) -> Iterator[Feeds]:
    """Up to `count` samples of a data set as the model's input tensors: pictures preprocessed, tensors as they are.

    Pictures are spread over the whole set, since many sets are sorted by class.

    Raises:
        InputError: pictures, but the model does not say how they become tensors.
    """
    step = max(1, len(data.samples) // count)
    for sample in data.samples[::step][:count]:
        item = sample.read()
        if not isinstance(item, np.ndarray):
            yield item
        elif spec.preprocess is None:
            raise InputError(
                "the calibration data are pictures, but nothing says how they become tensors",
                where="[model] preprocess",
                fix="declare it, or give tensors as .npz",
            )
        else:
            yield {spec.preprocess.input: prepare(spec.preprocess, item)[0]}


def text_samples(path: Path, spec: ModelSpec, count: int, tokens: Sequence[int] | None = None) -> Iterator[Feeds]:
    """Windows of a text file for a model whose only input is token numbers, (batch, length).

    Args:
        tokens: the text's tokens; by default its UTF-8 bytes, for byte-level models.

    Raises:
        InputError: the file cannot be read, is shorter than one window, or the model takes something else.
    """
    tensor = spec.inputs[0]
    if len(spec.inputs) != 1 or np.dtype(tensor.dtype).kind not in "iu" or len(tensor.shape) != 2:
        raise InputError("a text file calibrates models of tokens", where=str(path), why=f"{spec.name} takes no tokens")
    try:
        numbers = np.asarray(tokens if tokens is not None else list(path.read_bytes()), np.dtype(tensor.dtype))
    except OSError as error:
        raise InputError("the text cannot be read", where=str(path), why=error.strerror or str(error)) from error
    length = tensor.shape[1] if isinstance(tensor.shape[1], int) else 128
    rows = tensor.shape[0] if isinstance(tensor.shape[0], int) else 1
    windows = len(numbers) // (length * rows)
    if not windows:
        raise InputError("the text is too short", where=str(path), why=f"one sample takes {length * rows} tokens")
    step = max(1, windows // count)
    for index in itertools.islice(range(0, windows, step), count):
        yield {tensor.name: numbers[index * length * rows :][: length * rows].reshape(rows, length)}


def _observed(model: ModelProto, tensors: set[str]) -> ModelProto:
    inputs = {value.name for value in model.graph.input}
    return with_outputs(model, tensors - inputs)


def _refuse_other_names(inputs: Set[str], feeds: Feeds, sample: int) -> None:
    if inputs != feeds.keys():
        raise InputError(
            "the sample's tensors are not the model's inputs",
            where=f"calibration sample {sample}",
            why=f"it holds {', '.join(sorted(feeds)) or 'none'}; the model takes {', '.join(sorted(inputs))}",
            fix="name the sample's tensors as the model does",
        )


def _refuse_nonsense(tensor: str, values: np.ndarray, sample: int) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(
            f"tensor {tensor!r} holds NaN or infinity",
            where=f"calibration sample {sample}",
            why="no integer range can hold it, and a mean over it is no number",
            fix="look at the sample, and at the layer that computes the tensor",
        )
