"""Effective complexity: how many units of the image have to be known for the score to stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units, check_steps


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
        check_steps(self.steps)
        if not self.epsilon > 0:
            raise UserError(f"effective complexity needs epsilon > 0, not {self.epsilon}")

    def relevance(self, attributions: Tensor, unit: Tensor) -> Tensor:
        """Magnitude, since what speaks against the target is needed too."""
        return super().relevance(attributions, unit).abs()

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        follow, count = self.path(model, batch, attributions, prepared)
        kept = self.grid(count, self.steps)
        curve = follow(count[:, None] - kept, last_first=True)
        loss = (curve - curve[:, -1:]).square()
        enough = (loss < self.epsilon).int().argmax(1, keepdim=True)
        share = kept.gather(1, enough)[:, 0] / count.double()
        return Scores({"effective_complexity": share}, {"effective_complexity": loss})
