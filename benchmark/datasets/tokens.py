"""Scenes of tokens on a grid: eight by eight pixels each, in the middle of a cell, on flat surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.drawing import SIZE

CELL = 16
"""Side of a cell of the grid in pixels."""
TOKEN = 8
"""Side of a token in pixels."""
CONTRAST = 0.3
"""How far the pixels of a token lie above and below their surroundings."""
KINDS = 6
CELLS = (SIZE // CELL) ** 2


def patterns() -> Tensor:
    """The pattern of each kind `(6, 8, 8)`, of -1 and 1: Walsh functions, so their mean and their products are 0."""
    line = torch.arange(TOKEN)
    waves = torch.stack([1 - 2 * ((line // width) % 2) for width in (8, 4, 2, 1)])
    # Slow waves first: bars, halves and checks that an eye can tell apart.
    pairs = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 2))
    return torch.stack([waves[down][:, None] * waves[across] for down, across in pairs]).float()


def place(cell: int) -> tuple[slice, slice]:
    """Rows and columns of the token in a cell."""
    margin = (CELL - TOKEN) // 2
    row, column = (CELL * at + margin for at in divmod(cell, SIZE // CELL))
    return slice(row, row + TOKEN), slice(column, column + TOKEN)


def scene(cells: Sequence[int], kinds: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Image `(3, H, W)` in [0, 1], the same without tokens, and parts `(H, W)` that number the tokens from 1.

    The colour of the surroundings is drawn; tokens are as bright as they are dark, so it tells nothing of them.
    """
    surroundings = torch.tensor(rng.uniform(0.35, 0.65, 3), dtype=torch.float32)
    empty = surroundings.view(3, 1, 1).expand(3, SIZE, SIZE).clone()
    image, parts = empty.clone(), torch.zeros(SIZE, SIZE, dtype=torch.int64)
    pattern = patterns()
    for number, (cell, kind) in enumerate(zip(cells, kinds, strict=True), start=1):
        rows, columns = place(cell)
        image[:, rows, columns] += CONTRAST * pattern[kind]
        parts[rows, columns] = number
    return image, empty, parts


def spread(worth: Tensor, cells: Sequence[int]) -> Tensor:
    """What each token adds to each class, `worth (classes, tokens)`, evenly over its pixels: `(classes, H, W)`."""
    truth = torch.zeros(len(worth), SIZE, SIZE)
    for number, cell in enumerate(cells):
        rows, columns = place(cell)
        truth[:, rows, columns] = worth[:, number, None, None] / TOKEN**2
    return truth
