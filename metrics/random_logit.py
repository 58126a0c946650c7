"""Random logit: does a map change when another class is explained?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from benchmark import maps, randomness
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._similarity import MEASURES, View, scored


@dataclass(frozen=True)
class RandomLogit(Metric):
    """Similarity between the map of the target and that of another class, drawn uniformly for each image.

    The measures, and what is undefined, are those of parameter randomisation. A class-agnostic method is fully alike by
    construction. It is evidence and not a ranking: how alike two classes should look depends on the model, and two
    logits of opposite sign have maps whose magnitudes are rightly the same.

    Attributes:
        reduce: channel reduction of the maps.

    Source: Sixt, Granz & Landgraf 2020, arXiv:1912.09818.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "randomisation"
    measures: ClassVar[tuple[Measure, ...]] = MEASURES

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        original = View.of(maps.reduce_channels(attributions, self.reduce))
        other = explain(model, replace(batch, targets=other_classes(batch)))
        found = [original.likeness(View.of(maps.reduce_channels(other, self.reduce)))]
        return Scores(scored(original, found, batch).values)


def other_classes(batch: Batch) -> Tensor:
    """A class `(N,)` of each image that is not its target, all others equally likely.

    Raises:
        NotApplicable: there is none.
    """
    classes = batch.logits.shape[1]
    if classes < 2:
        raise NotApplicable("the model has no second class")
    step = randomness.uniform(batch.keys("random logit")[:, 0], 1)[:, 0].double() * (classes - 1)
    return (batch.targets + 1 + step.long()) % classes
