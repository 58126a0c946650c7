"""Layer gradient x activation: a layer's output times the gradient of the target logit, place by place."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._layers import activation_and_gradient, upsampled


@dataclass(frozen=True)
class LayerGradXActivation(Method):
    """`sum_k d z_t / d A_k A_k` at each place of a layer, signed, upsampled bilinearly; `(N, 1, H, W)`.

    HiRes-CAM is its positive part (Draelos & Carin 2020), Layer-CAM drops negative gradients before summing, and
    Grad-CAM averages gradients over places first. All agree, up to the positive part and a factor, where the layer is
    followed by global average pooling and a linear head: there it is CAM, each place's share of the logit.

    In front of a LayerNorm through which all of a place goes, as before the norm of a pooled transformer, it is 0: that
    ignores scale. Take what comes out of it.

    Class and register tokens are left out. A layer that runs several times counts where it runs last.

    Attributes:
        layer: name of a layer as in `model.named_modules()`.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> LayerGradXActivation(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    layer: str

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation, gradient = activation_and_gradient(model, batch, self.layer)
        return upsampled((gradient * activation).sum(1, keepdim=True), batch)
