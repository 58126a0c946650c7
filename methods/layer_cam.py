"""Layer-CAM: the positive gradient of a layer times its output, place by place."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._layers import activation_and_gradient, upsampled


@dataclass(frozen=True)
class LayerCAM(Method):
    """`relu(sum_k relu(g_k) A_k)` with `g = d z_t / d A`, upsampled bilinearly; `(N, 1, H, W)`.

    Weights of single places keep early layers sharp. Where no gradient is negative it is HiRes-CAM with ReLU.

    Source: Jiang, Zhang, Hou, Cheng & Wei 2021, doi:10.1109/TIP.2021.3089943.

    Attributes:
        layer: name of a layer as in `model.named_modules()`.
        relu: keep only evidence for the target; False leaves the map signed.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> LayerCAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    layer: str
    relu: bool = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation, gradient = activation_and_gradient(model, batch, self.layer)
        cam = (gradient.relu() * activation).sum(1, keepdim=True)
        return upsampled(cam.relu() if self.relu else cam, batch)
