"""FullGrad: the gradient times the input, and the gradient of every bias times the bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark import maps, passes
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method
from methods._layers import spatial
from methods._operations import ENTRYWISE, LINEAR, names, target_logits, tensors_of, varying, with_tensors

Sink = Callable[[str, Tensor, Tensor], None]
"""Is given the name of an operation, the gradient at its output, and its bias, which broadcasts to that."""

_HOMOGENEOUS = LINEAR - names("pad constant_pad_nd") | names(
    "relu leaky_relu prelu abs max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d amax amin max min maximum minimum"
)
"""Functions with f(x) = f'(x) x, so without a bias, where all of their tensors depend on the image."""

_WEIGHTED = names("mul multiply div divide true_divide matmul mm bmm")
"""Functions without a bias where one of their tensors alone depends on the image, the dividend of a quotient."""

_JOINS = names("cat concat concatenate stack hstack vstack")
_SHIFTS = _JOINS | {"add", "subtract", "sub", "__rsub__"}
"""Linear functions that may bring constants in, so that they have a bias."""

_CLAMPS = frozenset({"relu6", "hardtanh"})
_MIXING = frozenset({"softmax", "log_softmax", "normalize", *_WEIGHTED})
"""Functions whose output is no map of features: their biases count and are not drawn."""


@dataclass(frozen=True)
class FullGrad(Method):
    """`psi(d z_t / d x * x) + sum_l psi(d z_t / d b_l * b_l)`, summed over channels, at least 0: `(N, 1, H, W)`.

    The sum runs over the operations l whose output has places, b_l is the bias of one: of a convolution; of batch norm
    beta - mu * w / sigma; of any other f, by the paper's definition of an implicit bias, `f(x) - J_f(x) x`, which is 0
    for ReLU, the part of ReLU6 above its bound, and nearly all of LayerNorm's output, since that does not grow with
    its input. `psi` is the absolute value, scaled to [0, 1], at the size of the image (bilinearly).

    Before psi, and with operations that have no places, the terms add up to z_t: see `full_gradient`.

    The formula in the paper writes psi of every channel; its authors' code scales a layer by the extremes over all of
    its channels, so that a larger bias weighs more. That is the default.

    Source: Srinivas & Fleuret 2019, arXiv:1905.00780.

    Attributes:
        rescale: by the extremes of each `layer`, as the authors' code does, or of each `channel`.

    Raises:
        UserError: an unknown way to rescale.
        NotApplicable: the logits carry no gradient to the input, or the model's operations cannot be seen.

    Example:
        >>> FullGrad().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    needs_gradient = True
    passes = 2

    rescale: Literal["layer", "channel"] = "layer"

    def __post_init__(self) -> None:
        if self.rescale not in ("layer", "channel"):
            raise UserError(f"unknown rescale {self.rescale!r}: expected layer or channel")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        size, prefix = (batch.inputs.shape[2], batch.inputs.shape[3]), maps.prefix_tokens(model)

        def part(start: int, stop: int) -> Tensor:
            drawn: dict[torch.Size, Tensor] = {}

            def draw(name: str, gradient: Tensor, bias: Tensor) -> None:
                if name in _MIXING or len(gradient) != stop - start or gradient.dim() not in (3, 4):
                    return
                try:
                    places = spatial(gradient, size, prefix)
                except NotApplicable:
                    return
                term = self._scaled(places, spatial(bias.expand_as(gradient), size, prefix))
                place = term.shape[2:]
                drawn[place] = drawn[place] + term if place in drawn else term

            term = full_gradient(model, batch.inputs[start:stop], batch.targets[start:stop], draw)
            found = self._scaled(term, torch.ones_like(term[:, :, :1, :1]).expand_as(term))
            # Maps of one size are added before they are enlarged: that is linear.
            return sum((functional.interpolate(each, size, mode="bilinear") for each in drawn.values()), found)

        return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))

    def _scaled(self, gradient: Tensor, bias: Tensor) -> Tensor:
        """`sum_c psi(gradient * bias)` of two `(N, C, h, w)`, before it is enlarged: `(N, 1, h, w)`.

        On a CPU it goes block by block, so that what is computed on the way stays in the cache.
        """
        if bias.stride(2) == bias.stride(3) == 0:
            bias = bias[:, :, :1, :1]
        if gradient.is_cuda:
            found, low, high = self._block(gradient.flatten(2), bias.flatten(2))
            return self._joined(found, low, high, gradient.shape)
        wide = max(1, _BLOCK // gradient[0, 0].numel())
        images = []
        for image, its in zip(gradient.flatten(2), bias.flatten(2), strict=True):
            parts = [self._block(*both) for both in zip(image.split(wide), its.split(wide), strict=True)]
            totals, lows, highs = (torch.stack(each) for each in zip(*parts, strict=True))
            images.append((totals.sum(0), lows.amin(0), highs.amax(0)))
        found, low, high = (torch.stack(each) for each in zip(*images, strict=True))
        return self._joined(found, low, high, gradient.shape)

    def _block(self, gradient: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of channels `(..., C, P)`: their sum `(..., 1, P)`, scaled if by channel, and the extremes `(..., 1, 1)`."""
        term = (gradient * bias).abs_()
        low, high = term.amin((-1, -2), keepdim=True), term.amax((-1, -2), keepdim=True)
        if self.rescale == "layer":
            return term.sum(-2, keepdim=True), low, high
        lows = term.amin(-1, keepdim=True)
        weight = _inverse_width(lows, term.amax(-1, keepdim=True))
        return weight.transpose(-1, -2) @ term - (lows * weight).sum(-2, keepdim=True), low, high

    def _joined(self, total: Tensor, low: Tensor, high: Tensor, shape: torch.Size) -> Tensor:
        if self.rescale == "layer":
            total = (total - shape[1] * low) * _inverse_width(low, high)
        return total.unflatten(2, shape[2:])


_BLOCK = 1 << 16


def _inverse_width(low: Tensor, high: Tensor) -> Tensor:
    """1 / (high - low), and 0 where values differ by rounding alone: scaled to [0, 1] they would be noise."""
    width = high - low
    return torch.where(width > high * torch.finfo(high.dtype).eps ** 0.5, 1 / width, 0)


def full_gradient(model: nn.Module, inputs: Tensor, targets: Tensor, sink: Sink) -> Tensor:
    """`d z_t / d x * x`, like `inputs (N, C, H, W)`, in one forward and one backward pass that feeds `sink` on its way.

    All terms, `gradient * bias` of what `sink` is given among them, add up to the target logit of each image.

    Raises:
        NotApplicable: the logits carry no gradient to the input, or the model's operations cannot be seen.
    """

    def watch(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        output = function(*args, **options)
        if not isinstance(output, Tensor) or not output.requires_grad or not output.is_floating_point():
            return output
        bias = _bias(function, args, options, output.detach())
        if bias is not None:
            output.register_hook(lambda gradient: sink(function.__name__, gradient, bias(gradient)))
        return output

    with torch.enable_grad():
        leaf, scores = target_logits(model, inputs, targets, {}, watch)
        (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    return gradient * inputs


def _bias(
    function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], output: Tensor
) -> Callable[[Tensor], Tensor] | None:
    """What makes the bias of an operation, `f(x) - J_f(x) x`, in a form that broadcasts to its output; None for 0.

    It is given the gradient there: where that is 0 the bias need not be right.
    """
    name, tensors = function.__name__, tensors_of(args, options)
    variable = varying(tensors)
    if variable == [0] and name in _KNOWN:
        bias = _KNOWN[name](*args, **options)
        return None if bias is None else lambda gradient: bias
    if name in _CLAMPS:
        inputs = tensors[0].detach()
        return lambda gradient: torch.ne(output, inputs, out=torch.empty_like(output)).mul_(output)
    if name in _SHIFTS:
        if len(variable) == len(tensors) and (len(tensors) > 1 or name in _JOINS):
            return None
    elif name in _HOMOGENEOUS or (name in _WEIGHTED and len(variable) == 1):
        return None

    args, options = with_tensors(args, options, tensors)  # lists of their own: a model may add to its lists later

    def implicit(gradient: Tensor) -> Tensor:
        points = [tensors[i].detach().requires_grad_() for i in variable]
        now = [each.detach() for each in tensors]
        for i, point in zip(variable, points, strict=True):
            now[i] = point
        with torch.enable_grad():
            new_args, new_options = with_tensors(args, options, now)
            found = function(*new_args, **new_options)
            if variable == [0] and name in ENTRYWISE:
                return output - points[0].detach() * torch.autograd.grad(found.sum(), points[0])[0]
            # J x is the derivative by v of x . J^T v: two backward passes of the one operation.
            v = torch.zeros_like(found).requires_grad_()
            back = torch.autograd.grad(found, points, v, create_graph=True, materialize_grads=True, allow_unused=True)
            finite = [point.detach().nan_to_num(neginf=0.0) for point in points]  # scores of masked tokens
            along = torch.stack([(each * x).sum() for each, x in zip(back, finite, strict=True)]).sum()
            bias = output - torch.autograd.grad(along, v)[0]
        return torch.where(gradient == 0, 0, bias)  # scores of masked tokens are infinite, and no gradient gets there

    return implicit


def _convolution_bias(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **options: Any) -> Any:
    return None if bias is None else bias.detach().view(-1, *[1] * (inputs.dim() - 2))


def _linear_bias(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    return None if bias is None else bias.detach()


def _batch_norm_bias(
    inputs: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    found = -mean * (variance + eps).rsqrt()
    found = (found if weight is None else found * weight) + (0 if bias is None else bias)
    return found.detach().view(-1, *[1] * (inputs.dim() - 2))


_KNOWN: Mapping[str, Callable[..., Tensor | None]] = {
    **{f"conv{kind}{d}d": _convolution_bias for kind in ("", "_transpose") for d in (1, 2, 3)},
    "linear": _linear_bias,
    "batch_norm": _batch_norm_bias,
}
