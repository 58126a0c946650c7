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

_OBJECT, _MARK = 1, 2


@dataclass(frozen=True)
class PartMass(Metric):
    """What these metrics share: positive relevance on one part of a scene over all positive relevance.

    M = sum_{i in part} a+_i / sum_i a+_i, in [0, 1]. With `reduce=abs_sum` or `l2` negative relevance counts as well. A
    constant map has the share of the image that the part has, and so have random maps in expectation. An image without
    the part, or a map without a positive value, is undefined.

    Raises:
        NotApplicable: the scenes of the data set have no parts.
    """

    part: int = _OBJECT
    reduce: maps.Reduce = "sum"

    family: ClassVar[str] = "truth"

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        if self.part < 1:
            raise UserError(f"part={self.part} is no part of a scene: expected 1 or more")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        return Scores({self.measures[0].name: _share(batch, attributions, self.part, self.reduce)})


@dataclass(frozen=True)
class ObjectMass(PartMass):
    """Share of the positive relevance that lies on the object, whatever the class is; it describes and does not rank.

    Between a model that needs the object and one that has no use for it, on the same images, the difference of the two
    means is a model contrast: a faithful map has more on the object for the first. By itself it is neither good nor
    bad. The source contrasts the mean of the map over the object, scaled to [0, 1]; a share needs no scale.

    Attributes:
        part: number of the object among the parts of the scene.
        reduce: channel reduction of the map.

    Source: Yang & Kim 2019, arXiv:1907.09701.
    """

    version: ClassVar[str] = "1"
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
        part: number of the suppressors among the parts of the scene.
        reduce: channel reduction of the map; magnitudes by default, since noise that is subtracted is negative
            relevance.

    Source: Wilming et al. 2022, arXiv:2111.07473; Clark, Wilming & Haufe 2023, arXiv:2306.12816.
    """

    part: int = 2
    reduce: maps.Reduce = "abs_sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("suppressor_mass", higher_is_better=False, range=(0.0, 1.0), ranked=False),
    )


@dataclass(frozen=True)
class ShortcutMass(Metric):
    """Share of the positive relevance on the watermark of a scene, where the model is shown to use it.

    What the target's logit loses when the scene is drawn without the watermark (part 2) and without the object (part 1)
    certifies an image, by the model's own behaviour on images like those that it knows: drop_mark > 0 and drop_mark >=
    `factor` drop_object.

        certified      the share of the watermark on certified images, undefined on others; higher is better
        shortcut_mass  the share on every image that has a watermark; it describes
        drop_mark      f(x) - f(x without the watermark), in logits, the same for every method
        drop_object    f(x) - f(x without the object), likewise

    On a certified image the evidence for the target is the watermark, and a map that finds it puts its positive
    relevance there. A model that has learned no shortcut has no certified image. A method without a model may light up
    the watermark as well (an edge detector does), so read it beside the null rows and beside the mass on a decoy.

    Attributes:
        factor: how many times more than the object the watermark must matter.
        reduce: channel reduction of the map.

    Raises:
        NotApplicable: the data set does not draw its scenes without their parts.
    """

    factor: float = 5.0
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "truth"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("certified", higher_is_better=True, range=(0.0, 1.0)),
        Measure("shortcut_mass", higher_is_better=None, range=(0.0, 1.0), ranked=False),
        Measure("drop_mark", higher_is_better=None, range=(-math.inf, math.inf), ranked=False),
        Measure("drop_object", higher_is_better=None, range=(-math.inf, math.inf), ranked=False),
    )

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        if self.factor <= 0:
            raise UserError(f"the shortcut mass needs factor > 0, not {self.factor}")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """What the logit loses without the watermark and without the object, `(N,)` each, NaN where there is none."""
        parts, absence = units.units(batch, "part"), Absence.of(batch, "empty")
        numbers = parts.new_tensor([_MARK, _OBJECT])

        def perturbed(image: Tensor, draw: Tensor) -> Tensor:
            return absence.without(image, parts[image] == numbers[draw, None, None])

        drops = settled(changes(model, batch, perturbed, 2, "logit"), batch, "logit")
        there = (parts.flatten(1)[:, :, None] == numbers).any(1)
        mark, thing = drops.where(there, torch.nan).T
        return {"drop_mark": mark, "drop_object": thing}

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        mark, thing = prepared["drop_mark"], prepared["drop_object"]
        share = _share(batch, attributions, _MARK, self.reduce)
        used = (mark > 0) & (mark >= self.factor * thing)
        certified = share.where(used, torch.nan)
        return Scores({"certified": certified, "shortcut_mass": share, "drop_mark": mark, "drop_object": thing})


def _share(batch: Batch, attributions: Tensor, part: int, reduce: maps.Reduce) -> Tensor:
    """The share `(N,)` of a part, see `PartMass`."""
    there = units.units(batch, "part") == part
    found = mass(maps.reduce_channels(attributions, reduce).double(), there)
    return found.where(there.any(2).any(1), torch.nan)
