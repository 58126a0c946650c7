"""Extremal perturbations: the smooth mask of a given area under which the target logit is largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from benchmark import passes, randomness
from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch, Method

_LEVELS = 8
_COLDNESS = 20.0
_RATE, _MOMENTUM = 0.01, 0.9
_AREA_WEIGHT, _GROWTH = 300.0, 1.0035**800


@dataclass(frozen=True)
class ExtremalPerturbation(Method):
    """Mean over areas a of masks `argmax_m z_t(x under m) - w |sort(m) - r_a|^2 / cells`, `(N, 1, H, W)` in [0, 1].

    r_a is 0 for the first `1 - a` of the sorted values and 1 for the rest. A mask is the smooth maximum
    `sum_v g_v softmax(20 g_v)` of `g_v = k(u - v) p_v` over the cells v near u, where p in [0, 1] is what is optimised
    and `k(r) = exp(-2 max(r / sigma - 1/2, 0)^2)`. It is taken on the grid of cells and then upsampled bilinearly,
    where the authors' code takes it at every pixel: what is upsampled is as smooth and costs no more than the passes.
    A pixel of mask 1 stays as it is, of 0 is perturbed most, between them less, along a row of images in between.

    As in that code the mask is found by gradient ascent with rate 0.01 and momentum 0.9 (dampened), while w grows from
    300 by 1.0035 a step of 800, here by as much in all for another number of steps; only preservation is played, and
    nothing is flipped on the way. The masks start from 1 less up to 0.01, drawn for each cell: among equal values the
    area term would choose by raster order.

    Source: Fong, Patrick & Vedaldi 2019, arXiv:1910.08485, and their package TorchRay.

    Attributes:
        areas: of the masks, as fractions of the image.
        steps: of the ascent for each area.
        perturbation: `blur`, Gaussian blurs up to `blur`, or `baseline`, a blend with the batch's baseline.
        cell: side of a cell, as a fraction of the image's shorter side.
        sigma: radius of the kernel k, likewise.
        blur: standard deviation of the strongest blur, likewise.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: no gradient reaches the input.

    Example:
        >>> ExtremalPerturbation(areas=(0.05, 0.1), steps=400).passes
        1600
    """

    stochastic = True
    needs_gradient = True

    areas: Sequence[float] = (0.1,)
    steps: int = 800
    perturbation: Literal["blur", "baseline"] = "blur"
    cell: float = 7 / 224
    sigma: float = 21 / 224
    blur: float = 20 / 224

    def __post_init__(self) -> None:
        if not self.areas or not all(0 < area < 1 for area in self.areas):
            raise UserError(f"extremal perturbations need areas between 0 and 1, not {list(self.areas)}")
        if self.perturbation not in ("blur", "baseline"):
            raise UserError(f"unknown perturbation {self.perturbation!r}: expected blur or baseline")
        if self.steps < 1 or not 0 < min(self.cell, self.sigma, self.blur) <= max(self.cell, self.sigma, self.blur) < 1:
            given = f"{self.steps}, {self.cell}, {self.sigma} and {self.blur}"
            raise UserError(f"extremal perturbations need steps >= 1 and cell, sigma and blur in (0, 1), not {given}")

    @property
    def passes(self) -> int:
        return 2 * self.steps * len(self.areas)

    def within(self, passes: int) -> Self:
        return replace(self, steps=max(1, passes // (2 * len(self.areas))))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        count = len(self.areas)

        def part(start: int, stop: int) -> Tensor:
            pair = torch.arange(start, stop, device=batch.inputs.device)
            return self._masks(model, batch, pair // count, pair % count)

        with torch.no_grad():
            masks = torch.cat(list(passes.chunked(part, len(batch) * count, batch.chunk)))
        return masks.view(len(batch), count, *batch.inputs.shape[2:]).mean(1, keepdim=True)

    def _masks(self, model: nn.Module, batch: Batch, image: Tensor, place: Tensor) -> Tensor:
        """The masks `(R, 1, H, W)` of the images at `image (R,)` for the areas at `place (R,)`."""
        size, dtype = batch.inputs.shape[2:], batch.inputs.dtype
        step = max(1, round(self.cell * min(size)))
        height, width = (math.ceil(side / step) for side in size)
        keys = batch.keys("extremal_perturbation")[image, 0]
        points = 1 - 0.01 * randomness.uniform(keys, 1, height, width).to(dtype)
        reference = self.reference(height * width).to(batch.inputs)[place]
        row, velocity = self.row(batch, image), torch.zeros_like(points)
        for turn in range(self.steps):
            weight = _AREA_WEIGHT * _GROWTH ** (turn / self.steps)
            with torch.enable_grad():
                leaf = points.requires_grad_()
                mask = self.smooth(leaf, step, min(size))
                score = passes.class_scores(model(_perturbed(row, _upsampled(mask, size))), batch.targets[image])
                if not score.requires_grad:
                    raise NotApplicable("the model's output carries no gradient to its input")
                gap = (mask.flatten(1).sort(dim=1, stable=True).values - reference).square().mean(1)
                gradient = torch.autograd.grad((weight * gap - score).sum(), leaf)[0]
            velocity = torch.lerp(gradient, velocity, _MOMENTUM) if turn else gradient
            points = (points.detach() - _RATE * velocity).clamp_(0, 1)
        return _upsampled(self.smooth(points, step, min(size)), size)

    def reference(self, cells: int) -> Tensor:
        """What sorted masks of the right areas would be: `(areas, cells)`."""
        zeros = torch.tensor([int(cells * (1 - area)) for area in self.areas])
        return (torch.arange(cells) >= zeros.unsqueeze(1)).double()

    def smooth(self, points: Tensor, step: int, side: int) -> Tensor:
        """The smooth maximum of `points (R, 1, h, w)`, cells of `step` pixels in an image of `side` pixels."""
        reach = 1 + math.ceil(self.sigma * side / step)
        offset = torch.arange(-reach, reach + 1, dtype=points.dtype, device=points.device) * step
        distance = torch.hypot(offset.unsqueeze(1), offset) / (self.sigma * side)
        kernel = torch.exp(-2 * (distance - 0.5).clamp(min=0).square()).view(1, -1, 1)
        near = kernel * nn.functional.unfold(points, len(offset), padding=reach)
        return (near * (_COLDNESS * near).softmax(1)).sum(1).view_as(points)

    def row(self, batch: Batch, image: Tensor) -> Tensor:
        """Images from the most perturbed to the image itself: `(R, levels, C, H, W)`."""
        inputs = batch.inputs[image]
        if self.perturbation == "baseline":
            return torch.stack([batch.baseline[image], inputs], 1)
        strongest = self.blur * min(inputs.shape[2:])
        blurred = [_blurred(inputs, strongest * (1 - level / (_LEVELS - 1))) for level in range(_LEVELS - 1)]
        return torch.stack([*blurred, inputs], 1)


def _upsampled(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """Cells `(R, 1, h, w)` as pixels `(R, 1, H, W)`; the last cells may jut out of the image."""
    step = math.ceil(size[0] / mask.shape[2]), math.ceil(size[1] / mask.shape[3])
    whole = (mask.shape[2] * step[0], mask.shape[3] * step[1])
    return nn.functional.interpolate(mask, whole, mode="bilinear", align_corners=False)[:, :, : size[0], : size[1]]


def _perturbed(row: Tensor, mask: Tensor) -> Tensor:
    """The images of `row (R, levels, C, H, W)` at `mask (R, 1, H, W)`, linear between levels."""
    place = mask * (row.shape[1] - 1)
    level = place.detach().long().clamp_(max=row.shape[1] - 2)
    index = level.unsqueeze(1).expand(-1, 1, *row.shape[2:])
    below, above = row.gather(1, index).squeeze(1), row.gather(1, index + 1).squeeze(1)
    return torch.lerp(below, above, place - level)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `images (R, C, H, W)`, whose border pixels go on beyond the border."""
    reach = math.ceil(4 * sigma)
    offset = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    line = torch.exp(-(offset / sigma).square() / 2)
    line = (line / line.sum()).expand(images.shape[1], 1, 1, -1)
    wide = nn.functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    across = nn.functional.conv2d(wide, line, groups=images.shape[1])
    return nn.functional.conv2d(across, line.mT, groups=images.shape[1])
