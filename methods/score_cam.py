"""Score-CAM: the channels of a layer, weighted by what the model sees through each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._layers import activation_of, strongest_channels, upsampled

Weights = Literal["softmax", "prob"]


@dataclass(frozen=True)
class ScoreCAM(Method):
    """`relu(sum_k w_k A_k)`, upsampled bilinearly; `(N, 1, H, W)`. No gradient is needed, but a pass for each channel.

    `m_k` in [0, 1] is channel k of the layer's output A, upsampled to the image and scaled by its minimum and maximum.
    The model sees `x_k = m_k x + (1 - m_k) b`. The paper weighs a channel by its increase of confidence
    `z_t(x_k) - z_t(b)`, made to sum to one by a softmax over channels, in which `z_t(b)` cancels. The authors' code
    weighs it by the softmax probability `p_t(x_k)` itself. A channel that is the same everywhere masks nothing and has
    weight zero. The authors' b is zero in normalised space; here it is the batch's baseline.

    Source: Wang, Wang, Du, Yang, Zhang, Ding, Mardziel & Hu 2020, arXiv:1910.01279. A budget of channels by their
    variance: Faster-Score-CAM (tabayashi0117 2020).

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent.
        weights: `softmax` over channels of their logits, or `prob`, the target's probability.
        channels: at most so many, those that vary most over the image; None is all of them.
        relu: keep only evidence for the target; False leaves the map signed.

    Raises:
        UserError: an option is out of its range, or the model has no such layer.
        NotApplicable: the layer has no spatial extent.

    Example:
        >>> ScoreCAM(layer="layer4", channels=128).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    layer: str
    weights: Weights = "softmax"
    channels: int | None = None
    relu: bool = True

    def __post_init__(self) -> None:
        if self.weights not in get_args(Weights):
            raise UserError(f"unknown weights {self.weights!r}: expected {', '.join(get_args(Weights))}")
        if self.channels is not None and self.channels < 1:
            raise UserError(f"Score-CAM needs at least 1 channel, not {self.channels}")

    def within(self, passes: int) -> Self:
        return replace(self, channels=max(1, passes - 1))

    @torch.no_grad()
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation = activation_of(model, batch, self.layer)
        chosen = strongest_channels(activation, self.channels)
        count = chosen.shape[1]

        def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
            pair = torch.arange(start, stop, device=chosen.device)
            image = pair // count
            mask = upsampled(activation[image, chosen[image, pair % count]].unsqueeze(1), batch)
            low, high = mask.amin((2, 3), keepdim=True), mask.amax((2, 3), keepdim=True)
            varies = high > low
            mask = (mask - low) / (high - low).where(varies, 1)
            logits = model(torch.lerp(batch.baseline[image], batch.inputs[image], mask))
            score: passes.Score = "logit" if self.weights == "softmax" else "prob"
            return passes.class_scores(logits, batch.targets[image], score), varies.view(-1)

        found, varies = zip(*passes.chunked(part, len(batch) * count, batch.chunk), strict=True)
        weight, alive = torch.cat(found).view(-1, count), torch.cat(varies).view(-1, count)
        if self.weights == "softmax":
            weight = weight.where(alive, -torch.inf).softmax(1)
        weight = weight.where(alive, 0).view(*chosen.shape, 1, 1)
        seen = activation.gather(1, chosen.view(*chosen.shape, 1, 1).expand(-1, -1, *activation.shape[2:]))
        cam = (weight * seen).sum(1, keepdim=True)
        return upsampled(cam.relu() if self.relu else cam, batch)
