"""Noisy linear imputation: missing pixels as weighted means of their neighbours, for many images at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import randomness

_CACHED = 2**19  # numbers in an array that stays in a CPU's cache from one sum to the next


def impute(
    inputs: Tensor, missing: Tensor, fallback: Tensor, keys: Tensor, noise: float = 0.01, tolerance: float = 1e-4
) -> Tensor:
    """`inputs (R, C, H, W)` with the pixels of `missing (R, H, W)` filled in from those that are left.

    Each missing pixel is the mean of its eight neighbours, weights 2 beside and 1 across the corner, over those inside
    the image: a linear system with one solution where anything is left, solved for all rows together to an error of
    about `tolerance` of a row's largest value. A row never looks at another. Where nothing is left, `fallback`. Then
    comes noise N(0, `noise`^2) from `keys (R,)`, the same for a pixel of an image whatever else is missing.

    Source: Rong et al. 2022, arXiv:2202.00449.
    """
    rows = max(1, _CACHED // inputs[0].numel() if inputs.device.type == "cpu" else len(inputs))
    parts = zip(inputs.split(rows), missing.split(rows), fallback.split(rows), strict=True)
    filled = torch.cat([_filled(*part, tolerance) for part in parts])
    if not noise:
        return filled
    images, row = keys.unique(return_inverse=True)  # made once for an image, however many of its rows are here
    drawn = randomness.normal(images, *inputs.shape[1:]).to(inputs.dtype)
    return filled.addcmul_(missing.unsqueeze(1).to(inputs.dtype), drawn[row], value=noise)


def _filled(inputs: Tensor, missing: Tensor, fallback: Tensor, tolerance: float) -> Tensor:
    """Conjugate gradients, with a multigrid cycle as preconditioner, until each row is solved."""
    hole = missing.unsqueeze(1).to(inputs.dtype)
    scales = _scales(hole)
    found = inputs * (1 - hole)
    residual = _smeared(found) * hole  # of 0 in the holes
    limit = (tolerance * found.abs().amax((1, 2, 3), keepdim=True)).square()
    step = torch.zeros_like(inputs)
    before = torch.ones_like(limit)
    for _ in range(100):
        corrected = _cycle(scales, residual)
        # About e'Ae for the error e, which bounds its largest entry where the residual by itself says little.
        after = _product(residual, corrected)
        unsolved = after > limit
        if not unsolved.any():
            break
        # Of a solved row nothing moves any more, also where the next ratio would be 0 / 0.
        step.mul_(torch.where(unsolved, after / before, 0.0)).add_(corrected)
        applied = scales[0].residual(0, step).neg_()
        length = torch.where(unsolved, after / _product(step, applied), 0.0)
        found.addcmul_(length, step)
        residual.addcmul_(length, applied, value=-1)
        before = after
    nothing_left = missing.flatten(1).all(1)[:, None, None, None]
    return torch.where(nothing_left, fallback, found)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2, 3), keepdim=True)


@dataclass(frozen=True)
class _Scale:
    """The system for cells of one size: (A u)_i = diagonal_i u_i - sum_j w_ij u_j, for u that is 0 outside of `hole`.

    Attributes:
        hole: `(R, 1, h, w)`, 1 for cells with missing pixels, otherwise 0.
        centre: what a cell weighs in A and in `_smeared` together, 0 outside of the hole.
        inverse: 1 / diagonal, 0 outside of the hole.
    """

    hole: Tensor
    centre: Tensor
    inverse: Tensor

    def residual(self, right: Tensor | int, u: Tensor) -> Tensor:
        """`right` - A u."""
        return _smeared(u).mul_(self.hole).add_(right).addcmul_(self.centre, u, value=-1)


def _scales(hole: Tensor) -> Sequence[_Scale]:
    """The system for pixels, cells of 2 x 2 pixels, 4 x 4, ..., one cell.

    Between coarser cells the weights are as between pixels, which is what a smooth function sees in two dimensions, and
    the weight that ties a cell to known pixels is the sum of its parts'.
    """
    tied = (_smeared(torch.ones_like(hole)) - _smeared(hole)) * hole
    scales = []
    while True:
        centre = tied + _smeared(hole) * hole
        scales.append(_Scale(hole, centre, torch.where(centre > 4 * hole, hole / (centre - 4 * hole), 0.0)))
        if hole[0, 0].numel() <= 1:
            return scales
        hole, tied = (_pooled(hole) > 0).to(hole.dtype), _pooled(tied)


def _cycle(scales: Sequence[_Scale], right: Tensor) -> Tensor:
    """About A^-1 `right`: a step of Jacobi, the rest from the next scale, a step of Jacobi. Symmetric and positive."""
    scale = scales[0]
    u = right * scale.inverse
    if len(scales) > 1:
        coarse = _cycle(scales[1:], _pooled(scale.residual(right, u)))
        u.addcmul_(scale.hole, _spread(coarse, *u.shape[2:]))
        u.addcmul_(scale.inverse, scale.residual(right, u))
    return u


def _smeared(u: Tensor) -> Tensor:
    """Weighted sum of each cell and its neighbours, 4 + 8 neighbours of 2 and 1: (1 2 1) along rows, then columns.

    Sums of shifted arrays; a convolution costs many times as much on a CPU.
    """
    across = 2 * u
    across[..., 1:] += u[..., :-1]
    across[..., :-1] += u[..., 1:]
    total = 2 * across
    total[..., 1:, :] += across[..., :-1, :]
    total[..., :-1, :] += across[..., 1:, :]
    return total


def _pooled(u: Tensor) -> Tensor:
    """Sums over cells of 2 x 2, those at the end of an odd side cut off."""
    rows = u[..., ::2, :].clone()
    rows[..., : u.shape[-2] // 2, :] += u[..., 1::2, :]
    cells = rows[..., ::2].clone()
    cells[..., : u.shape[-1] // 2] += rows[..., 1::2]
    return cells


def _spread(cells: Tensor, height: int, width: int) -> Tensor:
    """The adjoint of `_pooled`: for each pixel the value of its cell."""
    return cells.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :height, :width]
