"""Smooth MPRT: parameter randomisation of maps that are averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps, passes, randomness
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._randomised import Order, cascade, check_options, seen
from metrics._similarity import MEASURES, View, scored


@dataclass(frozen=True)
class SmoothParameterRandomisation(Metric):
    """Similarity between the smoothed maps of the model and of copies whose layers are re-initialised.

    The smoothed map is mean_s e(x + n_s) with n_s ~ N(0, (noise * (max x - min x))^2), so that the noise of gradients
    that shatter does not pass for sensitivity to the parameters. The trained model and all copies see the same noise.
    The map of x itself does not enter (in Quantus it is the last of the samples). The measures, and what is undefined,
    are those of parameter randomisation; it is evidence and not a ranking for the same reasons.

    It costs (1 + stages * seeds) * samples explanations an image.

    Attributes:
        samples: noisy copies of each image.
        noise: standard deviation as a fraction of the image's own range, over all of its channels.
        order: of re-initialisation, see parameter randomisation. From the input up, as in the source: from the output
            down the activations before the random layers stay those of the trained model, and a faithful map may stay.
        stages: how many equal groups of layers there are, at most one a layer.
        seeds: independent re-initialisations of everything.
        statistics: also reset the running statistics of batch norm.
        reduce: channel reduction of the smoothed maps.

    Source: Hedström, Weber, Lapuschkin & Höhne 2024, arXiv:2401.06465.
    """

    samples: int = 50
    noise: float = 0.1
    order: Order = "bottom_up"
    stages: int = 3
    seeds: int = 1
    statistics: bool = False
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "randomisation"
    measures: ClassVar[tuple[Measure, ...]] = MEASURES

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        check_options(self.order, self.stages, self.seeds)
        if self.samples < 1 or self.noise < 0:
            raise UserError(f"smooth MPRT needs samples >= 1 and noise >= 0, not {self.samples} and {self.noise}")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        original = self._smoothed(model, batch, explain)
        found = [
            original.likeness(self._smoothed(copy, seen(copy, batch), explain))
            for seed in range(self.seeds)
            for copy in cascade(model, self.stages, f"{batch.seed}/{seed}", self.statistics, self.order)
        ]
        return scored(original, found, batch, self.seeds)

    def _smoothed(self, model: nn.Module, batch: Batch, explain: Explain) -> View:
        width = self.noise * (batch.inputs.amax((1, 2, 3), keepdim=True) - batch.inputs.amin((1, 2, 3), keepdim=True))
        keys = batch.keys("smooth", self.samples)
        total = torch.zeros((), dtype=torch.float64, device=batch.inputs.device)
        for draw in range(self.samples):
            noise = randomness.normal(keys[:, draw], *batch.inputs.shape[1:]).to(batch.inputs.dtype)
            inputs = batch.inputs + width * noise
            logits = passes.logits(model, inputs, batch.chunk).clone()
            # Names of their own, so that a method that draws at random does not draw the same for every copy.
            uids = tuple(f"{uid}/{draw}" for uid in batch.uids)
            total = total + explain(model, replace(batch, inputs=inputs, uids=uids, logits=logits)).double()
        return View.of(maps.reduce_channels(total / self.samples, self.reduce))
