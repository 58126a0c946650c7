"""From images in pixel space to a frozen `Batch`: the one place where targets and baselines are decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import UserError
from benchmark.protocols import Batch

Baseline = Literal["black", "white", "grey", "mean"]
Explained = Literal["predicted", "label"]
_CONSTANTS = {"black": 0.0, "white": 1.0, "grey": 0.5}


def baseline_pixels(pixels: Tensor, kind: Baseline) -> Tensor:
    """What stands for an absent pixel, in pixel space [0, 1]: a constant, or each image's own mean colour."""
    if kind == "mean":
        return pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    if kind in _CONSTANTS:
        return torch.full_like(pixels, _CONSTANTS[kind])
    raise UserError(f"unknown baseline {kind!r}: expected {', '.join(_CONSTANTS)} or mean")


def freeze(
    network: nn.Module,
    pixels: Tensor,
    uids: Sequence[str],
    *,
    normalise: Callable[[Tensor], Tensor] = lambda pixels: pixels,
    labels: Tensor | None = None,
    masks: Tensor | None = None,
    explain: Explained = "predicted",
    baseline: Baseline = "mean",
    seed: int = 0,
    chunk: int = 64,
) -> Batch:
    """A batch from `pixels (N, C, H, W)` in [0, 1]: normalised, with its baseline, its targets and both outputs fixed.

    Args:
        network: in eval mode; its own prediction is the target when `explain` is `predicted`.
        labels: `(N,)`, the target when `explain` is `label`.
        normalise: from pixel space to what `network` wants; the baseline is chosen before it, so black is black.

    Raises:
        UserError: `explain` is `label` and there are none, or a label that the network has no output for.
    """
    inputs, absent = normalise(pixels), normalise(baseline_pixels(pixels, baseline))
    outputs = passes.logits(network, torch.cat([inputs, absent]), chunk).clone()
    logits, baseline_logits = outputs.split(len(inputs))
    if explain == "predicted":
        targets = logits.argmax(1)
    elif labels is None:
        raise UserError("explain=label needs labels and this data set has none: use explain=predicted")
    elif int(labels.max()) >= logits.shape[1]:
        raise UserError(f"label {int(labels.max())} has no output in a model of {logits.shape[1]} classes")
    else:
        targets = labels.to(logits.device)
    return Batch(inputs, targets, tuple(uids), absent, logits, baseline_logits, masks, seed, chunk)
