"""Sensitivity-n: do the sums of a map over n units go with what the score loses without them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._subsets import Choose, Subsets, fixed_size, pearson, present


@dataclass(frozen=True)
class SensitivityN(Subsets, Metric):
    """Correlation over random subsets of n units of one image, mean over several n; higher is better, 1 at best.

    r_n = Pearson over S, |S| = n, of sum_{i in S} phi_i and f(x) - f(x without S). Sensitivity-n is the mean of r_n,
    and the curve is r_n by n. On an additive score the exact contributions have r_n = 1 for every n. Undefined where,
    for one of the n, all drops or all sums are equal: on a constant map with units of one size, for instance.

    Attributes:
        output, baseline, unit, reduce: see `Subsets`; the source takes pixels.
        sizes: n as fractions of the units, between none and all, where nothing is left to correlate.
        subsets: drawn for each n, the same for every method.

    Source: Ancona, Ceolini, Öztireli & Gross 2018, arXiv:1711.06104.
    """

    sizes: Sequence[float] = (0.05, 0.2, 0.4, 0.6, 0.8)
    subsets: int = 100

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("sensitivity_n", higher_is_better=True, range=(-1.0, 1.0), null=0.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if not self.sizes or not all(0 < size < 1 for size in self.sizes):
            raise UserError(f"sizes={list(self.sizes)} are no fractions of the units, between 0 and 1")
        if self.subsets < 2:
            raise UserError(f"a correlation needs subsets >= 2, not {self.subsets}")

    def subsets_of(self, batch: Batch, unit: Tensor) -> tuple[Choose, int]:
        draws = len(self.sizes) * self.subsets
        keys, there = batch.keys("sensitivity_n", draws), present(batch, unit)
        count = there.sum(1, keepdim=True)
        fractions = torch.tensor(self.sizes, dtype=torch.float64, device=there.device)
        size = torch.minimum((fractions * count).round().long(), count - 1).clamp(min=1)

        def choose(image: Tensor, draw: Tensor) -> Tensor:
            return fixed_size(keys[image, draw], there[image], size[image, draw // self.subsets])

        return choose, draws

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        shape = (len(batch), len(self.sizes), self.subsets)
        curve = pearson(self.foretold(batch, attributions, prepared).view(shape), prepared["drop"].view(shape))
        return Scores({"sensitivity_n": curve.mean(1)}, {"sensitivity_n": curve})
