"""Raw attention: where the output token looks in one layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from methods._attention import attentions, in_chunks, tokens_of


@dataclass(frozen=True)
class RawAttention(Method):
    """The row of the class token in `mean_h A_h` of one layer, upsampled bilinearly; at least 0, `(N, 1, H, W)`.

    `A_h (T, T)` is the softmax of head h, rows are queries. What falls on class and register tokens is dropped. Where
    the head reads class and distillation token or the mean of all patches, the rows of these are averaged. It knows
    nothing of values, of other layers, or of the target.

    Source: the baseline of that name in Chefer, Gur & Wolf 2021, arXiv:2012.09838.

    Attributes:
        block: which layer, counted from 0, or from the end where negative.

    Raises:
        NotApplicable: there is no attention among all tokens of an image, or no such layer.

    Example:
        >>> RawAttention().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    class_agnostic = True
    passes = 1

    block: int = -1

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        def part(start: int, stop: int) -> Tensor:
            matrices = attentions(model, batch, start, stop, lambda matrix: matrix.mean(1))
            if not -len(matrices) <= self.block < len(matrices):
                raise NotApplicable(f"it has {len(matrices)} layers of attention and no layer {self.block}")
            matrix = matrices[self.block]
            tokens = tokens_of(model, batch, [matrix])
            return tokens.map(tokens.read(matrix))

        return in_chunks(batch, part)
