"""Grad-CAM: the channels of a layer, weighted by their mean gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from methods._layers import layer_of, leaf_at, spatial


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

    layer: str
    relu: bool = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.layer:
            raise NotApplicable("the network has no layer with a spatial map")
        size = (batch.inputs.shape[2], batch.inputs.shape[3])
        layer, prefix = layer_of(model, self.layer), maps.prefix_tokens(model)

        def part(start: int, stop: int) -> Tensor:
            with leaf_at(layer) as outputs:
                # A copy, because a model may begin with an in-place operation.
                logits = model(batch.inputs[start:stop].clone())
            score = passes.class_scores(logits, batch.targets[start:stop]).sum()
            gradient = None
            if outputs and score.requires_grad:
                (gradient,) = torch.autograd.grad(score, outputs[-1], allow_unused=True)
            if gradient is None:
                raise NotApplicable(f"the model's output does not depend on layer {self.layer!r}")
            if len(gradient) != stop - start:
                raise NotApplicable(f"layer {self.layer!r} splits images into windows: its rows are no images")
            weights = spatial(gradient, size, prefix).mean((2, 3), keepdim=True)
            cam = (weights * spatial(outputs[-1].detach(), size, prefix)).sum(1, keepdim=True)
            return nn.functional.interpolate(cam.relu() if self.relu else cam, size, mode="bilinear")

        with torch.enable_grad():
            return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))
