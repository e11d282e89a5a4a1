"""CIFAR-10 from `$EDGEKIT_DATA/vision/cifar10_{train,test}.npz`: JPEG bytes end to end, offsets, labels, classes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from edgekit.errors import InputError, MissingError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of the training pictures, red, green, blue, in units of 0 to 255.
MEAN = (125.307, 122.961, 113.8575)
STD = (51.5865, 50.847, 51.255)


def data_file(split: Literal["train", "test"]) -> Path:
    """Where a split lies.

    Raises:
        MissingError: `EDGEKIT_DATA` is unset, or holds no CIFAR-10.
    """
    root = os.environ.get("EDGEKIT_DATA")
    path = Path(root or ".") / "vision" / f"cifar10_{split}.npz"
    if not root or not path.is_file():
        raise MissingError(
            "CIFAR-10 is not on this machine",
            where=str(path),
            why="EDGEKIT_DATA names no folder that holds it" if root else "EDGEKIT_DATA is not set",
            fix="set EDGEKIT_DATA to the folder that holds vision/cifar10_train.npz and vision/cifar10_test.npz",
        )
    return path


def load(
    split: Literal["train", "test"], start: int = 0, stop: int | None = None, step: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (n, 32, 32, 3) RGB and labels int64 (n,); `start:stop:step` decodes only a part.

    Raises:
        MissingError: the data is not on this machine.
        InputError: its classes have other names, or another order.
    """
    with np.load(data_file(split), allow_pickle=False) as arrays:
        data, offset, label = arrays["jpeg"], arrays["offset"], arrays["label"]
        names = tuple(arrays["classes"].tolist())
    if names != CLASSES:
        raise InputError("the classes are not CIFAR-10's", where=str(data_file(split)), why=f"they are {names}")
    chosen = range(len(label))[start:stop:step]
    pictures = np.empty((len(chosen), 32, 32, 3), np.uint8)
    for row, index in enumerate(chosen):
        with Image.open(io.BytesIO(data[offset[index] : offset[index + 1]].tobytes())) as picture:
            pictures[row] = np.asarray(picture.convert("RGB"))
    return pictures, label[np.asarray(chosen)].astype(np.int64)


def normalise(pictures: np.ndarray) -> np.ndarray:
    """uint8 (n, 32, 32, 3) to float32 (n, 3, 32, 32): what `edgekit.processing` does with the zoo's specs."""
    scaled = (pictures.astype(np.float32) - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
