"""Checks of checks: do nulls land where they must, are degraded explainers ranked in order, what does gaming score?

They run over every metric of conf/metrics that scores images, on one subject whose contributions are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from scipy import stats
from torch import Tensor, nn

from benchmark import randomness, units
from benchmark.baselines import Absence
from benchmark.certificate import subjects
from benchmark.certificate.checks import Check, build, check, outcome
from benchmark.certificate.subjects import Known, Scored, known, noise
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Explain, Metric, Scores

LEVELS = 11
"""Shares of noise in a degraded explainer: 0, 10, ... 100 %."""


SIDE = 16


def _weight() -> Tensor:
    weight = torch.zeros(3, SIDE, SIDE, dtype=torch.float64)
    weight[:, 5:12, 4:12] = 0.03 * noise(3, 7, 8, seed=21).abs() * (1 + noise(1, 7, 8, seed=22)).sign()
    return weight


def window(count: int) -> Known:
    """Additive and moderate: f reads a window, mostly for and a little against, and neither saturates nor vanishes.

    The window is a scene of four parts, two columns each, on black; the first matters little.
    """
    weight = _weight()
    masks = (weight[0] != 0).expand(count, -1, -1)
    model = Scored(lambda inputs: (inputs * weight).sum((1, 2, 3)) - 0.5)
    pixels = subjects.images(count, 3, SIDE, SIDE, seed=23)
    found = known("window", model, pixels, lambda b: weight * (b.inputs - b.baseline), masks=masks, chunk=512)
    parts = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    parts[:, 5:12, 4:12] = torch.tensor([1, 3, 3, 4, 1, 4, 2, 2])
    names = ("object", "mark", "suppressors")
    empty = found.batch.inputs.masked_fill(parts.unsqueeze(1) > 0, 0.0)
    even = units.spread(units.pooled(found.truth.sum(1), parts), parts) * (parts > 0)
    truth = torch.stack([even, torch.zeros_like(even)], 1)
    return replace(found, batch=replace(found.batch, parts=parts, part_names=names, empty=empty, truth=truth))


def contributions(subject: Known, metric: Metric) -> Tensor:
    """What the pixels of `window` contribute, from the baseline that the metric takes for absent: `(N, 1, H, W)`."""
    absent = Absence.of(subject.batch, getattr(metric, "baseline", "shared")).image
    return (_weight() * (subject.batch.inputs - absent)).sum(1, keepdim=True)


@dataclass(frozen=True)
class Row:
    """What one metric gives an explainer, by measure: the mean over images, NaN where undefined, and why."""

    metric: str
    values: Mapping[str, float]
    reason: str = ""


def _built(name: str) -> Metric:
    """The metric; nothing in the window is worth a logit, which a watermark must be by default."""
    return build(name, least=0.01) if name == "shortcut_mass" else build(name)


def explainers(subject: Known, metric: Metric) -> Mapping[str, Explain]:
    """Explainers that do not look at the model, and one that knows the answer."""
    truth = dict(zip(subject.batch.uids, contributions(subject, metric), strict=True))

    def oracle(model: nn.Module, batch: Batch) -> Tensor:
        return torch.stack([truth[uid.split("/")[0]] for uid in batch.uids])

    def drawn(model: nn.Module, batch: Batch) -> Tensor:
        return randomness.normal(batch.keys("null")[:, 0], 1, *batch.inputs.shape[2:]).double()

    def blurred(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.avg_pool2d(drawn(model, batch), 7, stride=1, padding=3, count_include_pad=False)

    def edges(model: nn.Module, batch: Batch) -> Tensor:
        grey = nn.functional.pad(batch.inputs.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        across, down = grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2], grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]
        return (across.square() + down.square()).sqrt()

    def ones(model: nn.Module, batch: Batch) -> Tensor:
        return torch.ones_like(batch.inputs[:, :1])

    def one_hot(model: nn.Module, batch: Batch) -> Tensor:
        found = torch.zeros_like(batch.inputs[:, :1])
        found[:, 0, 8, 8] = 1
        return found

    calls = iter(range(10**9))

    def per_call(model: nn.Module, batch: Batch) -> Tensor:
        return randomness.normal(batch.keys(f"call {next(calls)}")[:, 0], 1, *batch.inputs.shape[2:]).double()

    return {
        "oracle": oracle,
        "random": drawn,
        "random, anew at every call": per_call,
        "blurred random": blurred,
        "edges": edges,
        "all ones": ones,
        "one-hot": one_hot,
    }


def gaming(names: list[str]) -> Iterator[tuple[str, list[Row]]]:
    """What every metric gives every explainer that does not look at the model, and the oracle beside them."""
    subject = window(12)
    metrics = {name: _built(name) for name in names}
    for title in explainers(subject, metrics[names[0]]):
        yield (
            title,
            [_row(name, metric, subject, explainers(subject, metric)[title]) for name, metric in metrics.items()],
        )


def _row(name: str, metric: Metric, subject: Known, explain: Explain) -> Row:
    try:
        found = _scores(metric, subject, explain)
    except NotApplicable as why:
        return Row(name, {measure.name: float("nan") for measure in metric.measures}, str(why))
    return Row(name, {measure: float(values.nanmean()) for measure, values in found.values.items()})


def nulls(name: str) -> Iterator[Check]:
    """A map of independent random pixels scores, in the mean over many images, what the metric says it does."""
    metric = _built(name)
    stated = [measure for measure in metric.measures if measure.null is not None]
    if not stated or metric.per != "image":
        return
    subject = window(400)
    try:
        found = _scores(metric, subject, explainers(subject, metric)["random"])
    except NotApplicable:
        return
    for measure in stated:
        values = found.values[measure.name]
        values = values[values.isfinite()]
        if len(values) >= 30 and measure.null is not None:
            error = float(4 * values.std() / len(values) ** 0.5)
            claim = f"random maps: the mean of {measure.name} over images, within 4 standard errors"
            yield check(name, subject.name, claim, float(values.mean()), measure.null, error)


def degraded(name: str) -> Iterator[tuple[str, float, list[float]]]:
    """(measure, Kendall's tau, means) of explainers from the exact contributions to pure noise, in ten steps.

    tau is 1 where every step towards noise costs score, for measures of faithfulness, localisation and known truth that
    rank.
    """
    metric = _built(name)
    ranked = [measure for measure in metric.measures if measure.ranked and measure.higher_is_better is not None]
    if metric.family not in ("faithfulness", "localisation", "truth") or not ranked or metric.per != "image":
        return
    subject = window(24)
    truth = contributions(subject, metric)
    dirt = noise(*truth.shape, seed=24) * truth.flatten(1).std(1).view(-1, 1, 1, 1)
    means: dict[str, list[float]] = {measure.name: [] for measure in ranked}
    for level in range(LEVELS):
        share = level / (LEVELS - 1)
        mixed = (1 - share) * truth + share * dirt
        try:
            found = outcome(metric, subject.model, subject.batch, mixed)
        except NotApplicable:
            return
        for measure in ranked:
            means[measure.name].append(float(found.values[measure.name].nanmean()))
    for measure in ranked:
        sign = 1 if measure.higher_is_better else -1
        tau = stats.kendalltau([-level for level in range(LEVELS)], [sign * mean for mean in means[measure.name]])
        yield measure.name, float(tau.statistic), means[measure.name]


def _scores(metric: Metric, subject: Known, explain: Explain) -> Scores:
    return outcome(metric, subject.model, subject.batch, explain(subject.model, subject.batch), explain)
