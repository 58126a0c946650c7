"""SaCo: of two groups of pixels, does the one of higher salience matter more, and by how much should it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import baselines, maps, units
from benchmark.baselines import Absence
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units
from metrics._subsets import changes, settled


@dataclass(frozen=True)
class SaCo(Units, Metric):
    """Salience-guided faithfulness coefficient, in [-1, 1]; higher is better, a random map scores 0 in expectation.

    The units are sorted by relevance and cut into K groups of equally many; fewer than K may be left over, the least
    relevant. With s_i the sum of the map over group i and D_i = f(x) - f(x without group i),

        F = sum_{i<j} sign(D_i - D_j) (s_i - s_j) / sum_{i<j} |s_i - s_j|.

    A pair counts by how far the map sets it apart, so values matter and not only their order. 1 for exact contributions
    to an additive score, -1 for their negative. Groups that lose the same speak neither for nor against the map; the
    source counts them for it, which gives every map a 1 where nothing matters. Drops below the rounding of the output
    are none. Undefined where all s_i, or all D_i, are equal.

    Attributes:
        output, baseline, unit, reduce: see `Units`; the source replaces by the mean colour of the image.
        groups: K, at most as many as there are units.

    Source: Wu et al. 2024, arXiv:2404.01415.
    """

    baseline: baselines.Fill = "mean"
    groups: int = 10

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("saco", higher_is_better=True, range=(-1.0, 1.0), null=0.0),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 2:
            raise UserError(f"SaCo compares groups, so it needs groups >= 2, not {self.groups}")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return self.superpixels(batch)  # all is never absent

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        unit = self.units_of(batch, prepared)
        ranks, count = self.rank(batch, attributions, unit)
        groups = count.clamp(max=self.groups)
        group = units.spread(ranks, unit) // (count // groups)[:, None, None]
        group = torch.minimum(group, groups[:, None, None])  # what is left over
        absence, most = Absence.of(batch, self.baseline), int(groups.max())

        def perturbed(image: Tensor, draw: Tensor) -> Tensor:
            return absence.without(image, group[image] == draw[:, None, None])

        drops = settled(changes(model, batch, perturbed, most, self.output), batch, self.output)
        salience = units.pooled(maps.reduce_channels(attributions, self.reduce).double(), group, mean=False)
        there = torch.arange(most, device=groups.device) < groups[:, None]
        return Scores({"saco": _coefficient(salience[:, :most], drops, there)})


def _coefficient(salience: Tensor, drops: Tensor, there: Tensor) -> Tensor:
    """F `(N,)` of the groups `(N, K)` that are `there`."""
    pairs = (there[:, :, None] & there[:, None, :]).triu(1)
    apart = (salience[:, :, None] - salience[:, None, :]) * pairs
    order = (drops[:, :, None] - drops[:, None, :]).sign() * pairs
    total = apart.abs().sum((1, 2))
    defined = (total > 0) & order.any(2).any(1)
    return torch.where(defined, (order * apart).sum((1, 2)) / total, torch.nan)
