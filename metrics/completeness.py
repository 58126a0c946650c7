"""Completeness: does a map account for the whole difference between the image and the baseline?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores


@dataclass(frozen=True)
class Completeness(Metric):
    """Completeness error of the signed, unnormalised map, absolute and relative; lower is better, 0 at best.

    absolute = |sum phi - (f(x) - f(b))|, relative = absolute / |f(x) - f(b)|, with the target and the baseline that
    the method used. Where |f(x) - f(b)| < 1e-6 the relative error is undefined. It is not applicable to methods that
    make no claim to account for f(x) - f(b).

    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365; efficiency of Shapley values.
    """

    output: passes.Score = "logit"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "axioms"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("absolute", higher_is_better=False, range=(0.0, float("inf"))),
        Measure("relative", higher_is_better=False, range=(0.0, float("inf"))),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"method_baseline"})

    def __post_init__(self) -> None:
        passes.check_score(self.output)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        clean, absent = (
            passes.class_scores(logits.double(), batch.targets, self.output)
            for logits in (batch.logits, batch.baseline_logits)
        )
        difference = clean - absent
        error = (attributions.double().sum((1, 2, 3)) - difference).abs()
        relative = torch.where(difference.abs() < 1e-6, torch.nan, error / difference.abs())
        return Scores({"absolute": error, "relative": relative})
