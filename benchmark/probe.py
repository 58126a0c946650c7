"""A few passes through a network that was just loaded: does it behave as every method and metric takes for granted?

Whatever would make a number wrong is refused; what only deserves to be known is a remark, filed with every record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError

_ROUNDING = 1e-3
"""How far the outputs of two passes may be apart by rounding alone, as a part of the largest output."""


@dataclass(frozen=True)
class Findings:
    """What a network turned out to be.

    Attributes:
        classes: how many logits it has.
        remarks: sentences on habits that change no number.
    """

    classes: int
    remarks: tuple[str, ...] = ()


def examine(name: str, network: nn.Module, images: Tensor) -> Findings:
    """What passes of `images (3, C, H, W)`, normalised and no two alike, show of a frozen `network` in eval mode.

    Raises:
        UserError: it does not take them; its output is no `(N, K)` of finite floats with K at least 2, or holds
            probabilities; two equal passes differ; an image depends on its company; a pass changes the network.
    """
    kept = {key: buffer.clone() for key, buffer in network.named_buffers()}
    first = _logits(name, network, images[:2])
    if _differ(first, _logits(name, network, images[:2])):
        raise UserError(
            f"{name} gives another output for the same images in every pass: "
            "something in it draws random numbers in eval mode, such as dropout that is always on"
        )
    _check_company(name, network, images, first)
    changed = [key for key, buffer in network.named_buffers() if not _same(buffer, kept.get(key))]
    if changed:
        raise UserError(f"a pass through {name} changes its buffer {changed[0]}: in eval mode nothing may be updated")
    if bool((first >= 0).all()) and bool(((first.sum(1) - 1).abs() < 1e-4).all()):
        raise UserError(
            f"the outputs of {name} are probabilities (at least 0, with sum 1), expected logits: leave its softmax out"
        )
    return Findings(first.shape[1], tuple(_remarks(network, images[:1])))


def _logits(name: str, network: nn.Module, images: Tensor) -> Tensor:
    """The output for a copy of `images`."""
    size = "x".join(map(str, images.shape[1:]))
    try:
        with torch.no_grad():
            output: Any = network(images.clone())
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name} does not take {len(images)} float32 images of {size} (models.size): {reason}"
        ) from error
    if not isinstance(output, Tensor):
        raise UserError(f"{name} returns a {type(output).__name__}, expected one tensor of logits (N, classes)")
    if output.dim() != 2 or len(output) != len(images) or output.shape[1] < 2:
        shape = f"{tuple(output.shape)} for {len(images)} images"
        raise UserError(f"{name} is no classifier of two or more classes: its output is {shape}, expected (N, classes)")
    if not output.is_floating_point():
        raise UserError(f"{name} returns numbers of type {output.dtype}, expected logits as floating point numbers")
    if not bool(output.isfinite().all()):
        raise UserError(f"{name} returns NaN or infinity for random images of {size}")
    return output.clone()


def _check_company(name: str, network: nn.Module, images: Tensor, first: Tensor) -> None:
    """Refuse a network that gives the first image another output beside another image, or alone."""
    sentence = (
        f"{name} gives an image another output in other company: "
        "in eval mode it may not use statistics of the batch, as batch norm without running statistics does"
    )
    try:
        alone = _logits(name, network, images[:1])
    except UserError as error:
        if "more than 1 value per channel" in str(error):  # what batch norm says that has no other statistics
            raise UserError(sentence) from error
        raise
    if _differ(first[:1], alone) or _differ(first[:1], _logits(name, network, images[[0, 2]])[:1]):
        raise UserError(sentence)


def _differ(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or bool((one - other).abs().max() > _ROUNDING * one.abs().max())


def _same(now: Tensor, before: Tensor | None) -> bool:
    return before is not None and now.shape == before.shape and torch.equal(now, before)


def _remarks(network: nn.Module, image: Tensor) -> list[str]:
    remarks = []
    if training := [key or type(module).__name__ for key, module in network.named_modules() if module.training]:
        remarks.append(f"{training[0]} stays in train mode, to no effect on the output")
    if wanting := [key for key, parameter in network.named_parameters() if parameter.requires_grad]:
        remarks.append(f"parameter {wanting[0]} still wants a gradient")
    with torch.enable_grad():
        given = image.clone().requires_grad_().clone()
        if not network(given).requires_grad:
            remarks.append("its output carries no gradient: methods that differentiate are not applicable")
    if not torch.equal(given, image):
        remarks.append("it writes to its input, so it is given copies")
    return remarks
