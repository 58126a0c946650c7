"""Pointing game: does the largest value of a map lie on the object?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores


@dataclass(frozen=True)
class PointingGame(Metric):
    """Chance that the map's maximum, picked at random among equals, lies on the object, in [0, 1]; higher is better.

    A single maximum gives 0 or 1. Of m equal maxima the share that lies on the object counts, so a constant map scores
    the mask's share of the image. An image without an object is undefined.

    Attributes:
        tolerance: a maximum this many pixels or fewer from the object still hits (15 in the source, for photographs).
        reduce: channel reduction of the map.

    Source: Zhang et al. 2016, arXiv:1608.00507.
    """

    tolerance: int = 0
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "localisation"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("pointing_game", higher_is_better=True, range=(0.0, 1.0)),)
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        if self.tolerance < 0:
            raise UserError(f"the pointing game needs tolerance >= 0, not {self.tolerance}")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        assert batch.masks is not None
        values = maps.reduce_channels(attributions, self.reduce)
        largest = values == values.amax((1, 2), keepdim=True)
        hits = (largest & _dilate(batch.masks, self.tolerance)).sum((1, 2)).double() / largest.sum((1, 2))
        return Scores({"pointing_game": torch.where(batch.masks.any(2).any(1), hits, torch.nan)})


def _dilate(masks: Tensor, radius: int) -> Tensor:
    """`masks (N, H, W)` grown by every pixel whose centre is at most `radius` pixels away."""
    if radius == 0:
        return masks
    offset = torch.arange(-radius, radius + 1, device=masks.device)
    disc = (offset[:, None] ** 2 + offset**2 <= radius**2).float()
    return nn.functional.conv2d(masks[:, None].float(), disc[None, None], padding=radius)[:, 0] > 0.5
