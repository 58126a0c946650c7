"""Layers by name, their output as the leaf of a backward pass, and its spatial form in any architecture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import NotApplicable, UserError, unknown
from benchmark.protocols import Batch


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The module that `model.named_modules()` calls `name`.

    Raises:
        UserError: there is none; names close ones.
    """
    layers = dict(model.named_modules())
    layers.pop("")
    if name in layers:
        return layers[name]
    raise UserError(unknown("layer ", name, layers))


@contextmanager
def leaf_at(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Within, each output of `layer` is cut from what made it and kept in the list: a backward pass ends there.

    The model goes on with a copy, so an in-place operation behind the layer changes neither the kept output nor a leaf.
    """
    outputs: list[Tensor] = []

    def cut(module: nn.Module, args: tuple[object, ...], output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise NotApplicable(f"the layer ({type(module).__name__}) returns no single tensor")
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()

    handle = layer.register_forward_hook(cut)
    try:
        yield outputs
    finally:
        handle.remove()


def spatial(activation: Tensor, size: tuple[int, int], prefix: int = 0) -> Tensor:
    """The output of a layer as `(N, C, h, w)`.

    Args:
        activation: `(N, C, h, w)`, channels last `(N, h, w, C)`, or tokens `(N, p + h * w, C)`. A map is channels last
            if that brings h / w closer to the aspect ratio of the image. Of tokens, the first p are dropped, see
            `maps.token_grid`.
        size: height and width of the image.
        prefix: tokens before the patches, see `maps.prefix_tokens`.

    Raises:
        NotApplicable: there is no grid larger than 1x1.
    """
    found = activation
    if activation.dim() == 4:
        aspect = math.log(size[0] / size[1])
        first, middle, last = activation.shape[1:]
        if abs(math.log(first / middle) - aspect) < abs(math.log(middle / last) - aspect):
            found = activation.permute(0, 3, 1, 2)
    elif activation.dim() == 3 and (grid := maps.token_grid(activation.shape[1], size, prefix)):
        found = activation[:, grid[0] :].transpose(1, 2).unflatten(2, grid[1:])
    if found.dim() != 4 or found.shape[2:].numel() == 1:
        raise NotApplicable(f"the layer has no spatial extent: its output is {tuple(activation.shape)}")
    return found


def activation_and_gradient(model: nn.Module, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """The output A of the layer called `name` and `d z_t / d A`, both as `spatial` lays them out: `(N, C, h, w)`.

    One forward pass, and a backward pass that ends at the layer; made once for all methods of a sweep that need it. A
    layer that runs several times counts where it runs last.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.
    """
    if not name:
        raise NotApplicable("the network has no layer with a spatial map")
    size = (batch.inputs.shape[2], batch.inputs.shape[3])
    layer, prefix = layer_of(model, name), maps.prefix_tokens(model)

    def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            with leaf_at(layer) as outputs:
                # A copy, because a model may begin with an in-place operation.
                logits = model(batch.inputs[start:stop].clone())
            score = passes.class_scores(logits, batch.targets[start:stop]).sum()
            gradient = None
            if outputs and score.requires_grad:
                (gradient,) = torch.autograd.grad(score, outputs[-1], allow_unused=True)
        if gradient is None:
            raise NotApplicable(f"the model's output does not depend on layer {name!r}")
        if len(gradient) != stop - start:
            raise NotApplicable(f"layer {name!r} splits images into windows: its rows are no images")
        return spatial(outputs[-1].detach(), size, prefix), spatial(gradient, size, prefix)

    def make() -> tuple[Tensor, Tensor]:
        activations, gradients = zip(*passes.chunked(part, len(batch), batch.chunk), strict=True)
        return torch.cat(activations), torch.cat(gradients)

    return batch.once(model, ("activation and gradient", name), make)


def upsampled(cam: Tensor, batch: Batch) -> Tensor:
    """A coarse map `(N, 1, h, w)` at the size of the images, bilinearly: `(N, 1, H, W)`."""
    return nn.functional.interpolate(cam, batch.inputs.shape[2:], mode="bilinear")
