"""Faithfulness correlation and mu-fidelity: one question, two designs of the subsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._subsets import Choose, Subsets, bernoulli, fixed_size, pearson, present, spearman

Design = Literal["fixed_size", "bernoulli"]
Correlation = Literal["pearson", "spearman"]


@dataclass(frozen=True)
class FaithfulnessCorrelation(Subsets, Metric):
    """Correlation, over random subsets of the units, of the map's sum and of the drop; higher is better, 1 at best.

    r = corr over S of sum_{i in S} a_i and f(x) - f(x without S). What it tends to with more subsets depends on the
    design. On an additive score with contributions phi, Pearson's r tends to the correlation of a and phi where all
    subsets have one size, and to their cosine, sum a phi / (|a| |phi|), where each unit goes by itself. So a constant
    map is undefined in the first, with units of one size, and looks faithful in the second where phi has one sign; the
    random maps that score 0 there are those that are symmetric about 0.

    Undefined where all sums, or all drops, are equal.

    Attributes:
        output, baseline, unit, reduce: see `Subsets`.
        design: `fixed_size`, every subset of a share of the units equally likely (Bhatt et al.); `bernoulli`, each unit
            with that probability, as the public code of mu-fidelity does.
        correlation: `pearson` or `spearman`.
        share: of the units that a subset holds, or holds in expectation.
        subsets: of an image, the same for every method.

    Source: Bhatt, Weller & Moura 2020, arXiv:2005.00631; mu-fidelity on a 9 x 9 grid: Fel et al. 2021,
    arXiv:2111.04138.
    """

    design: Design = "fixed_size"
    correlation: Correlation = "pearson"
    share: float = 0.2
    subsets: int = 200

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("correlation", higher_is_better=True, range=(-1.0, 1.0), null=0.0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.design not in get_args(Design):
            raise UserError(unknown("design ", self.design, get_args(Design)))
        if self.correlation not in get_args(Correlation):
            raise UserError(unknown("correlation ", self.correlation, get_args(Correlation)))
        if not 0 < self.share < 1 or self.subsets < 2:
            raise UserError(f"a correlation needs 0 < share < 1 and subsets >= 2, not {self.share} and {self.subsets}")

    def subsets_of(self, batch: Batch, unit: Tensor) -> tuple[Choose, int]:
        keys, there = batch.keys("faithfulness_correlation", self.subsets), present(batch, unit)
        size = (self.share * there.sum(1).double()).round().clamp(min=1)

        def choose(image: Tensor, draw: Tensor) -> Tensor:
            if self.design == "bernoulli":
                return bernoulli(keys[image, draw], there[image], self.share)
            return fixed_size(keys[image, draw], there[image], size[image])

        return choose, self.subsets

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        correlate = {"pearson": pearson, "spearman": spearman}[self.correlation]
        return Scores({"correlation": correlate(self.foretold(batch, attributions, prepared), prepared["drop"])})
