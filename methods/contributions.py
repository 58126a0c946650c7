"""Contributions: the oracle row where the data set knows what each part of a scene adds to the logit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark import units
from benchmark.protocols import Batch, Method


@dataclass(frozen=True)
class Contributions(Method):
    """What each part adds to the target's logit, spread evenly over its pixels, signed, `(N, 1, H, W)`.

    It is the truth of the data set: that of a model only as far as the model has learned it.

    Raises:
        NotApplicable: the data set does not know the contributions of its parts, or knows those to other classes than
            the model has.

    Example:
        >>> Contributions().attribute(model, batch).sum((1, 2, 3))  # doctest: +SKIP
        tensor([9., 7.])
    """

    role = "oracle"
    passes = 0

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return units.truth(batch).unsqueeze(1).to(batch.inputs.dtype)
