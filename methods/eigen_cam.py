"""Eigen-CAM and Eigen-Grad-CAM: the first principal component of a layer's channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._layers import activation_and_gradient, activation_of, upsampled


def _first_component(channels: Tensor, centred: bool) -> Tensor:
    """`O v` for each image of `channels (N, C, h, w)`, `(N, 1, h, w)`, up to its sign.

    v is the first right singular vector of O `(hw, C)`. It comes from the smaller of O'O and OO', in double precision,
    because products of O square its range.
    """
    places = channels.flatten(2).transpose(1, 2).double()
    if centred:
        places = places - places.mean(1, keepdim=True)
    if places.shape[1] <= places.shape[2]:
        values, vectors = torch.linalg.eigh(places @ places.mT)
        found = vectors[..., -1] * values[:, -1:].clamp(min=0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(places.mT @ places)
        found = (places @ vectors[..., -1:]).squeeze(2)
    return found.to(channels.dtype).view(-1, 1, *channels.shape[2:])


def _turned(component: Tensor, positive: Tensor) -> Tensor:
    """`component (N, 1, h, w)`, or its negative where `positive (N, 1, 1, 1)` is."""
    return component.where(positive >= 0, -component)


@dataclass(frozen=True)
class EigenCAM(Method):
    """`O v`: the layer's output at each place along its first principal component, upsampled; `(N, 1, H, W)`.

    `O (hw, C)` is the layer's output and v the first right singular vector of O, the direction in which its places
    extend most. The map knows no class. An SVD leaves its sign open; here the value of largest magnitude is positive,
    so that a layer that is not negative has a map that is not. Where two singular values are equal, v is not defined.

    Source: Muhammad & Yeasin 2020, arXiv:2008.00299; the sign: Chung & Ying 2025, doi:10.3390/app15137562.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent.
        centred: take the mean of each channel off first, as pytorch-grad-cam does and the paper does not.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent.

    Example:
        >>> EigenCAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    class_agnostic = True
    passes = 1

    layer: str
    centred: bool = False

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        component = _first_component(activation_of(model, batch, self.layer), self.centred)
        extremes = component.amax((2, 3), keepdim=True) + component.amin((2, 3), keepdim=True)
        return upsampled(_turned(component, extremes), batch)


@dataclass(frozen=True)
class EigenGradCAM(Method):
    """Eigen-CAM of `g * A` with `g = d z_t / d A`, the gradient times the layer's output; `(N, 1, H, W)`.

    An SVD leaves its sign open; here the map goes with `sum_k g_k A_k`, which is HiRes-CAM (the two have a non-negative
    inner product): positive is evidence for the target.

    Source: pytorch-grad-cam (Gildenblat 2021), which builds on Muhammad & Yeasin 2020, arXiv:2008.00299.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent.
        centred: take the mean of each channel off first, as pytorch-grad-cam does.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> EigenGradCAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    layer: str
    centred: bool = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation, gradient = activation_and_gradient(model, batch, self.layer)
        evidence = gradient * activation
        component = _first_component(evidence, self.centred)
        agreement = (component * evidence.sum(1, keepdim=True)).sum((2, 3), keepdim=True)
        return upsampled(_turned(component, agreement), batch)
