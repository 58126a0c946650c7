"""Gradient: how the target logit changes with each input value."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._gradients import clean_gradient


@dataclass(frozen=True)
class Gradient(Method):
    """`d z_t / d x` in the model's normalised space, signed, `(N, C, H, W)`.

    Saliency is its magnitude, largest over channels.

    Source: Baehrens et al. 2010 (JMLR 11, 1803-1831); Simonyan, Vedaldi & Zisserman 2013, arXiv:1312.6034.

    Raises:
        NotApplicable: no gradient reaches the input.

    Example:
        >>> Gradient().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    needs_gradient = True
    passes = 2

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return clean_gradient(model, batch)
