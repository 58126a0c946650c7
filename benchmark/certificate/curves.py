"""Deletion, insertion and SRG on subjects whose curves are formulas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from benchmark.baselines import image
from benchmark.batches import freeze
from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, outcome, scores
from benchmark.certificate.subjects import Known, noise


def _weights(metric: str, d: int) -> Tensor:
    """Weights w of the contributions from the largest on: the area of an additive score is f(b) + w.phi."""
    k = torch.arange(1, d + 1, dtype=torch.float64)
    deletion, insertion = (k - 0.5) / d, (d - k + 0.5) / d
    return {"deletion": deletion, "insertion": insertion, "srg": insertion - deletion}[metric]


def _closed_form(metric: str, known: Known, maps: Tensor) -> Tensor:
    """Area for units taken by `maps`, from the exact contributions of an additive score."""
    phi = known.truth.sum(1).flatten(1)
    order = maps.sum(1).flatten(1).argsort(1, descending=True)
    weighted = (phi.gather(1, order) * _weights(metric, phi.shape[1])).sum(1)
    return weighted if metric == "srg" else known.absent + weighted


_FORMULA = {
    "deletion": "f(b) + sum phi_k (k - 1/2) / d",
    "insertion": "f(b) + sum phi_k (d - k + 1/2) / d",
    "srg": "sum phi_k (d + 1 - 2k) / d",
}


def additive(metric: str) -> Iterator[Check]:
    for known in (subjects.linear(), subjects.additive()):
        d = known.truth[0, 0].numel()
        exact = build(metric, output="logit", steps=d)
        for what, maps in (("phi", known.truth), ("random map", noise(*known.truth.shape, seed=9))):
            found = scores(exact, known, maps)[metric]
            yield check(metric, known.name, f"{what}: {_FORMULA[metric]}", found, _closed_form(metric, known, maps))
        bent = scores(
            exact, known, (3 * known.truth).tanh().sum(1, keepdim=True) * 0 + known.truth.sum(1, keepdim=True)
        )
        grown = scores(exact, known, known.truth.sum(1, keepdim=True).exp() * 3)
        yield check(metric, known.name, "a rising transform of the map changes nothing", grown[metric], bent[metric])


def channels(metric: str) -> Iterator[Check]:
    """A channel that outweighs the others must not rank the pixel by itself: channels are summed once, first."""
    known = subjects.linear()
    lopsided = torch.cat(
        [known.truth[:, :1] * 0 + 50, known.truth.sum(1, keepdim=True), known.truth[:, :1] * 0 - 50], 1
    )
    found = scores(build(metric, output="logit", steps=64), known, lopsided)[metric]
    yield check(
        metric, known.name, "channels are summed before ranking", found, _closed_form(metric, known, known.truth)
    )


def random_order(metric: str) -> Iterator[Check]:
    """Ties fall at random: the mean and the variance of a random order are known, (d+1)/(12d) sum (phi - mean)^2."""
    copies = 600
    known = subjects.linear(count=2, side=4, copies=copies)
    phi = known.truth.sum(1).flatten(1).view(2, copies, -1)[:, 0]
    d = phi.shape[1]
    found = scores(build(metric, output="logit", steps=d), known, torch.ones_like(known.truth))[metric].view(2, copies)
    variance = (d + 1) / (12 * d) * (phi - phi.mean(1, keepdim=True)).square().sum(1)
    mean = ((known.clean + known.absent) / 2).view(2, copies)[:, 0]
    if metric == "srg":
        mean, variance = torch.zeros(2, dtype=torch.float64), 4 * variance
    claim = "constant map: the mean of a random order, within 4 standard errors"
    yield check(metric, known.name, claim, found.mean(1), mean, 4 * (variance / copies).sqrt())
    claim = "constant map: the variance of a random order"
    yield check(metric, known.name, claim, found.var(1) / variance, 1.0, 0.25)


def gates(metric: str) -> Iterator[Check]:
    """Two pixels, so that a curve has one inner point: (f(x) + 2 f(inner) + f(b)) / 4."""
    points = {  # f with the first pixel deleted, f with the second deleted
        "product": (subjects.product(), 0.0, 0.0),
        "and": (subjects.conjunction(), 0.0, 0.0),
        "or": (subjects.disjunction(), 1.0, 1.0),
        "xor": (subjects.exclusive(), 0.0, 1.0),
        "min": (subjects.minimum(), 0.0, 0.0),
        "max": (subjects.maximum(), 3.0, 2.0),
    }
    for known, first_gone, second_gone in points.values():
        exact = build(metric, output="logit", steps=2)
        for claim, maps, deleted, inserted in (
            ("first pixel first", [2.0, 1.0], first_gone, second_gone),
            ("second pixel first", [1.0, 2.0], second_gone, first_gone),
        ):
            deletion = (float(known.clean) + 2 * deleted + float(known.absent)) / 4
            insertion = (float(known.clean) + 2 * inserted + float(known.absent)) / 4
            expected = {"deletion": deletion, "insertion": insertion, "srg": insertion - deletion}[metric]
            phi = torch.tensor(maps, dtype=torch.float64).view(1, 1, 1, 2)
            yield check(
                metric, known.name, f"{claim}: from the table of f", scores(exact, known, phi)[metric], expected
            )


def symmetric(metric: str) -> Iterator[Check]:
    known = subjects.symmetric()
    maps = known.truth + torch.tensor([0.0, 0.1]).view(1, 1, 1, 2)
    both = [scores(build(metric, output="logit", steps=2), known, each)[metric] for each in (maps, maps.flip(3))]
    yield check(metric, known.name, "exchanging the pixels changes nothing", both[0], both[1])


def constant(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    found = scores(build(metric, output="logit"), known, noise(*known.truth.shape, seed=8))[metric]
    expected = 0.0 if metric == "srg" else 0.7
    yield check(metric, known.name, "no drop anywhere", found, expected)


def homogeneous(metric: str) -> Iterator[Check]:
    """What holds on any model: reversal, the ends of the curves, the chosen output, company."""
    known = subjects.relu()
    maps = noise(*known.truth.shape, seed=7)
    exact = build(metric, output="prob", steps=16)
    found = outcome(exact, known.model, known.batch, maps)
    opposite = {"deletion": "insertion", "insertion": "deletion", "srg": "srg"}[metric]
    sign = -1 if metric == "srg" else 1
    reverse = scores(build(opposite, output="prob", steps=16), known, -maps)[opposite]
    yield check(metric, known.name, "-map: insertion and deletion change places", found.values[metric], sign * reverse)
    ends = torch.stack([known.clean, known.absent], 1).sigmoid()
    ends = {"deletion": ends, "insertion": ends.flip(1), "srg": ends.flip(1) - ends}[metric]
    curve = found.curves[metric]
    yield check(metric, known.name, "the curve runs from f(x) to f(b), or back", curve[:, [0, -1]], ends)
    yield check(metric, known.name, "trapezoid over all points", found.values[metric], _trapezoid(curve))
    logodds = outcome(build(metric, output="logodds", steps=16), known.model, known.batch, maps).curves[metric]
    logit = outcome(build(metric, output="logit", steps=16), known.model, known.batch, maps).curves[metric]
    yield check(metric, known.name, "log-odds of two classes are the difference of their logits", logodds, logit)
    alone = [known.batch.select([i]) for i in range(len(known.batch))]
    for what, given in (("alone as in a batch", maps), ("alone as in a batch, all ties", torch.ones_like(maps))):
        parts = [outcome(exact, known.model, part, given[[i]]).values[metric] for i, part in enumerate(alone)]
        together = outcome(exact, known.model, known.batch, given).values[metric]
        yield check(metric, known.name, what, torch.cat(parts), together)
    larger = torch.cat([1000 * maps[:1], maps[1:]])
    grown = outcome(exact, known.model, known.batch, larger).values[metric]
    yield check(metric, known.name, "a neighbour's scale is no matter", grown, found.values[metric])


def _trapezoid(curve: Tensor) -> Tensor:
    return (curve[:, 1:] + curve[:, :-1]).mean(1) / 2


def dummies(metric: str) -> Iterator[Check]:
    """Of 144 pixels the model reads 24: deleting them first leaves f(b) for all the rest."""
    known = subjects.window()
    found = scores(build(metric, output="logit", steps=144), known, known.truth)[metric]
    yield check(metric, known.name, f"phi: {_FORMULA[metric]}", found, _closed_form(metric, known, known.truth))


def normalised(metric: str) -> Iterator[Check]:
    """Black is black in pixel space: (0 - mean) / std after normalisation, and not 0."""
    plain = subjects.linear(baseline="black")
    pixels = plain.batch.pixels
    shifted = replace(plain.batch, mean=(0.5,), std=(0.25,), inputs=(pixels - 0.5) / 0.25, baseline=-2.0 + 0 * pixels)
    weight = subjects.noise(3, 8, 8, seed=1)
    model = subjects.Scored(lambda inputs: ((inputs * 0.25 + 0.5) * weight).sum((1, 2, 3)) + 0.3)
    maps = noise(*pixels.shape, seed=6)
    for fill in ("black", "white"):
        own = outcome(build(metric, output="logit", steps=64, baseline=fill), model, shifted, maps).values[metric]
        absent = image(plain.batch, fill)
        truth = weight * (pixels - absent)
        known = replace(plain, truth=truth, batch=replace(plain.batch, baseline_logits=plain.model(absent)))
        yield check(metric, plain.name, f"{fill} in pixel space", own, _closed_form(metric, known, maps))


def target(metric: str) -> Iterator[Check]:
    """What is followed is the class that the model predicts for the whole image, whatever its label says."""
    known = subjects.linear()
    sign = torch.where(known.clean > 0, 1.0, -1.0)
    wrong = (known.clean > 0).long()  # class 0 is predicted where f > 0
    batch = freeze(known.model, known.batch.pixels, known.batch.uids, labels=wrong, baseline="grey")
    maps = sign.view(-1, 1, 1, 1) * known.truth
    predicted = replace(
        known, truth=maps, batch=replace(known.batch, baseline_logits=sign[:, None] * known.batch.baseline_logits)
    )
    found = outcome(build(metric, output="logodds", steps=64), known.model, batch, maps).values[metric]
    yield check(metric, known.name, "the predicted class, not the label", found, _closed_form(metric, predicted, maps))


def counted(metric: str) -> Iterator[Check]:
    """Each token is worth 1 however much of it is there beyond its threshold: patches of a token are exact units."""
    known = subjects.counting()
    found = scores(build(metric, output="logit", steps=16, unit="patch2"), known, known.truth)[metric]
    phi = (known.truth.sum(1) * 4)[:, ::2, ::2].flatten(1)
    weighted = (phi.sort(1, descending=True).values * _weights(metric, 16)).sum(1)
    yield check(metric, known.name, "patches: " + _FORMULA[metric], found, weighted)


_ALL = (additive, channels, random_order, gates, symmetric, constant, homogeneous, dummies, normalised, target, counted)
CHECKS: Mapping[str, tuple[Certify, ...]] = dict.fromkeys(("deletion", "insertion", "srg"), _ALL)
