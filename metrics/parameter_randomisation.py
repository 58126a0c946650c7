"""Model parameter randomisation (MPRT): does a map change when the model unlearns what it knows?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark import maps
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._randomised import Order, again, cascade, check_options, outputs
from metrics._similarity import MEASURES, View, scored


@dataclass(frozen=True)
class ParameterRandomisation(Metric):
    """Similarity between the map of the model and those of copies whose layers are re-initialised.

    After each of `stages` steps the target of the trained model is explained again. A number is the mean over stages
    and seeds, without the comparison of a map with itself. `spearman_abs` and `spearman` are rank correlations of
    magnitudes and of signed values, `ssim` the structural similarity, `hog` Pearson's correlation of histograms of
    oriented gradients, `cosine` that of the angle between the signed maps. `gap` is `spearman_abs` minus what two maps
    of this shape share by chance: the same correlation between the map and copies of it rolled by a random shift.

    This is evidence and not a ranking: a map that stays alike ignores the parameters (all null rows are fully alike) or
    follows the input, but one drawn anew at every call would pass best of all, and a faithful one may legitimately
    keep some structure. A copy whose map is constant has nothing left of the original: its correlations count as 0. An
    original map that is constant is undefined, and so is `ssim` of maps of less than 11 pixels to the side.

    Attributes:
        order: `top_down` re-initialises from the output down, each step on top of the last, so that the last copy has
            no trained parameter left; `bottom_up` likewise from the input up; `independent` re-initialises one group of
            layers at a time and keeps the others trained.
        stages: how many equal groups of layers there are, at most one a layer.
        seeds: independent re-initialisations of everything.
        statistics: also reset the running statistics of batch norm, which the source leaves alone.
        reduce: channel reduction of the maps.

    Source: Adebayo et al. 2018, arXiv:1810.03292; why it must not rank: Binder et al. 2023, arXiv:2211.12486.
    """

    order: Order = "top_down"
    stages: int = 3
    seeds: int = 1
    statistics: bool = False
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "2"
    family: ClassVar[str] = "randomisation"
    measures: ClassVar[tuple[Measure, ...]] = MEASURES

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        check_options(self.order, self.stages, self.seeds)

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Outputs of all copies, `(N, seeds * stages, K)`, which methods may read."""
        return outputs(self._copies(model, batch), batch)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        original = View.of(maps.reduce_channels(attributions, self.reduce))
        prepared = prepared or self.prepare(model, batch)
        found = [
            original.likeness(View.of(maps.reduce_channels(each, self.reduce)))
            for each in again(self._copies(model, batch), batch, explain, prepared)
        ]
        return scored(original, found, batch, self.seeds)

    def _copies(self, model: nn.Module, batch: Batch) -> Iterator[nn.Module]:
        for seed in range(self.seeds):
            yield from cascade(model, self.stages, f"{batch.seed}/{seed}", self.statistics, self.order)
