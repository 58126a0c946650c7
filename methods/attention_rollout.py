"""Attention rollout: attention of all layers, multiplied along the way of the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._attention import attentions, in_chunks, rolled, tokens_of

Fuse = Literal["mean", "min", "max"]


@dataclass(frozen=True)
class AttentionRollout(Method):
    """The class token's row of `B_L ... B_2 B_1`, `B_l = (A_l + I) / 2`, upsampled; at least 0, `(N, 1, H, W)`.

    `A_l (T, T)` is the attention of layer l, its heads fused, and `B_l` is divided by the sums of its rows. So a row of
    the product says which share of an output token comes from each input token, and sums to 1, of which the shares of
    class and register tokens are dropped. Where the head reads class and distillation token or the mean of all patches,
    the rows of these are averaged.

    Source: Abnar & Zuidema 2020, arXiv:2005.00928 (mean over heads, nothing discarded). Other ways to fuse, and
    discarding, are of Gildenblat's vit-explain, which differs from this in that it divides columns, not rows, by the
    sums of rows, and discards in the first image of a batch alone.

    Attributes:
        heads: `mean`, `min` or `max` over heads.
        discard: share of each layer's fused attentions, the smallest, that is set to 0; those equal to the smallest
            that stays also stay, and so does what class tokens pay to themselves.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: there is no attention among all tokens of an image, the same ones in every layer.

    Example:
        >>> AttentionRollout(heads="min", discard=0.9).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    class_agnostic = True
    passes = 1

    heads: Fuse = "mean"
    discard: float = 0.0

    def __post_init__(self) -> None:
        if self.heads not in get_args(Fuse) or not 0 <= self.discard < 1:
            known = ", ".join(get_args(Fuse))
            given = f"heads={self.heads!r} and discard={self.discard}"
            raise UserError(f"attention rollout needs heads from {known} and 0 <= discard < 1, not {given}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        def part(start: int, stop: int) -> Tensor:
            matrices = attentions(model, batch, start, stop, self.fused)
            tokens = tokens_of(model, batch, matrices)
            if self.discard:
                kept = tokens.head[1] if tokens.head[0] == 0 else 0
                matrices = [discarded(matrix, self.discard, kept) for matrix in matrices]
            return rolled(tokens, matrices, shares=True)

        return in_chunks(batch, part)

    def fused(self, matrix: Tensor) -> Tensor:
        """One attention `(n, T, T)` for the heads of `(n, heads, T, T)`."""
        if self.heads == "mean":
            return matrix.mean(1)
        return matrix.amax(1) if self.heads == "max" else matrix.amin(1)


def discarded(matrix: Tensor, share: float, kept: int) -> Tensor:
    """`matrix (n, T, T)` without the smallest `share` of its entries, save those among the first `kept` tokens."""
    flat = matrix.flatten(1)
    smallest = flat.kthvalue(int(share * flat.shape[1]) + 1, dim=1).values.view(-1, 1, 1)
    found = torch.where(matrix < smallest, 0, matrix)
    found[:, :kept, :kept] = matrix[:, :kept, :kept]
    return found
