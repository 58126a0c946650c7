"""Generated 64x64 images of a shape on a texture: labelled by one or by the other, so that two models see the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, Split, check_drawn
from benchmark.datasets.drawing import SIZE, UNIT_AREA, Array, colour, local, outline, paint, texture
from benchmark.errors import UserError, unknown

Label = Literal["shape", "texture"]
SHAPES = ("disc", "square", "triangle", "cross", "ring", "star")
TEXTURES = ("rows", "columns", "diagonals", "checks", "dots", "waves")
_SPLITS = get_args(Split)


@dataclass(frozen=True)
class DualLabel:
    """One shape of six on one texture of six, drawn independently; `label` says which of the two is the class.

    The images are the same for both labels. A model of one label has no use for the other half of the picture, so a
    faithful map of the model of shapes has more on the shape than that of the model of textures. The mask is the place
    of what is labelled: the shape, or all around it. A scene without its part is the texture alone.

    Image i of a split depends on (seed, split, i) alone; either label goes round its classes, so any n is balanced.

    Source: the design of BAM (Yang & Kim 2019, arXiv:1907.09701), drawn anew.

    Attributes:
        label: `shape` or `texture`.
    """

    label: Label = "shape"
    n: int = 64
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    split: Split = "test"
    name: str = "dual_label"

    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        check_drawn(self)
        if self.label not in get_args(Label):
            raise UserError(unknown("datasets.label=", self.label, get_args(Label)))

    @property
    def classes(self) -> tuple[str, ...]:
        return SHAPES if self.label == "shape" else TEXTURES

    @property
    def fingerprint(self) -> str:
        return digest(["dual_label", self.version, self.label, self.split, self.seed, self.n])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        index = range(self.n)[index]
        rng = np.random.default_rng([5, self.seed, _SPLITS.index(self.split), index])
        # Each of 36 pairs in 36 images, and both labels go round.
        shape, pattern = index % 6, (index + index // 6) % 6
        image, empty, distance = (torch.from_numpy(each) for each in _draw(SHAPES[shape], TEXTURES[pattern], rng))
        mask = distance <= 0.0
        return Item(
            f"dual_label-{self.seed}-{self.split}-{index:06d}",
            image,
            shape if self.label == "shape" else pattern,
            mask if self.label == "shape" else ~mask,
            parts=(distance < 0.5).long(),
            empty=empty,
            part_names=("object",),
        )


def _draw(shape: str, pattern: str, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Image `(3, H, W)` in [0, 1], its texture alone, and the signed distance `(H, W)` to the outline of the shape."""
    level = rng.uniform(0.25, 0.45)
    tint = colour(rng, 0.0)
    ground = colour(rng, level) + (1 + tint) * rng.uniform(0.12, 0.18) * _pattern(pattern, rng) + texture(rng, 0.02)
    side = rng.uniform(15.0, 21.5)
    margin = 1.5 + side / np.sqrt(UNIT_AREA["triangle"])
    centre = margin + (SIZE - 2 * margin) * rng.random(2)
    distance = outline(shape, *local(centre, rng.uniform(-0.3, 0.3)), side / np.sqrt(UNIT_AREA[shape]))
    image = ground.copy()
    paint(image, distance, colour(rng, level + rng.uniform(0.3, 0.45)) + texture(rng, 0.03))
    noise = 0.02 * rng.standard_normal(image.shape, dtype=np.float32)
    whole, alone = (np.clip(picture + noise, 0.0, 1.0).astype(np.float32) for picture in (image, ground))
    return whole, alone, distance


def _pattern(kind: str, rng: np.random.Generator) -> Array:
    """A texture `(H, W)` between -1 and 1, of a period of 7 to 11 pixels that begins anywhere."""
    scale = 2 * np.pi / rng.uniform(7.0, 11.0)
    y, x = (scale * np.arange(SIZE, dtype=np.float32) + rng.uniform(0, 2 * np.pi) for _ in range(2))
    down, across = np.broadcast_arrays(y[:, None], x[None])
    if kind == "rows":
        found = np.sin(down)
    elif kind == "columns":
        found = np.sin(across)
    elif kind == "diagonals":
        found = np.sin((down + across) / np.sqrt(2))
    elif kind == "checks":
        found = np.sign(np.sin(down) * np.sin(across))
    elif kind == "dots":
        found = np.where(np.sin(down) + np.sin(across) > 1.0, 1.0, -0.5)
    else:
        found = np.sin(down + 1.5 * np.sin(across / 2))
    return found.astype(np.float32)
