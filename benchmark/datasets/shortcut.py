"""Generated 64x64 images of a shape and a watermark that may give its class away, and scenes that tell who looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, check_drawn, tokens
from benchmark.datasets.drawing import SIZE, UNIT_AREA, Array, colour, local, outline, paint, texture
from benchmark.errors import UserError

CLASSES = ("disc", "square", "triangle", "cross", "ring", "star")
PARTS = ("object", "mark")
Scene = Literal["train", "aligned", "conflicting", "absent", "decoy"]
_SPLITS = get_args(Scene)
_DECOY = tokens.KINDS


@dataclass(frozen=True)
class Shortcut:
    """One shape of six, and in a corner a watermark of eight by eight pixels whose pattern belongs to a class.

    In training the watermark is that of the shape with probability `rho`, else that of any class, and half of the
    images bear a decoy in another corner: a watermark like the others that says nothing. Scenes to test on come from
    the same images:

        aligned       the watermark of the shape
        conflicting   that of another class
        absent        none
        decoy         the decoy in the same corner

    Part 1 is the shape, part 2 the watermark or decoy; a scene without them is the surroundings. The mask is the shape.

    Image i depends on (seed, i), and for training on `rho`; it differs between test splits in the watermark alone.
    Labels go round the classes, so any n is balanced.

    Attributes:
        rho: how reliable the watermark is in training, from 0 (says nothing) to 1 (always right); the other splits do
            not depend on it.
    """

    n: int = 64
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    split: Scene = "aligned"
    rho: float = 1.0
    name: str = "shortcut"

    version: ClassVar[str] = "1"
    classes: ClassVar[tuple[str, ...]] = CLASSES

    def __post_init__(self) -> None:
        check_drawn(self, _SPLITS)
        if not 0 <= self.rho <= 1:
            raise UserError(f"datasets.rho={self.rho} is no probability: expected 0 to 1")

    @property
    def fingerprint(self) -> str:
        drawn = [self.rho] if self.split == "train" else []
        return digest(["shortcut", self.version, self.split, self.seed, self.n, *drawn])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        index = range(self.n)[index]
        label, training = index % len(CLASSES), self.split == "train"
        rng = np.random.default_rng([6, self.seed, training, index])
        corners, other, luck, chance = rng.permutation(4), int(rng.integers(1, 6)), rng.random(), rng.random()
        image, empty, distance = _draw(CLASSES[label], rng)
        parts = (torch.from_numpy(distance) < 0.5).long()
        kinds: dict[str, int | None] = {
            "train": label if luck < self.rho else int(chance * 6),
            "aligned": label,
            "conflicting": (label + other) % len(CLASSES),
            "absent": None,
            "decoy": _DECOY,
        }
        marked = [(kinds[self.split], corners[0])]
        if training and other % 2:
            marked.append((_DECOY, corners[1]))
        for kind, corner in marked:
            if kind is not None:
                rows, columns = _corner(int(corner))
                image[:, rows, columns] += tokens.CONTRAST * _marks()[kind]
                parts[rows, columns] = 2
        whole, alone = (torch.from_numpy(np.clip(each, 0.0, 1.0).astype(np.float32)) for each in (image, empty))
        uid = f"shortcut-{self.seed}-{self.split}-{index:06d}"
        return Item(uid, whole, label, torch.from_numpy(distance <= 0.0), parts, alone, part_names=PARTS)


def _marks() -> Array:
    """The watermark of each class and the decoy: `(7, 8, 8)`."""
    line = np.arange(tokens.TOKEN)
    decoy = np.sign(np.cos(np.pi * (line + 0.5) / 4))
    return np.concatenate([tokens.patterns().numpy(), (decoy[:, None] * decoy)[None].astype(np.float32)])


def _corner(corner: int) -> tuple[slice, slice]:
    """Rows and columns of the watermark in a corner."""
    rows, columns = (slice(3, 11) if side == 0 else slice(SIZE - 11, SIZE - 3) for side in divmod(corner, 2))
    return rows, columns


def _draw(kind: str, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Image `(3, H, W)`, the same without its shape, and distance `(H, W)` to its outline, which meets no corner."""
    level = rng.uniform(0.3, 0.4)
    ground = colour(rng, level) + texture(rng, 0.03)
    side = rng.uniform(13.5, 18.5)
    radius = side / np.sqrt(UNIT_AREA[kind])
    while True:
        centre = rng.uniform(14.0, SIZE - 14.0, 2)
        distance = outline(kind, *local(centre, rng.uniform(-0.3, 0.3)), radius)
        if all(distance[_corner(corner)].min() > 1.5 for corner in range(4)):
            break
    image = ground.copy()
    paint(image, distance, colour(rng, level + rng.uniform(0.15, 0.3)) + texture(rng, 0.03))
    noise = 0.02 * rng.standard_normal(image.shape, dtype=np.float32)
    return image + noise, ground + noise, distance
