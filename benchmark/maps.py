"""What is done to a map before anybody looks at it: one value a pixel, one rank a unit, tokens laid out as a grid."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.errors import UserError

Reduce = Literal["sum", "abs_sum", "l2", "max"]

_MOST_PREFIX_TOKENS = 16  # class, distillation and register tokens stand before the patches


def check_reduce(how: str) -> None:
    """Refuse a reduction that `reduce_channels` does not know.

    Raises:
        UserError: with those that it knows.
    """
    if how not in get_args(Reduce):
        raise UserError(f"unknown channel reduction {how!r}: expected {', '.join(get_args(Reduce))}")


def reduce_channels(attributions: Tensor, how: Reduce = "sum") -> Tensor:
    """One value a pixel: `(N, C, H, W)` to `(N, H, W)` by signed sum, sum of magnitudes, Euclidean norm or maximum."""
    if how == "sum":
        return attributions.sum(1)
    if how == "abs_sum":
        return attributions.abs().sum(1)
    if how == "l2":
        return attributions.norm(dim=1)
    check_reduce(how)
    return attributions.amax(1)


def descending_ranks(values: Tensor, keys: Tensor) -> Tensor:
    """Rank of each unit, 0 for the largest value: `(N, d)`; ties fall as a hash of (key, unit) says.

    `keys (N,)` come from `Batch.keys`, so a tie is broken the same way in every batch, and never by raster order.
    """
    hashed = randomness.uniform(keys, values.shape[1])
    if values.dtype == torch.float64:
        shuffle = hashed.sort(dim=1, stable=True).indices
        order = shuffle.gather(1, values.gather(1, shuffle).sort(dim=1, descending=True, stable=True).indices)
    else:  # value and hash in one whole number, so that one sort is enough: the bits of a float32 order as it does
        bits = (values.float() + 0.0).view(torch.int32)  # + 0 because -0 and 0 are equal
        rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
        order = ((-rising << 24) + (hashed * 2**24).long()).sort(dim=1, stable=True).indices
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def average_ranks(values: Tensor) -> Tensor:
    """Ascending ranks along the last dimension, tied values sharing the mean of theirs (Spearman's convention)."""
    ordered, order = values.sort(-1)
    place = torch.arange(values.shape[-1], device=values.device).expand_as(order)
    differs = ordered.diff(dim=-1) != 0
    begins, ends = nn.functional.pad(differs, (1, 0), value=True), nn.functional.pad(differs, (0, 1), value=True)
    first = place.where(begins, 0).cummax(-1).values
    last = place.where(ends, values.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    return torch.empty_like(first, dtype=torch.float64).scatter_(-1, order, (first + last).double() / 2)


def prefix_tokens(model: nn.Module) -> int:
    """Class and register tokens before the patches, as timm models (also wrapped ones) state it, otherwise 0."""
    for module in model.modules():
        if isinstance(count := getattr(module, "num_prefix_tokens", None), int):
            return count
    return 0


def fits(height: int, width: int, size: tuple[int, int]) -> bool:
    """Whether a grid of more than one place has the aspect ratio of an image of `size`, up to a part of a place."""
    return height * width > 1 and abs(height * size[1] - width * size[0]) < max(size)


def token_grid(tokens: int, size: tuple[int, int], prefix: int = 0) -> tuple[int, int, int] | None:
    """`(p, h, w)` with `tokens = p + h * w` and the grid at the aspect ratio of `size`, if there is one.

    p is `prefix` if the rest is then a grid, otherwise the smallest up to 16 that leaves one.
    """
    for drop in (prefix, *range(_MOST_PREFIX_TOKENS + 1)):
        places = max(tokens - drop, 0)
        height = round(math.sqrt(places * size[0] / size[1]))
        width = places // height if height else 0
        if height * width == places and fits(height, width, size):
            return drop, height, width
    return None
