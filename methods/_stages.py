"""The stages of a network, found by watching one pass, and a map of each of them from a single further pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch
from methods._layers import layer_of, spatial, upsampled

MapOf = Callable[[Tensor, Tensor], Tensor]
"""From an activation and its gradient, both `(n, C, h, w)`, to `(n, 1, h, w)`."""

BLOCKS = 4
"""How many stages a network of a single resolution is cut into."""


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """`relu(sum_k relu(dz / dA_k) A_k)`: evidence for the target, place by place (Jiang et al. 2021)."""
    return (gradient.relu() * activation).sum(1, keepdim=True).relu()


def grad_x_activation(activation: Tensor, gradient: Tensor) -> Tensor:
    """`sum_k dz / dA_k A_k`, signed."""
    return (gradient * activation).sum(1, keepdim=True)


def stages(model: nn.Module, batch: Batch) -> tuple[str, ...]:
    """Names of the layers at which the stages of `model` end, first to last.

    A stage ends at the last module of a resolution whose output is a spatial map that is passed by every way from the
    image to the logits (so no branch of a residual block) and on which the logits depend. Where a network has a
    single resolution, as vision transformers have, its blocks, the modules of the type that returns such maps most
    often (of types as frequent, the one that runs last), are divided into `BLOCKS` stages as equal as can be. Depends
    on the network and the size of the images, not on the images: two random ones go through it once, forward and
    backward.

    Raises:
        NotApplicable: there is no such module.
    """
    size = (batch.inputs.shape[2], batch.inputs.shape[3])
    found = _bottlenecks(model, batch, size)
    if not found:
        raise NotApplicable("the network has no spatial map that every way from the image to the logits passes")
    last = {each.grid: each.name for each in found}
    if len(last) > 1:
        return tuple(each.name for each in found if last[each.grid] == each.name)
    counts = Counter(each.kind for each in found)
    kind = max((each.kind for each in reversed(found)), key=lambda each: counts[each])
    blocks = [each.name for each in found if each.kind is kind]
    count = min(BLOCKS, len(blocks))
    return tuple(blocks[(i + 1) * len(blocks) // count - 1] for i in range(count))


def layer_maps(model: nn.Module, batch: Batch, names: Sequence[str], map_of: MapOf = layer_cam) -> Tensor:
    """`map_of` each layer of `names`, upsampled bilinearly: `(N, len(names), H, W)`, in one forward and backward pass.

    Class and register tokens have no place in a map and are left out. A layer that runs several times counts where it
    runs last. Values are those of `map_of`, so they differ in scale from layer to layer.

    Args:
        names: as in `model.named_modules()`, in any order; `stages` finds good ones.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: a layer has no spatial extent, or the output does not depend on it.

    Example:
        >>> layer_maps(model, batch, stages(model, batch)).shape  # doctest: +SKIP
        torch.Size([32, 5, 224, 224])
    """
    if not names:
        raise UserError("maps of layers need at least one layer")
    layers = [layer_of(model, name) for name in names]
    size, prefix = (batch.inputs.shape[2], batch.inputs.shape[3]), maps.prefix_tokens(model)

    def part(start: int, stop: int) -> Tensor:
        with torch.enable_grad(), _kept(layers) as outputs:
            # A copy, because a model may begin with an in-place operation.
            logits = model(batch.inputs[start:stop].clone())
            score = passes.class_scores(logits, batch.targets[start:stop]).sum()
            reached = [place for place in range(len(layers)) if place in outputs]
            gradients: Sequence[Tensor | None] = []
            if reached and score.requires_grad:
                gradients = torch.autograd.grad(score, [outputs[place] for place in reached], allow_unused=True)
        of = dict(zip(reached, gradients, strict=False))
        made = []
        for place, name in enumerate(names):
            gradient = of.get(place)
            if gradient is None:
                raise NotApplicable(f"the model's output does not depend on layer {name!r}")
            if len(gradient) != stop - start:
                raise NotApplicable(f"layer {name!r} splits images into windows: its rows are no images")
            activation = outputs[place].detach()
            made.append(upsampled(map_of(spatial(activation, size, prefix), spatial(gradient, size, prefix)), batch))
        return torch.cat(made, 1)

    return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))


@contextmanager
def _kept(layers: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Within, the last output of each layer by its place in `layers`; the graph begins at the first of them."""
    outputs: dict[int, Tensor] = {}

    def keep(place: int) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: object, output: object) -> Tensor:
            if not isinstance(output, Tensor):
                raise NotApplicable(f"the layer ({type(module).__name__}) returns no single tensor")
            outputs[place] = output if output.requires_grad else output.detach().requires_grad_()
            # A copy, because an in-place operation behind the layer would change what is kept.
            return outputs[place].clone()

        return hook

    handles = [layer.register_forward_hook(keep(place)) for place, layer in enumerate(layers)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Bottleneck:
    """A module whose output is a spatial map that everything passes."""

    name: str
    kind: type
    grid: tuple[int, int]


def _bottlenecks(model: nn.Module, batch: Batch, size: tuple[int, int]) -> list[_Bottleneck]:
    """Modules of which the output is a bottleneck, in the order in which they finish.

    Of those that hand on the same tensor (a block and its stage) each is listed: the outermost finishes last. Of a
    module that runs several times the last run counts.
    """
    seen: list[tuple[str, nn.Module, Tensor, tuple[torch.autograd.graph.Node, int]]] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.grad_fn is not None and output.dim() > 2 and len(output) == 2:
                # The node of now: an in-place operation behind the module gives the tensor another.
                seen.append((name, module, output, (output.grad_fn, output.output_nr)))

        return module.register_forward_hook(keep)

    passing = (nn.Identity, nn.Dropout)
    handles = [watch(name, each) for name, each in model.named_modules() if name and not isinstance(each, passing)]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, *batch.inputs.shape[1:], generator=generator).to(batch.inputs)
    try:
        with torch.enable_grad():
            images = noise.requires_grad_()
            logits = model(images.clone())
            if not logits.requires_grad or not seen:
                return []
            # All logits, with weights that let none cancel another.
            back = torch.randn(logits.shape, generator=generator).to(logits)
            outputs = [each[2] for each in seen]
            gradients = torch.autograd.grad(logits, outputs, back, retain_graph=True, allow_unused=True)
            narrow = _narrow(logits, images)
    finally:
        for handle in handles:
            handle.remove()
    prefix = maps.prefix_tokens(model)
    grids = {
        (found.shape[1], tuple(found.shape[2:]))
        for _, _, output, _ in seen
        if output.dim() == 4 and (found := _map(output, size, prefix)) is not None
    }
    runs = {name: run for run, (name, *_) in enumerate(seen)}
    kept = []
    for run, ((name, module, _, made), gradient) in enumerate(zip(seen, gradients, strict=True)):
        last = run == runs[name]
        found = _map(gradient, size, prefix) if last and gradient is not None and narrow(*made) else None
        # Tokens are places where a map of the same width and grid was seen, as patch embeddings make.
        if found is not None and found.any() and (found.shape[1], tuple(found.shape[2:])) in grids:
            kept.append(_Bottleneck(name, type(module), (found.shape[2], found.shape[3])))
    return kept


def _map(output: Tensor, size: tuple[int, int], prefix: int) -> Tensor | None:
    """`output` as `spatial` lays it out, or None where that is no map of the image's aspect ratio."""
    try:
        found = spatial(output.detach(), size, prefix)
    except NotApplicable:
        return None
    return found if maps.fits(found.shape[2], found.shape[3], size) else None


def _narrow(logits: Tensor, images: Tensor) -> Callable[[Any, int], bool]:
    """Whether every way back from `logits` to `images` leads through an output of a node of the graph.

    Ways are counted: those from the logits to the output, times those from there to the images, must be all.
    """
    root: Any = logits.grad_fn
    order: list[Any] = []
    entered: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in entered:
            entered.add(node)
            stack.append((node, True))
            stack.extend((before, False) for before, _ in node.next_functions if before is not None)
    below: dict[Any, int] = {}
    for node in order:
        own = int(getattr(node, "variable", None) is images)
        below[node] = own + sum(below[before] for before, _ in node.next_functions if before is not None)
    above: Counter[Any] = Counter({(root, logits.output_nr): 1})
    total: Counter[Any] = Counter({root: 1})
    for node in reversed(order):
        for before, place in node.next_functions:
            if before is not None:
                above[before, place] += total[node]
                total[before] += total[node]
    ways = below[root]
    return lambda node, place: ways > 0 and above[node, place] * below.get(node, 0) == ways
