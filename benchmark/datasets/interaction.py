"""Generated 64x64 images in which two tokens act together: AND, OR or XOR, with the Shapley value of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, Split, check_drawn, tokens
from benchmark.errors import UserError, unknown

Gate = Literal["and", "or", "xor"]
_SPLITS = get_args(Split)
_TRUE = {"and": {3}, "or": {1, 2, 3}, "xor": {1, 2}}
"""Which of (neither, the first, the second, both) make a gate true."""


@dataclass(frozen=True)
class Interaction:
    """A scene of tokens whose class is `on` where a gate of two of their kinds is true, else `off`.

    Each of the two kinds is there at most once, among three to seven tokens of four other kinds that mean nothing. With
    v(S) = 1 where the gate is true of the tokens in S, the contribution of a token to `on` is its Shapley value: 1/2
    each for AND and OR of both, 0 each for XOR of both, 1 for OR and XOR of a single one, 0 for AND of a single one; to
    `off` it is the opposite. The mask marks both kinds.

    Image i of a split depends on (seed, split, i) alone; labels go round the classes, so any n is balanced.

    Attributes:
        gate: `and`, `or` or `xor`.
    """

    gate: Gate = "and"
    n: int = 64
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    split: Split = "test"
    name: str = "interaction"

    version: ClassVar[str] = "1"
    classes: ClassVar[tuple[str, ...]] = ("off", "on")

    def __post_init__(self) -> None:
        check_drawn(self)
        if self.gate not in _TRUE:
            raise UserError(unknown("datasets.gate=", self.gate, _TRUE))

    @property
    def fingerprint(self) -> str:
        return digest(["interaction", self.version, self.gate, self.split, self.seed, self.n])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Item:
        index = range(self.n)[index]
        label = index % 2
        rng = np.random.default_rng([4, self.seed, _SPLITS.index(self.split), index])
        true = _TRUE[self.gate]
        state = int(rng.choice(sorted(true if label else set(range(4)) - true)))
        actors = [kind for kind in (0, 1) if state >> kind & 1]
        kinds = actors + rng.integers(2, tokens.KINDS, int(rng.integers(3, 8))).tolist()
        cells = rng.permutation(tokens.CELLS)[: len(kinds)].tolist()
        image, empty, parts = tokens.scene(cells, kinds, rng)
        worth = torch.zeros(2, len(kinds))
        worth[1, : len(actors)] = (state in true) / max(1, len(actors))
        worth[0] = -worth[1]
        uid = f"interaction-{self.gate}-{self.seed}-{self.split}-{index:06d}"
        mask = (parts > 0) & (parts <= len(actors))
        return Item(uid, image, label, mask, parts, empty, tokens.spread(worth, cells))
