"""AttnLRP: layer-wise relevance propagation for vision transformers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from methods._relevance import Propagation, propagated
from methods._rules import Composite, Epsilon, Gamma, Rule


@dataclass(frozen=True)
class AttnLRP(Method):
    """Relevance of each pixel, signed, `(N, C, H, W)`, with rules for every operation of attention.

    softmax              R_i = x_i (R'_i - s_i sum_j R'_j), its first-order Taylor expansion; its bias keeps the rest
    products             half to each factor: queries and keys, attention and values, gates
    layer norm           the standard deviation is a constant
    activation function  hands on what it receives
    layers               the gamma rule, and epsilon for those that make queries, keys and values or mix heads

    A gamma of 0 is the epsilon rule. With both 0 the result is that of `LRP` with its defaults.

    Source: Achtibat et al. 2024, arXiv:2402.05602; the gamma rule in its generalised form, see `LRP`.

    Attributes:
        convolution_gamma: of the patch embedding and other convolutions, at least 0.
        linear_gamma: of the linear layers outside of attention, at least 0.
        epsilon: added to the magnitude of denominators, at least 0.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: the network has no attention, or an operation without a rule, which is named.

    Example:
        >>> AttnLRP().attribute(vit, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    needs_gradient = True
    passes = 2

    convolution_gamma: float = 0.25
    linear_gamma: float = 0.05
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if min(self.convolution_gamma, self.linear_gamma, self.epsilon) < 0:
            raise UserError("AttnLRP needs convolution_gamma, linear_gamma and epsilon of at least 0")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        epsilon = Epsilon(self.epsilon)
        composite = Composite(self._rule(self.convolution_gamma), self._rule(self.linear_gamma), epsilon, epsilon)
        return propagated(model, batch, composite, _WithAttention)

    def _rule(self, gamma: float) -> Rule:
        return Gamma(gamma, self.epsilon) if gamma else Epsilon(self.epsilon)


class _WithAttention(Propagation):
    def check(self) -> None:
        if not self.attends:
            raise NotApplicable("the network has no attention: AttnLRP would be plain LRP")
