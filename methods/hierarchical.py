"""Hierarchical class activation map: Layer-CAM of every stage of a network, fused."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._stages import layer_cam, layer_maps, stages


@dataclass(frozen=True)
class Hierarchical(Method):
    """`max_s tanh(gain M_s / max M_s)` over the stages s of the network, at least 0, `(N, 1, H, W)`.

    `M_s = relu(sum_k relu(d z_t / d A_k) A_k)` is Layer-CAM at the end of stage s, upsampled bilinearly once it is
    scaled: shallow stages add detail, deep ones say where the object is. Stages are found by watching the network, see
    `methods._stages.stages`: the last layer of each resolution, or every fourth part of the blocks of a transformer.
    Class and register tokens are left out. A stage without evidence for the target counts as 0.

    Every stage is scaled alike, as torch-cam does, so all networks are treated by one rule.

    Beside one forward and one backward pass for all stages of an image, two random images go through the network once
    to find the stages.

    Source: Jiang, Zhang, Hou, Cheng & Wei 2021, doi:10.1109/TIP.2021.3089943.

    Attributes:
        gain: of a map before it is fused, above 0; the larger, the more of each stage counts as much as its maximum.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: the network has no spatial map that every way from the image to the logits passes.

    Example:
        >>> Hierarchical().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True

    gain: float = 2.0

    def __post_init__(self) -> None:
        if not self.gain > 0:
            raise UserError(f"the gain of hierarchical maps must be above 0, not {self.gain}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        names = stages(model, batch)

        def scaled(activation: Tensor, gradient: Tensor) -> Tensor:
            cam = layer_cam(activation, gradient)
            most = cam.amax((1, 2, 3), keepdim=True)
            return torch.tanh(self.gain * cam / most.where(most > 0, 1))

        # Fused chunk by chunk, so that no more than a chunk has a map of every stage.
        starts = range(0, len(batch), batch.chunk)
        parts = [batch.select(slice(start, start + batch.chunk)) for start in starts]
        return torch.cat([layer_maps(model, part, names, scaled).amax(1, keepdim=True) for part in parts])
