"""What stands for an absent pixel: one choice for all methods and metrics, made in pixel space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from benchmark import passes, randomness
from benchmark.errors import NotApplicable, UserError, unknown
from benchmark.imputation import impute
from benchmark.protocols import Batch

Baseline = Literal["zero", "black", "white", "grey", "mean", "blur", "uniform", "sample", "empty"]
"""An image without information.

zero: 0 in the model's normalised space, so the mean colour of what it was trained on. black, white, grey: 0, 1 and 1/2
in pixel space. mean: each image's own mean colour. blur: the image under RISE's window of 11 x 11 pixels, a Gaussian of
sigma 5 whose tails are folded back into the window, with the model's mean colour beyond the borders. uniform:
independent uniform pixels. sample: another image of the data set. empty: the scene drawn without its parts, where the
data set draws its images.
"""

Fill = Literal["shared", "zero", "black", "white", "grey", "mean", "blur", "uniform", "sample", "empty", "nli"]
"""What a metric puts in place of pixels: a `Baseline`, `shared` for the one that the data set's choice fixed for all
methods and metrics, or `nli`, noisy linear imputation of the missing from what is left (Rong et al. 2022)."""

_CONSTANTS = {"black": 0.0, "white": 1.0, "grey": 0.5}


def check_fill(kind: str) -> None:
    """Refuse a baseline that there is not.

    Raises:
        UserError: with those that there are.
    """
    if kind not in get_args(Fill):
        raise UserError(unknown("baseline ", kind, get_args(Fill)))


def image(batch: Batch, kind: Baseline) -> Tensor:
    """The baseline of each image of `batch`, normalised: `(N, C, H, W)`.

    Raises:
        UserError: there is no such baseline, or `sample` finds no other image in the data set.
    """
    inputs = batch.inputs
    if kind == "zero":
        return torch.zeros_like(inputs)
    if kind == "mean":
        return inputs.mean((2, 3), keepdim=True).expand_as(inputs).clone()
    if kind == "blur":
        return _blurred(inputs)
    if kind == "sample":
        return _samples(batch)
    if kind == "empty":
        if batch.empty is None:
            raise NotApplicable("the data set does not draw its scenes without their parts (baseline empty)")
        return batch.empty
    if kind == "uniform":
        pixels = randomness.uniform(batch.keys("baseline")[:, 0], *inputs.shape[1:]).to(inputs.dtype)
    elif kind in _CONSTANTS:
        pixels = torch.full_like(inputs, _CONSTANTS[kind])
    elif kind == "nli":
        raise UserError("baseline nli fills in from what is left, so it is an option of metrics and no image by itself")
    else:
        raise UserError(unknown("baseline ", kind, get_args(Baseline)))
    return batch.normalise(pixels)


@dataclass(frozen=True)
class Absence:
    """Takes pixels of the images of a batch away.

    Attributes:
        batch: the images.
        fill: what takes the place of absent pixels.
        image: `(N, C, H, W)`, what is left where all are absent, before the noise of nli.
    """

    batch: Batch
    fill: Fill
    image: Tensor

    @classmethod
    def of(cls, batch: Batch, fill: Fill) -> Absence:
        if fill == "shared":
            return cls(batch, fill, batch.baseline)
        return cls(batch, fill, image(batch, "mean" if fill == "nli" else fill))

    def without(self, row: Tensor, gone: Tensor) -> Tensor:
        """The images at `row (R,)` without the pixels of `gone (R, H, W)`: `(R, C, H, W)`."""
        if self.fill == "nli":
            return impute(self.batch.inputs[row], gone, self.image[row], self.batch.keys("imputation")[row, 0])
        return torch.where(gone.unsqueeze(1), self.image[row], self.batch.inputs[row])

    def logits(self, model: nn.Module) -> Tensor:
        """`(N, K)` output where all pixels are absent: no pass for the shared baseline, one an image for another."""
        if self.fill == "shared":
            return self.batch.baseline_logits
        everything = torch.ones_like(self.image[:, 0], dtype=torch.bool)
        absent = self.without(torch.arange(len(everything), device=everything.device), everything)
        return passes.logits(model, absent, self.batch.chunk)


def _blurred(inputs: Tensor, size: int = 11, sigma: float = 5.0) -> Tensor:
    reach = 4 * round(sigma)
    offset = torch.arange(-reach, reach + 1, device=inputs.device)
    place = (offset + size // 2) % (2 * size)
    folded = torch.where(place < size, place, 2 * size - 1 - place)
    tail = torch.exp(-offset.to(inputs.dtype).square() / (2 * sigma**2))
    line = torch.zeros(size, dtype=inputs.dtype, device=inputs.device).index_add_(0, folded, tail / tail.sum())
    channels, margin = inputs.shape[1], size // 2
    down, across = line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)
    rows = nn.functional.conv2d(inputs, down.expand(channels, 1, -1, 1), padding=(margin, 0), groups=channels)
    return nn.functional.conv2d(rows, across.expand(channels, 1, 1, -1), padding=(0, margin), groups=channels)


def _samples(batch: Batch) -> Tensor:
    """Another image of the data set for each, chosen by its uid and not by its place in the batch."""
    whole = batch.whole or batch
    order = sorted(range(len(whole)), key=whole.uids.__getitem__)
    if len(order) < 2:
        raise UserError("baseline sample needs a second image in the data set")
    place = {whole.uids[index]: position for position, index in enumerate(order)}
    draw = (randomness.uniform(batch.keys("baseline")[:, 0]).double() * (len(order) - 1)).long().tolist()
    own = [place[uid] for uid in batch.uids]
    chosen = [order[other + (other >= mine)] for other, mine in zip(draw, own, strict=True)]
    return whole.inputs[chosen].to(batch.inputs.device)
