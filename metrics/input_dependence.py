"""Input dependence: what a map says of an object that the model does not need, against the scene without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps, passes, units
from benchmark.baselines import Absence
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores

_PERCENTILE = 0.99  # where the source cuts a map


@dataclass(frozen=True)
class InputDependence(Metric):
    """Does a map notice that an object does not matter? The scene is drawn without it and explained again.

    g(x) is the mean, over the pixels of the object, of the positive part of the map, cut at its 99th percentile and
    scaled from its minimum to [0, 1]. With x' the scene without the object:

        dependence    1 if g(x) < g(x'), else 0: the object has less than what was behind it; higher is better
        independence  1 if |g(x) - g(x')| <= `threshold` g(x'), else 0: it changes nothing; higher is better
        drop          p(x) - p(x'), what the probability of the target loses, the same for every method

    The means over images are the rates of the source: a false alarm is an object that is marked although the model has
    no use for it. Both are defined where the model says the target with the object and without it. Independence needs
    an object that means nothing at all: |p(x) - p(x')| <= `insignificant`. The source optimises a patch until the
    model's output is as before; here it is the object itself, where it happens to have that effect. A map that is
    constant up to its 99th percentile, of either scene, has no scale and is undefined.

    A model that needs the object is no subject of this: few of its images are defined. Evidence, and not a ranking: a
    map that never looks at the image is independent of it, and an edge detector prefers a pattern to a plain object.
    The second map has the target, the baseline and the random numbers of the first: the object alone is another.

    Attributes:
        threshold: relative change of g that still counts as none.
        insignificant: change of the target's probability that an object may make that means nothing.
        reduce: channel reduction of the map; the source sums what is positive in each channel.

    Raises:
        NotApplicable: the scenes of the data set have no part called object, or are not drawn without it.

    Source: Yang & Kim 2019, arXiv:1907.09701.
    """

    threshold: float = 0.1
    insignificant: float = 0.1
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "2"
    family: ClassVar[str] = "truth"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("dependence", higher_is_better=True, range=(0.0, 1.0), ranked=False),
        Measure("independence", higher_is_better=True, range=(0.0, 1.0), ranked=False),
        Measure("drop", higher_is_better=None, range=(-1.0, 1.0), ranked=False),
    )

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        if self.threshold < 0 or self.insignificant < 0:
            raise UserError(
                f"input dependence needs threshold >= 0 and insignificant >= 0, not {self.threshold} and "
                f"{self.insignificant}"
            )

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Logits of the scenes without the object, `(N, K)`."""
        return {"without": passes.logits(model, self._without(batch), batch.chunk)}

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        there, logits = units.part(batch, "object"), prepared["without"]
        bare = replace(
            batch,
            inputs=self._without(batch),
            logits=logits,
            parts=units.units(batch, "part").masked_fill(there, 0),
            # Methods that look at other images find those of the data set.
            whole=batch.whole or batch,
        )
        seen, unseen = (self._on_object(each, there) for each in (attributions, explain(model, bare)))
        before, after = (passes.class_scores(each, batch.targets, "prob").double() for each in (batch.logits, logits))
        drop = (before - after).where(there.any(2).any(1), torch.nan)
        kept = (batch.logits.argmax(1) == batch.targets) & (logits.argmax(1) == batch.targets)
        kept &= seen.isfinite() & unseen.isfinite()
        near = (seen - unseen).abs() <= self.threshold * unseen
        return Scores(
            {
                "dependence": (seen < unseen).double().where(kept, torch.nan),
                "independence": near.double().where(kept & (drop.abs() <= self.insignificant), torch.nan),
                "drop": drop,
            }
        )

    def _without(self, batch: Batch) -> Tensor:
        """The scenes drawn without the object, `(N, C, H, W)`."""
        there = units.part(batch, "object")
        return Absence.of(batch, "empty").without(torch.arange(len(batch), device=there.device), there)

    def _on_object(self, attributions: Tensor, there: Tensor) -> Tensor:
        """g of every image, `(N,)`; NaN without an object, or without a scale."""
        values = maps.reduce_channels(attributions, self.reduce).double().clamp(min=0).flatten(1)
        ordered = values.sort(1).values
        place = _PERCENTILE * (values.shape[1] - 1)
        below, above = ordered[:, math.floor(place)], ordered[:, math.ceil(place)]
        low, high = ordered[:, :1], (below + (place - math.floor(place)) * (above - below))[:, None]
        scaled = ((values - low) / (high - low)).clamp(max=1).where(high > low, torch.nan)
        return (scaled * there.flatten(1)).sum(1) / there.flatten(1).sum(1)
