"""Nodes and weights of integration over [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights `(steps,)`, float64, exact for polynomials up to degree 2 * steps - 1.

    Source: Golub & Welsch 1969, doi:10.1090/S0025-5718-69-99647-1.
    """
    k = torch.arange(1, steps, dtype=torch.float64)
    beside = torch.diag(k / (4 * k**2 - 1).sqrt(), 1)
    nodes, vectors = torch.linalg.eigh(beside + beside.T)
    return (nodes + 1) / 2, vectors[0] ** 2
