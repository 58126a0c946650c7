"""Layer-wise relevance propagation, operation by operation, for the methods that name its rules.

A tensor with values a carries the relevance R = a * g. The backward pass moves g, so the plain gradient is the rule for
reshapes, sums, averages, max-pooling (winner takes all), constant factors and softmax (the Taylor rule of AttnLRP). The
rules of `_rules` replace g behind layers with weights, activation functions, normalisations and products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import grad as transposed
from torch.utils.weak import WeakTensorKeyDictionary

from benchmark import passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch
from methods import _operations
from methods._operations import target_logits, with_backward
from methods._rules import Box, Composite, Layer, Rule


@dataclass(frozen=True)
class Fact:
    """What is known of a tensor of the forward pass.

    Attributes:
        layer: whose output it is.
        nonnegative: at least 0.
        box: bounds, where it is the image, perhaps rescaled or reshaped.
        sources: layers that it comes from by rescaling and reshaping.
        mixed: attention made it.
    """

    layer: Layer | None = None
    nonnegative: bool = False
    box: Box | None = None
    sources: frozenset[Layer] = frozenset()
    mixed: bool = False


_NOTHING = Fact()


class Propagation:
    """One forward and one backward pass with the rules of `composite`.

    Attributes:
        attends: two activations were multiplied as matrices, which is what attention does.
    """

    def __init__(self, composite: Composite, box: Box) -> None:
        self.composite, self.box = composite, box
        self.facts: Any = WeakTensorKeyDictionary()
        self.projections: set[Layer] = set()
        self.attends = False

    def run(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """R of each pixel, `(N, C, H, W)`, from R = z_t at the target logit."""
        with torch.enable_grad():
            leaf, scores = target_logits(model, inputs, targets, self.rules(), self.unknown)
            self.check()
            gradient = torch.autograd.grad(scores.sum(), leaf)[0]
        return gradient if self.composite.first is not None else inputs * gradient

    def check(self) -> None:
        """Refuse a network after its forward pass."""

    def rules(self) -> Mapping[str, _operations.Rule]:
        """By name of the operation."""
        return {
            **dict.fromkeys((*_RESHAPES, *_AVERAGES, *_OTHER_LINEAR), self.plain),
            **{name: partial(self.convolution, getattr(transposed, f"{name}_input")) for name in _CONVOLUTIONS},
            **dict.fromkeys(_ACTIVATIONS, self.activation),
            **dict.fromkeys(("add", "sub", "__rsub__"), self.arithmetic),
            **dict.fromkeys(("matmul", "mm", "bmm"), self.matrix_product),
            "linear": self.linear,
            "batch_norm": self.batch_norm,
            "layer_norm": self.layer_norm,
            "rms_norm": self.rms_norm,
            "group_norm": self.group_norm,
            "softmax": self.plain,
            "mul": self.product,
            "div": self.quotient,
        }

    def unknown(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """An operation without a rule may have no part in what depends on the image."""
        output = function(*args, **options)
        if _active(output):
            raise NotApplicable(f"the network's operation {_name(function)!r} has no rule")
        return output

    def plain(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The gradient as it is."""
        output, active, name = function(*args, **options), _active((args, options)), _name(function)
        if not _active(output):
            return output
        constants = len(list(_tensors((args, options)))) > len(active)
        fact = self.common(active, name, image=not constants)
        nonnegative = name == "softmax" or (
            not constants and name in _KEEPS_SIGN and all(self.fact(tensor).nonnegative for tensor in active)
        )
        if fact.box is not None:
            fact = replace(fact, box=self.bounds(function, args, options))
        for tensor in _active(output):
            self.facts[tensor] = replace(fact, nonnegative=nonnegative)
        return output

    def convolution(
        self,
        transposed: Callable[..., Tensor],
        function: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **options: Any,
    ) -> Tensor:
        def apply(x: Tensor, w: Tensor) -> Tensor:
            return function(x, w, None, *args, **options)

        def pull(g: Tensor, w: Tensor) -> Tensor:
            return transposed(input.shape, w, g, *args, **options)

        padding = options.get("padding", args[1] if len(args) > 1 else 0)
        if isinstance(padding, str):
            pull = partial(_pull, apply, input)
        if bias is not None:
            bias = bias.view(-1, *[1] * (weight.dim() - 2))
        return self.layer(apply, pull, "convolution", input, weight, bias)

    def linear(
        self, function: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        return self.layer(function, torch.matmul, "dense", input, weight, bias)

    def matrix_product(self, function: Callable[..., Tensor], input: Tensor, other: Tensor) -> Tensor:
        """A layer where one of the two is constant; otherwise each gets half (the uniform rule of AttnLRP)."""
        if input.requires_grad and other.requires_grad:
            self.attends = True
            self.projections |= self.fact(input).sources | self.fact(other).sources
            return self.halved(function(input, other), mixed=True)
        if other.requires_grad:

            def apply(x: Tensor, w: Tensor) -> Tensor:
                return function(w, x)

            return self.layer(apply, partial(_pull, apply, other), "dense", other, input, None)
        return self.layer(function, partial(_pull, function, input), "dense", input, other, None)

    def layer(
        self,
        apply: Callable[[Tensor, Tensor], Tensor],
        pull: Callable[[Tensor, Tensor], Tensor],
        kind: str,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        if weight.requires_grad:
            raise NotApplicable("a layer whose weights depend on the image has no rule")
        with torch.no_grad():
            output = apply(inputs, weight)
            if bias is not None:
                output = output.add_(bias)
        if not inputs.requires_grad:
            return output
        fact = self.fact(inputs)
        return self.passed(
            Layer(inputs, weight, bias, output, apply, pull, kind, fact.nonnegative, fact.box, fact.mixed)
        )

    def passed(self, layer: Layer) -> Tensor:
        """The output of `layer`, with the rule that is due when the backward pass comes."""

        def backward(gradient: Tensor) -> Sequence[Tensor]:
            return (self.rule(layer)(layer, gradient),)

        output = with_backward(layer.output, [layer.inputs], backward)
        self.facts[output] = Fact(layer=layer, sources=frozenset({layer}))
        return output

    def rule(self, layer: Layer) -> Rule:
        if layer.box is not None and self.composite.first is not None:
            return self.composite.first
        if self.composite.projection is not None and (layer.mixes_heads or layer in self.projections):
            return self.composite.projection
        rule: Rule = getattr(self.composite, layer.kind)
        return rule

    def batch_norm(
        self,
        function: Callable[..., Tensor],
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Part of the convolution or linear layer before it, or a layer with one weight a channel."""
        if not input.requires_grad:  # weights, standardised
            return function(input, running_mean, running_var, weight, bias, training, momentum, eps)
        if training or running_mean is None or running_var is None:
            raise NotApplicable("relevance propagation needs batch norms that do not depend on the batch")
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -running_mean * scale
        shift = shift if bias is None else shift + bias
        before = self.fact(input).layer
        if before is not None and (before.kind == "convolution" or input.dim() == 2):
            with torch.no_grad():
                output = function(input, running_mean, running_var, weight, bias, False, momentum, eps)
            return self.passed(before.followed_by(scale, shift, output))
        per_channel = (-1, *[1] * (input.dim() - 2))
        return self.layer(torch.mul, torch.mul, "scaling", input, scale.view(per_channel), shift.view(per_channel))

    def activation(self, function: Callable[..., Tensor], input: Tensor, *args: Any, **options: Any) -> Tensor:
        """R stays where it is: g = g f(x) / x, and 0 at 0."""
        if not input.requires_grad:
            return function(input, *args, **options)
        self.not_the_image(function, input)
        name = _name(function)
        if name == "relu":  # whose gradient says the same
            output = function(input, *args, **options)
        else:
            with torch.no_grad():
                value = function(input, *args, **options)

            def backward(gradient: Tensor) -> Sequence[Tensor]:
                return ((value / input).nan_to_num_(0.0, 0.0, 0.0).mul_(gradient),)

            output = with_backward(value, [input], backward)
        self.facts[output] = Fact(nonnegative=name in _NONNEGATIVE)
        return output

    def layer_norm(
        self,
        function: Callable[..., Tensor],
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """The standard deviation counts as a constant."""
        with torch.no_grad():
            output = function(input, normalized_shape, weight, bias, eps)
        over = tuple(range(-len(normalized_shape), 0))

        def backward(gradient: Tensor) -> Sequence[Tensor]:
            gradient = gradient if weight is None else gradient * weight
            gradient = gradient * (input.var(over, correction=0, keepdim=True) + eps).rsqrt()
            return (gradient - gradient.mean(over, keepdim=True),)

        return self.normalised(function, input, output, backward)

    def rms_norm(
        self,
        function: Callable[..., Tensor],
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        """The root mean square counts as a constant."""
        with torch.no_grad():
            output = function(input, normalized_shape, weight, eps)
        over = tuple(range(-len(normalized_shape), 0))
        floor = torch.finfo(input.dtype).eps if eps is None else eps

        def backward(gradient: Tensor) -> Sequence[Tensor]:
            gradient = gradient if weight is None else gradient * weight
            return (gradient * (input.square().mean(over, keepdim=True) + floor).rsqrt(),)

        return self.normalised(function, input, output, backward)

    def group_norm(
        self,
        function: Callable[..., Tensor],
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """The standard deviation counts as a constant."""
        with torch.no_grad():
            output = function(input, num_groups, weight, bias, eps)

        def backward(gradient: Tensor) -> Sequence[Tensor]:
            if weight is not None:
                gradient = gradient * weight.view(-1, *[1] * (input.dim() - 2))
            groups, like = gradient.reshape(len(input), num_groups, -1), input.reshape(len(input), num_groups, -1)
            groups = groups * (like.var(2, correction=0, keepdim=True) + eps).rsqrt()
            return ((groups - groups.mean(2, keepdim=True)).view_as(input),)

        return self.normalised(function, input, output, backward)

    def normalised(
        self, function: Callable[..., Any], input: Tensor, output: Tensor, backward: _operations.Backward
    ) -> Tensor:
        if not input.requires_grad:
            return output
        self.not_the_image(function, input)
        output = with_backward(output, [input], backward)
        self.facts[output] = Fact(sources=self.fact(input).sources)
        return output

    def arithmetic(self, function: Callable[..., Tensor], input: Any, other: Any, **options: Any) -> Tensor:
        """Sums and differences: each term gets what its value is of the sum."""
        return self.moved(function, input, other, **options)

    def product(self, function: Callable[..., Tensor], input: Any, other: Any, **options: Any) -> Tensor:
        """Of two activations each gets half (the uniform rule of AttnLRP); a constant gets nothing."""
        if len(_active((input, other))) == 2:
            for tensor in (input, other):
                self.not_the_image(function, tensor)
            return self.halved(function(input, other, **options))
        return self.moved(function, input, other, **options)

    def quotient(self, function: Callable[..., Tensor], input: Any, other: Any, **options: Any) -> Tensor:
        if _active(other):
            raise NotApplicable("a division by an activation has no rule")
        return self.moved(function, input, other, **options)

    def moved(self, function: Callable[..., Tensor], input: Any, other: Any, **options: Any) -> Tensor:
        """The plain gradient; where a first rule sends R itself to the image, constants leave R as it is."""
        output, active = function(input, other, **options), _active((input, other))
        if not active:
            return output
        fact = self.common(active, _name(function), image=len(active) == 1)
        if fact.box is not None:
            bounds = self.bounds(function, (input, other), options)
            fact = replace(fact, box=(torch.minimum(*bounds), torch.maximum(*bounds)))
            output = with_backward(output.detach(), active, lambda gradient: (gradient.sum_to_size(active[0].shape),))
        self.facts[output] = fact
        return output

    def halved(self, output: Tensor, mixed: bool = False) -> Tensor:
        output = with_backward(output.detach(), [output], lambda gradient: (gradient / 2,))
        self.facts[output] = Fact(mixed=mixed)
        return output

    def fact(self, tensor: Tensor) -> Fact:
        """What is known of `tensor`; the first that depends on the image is the image."""
        if self.composite.first is not None and not self.facts and tensor.requires_grad:
            low, high = self.box
            self.facts[tensor] = Fact(box=(low.expand_as(tensor), high.expand_as(tensor)))
        found: Fact = self.facts.get(tensor, _NOTHING)
        return found

    def common(self, active: Sequence[Tensor], name: str, image: bool) -> Fact:
        """What holds for a rearrangement of `active`; `image` says whether one of the image alone may be the image."""
        facts = [self.fact(tensor) for tensor in active]
        boxes = [fact.box for fact in facts if fact.box is not None]
        if boxes and not (image and len(boxes) == len(facts)):
            raise NotApplicable(f"the rule of the first layer does not reach an image that meets {name!r} before it")
        sources = frozenset.intersection(*(fact.sources for fact in facts)) if facts else frozenset()
        mixed = len(facts) == 1 and facts[0].mixed
        return Fact(sources=sources, mixed=mixed, box=boxes[0] if boxes else None)

    def bounds(self, function: Callable[..., Any], args: Any, options: Any) -> Box:
        """Of what `function` makes of the image, by what it makes of the bounds of the image."""
        with torch.no_grad():
            low, high = (function(*self.swapped(args, side), **self.swapped(options, side)) for side in (0, 1))
        if not (isinstance(low, Tensor) and isinstance(high, Tensor)):
            raise NotApplicable("the rule of the first layer does not reach an image that is taken apart before it")
        return low, high

    def swapped(self, value: Any, side: int) -> Any:
        """`value` with the image replaced by one of its bounds."""
        if isinstance(value, Tensor):
            box = self.fact(value).box
            return value if box is None else box[side]
        if isinstance(value, tuple | list):
            return type(value)(self.swapped(each, side) for each in value)
        if isinstance(value, dict):
            return {key: self.swapped(each, side) for key, each in value.items()}
        return value

    def not_the_image(self, function: Callable[..., Any], tensor: Tensor) -> None:
        if self.fact(tensor).box is not None:
            raise NotApplicable(
                f"the rule of the first layer does not reach an image that meets {_name(function)!r} before it"
            )


def propagated(
    model: nn.Module, batch: Batch, composite: Composite, propagation: type[Propagation] = Propagation
) -> Tensor:
    """R of each pixel, `(N, C, H, W)`, from R = z_t, with at most `batch.chunk` images a pass.

    Raises:
        NotApplicable: the network has an operation without a rule, or nothing arrives at the image.
    """
    edges = torch.zeros_like(batch.inputs[:1, :, :1, :1]), torch.ones_like(batch.inputs[:1, :, :1, :1])
    box = batch.normalise(edges[0]), batch.normalise(edges[1])

    def part(start: int, stop: int) -> Tensor:
        return propagation(composite, box).run(model, batch.inputs[start:stop], batch.targets[start:stop])

    with _constant(model):
        return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))


@contextmanager
def _constant(model: nn.Module) -> Iterator[None]:
    """Within, no parameter wants a gradient: what does, depends on the image."""
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in wanting:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


def _pull(apply: Callable[[Tensor, Tensor], Tensor], like: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """W^T g of any `apply`, at the price of a forward pass of it."""
    with torch.enable_grad():
        leaf = torch.zeros_like(like).requires_grad_()
        return torch.autograd.grad(apply(leaf, weight), leaf, gradient)[0]


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", str(function))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _active(value: Any) -> list[Tensor]:
    """Those that depend on the image."""
    return [tensor for tensor in _tensors(value) if tensor.requires_grad]


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_RESHAPES = (
    *("clone", "contiguous", "to", "type_as", "float", "double", "view", "view_as", "reshape", "reshape_as"),
    *("flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "swapaxes", "swapdims", "movedim"),
    *("moveaxis", "t", "__get__", "__getitem__", "chunk", "split", "tensor_split", "unbind", "narrow", "select"),
    *("index_select", "gather", "cat", "concat", "stack", "expand", "expand_as", "repeat", "repeat_interleave", "tile"),
    *("roll", "flip", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "fold"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("amax", "max"),
)
_AVERAGES = (
    *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean", "sum"),
)
_OTHER_LINEAR = ("interpolate", "pad", "neg", "masked_fill", "detach")
_KEEPS_SIGN = frozenset((*_RESHAPES, *_AVERAGES))
_ACTIVATIONS = (
    *("relu", "relu6", "hardtanh", "leaky_relu", "prelu", "elu", "selu", "celu", "silu", "gelu", "mish", "hardswish"),
    *("tanh", "sigmoid", "hardsigmoid", "softplus", "softsign", "clamp", "clamp_min", "square"),
)
_NONNEGATIVE = frozenset({"relu", "relu6", "sigmoid", "hardsigmoid", "softplus", "square"})
