"""Saliency: how steeply the target logit changes with each pixel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._gradients import clean_gradient


@dataclass(frozen=True)
class Saliency(Method):
    """`max_c |d z_t / d x_c|`: magnitude of the gradient, largest over channels; `(N, 1, H, W)`, never negative.

    Source: Simonyan, Vedaldi & Zisserman 2013, arXiv:1312.6034.

    Example:
        >>> Saliency().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return clean_gradient(model, batch).abs().amax(1, keepdim=True)
