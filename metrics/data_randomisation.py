"""Data randomisation: does a map tell a model that learned its labels from one that learned random ones?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark import maps
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._randomised import seen
from metrics._similarity import MEASURES, View, scored


@dataclass(frozen=True)
class DataRandomisation(Metric):
    """Similarity between the map of the model and that of its twin, which learned random labels by heart.

    The twin has the same architecture and knows nothing that holds beyond its own training images, so what its map
    shares with the model's comes from the architecture, the image or the method. The target is that of the model. The
    measures, and what is undefined, are those of parameter randomisation; it is evidence and not a ranking for the same
    reasons. Not applicable to models without a twin.

    Attributes:
        reduce: channel reduction of the maps.

    Source: Adebayo et al. 2018, arXiv:1810.03292.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "randomisation"
    measures: ClassVar[tuple[Measure, ...]] = MEASURES
    needs: ClassVar[frozenset[str]] = frozenset({"twin"})

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        if "twin" not in prepared:
            raise NotApplicable("the model has no twin trained on random labels")
        twin = prepared["twin"]
        original = View.of(maps.reduce_channels(attributions, self.reduce))
        other = explain(twin, seen(twin, batch))
        found = [original.likeness(View.of(maps.reduce_channels(other, self.reduce)))]
        return Scores(scored(original, found, batch).values)
