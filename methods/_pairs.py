"""Sums and moments over draws of an image (steps, noise, masks), in passes that mix images and draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark import passes


def summed(
    share: Callable[[Tensor, Tensor], Tensor], like: Tensor, draws: int, chunk: int, at: torch.device | None = None
) -> Tensor:
    """`total[i] = sum_d share(i, d)`, of the shape, dtype and device of `like (N, ...)`.

    `share(image, draw)` gets the indices `(P,)` of at most `chunk` pairs and returns `(P, ...)`. The pairs run image by
    image and are added in place, so memory does not grow with `draws`, passes are full also for a single image, and an
    image's shares are added in the order of its draws whatever the batch. The indices are on the device of `like`, or
    on `at`, where that holds what they look up.
    """
    total = torch.zeros_like(like)

    def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
        pair = torch.arange(start, stop, device=at or like.device)
        image, draw = pair // draws, pair % draws
        return image, share(image, draw)

    for image, value in passes.chunked(part, len(like) * draws, chunk):
        total.index_add_(0, image.to(like.device), value)
    return total


def moments(
    share: Callable[[Tensor, Tensor], Tensor], like: Tensor, draws: int, chunk: int, at: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and variance of `share(i, d)` over the draws d of each image, `(N, ...)` of whatever shape a share has.

    `share`, `chunk` and `at` are as in `summed`; `like` says how many images there are and where. The variance is the
    mean squared deviation (1 / draws), taken about the first draw, so that no digits cancel and equal shares have none.
    """
    sums: list[Tensor] = []

    def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
        pair = torch.arange(start, stop, device=at or like.device)
        value = share(pair // draws, pair % draws)
        if not sums:
            sums.extend(value.new_zeros(len(like), *value.shape[1:]) for _ in range(4))
        opening = value[-start % draws :: draws]  # the first draw of each image that begins in this chunk
        sums[0].narrow(0, -(-start // draws), len(opening)).copy_(opening)
        return (pair // draws).to(like.device), value

    for image, value in passes.chunked(part, len(like) * draws, chunk):
        first, total, gaps, squares = sums
        gap = value - first[image]
        total.index_add_(0, image, value)
        gaps.index_add_(0, image, gap)
        squares.index_add_(0, image, gap.square_())
    _, total, gaps, squares = sums
    return total / draws, (squares / draws - (gaps / draws).square()).clamp_(min=0)
