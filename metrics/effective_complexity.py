"""Effective complexity: how many units of the image have to be known for the score to stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps, units
from benchmark.baselines import Absence
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units, walk


@dataclass(frozen=True)
class EffectiveComplexity(Units, Metric):
    """Smallest share of the units that is enough when those of largest magnitude are kept; lower is better.

    k* / d with k* = min {k : E[(f(x) - f(x with all but the top k redrawn))^2] < epsilon}, units ordered by |a|. All of
    them are always enough, so it is defined for every map; 0 says that none is needed. Here the unknown units hold the
    baseline: the expectation is over one image that is the same for all methods, fixed or drawn (`baseline=uniform`,
    `sample`). k takes the steps of a curve, which holds the loss.

    Unlike sparseness and entropy it asks the model: a map of one pixel is only the best where one pixel is enough.

    Attributes:
        output, baseline, unit, reduce: see `Units`.
        steps: equal fractions of the units between none and all. At most as many as there are units.
        epsilon: loss that is small enough; 0.01 is a change of the probability by 0.1.

    Source: Nguyen & Martinez 2020, arXiv:2007.07584.
    """

    steps: int = 32
    epsilon: float = 0.01

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "complexity"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("effective_complexity", higher_is_better=False, range=(0.0, 1.0)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not self.epsilon > 0:
            raise UserError(f"effective complexity needs steps >= 1 and epsilon > 0, not {self.steps}, {self.epsilon}")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        unit = self.units_of(batch, prepared)
        ranks, count = self._ranks(batch, attributions, unit)
        steps = self.steps if self.unit.startswith("slic") else min(self.steps, ranks.shape[1])
        fractions = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=count.device)
        kept = (fractions * count[:, None]).round().long()
        ends = batch.logits, prepared.get("absent_logits", batch.baseline_logits)
        absence, ranks, gone = Absence.of(batch, self.baseline), units.spread(ranks, unit), count[:, None] - kept
        curve = walk(model, absence, ranks, gone, ends, self.read, last_first=True)
        loss = (curve - curve[:, -1:]).square()
        enough = (loss < self.epsilon).int().argmax(1, keepdim=True)
        share = kept.gather(1, enough)[:, 0] / count.double()
        return Scores({"effective_complexity": share}, {"effective_complexity": loss})

    def _ranks(self, batch: Batch, attributions: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """As `rank`, by magnitude."""
        worth = units.pooled(maps.reduce_channels(attributions, self.reduce), unit).abs()
        there = units.sizes(unit) > 0
        ranks = maps.descending_ranks(worth.masked_fill(~there, -torch.inf), batch.keys("ties")[:, 0])
        return ranks, there.sum(1).expand(len(batch))
