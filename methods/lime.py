"""LIME: a linear model of the score of neighbours of the image, weighted by how near they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from benchmark import passes, randomness
from benchmark.baselines import Fill
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._coalitions import Coalitions, blocks, check_options, least_squares


@dataclass(frozen=True)
class LIME(Method):
    """`b_u / |u|` at each pixel of unit u, b from `min sum_s w_s (f(s) - a - b . s)^2 + ridge |b|^2`; `(N, 1, H, W)`.

    s says which units of the image are present, each with probability 1/2, and f is the target's score of what is then
    seen; the image itself is one more s, without a pass. The weight is `exp(-D^2 / (2 width^2))`, where D is the
    distance of s from all ones: of cosine `1 - sqrt(k / d)` with k of d units present, or of l2 `sqrt(d - k)`. This is
    the kernel of the authors' code, which takes the root of the paper's `exp(-D^2 / width^2)`. Their segments come from
    quickshift and are replaced by their own mean; here from SLIC, and by the baseline. A coefficient is spread evenly
    over the unit's pixels, so that pixels sum to it; their pictures show it at every pixel. Signed.

    Source: Ribeiro, Singh & Guestrin 2016, arXiv:1602.04938, and their package lime.

    Attributes:
        samples: neighbours of each image.
        unit: what is present or absent together, see `benchmark.units`.
        baseline: what takes the place of absent units, see `benchmark.baselines.Fill`.
        output: the score, `prob` as in the paper, `logit` or `logodds`.
        ridge: strength of the regularisation, 0 for none.
        distance: `cosine` or `l2`.
        width: of the kernel.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> LIME(samples=500).passes
        500
    """

    stochastic = True

    samples: int = 1000
    unit: str = "slic50"
    baseline: Fill = "shared"
    output: passes.Score = "prob"
    ridge: float = 1.0
    distance: Literal["cosine", "l2"] = "cosine"
    width: float = 0.25

    def __post_init__(self) -> None:
        check_options(self.unit, self.baseline)
        passes.check_score(self.output)
        if self.samples < 1 or self.ridge < 0 or not self.width > 0:
            given = f"{self.samples}, {self.ridge} and {self.width}"
            raise UserError(f"LIME needs samples >= 1, ridge >= 0 and width > 0, not {given}")
        if self.distance not in ("cosine", "l2"):
            raise UserError(f"unknown distance {self.distance!r}: expected cosine or l2")

    @property
    def passes(self) -> int:
        return self.samples

    def within(self, passes: int) -> Self:
        return replace(self, samples=max(1, passes))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        game = Coalitions.of(model, batch, self.unit, self.baseline, self.output)
        keys, there = batch.keys("lime", self.samples), game.there

        def present(image: Tensor, draw: Tensor) -> Tensor:
            return (randomness.uniform(keys[image, draw], game.most) < 0.5) & there[image]

        scores = game.scores(model, present, torch.ones(keys.shape, dtype=torch.bool))
        scores = torch.cat([scores, game.full().unsqueeze(1)], 1)
        found = torch.zeros_like(there, dtype=torch.float64)
        for some in blocks(len(batch), scores.shape[1] * game.most):
            drawn = randomness.uniform(keys[some], game.most) < 0.5
            every = there[some].unsqueeze(1)
            found[some] = self.fit(torch.cat([drawn & every, every], 1), every.sum(2), scores[some])
        return game.shared_out(found)

    def fit(self, coalitions: Tensor, count: Tensor, scores: Tensor) -> Tensor:
        """Coefficients `(N, U)` for the `scores (N, S)` of `coalitions (N, S, U)` of `count (N, 1)` units."""
        design, kept = coalitions.double(), coalitions.sum(2)
        distance = 1 - (kept / count.double()).sqrt() if self.distance == "cosine" else (count - kept).double().sqrt()
        weights = torch.exp(-distance.square() / (2 * self.width**2))
        # The intercept is free, so it goes with the weighted means.
        share = (weights / weights.sum(1, keepdim=True)).unsqueeze(2)
        values = scores - (scores.unsqueeze(2) * share).sum(1)
        return least_squares(design - (design * share).sum(1, keepdim=True), weights, values, self.ridge)
