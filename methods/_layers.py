"""Layers by name, their output as the leaf of a backward pass, and its spatial form in any architecture."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from benchmark.errors import NotApplicable, UserError

_MOST_PREFIX_TOKENS = 16


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The module that `model.named_modules()` calls `name`.

    Raises:
        UserError: there is none; names close ones.
    """
    layers = dict(model.named_modules())
    layers.pop("")
    if name in layers:
        return layers[name]
    close = difflib.get_close_matches(name, layers, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"it begins with {', '.join(list(layers)[:5])}, ..."
    raise UserError(f"the model has no layer {name!r}: {hint}")


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


def prefix_tokens(model: nn.Module) -> int:
    """Class and register tokens before the patches, as timm models (also wrapped ones) state it, otherwise 0."""
    for module in model.modules():
        if isinstance(count := getattr(module, "num_prefix_tokens", None), int):
            return count
    return 0


def _token_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """The grid `(h, w)` of so many patches at the aspect ratio of `size`, if there is one."""
    height = round(math.sqrt(max(tokens, 0) * size[0] / size[1]))
    width = tokens // height if height else 0
    fits = height * width == tokens > 0 and height * size[1] == width * size[0]
    return (height, width) if fits else None


def spatial(activation: Tensor, size: tuple[int, int], prefix: int = 0) -> Tensor:
    """The output of a layer as `(N, C, h, w)`.

    Args:
        activation: `(N, C, h, w)`, channels last `(N, h, w, C)`, or tokens `(N, p + h * w, C)`. A map is channels last
            if that brings h / w closer to the aspect ratio of the image. Of tokens, the first p are dropped: `prefix`
            if the rest is then a grid at the aspect ratio, otherwise the smallest p up to 16 that leaves one.
        size: height and width of the image.
        prefix: tokens before the patches, see `prefix_tokens`.

    Raises:
        NotApplicable: there is no grid larger than 1x1.
    """
    found = activation
    if activation.dim() == 4:
        aspect = math.log(size[0] / size[1])
        first, middle, last = activation.shape[1:]
        if abs(math.log(first / middle) - aspect) < abs(math.log(middle / last) - aspect):
            found = activation.permute(0, 3, 1, 2)
    elif activation.dim() == 3:
        for drop in (prefix, *range(_MOST_PREFIX_TOKENS + 1)):
            if grid := _token_grid(activation.shape[1] - drop, size):
                found = activation[:, drop:].transpose(1, 2).unflatten(2, grid)
                break
    if found.dim() != 4 or found.shape[2:].numel() == 1:
        raise NotApplicable(f"the layer has no spatial extent: its output is {tuple(activation.shape)}")
    return found
