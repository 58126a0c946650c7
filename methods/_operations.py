"""The torch operations of a forward pass, one by one, each with a rule for how it is differentiated.

Rules see calls of functions and not modules. So a module that runs twice, an activation in place, `F.relu` in a
`forward`, and attention that is fused into one call are all the same to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from benchmark import passes
from benchmark.errors import NotApplicable

Rule = Callable[..., Any]
"""`rule(function, *args, **kwargs)` returns what `function(*args, **kwargs)` would; that does not act in place."""

Backward = Callable[[Tensor], Sequence[Tensor | None]]


class Operations(TorchFunctionMode):
    """Within, `rules[name]` stands for every torch function called `name`, and `other` for those without a rule.

    Names are those of the functions without what makes them act in place: `relu` also for `relu_`, `add` for `+=`.
    Attention, fused or of `nn.MultiheadAttention`, comes as `linear`, `matmul` and `softmax`. Inside a rule no rule
    applies.
    """

    def __init__(self, rules: Mapping[str, Rule], other: Rule | None = None) -> None:
        super().__init__()
        self.rules, self.other = rules, other

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, function, options = _out_of_place(func, dict(kwargs or {}))
        if name in _COMPOSED:
            with self:
                return _COMPOSED[name](*args, **options)
        rule = self.rules.get(name, self.other)
        return function(*args, **options) if rule is None else rule(function, *args, **options)


def modified_gradient(
    model: nn.Module, inputs: Tensor, targets: Tensor, rules: Mapping[str, Rule], other: Rule | None = None
) -> Tensor:
    """What arrives at `inputs (N, C, H, W)` from a 1 at each target logit, backward through operations with `rules`.

    Without rules it is the gradient of the target logit.

    Raises:
        NotApplicable: nothing arrives at the input.
    """
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        images = leaf.clone()  # a copy, because a model may begin with an in-place operation
        with Operations(rules, other):
            logits = model(images)
        score = passes.class_scores(logits, targets).sum()
        if not score.requires_grad:
            raise NotApplicable("the model's output carries no gradient to its input")
        return torch.autograd.grad(score, leaf)[0]


def with_backward(output: Tensor, inputs: Sequence[Tensor], backward: Backward) -> Tensor:
    """`output`, computed without a graph, as a function of `inputs`: `backward(g)` returns what each of them gets."""
    return _WithBackward.apply(output, backward, *inputs)


class _WithBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, output: Tensor, backward: Callable[[Tensor], Sequence[Tensor]], *inputs: Tensor
    ) -> Tensor:
        context.rule = backward
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *context.rule(gradient))


def _out_of_place(
    function: Callable[..., Any], options: dict[str, Any]
) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    """The name, the form that makes a new tensor, and its options, of a function that may act in place."""
    name = getattr(function, "__name__", str(function))
    if "inplace" in options:
        options["inplace"] = False
    plain = name
    if name.startswith("__i") and name.endswith("__") and name[3:-2] in ("add", "sub", "mul", "truediv", "matmul"):
        plain = name[3:-2].replace("truediv", "div")
    elif name.endswith("_") and not name.startswith("_") and hasattr(torch.Tensor, name[:-1]):
        plain = name[:-1]
    elif name.endswith("_") and not name.startswith("_") and hasattr(functional, name[:-1]):
        return name[:-1], getattr(functional, name[:-1]), options
    if plain == name:
        return name, function, options
    return plain, getattr(torch.Tensor, plain), options


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention`, written out."""
    if is_causal or enable_gqa:
        raise NotApplicable("attention that is causal or shares keys between heads is not taken apart")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


def _multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward` in eval mode, written out; tokens come first, `(T, N, width)`."""
    if use_separate_proj_weight or key_padding_mask is not None or bias_k is not None or add_zero_attn:
        raise NotApplicable("attention with padding, added keys or projections of their own is not taken apart")
    bias = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)

    def heads(tokens: Tensor, part: int) -> Tensor:
        projected = functional.linear(tokens, in_proj_weight.chunk(3)[part], bias[part])
        return projected.unflatten(2, (num_heads, -1)).permute(1, 2, 0, 3)

    mixed = _attention(heads(query, 0), heads(key, 1), heads(value, 2), attn_mask)
    return functional.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias), None


_COMPOSED: Mapping[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
}
