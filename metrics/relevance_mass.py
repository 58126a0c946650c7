"""Relevance mass accuracy: the share of positive relevance that lies on the object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores


@dataclass(frozen=True)
class RelevanceMass(Metric):
    """Positive relevance inside the object's mask over all positive relevance, in [0, 1]; higher is better.

    RMA = sum_{p in mask} R+_p / sum_p R+_p. A constant or independent random map scores the mask's share of the image
    in expectation; a map without positive values, or an image without an object, is undefined. It asks where the
    object is, not what the model uses.

    Source: Arras, Osman & Samek 2022, doi:10.1016/j.inffus.2021.11.008.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "localisation"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("relevance_mass", higher_is_better=True, range=(0.0, 1.0)),)
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        assert batch.masks is not None
        positive = maps.reduce_channels(attributions, self.reduce).double().clamp(min=0)
        mass = (positive * batch.masks).sum((1, 2)) / positive.sum((1, 2))
        return Scores({"relevance_mass": torch.where(batch.masks.any(2).any(1), mass, torch.nan)})
