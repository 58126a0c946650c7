"""HSIC: how much the score depends on whether each unit of the image is present."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.baselines import Fill
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._coalitions import Coalitions, blocks, check_options, ranked


@dataclass(frozen=True)
class HSIC(Method):
    """`tr(K_u H L H) / (samples - 1)^2` at each pixel of unit u: `(N, 1, H, W)`, not negative.

    `K_u[s, s'] = 1/2 - (m_u[s] - m_u[s'])^2` compares whether u is present in two samples (Dirac kernel),
    `L[s, s'] = exp(-(z[s] - z[s'])^2 / (2 width^2))` their logits, and H centres. The width is the median distance of
    two logits of the image (Gretton et al. 2012), so shift and scale of the logits do not matter; the authors' code
    takes the median output. Each unit is present in half of the samples, in an order of its own (a Latin hypercube).
    The estimate is not centred: a unit that does not matter gets `tr(H L H) / (2 (samples - 1)^2)` in expectation.
    The authors' maps are upsampled by a bicubic filter; here each unit keeps its value.

    Source: Novello, Fel & Vigouroux 2022, arXiv:2206.06219.

    Attributes:
        samples: masks of each image, at least 2.
        unit: what is present or absent together, see `benchmark.units`.
        baseline: what takes the place of absent units, see `benchmark.baselines.Fill`.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> HSIC(samples=250).passes
        250
    """

    stochastic = True

    samples: int = 500
    unit: str = "grid8"
    baseline: Fill = "shared"

    def __post_init__(self) -> None:
        check_options(self.unit, self.baseline)
        if self.samples < 2:
            raise UserError(f"HSIC needs samples >= 2, not {self.samples}")

    @property
    def passes(self) -> int:
        return self.samples

    def within(self, passes: int) -> Self:
        return replace(self, samples=max(2, passes))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        game = Coalitions.of(model, batch, self.unit, self.baseline)
        masks = self.masks(batch.keys("hsic")[:, 0], game.most) & game.there.unsqueeze(1)
        wanted = torch.ones(masks.shape[:2], dtype=torch.bool)
        scores = game.scores(model, lambda image, draw: masks[image, draw], wanted)
        found = torch.zeros_like(game.there, dtype=torch.float64)
        for some in blocks(len(batch), self.samples**2):
            found[some] = dependence(masks[some], scores[some])
        return game.painted(found)

    def masks(self, keys: Tensor, units: int) -> Tensor:
        """Which units are present in each sample, `(N, samples, units)`, for keys `(N,)`: half of each column."""
        order = ranked(randomness.uniform(keys, units, self.samples))
        return (order < (self.samples + 1) // 2).mT


def dependence(masks: Tensor, scores: Tensor) -> Tensor:
    """HSIC `(N, U)` of the columns of `masks (N, S, U)` with `scores (N, S)`; 0 for a column that is constant."""
    samples = scores.shape[1]
    gap = (scores.unsqueeze(2) - scores.unsqueeze(1)).abs()
    first, second = torch.triu_indices(samples, samples, 1, device=gap.device)
    width = gap[:, first, second].median(1).values.view(-1, 1, 1)
    kernel = torch.where(gap > 0, torch.exp(-(gap / width).square() / 2), 1)  # of width 0: whether they are equal
    # K_u = s s^T / 2 with s = 2 m - 1, so tr(K_u H L H) = (H s)^T L (H s) / 2.
    signs = 2 * masks.double()
    signs = signs - signs.mean(1, keepdim=True)
    return (signs * (kernel @ signs)).sum(1) / (2 * (samples - 1) ** 2)
