"""The layer whose output a CAM method weighs, found by watching the model rather than by a list of architectures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.errors import UserError, unknown


def choose(network: nn.Module, size: tuple[int, int, int], layer: str | None) -> str:
    """`layer` if it is a module of `network`, else the one that `last_spatial` finds.

    Raises:
        UserError: there is no module of that name.
    """
    if layer is None:
        return last_spatial(network, size)
    names = [name for name, _ in network.named_modules() if name]
    if layer in names:
        return layer
    raise UserError(unknown("models.layer=", layer, names))


def last_spatial(network: nn.Module, size: tuple[int, int, int]) -> str:
    """The module that runs last of those whose output is a spatial map on which the logits depend.

    A spatial map is `(N, C, h, w)`, `(N, h, w, C)` or a sequence of tokens `(N, prefix + h * w, C)`, with h : w as in
    the image and more than one place. What follows the last mixing of places in a transformer with a class token is
    no candidate: there the logit depends on the class token alone, so every place has gradient zero. Where modules
    hand on the same map (a block, its stage, all stages) the outermost is named.

    Returns:
        The module's name; empty where there is none, as in a perceptron on flattened pixels.
    """
    seen = _outputs(network, size)
    grids = {shape for _, output, _ in seen for shape in _grids(output.shape, size)}
    prefix = maps.prefix_tokens(network)
    for name, _, gradient in reversed(seen):
        places = _places(gradient, size, grids, prefix)
        if places is not None and bool(places.any()):
            return name
    return ""


def _outputs(network: nn.Module, size: tuple[int, int, int]) -> list[tuple[str, Tensor, Tensor]]:
    """(module, output, gradient of the logits at it) in the order in which modules finish, for two random images."""
    seen: list[tuple[str, Tensor]] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad and output.dim() and len(output) == 2:
                seen.append((name, output))

        return module.register_forward_hook(keep)

    passing = (nn.Identity, nn.Dropout)
    handles = [watch(name, each) for name, each in network.named_modules() if name and not isinstance(each, passing)]
    like = next(network.parameters(), torch.empty(0))
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0)).to(like).requires_grad_()
    try:
        logits = network(images)
        # All of them, weighed at random: a single one may be constant.
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
        gradients = torch.autograd.grad((weights * logits).sum(), [output for _, output in seen], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    pairs = zip(seen, gradients, strict=True)
    return [(name, output.detach(), gradient) for (name, output), gradient in pairs if gradient is not None]


def _grids(shape: torch.Size, size: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(C, places) of a map of `shape`, read as channels first and as channels last, where the grid fits the image."""
    if len(shape) != 4:
        return []
    readings = ((shape[1], shape[2], shape[3]), (shape[3], shape[1], shape[2]))
    return [(c, h * w) for c, h, w in readings if maps.fits(h, w, size[1:])]


def _places(gradient: Tensor, size: tuple[int, int, int], grids: set[tuple[int, int]], prefix: int) -> Tensor | None:
    """The part of `gradient` that belongs to places, or None where its shape is no spatial map.

    Tokens count as places where a map of the same width and number of places was seen, as patch embeddings make.
    """
    if gradient.dim() == 4:
        return gradient if _grids(gradient.shape, size) else None
    found = maps.token_grid(gradient.shape[1], size[1:], prefix) if gradient.dim() == 3 else None
    if found is None:
        return None
    drop, height, width = found
    return gradient[:, drop:] if (gradient.shape[2], height * width) in grids else None
