"""Finding pictures on disk, and drawing boxes on them, with Pillow (the extra `image`)."""

from __future__ import annotations

import colorsys
import errno
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.atomic import publish, staging, unwritable_is_typed
from edgekit.errors import InputError, MissingError, UsageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """The pictures that files, folders and globs name, in order.

    Raises:
        InputError: one of them names no picture.
    """
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            matches = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(text) if Path(p).is_file())  # noqa: PTH207  # Path.glob refuses absolute patterns
        if not matches:
            raise InputError("no picture there", where=text, why="no such file, or a folder without pictures")
        found += matches
    return found


def place_drawings(files: Sequence[Path], wanted: Path | None) -> list[Path]:
    """Where the drawing of each of `files` goes.

    Args:
        wanted: a file, for one picture, or else a folder; by default they go into the working folder.

    Raises:
        UsageError: a drawing would replace a picture that is read.
    """
    if wanted is not None and len(files) == 1 and wanted.suffix and not wanted.is_dir():
        places = [wanted]
    else:
        folder, ending = (Path(), "-edgekit") if wanted is None else (wanted, "")
        names: list[str] = []
        for file in files:  # files of several folders may have the same name
            candidates = (
                f"{file.stem}{ending}{number}" for number in ("", *(f"-{i}" for i in range(2, len(files) + 2)))
            )
            names.append(next(name for name in candidates if name not in names))
        places = [folder / f"{name}.png" for name in names]
    inputs = {file.resolve() for file in files}
    clash = next((place for place in places if place.resolve() in inputs), None)
    if clash is not None:
        raise UsageError(
            "the drawing would replace the picture itself", where=str(clash), fix="another folder with --picture"
        )
    return places


def draw(image: np.ndarray, found: Sequence[dict[str, Any]]) -> Any:
    """A Pillow picture of `image`, uint8 RGB (height, width, 3), with the boxes and labels in `found`."""
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError as error:
        raise MissingError(
            "Pillow is not installed", where="import PIL", why=str(error), fix="pip install 'edgekit[image]'"
        ) from error
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 240))
    colours = {label: _colour(i) for i, label in enumerate(dict.fromkeys(item["label"] for item in found))}
    for row, item in enumerate(found):
        text, colour = f"{item['label']} {item['score']:.2f}", colours[item["label"]]
        left, top = item["box"][:2] if "box" in item else (4, 4 + 14 * row)
        if "box" in item:
            pen.rectangle(item["box"], outline=colour, width=width)
        corner = pen.textbbox((left + width, max(0, top - 13)), text)
        pen.rectangle((corner[0] - 2, corner[1] - 1, corner[2] + 2, corner[3] + 1), fill=colour)
        pen.text((left + width, max(0, top - 13)), text, fill="white")
    return picture


def save_picture(picture: Any, path: Path) -> None:
    """Write a picture, whole or not at all; the folder is made.

    Raises:
        UsageError: the suffix names no format of pictures.
        InputError, MissingError: it cannot be written there.
    """
    with unwritable_is_typed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with staging(path) as fresh:
            try:
                picture.save(fresh)
            except ValueError as error:  # Pillow's word for a suffix that it does not know
                raise UsageError(
                    "no format of pictures has this suffix", where=str(path), why=str(error), fix="for example .png"
                ) from error
            publish(fresh, path, replace=True)


def _colour(index: int) -> tuple[int, int, int]:
    """Distinct, dark enough for white text: hues apart by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb((0.0 + index * 0.618034) % 1.0, 0.85, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)
