"""LeGrad: how sensitive the class score of each layer's tokens is to that layer's attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from methods._attention import in_chunks, softmax_rule, some, tokens_of, with_graph
from methods._operations import Operations


@dataclass(frozen=True)
class LeGrad(Method):
    """`mean_l mean_h mean_i relu(d s_l / d A_l)[h, i, j]` for patch j, upsampled; at least 0, `(N, 1, H, W)`.

    `A_l (heads, T, T)` is the softmax of layer l, rows i are queries. `s_l` is the target logit that the network's own
    end, final norm and head, gives to the mean of all tokens that layer l puts out, so that it depends on `A_l` through
    that layer alone. The ends of all layers are computed at once: where the last layer ends, the network goes on with
    the mean tokens of every layer, as many images as there are layers.

    The layers are all modules of the network's longest row of equal blocks (by weights). The authors' package scales
    maps to 0..1, leaves out early layers by default, and takes for CLIP the cosine with a text for `s_l`.

    Source: Bousselham et al. 2024, arXiv:2404.03214.

    Raises:
        NotApplicable: there is no attention among all tokens of an image, one in each of a row of equal blocks.

    Example:
        >>> LeGrad().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        def part(start: int, stop: int) -> Tensor:
            gradients = layer_gradients(model, batch.inputs[start:stop], batch.targets[start:stop])
            tokens = tokens_of(model, batch, gradients)
            return tokens.map(torch.stack([gradient.relu().mean((1, 2)) for gradient in gradients]).mean(0))

        return in_chunks(batch, part)


def layer_gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """`d s_l / d A_l` of each layer, `(n, heads, T, T)`, in one forward pass and a backward pass within the layers."""
    matrices: list[Tensor] = []
    rules = {"softmax": softmax_rule(len(inputs), with_graph(matrices))}
    with torch.enable_grad():
        with _ends_of_all_layers(model, _blocks(model), matrices) as logits, Operations(rules) as operations:
            model(inputs.clone())  # a copy, because a model may begin with an in-place operation
        scores = [passes.class_scores(operations.current(each), targets) for each in logits]
        return torch.autograd.grad(torch.cat(scores).sum(), matrices, materialize_grads=True, allow_unused=True)


def _blocks(model: nn.Module) -> nn.Sequential | nn.ModuleList:
    """The row of equal modules with the most weights, of two or more where there is one."""
    rows = list(_rows(model))
    # A row of one that holds another row wraps the model, or a part of it.
    rows = [row for row in rows if len(row) > 1 or len(list(_rows(row))) == 1]
    if not rows:
        raise NotApplicable("the network has no row of equal blocks, one a layer")
    return max(rows, key=lambda row: (len(row) > 1, sum(weights.numel() for weights in row.parameters())))


def _rows(model: nn.Module) -> Iterator[nn.Sequential | nn.ModuleList]:
    for module in model.modules():
        if isinstance(module, nn.Sequential | nn.ModuleList) and len({type(child) for child in module}) == 1:
            yield module


@contextmanager
def _ends_of_all_layers(
    model: nn.Module, blocks: nn.Sequential | nn.ModuleList, matrices: list[Tensor]
) -> Iterator[list[Tensor]]:
    """Within, the model ends with the mean tokens of every block, each cut from the blocks below.

    The list gets the logits of each block, `(n, K)`. Whoever else watches the model sees those of the last.
    """
    logits: list[Tensor] = []
    pooled: list[Tensor] = []

    def end(block: nn.Module, args: object, output: object) -> Tensor:
        some(matrices)
        shape = (matrices[-1].shape[0], matrices[-1].shape[3])
        if not isinstance(output, Tensor) or output.shape[:2] != shape or len(matrices) != len(pooled) + 1:
            raise NotApplicable("its blocks are no layers of one attention each that hand on tokens")
        pooled.append(output.mean(1, keepdim=True))
        if len(pooled) < len(blocks):
            return output.detach()
        return torch.cat(pooled).expand(-1, output.shape[1], -1)

    def finish(model: nn.Module, args: object, output: Tensor) -> Tensor:
        if len(pooled) < len(blocks):
            raise NotApplicable("its blocks are no layers of one attention each that hand on tokens")
        if len(output) != sum(len(each) for each in pooled):
            raise NotApplicable("what follows its blocks does not take more images than came in")
        logits.extend(output.split(len(pooled[-1])))
        return logits[-1]

    handles = [block.register_forward_hook(end) for block in blocks]
    handles.append(model.register_forward_hook(finish, prepend=True))
    try:
        yield logits
    finally:
        for handle in handles:
            handle.remove()
