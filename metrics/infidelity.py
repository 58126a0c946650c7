"""Infidelity: how far a map is from predicting the change of the score under a perturbation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark import maps, passes, randomness
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores


@dataclass(frozen=True)
class Infidelity(Metric):
    """Expected squared error between I.phi and f(x) - f(x - I) over random perturbations I; lower is better, 0 at best.

    INFD(phi) = E[(beta I.phi - (f(x) - f(x - I)))^2], with beta = 1, and with the beta of each image that makes it
    smallest, beta* = E[(I.phi) delta] / E[(I.phi)^2] (0 where I.phi is always 0). The first punishes the scale of a
    map, so it describes and does not rank; the second forgives it.

    Attributes:
        perturbation: `square` swaps a random square for the baseline; I.phi is then the sum of the map over the
            square, so a map is read as contributions: a map of sensitivities has to be multiplied by x - b first, which
            is another method. `gaussian` adds I ~ N(0, sigma^2) to the normalised input; the
            best map is then exactly SmoothGrad(sigma), so this choice favours it by construction.
        samples: perturbations an image, the same for every method.
        side: of the square, as a fraction of the image's shorter side.
        sigma: of the Gaussian, in normalised units.
        output: the score f.
        reduce: channel reduction of the map, for `square`.

    Source: Yeh et al. 2019, arXiv:1901.09392.
    """

    perturbation: Literal["square", "gaussian"] = "square"
    samples: int = 100
    side: float = 0.25
    sigma: float = 0.1
    output: passes.Score = "logit"
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("beta_optimal", higher_is_better=False, range=(0.0, float("inf"))),
        Measure("beta_1", higher_is_better=False, range=(0.0, float("inf")), ranked=False),
    )

    def __post_init__(self) -> None:
        if self.perturbation not in ("square", "gaussian"):
            raise UserError(f"unknown perturbation {self.perturbation!r}: expected square or gaussian")
        passes.check_score(self.output)
        maps.check_reduce(self.reduce)
        if self.samples < 1 or not 0 < self.side <= 1 or self.sigma <= 0:
            raise UserError("infidelity needs samples >= 1, 0 < side <= 1 and sigma > 0")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Change of the score `(N, samples)`: it does not depend on the map."""
        keys = batch.keys("infidelity", self.samples)

        def perturbed(start: int, stop: int) -> Tensor:
            row = torch.arange(start, stop, device=keys.device)
            image, key = row // self.samples, keys.flatten()[row]
            inputs = batch.inputs[image]
            if self.perturbation == "square":
                top, left, side = self._corners(key, batch)
                inputs = torch.where(_inside(top, left, side, batch).unsqueeze(1), batch.baseline[image], inputs)
            else:
                inputs = inputs - self._noise(key, batch)
            return passes.class_scores(model(inputs), batch.targets[image], self.output)

        with torch.inference_mode():
            scores = torch.cat(list(passes.chunked(perturbed, keys.numel(), batch.chunk))).view(keys.shape)
        clean = passes.class_scores(batch.logits, batch.targets, self.output)
        return {"change": (clean[:, None] - scores).double()}

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        change = prepared["change"]
        predicted = self._products(batch, attributions)
        beta = (predicted * change).sum(1) / predicted.square().sum(1)
        beta = torch.where(predicted.square().sum(1) > 0, beta, 0.0)
        return Scores(
            {
                "beta_1": (predicted - change).square().mean(1),
                "beta_optimal": (beta[:, None] * predicted - change).square().mean(1),
            }
        )

    def _products(self, batch: Batch, attributions: Tensor) -> Tensor:
        """I.phi of every perturbation, `(N, samples)` in float64."""
        keys = batch.keys("infidelity", self.samples)
        if self.perturbation == "square":
            values = maps.reduce_channels(attributions, self.reduce).double()
            total = nn.functional.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))
            top, left, side = self._corners(keys, batch)
            image = torch.arange(len(batch), device=keys.device)[:, None]
            bottom, right = top + side, left + side
            return (
                total[image, bottom, right]
                - total[image, top, right]
                - total[image, bottom, left]
                + total[image, top, left]
            )
        channels = batch.inputs.shape[1]
        spread = (
            attributions if attributions.shape[1] == channels else attributions.expand(-1, channels, -1, -1) / channels
        )
        flat = spread.double().flatten(1)
        columns = [
            (self._noise(keys[:, draw], batch).double().flatten(1) * flat).sum(1) for draw in range(self.samples)
        ]
        return torch.stack(columns, 1)

    def _corners(self, keys: Tensor, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """Top, left and side in pixels of the square of each key; it lies wholly inside the image."""
        height, width = batch.inputs.shape[2:]
        side = max(1, round(self.side * min(height, width)))
        place = randomness.uniform(keys, 2)
        top = (place[..., 0] * (height - side + 1)).long()
        left = (place[..., 1] * (width - side + 1)).long()
        return top, left, side

    def _noise(self, keys: Tensor, batch: Batch) -> Tensor:
        return self.sigma * randomness.normal(keys, *batch.inputs.shape[1:]).to(batch.inputs.dtype)


def _inside(top: Tensor, left: Tensor, side: int, batch: Batch) -> Tensor:
    """True `(rows, H, W)` inside the square of each row."""
    height, width = batch.inputs.shape[2:]
    down, across = torch.arange(height, device=top.device), torch.arange(width, device=top.device)
    rows = (down >= top[:, None]) & (down < top[:, None] + side)
    columns = (across >= left[:, None]) & (across < left[:, None] + side)
    return rows[:, :, None] & columns[:, None, :]
