"""Units that are absent together: what the score loses without them, and what a map says that it should lose."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import maps, passes, randomness, units
from benchmark.baselines import Absence
from benchmark.errors import UserError
from benchmark.protocols import Batch
from metrics._curves import Units

Choose = Callable[[Tensor, Tensor], Tensor]
"""Which units are absent, `(R, most units)` bool, for the images at `image (R,)` in their draws `draw (R,)`."""

_BLOCK = 1 << 22  # of random numbers at a time


@dataclass(frozen=True)
class Subsets(Units):
    """The protocol of metrics that take subsets of the units away and look at how much of the score goes with them.

    The drop of a subset S is f(x) - f(x without S); a map says that it is the sum of its pixels in S. So a map is read
    as contributions, and a unit is worth the sum of its pixels. Drops below the rounding of the output count as none.
    """

    output: passes.Score = "logit"
    unit: str = "grid8"

    @abstractmethod
    def subsets_of(self, batch: Batch, unit: Tensor) -> tuple[Choose, int]:
        """The subsets, and how many of them an image has."""

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The drops `(N, draws)`: they do not depend on the map."""
        unit = units.units(batch, self.unit)
        absence = Absence.of(batch, self.baseline)
        choose, draws = self.subsets_of(batch, unit)

        def perturbed(image: Tensor, draw: Tensor) -> Tensor:
            shared = len(unit) == 1
            return absence.without(image, units.spread(choose(image, draw), unit if shared else unit[image]))

        found = {"drop": settled(changes(model, batch, perturbed, draws, self.output), batch, self.output)}
        if self.unit.startswith("slic"):
            found["units"] = unit.to(torch.int32)
        return found

    def worth(self, batch: Batch, attributions: Tensor, prepared: Mapping[str, Any]) -> Tensor:
        """What each unit should be worth, `(N, most units)` in float64."""
        values = maps.reduce_channels(attributions, self.reduce).double()
        return units.pooled(values, self.units_of(batch, prepared), mean=False)

    def foretold(self, batch: Batch, attributions: Tensor, prepared: Mapping[str, Any]) -> Tensor:
        """What each subset should be worth, `(N, draws)`: one matrix product, without a pass."""
        worth = self.worth(batch, attributions, prepared)
        choose, draws = self.subsets_of(batch, self.units_of(batch, prepared))
        image = torch.arange(len(worth), device=worth.device)
        sums = []
        for some in torch.arange(draws, device=worth.device).split(max(1, _BLOCK // worth.numel())):
            gone = choose(image.repeat_interleave(len(some)), some.repeat(len(image)))
            sums.append(torch.bmm(gone.view(len(image), len(some), -1).to(worth.dtype), worth.unsqueeze(2))[:, :, 0])
        return snapped(torch.cat(sums, 1), worth.abs().sum(1), worth.dtype)


@dataclass(frozen=True)
class Singles(Subsets):
    """Each unit is taken away by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_countable(self.unit)

    def subsets_of(self, batch: Batch, unit: Tensor) -> tuple[Choose, int]:
        count = int(unit.max()) + 1
        return lambda image, draw: single(draw, count), count


def check_countable(unit: str) -> None:
    """Refuse units whose number differs between images, where every unit has a pass of its own.

    Raises:
        UserError: the units are superpixels.
    """
    units.check_unit(unit)
    if not units.shared(unit):
        raise UserError(f"unit {unit!r} differs in number between images: expected pixel, patch16 or grid4")


def single(draw: Tensor, count: int) -> Tensor:
    """The unit `draw (R,)` alone of `count`: `(R, count)`."""
    return torch.arange(count, device=draw.device) == draw[:, None]


def fixed_size(keys: Tensor, there: Tensor, size: Tensor) -> Tensor:
    """`size (R,)` of the units that are `there (R, U)`, every subset of that size equally likely: `(R, U)`."""
    order = randomness.uniform(keys, there.shape[1]).masked_fill(~there, torch.inf).sort(dim=1, stable=True).indices
    first = torch.arange(there.shape[1], device=there.device) < size[:, None]
    return torch.zeros_like(there).scatter_(1, order, first)


def bernoulli(keys: Tensor, there: Tensor, share: float) -> Tensor:
    """Each of the units that are `there (R, U)` with probability `share`, by itself: `(R, U)`."""
    return (randomness.uniform(keys, there.shape[1]) < share) & there


def present(batch: Batch, unit: Tensor) -> Tensor:
    """Which units each image has, `(N, most units)`."""
    return (units.sizes(unit) > 0).expand(len(batch), -1)


def changes(
    model: nn.Module, batch: Batch, perturbed: Callable[[Tensor, Tensor], Tensor], draws: int, output: passes.Score
) -> Tensor:
    """f(x) - f(x perturbed) for every draw, `(N, draws)` in float64; `perturbed(image, draw)` makes the inputs."""

    def run(start: int, stop: int) -> Tensor:
        row = torch.arange(start, stop, device=batch.inputs.device)
        image = row // draws
        return passes.class_scores(model(perturbed(image, row % draws)), batch.targets[image], output)

    with torch.inference_mode():
        scores = torch.cat(list(passes.chunked(run, len(batch) * draws, batch.chunk))).view(len(batch), draws)
    return (passes.class_scores(batch.logits, batch.targets, output)[:, None] - scores).double()


def settled(change: Tensor, batch: Batch, output: passes.Score) -> Tensor:
    """Changes `(N, draws)` without what rounding makes of the model's output.

    Otherwise a unit that does not matter, such as background that is replaced by itself, would get a rank by chance.
    """
    clean = passes.class_scores(batch.logits, batch.targets, output)
    return snapped(change, torch.maximum(batch.logits.abs().amax(1), clean.abs()), batch.logits.dtype)


def snapped(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`values (N, K)` as multiples of 16 roundings of numbers of size `scale (N,)`, so that what is equal is a tie."""
    grain = (16 * torch.finfo(dtype).eps * scale.double())[:, None]
    return torch.where(grain > 0, (values / grain).round() * grain, values)


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension; NaN where a side is constant, up to rounding."""
    defined = _varies(first) & _varies(second)
    a, b = (values - values.mean(-1, keepdim=True) for values in (first.double(), second.double()))
    a, b = (values / values.abs().amax(-1, keepdim=True) for values in (a, b))
    found = (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(defined, found.clamp(-1, 1), torch.nan)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation along the last dimension, ties by average rank; NaN where a side is constant."""
    defined = _varies(first) & _varies(second)
    return torch.where(defined, pearson(maps.average_ranks(first), maps.average_ranks(second)), torch.nan)


def _varies(values: Tensor) -> Tensor:
    low, high = values.amin(-1), values.amax(-1)
    return high - low > 2.0**-40 * torch.maximum(low.abs(), high.abs())
