"""Generated 64x64 images of a faint figure in correlated noise, in which pixels help without meaning anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, Split, check_drawn
from benchmark.datasets.drawing import SIZE, Array

SIGNAL = 0.12
"""How far the pixels of a figure rise above the noise; one standard deviation of the noise is 0.15."""
SMOOTH = 5.0
"""Width of the Gaussian that correlates the noise, in pixels."""
CORRELATED = 0.1
"""Correlation with a pixel of a figure from which on a pixel counts as a suppressor."""
PARTS = ("figure", "suppressors")
_SPLITS = get_args(Split)
_FIGURES = {
    # Tetrominoes of cells of eight pixels, row and column of each cell.
    "T": ((1, 1), (1, 2), (1, 3), (2, 2)),
    "L": ((4, 5), (5, 5), (6, 5), (6, 6)),
}


@dataclass(frozen=True)
class Suppressor:
    """A T in the upper left or an L in the lower right, barely visible in smooth noise; the figure is the class.

    Noise is correlated between neighbours, so a model that knows it beside a figure can subtract it from the figure:
    pixels there suppress noise. They hold no information of the class by themselves, and a method that marks them is
    faithful to the model and wrong about the world; so precision and false alarms are two columns.

    The mask marks both figures, where images of the two classes differ. Part 1 is the figure that is there, part 2 the
    suppressors, pixels whose noise correlates by more than 0.1 with that of a pixel of either figure; the scene without
    its parts is the noise, from which suppressors do not differ.

    Image i of a split depends on (seed, split, i) alone; labels go round the classes, so any n is balanced.

    Source: the design of XAI-TRIS (Clark, Wilming & Haufe 2023, arXiv:2306.12816), drawn anew.
    """

    n: int = 64
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    split: Split = "test"
    name: str = "suppressor"

    version: ClassVar[str] = "1"
    classes: ClassVar[tuple[str, ...]] = tuple(_FIGURES)

    def __post_init__(self) -> None:
        check_drawn(self)

    @property
    def fingerprint(self) -> str:
        return digest(["suppressor", self.version, self.split, self.seed, self.n])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        index = range(self.n)[index]
        label = index % 2
        rng = np.random.default_rng([7, self.seed, _SPLITS.index(self.split), index])
        figures = [figure(kind) for kind in _FIGURES]
        noise = 0.45 + 0.15 * _noise(rng)
        image = np.clip(noise + SIGNAL * figures[label], 0.0, 1.0)
        empty = np.where(figures[label], np.clip(noise, 0.0, 1.0), image)
        mask = figures[0] | figures[1]
        parts = 2 * suppressors() * ~mask + figures[label]
        drawn, alone = (torch.from_numpy(each.astype(np.float32)).unsqueeze(0) for each in (image, empty))
        uid = f"suppressor-{self.seed}-{self.split}-{index:06d}"
        return Item(uid, drawn, label, torch.from_numpy(mask), torch.from_numpy(parts), alone, part_names=PARTS)


def figure(kind: str) -> NDArray[np.bool_]:
    """Where a figure is, bool `(H, W)`."""
    found = np.zeros((SIZE // 8, SIZE // 8), bool)
    for row, column in _FIGURES[kind]:
        found[row, column] = True
    return found.repeat(8, 0).repeat(8, 1)


def _noise(rng: np.random.Generator) -> Array:
    """Smooth noise `(H, W)` of variance 1 that has no border."""
    spread = gaussian_filter(np.eye(1, SIZE**2).reshape(SIZE, SIZE), SMOOTH, mode="wrap")
    smooth: Array = gaussian_filter(rng.standard_normal((SIZE, SIZE)), SMOOTH, mode="wrap") / np.linalg.norm(spread)
    return smooth


@cache
def suppressors() -> NDArray[np.bool_]:
    """Pixels whose noise correlates with that of a pixel of a figure, of either, bool `(H, W)`."""
    spread = gaussian_filter(np.eye(1, SIZE**2).reshape(SIZE, SIZE), SMOOTH, mode="wrap")
    # Of white noise under a kernel k, the correlation at a distance is the autocorrelation of k there.
    correlation = np.fft.ifft2(np.abs(np.fft.fft2(spread)) ** 2).real / (spread**2).sum()
    near = np.argwhere(correlation > CORRELATED)
    found = np.zeros((SIZE, SIZE), bool)
    for row, column in np.argwhere(figure("T") | figure("L")):
        found[(row + near[:, 0]) % SIZE, (column + near[:, 1]) % SIZE] = True
    return found
