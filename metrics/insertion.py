"""Insertion: how fast the score rises when the pixels that matter most come first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Curves


@dataclass(frozen=True)
class Insertion(Curves, Metric):
    """Area under the score of the target while the most relevant units are restored on the baseline; higher is better.

    Ins = trapezoid over k of f(b with its k units of highest attribution taken from x). With the one baseline that it
    shares with deletion, Ins(order) = Del(reversed order) on every model, and Del + Ins = f(x) + f(b) on additive ones.

    Source: Petsiuk, Das & Saenko 2018, arXiv:1806.07421; with one baseline for deletion and insertion as in Blücher,
    Vielhaben & Strodthoff 2024, arXiv:2401.06654.
    """

    version: ClassVar[str] = "2"

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure("insertion", higher_is_better=True, range=self.bounds),)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        area, curve = self.trace(model, batch, attributions, prepared, insert=True)
        return Scores({"insertion": area}, {"insertion": curve})
