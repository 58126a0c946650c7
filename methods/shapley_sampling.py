"""Shapley sampling: what each unit of an image adds to those before it, averaged over random orders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.baselines import Fill
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._coalitions import Coalitions, check_options, exact_number, number, ranked


@dataclass(frozen=True)
class ShapleySampling(Method):
    """Estimated Shapley value of each unit for the target logit, divided by its pixels: signed, `(N, 1, H, W)`.

    `phi_u = mean over orders o of v(units up to u in o) - v(units before u in o)`, where v is the logit with only these
    units present. Each order starts at the baseline and ends at the image, both known, so the values sum to
    `z_t(x) - z_t(b)` exactly; the estimate is unbiased for any number of orders.

    Source: Castro, Gomez & Tejada 2009, doi:10.1016/j.cor.2008.04.004; Strumbelj & Kononenko 2014,
    doi:10.1007/s10115-013-0679-x.

    Attributes:
        permutations: orders of each image.
        unit: the players, see `benchmark.units`.
        baseline: what takes the place of absent units, see `benchmark.baselines.Fill`.
        antithetic: every second order is the one before it reversed (Mitchell et al. 2022, arXiv:2104.12199), which
            makes values of pairs of units exact.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> ShapleySampling(permutations=10, unit="grid4").passes
        150
    """

    stochastic = True

    permutations: int = 20
    unit: str = "grid7"
    baseline: Fill = "shared"
    antithetic: bool = False

    def __post_init__(self) -> None:
        check_options(self.unit, self.baseline)
        if self.permutations < 1:
            raise UserError(f"Shapley sampling needs permutations >= 1, not {self.permutations}")

    @property
    def has_baseline(self) -> bool:  # type: ignore[override]
        return self.baseline == "shared"

    @property
    def passes(self) -> int | None:
        units = exact_number(self.unit)
        return None if units is None or self.baseline != "shared" else self.permutations * (units - 1)

    def within(self, passes: int) -> Self:
        units = number(self.unit)
        return self if units is None else replace(self, permutations=max(1, passes // max(1, units - 1)))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        game = Coalitions.of(model, batch, self.unit, self.baseline)
        ranks = self.ranks(batch, game.counts)
        inner = game.most - 1
        draw = torch.arange(self.permutations * inner)

        def present(image: Tensor, draw: Tensor) -> Tensor:
            return ranks[image, draw // inner] <= (draw % inner).unsqueeze(1)

        wanted = draw % max(1, inner) < game.counts.unsqueeze(1) - 1
        scores = game.scores(model, present, wanted).view(len(batch), self.permutations, inner)
        first, last = (end.view(-1, 1, 1).expand(-1, self.permutations, 1) for end in (game.empty(model), game.full()))
        added = torch.cat([first, scores, last], 2).diff(dim=2)
        return game.shared_out(added.gather(2, ranks).mean(1))

    def ranks(self, batch: Batch, counts: Tensor) -> Tensor:
        """The place of each of `counts (N,)` units in each order, from 0: `(N, permutations, U)`; others come last."""
        step = 2 if self.antithetic else 1
        keys = batch.keys("shapley_sampling", self.permutations)[:, ::step]
        there = Coalitions.first(counts, int(counts.max())).unsqueeze(1).to(keys.device)
        numbers = randomness.uniform(keys, there.shape[2]).masked_fill(~there, torch.inf)
        ranks = ranked(numbers)
        if self.antithetic:
            back = torch.where(there, there.sum(2, keepdim=True) - 1 - ranks, ranks)
            ranks = torch.stack([ranks, back], 2).flatten(1, 2)[:, : self.permutations]
        return ranks
