"""Mass on a part of a drawn scene: on the object, on a watermark that the model takes for it, on suppressors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps, units
from benchmark.baselines import Absence
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._mass import mass
from metrics._subsets import changes, settled


@dataclass(frozen=True)
class PartMass(Metric):
    """What these metrics share: positive relevance on the part `named` of a scene over all positive relevance.

    M = sum_{i in part} a+_i / sum_i a+_i, in [0, 1]. With `reduce=abs_sum` or `l2` negative relevance counts as well. A
    constant map has the share of the image that the part has, and so have random maps in expectation. An image without
    the part, or a map without a positive value, is undefined.

    Attributes:
        reduce: channel reduction of the map.

    Raises:
        NotApplicable: the scenes of the data set have no part of that name.
    """

    reduce: maps.Reduce = "sum"

    named: ClassVar[str]
    version: ClassVar[str] = "2"
    family: ClassVar[str] = "truth"

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        return Scores({self.measures[0].name: _share(batch, attributions, self.named, self.reduce)})


@dataclass(frozen=True)
class ObjectMass(PartMass):
    """Share of the positive relevance that lies on the object, whatever the class is; it describes and does not rank.

    Between a model that needs the object and one that has no use for it, on the same images, the difference of the two
    means is a model contrast: a faithful map has more on the object for the first. By itself it is neither good nor
    bad. The source contrasts the mean of the map over the object, scaled to [0, 1]; a share needs no scale.

    Source: Yang & Kim 2019, arXiv:1907.09701.
    """

    named: ClassVar[str] = "object"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("object_mass", higher_is_better=None, range=(0.0, 1.0), ranked=False),
    )


@dataclass(frozen=True)
class SuppressorMass(PartMass):
    """Share of the magnitudes that lies on suppressors: false alarms; lower is better, 0 at best.

    Suppressors mean nothing of the class by themselves and help to cancel noise elsewhere. A map that marks them is
    faithful to the model and wrong about the world, so this is evidence and no ranking. It stands beside precision, the
    relevance rank on the figures.

    Attributes:
        reduce: channel reduction of the map; magnitudes by default, since noise that is subtracted is negative
            relevance.

    Source: Wilming et al. 2022, arXiv:2111.07473; Clark, Wilming & Haufe 2023, arXiv:2306.12816.
    """

    reduce: maps.Reduce = "abs_sum"

    named: ClassVar[str] = "suppressors"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("suppressor_mass", higher_is_better=False, range=(0.0, 1.0), ranked=False),
    )


@dataclass(frozen=True)
class ShortcutMass(Metric):
    """Share of the positive relevance on the watermark of a scene, where the model is shown to use it.

    What the target's logit loses when the scene is drawn without the watermark (the part called mark) and without the
    object certifies an image, by the model's own behaviour on images like those that it knows: drop_mark >= `least` and
    drop_mark >= `factor` drop_object.

        certified      the share of the watermark on certified images, undefined on others; higher is better
        shortcut_mass  the share on every image that has a watermark; it describes
        drop_mark      f(x) - f(x without the watermark), in logits, the same for every method
        drop_object    f(x) - f(x without the object), likewise

    On a certified image the evidence for the target is the watermark, and a map that finds it puts its positive
    relevance there. A model that has learned no shortcut has no certified image. A method without a model may light up
    the watermark as well (an edge detector does), so read it beside the null rows and beside the mass on a decoy.

    Attributes:
        factor: how many times more than the object the watermark must matter.
        least: logits that it must be worth: 1 is a factor e in the odds of the target where other logits stay. Without
            it a scene on which nothing matters would be certified.
        reduce: channel reduction of the map.

    Raises:
        NotApplicable: the scenes of the data set have no parts called mark and object, or are not drawn without them.
    """

    factor: float = 5.0
    least: float = 1.0
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "3"
    family: ClassVar[str] = "truth"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("certified", higher_is_better=True, range=(0.0, 1.0)),
        Measure("shortcut_mass", higher_is_better=None, range=(0.0, 1.0), ranked=False),
        Measure("drop_mark", higher_is_better=None, range=(-math.inf, math.inf), ranked=False),
        Measure("drop_object", higher_is_better=None, range=(-math.inf, math.inf), ranked=False),
    )

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        if self.factor <= 0 or self.least <= 0:
            raise UserError(f"the shortcut mass needs factor > 0 and least > 0, not {self.factor} and {self.least}")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """What the logit loses without the watermark and without the object, `(N,)` each, NaN where there is none."""
        where = torch.stack([units.part(batch, "mark"), units.part(batch, "object")], 1)
        absence = Absence.of(batch, "empty")

        def perturbed(image: Tensor, draw: Tensor) -> Tensor:
            return absence.without(image, where[image, draw])

        drops = settled(changes(model, batch, perturbed, 2, "logit"), batch, "logit")
        mark, thing = drops.where(where.flatten(2).any(2), torch.nan).T
        return {"drop_mark": mark, "drop_object": thing}

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        mark, thing = prepared["drop_mark"], prepared["drop_object"]
        share = _share(batch, attributions, "mark", self.reduce)
        used = (mark >= self.least) & (mark >= self.factor * thing)
        certified = share.where(used, torch.nan)
        return Scores({"certified": certified, "shortcut_mass": share, "drop_mark": mark, "drop_object": thing})


def _share(batch: Batch, attributions: Tensor, name: str, reduce: maps.Reduce) -> Tensor:
    """The share `(N,)` of the part called `name`, see `PartMass`."""
    there = units.part(batch, name)
    found = mass(maps.reduce_channels(attributions, reduce).double(), there)
    return found.where(there.any(2).any(1), torch.nan)
