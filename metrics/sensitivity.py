"""Sensitivity: how far a map moves when the image moves a little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._neighbours import Neighbours, norm


@dataclass(frozen=True)
class Sensitivity(Neighbours, Metric):
    """Largest and mean distance between the map of an image and those of its neighbours; lower is better, 0 at best.

    max = max_y ||phi(y) - phi(x)|| and average = mean_y ||phi(y) - phi(x)|| over neighbours y, divided by ||phi(x)||
    where `relative`. The norms are Euclidean, over all channels that the map has. A map of zeros has no relative
    sensitivity.

    A map that does not depend on the image is best of all, so read it beside a measure of faithfulness, and beside
    what the null rows score.

    Attributes:
        relative: divide by the norm of the map, as the source's code does and its formula does not; without it, twice
            the map has twice the sensitivity.

    Source: Yeh et al. 2019, arXiv:1901.09392; the mean: Bhatt, Weller & Moura 2020, arXiv:2005.00631.
    """

    relative: bool = True

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "robustness"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("max", higher_is_better=False, range=(0.0, float("inf"))),
        Measure("average", higher_is_better=False, range=(0.0, float("inf"))),
    )

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        distance = torch.stack(
            [norm(again - attributions) for _, again in self.explained(model, batch, explain, prepared)], 1
        )
        if self.relative:
            size = norm(attributions)[:, None]
            distance = torch.where(size > 0, distance / size, torch.nan)
        return Scores({"max": distance.amax(1), "average": distance.mean(1)})
