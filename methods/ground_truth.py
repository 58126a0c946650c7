"""Ground truth: the oracle row, where the object is known."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method


@dataclass(frozen=True)
class GroundTruth(Method):
    """One on the object, zero elsewhere, `(N, 1, H, W)`: best at localisation by definition, not at faithfulness.

    Raises:
        NotApplicable: the data set has no object masks.

    Example:
        >>> GroundTruth().attribute(model, batch).unique()  # doctest: +SKIP
        tensor([0., 1.])
    """

    role = "oracle"
    passes = 0
    class_agnostic = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        if batch.masks is None:
            raise NotApplicable("the data set has no object masks")
        return batch.masks.unsqueeze(1).to(batch.inputs.dtype)
