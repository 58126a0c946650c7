"""ROAD: remove and debias, a perturbation curve over images whose holes are filled in from what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.baselines import Fill
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units


@dataclass(frozen=True)
class ROAD(Units, Metric):
    """Score of the target after noisy linear imputation of the most, and of the least, relevant part of the image.

    MoRF = mean over fractions p of f(x without its round(p d) most relevant units), LeRF the same for the least
    relevant; combined = (LeRF - MoRF) / 2, and a random order scores 0 in expectation. An imputed hole gives away less
    by its shape than one of one colour does, and no network is trained again. The noise of a pixel is the same at every
    fraction and for every method.

    Exactly round(p d) units go: where many share a value, as in a map with a ReLU, a threshold would take none or
    all of them. The paper's score is accuracy; its probability (`output`) is kept here, because it is a number for
    each image.

    Attributes:
        output, baseline, unit, reduce: see `Units`.
        fractions: of the units that are absent, between 0 and 1, each a point of both curves.

    Source: Rong et al. 2022, arXiv:2202.00449; combined as in Gildenblat & contributors 2021, pytorch-grad-cam.
    """

    baseline: Fill = "nli"
    fractions: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    version: ClassVar[str] = "1"

    @property
    def measures(self) -> tuple[Measure, ...]:
        low, high = self.drops
        scores = (0.0, 1.0) if self.output == "prob" else (low, high)
        return (
            Measure("combined", higher_is_better=True, range=(low / 2, high / 2), null=0.0),
            Measure("morf", higher_is_better=False, range=scores),
            Measure("lerf", higher_is_better=True, range=scores),
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fractions", tuple(self.fractions))
        if not self.fractions or not all(0 < fraction < 1 for fraction in self.fractions):
            raise UserError(f"road needs fractions between 0 and 1, not {list(self.fractions)}")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        follow, count = self.path(model, batch, attributions, prepared)
        fractions = torch.tensor(self.fractions, dtype=torch.float64, device=count.device)
        gone = (fractions * count[:, None]).round().long()
        morf, lerf = follow(gone), follow(gone, last_first=True)
        values = {"combined": (lerf - morf).mean(1) / 2, "morf": morf.mean(1), "lerf": lerf.mean(1)}
        return Scores(values, {"combined": (lerf - morf) / 2, "morf": morf, "lerf": lerf})
