"""Monotonicity: does the score rise, and never fall, while units come in order of increasing relevance?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units, check_steps
from metrics._subsets import settled


@dataclass(frozen=True)
class Monotonicity(Units, Metric):
    """Share of the steps at which the score does not fall while units come onto the baseline, the least relevant first.

    With f_k the score of the baseline with its k units of lowest attribution taken from x, `steady` is the share of the
    steps k with f_k >= f_(k-1), and `monotone` is 1 where these are all of them, otherwise 0, which is what the source
    reports; it is nearly always 0 for images. A fall below the rounding of the output counts as none. Higher is better
    as the source has it. Undefined where no step changes the score.

    Neither ranks methods. On an additive score, with a unit a step, every order has the same steps: the share is that
    of the contributions that are not negative, whatever the map says. With several units a step a random map mixes
    contributions of both signs, and can score higher than the exact contributions do.

    Attributes:
        output, baseline, unit, reduce: see `Units`; `reduce=abs_sum` for the order of magnitudes.
        steps: equal fractions of the units between none and all. At most as many as there are units.

    Source: Arya et al. 2019, arXiv:1909.03012, and its code, which does not look at the first step; Luss et al. 2019,
    arXiv:1905.12698.
    """

    steps: int = 32

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("steady", higher_is_better=True, range=(0.0, 1.0), ranked=False),
        Measure("monotone", higher_is_better=True, range=(0.0, 1.0), ranked=False),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        follow, count = self.path(model, batch, attributions, prepared)
        there = self.grid(count, self.steps)
        # What is not there yet is absent, and that is the most relevant.
        curve = follow(count[:, None] - there)
        change, moves = settled(curve.diff(dim=1), batch, self.output), there.diff(dim=1) > 0
        steady = (moves & (change >= 0)).sum(1) / moves.sum(1).double()
        steady = torch.where((change != 0).any(1), steady, torch.nan)
        monotone = torch.where(steady.isnan(), torch.nan, (steady == 1).double())
        return Scores({"steady": steady, "monotone": monotone}, {"steady": curve})
