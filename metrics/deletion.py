"""Deletion: how fast the score falls when the pixels that matter most go first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Curves


@dataclass(frozen=True)
class Deletion(Curves, Metric):
    """Area under the score of the target while the most relevant units are replaced by the baseline; lower is better.

    Del = trapezoid over k of f(x^(k)), where x^(k) has its k units of highest attribution replaced. On an additive
    score f = sum phi_i + c it equals f(b) + sum_k phi_pi(k) (k - 1/2) / d. Only the order of the map matters.

    Source: Petsiuk, Das & Saenko 2018, arXiv:1806.07421; with one baseline for deletion and insertion as in Blücher,
    Vielhaben & Strodthoff 2024, arXiv:2401.06654.
    """

    version: ClassVar[str] = "2"

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure("deletion", higher_is_better=False, range=self.bounds),)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        area, curve = self.trace(model, batch, attributions, prepared, insert=False)
        return Scores({"deletion": area}, {"deletion": curve})
