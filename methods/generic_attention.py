"""Generic attention explainability: attention weighted by its gradient, layer upon layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._attention import attentions_and_gradients, in_chunks, rolled, tokens_of


@dataclass(frozen=True)
class GenericAttention(Method):
    """The class token's row of R, where `R <- R + E_h[relu(A_h * d z_t / d A_h)] R` from `R = I` up the layers.

    Upsampled bilinearly; at least 0, `(N, 1, H, W)`. `A_h (T, T)` is the softmax of head h, rows are queries, E_h the
    mean over heads. What falls on class and register tokens is dropped. Where the head reads class and distillation
    token or the mean of all patches, the rows of these are averaged; then `R = I` gives each patch the same share.

    Source: Chefer, Gur & Wolf 2021, arXiv:2103.15679 (equations 5 and 6, self-attention alone).

    Raises:
        NotApplicable: there is no attention among all tokens of an image, the same ones in every layer.

    Example:
        >>> GenericAttention().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        def part(start: int, stop: int) -> Tensor:
            layers = attentions_and_gradients(model, batch, start, stop)
            matrices = [(matrix * gradient).relu().mean(1) for matrix, gradient in layers]
            # R + E R = (I + E) R
            return rolled(tokens_of(model, batch, matrices), matrices)

        return in_chunks(batch, part)
