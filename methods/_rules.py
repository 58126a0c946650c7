"""Rules of layer-wise relevance propagation: how an operation with weights shares the relevance of its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

Box = tuple[Tensor, Tensor]
"""The lowest and the highest value that each entry of a tensor can have, given that pixels are in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Layer:
    """An operation z = W x + b that has run, whatever it is called.

    Attributes:
        inputs: x, as the network's graph has it.
        weight: W; the batch norm behind a convolution is folded into it.
        bias: b, in a shape that broadcasts to the output, or None.
        output: z, without a graph.
        apply: `(x, W)` to W x.
        pull: `(g, W)` to W^T g.
        kind: `convolution`, `dense` or `scaling` (one weight a channel).
        nonnegative: x is known to be at least 0, which saves half of the work.
        box: bounds of x where it is the image, perhaps rescaled or reshaped; None behind the first layer.
        mixes_heads: x is what attention made.
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor
    apply: Callable[[Tensor, Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    kind: str
    nonnegative: bool = False
    box: Box | None = None
    mixes_heads: bool = False

    @property
    def positive_bias(self) -> Tensor | float:
        return 0.0 if self.bias is None else self.bias.clamp(min=0)

    @property
    def negative_bias(self) -> Tensor | float:
        return 0.0 if self.bias is None else self.bias.clamp(max=0)

    def followed_by(self, scale: Tensor, shift: Tensor, output: Tensor) -> Layer:
        """This layer and `y = scale * z + shift`, one number a channel, as one layer."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.dim() - 1))
        per_channel = (-1, *[1] * (output.dim() - 2))
        bias = shift.view(per_channel)
        if self.bias is not None:
            bias = bias + self.bias * scale.view(per_channel)
        return replace(self, weight=weight, bias=bias, output=output)

    def positive(self) -> Tensor:
        """What the contributions above 0 sum to, for each output."""
        if self.nonnegative:
            return self.apply(self.inputs, self.weight.clamp(min=0))
        low, high = self.inputs.clamp(max=0), self.inputs.clamp(min=0)
        return self.apply(high, self.weight.clamp(min=0)) + self.apply(low, self.weight.clamp(max=0))

    def negative(self) -> Tensor:
        """What the contributions below 0 sum to."""
        return replace(self, weight=-self.weight).positive().neg()

    def pulled(self, positive: Tensor, negative: Tensor | None) -> Tensor:
        """g of the inputs where contributions above 0 pull with `positive` and those below 0 with `negative`."""
        high, low = self.weight.clamp(min=0), self.weight.clamp(max=0)
        above = self.pull(positive, high)
        if negative is not None:
            above = above + self.pull(negative, low)
        if self.nonnegative:
            return above
        below = self.pull(positive, low)
        if negative is not None:
            below = below + self.pull(negative, high)
        return torch.where(self.inputs > 0, above, below)


class Rule(Protocol):
    """How a layer hands g of its output on to its input."""

    def __call__(self, layer: Layer, gradient: Tensor) -> Tensor: ...


def divided(numerator: Tensor, denominator: Tensor, epsilon: float) -> Tensor:
    """`numerator / denominator`, whose magnitude is raised by `epsilon`; 0 where that is still 0."""
    if epsilon:
        return numerator / torch.where(denominator < 0, denominator - epsilon, denominator + epsilon)
    return torch.where(denominator == 0, 0, numerator / denominator)


@dataclass(frozen=True)
class Epsilon:
    """`R_i = sum_k x_i w_ik / (z_k + epsilon sign z_k) R_k`; with epsilon 0, LRP-0, the plain gradient."""

    epsilon: float

    def __call__(self, layer: Layer, gradient: Tensor) -> Tensor:
        if self.epsilon:
            size = layer.output.abs()
            gradient = size.div_(size + self.epsilon).mul_(gradient)
        return layer.pull(gradient, layer.weight)


@dataclass(frozen=True)
class Gamma:
    """Contributions of the sign of z_k count 1 + gamma times, in the numerator and, with the bias, in the denominator.

    For positive inputs and outputs this is the rule of Montavon et al. 2019, weights w + gamma w+. Signs of inputs and
    outputs are treated as in its generalisation (Andeol et al. 2021).
    """

    gamma: float
    epsilon: float

    def __call__(self, layer: Layer, gradient: Tensor) -> Tensor:
        output, positive = layer.output, layer.positive()
        negative = output - positive + (0 if layer.bias is None else -layer.bias)
        relevance = gradient * output
        above = torch.where(output > 0, relevance, 0)
        below = relevance - above
        positive = output + self.gamma * (positive + layer.positive_bias)
        negative = output + self.gamma * (negative + layer.negative_bias)
        above = divided(above, positive, self.epsilon)
        below = divided(below, negative, self.epsilon)
        return layer.pulled((1 + self.gamma) * above + below, above + (1 + self.gamma) * below)


@dataclass(frozen=True)
class AlphaBeta:
    """Contributions above 0 share alpha R_k and those below 0 share (1 - alpha) R_k; alpha 1 is the z+ rule.

    `bias` says whether biases take their part, each with those of its sign.
    """

    alpha: float
    epsilon: float
    bias: bool = True

    def __call__(self, layer: Layer, gradient: Tensor) -> Tensor:
        relevance, negative = gradient * layer.output, None
        total = layer.positive() + (layer.positive_bias if self.bias else 0)
        positive = divided(self.alpha * relevance, total, self.epsilon)
        if self.alpha != 1:
            total = layer.negative() + (layer.negative_bias if self.bias else 0)
            negative = divided((1 - self.alpha) * relevance, total, self.epsilon)
        return layer.pulled(positive, negative)


@dataclass(frozen=True)
class ZBox:
    """`x_i w_ik - l_i w_ik+ - h_i w_ik-` share R_k, where l and h bound the pixels. It returns R, and not R / x."""

    epsilon: float

    def __call__(self, layer: Layer, gradient: Tensor) -> Tensor:
        assert layer.box is not None
        low, high = layer.box
        up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        total = layer.apply(layer.inputs, layer.weight) - layer.apply(low, up) - layer.apply(high, down)
        share = divided(gradient * layer.output, total, self.epsilon)
        above, below = layer.pull(share, up), layer.pull(share, down)
        return layer.inputs * (above + below) - low * above - high * below


@dataclass(frozen=True)
class Spread:
    """`rho(w_ik)` share R_k, whatever the pixels are: 1 (flat) or w^2. It returns R, and not R / x."""

    rho: Callable[[Tensor], Tensor]
    epsilon: float

    def __call__(self, layer: Layer, gradient: Tensor) -> Tensor:
        weight = self.rho(layer.weight)
        total = layer.apply(torch.ones_like(layer.inputs), weight)
        return layer.pull(divided(gradient * layer.output, total, self.epsilon), weight)


@dataclass(frozen=True)
class Composite:
    """Which rule each kind of layer has.

    Attributes:
        convolution: of convolutions.
        dense: of linear layers and products with constant matrices.
        scaling: of batch norms that follow no layer.
        projection: of the layers that make queries, keys and values or mix heads, or None for that of their kind.
        first: of the layers that see the image itself, or None for that of their kind; it returns R, and not R / x.
    """

    convolution: Rule
    dense: Rule
    scaling: Rule
    projection: Rule | None = None
    first: Rule | None = None
