"""Ablation-CAM: the channels of a layer, weighted by what the logit loses without each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from methods._layers import spatial, strongest_channels, upsampled
from methods._tail import tail_of


@dataclass(frozen=True)
class AblationCAM(Method):
    """`relu(sum_k w_k A_k)` with `w_k = (z_t - z_t without A_k) / |z_t|`, upsampled bilinearly; `(N, 1, H, W)`.

    Without means that channel k of the layer's output A is zero at every place; class and register tokens, which are
    no places, stay. No gradient is needed, but a pass for each channel, through the part of the network behind the
    layer alone. The paper divides by z_t, which it takes to be positive: a negative one would turn evidence for the
    target into evidence against it, so the magnitude is used. pytorch-grad-cam sets a channel to the layer's minimum
    less 1e7 where the layer has negative values.

    Source: Desai & Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent.
        channels: at most so many, those that vary most over the image, the others having weight zero; None is all.
        relu: keep only evidence for the target; False leaves the map signed.

    Raises:
        UserError: an option is out of its range, or the model has no such layer.
        NotApplicable: the layer has no spatial extent.

    Example:
        >>> AblationCAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    layer: str
    channels: int | None = None
    relu: bool = True

    def __post_init__(self) -> None:
        if self.channels is not None and self.channels < 1:
            raise UserError(f"Ablation-CAM needs at least 1 channel, not {self.channels}")

    def within(self, passes: int) -> Self:
        return replace(self, channels=max(1, passes - 1))

    @torch.no_grad()
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.layer:
            raise NotApplicable("the network has no layer with a spatial map")
        size, prefix = (batch.inputs.shape[2], batch.inputs.shape[3]), maps.prefix_tokens(model)
        tail = tail_of(model, batch.inputs, self.layer, batch.chunk)
        activation = spatial(tail.activation, size, prefix)
        chosen = strongest_channels(activation, self.channels)
        count = chosen.shape[1]

        def part(start: int, stop: int) -> Tensor:
            pair = torch.arange(start, stop, device=chosen.device)
            image = pair // count
            without = tail.activation[image]
            # What `spatial` returns is a view: zero in it is zero in the layer's output.
            spatial(without, size, prefix)[torch.arange(stop - start), chosen[image, pair % count]] = 0
            return passes.class_scores(tail(image, without), batch.targets[image])

        left = torch.cat(list(passes.chunked(part, len(batch) * count, batch.chunk))).view(-1, count)
        # Of the same pass as the activation: a difference of two logits must not be one of two kernels.
        logit = passes.class_scores(tail.logits, batch.targets).unsqueeze(1)
        lost = (logit - left) / logit.abs().where(logit != 0, 1)
        weight = torch.zeros_like(activation[:, :, 0, 0]).scatter_(1, chosen, lost).view(*activation.shape[:2], 1, 1)
        cam = (weight * activation).sum(1, keepdim=True)
        return upsampled(cam.relu() if self.relu else cam, batch)
