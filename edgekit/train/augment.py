"""Training pictures: random zoom, shift, quarter turns, flips, colour, and mosaics of four, as one warp a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.train.losses import Truth

PAD = 114.0
MIN_SIDE = 4.0  # pixels: smaller remains of a cropped box are not an object any more
MIN_VISIBLE = 0.3  # of the box's area


@dataclass(frozen=True)
class Picture:
    """A training picture, uint8 RGB (3, height, width), and its boxes."""

    pixels: Tensor
    truth: Truth


@dataclass(frozen=True)
class Augmentation:
    """How far a picture may be changed; `Augmentation.none()` only letterboxes."""

    mosaic: float = 0.5  # probability
    zoom: tuple[float, float] = (0.6, 1.5)
    shift: float = 0.15  # of the side
    dihedral: bool = True  # flips and quarter turns
    colour: float = 0.15  # multiplicative gain of brightness and of each channel

    @staticmethod
    def none() -> Augmentation:
        """Letterbox only, as at test time."""
        return Augmentation(mosaic=0.0, zoom=(1.0, 1.0), shift=0.0, dihedral=False, colour=0.0)


def compose(
    pictures: list[Picture], index: int, size: int, how: Augmentation, random: torch.Generator
) -> tuple[Tensor, Truth]:
    """One training sample from `pictures[index]`, and three random others where it becomes a mosaic.

    Returns:
        The picture, float32 (3, size, size) in 0 to 255, and its boxes in pixels of that picture.
    """
    if _uniform(random) >= how.mosaic:
        pixels, truth = _warp(_turn(pictures[index], how, random), size, how, random)
        return _recolour(pixels, how, random), truth
    others = torch.randint(len(pictures), (3,), generator=random).tolist()
    half = size // 2
    canvas = torch.full((3, size, size), PAD)
    boxes, labels = [], []
    for place, source in enumerate([index, *others]):
        pixels, truth = _warp(_turn(pictures[source], how, random), half, how, random)
        top, left = place // 2 * half, place % 2 * half
        canvas[:, top : top + half, left : left + half] = pixels
        boxes.append(truth.boxes + torch.tensor([left, top, left, top]))
        labels.append(truth.labels)
    return _recolour(canvas, how, random), Truth(torch.cat(boxes), torch.cat(labels))


def _turn(picture: Picture, how: Augmentation, random: torch.Generator) -> Picture:
    """One of the eight symmetries of the square, exactly."""
    if not how.dihedral:
        return picture
    pixels, boxes = picture.pixels, picture.truth.boxes
    flip, flop, transpose = (torch.rand(3, generator=random) < 0.5).tolist()
    height, width = pixels.shape[1:]
    if flip:
        pixels, boxes = pixels.flip(2), boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1])
        boxes = boxes + torch.tensor([width, 0, width, 0])
    if flop:
        pixels, boxes = pixels.flip(1), boxes[:, [0, 3, 2, 1]] * torch.tensor([1, -1, 1, -1])
        boxes = boxes + torch.tensor([0, height, 0, height])
    if transpose:
        pixels, boxes = pixels.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
    return Picture(pixels, Truth(boxes, picture.truth.labels))


def _warp(picture: Picture, size: int, how: Augmentation, random: torch.Generator) -> tuple[Tensor, Truth]:
    """Letterbox (top left) to `size`, zoomed about the centre and shifted; outside is grey."""
    height, width = picture.pixels.shape[1:]
    low, high = how.zoom
    zoom = low + (high - low) * _uniform(random)
    scale = size / max(height, width) * zoom
    centering = 0.0 if zoom == 1.0 else 1.0
    shift_x = how.shift * size * (2 * _uniform(random) - 1) + centering * (size - width * scale) / 2
    shift_y = how.shift * size * (2 * _uniform(random) - 1) + centering * (size - height * scale) / 2

    # grid_sample wants, for each output pixel centre, the source position in -1..1
    column = (torch.arange(size) + 0.5 - shift_x) / (scale * width) * 2 - 1
    row = (torch.arange(size) + 0.5 - shift_y) / (scale * height) * 2 - 1
    grid = torch.stack(torch.meshgrid(column, row, indexing="xy"), dim=-1)
    source = picture.pixels[None].float() - PAD
    pixels = F.grid_sample(source, grid[None], padding_mode="zeros", align_corners=False)[0] + PAD
    offset = torch.tensor([shift_x, shift_y, shift_x, shift_y])
    return pixels, _clip(picture.truth.boxes * scale + offset, picture.truth.labels, size)


def _clip(boxes: Tensor, labels: Tensor, size: int) -> Truth:
    """Boxes cut to the picture; those that are mostly outside are dropped."""
    clipped = boxes.clamp(0, size)
    side = clipped[:, 2:] - clipped[:, :2]
    visible = side.prod(dim=1) / (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=1e-6)
    keep = (side.min(dim=1).values > MIN_SIDE) & (visible > MIN_VISIBLE)
    return Truth(clipped[keep], labels[keep])


def _recolour(pixels: Tensor, how: Augmentation, random: torch.Generator) -> Tensor:
    if how.colour == 0.0:
        return pixels
    gain = 1 + how.colour * (2 * torch.rand(3, 1, 1, generator=random) - 1)
    brightness = 1 + how.colour * (2 * _uniform(random) - 1)
    return (pixels * gain * brightness).clamp(0, 255)


def _uniform(random: torch.Generator) -> float:
    return float(torch.rand(1, generator=random))
