"""Grad-CAM++ and Smooth Grad-CAM++: the channels of a layer, weighted by their positive gradients place by place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._layers import activation_and_gradient, activation_of, layer_gradient, upsampled
from methods._pairs import summed


def _weighted(activation: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """`sum_k A_k sum_ij alpha relu(D1)` with `alpha = D2 / (2 D2 + D3 sum_ab A)`, `(N, 1, h, w)`.

    Where D2 is zero, alpha is; and a denominator of zero is taken for one, as in the code of Grad-CAM++'s authors.
    """
    denominator = 2 * second + third * activation.sum((2, 3), keepdim=True)
    alpha = second / denominator.where(denominator != 0, 1)
    return ((alpha * first.relu()).sum((2, 3), keepdim=True) * activation).sum(1, keepdim=True)


@dataclass(frozen=True)
class GradCAMPlusPlus(Method):
    """`relu(sum_k w_k A_k)` with `w_k = sum_ij alpha_kij relu(g_kij)`, upsampled bilinearly; `(N, 1, H, W)`.

    `g = d z_t / d A` and `alpha_kij = g^2 / (2 g^2 + g^3 sum_ab A_kab)`, zero where g is. That is the paper's formula
    for the score exp(z_t) and a tail of ReLUs, whose derivatives are powers of g. Its factor exp(z_t), one number for
    all of a map, is left out, because it overflows. Libraries add 1e-6 or 1e-8 to the denominator, which outweighs it
    wherever gradients are small, as behind a global average; nothing is added here, so that A may be measured in any
    unit.

    Source: Chattopadhay, Sarkar, Howlader & Balasubramanian 2018, arXiv:1710.11063.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent. The formula is meant
            for one that is not negative.
        relu: keep only evidence for the target; False leaves the map signed.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> GradCAMPlusPlus(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    layer: str
    relu: bool = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation, gradient = activation_and_gradient(model, batch, self.layer)
        # Divided by g^2, so that small gradients do not underflow.
        cam = _weighted(activation, gradient, torch.ones_like(gradient), gradient)
        return upsampled(cam.relu() if self.relu else cam, batch)


@dataclass(frozen=True)
class SmoothGradCAMPlusPlus(Method):
    """Grad-CAM++ with every power of the gradient averaged over noisy copies of the image; `(N, 1, H, W)`.

    `relu(sum_k w_k A_k)` with `w_k = sum_ij alpha_kij relu(D1)`, `alpha = D2 / (2 D2 + D3 sum_ab A_kab)` and
    `Dp = mean_s g(x + e_s)^p`, where `g = d z_t / d A` and `e_s ~ N(0, (noise * (max x - min x))^2)`. A is of the clean
    image. The paper prints D1 in the numerator of alpha; D2 is what its derivation from Grad-CAM++ needs.

    Source: Omeiza, Speakman, Cintas & Weldermariam 2019, arXiv:1908.01224.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent.
        samples: noisy copies of each image, at least 1.
        noise: standard deviation as a fraction of the image's range.
        relu: keep only evidence for the target; False leaves the map signed.

    Raises:
        UserError: an option is out of its range, or the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> SmoothGradCAMPlusPlus(layer="layer4", samples=8).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    stochastic = True
    needs_gradient = True

    layer: str
    samples: int = 16
    noise: float = 0.15
    relu: bool = True

    def __post_init__(self) -> None:
        if self.samples < 1 or self.noise < 0:
            given = f"{self.samples} and {self.noise}"
            raise UserError(f"Smooth Grad-CAM++ needs samples >= 1 and noise >= 0, not {given}")

    @property
    def passes(self) -> int:
        return 2 * self.samples + 1

    def within(self, passes: int) -> Self:
        return replace(self, samples=max(1, (passes - 1) // 2))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, keys = batch.inputs, batch.keys("smooth grad-cam++", self.samples)
        width = self.noise * (inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True))
        activation = activation_of(model, batch, self.layer)

        def share(image: Tensor, draw: Tensor) -> Tensor:
            noise = randomness.normal(keys[image, draw], *inputs.shape[1:]).to(inputs.dtype)
            noisy = inputs[image] + width[image] * noise
            _, gradient = layer_gradient(model, noisy, batch.targets[image], self.layer)
            return torch.stack([gradient, gradient**2, gradient**3], 1)

        like = activation.unsqueeze(1).expand(-1, 3, -1, -1, -1)
        moments = summed(share, like, self.samples, batch.chunk) / self.samples
        cam = _weighted(activation, *moments.unbind(1))
        return upsampled(cam.relu() if self.relu else cam, batch)
