"""XGrad-CAM: the channels of a layer, weighted by their gradients where they are active."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._layers import activation_and_gradient, upsampled


@dataclass(frozen=True)
class XGradCAM(Method):
    """`relu(sum_k w_k A_k)` with `w_k = sum_ij g_kij A_kij / sum_ab A_kab`, upsampled bilinearly; `(N, 1, H, W)`.

    `g = d z_t / d A`. Of all weights of channels these make the coarse map, before ReLU, sum to `sum A g`, channel by
    channel. A channel whose sum is zero gets weight zero. On a global average and a linear layer it is Grad-CAM.

    Source: Fu, Hu, Dong, Guo, Gao & Li 2020, arXiv:2008.02312.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent. The formula is meant
            for one that is not negative.
        relu: keep only evidence for the target; False leaves the map signed.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> XGradCAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    layer: str
    relu: bool = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation, gradient = activation_and_gradient(model, batch, self.layer)
        total = activation.sum((2, 3), keepdim=True)
        weight = (gradient * activation).sum((2, 3), keepdim=True) / total.where(total != 0, 1)
        cam = (weight.where(total != 0, 0) * activation).sum(1, keepdim=True)
        return upsampled(cam.relu() if self.relu else cam, batch)
