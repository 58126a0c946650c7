"""RISE: the masks under which the model still sees its class, averaged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import passes, randomness
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._pairs import summed


@dataclass(frozen=True)
class RISE(Method):
    """`sum_m p_t(x * m + b * (1 - m)) m / (masks * keep)` with the softmax probability p; `(N, 1, H, W)`, not negative.

    A mask m is a grid of `cells x cells` zeros and ones, one with probability `keep`, upsampled bilinearly to one cell
    more than the image and cropped at a random shift. Every image has masks of its own. The authors' `b` is zero in
    normalised space; here it is the batch's baseline.

    Source: Petsiuk, Das & Saenko 2018, arXiv:1806.07421.

    Attributes:
        masks: number of masks an image.
        cells: side of the grid.
        keep: probability that a cell stays visible.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> RISE(masks=4000).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    stochastic = True

    masks: int = 1000
    cells: int = 7
    keep: float = 0.5

    def __post_init__(self) -> None:
        if self.masks < 1 or self.cells < 1 or not 0 < self.keep <= 1:
            raise UserError(
                f"RISE needs masks >= 1, cells >= 1 and 0 < keep <= 1, not {self.masks}, {self.cells} and {self.keep}"
            )

    @property
    def passes(self) -> int:
        return self.masks

    def within(self, passes: int) -> Self:
        return replace(self, masks=max(1, passes))

    def draw(self, keys: Tensor, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Masks `(M, 1, H, W)` in [0, 1], one for each of `keys (M,)`."""
        numbers = randomness.uniform(keys, self.cells**2 + 2)
        mask = (numbers[:, :-2] < self.keep).to(dtype).view(-1, self.cells, self.cells)
        for side, shift in zip(size, numbers[:, -2:].unbind(1), strict=True):
            cell = -(-side // self.cells)
            # Bilinear upsampling is one matrix an axis, and cropping takes rows of it: no loop over masks.
            identity = torch.eye(self.cells, dtype=dtype, device=keys.device).unsqueeze(0)
            upsample = nn.functional.interpolate(identity, (self.cells + 1) * cell, mode="linear")[0].T
            crop = (shift * cell).long().unsqueeze(1) + torch.arange(side, device=keys.device)
            mask = (upsample[crop] @ mask).transpose(1, 2)
        return mask.unsqueeze(1)

    @torch.no_grad()
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, keys = batch.inputs, batch.keys("rise", self.masks)
        size = (inputs.shape[2], inputs.shape[3])

        def share(image: Tensor, draw: Tensor) -> Tensor:
            mask = self.draw(keys[image, draw], size, inputs.dtype)
            logits = model(torch.lerp(batch.baseline[image], inputs[image], mask))
            return passes.class_scores(logits, batch.targets[image], "prob").view(-1, 1, 1, 1) * mask

        return summed(share, inputs[:, :1], self.masks, batch.chunk) / (self.masks * self.keep)
