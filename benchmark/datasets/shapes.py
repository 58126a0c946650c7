"""Generated 64x64 colour images of one shape each, with the exact mask of the shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, Split, check_drawn
from benchmark.datasets.drawing import SIZE, UNIT_AREA, Array, bar, colour, local, outline, paint, texture

CLASSES = ("disc", "square", "triangle", "cross", "ring", "star")
_SPLITS = get_args(Split)
_SPECKS = 3


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
        check_drawn(self)

    @property
    def fingerprint(self) -> str:
        return digest(["shapes", self.version, self.split, self.seed, self.n])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        index = range(self.n)[index]
        label = index % len(CLASSES)
        rng = np.random.default_rng([self.seed, _SPLITS.index(self.split), index])
        image, empty, distance = (torch.from_numpy(each) for each in _draw(CLASSES[label], rng))
        uid = f"shapes-{self.seed}-{self.split}-{index:06d}"
        # Edges are smooth, so the shape has touched half a pixel more than its mask.
        return Item(
            uid, image, label, distance <= 0.0, parts=(distance < 0.5).long(), empty=empty, part_names=("object",)
        )


def _draw(kind: str, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Image `(3, H, W)` in [0, 1], the same without its shape, and the signed distance `(H, W)` to its outline."""
    level = rng.uniform(0.2, 0.4)
    contrast = rng.uniform(0.25, 0.4)
    image = colour(rng, level) + texture(rng, 0.04)
    for _ in range(3):
        centre = rng.uniform(0, SIZE, 2)
        paint(image, bar(rng, centre, 2.0), colour(rng, level - rng.uniform(0.05, 0.15)))

    side = rng.uniform(13.5, 21.5)
    margin = 1.5 + side / np.sqrt(UNIT_AREA["triangle"])  # the widest shape of this area fits, so all do
    centre = margin + (SIZE - 2 * margin) * rng.beta(0.25, 0.25, 2)
    away = (centre + rng.uniform(20, 44, 2)) % SIZE
    paint(image, bar(rng, away, 5.0), colour(rng, level + contrast * rng.uniform(0.75, 1.15)))
    distance = outline(kind, *local(centre, rng.uniform(-0.3, 0.3)), side / np.sqrt(UNIT_AREA[kind]))
    empty = image.copy()
    paint(image, distance, colour(rng, level + contrast) + texture(rng, 0.03))

    noise = 0.02 * rng.standard_normal(image.shape, dtype=np.float32)
    specks = rng.integers(0, SIZE - 1, (_SPECKS, 2))
    for picture in (image, empty):
        picture += noise
        for row, column in specks:
            picture[:, row : row + 2, column : column + 2] = 1.0
    whole, without = (np.clip(picture, 0.0, 1.0).astype(np.float32) for picture in (image, empty))
    return whole, without, distance
