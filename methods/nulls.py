"""Null rows: maps that know nothing of the model. What they score is what a metric gives for free."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method


@dataclass(frozen=True)
class Random(Method):
    """Independent standard normal pixels, `(N, 1, H, W)`."""

    version = "2"
    role = "null"
    passes = 0
    class_agnostic = True
    stochastic = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return randomness.normal(batch.keys("random"), *batch.inputs.shape[2:]).to(batch.inputs.dtype)


@dataclass(frozen=True)
class Constant(Method):
    """One everywhere, `(N, 1, H, W)`: how a metric treats ties."""

    role = "null"
    passes = 0
    class_agnostic = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return torch.ones_like(batch.inputs[:, :1])


@dataclass(frozen=True)
class CentrePrior(Method):
    """`exp(-((y - y0)^2 / H^2 + (x - x0)^2 / W^2) / (2 sigma^2))` about the centre, `(N, 1, H, W)`.

    Attributes:
        sigma: width as a fraction of each side.

    Raises:
        UserError: `sigma` is not positive.
    """

    role = "null"
    passes = 0
    class_agnostic = True

    sigma: float = 0.25

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise UserError(f"the centre prior needs sigma > 0, not {self.sigma}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        bumps = []
        for side in batch.inputs.shape[2:]:
            offset = (torch.arange(side, device=batch.inputs.device) + 0.5).to(batch.inputs.dtype) / side - 0.5
            bumps.append(torch.exp(-0.5 * (offset / self.sigma) ** 2))
        return torch.outer(*bumps).repeat(len(batch), 1, 1, 1)


@dataclass(frozen=True)
class Sobel(Method):
    """`sqrt(gx^2 + gy^2)` of the mean of channels under Sobel's filters, borders repeated; `(N, 1, H, W)`: edges.

    Source: Sobel & Feldman 1968, as a null row by Adebayo et al. 2018, arXiv:1810.03292.
    """

    role = "null"
    passes = 0
    class_agnostic = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        grey = nn.functional.pad(batch.inputs.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        down = grey[..., :-2, :] + 2 * grey[..., 1:-1, :] + grey[..., 2:, :]
        across = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
        return torch.hypot(down[..., 2:] - down[..., :-2], across[..., 2:, :] - across[..., :-2, :])


@dataclass(frozen=True)
class InputMagnitude(Method):
    """`|x|` in the model's normalised space, `(N, C, H, W)`: what input x gradient has without the gradient."""

    role = "null"
    passes = 0
    class_agnostic = True

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return batch.inputs.abs()


@dataclass(frozen=True)
class Intensity(Method):
    """Mean of channels, `(N, 1, H, W)`, blurred where asked for: the brighter the higher.

    A blur averages out what is small and bright, so that the brightest place of some size wins.

    Attributes:
        sigma: width of the Gaussian blur as a fraction of each side, 0 for none.

    Raises:
        UserError: `sigma` is negative.
    """

    role = "null"
    passes = 0
    class_agnostic = True

    sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise UserError(f"intensity needs sigma >= 0, not {self.sigma}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        grey = batch.inputs.mean(1, keepdim=True)
        if self.sigma == 0:
            return grey
        blurs = []
        for side in batch.inputs.shape[2:]:
            place = torch.arange(side, device=grey.device).to(grey.dtype)
            kernel = torch.exp(-0.5 * ((place - place.unsqueeze(1)) / (self.sigma * side)) ** 2)
            blurs.append(kernel / kernel.sum(1, keepdim=True))
        down, across = blurs
        return down @ grey @ across.T


@dataclass(frozen=True)
class BlurredRandom(Method):
    """Gaussian-blurred noise, `(N, 1, H, W)`, every pixel standard normal: random blobs, as smooth as a CAM.

    The noise reaches three widths beyond the image, so that no border differs from the middle.

    Attributes:
        sigma: width of the blur as a fraction of each side.

    Raises:
        UserError: `sigma` is not positive.
    """

    version = "2"
    role = "null"
    passes = 0
    class_agnostic = True
    stochastic = True

    sigma: float = 0.0625

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise UserError(f"blurred noise needs sigma > 0, not {self.sigma}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        blurs = []
        for side in batch.inputs.shape[2:]:
            width = self.sigma * side
            margin = round(3 * width)
            to = torch.arange(side, device=batch.inputs.device).unsqueeze(1) + margin
            offset = torch.arange(side + 2 * margin, device=batch.inputs.device) - to
            kernel = torch.exp(-0.5 * (offset.to(batch.inputs.dtype) / width) ** 2)
            blurs.append(kernel / kernel.norm(dim=1, keepdim=True))
        down, across = blurs
        noise = randomness.normal(batch.keys("blurred_random"), down.shape[1], across.shape[1])
        return down @ noise.to(batch.inputs.dtype) @ across.T
