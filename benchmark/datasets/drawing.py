"""Brushes of the data sets that are drawn: outlines by signed distance, colours, smooth textures."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

SIZE = 64
"""Height and width of an image."""

# Area of each outline at unit radius: shapes of one size class cover the same area, so area does not tell the class.
UNIT_AREA = {"disc": np.pi, "square": 4.0, "triangle": 1.299, "cross": 2.24, "ring": 2.19, "star": 1.323}


def outline(kind: str, x: Array, y: Array, radius: float) -> Array:
    """Signed distance to the outline in pixels, negative inside; exact near the edges, which is all painting needs."""
    if kind == "disc":
        return np.hypot(x, y) - radius
    if kind == "ring":
        return np.abs(np.hypot(x, y) - 0.775 * radius) - 0.225 * radius
    if kind == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius
    if kind == "triangle":
        return np.maximum(y, np.sqrt(0.75) * np.abs(x) - 0.5 * y) - 0.5 * radius
    if kind == "cross":
        arm = np.minimum(np.abs(x), np.abs(y)) - 0.337 * radius
        return np.maximum(arm, np.maximum(np.abs(x), np.abs(y)) - radius)
    fold = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fold) % (2 * fold) - fold)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    inner = 0.45 * radius
    edge = np.array([inner * np.cos(fold) - radius, inner * np.sin(fold)])
    return (edge[1] * (along - radius) - edge[0] * across) / np.hypot(*edge)


def bar(rng: np.random.Generator, centre: NDArray[np.float64], width: float) -> Array:
    """Signed distance to a bar with round ends, about `2 * width` pixels wide."""
    x, y = local(centre, rng.uniform(0, np.pi))
    return np.hypot(np.maximum(np.abs(x) - rng.uniform(5, 10), 0), y) - width * rng.uniform(0.7, 1.2)


def paint(image: Array, distance: Array, colour: Array) -> None:
    cover = np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)
    image += cover * (colour - image)


def colour(rng: np.random.Generator, level: float) -> Array:
    """Colour `(3, 1, 1)` of random hue and saturation whose channels average to `level`."""
    phases = rng.uniform(0, 2 * np.pi) + np.array([0.0, 2.0, 4.0]) * np.pi / 3
    return (level + rng.uniform(0.0, 0.15) * np.cos(phases)).astype(np.float32).reshape(3, 1, 1)


def texture(rng: np.random.Generator, strength: float) -> Array:
    """Smooth coloured noise `(3, H, W)` of two scales around 0."""
    total = np.zeros((3, SIZE, SIZE), np.float32)
    for cells in (5, 16):
        grid = interpolation(cells)
        total += (
            (1 + colour(rng, 0.0)) * strength * (grid @ rng.standard_normal((cells, cells), dtype=np.float32) @ grid.T)
        )
    return total


def local(centre: NDArray[np.float64], tilt: float) -> tuple[Array, Array]:
    """Coordinates (x, y) of every pixel in a frame at `centre`, turned by `tilt` radians."""
    line = np.arange(SIZE, dtype=np.float32)
    y, x = line[:, None] - float(centre[0]), line - float(centre[1])
    return np.cos(tilt) * x + np.sin(tilt) * y, np.cos(tilt) * y - np.sin(tilt) * x


@cache
def interpolation(cells: int) -> Array:
    """Matrix `(SIZE, cells)` that interpolates linearly between `cells` values."""
    places = np.linspace(0, cells - 1, SIZE)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(places - np.arange(cells))).astype(np.float32)
