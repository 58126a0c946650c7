"""The torch operations of a forward pass, one by one, each with a rule for how it is differentiated.

Rules see calls of functions and not modules. So a module that runs twice, an activation in place, `F.relu` in a
`forward`, and attention that is fused into one call are all the same to them.
"""

from __future__ import annotations

import math
import weakref
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
    applies. A tensor that the model writes to and goes on with stands for the new value from then on (views of it that
    were made before do not).
    """

    def __init__(self, rules: Mapping[str, Rule], other: Rule | None = None) -> None:
        super().__init__()
        self.rules, self.other = rules, other
        self.seen = False  # an operation at all: those of TorchScript never are
        self._written: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, function, options, writes = _out_of_place(func, dict(kwargs or {}))
        self.seen = self.seen or name not in _QUESTIONS
        if self._written:
            args = [self.current(each) for each in args]
            options = {key: self.current(each) for key, each in options.items()}
        if name in _COMPOSED:
            with self:
                return _COMPOSED[name](*args, **options)
        rule = self.rules.get(name, self.other)
        output = function(*args, **options) if rule is None else rule(function, *args, **options)
        if writes and isinstance(output, Tensor):
            self._write(args[0] if args else options["input"], output)
        return output

    def _write(self, old: Tensor, new: Tensor) -> None:
        key = id(old)
        if new is not old:
            self._written[key] = weakref.ref(old, lambda _: self._written.pop(key, None)), new

    def current(self, value: Any) -> Any:
        """What `value`, a tensor or a list of them, holds after all that was written to it."""
        if isinstance(value, list | tuple):
            found = [self.current(each) for each in value]
            return found if any(new is not old for new, old in zip(found, value, strict=True)) else value
        while isinstance(value, Tensor) and id(value) in self._written and self._written[id(value)][0]() is value:
            value = self._written[id(value)][1]
        return value


def target_logits(
    model: nn.Module, inputs: Tensor, targets: Tensor, rules: Mapping[str, Rule], other: Rule | None = None
) -> tuple[Tensor, Tensor]:
    """A leaf that holds `inputs (N, C, H, W)`, and the target logits `(N,)` with their graph back to it, by `rules`.

    Call it where gradients are enabled.

    Raises:
        NotApplicable: the logits carry no gradient to the input, or the model's operations cannot be seen.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise NotApplicable("the operations of a TorchScript model cannot be seen")
    leaf = inputs.detach().requires_grad_()
    images = leaf.clone()  # a copy, because a model may begin with an in-place operation
    operations = Operations(rules, other)
    try:
        with operations, torch.autograd.graph.disable_saved_tensors_hooks(_CHECKPOINTED):
            logits = model(images)
    except RuntimeError as error:
        if _CHECKPOINTED not in str(error):
            raise
        raise NotApplicable(_CHECKPOINTED) from error
    if not operations.seen:
        raise NotApplicable("the operations of a compiled model cannot be seen")
    scores = passes.class_scores(operations.current(logits), targets)
    if not scores.requires_grad:
        raise NotApplicable("the model's output carries no gradient to its input")
    return leaf, scores


def modified_gradient(
    model: nn.Module, inputs: Tensor, targets: Tensor, rules: Mapping[str, Rule], other: Rule | None = None
) -> Tensor:
    """What arrives at `inputs (N, C, H, W)` from a 1 at each target logit, backward through operations with `rules`.

    Without rules it is the gradient of the target logit.

    Raises:
        NotApplicable: nothing arrives at the input, or the model's operations cannot be seen.
    """
    with torch.enable_grad():
        leaf, scores = target_logits(model, inputs, targets, rules, other)
        return torch.autograd.grad(scores.sum(), leaf)[0]


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


def tensors_of(args: Sequence[Any], options: Mapping[str, Any]) -> list[Tensor]:
    """Every tensor among the arguments of a call, in order, also in lists."""
    found: list[Tensor] = []
    for value in (*args, *options.values()):
        several = value if isinstance(value, list | tuple) else [value]
        found += [each for each in several if isinstance(each, Tensor)]
    return found


def with_tensors(
    args: Sequence[Any], options: Mapping[str, Any], tensors: Sequence[Tensor]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call with other `tensors`, in the order of `tensors_of`."""
    new = iter(tensors)

    def other(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)([next(new) if isinstance(each, Tensor) else each for each in value])
        return next(new) if isinstance(value, Tensor) else value

    return [other(value) for value in args], {key: other(value) for key, value in options.items()}


def varying(tensors: Sequence[Tensor]) -> list[int]:
    """The places of those that depend on the image, in a pass of `target_logits`; parameters do not."""
    return [i for i, each in enumerate(tensors) if each.requires_grad and not isinstance(each, nn.Parameter)]


def _out_of_place(
    function: Callable[..., Any], options: dict[str, Any]
) -> tuple[str, Callable[..., Any], dict[str, Any], bool]:
    """The name, the form that makes a new tensor, its options, and whether the function acts in place."""
    name = getattr(function, "__name__", str(function))
    writes = bool(options.get("inplace"))
    if writes:
        options["inplace"] = False
    plain = name
    if name.startswith("__i") and name.endswith("__") and name[3:-2] in ("add", "sub", "mul", "truediv", "matmul"):
        plain = name[3:-2].replace("truediv", "div")
    elif name.endswith("_") and not name.startswith("_") and name not in _NO_ARITHMETIC:
        plain = name[:-1]
    if plain != name:
        for home in (torch.Tensor, functional):
            if callable(found := getattr(home, plain, None)):
                return plain, found, options, True
    return name, function, options, writes


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

_CHECKPOINTED = "the model runs parts of itself again in the backward pass (checkpointing), where they cannot be seen"

_NO_ARITHMETIC = frozenset({"requires_grad_", "detach_", "retain_grad_", "share_memory_"})
"""Names that end like those of functions which act in place."""


def names(text: str) -> frozenset[str]:
    """Names of functions, written with spaces between them."""
    return frozenset(text.split())


LINEAR = names(
    "add subtract sub __rsub__ neg negative positive sum mean cumsum nansum diff trace "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d avg_pool1d avg_pool2d avg_pool3d interpolate "
    "upsample pixel_shuffle pixel_unshuffle channel_shuffle fold unfold pad constant_pad_nd "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout batch_norm "
    "cat concat concatenate stack hstack vstack dstack split split_with_sizes tensor_split chunk unbind "
    "view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze expand expand_as repeat tile "
    "repeat_interleave broadcast_to permute transpose swapaxes swapdims movedim moveaxis t contiguous clone "
    "__getitem__ select narrow index_select gather take take_along_dim roll flip fliplr flipud rot90 tril triu "
    "diagonal diag_embed as_strided to type type_as double float half bfloat16 cpu cuda "
    "__get__ identity alias im2col"
)
"""Functions that are linear, up to a constant, in all their tensors together (`batch_norm` in eval mode)."""

ENTRYWISE = names(
    "relu relu6 hardtanh clamp clip clamp_min clamp_max threshold _threshold leaky_relu prelu elu selu celu gelu silu "
    "mish sigmoid logsigmoid hardsigmoid hardswish hardshrink softshrink tanhshrink softplus softsign tanh sin cos "
    "exp exp2 expm1 log log1p sqrt rsqrt reciprocal square abs erf pow __rpow__ __rdiv__"
)
"""Functions that treat each entry of their first argument on its own, where what stands beside it is constant."""

_QUESTIONS = frozenset({"__get__", "__len__", "register_hook"})
"""What whoever watches the model from outside asks of its output, and computes nothing."""
