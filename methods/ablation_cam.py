"""Ablation-CAM: the channels of a layer, weighted by what the logit loses without each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import UserError
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
        size, prefix = (batch.inputs.shape[2], batch.inputs.shape[3]), maps.prefix_tokens(model)

        def image(start: int, stop: int) -> Tensor:
            tail, target = tail_of(model, batch.inputs[start:stop], self.layer), batch.targets[start:stop]
            activation = spatial(tail.activation, size, prefix)
            chosen = strongest_channels(activation, self.channels)[0]

            def part(first: int, last: int) -> Tensor:
                without = tail.activation.repeat_interleave(last - first, 0)
                # What `spatial` returns is a view: zero in it is zero in the layer's output.
                spatial(without, size, prefix)[torch.arange(last - first), chosen[first:last]] = 0
                return passes.class_scores(tail(without), target.expand(last - first))

            left = torch.cat(list(passes.chunked(part, len(chosen), batch.chunk)))
            # Of the same pass as the activation: a difference of two logits must not be one of two kernels.
            logit = passes.class_scores(tail.logits, target)
            weight = torch.zeros_like(activation[0, :, 0, 0])
            weight[chosen] = (logit - left) / logit.abs().where(logit != 0, 1)
            return (weight.view(1, -1, 1, 1) * activation).sum(1, keepdim=True)

        # The tail is that of one image, whose rows fill a pass.
        cam = torch.cat(list(passes.chunked(image, len(batch), 1)))
        return upsampled(cam.relu() if self.relu else cam, batch)
