"""Non-sensitivity: is a map zero exactly where the model does not look?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import baselines, maps, passes, randomness, units
from benchmark.baselines import Absence
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units


@dataclass(frozen=True)
class NonSensitivity(Units, Metric):
    """Share of the units on which map and model disagree about what is a dummy; lower is better, 0 at best.

    |A0 symmetric difference X0| / units. X0 are the units that the score does not depend on: no redraw of the unit
    changes it by more than eps times the largest change that any unit makes. A0 are the units without attribution: the
    mean magnitude of the map over the unit is at most eps times that of the largest unit. The source counts the units;
    the share does not grow with their number. A constant model depends on no unit, and a map of zeros names none.

    Evidence, and not a ranking: a map without zeros is wrong about the dummies alone, and a network that looks
    everywhere has none, so random maps pass.

    Attributes:
        baseline: what a unit is redrawn from: `uniform` pixels, the same place of another image of the data set with
            `sample`, or any other, of which one draw is enough.
        draws: redraws of each unit; a score that moves in any of them depends on it.
        eps: what counts as 0, relative to the largest.

    Source: Nguyen & Rodriguez Martinez 2020, arXiv:2007.07584.
    """

    output: passes.Score = "logit"
    baseline: baselines.Fill = "uniform"
    unit: str = "grid8"
    reduce: maps.Reduce = "abs_sum"
    draws: int = 2
    eps: float = 0.01

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "axioms"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("non_sensitivity", higher_is_better=False, range=(0.0, 1.0), ranked=False),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or not 0 <= self.eps < 1:
            raise UserError(f"non-sensitivity needs draws >= 1 and 0 <= eps < 1, not {self.draws} and {self.eps}")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Pixels of units that the score does not depend on, `(N, H, W)`, and superpixels."""
        unit = units.units(batch, self.unit)
        there = (units.sizes(unit) > 0).expand(len(batch), -1)
        image, which = there.nonzero(as_tuple=True)
        clean = self.read(batch.logits, batch.targets).double()
        largest = torch.zeros(there.shape, dtype=torch.float64, device=unit.device)
        for draw in range(self.draws):
            stream = randomness.integer(batch.seed, "non_sensitivity", draw)
            absence = Absence.of(replace(batch, seed=stream), self.baseline)

            def part(start: int, stop: int, absence: Absence = absence) -> Tensor:
                row = image[start:stop]
                gone = unit.expand(len(batch), -1, -1)[row] == which[start:stop, None, None]
                return self.read(model(absence.without(row, gone)), batch.targets[row])

            with torch.inference_mode():
                found = torch.cat(list(passes.chunked(part, len(image), batch.chunk))).double()
            largest[there] = torch.maximum(largest[there], (found - clean[image]).abs())
        dummies = largest <= self.eps * largest.amax(1, keepdim=True)
        prepared = {"dummies": units.spread(dummies, unit)}
        return prepared | ({"units": unit.to(torch.int32)} if self.unit.startswith("slic") else {})

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        unit = self.units_of(batch, prepared)
        worth = units.pooled(maps.reduce_channels(attributions, self.reduce).abs().double(), unit)
        silent = worth <= self.eps * worth.amax(1, keepdim=True)
        dummies = units.pooled(prepared["dummies"].double(), unit) > 0.5
        there = units.sizes(unit) > 0
        share = ((silent != dummies) & there).sum(1).double() / there.sum(1)
        return Scores({"non_sensitivity": share})
