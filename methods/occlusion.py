"""Occlusion: how much of the target logit is lost when a window of the image is replaced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method


def windows(side: int, window: int, stride: int, device: torch.device | str | None = None) -> Tensor:
    """Which of `side` pixels each window covers, bool `(windows, side)`; the last is clipped where it juts out."""
    starts = torch.arange(0, max(side - window, 0) + stride, stride, device=device).unsqueeze(1)
    pixels = torch.arange(side, device=device)
    return (pixels >= starts) & (pixels < starts + window)


@dataclass(frozen=True)
class Occlusion(Method):
    """`mean over windows W that cover a pixel of (z_t(x) - z_t(x with W from the baseline)) / |W|`, `(N, 1, H, W)`.

    Each window's drop is spread evenly over its pixels, so that with windows and strides of one pixel an additive model
    gets exactly the contribution of each pixel, and windows side by side add up to the sum of their drops.

    Source: Zeiler & Fergus 2013, arXiv:1311.2901 (who show the occluded score itself).

    Attributes:
        window: side of the square, as a fraction of the image's shorter side; at least a pixel.
        stride: distance between windows, likewise; at most `window`, so that every pixel is covered.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> windows(5, window=3, stride=2).int().tolist()
        [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]
    """

    window: float = 0.25
    stride: float = 0.125

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window <= 1:
            given = f"stride {self.stride}, window {self.window}"
            raise UserError(f"occlusion needs 0 < stride <= window <= 1, as fractions of the image, not {given}")

    @torch.no_grad()
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = batch.inputs
        shorter = min(inputs.shape[2:])
        window, stride = (max(1, round(part * shorter)) for part in (self.window, self.stride))
        rows, columns = (windows(side, window, stride, inputs.device) for side in inputs.shape[2:])
        positions = len(rows) * len(columns)

        def part(start: int, stop: int) -> Tensor:
            pair = torch.arange(start, stop, device=inputs.device)
            image, position = pair // positions, pair % positions
            inside = rows[position // len(columns)].unsqueeze(2) & columns[position % len(columns)].unsqueeze(1)
            occluded = torch.where(inside.unsqueeze(1), batch.baseline[image], inputs[image])
            return passes.class_scores(model(occluded), batch.targets[image])

        scores = torch.cat(list(passes.chunked(part, len(batch) * positions, batch.chunk)))
        drops = passes.class_scores(batch.logits, batch.targets).unsqueeze(1) - scores.view(len(batch), positions)
        down, across = rows.to(inputs.dtype), columns.to(inputs.dtype)
        shares = drops.view(-1, len(rows), len(columns)) / torch.outer(down.sum(1), across.sum(1))
        return (down.T @ shares @ across / torch.outer(down.sum(0), across.sum(0))).unsqueeze(1)
