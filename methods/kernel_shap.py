"""KernelSHAP: Shapley values of the units of an image, as a weighted regression on coalitions."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.baselines import Fill
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._coalitions import Coalitions, blocks, check_options, exact_number, least_squares, ranked


def enumerated(units: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """The coalitions that `samples` are enough to try all of, for an image of d `units`, and what is then left.

    A coalition of k units has the weight `1 / (k (d - k))` over the number of such coalitions. The sizes k and d - k
    are taken together, from 1 on, as long as the samples that are their share of the weight can try all of them.

    Returns:
        coalitions: `(E, units)` bool, without the empty and the full one.
        weights: of each, `(E,)`, as parts of all weight.
        left: the weight of all other coalitions, by the number of their units or of the absent, whichever is smaller:
            `(units // 2,)` for 1, 2, ...
    """
    sizes = range(1, units // 2 + 1)
    mass = torch.tensor([(1 + (2 * k < units)) / (k * (units - k)) for k in sizes], dtype=torch.float64)
    mass /= mass.sum()
    known: list[Collection[int]] = []
    weights: list[Tensor] = []
    for place, k in enumerate(sizes):
        count = math.comb(units, k) * (1 + (2 * k < units))
        if (samples - len(known)) * float(mass[place] / mass[place:].sum()) < count * (1 - 1e-9):
            break
        few = list(combinations(range(units), k))
        known += few
        if 2 * k < units:
            known += [set(range(units)).difference(some) for some in few]
        weights.append((mass[place] / count).expand(count))
        mass[place] = 0
    return _table(known, units), torch.cat([mass[:0], *weights]), mass


def _table(coalitions: Sequence[Collection[int]], units: int) -> Tensor:
    pairs = [(row, unit) for row, members in enumerate(coalitions) for unit in members]
    row, unit = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(1)
    table = torch.zeros(len(coalitions), units, dtype=torch.bool)
    table[row, unit] = True
    return table


@dataclass(frozen=True)
class KernelSHAP(Method):
    """Estimated Shapley value of each unit for the target logit, divided by its pixels: signed, `(N, 1, H, W)`.

    With v(S) the logit where only the units in S are present, it is the minimum of
    `sum_S w(S) (v(S) - v(none) - sum_{u in S} phi_u)^2` with `sum_u phi_u = v(all) - v(none)`, which therefore holds
    exactly. The Shapley kernel w is `(d - 1) / (comb(d, k) k (d - k))` for k of d units. Where `samples` are enough for
    all `2^d - 2` coalitions the values are exact. Else all coalitions of the outermost sizes are tried, as many as the
    samples allow, and the rest are drawn by the kernel, each with its complement (as by the authors' package; Covert &
    Lee 2021, arXiv:2012.01536), the sizes evenly spaced. The package shap then keeps the ten largest by default
    (`l1_reg`); here there is no selection.

    Source: Lundberg & Lee 2017, arXiv:1705.07874.

    Attributes:
        samples: coalitions of each image, at most all there are.
        unit: the players, see `benchmark.units`.
        baseline: what takes the place of absent units, see `benchmark.baselines.Fill`.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> coalitions, weights, left = enumerated(3, samples=6)
        >>> len(coalitions), float(weights.sum()), float(left.sum())
        (6, 1.0, 0.0)
    """

    stochastic = True

    samples: int = 1000
    unit: str = "slic50"
    baseline: Fill = "shared"

    def __post_init__(self) -> None:
        check_options(self.unit, self.baseline)
        if self.samples < 1:
            raise UserError(f"KernelSHAP needs samples >= 1, not {self.samples}")

    @property
    def has_baseline(self) -> bool:  # type: ignore[override]
        return self.baseline == "shared"

    @property
    def passes(self) -> int | None:
        units = exact_number(self.unit)
        return None if units is None or self.baseline != "shared" else min(self.samples, 2**units - 2)

    def within(self, passes: int) -> Self:
        return replace(self, samples=max(1, passes))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        game = Coalitions.of(model, batch, self.unit, self.baseline)
        coalitions, weights, wanted = self.design(batch, game.counts)
        scores = game.scores(model, lambda image, draw: coalitions[image, draw], wanted)
        empty = game.empty(model)
        gain, scores = game.full() - empty, scores - empty.unsqueeze(1)
        found = torch.zeros_like(game.there, dtype=torch.float64)
        for some in blocks(len(batch), weights.shape[1] * game.most):
            # Values that sum to the gain are its even share and a part that sums to zero: what is left of a coalition
            # without its mean. The shortest solution has no other part.
            there = game.there[some].double()
            even = gain[some, None] / there.sum(1, keepdim=True)
            design, size = coalitions[some].double(), coalitions[some].sum(2)
            centred = design - (size / there.sum(1, keepdim=True)).unsqueeze(2) * there.unsqueeze(1)
            found[some] = even * there + least_squares(centred, weights[some], scores[some] - size * even)
        return game.shared_out(found)

    def design(self, batch: Batch, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coalitions of `counts (N,)` units; images with equally many share those that are enumerated.

        Returns:
            coalitions: `(N, S, U)` bool.
            weights: `(N, S)`, 0 where an image has fewer than S.
            wanted: where it has one, `(N, S)` bool on the CPU.
        """
        most = int(counts.max())
        total = min(self.samples, 2**most - 2)
        keys = batch.keys("kernel_shap", 1 + (total + 1) // 2)
        coalitions = torch.zeros(len(counts), total, most, dtype=torch.bool, device=keys.device)
        weights = torch.zeros(len(counts), total, dtype=torch.float64, device=keys.device)
        wanted = torch.zeros(len(counts), total, dtype=torch.bool)
        for count in counts.unique().tolist():
            some = (counts == count).nonzero()[:, 0]
            known, known_weights, left = enumerated(count, self.samples)
            drawn = total - len(known) if left.any() else 0
            wanted[some, : len(known) + drawn] = True
            some = some.to(keys.device)
            coalitions[some, : len(known), :count] = known.to(keys.device)
            weights[some, : len(known)] = known_weights.to(keys.device)
            if drawn:
                weights[some, len(known) :] = float(left.sum()) / drawn
                for few in (some[part] for part in blocks(len(some), drawn * count)):
                    coalitions[few, len(known) :, :count] = _drawn(keys[few], left.to(keys.device), drawn, count)
        return coalitions, weights, wanted


def _drawn(keys: Tensor, left: Tensor, draws: int, units: int) -> Tensor:
    """Coalitions `(N, draws, units)` by the weights `left` of their sizes, each followed by its complement."""
    pairs = (draws + 1) // 2
    offset = randomness.uniform(keys[:, 0], 1).double()
    place = (torch.arange(pairs, device=keys.device) / pairs + offset) % 1
    ladder = left.cumsum(0) / left.sum()
    size = 1 + torch.searchsorted(ladder, place, right=True).clamp_(max=len(left) - 1)
    inside = ranked(randomness.uniform(keys[:, 1 : 1 + pairs], units)) < size.unsqueeze(2)
    return torch.stack([inside, ~inside], 2).flatten(1, 2)[:, :draws]
