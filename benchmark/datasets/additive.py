"""Generated 64x64 images of tokens on a grid, whose logits are sums of known weights: every contribution is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, Split, check_drawn, tokens

_SPLITS = get_args(Split)

WEIGHTS = torch.tensor(
    [
        [3.0, 1.0, 0.0, -1.0, -2.0, 2.0],
        [-1.0, 3.0, 1.0, 0.0, 2.0, -2.0],
        [1.0, -2.0, 3.0, 2.0, 0.0, -1.0],
        [-2.0, 0.0, -1.0, 3.0, 1.0, 2.0],
    ]
)
"""What a token of each kind (column) adds to each class (row)."""


@dataclass(frozen=True)
class Additive:
    """Six to ten tokens of six kinds on a grid of 4 x 4 cells; each adds its weight to the logit of each class.

    The logit of class c is the sum of `WEIGHTS[c, kind]` over the tokens, so the contribution of each token is known
    with its sign, also of those that speak against the class or not at all. The surroundings are flat, of a colour that
    is drawn anew for every image, and a scene is drawn without a token by leaving it out. The label is the class of the
    largest logit, which leads by 2 or more. The mask marks the tokens that speak for the label.

    Image i of a split depends on (seed, split, i) alone; labels go round the classes, so any n is balanced.

    Source: the design of AttributionLab (Zhang, Li, Khakzar & Navab 2023), drawn anew.
    """

    n: int = 64
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    split: Split = "test"
    name: str = "additive"

    version: ClassVar[str] = "1"
    classes: ClassVar[tuple[str, ...]] = ("north", "east", "south", "west")

    def __post_init__(self) -> None:
        check_drawn(self)

    @property
    def fingerprint(self) -> str:
        return digest(["additive", self.version, self.split, self.seed, self.n])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        index = range(self.n)[index]
        label = index % len(self.classes)
        rng = np.random.default_rng([3, self.seed, _SPLITS.index(self.split), index])
        cells, kinds = _placed(label, rng)
        image, empty, parts = tokens.scene(cells, kinds, rng)
        truth = tokens.spread(WEIGHTS[:, kinds], cells)
        uid = f"additive-{self.seed}-{self.split}-{index:06d}"
        return Item(uid, image, label, truth[label] > 0, parts, empty, truth)


def _placed(label: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Cells and kinds of tokens whose weights make `label` lead by 2 or more."""
    while True:
        count = int(rng.integers(6, 11))
        cells = rng.permutation(tokens.CELLS)[:count].tolist()
        kinds = rng.integers(0, tokens.KINDS, count).tolist()
        logits = WEIGHTS[:, kinds].sum(1)
        second, first = logits.sort().values[-2:].tolist()
        if int(logits.argmax()) == label and first - second >= 2:
            return cells, kinds
