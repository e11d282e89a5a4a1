"""Draws a blood-smear-like picture with known cells, so that a fresh checkout has something real to run on.

It is drawn, and reports say so: it stands for no data set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HEIGHT, WIDTH = 480, 640  # as in BCCD, whose look it imitates
BACKGROUND = (206.0, 196.0, 202.0)
RED_RIM, RED_CENTER = (203.0, 150.0, 158.0), (224.0, 188.0, 190.0)
CYTOPLASM, NUCLEUS = (188.0, 150.0, 186.0), (112.0, 66.0, 148.0)


@dataclass(frozen=True)
class Smear:
    """A drawn picture, uint8 RGB (480, 640, 3), and what is on it.

    Attributes:
        boxes: float32 (n, 4), corners in pixels.
        labels: the class names, `RBC` or `WBC`, one a box.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: tuple[str, ...]


def draw_smear(seed: int = 0, red_cells: int = 9) -> Smear:
    """A white cell and up to `red_cells` red cells that do not touch."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    image = np.empty((HEIGHT, WIDTH, 3))
    image[:] = BACKGROUND
    image += 5 * np.sin(x / 170 + random.uniform(0, 6))[..., None]
    placed: list[tuple[float, float, float]] = []
    labels = []
    for kind, radius in [("WBC", random.uniform(74, 84)), *(("RBC", random.uniform(45, 52)) for _ in range(red_cells))]:
        spot = _free_spot(random, placed, radius)
        if spot is not None:
            placed.append((*spot, radius))
            labels.append(kind)
            (_paint_white if kind == "WBC" else _paint_red)(image, x - spot[0], y - spot[1], radius, random)
    image += random.normal(0, 2.0, image.shape)
    boxes = [[cx - r, cy - r, cx + r, cy + r] for cx, cy, r in placed]
    return Smear(image.clip(0, 255).astype(np.uint8), np.asarray(boxes, np.float32), tuple(labels))


def _free_spot(
    random: np.random.Generator, placed: list[tuple[float, float, float]], radius: float
) -> tuple[float, float] | None:
    for _ in range(200):
        cx = random.uniform(radius + 4, WIDTH - radius - 4)
        cy = random.uniform(radius + 4, HEIGHT - radius - 4)
        if all(np.hypot(cx - px, cy - py) > radius + pr + 6 for px, py, pr in placed):
            return cx, cy
    return None


def _paint_red(image: np.ndarray, dx: np.ndarray, dy: np.ndarray, radius: float, random: np.random.Generator) -> None:
    """A disc with a pale centre."""
    distance = np.hypot(dx, dy) / radius
    pallor = np.exp(-((distance / random.uniform(0.42, 0.52)) ** 2))[..., None]
    _blend(image, np.asarray(RED_RIM) * (1 - pallor) + np.asarray(RED_CENTER) * pallor, _inside(distance, radius))


def _paint_white(image: np.ndarray, dx: np.ndarray, dy: np.ndarray, radius: float, random: np.random.Generator) -> None:
    """Pale cytoplasm around a dark nucleus of three lobes."""
    _blend(image, np.asarray(CYTOPLASM), _inside(np.hypot(dx, dy) / radius, radius))
    start = random.uniform(0, 2 * np.pi)
    for angle in start + np.array([0.0, 2.1, 4.2]):
        lobe = np.hypot(dx - 0.34 * radius * np.cos(angle), dy - 0.34 * radius * np.sin(angle)) / (0.5 * radius)
        _blend(image, np.asarray(NUCLEUS), _inside(lobe, 0.5 * radius))


def _inside(distance: np.ndarray, radius: float) -> np.ndarray:
    """1 inside, 0 outside, with an edge about three pixels wide."""
    return (1 / (1 + np.exp((distance - 1) * radius / 1.2)))[..., None]


def _blend(image: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    image += alpha * (colour - image)
