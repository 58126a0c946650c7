"""HiRes-CAM: the gradient of a layer times its output, place by place."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._layers import activation_and_gradient, upsampled


@dataclass(frozen=True)
class HiResCAM(Method):
    """`sum_k g_k A_k` with `g = d z_t / d A`, upsampled bilinearly; signed, `(N, 1, H, W)`.

    Where the layer is followed by one linear layer, with or without a global average before it, the coarse map sums to
    the target's logit less its bias, and shows no place that the logit does not use. On a global average and a linear
    layer it is Grad-CAM without ReLU.

    Source: Draelos & Carin 2020, arXiv:2011.08891.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent.
        relu: keep only evidence for the target; the paper's formula leaves the map signed.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> HiResCAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    layer: str
    relu: bool = False

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation, gradient = activation_and_gradient(model, batch, self.layer)
        cam = (gradient * activation).sum(1, keepdim=True)
        return upsampled(cam.relu() if self.relu else cam, batch)
