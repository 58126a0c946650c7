"""Local Lipschitz estimate: how much steeper than the image a map can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._neighbours import Neighbours, norm


@dataclass(frozen=True)
class LocalLipschitz(Neighbours, Metric):
    """Largest change of the map for a change of the image, over its neighbours; lower is better, 0 at best.

    absolute = max_y ||phi(y) - phi(x)|| / ||y - x||, relative = absolute / ||phi(x)||, over neighbours y, with
    Euclidean norms and ||y - x|| in pixel space. The first is the source's; it grows with the scale of the map, so it
    describes and does not rank. A map of zeros has no relative constant. A map that does not depend on the image is
    best of all.

    Source: Alvarez-Melis & Jaakkola 2018, arXiv:1806.08049.
    """

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "robustness"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("relative", higher_is_better=False, range=(0.0, float("inf"))),
        Measure("absolute", higher_is_better=False, range=(0.0, float("inf")), ranked=False),
    )

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        ratios = [
            norm(again - attributions) / norm(steps) for steps, again in self.explained(model, batch, explain, prepared)
        ]
        absolute, size = torch.stack(ratios, 1).amax(1), norm(attributions)
        return Scores({"absolute": absolute, "relative": torch.where(size > 0, absolute / size, torch.nan)})
