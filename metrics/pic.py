"""Performance information curves: how sure the model is, for the information that has been revealed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from benchmark import maps, passes, units
from benchmark.baselines import Absence, Fill
from benchmark.errors import UserError
from benchmark.imputation import impute
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._curves import Units

_GRID = 101
_EFFORT = {"fast": (0, 75), "source": (4, 100)}  # method and quality of the encoder


@dataclass(frozen=True)
class PIC(Units, Metric):
    """Areas under the softmax (SIC) and the accuracy (AIC) information curve; higher is better.

    The image is first rebuilt from a few random pixels, then from those and its most relevant units. At each fraction:

        x = (bytes(rebuilt) - bytes(start)) / (bytes(image) - bytes(start)), clipped to [0, 1]
        y = (g(rebuilt) - g(start)) / (g(image) - g(start)), clipped to [0, 1]

    where bytes is the size as a lossless WebP of 8 bits, an estimate of entropy, and g is `output` for SIC and
    1[target predicted] for AIC. The score is the area under the line through (0, 0), the points in the order of x, and
    (1, 1). Each image has an area; the source takes the median of its curves over images and the area under that.
    Undefined for an image that is not above its start in bytes and in g.

    Attributes:
        output, baseline, unit, reduce: see `Units`.
        start: fraction of the pixels that are known from the outset, the same for every method.
        fractions: of the units that are revealed, ascending.
        monotone: y is the largest so far, as in the source, not that of the fraction alone.
        min_confidence: images with a smaller probability of the target are undefined; the source takes 0.8, which
            makes models of different calibration incomparable.
        effort: of the encoder; `source` takes WebP's method 4 at quality 100, some fifty times as long as `fast`, for
            files a tenth smaller.

    With baseline=nli the rest is linear imputation from the known pixels, without noise: every pixel the mean of its
    neighbours, where the source interpolates on triangles. With another baseline the rest is that.

    Source: Kapishnikov et al. 2019, arXiv:1906.02825.
    """

    baseline: Fill = "nli"
    start: float = 0.01
    fractions: Sequence[float] = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75)
    monotone: bool = True
    min_confidence: float = 0.0
    effort: Literal["fast", "source"] = "fast"

    version: ClassVar[str] = "1"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("sic", higher_is_better=True, range=(0.0, 1.0)),
        Measure("aic", higher_is_better=True, range=(0.0, 1.0)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions = tuple(self.fractions)
        object.__setattr__(self, "fractions", fractions)
        if not fractions or list(fractions) != sorted(fractions) or not 0 < fractions[0] <= fractions[-1] < 1:
            raise UserError(f"pic needs ascending fractions between 0 and 1, not {list(fractions)}")
        if not 0 <= self.start < 1 or not 0 <= self.min_confidence <= 1:
            raise UserError("pic needs 0 <= start < 1 and 0 <= min_confidence <= 1")
        if self.effort not in _EFFORT:
            raise UserError(f"unknown effort {self.effort!r}: expected {' or '.join(_EFFORT)}")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Sizes and scores of the whole image and of the start, which no map changes; and superpixels."""
        none = torch.zeros(len(batch), 1, dtype=torch.int64, device=batch.inputs.device)
        start, start_size = self._seen(model, batch, none[..., None].expand(-1, *batch.inputs.shape[2:]), none)
        whole = torch.stack([self.read(batch.logits, batch.targets), _right(batch.logits, batch.targets)], 1)
        with ThreadPoolExecutor() as pool:
            sizes = self._sizes(pool, _eight_bits(batch, batch.inputs))
        whole_size = torch.tensor(sizes, dtype=torch.float64, device=start.device)
        return {
            **self.superpixels(batch),
            **{"start": start[:, 0], "start_size": start_size[:, 0]},
            **{"whole": whole.double(), "whole_size": whole_size},
        }

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        unit = self.units_of(batch, prepared)
        ranks, count = self.rank(batch, attributions, unit)
        fractions = torch.tensor(self.fractions, dtype=torch.float64, device=count.device)
        kept = (fractions * count[:, None]).round().long()
        seen, size = self._seen(model, batch, units.spread(ranks, unit), kept)
        unsure = passes.class_scores(batch.logits, batch.targets, "prob") < self.min_confidence
        x = _between(size, prepared["start_size"], prepared["whole_size"])
        x, order = x.masked_fill(unsure[:, None], torch.nan).sort(dim=1, stable=True)
        x = _with_ends(x)
        areas, curves = {}, {}
        for place, name in enumerate(("sic", "aic")):
            y = _between(seen[..., place], prepared["start"][:, place], prepared["whole"][:, place])
            y = _with_ends((y.cummax(1).values if self.monotone else y).gather(1, order))
            areas[name], curves[name] = torch.trapezoid(y, x), _resampled(x, y)
        return Scores(areas, curves)

    def _seen(self, model: nn.Module, batch: Batch, ranks: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Output and accuracy `(N, S, 2)`, and size `(N, S)`, of images rebuilt from `kept (N, S)` units.

        `ranks (N, H, W)` are those of each pixel's unit, 0 for the first to be kept.
        """
        absence, keys, steps = Absence.of(batch, self.baseline), batch.keys("pic")[:, 0], kept.shape[1]
        ties = torch.zeros(len(batch), ranks[0].numel(), device=ranks.device)
        known = (maps.descending_ranks(ties, keys) < round(self.start * ties.shape[1])).view_as(ranks)
        sizes: list[int] = []

        def step(start: int, stop: int) -> Tensor:
            place = torch.arange(start, stop, device=ranks.device)
            row = place // steps
            gone = (ranks[row] >= kept[row, place % steps, None, None]) & ~known[row]
            if self.baseline == "nli":
                rebuilt = impute(batch.inputs[row], gone, absence.image[row], keys[row], noise=0)
            else:
                rebuilt = absence.without(row, gone)
            pictures = _eight_bits(batch, rebuilt)
            logits = model(rebuilt)
            sizes[start:] = self._sizes(pool, pictures)  # while the device is at work
            return torch.stack([self.read(logits, batch.targets[row]), _right(logits, batch.targets[row])], 1)

        with torch.inference_mode(), ThreadPoolExecutor() as pool:
            found = torch.cat(list(passes.chunked(step, kept.numel(), batch.chunk))).double()
        size = torch.tensor(sizes, dtype=torch.float64, device=found.device)
        return found.view(*kept.shape, 2), size.view_as(kept)

    def _sizes(self, pool: Executor, pictures: Tensor) -> list[int]:
        return list(pool.map(partial(_size, *_EFFORT[self.effort]), pictures.cpu().numpy()))


def _right(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(1) == targets).to(logits.dtype)


def _between(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where `values (N, S)` lie from `low` to `high (N,)`, clipped to [0, 1]; NaN where high is not above low."""
    span = torch.where(high > low, high - low, torch.nan)
    return ((values - low[:, None]) / span[:, None]).clamp(0, 1)


def _with_ends(points: Tensor) -> Tensor:
    return nn.functional.pad(nn.functional.pad(points, (1, 0)), (0, 1), value=1.0)


def _resampled(x: Tensor, y: Tensor) -> Tensor:
    """The line through the points `x, y (N, P)` at equal places from 0 to 1."""
    grid = torch.linspace(0, 1, _GRID, dtype=x.dtype, device=x.device).repeat(len(x), 1)
    after = torch.searchsorted(x, grid).clamp(1, x.shape[1] - 1)
    left, right, low, high = (points.gather(1, place) for points in (x, y) for place in (after - 1, after))
    return low + torch.where(right > left, (grid - left) / (right - left), 1.0) * (high - low)


def _eight_bits(batch: Batch, inputs: Tensor) -> Tensor:
    """Pixels from 0 to 255, `(R, H, W, 3)`, or `(R, C H, W)` with the channels below each other where not three."""
    pixels = (replace(batch, inputs=inputs).pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous() if pixels.shape[1] == 3 else pixels.flatten(1, 2)


def _size(method: int, quality: int, picture: Any) -> int:
    """Bytes of a picture, an array of 8 bits, as a lossless WebP."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "webp", lossless=True, method=method, quality=quality)
    return len(buffer.getvalue())
