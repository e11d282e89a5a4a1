"""Data sets that are numpy files: labelled pictures, or tensors ready for the model."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError
from edgekit.evaluate.datasets import Dataset, Kind, Sample
from edgekit.evaluate.folders import label_index
from edgekit.spec import ModelSpec, TensorSpec

Array = npt.NDArray[Any]


def open_npz(path: Path, spec: ModelSpec | None) -> Dataset:
    """Labelled pictures if the keys say so, tensors otherwise."""
    content = _load(path)
    if {"jpeg", "offset", "label"} <= content.keys():
        samples = _encoded(path, content, spec)
        return _dataset("labelled-arrays", path, samples)
    if {"images", "labels"} <= content.keys():
        samples = _decoded(path, content, spec)
        return _dataset("labelled-arrays", path, samples)
    return _dataset("tensors", path, _tensors(path, content, spec))


def open_npy(path: Path, spec: ModelSpec | None) -> Dataset:
    """Tensors for a model with one input."""
    if spec is None or len(spec.inputs) != 1:
        raise InputError(
            "an .npy file holds one tensor",
            where=str(path),
            why=f"the model has {len(spec.inputs)} inputs" if spec else "no model says what it is for",
            fix="give an .npz with one array for each input, by name" if spec else None,
        )
    return _dataset("tensors", path, _tensors(path, {spec.inputs[0].name: _load(path)[""]}, spec))


def _dataset(kind: Kind, path: Path, samples: list[Sample]) -> Dataset:
    return Dataset(kind, path, None, tuple(samples), (path,))


def _load(path: Path) -> dict[str, Array]:
    """The arrays by name; the only one of an .npy is called ''."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"": content}
        with content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError("cannot read the arrays", where=str(path), why=str(error)) from error


def _encoded(path: Path, content: Mapping[str, Array], spec: ModelSpec | None) -> list[Sample]:
    offsets, data = content["offset"].astype(np.int64), content["jpeg"]
    labels = _label_indices(path, content["label"], content, spec)
    rising = len(offsets) == len(labels) + 1 and offsets[0] >= 0 and (np.diff(offsets) > 0).all()
    if data.dtype != np.uint8 or data.ndim != 1 or not rising or offsets[-1] > data.size:
        raise InputError(
            "the arrays do not fit together",
            where=str(path),
            why="`offset` must rise within `jpeg` (uint8) and have one entry more than `label`",
        )
    view = np.ascontiguousarray(data).data
    return [Sample(f"{path.name}[{i}]", view[offsets[i] : offsets[i + 1]], truth=t) for i, t in enumerate(labels)]


def _decoded(path: Path, content: Mapping[str, Array], spec: ModelSpec | None) -> list[Sample]:
    images = content["images"]
    labels = _label_indices(path, content["labels"], content, spec)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) != len(labels):
        raise InputError(
            f"`images` must be uint8 (n, h, w, 3) with n labels, not {images.dtype} {images.shape}", where=str(path)
        )
    return [Sample(f"{path.name}[{i}]", image, truth=labels[i]) for i, image in enumerate(images)]


def _label_indices(path: Path, numbers: Array, content: Mapping[str, Array], spec: ModelSpec | None) -> list[int]:
    """Class indices of the model; by name where both sides name their classes."""
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise InputError(f"labels must be whole numbers (n,), not {numbers.dtype} {numbers.shape}", where=str(path))
    names = [str(name) for name in content["classes"]] if "classes" in content else []
    wanted = spec.labels if spec else ()
    classes = len(names or wanted)
    if classes and numbers.size and not (numbers.min() >= 0 and numbers.max() < classes):
        raise InputError("a label is out of range", where=str(path), why=f"there are {classes} classes")
    own = [int(number) for number in numbers]
    if not names or not wanted:
        return own
    order = [label_index(name, wanted, path) for name in names]
    return [order[label] for label in own]


def _tensors(path: Path, content: Mapping[str, Array], spec: ModelSpec | None) -> list[Sample]:
    if spec is None:
        raise InputError("these are tensors", where=str(path), why="no model says which inputs they are for")
    missing = [tensor.name for tensor in spec.inputs if tensor.name not in content]
    if missing:
        raise InputError(
            f"no array for the input {missing[0]!r}",
            where=str(path),
            why="the file has: " + (", ".join(content) or "nothing"),
            fix="save one array for each input, by name",
        )
    parts = {tensor.name: _split(path, tensor, content[tensor.name]) for tensor in spec.inputs}
    counts = {len(part) for part in parts.values()}
    if len(counts) != 1:
        raise InputError("the inputs have different numbers of samples", where=str(path), why=str(sorted(counts)))
    return [
        Sample(f"{path.name}[{i}]", feeds={name: part[i] for name, part in parts.items()}) for i in range(counts.pop())
    ]


def _split(path: Path, tensor: TensorSpec, array: Array) -> list[Array]:
    """Samples along the first axis: whole tensors if there is an axis more than in `tensor`, else its batches."""
    extra = array.ndim - len(tensor.shape)
    shape = array.shape[1:] if extra == 1 else array.shape
    batch = next((size for size in tensor.shape[:1] if isinstance(size, int)), 1)
    sizes = zip(shape[1 - extra :], tensor.shape[1 - extra :], strict=False)
    fits = extra in (0, 1) and array.ndim > 0 and all(isinstance(want, str) or size == want for size, want in sizes)
    if array.dtype != tensor.dtype or not fits or (extra == 0 and len(array) % batch):
        raise InputError(
            f"expected {tensor.dtype} {tensor.shape}, got {array.dtype} {array.shape}",
            where=f"{path}: {tensor.name}",
            why="samples stand along the first axis, each of the input's dtype and shape",
        )
    return list(array) if extra == 1 else [array[i : i + batch] for i in range(0, len(array), batch)]
