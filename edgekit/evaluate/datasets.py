"""Data to evaluate or calibrate on: what a sample is, and how a folder or file on disk becomes samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError
from edgekit.evaluate.images import read_image
from edgekit.spec import ModelSpec

Kind = Literal["voc", "yolo", "class-folders", "images", "labelled-arrays", "tensors"]
DEFAULT_SPLITS = ("val", "test")
"""Which split is meant where none is named: the first that exists."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """What is to be found in one picture.

    Attributes:
        boxes: float32 (n, 4), corners x1 y1 x2 y2 in pixels.
        labels: int64 (n,), class indices.
        ignore: bool (n,): neither a hit nor a miss (VOC's `difficult`, COCO's `iscrowd`).
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ignore: npt.NDArray[np.bool_]


Truth = Boxes | int | None
"""Boxes, a class index, or nothing known."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample.

    Attributes:
        name: says which one it is in messages.
        image: a file, the bytes of an encoded picture, or uint8 (h, w, 3) RGB; None where `feeds` are given.
        feeds: input tensors by name, batch axis included; None where a picture is given.
        truth: what should come out.
    """

    name: str
    image: Path | bytes | memoryview | npt.NDArray[np.uint8] | None = None
    feeds: Mapping[str, npt.NDArray[Any]] | None = None
    truth: Truth = None

    def read(self) -> npt.NDArray[np.uint8] | Mapping[str, npt.NDArray[Any]]:
        """The picture, uint8 (h, w, 3) RGB, or the feeds.

        Raises:
            InputError: the picture cannot be read.
            MissingError: it is encoded, and Pillow is not installed.
        """
        if self.feeds is not None:
            return self.feeds
        if isinstance(self.image, np.ndarray):
            return self.image
        if self.image is None:
            raise InputError("the sample has neither a picture nor tensors", where=self.name)
        return read_image(self.image)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples in a fixed order.

    Attributes:
        kind: the layout that was found on disk.
        root: where.
        split: which part, or None where the layout has none.
        samples: in order of their names, or of the file that lists them.
        files: every file that was used, pictures and annotations.
    """

    kind: Kind
    root: Path
    split: str | None
    samples: tuple[Sample, ...]
    files: tuple[Path, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def name(self) -> str:
        """What to call it in a sentence: its folder or file, and the split."""
        return f"{self.root.name} ({self.split})" if self.split else self.root.name

    @property
    def has_truth(self) -> bool:
        """Whether it says of every sample what should come out."""
        return all(sample.truth is not None for sample in self.samples)

    def first(self, count: int | None) -> Dataset:
        """The first `count` samples; all of them for None. The hash stays that of the whole."""
        return self if count is None else replace(self, samples=self.samples[:count])

    @cached_property
    def sha256(self) -> str:
        """Of names and contents of all files, in order; reads them all, so it is computed when first asked for."""
        total = hashlib.sha256()
        for path in self.files:
            name = path.relative_to(self.root).as_posix() if path != self.root else path.name
            total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()


def open_dataset(path: Path | str, spec: ModelSpec | None = None, split: str | None = None) -> Dataset:
    """Recognise the layout at `path` and list its samples; pictures are read later, one by one.

    * VOC: `JPEGImages`, `Annotations`, `ImageSets/Main/SPLIT.txt`. Corners are taken as written; `difficult` objects
      are ignored by metrics.
    * YOLO: `images-SPLIT` and `labels-SPLIT`, `images/SPLIT` and `labels/SPLIT`, or `images` and `labels`; a line is
      `class cx cy w h`, relative to the picture. A picture without a label file shows nothing to find.
    * A folder for every class, perhaps below a folder for every split.
    * A folder of pictures, nothing known about them.
    * `.npz` of a classification set: `jpeg` (bytes of all pictures), `offset` (n + 1) and `label` (n), or `images`
      (n, h, w, 3) and `labels` (n); `classes` names them.
    * `.npy` or `.npz` of tensors for the model's inputs, samples along the first axis.

    Args:
        path: a folder, or a file.
        spec: gives the order of class names, and names, dtypes and shapes of raw tensors.
        split: which part; by default `val` or else `test`.

    Raises:
        InputError: nothing of the kind is there, a file is malformed, or data and `spec.labels` do not fit together.
    """
    from edgekit.evaluate import arrays, folders  # they use the classes above

    root = Path(path)
    labels = spec.labels if spec else ()
    if root.is_file() and root.suffix == ".npz":
        dataset = arrays.open_npz(root, spec)
    elif root.is_file() and root.suffix == ".npy":
        dataset = arrays.open_npy(root, spec)
    elif not root.is_dir():
        why = "it is neither a folder nor an .npy or .npz file" if root.exists() else "there is no such file or folder"
        raise InputError("cannot open the data set", where=str(root), why=why)
    elif (root / "Annotations").is_dir():
        dataset = folders.open_voc(root, split, labels)
    elif folders.is_yolo(root):
        dataset = folders.open_yolo(root, split, labels)
    elif spec is not None and spec.task == "classification":
        dataset = folders.open_class_folders(root, split, labels)
    else:
        dataset = folders.open_images(root)
    if not dataset.samples:
        raise InputError("the data set has no samples", where=str(root), why="no pictures were found in it")
    return dataset
