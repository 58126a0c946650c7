"""Minimal subset: how little has to go before the class is lost, and how little is enough for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import baselines, maps, units
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units, check_steps


@dataclass(frozen=True)
class MinimalSubset(Metric):
    """Smallest fractions of the units, in the order of the map, that decide the predicted class; lower is better.

    `deletion` is the smallest k / d for which x without its k most relevant units is no longer predicted as the target;
    `insertion` the smallest k / d for which the baseline with the k most relevant units of x is. Both are k of the
    steps, so at least one step and at most 1. The class is predicted where its logit is above all others; the curves
    say at each step whether it is, 1 or 0, so their means over images are accuracies.

    Both are undefined where x is not predicted as the target, and where the baseline already is: nothing would have to
    go, or come. This does not depend on the map, so all methods are scored on the same images.

    Attributes:
        baseline, unit, reduce: see `Units`; no score is followed, so there is no output.
        steps: equal fractions of the units between none and all. At most as many as there are units.

    Source: Dabkowski & Gal 2017, arXiv:1705.07857, whose smallest destroying and smallest sufficient regions are free;
    here they follow the order of a map.
    """

    baseline: baselines.Fill = "shared"
    unit: str = "pixel"
    reduce: maps.Reduce = "sum"
    steps: int = 32

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("deletion", higher_is_better=False, range=(0.0, 1.0)),
        Measure("insertion", higher_is_better=False, range=(0.0, 1.0)),
    )

    def __post_init__(self) -> None:
        baselines.check_fill(self.baseline)
        units.check_unit(self.unit)
        maps.check_reduce(self.reduce)
        check_steps(self.steps)

    @property
    def _taken(self) -> Units:
        return Units(baseline=self.baseline, unit=self.unit, reduce=self.reduce)

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return self._taken.prepare(model, batch)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        follow, count = self._taken.path(model, batch, attributions, prepared)
        moved = self._taken.grid(count, self.steps)
        curves = {
            "deletion": follow(moved, read=_predicted),
            "insertion": follow(count[:, None] - moved, read=_predicted, last_first=True),
        }
        share = moved / count[:, None].double()
        flipped = {"deletion": curves["deletion"] == 0, "insertion": curves["insertion"] == 1}
        defined = flipped["insertion"][:, -1] & flipped["deletion"][:, -1]
        found = {name: share.gather(1, flip.int().argmax(1, keepdim=True))[:, 0] for name, flip in flipped.items()}
        return Scores({name: torch.where(defined, value, torch.nan) for name, value in found.items()}, curves)


def _predicted(logits: Tensor, targets: Tensor) -> Tensor:
    """1 where the logit of the target is above all others, otherwise 0: `(R,)`."""
    own = logits.gather(1, targets[:, None])
    return (own > logits.scatter(1, targets[:, None], -torch.inf)).all(1).to(logits.dtype)
