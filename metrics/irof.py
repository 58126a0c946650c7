"""IROF: how much of the score is lost while whole segments of the image go, the most relevant first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units, check_steps


@dataclass(frozen=True)
class IROF(Units, Metric):
    """Area over the share of the score that is left while superpixels are replaced; higher is better, 1 at best.

    IROF = 1 - trapezoid over l / L of f(x^(l)) / f(x), where x^(l) has its l of L superpixels of highest mean
    attribution replaced: the iterative removal of features. Segments keep the metric from the noise of single pixels,
    and the share makes images comparable that the model is not equally sure of. On an additive score it is
    1 - Del / f(x). It falls below 0 where the score rises; undefined where f(x) is not above 0.

    The width of a step is its share of the segments, so the number does not grow with how many an image has: Quantus'
    is about L times this one. The source replaces by the mean colour of the image (`baseline=mean`).

    Attributes:
        output, baseline, unit, reduce: see `Units`.
        steps: equal fractions of the segments between none and all. No fewer than there are segments means one a step.

    Source: Rieger & Hansen 2020, arXiv:2003.08747.
    """

    unit: str = "slic100"
    steps: int = 100

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("irof", higher_is_better=True, range=(float("-inf"), 1.0)),)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        follow, count = self.path(model, batch, attributions, prepared)
        gone = self.grid(count, self.steps)
        curve = follow(gone)
        share = torch.where(curve[:, :1] > 0, curve / curve[:, :1], torch.nan)
        return Scores({"irof": 1 - torch.trapezoid(share, gone / count[:, None].double())}, {"irof": share})
