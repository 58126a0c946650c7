"""Guided integrated gradients: the gradient along a path that changes first what the model heeds least."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._gradients import logit_gradient


@dataclass(frozen=True)
class GuidedIntegratedGradients(Method):
    """`sum_k (x_{k+1} - x_k) * d z_t / d x (x_k)` along a path from a baseline b to x, signed, `(N, C, H, W)`.

    Each value of the image (a channel of a pixel) has gone a share a of its way, 0 at b, the batch's baseline, and 1 at
    x. Step k of n lowers the L1 distance to x to 1 - k / n of the whole: of the values with a < k / n + max_dist, the
    `fraction` with the smallest gradient moves up to there, then the next, until the distance is reached; the last of
    them go as far as is needed. No value falls behind k / n - max_dist. With max_dist = 0 the path is straight.

    Sums to z_t(x) - z_t(b) up to the error of the sum, which takes the gradient where each step begins, as the paper's
    algorithm does. It is meant for many steps: with no more than 1 / max_dist of them the path is nearly straight.

    Source: Kapishnikov, Venugopalan, Avci, Wedin, Terry & Bolukbasi 2021, arXiv:2106.09788; ties and bounds as in the
    authors' code.

    Attributes:
        steps: gradients along the path, at least 1.
        fraction: of all values that move at a time, above 0 and at most 1.
        max_dist: how far a value may be ahead of the straight path or behind it, 0 to 1; 1 sets no bounds.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> GuidedIntegratedGradients(steps=200).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    has_baseline = True
    needs_gradient = True

    steps: int = 200
    fraction: float = 0.25
    max_dist: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.fraction <= 1 or not 0 <= self.max_dist <= 1:
            given = f"{self.steps}, {self.fraction} and {self.max_dist}"
            needed = "steps >= 1, 0 < fraction <= 1 and 0 <= max_dist <= 1"
            raise UserError(f"guided integrated gradients need {needed}, not {given}")

    @property
    def passes(self) -> int:
        return 2 * self.steps

    def within(self, passes: int) -> Self:
        return replace(self, steps=max(1, passes // 2))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        def part(start: int, stop: int) -> Tensor:
            images = slice(start, stop)
            return self._along(model, batch.inputs[images], batch.baseline[images], batch.targets[images])

        return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))

    def _along(self, model: nn.Module, inputs: Tensor, baseline: Tensor, targets: Tensor) -> Tensor:
        """The maps of as many images as fit in a pass, all of them on their way at once."""
        whole = (inputs - baseline).flatten(1)
        way = whole.abs()
        found = torch.zeros_like(whole)
        gone = (way == 0).to(way.dtype)
        for step in range(self.steps):
            at = baseline + (gone * whole).view_as(inputs)
            gradient = logit_gradient(model, at, targets).flatten(1)
            there = self._moved(gone, way, gradient.abs(), (step + 1) / self.steps)
            found += (there - gone) * whole * gradient
            gone = there
        return found.view_as(inputs)

    def _moved(self, gone: Tensor, way: Tensor, size: Tensor, due: float) -> Tensor:
        """How far each value has gone, `(N, F)`, when the image has gone `due` of its L1 distance.

        Args:
            gone: `(N, F)`, how far each has gone so far.
            way: `(N, F)`, the length of each value's way.
            size: `(N, F)`, of its gradient.
        """
        bound = min(due + self.max_dist, 1.0)
        gone = gone.clamp(min=max(due - self.max_dist, 0.0))
        left = (way * (1 - gone)).sum(1, keepdim=True) - (1 - due) * way.sum(1, keepdim=True)
        size = size.masked_fill(gone >= bound, torch.inf)
        group = math.floor(self.fraction * (size.shape[1] - 1)) + 1
        for _ in range(math.ceil(size.shape[1] / group)):
            largest = size.topk(group, largest=False, sorted=False).values.amax(1, keepdim=True)
            movable = torch.where((size <= largest) & size.isfinite(), bound - gone, 0)
            reach = (movable * way).sum(1, keepdim=True)
            # The share of the group's way that is due: 1 where the group is not enough, 0 where nothing is left.
            share = torch.where(left > 0, (left / reach).clamp(max=1), 0)
            gone = torch.addcmul(gone, share, movable)
            left = torch.where(share < 1, 0, left - reach)
            if left.device.type == "cpu" and not (left > 0).any():
                break  # the rest would move nothing; on other devices it costs less than to wait for the answer
            size = size.masked_fill(size <= largest, torch.inf)
        return gone
