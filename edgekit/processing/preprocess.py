"""From RGB pictures to the model's input tensor, and the way back for coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.processing.antialias import resample_antialiased
from edgekit.processing.resize import Pixels, check_image, resample
from edgekit.processing.scratch import scratch
from edgekit.spec import ImagePreprocess

Tensor = npt.NDArray[Any]

_RESAMPLERS = {("bilinear", False): resample, ("bilinear", True): resample_antialiased}


@dataclass(frozen=True)
class Placement:
    """Where a picture came to lie in the model's input: `input = picture * scale + offset`, in pixels.

    Attributes:
        scale_x, scale_y: input pixels a picture pixel, of the size that was really resized to.
        offset_x, offset_y: the picture's corner in the input; negative where it was cropped.
        height, width: of the picture.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    height: int
    width: int

    def to_picture(self, boxes: npt.NDArray[np.float32], clip: bool = True) -> npt.NDArray[np.float32]:
        """Boxes (n, 4), corners x1 y1 x2 y2 in input pixels, as pixels of the picture, with `clip` kept inside it."""
        x = (boxes[:, 0::2] - self.offset_x) / self.scale_x
        y = (boxes[:, 1::2] - self.offset_y) / self.scale_y
        if clip:
            x, y = np.clip(x, 0, self.width), np.clip(y, 0, self.height)
        return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float32, copy=False)


def prepare(spec: ImagePreprocess, image: Pixels) -> tuple[Tensor, Placement]:
    """One picture, uint8 (h, w, 3) RGB, as a tensor with a batch axis of 1.

    Raises:
        InputError: the picture has another dtype or shape.
    """
    tensor, placements = prepare_batch(spec, [image])
    return tensor, placements[0]


def prepare_batch(
    spec: ImagePreprocess, images: Sequence[Pixels], out: Tensor | None = None
) -> tuple[Tensor, list[Placement]]:
    """Pictures, uint8 (h, w, 3) RGB and each of its own size, as one tensor.

    Args:
        spec: what the model wants.
        images: the pictures.
        out: the tensor of an earlier call, to be overwritten; used if it fits. Fresh memory takes time to map.

    Returns:
        (n, 3, height, width) or (n, height, width, 3) of dtype `spec.dtype`, and where each picture lies in it.

    Raises:
        InputError: a picture has another dtype or shape.
    """
    planar = spec.layout == "nchw"
    shape = (3, spec.height, spec.width) if planar else (spec.height, spec.width, 3)
    fits = out is not None and out.shape == (len(images), *shape) and out.dtype == spec.dtype
    tensor = out if out is not None and fits else np.empty((len(images), *shape), spec.dtype)
    resampled = _RESAMPLERS[spec.resampler, spec.antialias]
    placements = []
    for image, canvas in zip(images, tensor, strict=True):
        check_image(image)
        fit = _fit(spec, image.shape[0], image.shape[1])
        memory = scratch("picture", 3 * fit.height * fit.width, np.uint8)
        picture = resampled(image, fit.height, fit.width, planar=planar, reverse=spec.colour == "bgr", out=memory)
        if planar:
            _paint(spec, fit, picture, canvas)
        elif spec.dtype == "uint8":
            _paint_interleaved(spec, fit, picture, canvas)
        else:
            _paint(spec, fit, np.moveaxis(picture, 2, 0), np.moveaxis(canvas, 2, 0))
        placements.append(fit.placement)
    return tensor, placements


@dataclass(frozen=True)
class _Fit:
    """The size resized to, which part of that is used, and which part of the canvas it covers."""

    height: int
    width: int
    source: tuple[slice, slice]
    target: tuple[slice, slice]
    placement: Placement


@lru_cache(maxsize=64)
def _fit(spec: ImagePreprocess, height: int, width: int) -> _Fit:
    """Sizes are `int(side * scale + 0.5)`, at least 1, as mmcv's `rescale_size` has them (FemtoDet's test pipeline)."""
    ratios = spec.height / height, spec.width / width
    if spec.resize == "stretch":
        new_height, new_width = spec.height, spec.width
    else:
        scale = min(ratios) if spec.resize == "letterbox" else max(ratios)
        new_height, new_width = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    centred = spec.resize == "crop" or spec.anchor == "center"
    top = (spec.height - new_height) // 2 if centred else 0
    left = (spec.width - new_width) // 2 if centred else 0
    vertical, horizontal = _overlap(top, new_height, spec.height), _overlap(left, new_width, spec.width)
    return _Fit(
        new_height,
        new_width,
        source=(vertical[0], horizontal[0]),
        target=(vertical[1], horizontal[1]),
        placement=Placement(new_width / width, new_height / height, left, top, height, width),
    )


def _overlap(offset: int, size: int, canvas: int) -> tuple[slice, slice]:
    """Which part of `size` pixels that begin at `offset` is seen on `canvas` pixels, and where."""
    first, stop = max(0, offset), min(canvas, offset + size)
    return slice(first - offset, stop - offset), slice(first, stop)


def _paint(spec: ImagePreprocess, fit: _Fit, picture: Pixels, canvas: Tensor) -> None:
    """Channels first: pad and, for float32, normalise. The padding is a colour, so it is normalised too.

    `mean` and `std` stand in the order of the tensor's channels: blue first where `colour` is `bgr`.
    """
    for plane, part, mean, std in zip(canvas, picture, spec.mean, spec.std, strict=True):
        target, source = plane[fit.target], part[fit.source]
        if spec.dtype == "uint8":
            target[...] = source
            _pad(plane, fit.target, spec.pad_value)
            continue
        if mean == 0:
            np.multiply(source, 1 / std, out=target, dtype=np.float32)
        else:
            np.subtract(source, mean, out=target, dtype=np.float32)
            np.multiply(target, np.float32(1 / std), out=target)
        _pad(plane, fit.target, (spec.pad_value - mean) / std)


def _paint_interleaved(spec: ImagePreprocess, fit: _Fit, picture: Pixels, canvas: Tensor) -> None:
    """Channels last, uint8: whole pixels are copied."""
    canvas[fit.target] = picture[fit.source]
    _pad(canvas, fit.target, spec.pad_value)


def _pad(canvas: Tensor, covered: tuple[slice, slice], value: float) -> None:
    """Fill what is not covered of the first two axes."""
    rows, columns = covered
    canvas[: rows.start] = value
    canvas[rows.stop :] = value
    canvas[rows, : columns.start] = value
    canvas[rows, columns.stop :] = value
