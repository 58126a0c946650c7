"""Average drop, increase and gain: the probability of the target when the map is laid over the image as a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import baselines, maps, passes
from benchmark.baselines import Absence, Fill
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores


@dataclass(frozen=True)
class AverageDrop(Metric):
    """Fall or rise of the probability p = p_c(x) to o = p_c(b + M (x - b)), where M is the map scaled to [0, 1].

    drop = max(0, p - o) / p, increase = 1 if o > p, else 0, gain = max(0, o - p) / (1 - p); not in percent.
    M = (map - min) / (max - min), of each image by itself. With baseline=zero, 0 in the model's normalised space, the
    masked image is x M there, as in the sources. To blend is the same in pixel space and in normalised space.

    Drop is easily gamed: a map that hides nothing has drop 0, the best there is, and so has a constant map, which
    hides nothing because no part of it is above another (M = 1). That row stands in every table as a warning; gain
    and increase are then 0, their worst. A map of nothing but 0, such as a class activation map that its ReLU has
    emptied, singles out nothing and is undefined, as are drop at p = 0 and gain at p = 1.

    Attributes:
        baseline: what is seen where M is 0.
        reduce: how the channels of a map become one value a pixel, before it is scaled.

    Source: Chattopadhay et al. 2018, arXiv:1710.11063 (drop, increase); Zhang et al. 2024, arXiv:2301.07002 (gain).
    """

    baseline: Fill = "zero"
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("drop", higher_is_better=False, range=(0.0, 1.0)),
        Measure("increase", higher_is_better=True, range=(0.0, 1.0)),
        Measure("gain", higher_is_better=True, range=(0.0, 1.0)),
    )

    def __post_init__(self) -> None:
        baselines.check_fill(self.baseline)
        maps.check_reduce(self.reduce)
        if self.baseline == "nli":
            raise UserError("average drop dims pixels and takes none away, so baseline nli has nothing to fill in")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        values = maps.reduce_channels(attributions, self.reduce)[:, None]
        low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
        mask = torch.where(high > low, (values - low) / (high - low), 1.0).to(batch.inputs.dtype)
        absent = Absence.of(batch, self.baseline).image
        logits = passes.logits(model, torch.lerp(absent, batch.inputs, mask), batch.chunk)
        before, after = (passes.class_scores(z.double(), batch.targets, "prob") for z in (batch.logits, logits))
        # The same image in another chunk may differ in its last digit, which is no increase.
        after = torch.where((high == low).flatten(), before, after)
        found = {
            "drop": (before - after).clamp(min=0) / before,
            "increase": (after > before).double(),
            "gain": (after - before).clamp(min=0) / (1 - before),
        }
        undefined = values.flatten(1).isnan().any(1) | ((low == 0) & (high == 0)).flatten()
        return Scores({name: value.masked_fill(undefined, torch.nan) for name, value in found.items()})
