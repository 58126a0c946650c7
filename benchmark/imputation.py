"""Noisy linear imputation: missing pixels as weighted means of their neighbours, for many images at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark import randomness

_NOISE = 0.01
_WEIGHTS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))


def impute(inputs: Tensor, missing: Tensor, fallback: Tensor, keys: Tensor, tolerance: float = 1e-4) -> Tensor:
    """`inputs (R, C, H, W)` with the pixels of `missing (R, H, W)` filled in from those that are left.

    Each missing pixel is the mean of its eight neighbours, weights 1/6 beside and 1/12 across the corner, scaled to
    those inside the image: a symmetric positive definite system, solved by conjugate gradients for all rows together,
    to a residual of `tolerance` of its right-hand side. A row never looks at another. Then comes noise N(0, 0.01^2),
    the same for a pixel of an image whatever else is missing, from `keys (R,)`. Where nothing is left, `fallback`.

    Source: Rong et al. 2022, arXiv:2202.00449.
    """
    channels = inputs.shape[1]
    hole = missing.unsqueeze(1).to(inputs.dtype)
    kernel = inputs.new_tensor(_WEIGHTS).expand(channels, 1, 3, 3)

    def neighbours(values: Tensor) -> Tensor:
        return nn.functional.conv2d(values, kernel, padding=1, groups=channels)

    diagonal = neighbours(torch.ones_like(inputs[:1]))
    known = inputs * (1 - hole)
    right = neighbours(known) * hole
    filled = fallback * hole
    residual = right - (diagonal * filled - neighbours(filled)) * hole
    limit = tolerance**2 * right.square().sum((1, 2, 3), keepdim=True)
    step = residual / diagonal
    before = (residual * step).sum((1, 2, 3), keepdim=True)
    for _ in range(10 * max(inputs.shape[2:])):
        open_rows = residual.square().sum((1, 2, 3), keepdim=True) > limit
        if not open_rows.any():
            break
        applied = (diagonal * step - neighbours(step)) * hole
        length = torch.where(open_rows, before / (step * applied).sum((1, 2, 3), keepdim=True), 0.0)
        filled = filled + length * step
        residual = residual - length * applied
        scaled = residual / diagonal
        after = (residual * scaled).sum((1, 2, 3), keepdim=True)
        step = torch.where(open_rows, scaled + after / before * step, step)
        before = torch.where(open_rows, after, before)
    nothing_left = missing.flatten(1).all(1)[:, None, None, None]
    filled = torch.where(nothing_left, fallback, filled)
    noise = _NOISE * randomness.normal(keys, *inputs.shape[1:]).to(inputs.dtype)
    return known + (filled + noise) * hole
