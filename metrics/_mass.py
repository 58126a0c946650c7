"""The mass of a map: its positive part, and how much of it lies somewhere."""

from __future__ import annotations

from torch import Tensor


def mass(values: Tensor, places: Tensor) -> Tensor:
    """Share `(N,)` of the positive part of `values (N, H, W)` at `places (N, H, W)`, NaN where there is none."""
    positive = values.clamp(min=0)
    return (positive * places).sum((1, 2)) / positive.sum((1, 2))
