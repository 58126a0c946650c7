"""Part agreement: does a map give each part of a drawn scene what it contributes?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps, units
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._subsets import pearson, snapped


@dataclass(frozen=True)
class PartAgreement(Metric):
    """What a map gives the parts of a scene, against what they contribute to the logit of the target.

    Part p is worth a_p, the signed sum of the map over its pixels, and contributes t_p, which the data set knows.

        correlation  Pearson's r over p of a_p and t_p, in [-1, 1]; higher is better
        sign         share of the parts with t_p != 0 whose a_p has the sign of t_p, in [0, 1]; higher is better
        background   sum of |a| over pixels of no part and of parts with t_p = 0, over the sum of |a|; lower is better

    Random maps have mean r = 0 and half of the signs. A map of magnitudes has the signs of the parts that speak for the
    target, and a map of zeros none. The background of a constant map is its share of the image. Where no part
    contributes there is nothing to agree with, and all three are undefined; so is r where all t_p or all a_p are equal,
    as with a single part, and the background of a map of zeros.

    The truth is that of the data set, and that of a model as far as the model has learned it: of a network set by hand,
    to the last digit. Nothing is perturbed, so no baseline decides, and no pass is made.

    Attributes:
        reduce: channel reduction of the map.

    Raises:
        NotApplicable: the data set does not know what each part contributes, or to other classes than the model has.

    Source: signed contributions of designed images as in Zhang et al. 2023, arXiv:2310.06514.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "truth"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("correlation", higher_is_better=True, range=(-1.0, 1.0), null=0.0),
        Measure("sign", higher_is_better=True, range=(0.0, 1.0), null=0.5),
        Measure("background", higher_is_better=False, range=(0.0, 1.0)),
    )

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        truth, parts = units.truth(batch).double(), units.units(batch, "part")
        there = units.sizes(parts) > 0
        there[:, 0] = False  # what is around the parts is none of them
        values = maps.reduce_channels(attributions, self.reduce).double()
        worth, known = (_worth(each, parts, attributions.dtype) for each in (values, truth))
        speaks = there & (known != 0)
        agrees = speaks & (worth.sign() == known.sign())
        idle = ~units.spread(speaks, parts)
        found = {
            "correlation": pearson(_filled(worth, there), _filled(known, there)),
            "sign": agrees.sum(1).double() / speaks.sum(1),
            "background": (values.abs() * idle).sum((1, 2)) / values.abs().sum((1, 2)),
        }
        return Scores({name: each.where(speaks.any(1), torch.nan) for name, each in found.items()})


def _worth(values: Tensor, parts: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of `values (N, H, W)` over each part, `(N, most parts + 1)`; what differs by rounding in `dtype` is equal."""
    return snapped(units.pooled(values, parts, mean=False), values.abs().sum((1, 2)), dtype)


def _filled(values: Tensor, there: Tensor) -> Tensor:
    """`values (N, K)` with the mean of those that are `there` in every other place, which moves no correlation."""
    mean = (values * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    return torch.where(there, values, mean)
