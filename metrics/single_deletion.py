"""Single deletion: are the cells of a grid in the order of what the score loses without each?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._subsets import Singles, spearman


@dataclass(frozen=True)
class SingleDeletion(Singles, Metric):
    """Rank correlation, over the 16 cells of a grid, of the map and of the drop; higher is better, 1 at best.

    r = Spearman over j of a_j, the signed sum of the map over cell j, and f(x) - f(x without cell j). Few and large
    units keep it from the noise of single pixels, and ranks make models comparable. Random maps have mean 0 and, with
    16 cells, standard deviation 1 / sqrt(15). Undefined where all drops, or all cells of the map, are equal.

    The source trains models further on images with one cell absent, so that a deletion is nothing new to them; here the
    model is the one that is given.

    Attributes:
        output, baseline, unit, reduce: see `Subsets`.

    Source: Hesse, Schaub-Meyer & Roth 2024, arXiv:2407.11910.
    """

    unit: str = "grid4"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("single_deletion", higher_is_better=True, range=(-1.0, 1.0), null=0.0),
    )

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        return Scores({"single_deletion": spearman(self.worth(batch, attributions, prepared), prepared["drop"])})
