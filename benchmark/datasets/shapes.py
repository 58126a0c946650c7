"""Generated 64x64 colour images of one shape each, with the exact mask of the shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, Split, check_options
from benchmark.errors import UserError

Array = NDArray[np.floating]

SIZE = 64
CLASSES = ("disc", "square", "triangle", "cross", "ring", "star")
_SPLITS = get_args(Split)
_SPECKS = 3
# Area of each outline at unit radius: shapes of one size class cover the same area, so area does not tell the class.
_UNIT_AREA = {"disc": np.pi, "square": 4.0, "triangle": 1.299, "cross": 2.24, "ring": 2.19, "star": 1.323}


@dataclass(frozen=True)
class Shapes:
    """One shape on a textured, cluttered background; its outline is the class and nothing else tells it.

    Colour, size, place, tilt, contrast and texture are drawn independently of the class, and all shapes of one size
    cover the same area. The shape is always somewhat brighter than what surrounds it. A blunt bar about as bright
    and darker strokes belong to no class, and neither do the few specks that are brighter than everything else: they
    keep maps that never look at the model (intensity, edges) from winning the pointing game. Places favour the border,
    because whole shapes drawn evenly would cover the centre four times as often as the average pixel.

    Image i of a split depends on (seed, split, i) alone; labels go round the classes, so any n is balanced.
    """

    n: int = 64
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    split: Split = "test"
    name: str = "shapes"

    version: ClassVar[str] = "1"
    classes: ClassVar[tuple[str, ...]] = CLASSES

    def __post_init__(self) -> None:
        check_options(self)
        if self.n is None:
            raise UserError("datasets.n=null asks for all shapes, which have no end: give a number")
        if self.split not in _SPLITS:
            raise UserError(f"datasets.split={self.split} is unknown: expected one of {', '.join(_SPLITS)}")

    @property
    def fingerprint(self) -> str:
        return digest(["shapes", self.version, self.split, self.seed, self.n])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        index = range(self.n)[index]
        label = index % len(CLASSES)
        image, mask = _draw(CLASSES[label], np.random.default_rng([self.seed, _SPLITS.index(self.split), index]))
        uid = f"shapes-{self.seed}-{self.split}-{index:06d}"
        return Item(uid, torch.from_numpy(image), label, torch.from_numpy(mask))


def _draw(kind: str, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
    """Image `(3, H, W)` in [0, 1] and mask `(H, W)` of one shape."""
    level = rng.uniform(0.2, 0.4)
    contrast = rng.uniform(0.25, 0.4)
    image = _colour(rng, level) + _texture(rng, 0.04)
    for _ in range(3):
        centre = rng.uniform(0, SIZE, 2)
        _paint(image, _bar(rng, centre, 2.0), _colour(rng, level - rng.uniform(0.05, 0.15)))

    side = rng.uniform(13.5, 21.5)
    margin = 1.5 + side / np.sqrt(_UNIT_AREA["triangle"])  # the widest shape of this area fits, so all do
    centre = margin + (SIZE - 2 * margin) * rng.beta(0.25, 0.25, 2)
    away = (centre + rng.uniform(20, 44, 2)) % SIZE
    _paint(image, _bar(rng, away, 5.0), _colour(rng, level + contrast * rng.uniform(0.75, 1.15)))
    distance = _outline(kind, *_local(centre, rng.uniform(-0.3, 0.3)), side / np.sqrt(_UNIT_AREA[kind]))
    _paint(image, distance, _colour(rng, level + contrast) + _texture(rng, 0.03))

    image += 0.02 * rng.standard_normal(image.shape, dtype=np.float32)
    for row, column in rng.integers(0, SIZE - 1, (_SPECKS, 2)):
        image[:, row : row + 2, column : column + 2] = 1.0
    return np.clip(image, 0.0, 1.0).astype(np.float32), distance <= 0.0


def _outline(kind: str, x: Array, y: Array, radius: float) -> Array:
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


def _bar(rng: np.random.Generator, centre: NDArray[np.float64], width: float) -> Array:
    """Signed distance to a bar with round ends, about `2 * width` pixels wide."""
    x, y = _local(centre, rng.uniform(0, np.pi))
    return np.hypot(np.maximum(np.abs(x) - rng.uniform(5, 10), 0), y) - width * rng.uniform(0.7, 1.2)


def _paint(image: Array, distance: Array, colour: Array) -> None:
    cover = np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)
    image += cover * (colour - image)


def _colour(rng: np.random.Generator, level: float) -> Array:
    """Colour `(3, 1, 1)` of random hue and saturation whose channels average to `level`."""
    phases = rng.uniform(0, 2 * np.pi) + np.array([0.0, 2.0, 4.0]) * np.pi / 3
    return (level + rng.uniform(0.0, 0.15) * np.cos(phases)).astype(np.float32).reshape(3, 1, 1)


def _texture(rng: np.random.Generator, strength: float) -> Array:
    """Smooth coloured noise `(3, H, W)` of two scales around 0."""
    total = np.zeros((3, SIZE, SIZE), np.float32)
    for cells in (5, 16):
        grid = _interpolation(cells)
        total += (
            (1 + _colour(rng, 0.0)) * strength * (grid @ rng.standard_normal((cells, cells), dtype=np.float32) @ grid.T)
        )
    return total


def _local(centre: NDArray[np.float64], tilt: float) -> tuple[Array, Array]:
    """Coordinates (x, y) of every pixel in a frame at `centre`, turned by `tilt` radians."""
    line = np.arange(SIZE, dtype=np.float32)
    y, x = line[:, None] - float(centre[0]), line - float(centre[1])
    return np.cos(tilt) * x + np.sin(tilt) * y, np.cos(tilt) * y - np.sin(tilt) * x


@cache
def _interpolation(cells: int) -> Array:
    """Matrix `(SIZE, cells)` that interpolates linearly between `cells` values."""
    places = np.linspace(0, cells - 1, SIZE)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(places - np.arange(cells))).astype(np.float32)
