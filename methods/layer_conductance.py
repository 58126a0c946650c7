"""Layer conductance: what flows from the image to the target logit through each place of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._layer_paths import along_path


@dataclass(frozen=True)
class LayerConductance(Method):
    """`sum_k integral_0^1 d z_t / d A_k(a) dA_k / da (a) da` at each place of a layer, signed, `(N, 1, H, W)`.

    `A(a)` is the layer's output at `b + a (x - b)`, with the batch's baseline b: integrated gradients, told by the
    layer's neurons instead of pixels, so at the input itself it is that. Summed over channels. Each place's share is
    laid over the image by bilinear weights that add up to 1, so the map has the sum of the layer's conductances.

    That sum is z_t(x) - z_t(b), up to the error of the integration, where everything passes the layer: at the end of a
    block or stage, not inside a residual branch. Class and register tokens have no place in the image: their share is
    left out, and the sum of the map falls short by it.

    The integral over the layer's output is a sum of products of gradients and differences of activations, so no
    derivative of the layer itself is needed (Shrikumar et al. 2018). Theirs takes the gradient at one end of each step,
    with an error of order 1 / steps. Here both ends count, and the error of order 1 / steps^2 is extrapolated away with
    every other point (Romberg 1955): order 4 on smooth networks, from the same passes. The gradient at the baseline is
    extrapolated from the next three points, because networks without biases have a kink at 0, where autograd has 0.
    Gauss-Legendre nodes, captum's default, leave out both ends of the path, and have no such order for differences.

    Source: Dhamdhere, Sundararajan & Yan 2018, arXiv:1805.12233; Shrikumar, Su & Kundaje 2018, arXiv:1807.09946.

    Attributes:
        layer: name of a layer as in `model.named_modules()`.
        steps: intervals of the path, even and at least 4.

    Raises:
        UserError: an option is out of its range, or the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> LayerConductance(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    has_baseline = True
    needs_gradient = True

    layer: str
    steps: int = 32

    def __post_init__(self) -> None:
        if self.steps < 4 or self.steps % 2:
            raise UserError(f"layer conductance needs an even number of steps >= 4, not {self.steps}")

    @property
    def passes(self) -> int:
        return 2 * (self.steps + 1)

    def within(self, passes: int) -> Self:
        return replace(self, steps=max(4, (passes // 2 - 1) // 2 * 2))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        points = self.steps + 1
        places = torch.linspace(0, 1, points, dtype=torch.float64)
        total = before = None
        for pairs, activation, gradient in along_path(model, batch, self.layer, places):
            if total is None or before is None:
                total = activation.new_zeros(len(batch), *activation.shape[2:])
                before = activation[:0], gradient[:0]
            # Three more rows, because a step may have begun in the passes before.
            pair, row = torch.tensor(pairs), torch.arange(len(pairs)) + len(before[0])
            image, at = pair // points, pair % points
            gradient[(at == 0).nonzero().flatten()] = 0
            y, g = torch.cat([before[0], activation]), torch.cat([before[1], gradient])
            # Trapezoids over one interval end at every point but the first, those over two at every other point.
            one, two, third = at > 0, (at > 0) & (at % 2 == 0), at == 3
            share = ((g[1:] + g[:-1]) * (y[1:] - y[:-1])).sum(1)[row[one] - 1]
            total.index_add_(0, image[one].to(total.device), share, alpha=2 / 3)
            end = row[two]
            share = ((g[end] + g[end - 2]) * (y[end] - y[end - 2])).sum(1)
            total.index_add_(0, image[two].to(total.device), share, alpha=-1 / 6)
            # What the gradient at the baseline, 0 above, adds to both, by the third point from there.
            end = row[third]
            met = (y[end - 2] - y[end - 3]) * (2 / 3) - (y[end - 1] - y[end - 3]) / 6
            share = ((3 * (g[end - 2] - g[end - 1]) + g[end]) * met).sum(1)
            total.index_add_(0, image[third].to(total.device), share)
            before = y[-3:].clone(), g[-3:].clone()
        assert total is not None
        return _laid_over(total.unsqueeze(1), (batch.inputs.shape[2], batch.inputs.shape[3]))


def _laid_over(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """`cells (N, 1, h, w)` at `size`, each cell laid over its surroundings: the sum stays the same."""
    down, right = (_weights(count, pixels, cells) for count, pixels in zip(cells.shape[2:], size, strict=True))
    return down.T @ cells @ right


def _weights(count: int, pixels: int, like: Tensor) -> Tensor:
    """How much of each of `count` cells in a row falls to each pixel: `(count, pixels)`, rows add up to 1.

    Bilinear interpolation, where cells near the border and of odd sizes lend more than others, divided by what they
    lend. Averages where cells are finer than pixels, because there interpolation skips some.
    """
    single = torch.eye(count, dtype=like.dtype, device=like.device).view(count, 1, count, 1)
    lent = functional.interpolate(single, (pixels, 1), mode="bilinear" if count <= pixels else "area").flatten(1)
    return lent / lent.sum(1, keepdim=True)
