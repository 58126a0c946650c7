"""Pixel flipping and region perturbation: how far the score falls while pixels or regions are replaced in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units, check_steps


@dataclass(frozen=True)
class PixelFlipping(Units, Metric):
    """Mean drop of the score while the most relevant units are replaced by the baseline; higher is better.

    AOPC = 1 / (L + 1) sum_{k=0}^L f(x) - f(x^(k)), where x^(k) has its k most relevant units replaced (`aopc`, order
    MoRF), or its k least relevant ones (`aopc_lerf`, LeRF, lower is better). ABPC is the area between the two curves,
    AOPC_MoRF - AOPC_LeRF (higher is better); a random map scores 0 in expectation. The curves are the drops, and each
    number is the mean of its curve. Taken to the end, where all units are gone, ABPC is SRG times L / (L + 1).

    The sources take a unit a step; equal steps of several units are the same sum on fewer points. Samek et al. replace
    squares of 9 pixels by uniform noise and stop after 100 of them (`region_perturbation`).

    Attributes:
        output, baseline, unit, reduce: see `Units`.
        steps: L, equal steps. At most as many as there are units to replace.
        regions: how many units are replaced at the last step, all of them where there are fewer; None for all.

    Source: Bach et al. 2015, doi:10.1371/journal.pone.0130140; Samek et al. 2017, arXiv:1509.06321.
    """

    steps: int = 32
    regions: int | None = None

    version: ClassVar[str] = "1"

    @property
    def measures(self) -> tuple[Measure, ...]:
        low, high = self.drops
        return (
            Measure("aopc", higher_is_better=True, range=(low, high)),
            Measure("aopc_lerf", higher_is_better=False, range=(low, high)),
            Measure("abpc", higher_is_better=True, range=(low, high), null=0.0),
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)
        if self.regions is not None and self.regions < 1:
            raise UserError(f"pixel flipping needs regions >= 1, or null for all, not {self.regions}")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        follow, count = self.path(model, batch, attributions, prepared)
        gone = self.grid(count if self.regions is None else count.clamp(max=self.regions), self.steps)
        most_first, least_first = follow(gone), follow(gone, last_first=True)
        curves = {
            "aopc": most_first[:, :1] - most_first,
            "aopc_lerf": least_first[:, :1] - least_first,
            "abpc": least_first - most_first,
        }
        return Scores({name: curve.mean(1) for name, curve in curves.items()}, curves)
