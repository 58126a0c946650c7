"""Input x gradient: the first-order share of each input value in the target logit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._gradients import clean_gradient


@dataclass(frozen=True)
class InputXGradient(Method):
    """`x * d z_t / d x` in the model's normalised space, signed, `(N, C, H, W)`.

    On a linear model, and on a ReLU network without biases, it equals integrated gradients from zero.

    Source: Shrikumar, Greenside, Shcherbina & Kundaje 2016, arXiv:1605.01713.

    Example:
        >>> InputXGradient().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    needs_gradient = True
    passes = 2

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return batch.inputs * clean_gradient(model, batch)
