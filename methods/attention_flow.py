"""Attention flow: how much could flow from an input token to the output through pipes as wide as attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._attention import attentions, in_chunks, tokens_of

_UNIT = 2**30  # capacities are whole numbers of 32 bits


@dataclass(frozen=True)
class AttentionFlow(Method):
    """The maximum flow from the output token to each input token, upsampled bilinearly; in 0..1, `(N, 1, H, W)`.

    The network of pipes has a node for each token of each layer, and from token i of layer l to token j of the layer
    below a pipe of capacity `B_l[i, j]`, `B_l = (mean_h A_lh + I) / 2`. The output token is the class token, or, where
    the head reads several tokens, one with the mean of their rows.

    Solved exactly, each patch by itself, on capacities rounded to multiples of 2^-30: a flow is wrong by at most 2^-31
    for each pipe of its smallest cut, so by about 2e-7 where the cut is all pipes of two tokens of 197. The solver runs
    on the CPU and takes most of the time: 3 to 4 s an image for 12 layers of 197 tokens.

    In a deep network most flows are limited by the last pipe alone, by `sum_i B_1[i, j]`: what all tokens of the first
    layer pay to patch j.

    Source: Abnar & Zuidema 2020, arXiv:2005.00928.

    Raises:
        NotApplicable: there is no attention among all tokens of an image, the same ones in every layer.

    Example:
        >>> AttentionFlow().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    class_agnostic = True
    passes = 1

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        def part(start: int, stop: int) -> Tensor:
            matrices = attentions(model, batch, start, stop, residual)
            tokens = tokens_of(model, batch, matrices)
            pipes = [tokens.read(matrices[-1]), *reversed(matrices[:-1])]
            found = torch.stack([flows([pipe[i] for pipe in pipes]) for i in range(stop - start)])
            return tokens.map(found.to(matrices[0]))

        return in_chunks(batch, part)


def residual(matrix: Tensor) -> Tensor:
    """`(mean_h A_h + I) / 2`, `(n, T, T)`."""
    return (matrix.mean(1) + torch.eye(matrix.shape[3], dtype=matrix.dtype, device=matrix.device)) / 2


def flows(pipes: list[Tensor]) -> Tensor:
    """The maximum flow `(T,)` from a source to each token of the lowest layer, float64 on the CPU.

    Args:
        pipes: capacities in 0..1 on the way down: `(T,)` from the source, then `(T, T)` from layer to layer.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_flow

    whole = [(pipe.double() * _UNIT).round().to("cpu", torch.int32) for pipe in pipes]
    if len(whole) == 1:
        return whole[0].double() / _UNIT
    count, sink = len(whole[0]), 1 + (len(whole) - 1) * len(whole[0])
    # Node 0 is the source, then come the tokens of each layer on the way down, and the one patch that is the sink.
    layers = torch.arange(1, sink, dtype=torch.int32).view(-1, count)
    ends = [layers[0], *(layer.repeat(count) for layer in layers[1:]), torch.full((count,), sink, dtype=torch.int32)]
    widths = torch.tensor([count] * (sink - count) + [1] * count + [0])  # pipes that leave each node
    begins = nn.functional.pad(widths.cumsum(0), (1, 0)).int()
    above = [pipe.flatten() for pipe in whole[:-1]]

    def flow(patch: int) -> int:
        capacities = torch.cat([*above, whole[-1][:, patch]])
        graph = csr_matrix((capacities.numpy(), torch.cat(ends).numpy(), begins.numpy()), (sink + 1, sink + 1))
        return int(maximum_flow(graph, 0, sink).flow_value)

    return torch.tensor([flow(patch) for patch in range(count)], dtype=torch.float64) / _UNIT
