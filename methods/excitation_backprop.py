"""Excitation backpropagation: how likely a walk from the target down to the image ends at each pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods import _operations
from methods._operations import with_backward
from methods._relevance import Propagation, propagated
from methods._rules import AlphaBeta, Composite, divided

_NO_NEURONS = ("softmax", "layer_norm", "rms_norm", "group_norm")


@dataclass(frozen=True)
class ExcitationBackprop(Method):
    """The marginal winning probability of each pixel, not negative, `(N, C, H, W)`; an image sums to 1.

    The walk starts at the target. From a neuron it goes to one of its inputs, with a probability proportional to the
    contribution `(x_i w_i)+`; biases have no part in it. Sums and averages are neurons with equal weights, max-pooling
    goes to the winner, activation functions and batch norms are part of their neuron.

    The paper's inputs are not negative. Pixels and some activations are, once normalised, and there a positive
    contribution is what it says: of two numbers of one sign. A walk that finds no positive contribution ends, and its
    probability is missing from the sum. The contrastive form is not made.

    Source: Zhang et al. 2016, arXiv:1608.00507.

    Raises:
        NotApplicable: the network has an operation that is no excitation of neurons, such as attention; it is named.

    Example:
        >>> ExcitationBackprop().attribute(model, batch).sum((1, 2, 3))  # doctest: +SKIP
        tensor([1., 1., 1.])
    """

    needs_gradient = True
    passes = 2

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        excitatory = AlphaBeta(1.0, 0.0, bias=False)
        relevance = propagated(model, batch, Composite(excitatory, excitatory, excitatory), _Walk)
        # Relevance starts from the logit and a walk from 1. The rules are linear in what they start from.
        start = batch.logits.gather(1, batch.targets.unsqueeze(1)).view(-1, 1, 1, 1)
        return divided(relevance, start, 0.0)


class _Walk(Propagation):
    """The rules under which nothing becomes negative."""

    def rules(self) -> Mapping[str, _operations.Rule]:
        rules = {name: rule for name, rule in super().rules().items() if name not in _NO_NEURONS}
        averages = ("mean", "sum", "interpolate", *(name for name in rules if "avg_pool" in name))
        return rules | dict.fromkeys(averages, self.average) | {"add": self.total}

    def matrix_product(self, function: Callable[..., Tensor], input: Tensor, other: Tensor) -> Tensor:
        if input.requires_grad and other.requires_grad:
            return self.unknown(function, input, other)
        return super().matrix_product(function, input, other)

    def batch_norm(self, function: Callable[..., Tensor], input: Tensor, *args: Any, **options: Any) -> Tensor:
        if self.fact(input).layer is not None:
            return super().batch_norm(function, input, *args, **options)
        return self.activation(function, input, *args, **options)

    def average(self, function: Callable[..., Tensor], input: Tensor, *args: Any, **options: Any) -> Tensor:
        """Terms above 0 share by their values."""
        if not input.requires_grad or self.fact(input).nonnegative:
            return self.plain(function, input, *args, **options)
        with torch.no_grad():
            output = function(input, *args, **options)
        positive = function(input.clamp(min=0), *args, **options)

        def backward(gradient: Tensor) -> Sequence[Tensor]:
            return (divided(gradient * output, positive.detach(), 0.0),)

        return with_backward(output, [positive], backward)

    def total(self, function: Callable[..., Tensor], input: Any, other: Any, **options: Any) -> Tensor:
        """Of two activations, those above 0 share by their values."""
        if not all(isinstance(term, Tensor) and term.requires_grad for term in (input, other)) or options:
            return self.arithmetic(function, input, other, **options)
        with torch.no_grad():
            output = function(input, other)

        def backward(gradient: Tensor) -> Sequence[Tensor]:
            share = divided(gradient * output, input.clamp(min=0) + other.clamp(min=0), 0.0)
            return ((share * (input > 0)).sum_to_size(input.shape), (share * (other > 0)).sum_to_size(other.shape))

        return with_backward(output, [input, other], backward)
