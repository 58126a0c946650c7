"""Internal influence: the mean gradient at a layer along the path from the baseline to the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._layer_paths import along_path
from methods._layers import upsampled
from methods._quadrature import gauss_legendre


@dataclass(frozen=True)
class InternalInfluence(Method):
    """`sum_k |integral_0^1 d z_t / d A_k(a) da|` at each place of a layer, upsampled bilinearly; `(N, 1, H, W)`.

    `A(a)` is the layer's output at `b + a (x - b)`, with the batch's baseline b. The distribution of interest is the
    uniform one on that path; at the image alone influence is the plain gradient. It is no share of the logit: nothing
    is multiplied by activations, so the map has no meaningful sum. Class and register tokens are left out.

    Magnitudes, because a plain sum over channels is 0 in front of every LayerNorm, which ignores what is added to all
    channels alike: between the blocks of a vision transformer it would be rounding errors alone.

    In front of a global average pooling and a linear head the gradient is the same at every place, and so is the map:
    take an earlier layer than that of class activation maps.

    Source: Leino, Sen, Datta, Fredrikson & Li 2018, arXiv:1802.03788.

    Attributes:
        layer: name of a layer as in `model.named_modules()`.
        steps: gradients along the path, at the nodes of Gauss-Legendre integration, at least 1.
        reduce: over channels, `sum` (signed), `abs_sum`, `l2` or `max`.

    Raises:
        UserError: an option is out of its range, or the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> InternalInfluence(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True

    layer: str
    steps: int = 32
    reduce: maps.Reduce = "abs_sum"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"internal influence needs steps >= 1, not {self.steps}")
        maps.check_reduce(self.reduce)

    @property
    def passes(self) -> int:
        return 2 * self.steps

    def within(self, passes: int) -> Self:
        return replace(self, steps=max(1, passes // 2))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        nodes, weights = gauss_legendre(self.steps)
        made: list[Tensor] = []
        unfinished = None
        for pairs, _, gradient in along_path(model, batch, self.layer, nodes):
            pair = torch.tensor(pairs)
            first, weight = pairs.start // self.steps, weights[pair % self.steps].to(gradient).view(-1, 1, 1, 1)
            image = (pair // self.steps - first).to(gradient.device)
            total = gradient.new_zeros(len(pairs), *gradient.shape[1:]).index_add_(0, image, weight * gradient)
            if unfinished is not None:
                total[:1] += unfinished
            # The last image goes on in the next passes, unless its path ends here.
            done = pairs.stop // self.steps - first
            made.append(maps.reduce_channels(total[:done], self.reduce).unsqueeze(1))
            unfinished = total[done : done + 1].clone() if pairs.stop % self.steps else None
        return upsampled(torch.cat(made), batch)
