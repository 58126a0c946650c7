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


def layer_gradient(model: nn.Module, inputs: Tensor, targets: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The output A of the layer called `name` and `d z_t / d A`, both as `spatial` lays them out: `(N, C, h, w)`.

    One forward pass, and a backward pass that ends at the layer. A layer that runs several times counts where it runs
    last.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.
    """
    layer, prefix = _named(model, name), maps.prefix_tokens(model)
    with torch.enable_grad():
        with leaf_at(layer) as outputs:
            # A copy, because a model may begin with an in-place operation.
            logits = model(inputs.clone())
        score = passes.class_scores(logits, targets).sum()
        gradient = None
        if outputs and score.requires_grad:
            (gradient,) = torch.autograd.grad(score, outputs[-1], allow_unused=True)
    if gradient is None:
        raise NotApplicable(f"the model's output does not depend on layer {name!r}")
    size = (inputs.shape[2], inputs.shape[3])
    found = _of_images(outputs[-1].detach(), len(inputs), size, prefix, name)
    return found, _of_images(gradient, len(inputs), size, prefix, name)


def activation_and_gradient(model: nn.Module, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """`layer_gradient` of the images of `batch`, made once for all methods of a sweep that need it."""

    def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return layer_gradient(model, batch.inputs[start:stop], batch.targets[start:stop], name)

    def make() -> tuple[Tensor, Tensor]:
        activations, gradients = zip(*passes.chunked(part, len(batch), batch.chunk), strict=True)
        return torch.cat(activations), torch.cat(gradients)

    return batch.once(model, ("activation and gradient", name), make)


def activation_of(model: nn.Module, batch: Batch, name: str) -> Tensor:
    """The output of the layer called `name` as `spatial` lays it out, `(N, C, h, w)`: one forward pass.

    Made once for all methods of a sweep that need it alone.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or does not run.
    """
    layer, prefix = _named(model, name), maps.prefix_tokens(model)
    size = (batch.inputs.shape[2], batch.inputs.shape[3])

    @torch.no_grad()
    def part(start: int, stop: int) -> Tensor:
        with leaf_at(layer) as outputs:
            model(batch.inputs[start:stop].clone())
        if not outputs:
            raise NotApplicable(f"layer {name!r} does not run when the model does")
        return _of_images(outputs[-1].detach(), stop - start, size, prefix, name)

    def make() -> Tensor:
        return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))

    return batch.once(model, ("activation", name), make)


def _named(model: nn.Module, name: str) -> nn.Module:
    if not name:
        raise NotApplicable("the network has no layer with a spatial map")
    return layer_of(model, name)


def _of_images(activation: Tensor, images: int, size: tuple[int, int], prefix: int, name: str) -> Tensor:
    if len(activation) != images:
        raise NotApplicable(f"layer {name!r} splits images into windows: its rows are no images")
    return spatial(activation, size, prefix)


def strongest_channels(activation: Tensor, count: int | None) -> Tensor:
    """The channels `(N, K)` of `activation (N, C, h, w)` that vary most over places; all in order for None."""
    images, channels = activation.shape[:2]
    if count is None or count >= channels:
        return torch.arange(channels, device=activation.device).expand(images, channels)
    return activation.flatten(2).var(2, correction=0).topk(count).indices


def upsampled(cam: Tensor, batch: Batch) -> Tensor:
    """A coarse map `(N, 1, h, w)` at the size of the images, bilinearly: `(N, 1, H, W)`."""
    return nn.functional.interpolate(cam, batch.inputs.shape[2:], mode="bilinear")
