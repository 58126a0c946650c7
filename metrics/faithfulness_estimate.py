"""Faithfulness estimate: does the map go with what the score loses without each unit?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark import passes
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._subsets import Singles, pearson


@dataclass(frozen=True)
class FaithfulnessEstimate(Singles, Metric):
    """Correlation, over the units of an image, of the map and of the drop; higher is better, 1 at best.

    r = Pearson over i of a_i and f(x) - f(x without unit i). On an additive score it is the correlation of the map and
    the exact contributions. Undefined where all drops, or all units of the map, are equal.

    Attributes:
        output, baseline, unit, reduce: see `Subsets`; the source looks at the probability of the target.

    Source: Alvarez-Melis & Jaakkola 2018, arXiv:1806.07538.
    """

    output: passes.Score = "prob"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("faithfulness_estimate", higher_is_better=True, range=(-1.0, 1.0), null=0.0),
    )

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        return Scores({"faithfulness_estimate": pearson(self.worth(batch, attributions, prepared), prepared["drop"])})
