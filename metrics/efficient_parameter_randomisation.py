"""Efficient MPRT: does a map become more complex when the model has unlearned everything?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._randomised import again, cascade, check_options, outputs


@dataclass(frozen=True)
class EfficientParameterRandomisation(Metric):
    """Relative rise of the complexity of the map when all parameters are re-initialised; higher is better.

    (C(e_random) - C(e)) / C(e), with C the entropy in nats of the map's histogram: `bins` bins of equal width between
    its own minimum and maximum, 0 for a constant map and ln(bins) where they are equally full. No similarity is
    measured, so a map that is drawn anew at every call gains nothing. The source divides the map by the root of its
    mean square first, which moves no value to another bin.

    At least -1, and 0 for a map that ignores the model. It is undefined where C(e) = 0, that is for a constant map, and
    evidence rather than a ranking: a map may be simple and wrong.

    Attributes:
        bins: of the histogram.
        seeds: independent re-initialisations, over which the rise is averaged.
        statistics: also reset the running statistics of batch norm.
        reduce: channel reduction of the maps.

    Source: Hedström, Weber, Lapuschkin & Höhne 2024, arXiv:2401.06465.
    """

    bins: int = 100
    seeds: int = 1
    statistics: bool = False
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "randomisation"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("efficient_parameter_randomisation", higher_is_better=True, range=(-1.0, float("inf")), ranked=False),
    )

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        check_options("top_down", 1, self.seeds)
        if self.bins < 2:
            raise UserError(f"efficient MPRT needs bins >= 2, not {self.bins}")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Outputs of all copies, `(N, seeds, K)`, which methods may read."""
        return outputs(self._copies(model, batch), batch)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        before = self._complexity(attributions)
        prepared = prepared or self.prepare(model, batch)
        copies = again(self._copies(model, batch), batch, explain, prepared)
        after = torch.stack([self._complexity(each) for each in copies], 1).mean(1)
        rise = torch.where(before > 0, (after - before) / before, torch.nan)
        return Scores({"efficient_parameter_randomisation": rise})

    def _complexity(self, attributions: Tensor) -> Tensor:
        return entropy(maps.reduce_channels(attributions, self.reduce), self.bins)

    def _copies(self, model: nn.Module, batch: Batch) -> Iterator[nn.Module]:
        for seed in range(self.seeds):
            yield from cascade(model, 1, f"{batch.seed}/{seed}", self.statistics)


def entropy(values: Tensor, bins: int) -> Tensor:
    """Entropy `(N,)` in nats of the histogram of each map `(N, H, W)` over its own range."""
    values = values.double().flatten(1)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    place = (values - low) / torch.where(high > low, high - low, 1.0) * bins
    place = place.long().clamp(max=bins - 1).sort(1).values
    edges = torch.arange(bins, device=values.device).expand(len(values), -1).contiguous()
    filled = torch.searchsorted(place, edges, right=True).diff(dim=1, prepend=edges.new_zeros(len(values), 1))
    return torch.special.entr(filled.double() / values.shape[1]).sum(1)
