"""From images in pixel space to a frozen `Batch`: the one place where targets and baselines are decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from benchmark import baselines, passes
from benchmark.baselines import Baseline
from benchmark.errors import UserError
from benchmark.protocols import Batch

Explained = Literal["predicted", "label"]


def freeze(
    network: nn.Module,
    pixels: Tensor,
    uids: Sequence[str],
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    labels: Tensor | None = None,
    masks: Tensor | None = None,
    parts: Tensor | None = None,
    part_names: Sequence[str] = (),
    empty: Tensor | None = None,
    truth: Tensor | None = None,
    explain: Explained = "predicted",
    baseline: Baseline = "mean",
    seed: int = 0,
    chunk: int = 64,
) -> Batch:
    """A batch from `pixels (N, C, H, W)` in [0, 1]: normalised, with its baseline, its targets and both outputs fixed.

    Args:
        network: in eval mode; its own prediction is the target when `explain` is `predicted`.
        labels: `(N,)`, the target when `explain` is `label`.
        parts: `(N, H, W)`, see `Batch`.
        part_names: see `Batch`.
        empty: `(N, C, H, W)` in [0, 1], see `Batch`.
        truth: `(N, K, H, W)`, see `Batch`.
        mean: of each channel, or one for all, subtracted before the network.
        std: likewise, divided by.

    Raises:
        UserError: `explain` is `label` and there are none, or a label that the network has no output for; no such
            baseline.
    """
    nothing = pixels.new_empty(len(pixels), 0)
    fixed: dict[str, Any] = {
        "masks": masks,
        "parts": parts,
        "part_names": tuple(part_names),
        "truth": truth,
        "seed": seed,
        "chunk": chunk,
        "mean": tuple(mean),
        "std": tuple(std),
    }
    bare = Batch(pixels, nothing, tuple(uids), pixels, nothing, nothing, **fixed)
    drawn = None if empty is None else bare.normalise(empty)
    bare = replace(bare, inputs=bare.normalise(pixels), empty=drawn)
    absent = baselines.image(bare, baseline)
    logits, baseline_logits = (passes.logits(network, images, chunk).clone() for images in (bare.inputs, absent))
    if explain == "predicted":
        targets = logits.argmax(1)
    elif labels is None:
        raise UserError("explain=label needs labels and this data set has none: use explain=predicted")
    elif int(labels.max()) >= logits.shape[1]:
        raise UserError(f"label {int(labels.max())} has no output in a model of {logits.shape[1]} classes")
    else:
        targets = labels.to(logits.device)
    return replace(bare, targets=targets, baseline=absent, logits=logits, baseline_logits=baseline_logits)


def split(batch: Batch, size: int) -> tuple[Batch, ...]:
    """Batches of `size` images that share the memory of `batch` and know that they are a part of it."""
    return tuple(batch.select(slice(at, at + size)) for at in range(0, len(batch), size))
