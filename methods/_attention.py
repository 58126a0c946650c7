"""The attention matrices of a vision transformer, whatever computes them, and the map that a row over tokens makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch
from methods._layers import upsampled
from methods._operations import Operations, Rule, target_logits

_CLASS_TOKENS = {"cls_token", "class_token", "class_embedding"}  # as timm, torchvision and OpenCLIP call it
_SECOND_HEADS = {"head_dist", "distillation_classifier"}


@dataclass(frozen=True)
class Tokens:
    """What the tokens of a network are.

    Attributes:
        head: first, and behind the last, of the tokens whose mean the head reads: the class token, class and
            distillation token, or all patches.
        prefix: tokens before the patches.
        grid: of patches, rows and columns.
    """

    head: tuple[int, int]
    prefix: int
    grid: tuple[int, int]

    def read(self, matrix: Tensor) -> Tensor:
        """The mean of the rows of `matrix (n, T, T)` that the head reads: `(n, T)`."""
        return matrix[:, slice(*self.head)].mean(1)

    def map(self, row: Tensor) -> Tensor:
        """The patches of `row (n, T)` in their places: `(n, 1, h, w)`."""
        return row[:, self.prefix :].unflatten(1, (1, *self.grid))


def tokens_of(model: nn.Module, batch: Batch, matrices: Sequence[Tensor]) -> Tokens:
    """What the T tokens of `matrices (..., T, T)` are, as the parts of `model` say.

    These are `maps.prefix_tokens`, a class token, and the pooling. A network of which nothing is known, with one token
    more than a grid has, is taken to have a class token.

    Raises:
        NotApplicable: the matrices differ in T, the tokens are no grid of the image's proportions, or nothing says
            which of them the head reads.
    """
    count = matrices[0].shape[-1]
    if any(matrix.shape[-1] != count for matrix in matrices):
        raise NotApplicable("the number of its tokens changes from layer to layer")
    special, declared = _special_tokens(model), maps.prefix_tokens(model)
    found = maps.token_grid(count, (batch.inputs.shape[2], batch.inputs.shape[3]), max(declared, special))
    if found is None or found[0] < special:
        raise NotApplicable(f"its {count} tokens are no grid of patches in the image's proportions")
    prefix, *grid = found
    if prefix != declared and not special:
        if prefix > 1:
            raise NotApplicable(f"nothing says which of the {prefix} tokens before the patches its head reads")
        special = prefix
    head = (0, special) if special and not _pools_patches(model) else (prefix, count)
    return Tokens(head, prefix, (grid[0], grid[1]))


def _special_tokens(model: nn.Module) -> int:
    """2 where a second head reads a distillation token, 1 where there is a class token, otherwise 0."""
    names = {name for module in model.modules() for name, _ in module.named_parameters(recurse=False)}
    heads = {name for module in model.modules() for name, child in module.named_children() if child is not None}
    return (2 if heads & _SECOND_HEADS else 1) if names & _CLASS_TOKENS else 0


def _pools_patches(model: nn.Module) -> bool:
    """Whether the head reads the mean of the patches although there may be a class token, as timm models state it."""
    return any(
        isinstance(pool := getattr(module, "global_pool", None), str) and pool != "token" for module in model.modules()
    )


def softmax_rule(rows: int, keep: Callable[[Tensor], Tensor]) -> Rule:
    """A rule for `softmax` of `methods._operations` that puts `keep(A)` in place of each attention matrix A.

    A is `(rows, heads, T, T)`: a softmax over the last dimension. One of fewer than 3 dimensions is no attention.
    """

    def softmax(function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
        found = function(*args, **options)
        dim = options.get("dim", args[1] if len(args) > 1 else None)
        if found.dim() < 3 or dim not in (-1, found.dim() - 1):
            return found
        if found.dim() != 4 or len(found) != rows:
            raise NotApplicable("its attention is within windows or groups, not among all tokens of an image")
        if found.shape[2] != found.shape[3]:
            raise NotApplicable("it has attention whose queries are other tokens than its keys, as pooling has")
        return keep(found)

    return softmax


def attentions(model: nn.Module, batch: Batch, start: int, stop: int, fuse: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`fuse(A)` of the attention matrix A `(n, heads, T, T)` of each layer, first layer first, in one forward pass.

    Args:
        start: of the images of the batch that are asked for, n in all; `stop` is behind the last.
        fuse: leaves A itself alone.

    Raises:
        NotApplicable: the network has no attention, or not among all the tokens of an image.
    """
    found: list[Tensor] = []

    def keep(matrix: Tensor) -> Tensor:
        found.append(fuse(matrix))
        return matrix

    with torch.no_grad(), Operations({"softmax": softmax_rule(stop - start, keep)}):
        model(batch.inputs[start:stop].clone())  # a copy, because a model may begin with an in-place operation
    return some(found)


def attentions_and_gradients(model: nn.Module, batch: Batch, start: int, stop: int) -> list[tuple[Tensor, Tensor]]:
    """The attention matrix A `(n, heads, T, T)` of each layer and `d z_t / d A`, first layer first.

    One forward pass, and a backward pass that ends at the first of the matrices. Raises as `attentions`.
    """
    found: list[Tensor] = []
    rules = {"softmax": softmax_rule(stop - start, with_graph(found))}
    with torch.enable_grad():
        _, scores = target_logits(model, batch.inputs[start:stop], batch.targets[start:stop], rules)
        gradients = torch.autograd.grad(scores.sum(), some(found), materialize_grads=True, allow_unused=True)
    return [(matrix.detach(), gradient) for matrix, gradient in zip(found, gradients, strict=True)]


def with_graph(found: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """Keeps matrices in `found`, each with a graph behind it, that begins with the matrix where nothing else does."""

    def keep(matrix: Tensor) -> Tensor:
        found.append(matrix if matrix.requires_grad else matrix.detach().requires_grad_())
        return found[-1]

    return keep


def some(found: list[Tensor]) -> list[Tensor]:
    """`found`, if there is anything.

    Raises:
        NotApplicable: there is not.
    """
    if not found:
        raise NotApplicable("no attention among tokens is to be seen in the network")
    return found


def rolled(tokens: Tokens, matrices: Sequence[Tensor], shares: bool = False) -> Tensor:
    """The row that the head reads of `(I + M_L) ... (I + M_2) (I + M_1)`, as a map: `(n, 1, h, w)`.

    A row times one matrix after the other, so that no two matrices are multiplied.

    Args:
        matrices: M of each layer `(n, T, T)`, at least 0, first layer first; rows are queries.
        shares: divide each `I + M` by the sums of its rows.
    """
    row = torch.zeros_like(matrices[0][:, :1])
    row[:, :, slice(*tokens.head)] = 1 / (tokens.head[1] - tokens.head[0])
    for matrix in reversed(matrices):
        if shares:
            row = row / (1 + matrix.sum(2).unsqueeze(1))
        row = row + row @ matrix
    return tokens.map(row.squeeze(1))


def in_chunks(batch: Batch, part: Callable[[int, int], Tensor]) -> Tensor:
    """`part(start, stop)`, coarse maps `(n, 1, h, w)`, for all images at their size: `(N, 1, H, W)`."""
    cam = torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))
    return upsampled(cam.to(batch.inputs.dtype), batch)
