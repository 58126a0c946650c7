"""Complexity of a map by itself: how few pixels carry it. The model is not asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores


@dataclass(frozen=True)
class Sparseness(Metric):
    """Gini index of the map's magnitudes; higher is sparser, from 0 where all are equal to 1 - 1/d for a single pixel.

    G = 1 - 2 sum_k (v_(k) / sum v) (d - k + 1/2) / d with v = |a| in ascending order, k = 1..d. Undefined where the map
    is 0 everywhere. A map of one pixel, whichever, is the sparsest, so this describes and does not rank.

    Attributes:
        reduce: channel reduction of the map.

    Source: Chalasani et al. 2020, arXiv:1810.06583.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "complexity"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("sparseness", higher_is_better=True, range=(0.0, 1.0), ranked=False),
    )

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        share = _shares(attributions, self.reduce).sort(1).values
        d = share.shape[1]
        k = torch.arange(1, d + 1, dtype=share.dtype, device=share.device)
        # The same as 1 - 2 sum ..., without the difference of numbers near 1.
        return Scores({"sparseness": (share * ((2 * k - d - 1) / d)).sum(1).clamp(min=0)})


@dataclass(frozen=True)
class Entropy(Metric):
    """Entropy of the map's magnitudes; lower is simpler, from 0 for a single pixel to ln d where all are equal.

    H = -sum p_i ln p_i, p = |a| / sum |a|. Undefined where the map is 0 everywhere. A map of one pixel, whichever, is
    the simplest, so this describes and does not rank.

    Attributes:
        reduce: channel reduction of the map.

    Source: Bhatt, Weller & Moura 2020, arXiv:2005.00631.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "complexity"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("entropy", higher_is_better=False, range=(0.0, float("inf")), ranked=False, unit="nat"),
    )

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        share = _shares(attributions, self.reduce)
        return Scores({"entropy": torch.special.entr(share).sum(1)})


def _shares(attributions: Tensor, reduce: maps.Reduce) -> Tensor:
    """Each pixel's share of the magnitude of its map, `(N, d)` in float64; NaN where that is 0."""
    magnitude = maps.reduce_channels(attributions, reduce).double().abs().flatten(1)
    magnitude = magnitude / magnitude.amax(1, keepdim=True)
    return magnitude / magnitude.sum(1, keepdim=True)
