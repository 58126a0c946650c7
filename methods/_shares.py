"""How one operation shares out the difference of its output among its inputs: the matrices of `_differences`.

linear          its own matrix
ReLU, GELU, ... entry by entry (f(x) - f(b)) / (x - b), the derivative where x and b are close: the rescale rule
product         each factor times the mean of the other's two values
maximum         the larger of two entries, those that are largest at x and at b, written x_j + relu(x_i - x_j)
softmax         exp(s - log sum exp(s)), and normalisation c * (mean(c^2) + eps)^(-1/2) with c = x - mean(x), and
                quotients a * (1 / c): each exponential, square, root and inverse entry by entry, each product as above
any other       the Jacobian averaged over the straight line from b to x, at nodes of Gauss and Legendre: exact up to
                the error of that sum

For an activation, a product and the larger of two the closed form is that average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.errors import NotApplicable
from methods._operations import ENTRYWISE, names, with_tensors

_CLAMPS = names("relu6 hardtanh clamp clip clamp_min clamp_max")

_PRODUCTS = names(
    "mul multiply matmul mm bmm mv dot einsum linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d "
    "conv_transpose3d baddbmm addmm addbmm"
)
"""Functions that are linear in each of their tensors while the others are held."""

_QUOTIENTS = names("div divide true_divide")

_CONDITIONAL = frozenset({"where", "masked_fill", "masked_fill_"})
"""Functions that are linear while their condition is that of the baseline."""

_POOLS = names("max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d")


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", str(function))


@dataclass(frozen=True)
class Step:
    """An operation as it runs on images, and what it was on the baseline."""

    function: Callable[..., Any]
    args: Sequence[Any]
    options: Mapping[str, Any]
    tensors: Sequence[Tensor]
    variable: Sequence[int]
    output: Tensor
    before: Sequence[Tensor]
    output_before: Tensor

    def at(self, points: Sequence[Tensor]) -> Tensor:
        """The operation with `points` for the tensors that depend on the image."""
        tensors = list(self.tensors)
        for i, point in zip(self.variable, points, strict=True):
            tensors[i] = point
        args, options = with_tensors(self.args, self.options, tensors)
        output = self.function(*args, **options)
        return output[0] if isinstance(output, tuple) else output

    def jacobian(self, points: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
        """`gradient` times the Jacobian at `points`."""
        with torch.enable_grad():
            leaves = [point.requires_grad_() for point in points]
            output = self.at(leaves)
            if not output.requires_grad:
                return tuple(torch.zeros_like(leaf) for leaf in leaves)
            return torch.autograd.grad(output, leaves, gradient, allow_unused=True, materialize_grads=True)


Share = Callable[[Step, Tensor], tuple[Tensor, ...]]
"""From what arrives at the output of an operation to what each tensor that depends on the image gets."""


def _relu(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """(relu(x) + relu(b)) / (|x| + |b|), which is (relu(x) - relu(b)) / (x - b) without a difference of two numbers."""
    (after,), (before,) = (step.tensors[i] for i in step.variable), step.before
    tiny = torch.finfo(before.dtype).tiny  # 0 / tiny where both are 0

    def slope(out: Tensor, width: Tensor, g: Tensor, x: Tensor, y: Tensor, b: Tensor, c: Tensor) -> None:
        torch.abs(x, out=width).add_(b)
        torch.add(y, c, out=out).div_(width).mul_(g)

    return (_blockwise(slope, (gradient, after, step.output), (before.abs().add_(tiny), step.output_before)),)


def _clamp(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """(f(x) - f(b)) / (x - b), with b a rounding below where it is: equal to x it gives the derivative, not 0 / 0."""
    (after,), (before,) = (step.tensors[i] for i in step.variable), step.before
    limits = torch.finfo(before.dtype)
    moved = before - before.abs().mul_(4 * limits.eps).add_(limits.tiny)

    def slope(out: Tensor, width: Tensor, g: Tensor, x: Tensor, y: Tensor, b: Tensor, c: Tensor) -> None:
        torch.sub(x, b, out=width)
        torch.sub(y, c, out=out).div_(width).nan_to_num_(0.0).mul_(g)

    return (_blockwise(slope, (gradient, after, step.output), (moved, step.at([moved]))),)


_BLOCK = 1 << 16


def _blockwise(compute: Callable[..., None], images: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """`compute(out, scratch, *images, *before)`, like `images`; `before` has as many rows, or one for all.

    On a CPU it goes block by block: what is computed on the way stays in the cache, and only the result needs memory.
    """
    out = torch.empty_like(images[0])
    tensors = [out, *images, *before]
    if not out.is_cuda and all(each.is_contiguous() for each in tensors):
        flat = [each.reshape(len(each), -1) for each in tensors]
    elif not out.is_cuda and out.dim() == 4 and all(_channels_last(each) for each in tensors):
        flat = [each.permute(0, 2, 3, 1).flatten(1) for each in tensors]
    else:
        compute(out, torch.empty_like(out), *images, *before)
        return out
    scratch = out.new_empty(min(_BLOCK, flat[0].shape[1]))
    for i in range(len(out)):
        rows = [each[i if len(each) > 1 else 0].split(_BLOCK) for each in flat]
        for here, *others in zip(*rows, strict=True):
            compute(here, scratch[: len(here)], *others)
    return out


def _channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _entrywise(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """(f(x) - f(b)) / (x - b), or the derivative halfway where the two are so close that rounding would show."""
    (after,), (before,) = (step.tensors[i] for i in step.variable), step.before
    width = after - before
    close = width.abs() <= (1 + before.abs()).mul_(torch.finfo(before.dtype).eps ** (1 / 3))
    slope = (step.output - step.output_before).div_(width.masked_fill_(close, 1)).mul_(gradient)
    (derivative,) = step.jacobian([torch.lerp(before, after, 0.5)], gradient)
    return (torch.where(close, derivative, slope),)


def along_line(nodes: Sequence[tuple[float, float]]) -> Share:
    """The Jacobian averaged over the straight line from b to x."""

    def share(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
        after = [step.tensors[i] for i in step.variable]
        totals = [torch.zeros_like(each) for each in after]
        for node, weight in nodes:
            points = [torch.lerp(b, x, node) for b, x in zip(step.before, after, strict=True)]
            for total, found in zip(totals, step.jacobian(points, gradient), strict=True):
                total.add_(found, alpha=weight)
        return tuple(totals)

    return share


def _pool(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """The largest of each window, by `_larger`."""
    name = name_of(step.function)
    dims = int(name[-2])
    with_places = getattr(functional, f"{name}_with_indices")
    (after,), (before,) = (step.tensors[i] for i in step.variable), step.before
    now, then = (with_places(x, *step.args[1:], **step.options)[1].flatten(-dims) for x in (after, before))
    found = _larger(after.flatten(-dims), before.flatten(-dims), now, then, gradient.flatten(-dims))
    return (found.view_as(after),)


def _extreme(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """The largest or smallest along some dimensions, by `_larger`."""
    (after,), (before,) = (step.tensors[i] for i in step.variable), step.before
    dims = step.options.get("dim", step.args[1] if len(step.args) > 1 else None)
    dims = [dim % after.dim() for dim in ([dims] if isinstance(dims, int) else dims or range(after.dim()))]
    if 0 in dims:
        raise NotApplicable("a maximum over the batch mixes its images")
    ends = list(range(-len(dims), 0))
    sign = -1 if name_of(step.function) in ("min", "amin") else 1
    rows, rows_before = (sign * each.movedim(dims, ends).flatten(-len(dims)) for each in (after, before))
    now, then = (each.argmax(-1, keepdim=True) for each in (rows, rows_before))
    found = _larger(rows, rows_before, now, then, gradient.reshape(now.shape))
    return (found.view(after.movedim(dims, ends).shape).movedim(ends, dims),)


def _larger(after: Tensor, before: Tensor, winner: Tensor, former: Tensor, gradient: Tensor) -> Tensor:
    """The Jacobian of max(entry i, entry j) averaged from b to x, i being largest at x and j at b.

    On the line between them i leads from the place where x_i - x_j and b_j - b_i balance, so i gets the share
    (x_i - x_j) / (x_i - x_j + b_j - b_i), and the two contributions add up to x_i - b_j.
    """
    before, former = before.expand_as(after), former.expand_as(winner)
    ahead = after.gather(-1, winner) - after.gather(-1, former)
    behind = before.gather(-1, former) - before.gather(-1, winner)
    whole = ahead + behind
    part = gradient * torch.where(whole > 0, ahead / whole, 1)
    return torch.zeros_like(after).scatter_add_(-1, winner, part).scatter_add_(-1, former, gradient - part)


def _softmax(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """exp(u) with u = s - log sum exp(s), entry by entry: the slope of exp is the logarithmic mean L of p(x) and p(b).

    Both p sum to 1, so L . (u(x) - u(b)) = 0, and what log sum exp moves by is the mean of what s moves by with
    weights L. The matrix diag(L) - L L^T / sum(L) is exact, blind to what is added to all of s, and that of p at x = b.
    """
    (after,), (before,) = (step.tensors[i] for i in step.variable), step.before
    dim = step.options["dim"] if "dim" in step.options else step.args[1]
    after, before = after.log_softmax(dim), before.log_softmax(dim)
    mean = _logarithmic_mean(after.exp(), before.exp(), after - before)
    if name_of(step.function) == "softmax":
        gradient = gradient * mean
    return (gradient - mean * (gradient.sum(dim, keepdim=True) / mean.sum(dim, keepdim=True)),)


def _logarithmic_mean(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    """(a - b) / (log a - log b), of two numbers whose logarithms differ by `width`; where both are 0 it is 0."""
    width = width.abs().nan_to_num_(0.0).clamp_min_(torch.finfo(width.dtype).tiny)
    return torch.maximum(a, b) * (-width).expm1_().div_(-width)


def _layer_norm(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    def shared(
        inputs: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Any = None, eps: float = 1e-5
    ) -> Tensor:
        inner = gradient if weight is None else gradient * weight
        return _normalised(inputs, step.before[0], inner, list(range(-len(shape), 0)), eps)

    return (shared(*step.args, **step.options),)


def _rms_norm(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    def shared(inputs: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        inner = gradient if weight is None else gradient * weight
        width = torch.finfo(inputs.dtype).eps if eps is None else eps
        return _normalised(inputs, step.before[0], inner, list(range(-len(shape), 0)), width, centred=False)

    return (shared(*step.args, **step.options),)


def _group_norm(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    def shared(
        inputs: Tensor, groups: int, weight: Tensor | None = None, bias: Any = None, eps: float = 1e-5
    ) -> Tensor:
        inner = gradient if weight is None else gradient * weight.view(-1, *[1] * (inputs.dim() - 2))
        after, before, inner = (each.unflatten(1, (groups, -1)).flatten(2) for each in (inputs, step.before[0], inner))
        return _normalised(after, before, inner, [-1], eps).view_as(inputs)

    return (shared(*step.args, **step.options),)


def _normalize(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """Division by the Euclidean length, which is `_normalised` but for a constant."""

    def shared(inputs: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
        if p != 2:
            raise NotApplicable(f"differences cannot be shared out through a norm of order {p}")
        size = inputs.shape[dim]
        return _normalised(inputs, step.before[0], gradient / size**0.5, [dim], eps**2 / size, centred=False)

    return (shared(*step.args, **step.options),)


def _normalised(
    after: Tensor, before: Tensor, gradient: Tensor, dims: list[int], eps: float, centred: bool = True
) -> Tensor:
    """c * r with c = x - mean(x) and r = (mean(c^2) + eps)^(-1/2): products halfway, square and root entry by entry."""
    if centred:
        after, before = after - after.mean(dims, keepdim=True), before - before.mean(dims, keepdim=True)
    scale, scale_before = ((each.square().mean(dims, keepdim=True) + eps).rsqrt() for each in (after, before))
    both = after + before
    slope = (scale * scale_before).square() / (scale + scale_before)  # of r by mean(c^2), but for its sign
    inner = (gradient * both).mean(dims, keepdim=True) * slope / 2
    found = gradient * ((scale + scale_before) / 2) - both * inner
    return found - found.mean(dims, keepdim=True) if centred else found


def _quotient(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """a * (1 / c): the product halfway, the inverse entry by entry."""
    (above, below), (above_before, below_before) = (step.tensors[i] for i in step.variable), step.before
    upper = gradient * ((1 / below + 1 / below_before) / 2)
    lower = gradient * (above + above_before) / (-2 * below * below_before)
    return upper.sum_to_size(above.shape), lower.sum_to_size(below.shape)


_SHARES: Mapping[str, Share] = {
    "softmax": _softmax,
    "log_softmax": _softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
    **dict.fromkeys(ENTRYWISE, _entrywise),
    **dict.fromkeys(_CLAMPS, _clamp),
    "relu": _relu,
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(("amax", "amin"), _extreme),
}


def share_of(
    name: str, args: Sequence[Any], options: Mapping[str, Any], variable: Sequence[int], line: Share
) -> Share | None:
    """How an operation shares out differences: `line` where nothing better is known, None where its gradient does.

    `variable` are the places, among its tensors, of those that depend on the image.
    """
    one = len(variable) == 1
    if not variable or (one and name in (*_PRODUCTS, *_CONDITIONAL)):
        return None
    if name in _QUOTIENTS and "rounding_mode" not in options:
        return None if variable == [0] else _quotient if variable == [0, 1] else line
    if name in ("max", "min") and one and (len(args) > 1 or "dim" in options):
        return _extreme
    if len(variable) == 2 and name in (*_PRODUCTS, *_CONDITIONAL):
        return along_line([(0.5, 1.0)])
    return _SHARES.get(name, line) if one and variable == [0] else line
