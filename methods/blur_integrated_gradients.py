"""Blur integrated gradients: the gradient along the path from the blurred image to the sharp one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._gradients import logit_gradient
from methods._pairs import summed


class Blur:
    """Images under Gaussians, pixels beyond the border being 0, as `scipy.ndimage.gaussian_filter(mode="constant")`.

    A Gaussian is sampled at whole pixels, cut off at 4 standard deviations and divided by its sum. The standard
    deviations are fixed beforehand: `sigmas (S,)`, in pixels, the last of them the largest.
    """

    def __init__(self, sigmas: list[float], like: Tensor) -> None:
        reach = int(4 * sigmas[-1] + 0.5)
        sigma = torch.tensor(sigmas, dtype=torch.float64, device=like.device).unsqueeze(1)
        offset = torch.arange(-reach, reach + 1, device=like.device)
        tail = torch.exp(-offset.square() / (2 * sigma.clamp(min=1e-6).square()))
        tail *= offset.abs() <= (4 * sigma + 0.5).floor()
        # One weight more, of 0, for pixels farther apart than any Gaussian reaches.
        self._weights = nn.functional.pad(tail / tail.sum(1, keepdim=True), (0, 1)).to(like.dtype)
        self._apart = [_apart(side, reach, like.device) for side in like.shape[2:]]

    def __call__(self, images: Tensor, which: Tensor) -> Tensor:
        """`images (P, C, H, W)`, each under the Gaussian at its place of `which (P,)`."""
        weights = self._weights[which]
        for apart in self._apart:  # of rows, then of columns
            images = images.transpose(2, 3)
            # One matrix product an image: the matrix is symmetric, and all lines of all channels go through it.
            images = (images.flatten(1, 2) @ weights[:, apart]).view(images.shape)
        return images


def _apart(side: int, reach: int, device: torch.device) -> Tensor:
    """Place, in a line of weights, of the distance between every two of `side` pixels: `(side, side)`."""
    pixel = torch.arange(side, device=device)
    distance = pixel - pixel.unsqueeze(1)
    return torch.where(distance.abs() <= reach, distance + reach, 2 * reach + 1)


@dataclass(frozen=True)
class BlurIntegratedGradients(Method):
    """`- integral_0^max d z_t / d L (L(s)) * d L(s) / d s ds`, signed, `(N, C, H, W)`, L(s) being x blurred by sigma s.

    Sums to z_t(x) - z_t(L(max)), up to the error of the integration, so to no difference from the batch's baseline. The
    path is the polygon through L at `steps` + 1 equally spaced sigmas, each side by the midpoint rule: exact for a
    quadratic model, and twice the steps leave a quarter of the error. The authors' code multiplies the gradient at the
    sharper end of each side by the slope of L there; both have one limit, which it nears more slowly.

    As in the authors' code sigma runs evenly, and beyond the border the image is 0 in the network's input space, which
    is the mean colour where that is subtracted; so a large blur also darkens or greys the borders.

    Source: Xu, Venugopalan & Sundararajan 2020, arXiv:2004.03383.

    Attributes:
        steps: gradients along the path, at least 1.
        max_sigma: of the blurriest image, as a fraction of the image's shorter side.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> BlurIntegratedGradients(steps=100).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    needs_gradient = True

    steps: int = 100
    max_sigma: float = 50 / 224

    def __post_init__(self) -> None:
        if self.steps < 1 or self.max_sigma <= 0:
            raise UserError(
                f"blur integrated gradients need steps >= 1 and max_sigma > 0, not {self.steps} and {self.max_sigma}"
            )

    @property
    def passes(self) -> int:
        return 2 * self.steps

    def within(self, passes: int) -> Self:
        return replace(self, steps=max(1, passes // 2))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, device = batch.inputs, batch.inputs.device
        largest = self.max_sigma * min(inputs.shape[2:])
        blur = Blur([largest * node / self.steps for node in range(self.steps + 1)], inputs)

        def share(image: Tensor, step: Tensor) -> Tensor:
            # A node is an image at a sigma; the sides of a polygon that lie here share theirs. The indices are on the
            # CPU, where asking for their values waits for nobody.
            before = image * (self.steps + 1) + step
            nodes = torch.arange(int(before[0]), int(before[-1]) + 2)
            path = blur(inputs[(nodes // (self.steps + 1)).to(device)], (nodes % (self.steps + 1)).to(device))
            sharper = (before - before[0]).to(device)
            sharp, blurry = path[sharper], path[sharper + 1]
            return (sharp - blurry) * logit_gradient(model, (sharp + blurry) / 2, batch.targets[image.to(device)])

        return summed(share, inputs, self.steps, batch.chunk, torch.device("cpu"))
