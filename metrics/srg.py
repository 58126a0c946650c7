"""SRG, the symmetric relevance gain: insertion minus deletion, the headline of every table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Curves
from metrics.deletion import Deletion
from metrics.insertion import Insertion


@dataclass(frozen=True)
class SRG(Curves, Metric):
    """Area between the curves of insertion and deletion; higher is better, a random map scores 0 in expectation.

    SRG = Ins - Del, from the two curves of one protocol, so no pass is made for it. On an additive score it equals
    sum_k phi_pi(k) (d + 1 - 2k) / d, and -phi scores the negative. Its rankings agree over baselines and unit sizes
    where those of deletion alone do not.

    Source: Blücher, Vielhaben & Strodthoff 2024, arXiv:2401.06654.
    """

    version: ClassVar[str] = "2"

    @property
    def measures(self) -> tuple[Measure, ...]:
        low, high = self.bounds
        return (Measure("srg", higher_is_better=True, range=(low - high, high - low), null=0.0),)

    def parts(self) -> Mapping[str, Metric]:
        return {"deletion": Deletion(**asdict(self)), "insertion": Insertion(**asdict(self))}

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {}  # its parts have theirs

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        deletion, insertion = prepared["deletion"], prepared["insertion"]
        area = insertion.values["insertion"] - deletion.values["deletion"]
        # The curves have points in common where the fractions are as dense at one end as at the other.
        even = isinstance(self.steps, int)
        gain = {"srg": insertion.curves["insertion"] - deletion.curves["deletion"]} if even else {}
        return Scores({"srg": area}, gain)
