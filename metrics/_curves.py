"""Perturbation curves: the score of the target class while units of the image are swapped for the baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import UserError
from benchmark.protocols import Batch


@dataclass(frozen=True)
class Curves:
    """The protocol that deletion, insertion and SRG share.

    Attributes:
        output: what the curve follows: softmax probability `prob`, `logit` or `logodds` of the frozen target.
        steps: equal fractions of the units between none and all; both ends are part of the curve.
        patch: side in pixels of the square units that are swapped together; 1 for single pixels. A patch is worth the
            mean of its pixels.
        reduce: how the channels of a map become one value a pixel, once, before ranking.

    The baseline is the batch's, one for all metrics. Ties fall by a hash of (seed, uid, unit). The area is a trapezoid
    over the fractions that were really swapped.
    """

    output: passes.Score = "prob"
    steps: int = 32
    patch: int = 1
    reduce: maps.Reduce = "sum"

    def __post_init__(self) -> None:
        passes.check_score(self.output)
        maps.check_reduce(self.reduce)
        if self.steps < 1 or self.patch < 1:
            raise UserError(f"curves need steps >= 1 and patch >= 1, not {self.steps} and {self.patch}")

    def trace(self, model: nn.Module, batch: Batch, attributions: Tensor, *, insert: bool) -> tuple[Tensor, Tensor]:
        """Area `(N,)` and curve `(N, S + 1)` while the most relevant units are deleted, or inserted, first."""
        units = _units(batch.inputs, self.patch)
        count = int(units.max()) + 1
        ranks = maps.descending_ranks(
            _pool(maps.reduce_channels(attributions, self.reduce), units, count), batch.keys("ties")[:, 0]
        )[:, units]
        steps = min(self.steps, count)
        swapped = torch.linspace(0, count, steps + 1, dtype=torch.float64, device=ranks.device).round().long()
        present, absent = (batch.baseline, batch.inputs) if insert else (batch.inputs, batch.baseline)

        def step(start: int, stop: int) -> Tensor:
            row = torch.arange(start, stop, device=ranks.device)
            image, place = row // (steps - 1), row % (steps - 1) + 1
            moved = (ranks[image] < swapped[place, None, None]).unsqueeze(1)
            outputs = model(torch.where(moved, absent[image], present[image]))
            return passes.class_scores(outputs, batch.targets[image], self.output)

        with torch.inference_mode():
            inner = list(passes.chunked(step, len(batch) * (steps - 1), batch.chunk))
        ends = [passes.class_scores(end, batch.targets, self.output) for end in (batch.logits, batch.baseline_logits)]
        first, last = reversed(ends) if insert else ends
        middle = torch.cat(inner).view(len(batch), steps - 1) if inner else first.new_empty(len(batch), 0)
        curve = torch.cat([first[:, None], middle, last[:, None]], 1).double()
        return torch.trapezoid(curve, swapped / count), curve


def _units(inputs: Tensor, patch: int) -> Tensor:
    """The unit `(H, W)` that each pixel belongs to."""
    rows, columns = (torch.arange(side, device=inputs.device) // patch for side in inputs.shape[2:])
    return rows[:, None] * (int(columns[-1]) + 1) + columns


def _pool(values: Tensor, units: Tensor, count: int) -> Tensor:
    """Mean value `(N, count)` of each unit of maps `(N, H, W)`."""
    sums = values.new_zeros(len(values), count).index_add_(1, units.flatten(), values.flatten(1))
    return sums / torch.bincount(units.flatten(), minlength=count)
