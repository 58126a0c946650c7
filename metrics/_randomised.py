"""Copies of a model that unlearn what it knows, layer by layer, and the batch as such a copy sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from benchmark import passes, randomness
from benchmark.errors import NotApplicable, UserError, unknown
from benchmark.protocols import Batch, Explain

Order = Literal["top_down", "bottom_up", "independent"]


def check_options(order: str, stages: int, seeds: int) -> None:
    """Refuse an order that `cascade` does not know, and fewer than one stage or seed.

    Raises:
        UserError: with what was expected.
    """
    if order not in get_args(Order):
        raise UserError(unknown("order ", order, get_args(Order)))
    if stages < 1 or seeds < 1:
        raise UserError(f"parameter randomisation needs stages, seeds >= 1, not {stages}, {seeds}")


def cascade(
    model: nn.Module, stages: int, stream: str, statistics: bool = False, order: Order = "top_down"
) -> Iterator[nn.Module]:
    """A copy of `model` at each of `stages` steps (at most one a layer) of re-initialising its layers.

    Layers are taken in equal groups in the order in which the model registers them: from the output down (`top_down`)
    or from the input up (`bottom_up`), each step on top of the last; or from the output down, all other layers as they
    were trained (`independent`).

    Every parameter changes: those of a module by its own `reset_parameters`; class and position tokens, layer scale
    and whatever else no such method covers by normal draws of the same mean and spread. Each layer has a stream of
    its own, named by (`stream`, its name). It is one copy that changes on, so use it before asking for the next.

    Args:
        statistics: also reset the running statistics of batch norm.

    Raises:
        NotApplicable: the model has no parameters.
    """
    device = next((parameter.device for parameter in model.parameters()), None)
    if device is None:
        raise NotApplicable("the model has no parameters to randomise")
    copy = deepcopy(model).cpu()  # where its draws are the same, whatever the device
    layers = [(name, module) for name, module in copy.named_modules() if list(module.parameters(recurse=False))]
    if order != "bottom_up":
        layers.reverse()
    trained = deepcopy(copy.state_dict()) if order == "independent" else None
    stages, done = min(stages, len(layers)), 0
    for stage in range(1, stages + 1):
        until = round(stage * len(layers) / stages)
        if trained is not None:
            copy.load_state_dict(trained)
        for name, module in layers[done:until]:
            _reset(module, randomness.integer("cascade", stream, name), statistics)
        done = until
        yield copy if device.type == "cpu" else deepcopy(copy).to(device)


def outputs(copies: Iterable[nn.Module], batch: Batch) -> Mapping[str, Tensor]:
    """What each copy answers to the images and to their baselines, `(N, copies, K)`: the same for every method."""
    answers = [seen(copy, batch) for copy in copies]
    return {
        "logits": torch.stack([answer.logits for answer in answers], 1),
        "baseline_logits": torch.stack([answer.baseline_logits for answer in answers], 1),
    }


def again(
    copies: Iterable[nn.Module], batch: Batch, explain: Explain, outputs: Mapping[str, Tensor]
) -> Iterator[Tensor]:
    """Maps `(N, C, H, W)` of `batch` for each copy, given the `outputs` of all of them."""
    for place, copy in enumerate(copies):
        logits, absent = outputs["logits"][:, place], outputs["baseline_logits"][:, place]
        yield explain(copy, replace(batch, logits=logits, baseline_logits=absent))


def seen(model: nn.Module, batch: Batch) -> Batch:
    """`batch` with the outputs of `model`, which methods may read instead of computing them again."""
    # Clones, since what was made in inference mode cannot be differentiated through.
    logits, absent = (passes.logits(model, images, batch.chunk).clone() for images in (batch.inputs, batch.baseline))
    return replace(batch, logits=logits, baseline_logits=absent)


@torch.no_grad()
def _reset(module: nn.Module, key: int, statistics: bool) -> None:
    """Re-initialise the parameters that `module` owns, from a stream of its own; the global generator is put back."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
    before = {name: parameter.clone() for name, parameter in module.named_parameters(recurse=False)}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key)
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        for name, parameter in module.named_parameters(recurse=False):
            if torch.equal(parameter, before[name]):
                spread = before[name].std() if parameter.numel() > 1 else before[name].abs()
                spread = spread if spread > 0 else before[name].abs().mean() + 1e-3
                parameter.copy_(before[name].mean() + spread * torch.randn_like(parameter))
    if not statistics:
        for name, buffer in module.named_buffers(recurse=False):
            buffer.copy_(buffers[name])
