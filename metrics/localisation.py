"""Localisation: does a map lie on the object? It asks where the object is, which need not be what the model uses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.errors import UserError, unknown
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._mass import mass

Rule = Literal["maximum", "top", "mask"]


class OnObject(Metric):
    """What these metrics share: one value a pixel, an object mask, and no score for an image without an object.

    Below, an image has d pixels and the mask m of them; random maps are maps of independent, equally distributed
    pixels. Ties fall by a hash of (seed, uid, pixel).
    """

    family: ClassVar[str] = "localisation"
    needs: ClassVar[frozenset[str]] = frozenset({"masks"})
    reduce: maps.Reduce

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        assert batch.masks is not None
        values = maps.reduce_channels(attributions, self.reduce).double()
        found = torch.where(batch.masks.any(2).any(1), self.compare(batch, values, batch.masks), torch.nan)
        return Scores({self.measures[0].name: found})

    @abstractmethod
    def compare(self, batch: Batch, values: Tensor, masks: Tensor) -> Tensor:
        """The score `(N,)` of maps `(N, H, W)` in float64 against `masks (N, H, W)`."""


@dataclass(frozen=True)
class PointingGame(OnObject):
    """Chance that the map's maximum, picked at random among equals, lies on the object, in [0, 1]; higher is better.

    A single maximum gives 0 or 1. Of several equal maxima the share that lies on the object counts. A constant map
    scores m / d, with a `tolerance` the share of the grown mask, and so do random maps in expectation. An image without
    an object is undefined.

    Attributes:
        tolerance: a maximum this many pixels or fewer from the object still hits (15 in the source, for photographs).
        reduce: channel reduction of the map.

    Source: Zhang et al. 2016, arXiv:1608.00507.
    """

    tolerance: int = 0
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("pointing_game", higher_is_better=True, range=(0.0, 1.0)),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tolerance < 0:
            raise UserError(f"the pointing game needs tolerance >= 0, not {self.tolerance}")

    def compare(self, batch: Batch, values: Tensor, masks: Tensor) -> Tensor:
        largest = values == values.amax((1, 2), keepdim=True)
        return (largest & _grown(masks, self.tolerance)).sum((1, 2)).double() / largest.sum((1, 2))


@dataclass(frozen=True)
class RelevanceMass(OnObject):
    """Positive relevance inside the object's mask over all positive relevance, in [0, 1]; higher is better.

    RMA = sum_{i in mask} R+_i / sum_i R+_i, also known as attribution localisation (Kohlbrenner et al. 2020,
    arXiv:1910.09840). A constant map scores m / d, random maps do in expectation. A map without positive values, or an
    image without an object, is undefined.

    Source: Arras, Osman & Samek 2022, doi:10.1016/j.inffus.2021.11.008.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("relevance_mass", higher_is_better=True, range=(0.0, 1.0)),)

    def compare(self, batch: Batch, values: Tensor, masks: Tensor) -> Tensor:
        return mass(values, masks)


@dataclass(frozen=True)
class RelevanceRank(OnObject):
    """Of as many most relevant pixels as the mask has, the share that lies in it, in [0, 1]; higher is better.

    RRA = |top-m and mask| / m. Only the order of the map matters. A constant map and random maps score m / d in
    expectation. An image without an object is undefined.

    Source: Arras, Osman & Samek 2022, doi:10.1016/j.inffus.2021.11.008.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("relevance_rank", higher_is_better=True, range=(0.0, 1.0)),)

    def compare(self, batch: Batch, values: Tensor, masks: Tensor) -> Tensor:
        area = masks.sum((1, 2))
        return (_top(batch, values, area) & masks).sum((1, 2)).double() / area


@dataclass(frozen=True)
class EnergyPointingGame(OnObject):
    """Positive relevance inside the object's bounding box over all positive relevance, in [0, 1]; higher is better.

    EBPG = sum_{i in box} R+_i / sum_i R+_i, where the box is the smallest upright rectangle around all of the mask. A
    constant map scores the box's share of the image, random maps do in expectation. A map without positive values, or
    an image without an object, is undefined.

    Source: Wang et al. 2020, arXiv:1910.01279.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("energy_pointing_game", higher_is_better=True, range=(0.0, 1.0)),
    )

    def compare(self, batch: Batch, values: Tensor, masks: Tensor) -> Tensor:
        return mass(values, _box(masks))


@dataclass(frozen=True)
class TopKIntersection(OnObject):
    """Share of the most relevant pixels that lies in the mask, in [0, 1]; higher is better.

    TKI = |top-k and mask| / k with k = `share` x d, at least 1. Only the order of the map matters. A constant map and
    random maps score m / d in expectation; an object of fewer than k pixels cannot reach 1. An image without an object
    is undefined.

    Attributes:
        share: of the image's pixels that count as the most relevant. The source has a fixed number of pixels; 1000,
            as its followers use, are 2 % of 224 x 224.
        reduce: channel reduction of the map.

    Source: Theiner, Müller-Budack & Ewerth 2022, arXiv:2104.14995.
    """

    share: float = 0.02
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("top_k_intersection", higher_is_better=True, range=(0.0, 1.0)),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise UserError(f"the top-k intersection needs 0 < share <= 1, not {self.share}")

    def compare(self, batch: Batch, values: Tensor, masks: Tensor) -> Tensor:
        count = _share_of(self.share, values)
        return (_top(batch, values, count) & masks).sum((1, 2)).double() / count


@dataclass(frozen=True)
class AUROC(OnObject):
    """Chance that a pixel of the object is more relevant than one beside it, ties counting half; higher is better.

    The area under the ROC curve of the map's values as a detector of the mask: (sum of the ranks in the mask -
    m (m + 1) / 2) / (m (d - m)) with average ranks for ties, in [0, 1]. Only the order of the map matters. A constant
    map scores 1/2, random maps do in expectation. An image without an object, or without anything else, is undefined.

    Source: Kapishnikov et al. 2019, arXiv:1906.02825, who score maps so; by ranks as in Mann & Whitney 1947,
    doi:10.1214/aoms/1177730491.
    """

    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("auroc", higher_is_better=True, range=(0.0, 1.0), null=0.5),)

    def compare(self, batch: Batch, values: Tensor, masks: Tensor) -> Tensor:
        inside = masks.flatten(1).double()
        ranks = maps.average_ranks(values.flatten(1))  # from 0
        area = inside.sum(1)
        # Without a pixel outside this is 0 / 0, so NaN.
        return ((ranks * inside).sum(1) - area * (area - 1) / 2) / (area * (inside.shape[1] - area))


@dataclass(frozen=True)
class AttributionIoU(OnObject):
    """Intersection over union of the mask and the most relevant pixels, in [0, 1]; higher is better.

    IoU = |kept and mask| / |kept or mask|. A random map of which k pixels are kept scores sum_j P(j) j / (k + m - j) in
    expectation, where j of them fall on the mask by the hypergeometric law: about q p / (q + p - q p) with q = k / d
    and p = m / d. A constant map keeps all pixels under `maximum` and scores m / d. A map without positive values is
    undefined under `maximum`, an image without an object always.

    Attributes:
        rule: which pixels are kept: those of at least `threshold` x the map's `maximum`; the `threshold` x d largest
            (`top`), at least 1; or as many as the `mask` has. The last needs no threshold, and is r / (2 - r) of the
            relevance rank accuracy r, so it says nothing new beside that.
        threshold: 0.15 in the first source, 0.2 in the second. Both put a box around what is kept and compare boxes;
            here the pixels are compared.
        reduce: channel reduction of the map.

    Source: Selvaraju et al. 2017, arXiv:1610.02391; Zhou et al. 2016, arXiv:1512.04150.
    """

    rule: Rule = "maximum"
    threshold: float = 0.15
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("attribution_iou", higher_is_better=True, range=(0.0, 1.0)),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in get_args(Rule):
            raise UserError(unknown("rule ", self.rule, get_args(Rule)))
        if not 0 < self.threshold <= 1:
            raise UserError(f"the attribution IoU needs 0 < threshold <= 1, not {self.threshold}")

    def compare(self, batch: Batch, values: Tensor, masks: Tensor) -> Tensor:
        if self.rule == "maximum":
            largest = values.amax((1, 2), keepdim=True)
            kept = (values >= self.threshold * largest).where(largest > 0, other=False)
        else:
            count = masks.sum((1, 2)) if self.rule == "mask" else _share_of(self.threshold, values)
            kept = _top(batch, values, count)
        found = (kept & masks).sum((1, 2)).double() / (kept | masks).sum((1, 2))
        return torch.where(kept.any(2).any(1), found, torch.nan)


def _top(batch: Batch, values: Tensor, count: Tensor) -> Tensor:
    """True `(N, H, W)` at the `count (N,)` largest of `values`, ties by hash."""
    ranks = maps.descending_ranks(values.flatten(1), batch.keys("ties")[:, 0]).view(values.shape)
    return ranks < count[:, None, None]


def _share_of(share: float, values: Tensor) -> Tensor:
    """How many pixels, at least one, are `share` of those of each map: `(N,)`."""
    pixels = values.shape[1] * values.shape[2]
    return torch.full((len(values),), max(1, round(share * pixels)), device=values.device)


def _box(masks: Tensor) -> Tensor:
    """`masks (N, H, W)` filled to the smallest upright rectangle around them."""
    rows, columns = _span(masks.any(2)), _span(masks.any(1))
    return rows[:, :, None] & columns[:, None, :]


def _span(line: Tensor) -> Tensor:
    """True from the first to the last true place of `line (N, L)`."""
    return (line.cumsum(1) > 0) & (line.flip(1).cumsum(1).flip(1) > 0)


def _grown(masks: Tensor, radius: int) -> Tensor:
    """`masks (N, H, W)` and every pixel whose centre is at most `radius` pixels away from theirs."""
    if radius == 0:
        return masks
    offset = torch.arange(-radius, radius + 1, device=masks.device)
    disc = (offset[:, None] ** 2 + offset**2 <= radius**2).float()
    return nn.functional.conv2d(masks[:, None].float(), disc[None, None], padding=radius)[:, 0] > 0.5
