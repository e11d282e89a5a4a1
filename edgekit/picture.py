"""Finding pictures on disk, and drawing boxes on them, with Pillow (the extra `image`)."""

from __future__ import annotations

import colorsys
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.atomic import publish, staging, unwritable_is_typed
from edgekit.errors import InputError, MissingError

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
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        else:
            matches = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(text) if Path(p).is_file())
        if not matches:
            raise InputError("no picture there", where=text, why="no such file, or a folder without pictures")
        found += matches
    return found


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
    """Write a picture, whole or not at all; the folder is made."""
    with unwritable_is_typed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging(path) as fresh:
            picture.save(fresh)
            publish(fresh, path, replace=True)


def _colour(index: int) -> tuple[int, int, int]:
    """Distinct, dark enough for white text: hues apart by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb((0.0 + index * 0.618034) % 1.0, 0.85, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)
