"""Integrated gradients: the gradient along the straight path from the baseline to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._gradients import logit_gradient
from methods._pairs import summed


def quadrature(rule: str, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights `(steps,)`, float64, of an integration rule over [0, 1].

    `gauss_legendre` is exact for polynomials up to degree 2 * steps - 1 (Golub & Welsch 1969,
    doi:10.1090/S0025-5718-69-99647-1), `midpoint` up to degree 1.
    """
    if rule == "midpoint":
        nodes = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
        return nodes, torch.full_like(nodes, 1 / steps)
    k = torch.arange(1, steps, dtype=torch.float64)
    beside = torch.diag(k / (4 * k**2 - 1).sqrt(), 1)
    nodes, vectors = torch.linalg.eigh(beside + beside.T)
    return (nodes + 1) / 2, vectors[0] ** 2


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """`(x - b) * integral_0^1 d z_t / d x (b + a (x - b)) da`, signed, `(N, C, H, W)`.

    Sums to z_t(x) - z_t(b), up to the error of the integration. `b` is the batch's baseline.

    Source: Sundararajan, Taly & Yan 2017, arXiv:1703.01365.

    Attributes:
        steps: gradients along the path, at least 1.
        rule: of integration, `gauss_legendre` or `midpoint`, see `quadrature`.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> nodes, weights = quadrature("gauss_legendre", 2)
        >>> round(float((weights * nodes**3).sum()), 12)
        0.25
    """

    has_baseline = True
    needs_gradient = True

    steps: int = 32
    rule: Literal["gauss_legendre", "midpoint"] = "gauss_legendre"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"integrated gradients need steps >= 1, not {self.steps}")
        if self.rule not in ("gauss_legendre", "midpoint"):
            raise UserError(f"unknown integration rule {self.rule!r}: expected gauss_legendre or midpoint")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        difference = batch.inputs - batch.baseline
        nodes, weights = (column.to(batch.inputs).view(-1, 1, 1, 1) for column in quadrature(self.rule, self.steps))

        def share(image: Tensor, step: Tensor) -> Tensor:
            points = batch.baseline[image] + nodes[step] * difference[image]
            return weights[step] * logit_gradient(model, points, batch.targets[image])

        return difference * summed(share, batch.inputs, self.steps, batch.chunk)
