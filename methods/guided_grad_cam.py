"""Guided Grad-CAM: guided backpropagation where Grad-CAM finds the class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from methods._layers import layer_of, spatial, upsampled
from methods._operations import target_logits
from methods._rectifiers import Rectifiers


@contextmanager
def _output_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Within, each output of `layer` is kept in the list, with its graph."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            raise NotApplicable(f"the layer ({type(module).__name__}) returns no single tensor")
        outputs.append(output)

    handle = layer.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """The guided gradient times the Grad-CAM map at the size of the image, signed, `(N, C, H, W)`.

    Both come from one forward pass. Its graph is walked back twice: with the plain gradient to the layer, which is
    what Grad-CAM is defined by, and by the guided rule to the pixels. See `GuidedBackprop` and `GradCAM`.

    Source: Selvaraju et al. 2017, arXiv:1610.02391, section 3.2.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, usually the last with spatial extent.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the network has no ReLU, the layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> GuidedGradCAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    needs_gradient = True
    passes = 3

    layer: str

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.layer:
            raise NotApplicable("the network has no layer with a spatial map")
        layer, prefix = layer_of(model, self.layer), maps.prefix_tokens(model)
        size = (batch.inputs.shape[2], batch.inputs.shape[3])

        def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
            inputs, targets = batch.inputs[start:stop], batch.targets[start:stop]
            rectifiers = Rectifiers("guided")
            with torch.enable_grad():
                with _output_of(layer) as outputs:
                    leaf, scores = target_logits(model, inputs, targets, rectifiers.rules)
                rectifiers.check()
                rectifiers.active = False
                gradient = None
                if outputs and outputs[-1].requires_grad:
                    (gradient,) = torch.autograd.grad(scores.sum(), outputs[-1], retain_graph=True, allow_unused=True)
                if gradient is None:
                    raise NotApplicable(f"the model's output does not depend on layer {self.layer!r}")
                if len(gradient) != len(inputs):
                    raise NotApplicable(f"layer {self.layer!r} splits images into windows: its rows are no images")
                rectifiers.active = True
                (guided,) = torch.autograd.grad(scores.sum(), leaf)
            activation, gradient = spatial(outputs[-1].detach(), size, prefix), spatial(gradient, size, prefix)
            return guided, (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True)

        guided, cams = zip(*passes.chunked(part, len(batch), batch.chunk), strict=True)
        return torch.cat(guided) * upsampled(torch.cat(cams).relu(), batch)
