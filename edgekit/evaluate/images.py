"""Reading pictures. Decoding is Pillow's, from the extra `image`; nothing else in the device-side rooms needs it."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError, MissingError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_ORIENTATION = 0x0112  # EXIF tag; values 5 to 8 swap height and width (EXIF 2.32, sec. 4.6.4)


def read_image(source: Path | str | bytes | memoryview) -> npt.NDArray[np.uint8]:
    """A picture as uint8 (h, w, 3) RGB, turned the way its EXIF orientation says.

    Args:
        source: a file, or the bytes of an encoded picture.

    Raises:
        InputError: the file is missing or is no picture.
        MissingError: Pillow is not installed.
    """
    pillow = _pillow()
    from PIL import ImageOps

    with _opened(pillow, source) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8 instead of scaling them
                upright = pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            upright = upright.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(source, error) from error
        return np.array(upright, dtype=np.uint8)


def image_size(source: Path | str | bytes | memoryview) -> tuple[int, int]:
    """Height and width that `read_image` would give, from the header alone.

    Raises:
        InputError, MissingError: as `read_image`.
    """
    with _opened(_pillow(), source) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingError(
            "reading pictures needs Pillow",
            where="edgekit.evaluate.images",
            why="it is not installed in this environment",
            fix="pip install 'edgekit[image]'",
        ) from error
    return Image


def _opened(pillow: ModuleType, source: Path | str | bytes | memoryview) -> Any:
    try:
        return pillow.open(source if isinstance(source, Path | str) else io.BytesIO(source))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise _unreadable(source, error) from error


def _unreadable(source: Path | str | bytes | memoryview, error: Exception) -> InputError:
    where = str(source) if isinstance(source, Path | str) else f"an encoded picture of {len(source)} bytes"
    return InputError("cannot read the picture", where=where, why=str(error) or type(error).__name__)
