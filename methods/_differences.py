"""Differences of activations from those of a baseline, shared out operation by operation: the rules of DeepLIFT.

Each operation y = f(x) of the images gets a matrix M with M (x - b) = f(x) - f(b), where b is what the same operation
had on the baseline, and the matrices are multiplied from the logit back to the pixels.

Which matrix each operation gets, `_shares` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch
from methods._operations import LINEAR, Operations, target_logits, tensors_of, varying, with_backward, with_tensors
from methods._quadrature import gauss_legendre
from methods._shares import Step, along_line, name_of, share_of

_OURS = "_WithBackwardBackward"


class _RowsAreNoImages(Exception):
    """A tensor has no row for each image (windows, tokens first), so that no row can stand for a baseline."""


@dataclass(frozen=True)
class _Call:
    """An operation as it ran on baselines: its name, its tensors in order, its output."""

    name: str
    tensors: tuple[Tensor, ...]
    output: Tensor


@dataclass
class _Reference:
    """What the operations of the model were on baselines.

    Attributes:
        calls: those that are not linear, in order.
        count: how many baselines there are.
        row: which of them stands beside every image; None where each image has its own, in the same order.
    """

    calls: list[_Call]
    count: int
    row: int | None

    def beside(self, found: Tensor, like: Tensor) -> Tensor:
        """The baseline's `found`, in the place of `like` of the images: as many rows, or one for all."""
        if self.row is not None:
            if len(found) != self.count:
                raise _RowsAreNoImages
            found = found[self.row : self.row + 1]
        if found.shape[1:] != like.shape[1:] or len(found) not in (1, len(like)):
            raise _RowsAreNoImages
        return found


def _recorded(model: nn.Module, baselines: Tensor, row: int | None) -> _Reference:
    """The operations of `model` on `baselines (B, C, H, W)`, in a pass without a graph."""
    calls: list[_Call] = []

    def record(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name_of(function) == "batch_norm" and (options["training"] if "training" in options else args[5]):
            raise NotApplicable("batch norm in training mode mixes the images of a batch")
        output = function(*args, **options)
        if (value := _nonlinear(function, output)) is not None:
            calls.append(_Call(name_of(function), tuple(tensors_of(args, options)), value))
        return output

    with torch.no_grad(), Operations({}, record):
        model(baselines.clone())
    return _Reference(calls, len(baselines), row)


def _nonlinear(function: Callable[..., Any], output: Any) -> Tensor | None:
    """The output of an operation that is not linear, or None."""
    value = output[0] if name_of(function) in ("max", "min") and isinstance(output, tuple) else output
    linear = name_of(function) in LINEAR or not isinstance(value, Tensor) or not value.is_floating_point()
    return None if linear else value


class _Rules:
    """The rule of every operation in one pass of images, which meets those of `reference` in order."""

    def __init__(self, reference: _Reference, nodes: int) -> None:
        self.reference = reference
        self.line = along_line(list(zip(*(each.tolist() for each in gauss_legendre(nodes)), strict=True)))
        self.position = 0

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        name = name_of(function)
        if name in LINEAR:
            return function(*args, **options)
        tensors = tensors_of(args, options)
        variable = varying(tensors)
        share = share_of(name, args, options, variable, self.line)
        with torch.set_grad_enabled(share in (None, self.line)):
            output = function(*args, **options)
        value = _nonlinear(function, output)
        if value is None:
            if variable and any(each.is_floating_point() for each in tensors_of([output], {})):
                raise NotApplicable(f"differences cannot be shared out through the {name} of the model")
            return output
        position, self.position = self.position, self.position + 1
        calls = self.reference.calls
        if position >= len(calls) or calls[position].name != name or len(calls[position].tensors) != len(tensors):
            raise NotApplicable("which operations the model runs depends on the image")

        if variable:
            self._check_conditions(tensors, calls[position].tensors)
        if share is None or (share is self.line and not value.requires_grad):  # new_zeros(x) and the like
            return output
        after = value.detach()
        own_args, own_options = with_tensors(args, options, tensors)  # a model may add to its lists later

        def step() -> Step:
            call = self.reference.calls[position]
            before = [self.reference.beside(call.tensors[i], tensors[i]) for i in variable]
            after_before = self.reference.beside(call.output, after)
            return Step(function, own_args, own_options, tensors, variable, after, before, after_before)

        step()  # sees whether the two passes fit, before any backward pass
        shared = with_backward(after, [tensors[i] for i in variable], lambda gradient: share(step(), gradient))
        return type(output)((shared, *output[1:])) if isinstance(output, tuple) else shared

    def _check_conditions(self, tensors: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        for mask, found in zip(tensors, before, strict=True):
            if mask.dtype == torch.bool:
                found = found if found.shape == mask.shape else self.reference.beside(found, mask)
                if not bool((mask == found).all()):
                    raise NotApplicable("a condition in the model depends on the image")


def _graph(model: nn.Module, inputs: Tensor, targets: Tensor, rules: _Rules) -> tuple[Tensor, Tensor]:
    """`target_logits` by `rules`, refused where the model did not run what it ran on the baseline."""
    leaf, scores = target_logits(model, inputs, targets, {}, rules)
    if rules.position != len(rules.reference.calls):
        raise NotApplicable("which operations the model runs depends on the image")
    todo, seen = [scores.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction) and type(node).__name__ != _OURS:
            raise NotApplicable("differences cannot be shared out through a backward pass that the model defines")
        todo += [each for each, _ in node.next_functions]
    return leaf, scores


def contributions(model: nn.Module, batch: Batch, baselines: Tensor, nodes: int) -> Tensor:
    """`sum_k (x - b_k) * m_k` over `baselines (K, C, H, W)`, which all images share: like the images.

    One forward pass of every baseline, one of every image, and a backward pass of every pair.

    Raises:
        NotApplicable: the model has an operation through which no difference can be shared out.
    """
    total = torch.zeros_like(batch.inputs)

    def group(first: int, last: int) -> Tensor:
        reference = _recorded(model, baselines[first:last], row=0)

        def part(start: int, stop: int) -> Tensor:
            inputs, targets = batch.inputs[start:stop], batch.targets[start:stop]
            reference.row, found = 0, torch.zeros_like(inputs)
            with torch.enable_grad():
                leaf, scores = _graph(model, inputs, targets, _Rules(reference, nodes))
                for row in range(last - first):
                    reference.row = row
                    (slope,) = torch.autograd.grad(scores.sum(), leaf, retain_graph=row + 1 < last - first)
                    found.addcmul_(inputs - baselines[first + row], slope)
            return found

        return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))

    try:
        for found in passes.chunked(group, len(baselines), batch.chunk):
            total += found
    except _RowsAreNoImages:
        total.zero_()
        for row in baselines:
            total += paired_contributions(model, batch, row.expand_as(batch.inputs), nodes)
    return total


def paired_contributions(model: nn.Module, batch: Batch, baselines: Tensor, nodes: int) -> Tensor:
    """`(x - b) * m` where each image has a baseline of its own in `baselines`, which is like the images."""

    def part(start: int, stop: int) -> Tensor:
        inputs, before = batch.inputs[start:stop], baselines[start:stop]
        reference = _recorded(model, before, row=None)
        with torch.enable_grad():
            leaf, scores = _graph(model, inputs, batch.targets[start:stop], _Rules(reference, nodes))
            (slope,) = torch.autograd.grad(scores.sum(), leaf)
        return (inputs - before) * slope

    return torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))
