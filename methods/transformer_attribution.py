"""Transformer attribution: relevance of attention, weighted by its gradient, rolled out over the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from methods._attention import in_chunks, rolled, softmax_rule, some, tokens_of, with_graph
from methods._operations import Rule, target_logits, with_backward


@dataclass(frozen=True)
class TransformerAttribution(Method):
    """The class token's row of `C_L ... C_2 C_1`, `C_l = I + E_h[relu(R_lh * d z_t / d A_lh)]`; `(N, 1, H, W)`.

    Upsampled bilinearly; at least 0. `A_lh (T, T)` is the softmax of head h of layer l, rows are queries, `R_lh` its
    relevance, E_h the mean over heads. What falls on class and register tokens is dropped. Where the head reads class
    and distillation token or the mean of all patches, the rows of these are averaged.

    Relevance begins with 1 at the target logit and goes back as follows, 0 / 0 being 0:

        linear          `R_i = x_i w_ji / (sum of positive x_k w_jk) R_j` over positive `x_i w_ji` (alpha 1, beta 0)
        sums, products  of u and v, z: `u dz/du R / z` and `v dz/dv R / z`, and then for each image `R_u` scaled to sum
                        to `|sum R_u| / (|sum R_u| + |sum R_v|) sum R`, `R_v` likewise; half each for products
        mean, pooling   `x dz/dx R / z`
        the rest        layer norm, softmax, activations, scaling: as it is

    As in the authors' code, where the paper is silent (softmax, layer norm). Their code differs in that it sums over
    the batch, not an image, adds 1e-9 to what it divides by, and knows no layer scale or pooling of patches. The second
    backward pass, that of relevances, has four products of matrices where a gradient has one.

    Source: Chefer, Gur & Wolf 2021, arXiv:2012.09838.

    Attributes:
        start: first layer of the product, counted from 0.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: there is no attention among all tokens of an image, the same ones in every layer, or an operation
            behind the first attention has no rule.

    Example:
        >>> TransformerAttribution().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 3

    start: int = 0

    def __post_init__(self) -> None:
        if self.start < 0:
            raise UserError(f"transformer attribution needs a first layer start >= 0, not {self.start}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        def part(start: int, stop: int) -> Tensor:
            layers = gradients_and_relevances(model, batch.inputs[start:stop], batch.targets[start:stop])
            if self.start >= len(layers):
                raise NotApplicable(f"it has {len(layers)} layers of attention and no layer {self.start}")
            matrices = [(gradient * found).relu().mean(1) for gradient, found in layers[self.start :]]
            return rolled(tokens_of(model, batch, matrices), matrices)

        return in_chunks(batch, part)


def gradients_and_relevances(model: nn.Module, inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """`d z_t / d A` and the relevance of A, `(n, heads, T, T)`, of each layer, in one forward and two backward passes.

    The graph is that of the network, and its operations hand back gradients or, the second time, relevances.
    """
    back = _Back()
    matrices: list[Tensor] = []

    def softmax(function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
        return watch(lambda *given, **more: back.rule(_as_it_is)(function, *given, **more), *args, **options)

    watch = softmax_rule(len(inputs), with_graph(matrices))
    rules: dict[str, Rule] = {name: back.rule(rule) for name, rule in _RULES.items()}
    with torch.enable_grad(), _frozen(model):
        _, scores = target_logits(model, inputs, targets, rules | {"softmax": softmax}, _other)
        gradients = torch.autograd.grad(scores.sum(), some(matrices), retain_graph=True, materialize_grads=True)
        back.relevance = True
        relevances = torch.autograd.grad(scores.sum(), matrices, materialize_grads=True)
    return list(zip(gradients, relevances, strict=True))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Within, no parameter wants a gradient: what depends on the image is then what does."""
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_()


@dataclass(frozen=True)
class _Call:
    """`output = function(*args, **options)`, its graph, and those of `args` that depend on the image."""

    function: Callable[..., Tensor]
    args: Sequence[Any]
    options: dict[str, Any]
    inputs: list[Tensor]
    output: Tensor

    def shares(self, relevance: Tensor) -> list[Tensor]:
        """`x dz/dx R / z` for each input x."""
        found = torch.autograd.grad(self.output, self.inputs, _ratio(relevance, self.output), retain_graph=True)
        return [each * share for each, share in zip(self.inputs, found, strict=True)]


_Relevance = Callable[[_Call, Tensor], Sequence[Tensor]]


class _Back:
    """What operations hand back: gradients, or relevances by their rule."""

    def __init__(self) -> None:
        self.relevance = False

    def rule(self, relevance: _Relevance) -> Rule:
        def apply(function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
            places = [i for i, each in enumerate(args) if isinstance(each, Tensor) and each.requires_grad]
            if not places or any(isinstance(each, Tensor) and each.requires_grad for each in options.values()):
                return _other(function, *args, **options)
            local = [each.detach().requires_grad_() if i in places else each for i, each in enumerate(args)]
            inputs = [local[i] for i in places]
            call = _Call(function, local, options, inputs, function(*local, **options))

            def backward(arriving: Tensor) -> Sequence[Tensor]:
                if self.relevance:
                    return [found.detach() for found in relevance(call, arriving)]
                return torch.autograd.grad(call.output, inputs, arriving, retain_graph=True)

            return with_backward(call.output.detach(), [args[i] for i in places], backward)

        return apply


def _as_it_is(call: _Call, relevance: Tensor) -> Sequence[Tensor]:
    if len(call.inputs) > 1:
        raise NotApplicable(f"transformer attribution has no rule for {_name(call.function)} of two activations")
    return [relevance]


def _pooled(call: _Call, relevance: Tensor) -> Sequence[Tensor]:
    return call.shares(relevance)


def _linear(call: _Call, relevance: Tensor) -> Sequence[Tensor]:
    inputs, weight = call.inputs[0].detach(), call.args[1]
    signs = [(inputs.clamp(min=0), weight.clamp(min=0)), (inputs.clamp(max=0), weight.clamp(max=0))]
    share = _ratio(relevance, sum(some @ of.T for some, of in signs))
    return [sum(some * (share @ of) for some, of in signs)]


def _product(call: _Call, relevance: Tensor) -> Sequence[Tensor]:
    """Both factors of a product get the same sum, which scaled to that of the product is half of it."""
    found = call.shares(relevance)
    return [share / len(found) for share in found]


def _scaled(call: _Call, relevance: Tensor) -> Sequence[Tensor]:
    return _as_it_is(call, relevance) if len(call.inputs) == 1 else _product(call, relevance)


def _sum(call: _Call, relevance: Tensor) -> Sequence[Tensor]:
    """A constant that is added is a bias, and gets nothing."""
    if len(call.inputs) == 1:
        return [relevance]
    shares = call.shares(relevance)
    sums = [_total(share) for share in shares]
    unit = _ratio(_total(relevance), sums[0].abs() + sums[1].abs())
    # |sum R_u| / (|sum R_u| + |sum R_v|) sum R / sum R_u
    return [share * each.sign() * unit for share, each in zip(shares, sums, strict=True)]


def _total(relevance: Tensor) -> Tensor:
    """The sum over each image, shaped to go with it."""
    return relevance.sum(tuple(range(1, relevance.dim())), keepdim=True)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, 0, part / torch.where(whole == 0, 1, whole))


def _other(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What moves values about moves relevances likewise. Anything else needs a rule where it depends on the image."""
    output = function(*args, **options)
    if not isinstance(output, Tensor) or not output.requires_grad or _name(function) in _MOVING:
        return output

    def backward(arriving: Tensor) -> Sequence[Tensor]:  # never asked before the first attention
        raise NotApplicable(f"transformer attribution has no rule for the operation {_name(function)}")

    return with_backward(output.detach(), [output], backward)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", str(function))


_MOVING = {
    *("__get__", "__getitem__", "cat", "chunk", "clone", "contiguous", "double", "dropout", "expand", "flatten"),
    *("float", "index_select", "movedim", "narrow", "permute", "reshape", "roll", "select", "split", "squeeze"),
    *("stack", "swapaxes", "to", "transpose", "type_as", "unbind", "unflatten", "unsqueeze", "view"),
}
_RULES: dict[str, _Relevance] = {
    "linear": _linear,
    **dict.fromkeys(("add", "sub"), _sum),
    **dict.fromkeys(("matmul", "bmm", "einsum"), _product),
    "mul": _scaled,
    **dict.fromkeys(("mean", "sum"), _pooled),
    **dict.fromkeys(("div", "neg", "layer_norm", "rms_norm", "masked_fill"), _as_it_is),
    **dict.fromkeys(("gelu", "relu", "silu", "hardswish", "tanh"), _as_it_is),
}
