"""Noisy copies of images, the same for every method, and what is made of the maps of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from benchmark import randomness
from benchmark.errors import UserError, unknown
from benchmark.protocols import Batch

Moment = Literal["mean", "square", "variance"]
"""What is made of the maps of an image's noisy copies, value by value: their mean, the mean of their squares, or the
variance, 1 / n times the sum of squared deviations (as in captum; the unbiased one is n / (n - 1) times as large)."""


def check_noise(what: str, samples: int, noise: float, moment: str = "mean") -> None:
    """Refuse options that no noise can be drawn by.

    Raises:
        UserError: with what `what` needs.
    """
    if moment not in get_args(Moment):
        raise UserError(unknown("moment ", moment, get_args(Moment)))
    if samples < least(moment) or noise < 0:
        of = f" for the {moment}" if moment == "variance" else ""
        raise UserError(f"{what} needs samples >= {least(moment)}{of} and noise >= 0, not {samples} and {noise}")


def least(moment: str) -> int:
    """Fewest samples that have this moment: one has no variance."""
    return 2 if moment == "variance" else 1


def noisy(batch: Batch, samples: int, noise: float) -> Callable[[Tensor, Tensor], Tensor]:
    """`copies(image, draw)`: `x + e` with `e ~ N(0, (noise * (max x - min x))^2)` for indices `(P,)`: `(P, C, H, W)`.

    Extremes are of each image, over all of its channels. Draw d of an image is the same in every method.
    """
    inputs, keys = batch.inputs, batch.keys("smoothgrad", samples)
    width = noise * (inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True))

    def copies(image: Tensor, draw: Tensor) -> Tensor:
        if not noise:
            return inputs[image]
        return inputs[image] + width[image] * randomness.normal(keys[image, draw], *inputs.shape[1:]).to(inputs.dtype)

    return copies


def chosen(moment: str, mean: Tensor, variance: Tensor) -> Tensor:
    """The moment that is asked for, from the first and the second."""
    if moment == "variance":
        return variance
    return mean.square() + variance if moment == "square" else mean
