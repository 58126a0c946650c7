"""ERASER: what is lost without the most relevant pixels, and what is lost with nothing but them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units


@dataclass(frozen=True)
class Eraser(Units, Metric):
    """Comprehensiveness (higher is better) and sufficiency (lower is better) of the most relevant units.

    With r_q the share q of the units that is most relevant, `comprehensiveness` is the mean over q of
    f(x) - f(x without r_q), and `sufficiency` the mean over q of f(x) - f(r_q on the baseline). The curves hold the
    terms by q. On an additive score they are the means of the sums of phi over r_q, and over the rest.

    Attributes:
        output, baseline, unit, reduce: see `Units`; a word of the source is a unit here.
        shares: q, fractions of the units; at least one unit is in r_q.

    Source: DeYoung et al. 2020, arXiv:1911.03429, with the shares and the mean of its code.
    """

    shares: Sequence[float] = (0.01, 0.05, 0.1, 0.2, 0.5)

    version: ClassVar[str] = "1"

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("comprehensiveness", higher_is_better=True, range=self.drops),
            Measure("sufficiency", higher_is_better=False, range=self.drops),
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shares", tuple(self.shares))
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise UserError(f"shares={list(self.shares)} are no fractions of the units, above 0 and up to 1")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        follow, count = self.path(model, batch, attributions, prepared)
        shares = torch.tensor(self.shares, dtype=torch.float64, device=count.device)
        chosen = (shares * count[:, None]).round().long().clamp(min=1)
        clean = self.read(batch.logits, batch.targets).double()[:, None]
        curves = {
            "comprehensiveness": clean - follow(chosen),
            "sufficiency": clean - follow(count[:, None] - chosen, last_first=True),
        }
        return Scores({name: curve.mean(1) for name, curve in curves.items()}, curves)
