"""Sums over draws of an image (steps, noise, masks), in passes that mix images and draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark import passes


def summed(share: Callable[[Tensor, Tensor], Tensor], like: Tensor, draws: int, chunk: int) -> Tensor:
    """`total[i] = sum_d share(i, d)`, of the shape, dtype and device of `like (N, ...)`.

    `share(image, draw)` gets the indices `(P,)` of at most `chunk` pairs and returns `(P, ...)`. The pairs run image by
    image and are added in place, so memory does not grow with `draws`, passes are full also for a single image, and an
    image's shares are added in the order of its draws whatever the batch.
    """
    total = torch.zeros_like(like)

    def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
        pair = torch.arange(start, stop, device=like.device)
        image, draw = pair // draws, pair % draws
        return image, share(image, draw)

    for image, value in passes.chunked(part, len(like) * draws, chunk):
        total.index_add_(0, image, value)
    return total
