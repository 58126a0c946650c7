"""Perturbation curves: the score of the target class while units of the image are taken away."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from benchmark import baselines, maps, passes, units
from benchmark.baselines import Absence
from benchmark.errors import UserError, unknown
from benchmark.protocols import Batch

Area = Literal["trapezoid", "mean", "mean_but_absent", "steps"]
Read = Callable[[Tensor, Tensor], Tensor]
"""What a curve follows: logits `(R, K)` and targets `(R,)` to `(R,)`."""


@dataclass(frozen=True)
class Units:
    """What is taken away, and what takes its place: the part of a protocol that all perturbation metrics share.

    Attributes:
        output: the score that is followed: softmax probability `prob`, `logit` or `logodds` of the frozen target.
        baseline: what stands for absent: `shared` is the one that the data set's choice fixed for all methods and
            metrics; any other belongs to this metric alone.
        unit: `pixel`, `patch16` for squares of 16 pixels, `slic100` for about 100 superpixels. A unit is worth the mean
            of its pixels.
        reduce: how the channels of a map become one value a pixel, once, before anything is ranked.

    Ties fall by a hash of (seed, uid, unit).
    """

    output: passes.Score = "prob"
    baseline: baselines.Fill = "shared"
    unit: str = "pixel"
    reduce: maps.Reduce = "sum"

    def __post_init__(self) -> None:
        passes.check_score(self.output)
        baselines.check_fill(self.baseline)
        units.check_unit(self.unit)
        maps.check_reduce(self.reduce)

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Output where all is absent, and superpixels, where the batch does not hold them already."""
        found = self.superpixels(batch)
        if self.baseline != "shared":
            found["absent_logits"] = Absence.of(batch, self.baseline).logits(model)
        return found

    def superpixels(self, batch: Batch) -> dict[str, Tensor]:
        """What `prepare` holds of the units: nothing where all images share them."""
        return {"units": units.units(batch, self.unit).to(torch.int32)} if self.unit.startswith("slic") else {}

    @property
    def drops(self) -> tuple[float, float]:
        """Smallest and largest possible difference of two scores."""
        return (-1.0, 1.0) if self.output == "prob" else (-math.inf, math.inf)

    def read(self, logits: Tensor, targets: Tensor) -> Tensor:
        return passes.class_scores(logits, targets, self.output)

    def units_of(self, batch: Batch, prepared: Mapping[str, Any]) -> Tensor:
        """The unit of each pixel, `(1 or N, H, W)`."""
        return prepared["units"] if "units" in prepared else units.units(batch, self.unit)

    def rank(self, batch: Batch, attributions: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Rank of each unit `(N, most units)`, 0 for the most relevant, and how many units each image has `(N,)`."""
        worth = self.relevance(attributions, unit)
        there = units.sizes(unit) > 0
        ranks = maps.descending_ranks(worth.masked_fill(~there, -torch.inf), batch.keys("ties")[:, 0])
        return ranks, there.sum(1).expand(len(batch))

    def relevance(self, attributions: Tensor, unit: Tensor) -> Tensor:
        """What each unit is ranked by, `(N, most units)`: the mean of its pixels."""
        return units.pooled(maps.reduce_channels(attributions, self.reduce), unit)

    def path(
        self, model: nn.Module, batch: Batch, attributions: Tensor, prepared: Mapping[str, Any]
    ) -> tuple[Callable[..., Tensor], Tensor]:
        """`walk` in the order of the map, a function of `gone` and `last_first`; and the number of units `(N,)`."""
        unit = self.units_of(batch, prepared)
        ranks, count = self.rank(batch, attributions, unit)
        ends = batch.logits, prepared.get("absent_logits", batch.baseline_logits)
        absence = Absence.of(batch, self.baseline)
        return partial(walk, model, absence, units.spread(ranks, unit), ends=ends, read=self.read), count

    def grid(self, count: Tensor, steps: int) -> Tensor:
        """How many of `count (N,)` units are taken at each of `steps` equal steps from none to all: `(N, S)`.

        There are at most as many steps as units; and as many as asked for where images have different units, so that
        a curve is as long in any company.
        """
        steps = min(steps, int(count[0])) if units.shared(self.unit) else steps
        return _rounded(torch.linspace(0, 1, steps + 1, dtype=torch.float64), count)


def check_steps(steps: int) -> None:
    """Refuse a curve of no step.

    Raises:
        UserError: with how many there must be.
    """
    if steps < 1:
        raise UserError(f"curves need steps >= 1, not {steps}")


def walk(
    model: nn.Module,
    absence: Absence,
    ranks: Tensor,
    gone: Tensor,
    ends: tuple[Tensor, Tensor],
    read: Read,
    *,
    last_first: bool = False,
) -> Tensor:
    """The curve `(N, S)` of `read` while units are absent.

    Args:
        ranks: of the unit of each pixel, `(N, H, W)`.
        gone: `(N, S)` how many units are absent at each step, in any order: the most relevant ones, or the least
            relevant ones with `last_first`.
        ends: logits `(N, K)` of the whole images and of those where all is absent.

    No pass is made where none or all are absent, nor where as many are as at the step before.
    """
    batch, count = absence.batch, ranks.flatten(1).amax(1) + 1
    whole, nothing = gone == 0, gone == count[:, None]
    new = torch.ones_like(whole)
    new[:, 1:] = gone[:, 1:] != gone[:, :-1]
    images, steps = (new & ~whole & ~nothing).nonzero(as_tuple=True)
    if last_first:
        ranks = count[:, None, None] - 1 - ranks

    def score(start: int, stop: int) -> Tensor:
        image = images[start:stop]
        absent = ranks[image] < gone[image, steps[start:stop], None, None]
        return read(model(absence.without(image, absent)), batch.targets[image])

    first, last = (read(logits, batch.targets) for logits in ends)
    curve = torch.where(whole, first[:, None], last[:, None]).double()
    with torch.inference_mode():
        found = list(passes.chunked(score, len(images), batch.chunk))
    if found:
        curve[images, steps] = torch.cat(found).double()
    places = torch.arange(gone.shape[1], device=gone.device)
    return curve.gather(1, torch.where(new, places, 0).cummax(1).values)


@dataclass(frozen=True)
class Curves(Units):
    """The protocol that deletion, insertion and SRG share.

    Attributes:
        steps: equal fractions of the units between none and all, both of them part of the curve, at most as many as
            there are units; or a list from 0 to 1 of the fractions that are absent, for insertion too.
        area: `trapezoid` over the fractions that were really absent. The others repeat what other libraries compute:
            `mean` of all points; mean of all but the one where all is absent (`mean_but_absent`); trapezoid with a
            width of 1 a step, without the point of the whole image (`steps`).
    """

    steps: int | Sequence[float] = 32
    area: Area = "trapezoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.area not in get_args(Area):
            raise UserError(unknown("area ", self.area, get_args(Area)))
        if isinstance(self.steps, int):
            if self.steps < 2:
                raise UserError(f"a curve of steps={self.steps} knows no order: expected 2 or more")
        else:
            fractions = list(self.steps)
            object.__setattr__(self, "steps", tuple(fractions))
            if sorted(set(fractions)) != fractions or fractions[:1] != [0] or fractions[-1] != 1 or len(fractions) < 3:
                raise UserError(
                    f"steps={fractions} are no ascending fractions of the units, from 0 to 1, ends included"
                )

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible area."""
        if self.output != "prob":
            return -math.inf, math.inf
        return 0.0, math.inf if self.area == "steps" else 1.0

    def trace(
        self, model: nn.Module, batch: Batch, attributions: Tensor, prepared: Mapping[str, Any], *, insert: bool
    ) -> tuple[Tensor, Tensor]:
        """Area `(N,)` and curve `(N, S)` while the most relevant units are deleted, or inserted, first."""
        follow, count = self.path(model, batch, attributions, prepared)
        moved = self._moved(count)
        if insert:
            # What is there at a step of insertion is what is left at one of deletion, however halves are rounded.
            moved = count[:, None] - moved.flip(1)
        # What is not inserted yet is absent, and that is the least relevant.
        curve = follow(count[:, None] - moved if insert else moved, last_first=insert)
        return _area(curve, moved.double() / count[:, None], self.area, insert), curve

    def _moved(self, count: Tensor) -> Tensor:
        if isinstance(self.steps, int):
            return self.grid(count, self.steps)
        return _rounded(torch.tensor(self.steps, dtype=torch.float64), count)


def _rounded(fractions: Tensor, count: Tensor) -> Tensor:
    """`fractions (S,)` of `count (N,)` units, in whole units: `(N, S)`."""
    return (fractions.to(count.device) * count[:, None]).round().long()


def _area(curve: Tensor, fractions: Tensor, how: Area, insert: bool) -> Tensor:
    """Area `(N,)` under `curve (N, S)` over `fractions (N, S)`, see `Curves`."""
    if how == "trapezoid":
        return torch.trapezoid(curve, fractions)
    if how == "mean":
        return curve.mean(1)
    deleted = curve.flip(1) if insert else curve  # from the whole image to its absence
    return deleted[:, :-1].mean(1) if how == "mean_but_absent" else torch.trapezoid(deleted[:, 1:], dx=1.0)
