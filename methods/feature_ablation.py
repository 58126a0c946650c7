"""Feature ablation: how much of the target logit is lost without each unit of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.baselines import Fill
from benchmark.protocols import Batch, Method
from methods._coalitions import Coalitions, check_options, exact_number


@dataclass(frozen=True)
class FeatureAblation(Method):
    """`(z_t(x) - z_t(x without u)) / |u|` at each pixel of unit u, signed, `(N, 1, H, W)`.

    A unit's drop is spread evenly over its `|u|` pixels, as by occlusion, so a map sums to its drops and an additive
    model gets exactly the contribution of each unit. captum puts the whole drop at every pixel. A metric that takes the
    same units away one by one favours it by construction.

    Source: Zeiler & Fergus 2013, arXiv:1311.2901; Li, Monroe & Jurafsky 2016, arXiv:1612.08220.

    Attributes:
        unit: what is taken away together, see `benchmark.units`.
        baseline: what takes its place, see `benchmark.baselines.Fill`.

    Raises:
        UserError: there is no such unit or baseline.

    Example:
        >>> FeatureAblation(unit="grid14").passes
        196
    """

    unit: str = "grid8"
    baseline: Fill = "shared"

    def __post_init__(self) -> None:
        check_options(self.unit, self.baseline)

    @property
    def passes(self) -> int | None:
        return exact_number(self.unit)

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        game = Coalitions.of(model, batch, self.unit, self.baseline)
        unit = torch.arange(game.most, device=batch.inputs.device)
        wanted = game.first(game.counts, game.most)
        scores = game.scores(model, lambda image, draw: unit != draw.unsqueeze(1), wanted)
        return game.shared_out(game.full().unsqueeze(1) - scores)
