"""Sobol: the part of the score's variance under random masks that each unit of the image has a hand in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from benchmark import randomness
from benchmark.baselines import Fill
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._coalitions import Coalitions, check_options, exact_number, number


def scrambled(keys: Tensor, units: int, designs: int) -> Tensor:
    """Points of a Sobol sequence, scrambled by each key, two coordinates a unit: `(R, 2, designs, units)` in [0, 1).

    Nested uniform scrambling (Owen 1995, doi:10.1007/978-1-4612-2552-2_19): each point is uniform and each coordinate
    as evenly spread as before, but no two coordinates depend on each other by construction.
    """
    bits = max(1, math.ceil(math.log2(designs)))
    cells = 1 << bits
    points = SobolEngine(2 * units).draw(designs, dtype=torch.float64).to(keys.device)
    cell = (points.mT.reshape(units, 2, designs) * cells).long()
    numbers = randomness.uniform(keys, units, 2, cells + designs)
    flips, within = (numbers[..., :cells] < 0.5).long(), numbers[..., cells:].double()
    found = torch.zeros_like(within, dtype=torch.int64)
    for level in range(bits):
        before = cell >> (bits - level)  # digits above this one, which choose the flip, as places in a tree
        flip = flips.gather(-1, ((1 << level) + before).expand_as(found))
        found = 2 * found + ((cell >> (bits - level - 1)) & 1 ^ flip)
    return ((found + within) / cells).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Sobol(Method):
    """Total index `E[Var(z_t | all units but u)] / Var(z_t)` at each pixel of unit u: `(N, 1, H, W)`, not negative.

    Units are mixed with the baseline, `x * m + b * (1 - m)`, by independent uniform m. Jansen's estimator (1999,
    doi:10.1016/S0010-4655(98)00154-4) is `sum_j (f(A_j) - f(A_j with u from B_j))^2 / (2 designs Var f(A))`, for two
    designs A and B. f(B) is not in it, so there are `designs (d + 1)` passes for d units, where the paper counts d + 2.

    The authors use one unscrambled Sobol sequence for all images. In the 128 dimensions of their grid, 32 points leave
    coordinates that are equal, and A and B nearly so at some units and not at others, which favours the same places in
    every image. Here each image's points are scrambled by itself. Their maps are upsampled by a bicubic filter; here
    each unit keeps its value.

    Source: Fel, Cadene, Chalvidal, Cord, Vigouroux & Serre 2021, arXiv:2111.04138.

    Attributes:
        designs: points of A, at least 2; powers of two are spread most evenly.
        unit: what has one m, see `benchmark.units`.
        baseline: what is mixed in, see `benchmark.baselines.Baseline`.

    Raises:
        UserError: an option is out of its range, or the image has more units than a Sobol sequence serves.

    Example:
        >>> Sobol(designs=32, unit="grid8").passes
        2080
    """

    stochastic = True

    designs: int = 32
    unit: str = "grid8"
    baseline: Fill = "shared"

    def __post_init__(self) -> None:
        check_options(self.unit, self.baseline)
        if self.baseline == "nli":
            raise UserError("baseline nli fills in what is absent altogether, and Sobol masks are of any strength")
        if self.designs < 2:
            raise UserError(f"Sobol needs designs >= 2, not {self.designs}")

    @property
    def passes(self) -> int | None:
        units = exact_number(self.unit)
        return None if units is None else self.designs * (units + 1)

    def within(self, passes: int) -> Self:
        units = number(self.unit)
        return self if units is None else replace(self, designs=max(2, passes // (units + 1)))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        game = Coalitions.of(model, batch, self.unit, self.baseline)
        if 2 * game.most > SobolEngine.MAXDIM:
            most = SobolEngine.MAXDIM // 2
            raise UserError(f"Sobol sequences serve up to {most} units, and {self.unit} makes {game.most} of an image")
        a, b = scrambled(batch.keys("sobol")[:, 0], game.most, self.designs).unbind(1)
        unit = torch.arange(game.most, device=a.device)

        def strength(image: Tensor, draw: Tensor) -> Tensor:
            point, swapped = draw % self.designs, (draw // self.designs - 1).unsqueeze(1)
            return torch.where(unit == swapped, b[image, point], a[image, point])

        wanted = game.first(game.counts + 1, game.most + 1).repeat_interleave(self.designs, 1)
        scores = game.scores(model, strength, wanted).view(len(batch), -1, self.designs)
        first = scores[:, :1]
        variance = first.var(2)
        rounding = torch.finfo(batch.inputs.dtype).eps * first.abs().amax(2)
        share = (first - scores[:, 1:]).square().mean(2) / (2 * variance)
        return game.painted(torch.where((variance > rounding.square()) & game.there, share, 0))
