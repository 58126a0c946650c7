"""Monotonicity correlation: are the units in the order of how much it matters not to know them?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps, passes, randomness, units
from benchmark.baselines import Absence
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._subsets import changes, check_countable, settled, spearman


@dataclass(frozen=True)
class MonotonicityCorrelation(Metric):
    """Rank correlation of the map's magnitude and of the loss without each unit; higher is better, 1 at best.

    r = Spearman over i of |a_i|, the map's sum over unit i, and E[(f(x) - f(x with unit i redrawn))^2]: what a unit is
    worth is how far the score may go when it is not known, whatever the sign. So a map is read without its sign.
    Undefined where all losses, or all magnitudes, are equal.

    Attributes:
        samples: uniform random images in pixel space that a unit is redrawn from, the same for all units and methods.
        output: the score f.
        unit: see `benchmark.units`, superpixels excepted.
        reduce: channel reduction of the map.

    Source: Nguyen & Martinez 2020, arXiv:2007.07584.
    """

    samples: int = 10
    output: passes.Score = "logit"
    unit: str = "grid8"
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("monotonicity_correlation", higher_is_better=True, range=(-1.0, 1.0), null=0.0),
    )

    def __post_init__(self) -> None:
        passes.check_score(self.output)
        check_countable(self.unit)
        maps.check_reduce(self.reduce)
        if self.samples < 1:
            raise UserError(f"monotonicity correlation needs samples >= 1, not {self.samples}")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Expected loss without each unit, `(N, units)`: it does not depend on the map."""
        unit = units.units(batch, self.unit)
        keys = batch.keys("monotonicity_correlation", self.samples)
        count, losses = int(unit.max()) + 1, []
        for sample in range(self.samples):
            pixels = randomness.uniform(keys[:, sample], *batch.inputs.shape[1:]).to(batch.inputs.dtype)
            redrawn = Absence(batch, "uniform", batch.normalise(pixels))

            def perturbed(image: Tensor, draw: Tensor, redrawn: Absence = redrawn) -> Tensor:
                return redrawn.without(image, unit == draw[:, None, None])

            change = changes(model, batch, perturbed, count, self.output)
            losses.append(settled(change, batch, self.output).square())
        return {"loss": torch.stack(losses).mean(0)}

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        values = maps.reduce_channels(attributions, self.reduce).double()
        worth = units.pooled(values, units.units(batch, self.unit), mean=False)
        return Scores({"monotonicity_correlation": spearman(worth.abs(), prepared["loss"])})
