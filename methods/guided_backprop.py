"""Guided backpropagation and deconvolution: the gradient, rectified at every ReLU on its way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._operations import modified_gradient
from methods._rectifiers import Rectifiers


@dataclass(frozen=True)
class GuidedBackprop(Method):
    """What arrives at the pixels from a 1 at the target logit, signed, `(N, C, H, W)`.

    Behind each rectifier `y = relu(x)`, a gradient g at y goes on as

        guided      relu(g) * (x > 0)   (Springenberg et al. 2014)
        deconvnet   relu(g)             (Zeiler & Fergus 2013)

    and max-pooling sends it to the place of the maximum. ReLU6 and clamps from 0 are rectifiers too, whether a module
    or a function, in place or not, run once or often; leaky and smooth activations keep their gradient. Both maps tend
    to a reconstruction of the image that depends little on the upper layers (Adebayo et al. 2018, arXiv:1810.03292).

    Source: Springenberg, Dosovitskiy, Brox & Riedmiller 2014, arXiv:1412.6806; Zeiler & Fergus 2013, arXiv:1311.2901.

    Attributes:
        rule: `guided` or `deconvnet`.

    Raises:
        UserError: an unknown rule.
        NotApplicable: the network has no ReLU.

    Example:
        >>> GuidedBackprop().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    needs_gradient = True
    passes = 2

    rule: Literal["guided", "deconvnet"] = "guided"

    def __post_init__(self) -> None:
        if self.rule not in ("guided", "deconvnet"):
            raise UserError(f"unknown rule {self.rule!r}: expected guided or deconvnet")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        def part(start: int, stop: int) -> Tensor:
            rectifiers = Rectifiers(self.rule)
            found = modified_gradient(model, batch.inputs[start:stop], batch.targets[start:stop], rectifiers.rules)
            rectifiers.check()
            return found

        return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))
