"""The layer whose output a CAM method weighs, found by watching the model rather than by a list of architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.errors import UserError, unknown

_ALIKE = 1e-3
"""How far two gradients may be apart, as a part of their size, that are equal but for rounding."""

_TRIES = 24
"""How many maps, from the last, may be what everything passes: each costs a backward pass."""


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
    """The last module whose output is a spatial map through which places of the image reach the logits.

    A spatial map is `(N, C, h, w)`, `(N, h, w, C)` or a sequence of tokens `(N, prefix + h * w, C)`, with h : w as in
    the image and more than one place. All that the logits know of places must pass it: the map itself, as at the end
    of a block, or its places from the last such map on. So in a transformer with a class token it is the norm before
    the last mixing of places (behind it the logits depend on the class token alone), and neither one of the projections
    inside attention nor one of several layers that read the same patches. Where modules hand on the same map (a block,
    its stage, all stages) the outermost is named. Of a network of several branches, none of which is all there is, the
    last map is named that is no projection of tokens.

    Returns:
        The module's name; empty where there is none, as in a perceptron on flattened pixels, or where the logits carry
        no gradient.
    """
    kind = {name: type(module) for name, module in network.named_modules()}
    images, seen = _outputs(network, size)
    prefix = maps.prefix_tokens(network)
    grids = _seen_grids(seen, size, prefix)
    found: list[_Map] = []
    for each in {each.name: each for each in seen}.values():  # of a module that runs several times the last run
        places = _places(each.output.shape, size, grids, prefix)
        if places is not None and bool(each.gradient[places].any()):
            found.append(replace(each, places=places))
    found.sort(key=lambda each: each.order)
    total = images.gradient
    for place in reversed(range(max(len(found) - _TRIES, 0), len(found))):
        if _passes_all(found[place], images.output, total, ()):
            stream = found[place]
            behind = [each for each in reversed(found[place + 1 :]) if _passes_all(each, *_at(stream))]
            return behind[0].name if behind else stream.name
    others = [each.name for each in found if not issubclass(kind[each.name], nn.Linear)]
    return others[-1] if others else ""


@dataclass(frozen=True)
class _Map:
    """The output of a module, the gradient of the logits at it, when it was made, and which part of it is places."""

    name: str
    output: Tensor
    gradient: Tensor
    order: int = 0
    places: tuple[slice, ...] = ()


def _at(stream: _Map) -> tuple[Tensor, Tensor, tuple[slice, ...]]:
    return stream.output, stream.gradient, stream.places


def _passes_all(through: _Map, source: Tensor, total: Tensor, places: tuple[slice, ...]) -> bool:
    """Whether the gradient that reaches `places` of `source` by way of `through` is all of it, `total`."""
    (part,) = torch.autograd.grad(
        through.output, [source], through.gradient, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    part, total = part[places], total[places]
    return bool((part - total).norm() <= _ALIKE * total.norm())


def _outputs(network: nn.Module, size: tuple[int, int, int]) -> tuple[_Map, list[_Map]]:
    """Two random images, and the outputs of modules for them, in the order in which modules finish."""
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
        logits = network(images.clone())  # a copy, because a model may begin with an in-place operation
        if not logits.requires_grad:
            return _Map("", images, torch.zeros_like(images)), []
        # All of them, weighed at random: a single one may be constant.
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
        outputs = [images, *(output for _, output in seen)]
        score = (weights * logits).sum()
        first, *gradients = torch.autograd.grad(score, outputs, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    found = [
        _Map(name, output, gradient, order)
        for order, ((name, output), gradient) in enumerate(zip(seen, gradients, strict=True))
        if gradient is not None
    ]
    return _Map("", images, torch.zeros_like(images) if first is None else first), found


def _seen_grids(seen: Sequence[_Map], size: tuple[int, int, int], prefix: int) -> set[tuple[int, int]]:
    """(width, places) of every shape of tokens that stands for places.

    Those for which a map of the same width was seen, as patch embeddings make, and sequences of patches alone whose
    grid has half the places a side of one that was seen, as stages without a map between them hand on.
    """
    grids = {each for found in seen for each in _grids(found.output.shape, size)}
    sides = {_sides(places, size) for _, places in grids}
    for found in seen:
        if found.output.dim() != 3:
            continue
        places, width = found.output.shape[1] - prefix, found.output.shape[2]
        grid = maps.token_grid(found.output.shape[1], size[1:], prefix)
        if grid is None or grid[0] != prefix:
            continue
        if (width, places) in grids:
            sides.add(grid[1:])
        elif any((grid[1], grid[2]) == ((h + 1) // 2, (w + 1) // 2) for h, w in sides):
            grids.add((width, places))
            sides.add(grid[1:])
    return grids


def _sides(places: int, size: tuple[int, int, int]) -> tuple[int, int]:
    grid = maps.token_grid(places, size[1:])
    return grid[1:] if grid is not None and grid[0] == 0 else (0, 0)


def _grids(shape: torch.Size, size: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(C, places) of a map of `shape`, read as channels first and as channels last, where the grid fits the image."""
    if len(shape) != 4:
        return []
    readings = ((shape[1], shape[2], shape[3]), (shape[3], shape[1], shape[2]))
    return [(c, h * w) for c, h, w in readings if maps.fits(h, w, size[1:])]


def _places(
    shape: torch.Size, size: tuple[int, int, int], grids: set[tuple[int, int]], prefix: int
) -> tuple[slice, ...] | None:
    """The part of an output of `shape` that belongs to places, or None where it is no spatial map."""
    if len(shape) == 4:
        return (slice(None),) if _grids(shape, size) else None
    found = maps.token_grid(shape[1], size[1:], prefix) if len(shape) == 3 else None
    if found is None:
        return None
    drop, height, width = found
    return (slice(None), slice(drop, None)) if (shape[2], height * width) in grids else None
