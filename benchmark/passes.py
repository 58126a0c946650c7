"""Passes through a model: in chunks that fit, counted, without a trace left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from benchmark.errors import UserError

Score = Literal["prob", "logit", "logodds"]
Result = TypeVar("Result")


@dataclass
class Passes:
    """How many images went forward through a model, and backward from its output."""

    forwards: int = 0
    backwards: int = 0


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count passes of `model` and of copies made of it meanwhile. A backward that stops at a layer counts as one."""
    passes = Passes()

    def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        passes.forwards += len(output)
        if output.requires_grad:
            output.register_hook(backward)

    def backward(gradient: Tensor) -> None:
        passes.backwards += len(gradient)

    handle = model.register_forward_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def chunked(function: Callable[[int, int], Result], total: int, chunk: int) -> Iterator[Result]:
    """Yield `function(start, stop)` over 0..total in steps of `chunk`; out of memory halves the step and goes on."""
    start = 0
    while start < total:
        stop = min(start + chunk, total)
        try:
            yield function(start, stop)
            start = stop
            continue
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if stop - start == 1:
                raise UserError("out of memory with a single image in a pass: use a smaller model or image") from error
        # Outside the handler, where the error no longer holds on to the tensors that did not fit.
        chunk = max(1, (stop - start) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.inference_mode()
def logits(model: nn.Module, inputs: Tensor, chunk: int) -> Tensor:
    """Model output `(N, K)` for `inputs (N, C, H, W)`, without gradients, where the inputs are."""
    device = next((parameter.device for parameter in model.parameters()), inputs.device)

    def run(start: int, stop: int) -> Tensor:
        # A copy, because a model that begins with an in-place operation would change the caller's images.
        return model(inputs[start:stop].to(device, copy=True)).to(inputs.device)

    return torch.cat(list(chunked(run, len(inputs), chunk)))


def check_score(score: str) -> None:
    """Refuse a score that `class_scores` does not know.

    Raises:
        UserError: with those that it knows.
    """
    if score not in get_args(Score):
        raise UserError(f"unknown output {score!r}: expected {', '.join(get_args(Score))}")


def class_scores(logits: Tensor, targets: Tensor, score: Score = "logit") -> Tensor:
    """Score `(N,)` of each target: its logit z, softmax probability p, or log-odds log p / (1 - p)."""
    picked = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    if score == "logit":
        return picked
    if score == "prob":
        return logits.softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
    check_score(score)
    others = logits.scatter(1, targets.unsqueeze(1), -torch.inf)
    return picked - others.logsumexp(1)


_TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give the model back as it was, also when the body raises: modes a module, hooks, gradients, weights, buffers.

    Raises:
        UserError: the body changed or replaced weights, buffers or modules; they are put back before the error.
    """
    modes = [(module, module.training) for module in model.modules()]
    tables = [(module, name, dict(getattr(module, name))) for module in model.modules() for name in _TABLES]
    wants_gradient = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    before = {name: (tensor._version, tensor.detach().clone()) for name, tensor in tensors.items()}
    changed: list[str] = []
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, kept in tables:
            table = getattr(module, name)
            if "hooks" not in name and _identities(table) != _identities(kept):
                changed.append(type(module).__name__)
            table.clear()
            table.update(kept)
        for parameter, wanted in wants_gradient:
            parameter.requires_grad_(wanted)
            parameter.grad = None
        with torch.no_grad():
            for name, tensor in tensors.items():
                version, value = before[name]
                if tensor._version != version and not torch.equal(tensor, value):
                    changed.append(name)
                    tensor.copy_(value)
    if changed:
        raise UserError(f"it changed the model's weights or modules ({', '.join(changed[:3])}); they were put back")


def _identities(table: Mapping[str, object]) -> list[tuple[str, int]]:
    return [(name, id(value)) for name, value in table.items()]
