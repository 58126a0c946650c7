"""Grad-CAM: the channels of a layer, weighted by their mean gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._layers import activation_and_gradient, upsampled


@dataclass(frozen=True)
class GradCAM(Method):
    """`relu(sum_k w_k A_k)` with `w_k = mean_hw d z_t / d A_k`, upsampled bilinearly; `(N, 1, H, W)`.

    `A` is the layer's output: a map, channels first or last, or tokens, of which class and register tokens are dropped.
    The backward pass ends at the layer. A layer that runs several times counts where it runs last.

    Source: Selvaraju et al. 2017, arXiv:1610.02391.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent.
        relu: keep only evidence for the target; False leaves the map signed.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> GradCAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    layer: str
    relu: bool = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation, gradient = activation_and_gradient(model, batch, self.layer)
        cam = (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True)
        return upsampled(cam.relu() if self.relu else cam, batch)
