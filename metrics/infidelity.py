"""Infidelity: how far a map is from predicting the change of the score under a perturbation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from benchmark import baselines, maps, passes, randomness
from benchmark.baselines import Absence
from benchmark.errors import UserError, unknown
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._subsets import changes

Perturbation = Literal["square", "gaussian", "noisy_baseline"]


@dataclass(frozen=True)
class Infidelity(Metric):
    """Expected squared error between I.phi and f(x) - f(x - I) over random perturbations I; lower is better, 0 at best.

    INFD(phi) = E[(beta I.phi - (f(x) - f(x - I)))^2], with beta = 1, and with the beta of each image that makes it
    smallest, beta* = E[(I.phi) delta] / E[(I.phi)^2] (0 where I.phi is always 0). The first punishes the scale of a
    map, so it describes and does not rank; the second forgives it.

    Attributes:
        perturbation: `square` swaps a random square for the baseline; I.phi is then the sum of the map over the
            square, so a map is read as contributions: a map of sensitivities has to be multiplied by x - b first, which
            is another method. `gaussian` adds I ~ N(0, sigma^2) to the normalised input; the best map is then exactly
            SmoothGrad(sigma), so this choice favours it by construction. `noisy_baseline` swaps the whole image for the
            baseline with that noise, so I = x - b + N(0, sigma^2). These two read a map as sensitivities, and one value
            a pixel as equal parts for its channels. No pixel is clipped to the valid range, as the authors' code does
            it, so that E[I I'] and with it the best map are formulas.
        samples: perturbations an image, the same for every method.
        side: of the square, as a fraction of the image's shorter side.
        sigma: of the noise, in normalised units; the authors' noisy baseline has 0.2.
        output: the score f.
        baseline: what the square, or the whole image, is swapped for; see `Units`.
        reduce: channel reduction of the map, for `square`.

    Source: Yeh et al. 2019, arXiv:1901.09392.
    """

    perturbation: Perturbation = "square"
    samples: int = 100
    side: float = 0.25
    sigma: float = 0.1
    output: passes.Score = "logit"
    baseline: baselines.Fill = "shared"
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("beta_optimal", higher_is_better=False, range=(0.0, float("inf"))),
        Measure("beta_1", higher_is_better=False, range=(0.0, float("inf")), ranked=False),
    )

    def __post_init__(self) -> None:
        if self.perturbation not in get_args(Perturbation):
            raise UserError(unknown("perturbation ", self.perturbation, get_args(Perturbation)))
        passes.check_score(self.output)
        baselines.check_fill(self.baseline)
        maps.check_reduce(self.reduce)
        if self.samples < 1 or not 0 < self.side <= 1 or self.sigma <= 0:
            raise UserError("infidelity needs samples >= 1, 0 < side <= 1 and sigma > 0")
        if self.perturbation == "noisy_baseline" and self.baseline == "nli":
            raise UserError(
                "baseline nli fills in from what is left, and a noisy baseline leaves nothing: choose another"
            )

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Change of the score `(N, samples)`: it does not depend on the map."""
        keys, absence = batch.keys("infidelity", self.samples), Absence.of(batch, self.baseline)

        def perturbed(image: Tensor, draw: Tensor) -> Tensor:
            key = keys[image, draw]
            if self.perturbation == "square":
                top, left, side = self._corners(key, batch)
                return absence.without(image, _inside(top, left, side, batch))
            whole = batch.inputs if self.perturbation == "gaussian" else absence.image
            return whole[image] - self._noise(key, batch)

        return {"change": changes(model, batch, perturbed, self.samples, self.output)}

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
        products = torch.stack(columns, 1)
        if self.perturbation == "noisy_baseline":
            away = (batch.inputs - Absence.of(batch, self.baseline).image).double().flatten(1)
            products = products + (away * flat).sum(1, keepdim=True)
        return products

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
