"""Integrated gradients: the gradient along the straight path from one or several baselines to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from benchmark import baselines
from benchmark.baselines import Fill
from benchmark.errors import UserError, unknown
from benchmark.protocols import Batch, Method
from methods._gradients import logit_gradient
from methods._pairs import summed
from methods._quadrature import gauss_legendre


def quadrature(rule: str, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights `(steps,)`, float64, of an integration rule over [0, 1].

    `gauss_legendre` is exact for polynomials up to degree 2 * steps - 1, `midpoint` up to degree 1.
    """
    if rule == "midpoint":
        nodes = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
        return nodes, torch.full_like(nodes, 1 / steps)
    return gauss_legendre(steps)


STARTS = tuple(name for name in get_args(Fill) if name != "nli")
"""Where a path may begin: nli fills in from what is left, and is no image by itself."""


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """`(x - b) * integral_0^1 d z_t / d x (b + a (x - b)) da`, signed, `(N, C, H, W)`; the mean over several b.

    Sums to z_t(x) - z_t(b), up to the error of the integration; so with `baseline=shared` alone it is complete for the
    baseline that all metrics use, and with others for theirs (the mean of theirs). Expected gradients draw one baseline
    a step from the data set instead.

    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365; a mean over several baselines, black and white among them:
    Kapishnikov, Bolukbasi, Viegas & Terry 2019, arXiv:1906.02825.

    Attributes:
        steps: gradients along each path, at least 1.
        rule: of integration, `gauss_legendre` or `midpoint`, see `quadrature`.
        baseline: b, or a list of them, by the names of `benchmark.baselines`; `shared` is the batch's.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: the data set does not have this baseline.

    Example:
        >>> nodes, weights = quadrature("gauss_legendre", 2)
        >>> round(float((weights * nodes**3).sum()), 12)
        0.25
    """

    needs_gradient = True

    steps: int = 32
    rule: Literal["gauss_legendre", "midpoint"] = "gauss_legendre"
    baseline: Fill | Sequence[Fill] = "shared"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"integrated gradients need steps >= 1, not {self.steps}")
        if self.rule not in ("gauss_legendre", "midpoint"):
            raise UserError(f"unknown integration rule {self.rule!r}: expected gauss_legendre or midpoint")
        if not isinstance(self.baseline, str):
            object.__setattr__(self, "baseline", tuple(self.baseline))
        if not self.starts:
            raise UserError("integrated gradients need a baseline, not an empty list of them")
        for name in self.starts:
            if name not in STARTS:
                raise UserError(unknown("baseline ", name, STARTS))

    @property
    def starts(self) -> tuple[Fill, ...]:
        """The baselines, by name."""
        return (self.baseline,) if isinstance(self.baseline, str) else tuple(self.baseline)

    @property
    def has_baseline(self) -> bool:  # type: ignore[override]
        return self.starts == ("shared",)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return not {"uniform", "sample"}.isdisjoint(self.starts)

    @property
    def passes(self) -> int:
        return 2 * self.steps * len(self.starts)

    def within(self, passes: int) -> Self:
        return replace(self, steps=max(1, passes // (2 * len(self.starts))))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        total = sum(self._from(start, model, batch) for start in self.starts)
        assert isinstance(total, Tensor)
        return total / len(self.starts)

    def _from(self, start: Fill, model: nn.Module, batch: Batch) -> Tensor:
        """The map of one baseline."""
        origin = batch.baseline if start == "shared" else baselines.image(batch, start)  # type: ignore[arg-type]
        difference = batch.inputs - origin
        nodes, weights = (column.to(batch.inputs).view(-1, 1, 1, 1) for column in quadrature(self.rule, self.steps))

        def share(image: Tensor, step: Tensor) -> Tensor:
            points = origin[image] + nodes[step] * difference[image]
            return weights[step] * logit_gradient(model, points, batch.targets[image])

        return difference * summed(share, batch.inputs, self.steps, batch.chunk)
