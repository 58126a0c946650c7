"""Gradients of the target logit with respect to what enters the model; none for parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch


def logit_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """`d z_t / d x`, like `inputs (N, C, H, W)`, for each image's own target, in one forward and one backward pass.

    Raises:
        NotApplicable: no gradient reaches the input.
    """
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        # A copy, because a model may begin with an in-place operation: forbidden on a leaf, and it would change inputs.
        score = passes.class_scores(model(leaf.clone()), targets).sum()
        if not score.requires_grad:
            raise NotApplicable("the model's output carries no gradient to its input")
        return torch.autograd.grad(score, leaf)[0]


def input_gradients(model: nn.Module, inputs: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """`logit_gradient` of any number of images, at most `chunk` a pass."""

    def part(start: int, stop: int) -> Tensor:
        return logit_gradient(model, inputs[start:stop], targets[start:stop])

    return torch.cat(list(passes.chunked(part, len(inputs), chunk)))


def clean_gradient(model: nn.Module, batch: Batch) -> Tensor:
    """`logit_gradient` of the images of `batch` themselves, made once for all methods of a sweep that need it."""
    return batch.once(model, ("gradient",), lambda: input_gradients(model, batch.inputs, batch.targets, batch.chunk))
