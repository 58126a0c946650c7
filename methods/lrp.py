"""Layer-wise relevance propagation (LRP): the logit, shared out layer by layer down to the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._relevance import propagated
from methods._rules import AlphaBeta, Composite, Epsilon, Gamma, Rule, Spread, ZBox

Sharing = Literal["epsilon", "gamma", "z_plus", "alpha_beta"]
FirstSharing = Literal["z_box", "flat", "w_square"]


@dataclass(frozen=True)
class LRP(Method):
    """Relevance of each pixel, signed, `(N, C, H, W)`: z_t goes backwards, and each layer shares out what it receives.

    A layer `z_k = sum_i x_i w_ik + b_k` with relevance R_k hands on, summed over k:

        epsilon     x_i w_ik / (z_k + epsilon sign z_k) R_k
        gamma       x_i (w_ik + gamma w_ik+) / (sum_i x_i (w_ik + gamma w_ik+)) R_k
        z_plus      (x_i w_ik)+ / (sum_i (x_i w_ik)+) R_k
        alpha_beta  (alpha (x_i w_ik)+ / sum_i (x_i w_ik)+ - (alpha - 1) (x_i w_ik)- / sum_i (x_i w_ik)-) R_k
        z_box       the share of x_i w_ik - l_i w_ik+ - h_i w_ik-, where l and h are black and white
        flat        equal shares to all pixels that the neuron sees
        w_square    the share of w_ik^2

    Biases take their share too (b+ with the positive part), except under the last three. Where inputs or outputs are
    negative, `gamma` is the generalised rule of Andeol et al. 2021: contributions of the sign of z_k count 1 + gamma
    times. Every denominator is moved away from 0 by epsilon.

    The rest of a network, whatever its modules are called: a batch norm is part of the convolution before it, and where
    there is none a layer with one weight a channel (under z_plus, if the rule is alpha_beta). Activation functions hand
    on what they receive. Sums, averages and max-pooling (the winner takes all) follow the gradient, so terms share by
    their values. The standard deviation of a layer norm is a constant (Ali et al. 2022, arXiv:2202.07304). Of a product
    of two activations each gets half, and softmax has its Taylor rule (both Achtibat et al. 2024, arXiv:2402.05602).

    Sources: Bach et al. 2015, doi:10.1371/journal.pone.0130140; Montavon et al. 2017, arXiv:1512.02479 (z_plus, z_box,
    w_square); Montavon et al. 2019, "Layer-wise relevance propagation: an overview" (gamma); Kohlbrenner et al. 2020,
    arXiv:1910.09840 (different rules at different depths).

    Attributes:
        convolution: rule of convolutions: `epsilon`, `gamma`, `z_plus` or `alpha_beta`.
        dense: rule of linear layers, likewise.
        first: rule of the layer that sees the image: `z_box`, `flat` or `w_square`, or None for that of its kind.
        epsilon: added to the magnitude of denominators, at least 0; with 0 and the epsilon rule it is LRP-0.
        gamma: of the gamma rule, at least 0.
        alpha: of the alpha_beta rule, at least 1; beta is alpha - 1.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: the network has an operation without a rule, which is named.

    Example:
        >>> LRP(convolution="z_plus", first="flat").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    needs_gradient = True
    passes = 2

    convolution: Sharing = "epsilon"
    dense: Sharing = "epsilon"
    first: FirstSharing | None = None
    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0

    def __post_init__(self) -> None:
        for rule in (self.convolution, self.dense):
            if rule not in get_args(Sharing):
                raise UserError(f"unknown LRP rule {rule!r}: expected {', '.join(get_args(Sharing))}")
        if self.first is not None and self.first not in get_args(FirstSharing):
            raise UserError(
                f"unknown LRP rule {self.first!r} of the first layer: expected z_box, flat, w_square or null"
            )
        if self.epsilon < 0 or self.gamma < 0:
            raise UserError(f"LRP needs epsilon >= 0 and gamma >= 0, not {self.epsilon} and {self.gamma}")
        if self.alpha < 1:
            raise UserError(f"LRP needs alpha >= 1, not {self.alpha}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        first = None if self.first is None else self._first(self.first)
        # Where one input is all that there is, alpha_beta would hand on alpha times what it receives.
        scaling = self._rule("z_plus" if self.convolution == "alpha_beta" else self.convolution)
        composite = Composite(self._rule(self.convolution), self._rule(self.dense), scaling, first=first)
        return propagated(model, batch, composite)

    def _rule(self, name: Sharing) -> Rule:
        if name == "epsilon":
            return Epsilon(self.epsilon)
        if name == "gamma":
            return Gamma(self.gamma, self.epsilon)
        return AlphaBeta(1.0 if name == "z_plus" else self.alpha, self.epsilon)

    def _first(self, name: FirstSharing) -> Rule:
        if name == "z_box":
            return ZBox(self.epsilon)
        return Spread(torch.ones_like if name == "flat" else torch.square, self.epsilon)
