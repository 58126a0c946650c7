"""Sparseness and entropy of maps with known constants, and effective complexity on additive scores and gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, outcome, scores
from benchmark.certificate.subjects import Known, Scored, noise

_EULER = 0.5772156649015329


def _of(metric: str, *values: Tensor) -> Tensor:
    """Its score of maps with these magnitudes, a row a map, in random places and with random signs."""
    side = math.isqrt(values[0].numel())
    signs = noise(len(values), side * side, seed=31).sign()
    places = noise(len(values), side * side, seed=32).argsort(1)
    maps = (torch.stack(values) * signs).gather(1, places).view(-1, 1, side, side)
    return scores(build(metric), subjects.constant(count=len(values), side=max(12, side)), maps)[metric]


def ends(metric: str) -> Iterator[Check]:
    d, name = 144, "constant"
    ones, single = torch.ones(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    single[17] = 3.0
    half = (torch.arange(d) < d // 3).double()
    table = (
        ("all magnitudes 0.1", 0.1 * ones, 0.0, math.log(d)),
        ("one pixel", single, 1 - 1 / d, 0.0),
        ("a third of the pixels", half, 2 / 3, math.log(d / 3)),
        ("zero map: undefined", 0 * ones, math.nan, math.nan),
    )
    found = _of(metric, *(values for _, values, _, _ in table))  # in one batch, where none may touch another
    for (claim, _, gini, entropy), value in zip(table, found, strict=True):
        yield check(metric, name, claim, value, gini if metric == "sparseness" else entropy)


def sequences(metric: str) -> Iterator[Check]:
    d, name = 144, "constant"
    k = torch.arange(d, dtype=torch.float64)
    both = _of(metric, k + 0.5, 1e9 * (k + 0.5), 1e-9 * (k + 0.5))
    if metric == "sparseness":
        yield check(metric, name, "k - 1/2, k = 1..d, in any unit: (1 - 1/d^2) / 3", both, (1 - 1 / d**2) / 3)
    yield check(metric, name, "the scale of a map, or of its neighbours, is no matter", both[1:], both[:1])
    if metric == "entropy":
        r = 0.9
        total, mean = (1 - r**d) / (1 - r), r / (1 - r) - d * r**d / (1 - r**d)
        yield check(
            metric, name, "r^k: ln sum r^k - ln r E[k]", _of(metric, r**k), math.log(total) - mean * math.log(r)
        )


def distributions(metric: str) -> Iterator[Check]:
    """Quantiles at (k - 1/2) / d: the constant of the distribution, but for what a finite d leaves out of its tail."""
    d, name = 64 * 64, "constant"
    q = (torch.arange(d, dtype=torch.float64) + 0.5) / d
    normal = (math.log(2) - _EULER) / 2 - math.log(2 / math.pi) / 2
    for what, values, gini, excess in (
        ("uniform", q, 1 / 3, math.log(2) - 1 / 2),
        ("half normal", torch.special.ndtri((1 + q) / 2), math.sqrt(2) - 1, normal),
        ("exponential", -(1 - q).log(), 1 / 2, 1 - _EULER),
    ):
        found = _of(metric, values)
        if metric == "sparseness":
            yield check(metric, name, f"{what} magnitudes: {gini:.4f}", found, gini, 1e-3)
        else:
            claim = f"{what} magnitudes: ln d - E[v ln v] / E[v] + ln E[v]"
            yield check(metric, name, claim, found, math.log(d) - excess, 1e-3)


def channels(metric: str) -> Iterator[Check]:
    """Channels are summed first: two that cancel leave nothing."""
    known = subjects.linear()
    opposite = torch.cat([known.truth[:, :1] * 0 + 50, known.truth[:, 1:2], known.truth[:, :1] * 0 - 50], 1)
    found = scores(build(metric), known, opposite)[metric]
    alone = scores(build(metric), known, known.truth[:, 1:2])[metric]
    yield check(metric, known.name, "channels are summed, with their signs, before anything else", found, alone)


def _enough(lost: Tensor, steps: int, epsilon: float) -> Tensor:
    """Smallest share on a grid of `steps` whose squared loss is small; `lost (N, d + 1)` by units kept, most first."""
    d = lost.shape[1] - 1
    shares = [round(d * step / steps) / d for step in range(steps + 1)]
    columns = [round(d * share) for share in shares]
    first = (lost[:, columns].square() < epsilon).int().argmax(1)
    return torch.tensor(shares, dtype=torch.float64)[first]


def _kept(phi: Tensor, maps: Tensor) -> Tensor:
    """Contributions that are known when the k units of largest magnitude are, k = 0..d: `(N, d + 1)`."""
    order = maps.abs().argsort(1, descending=True)
    return torch.cat([phi.new_zeros(len(phi), 1), phi.gather(1, order).cumsum(1)], 1)


def additive(metric: str) -> Iterator[Check]:
    for known in (subjects.linear(), subjects.additive()):
        phi, other = known.truth.sum(1).flatten(1), noise(*known.truth.shape, seed=9)
        for steps, epsilon in ((64, 0.5), (8, 4.0)):
            for what, maps in (("phi", known.truth), ("any map", other), ("-phi", -known.truth)):
                kept = _kept(phi, maps.sum(1).flatten(1))
                expected = _enough(kept - kept[:, -1:], steps, epsilon)
                exact = build(metric, output="logit", steps=steps, epsilon=epsilon)
                claim = f"{what}: min k with (sum of phi not among the top k)^2 < {epsilon:g}, {steps} steps"
                yield check(metric, known.name, claim, scores(exact, known, maps)[metric], expected)


def probability(metric: str) -> Iterator[Check]:
    """What is followed is the probability of the class to explain, which is not predicted for all of these images."""
    known = subjects.window()
    phi, maps = known.truth.sum(1).flatten(1), noise(*known.truth.shape, seed=9)
    kept = (known.absent[:, None] + _kept(phi, maps.sum(1).flatten(1))).sigmoid()
    found = outcome(build(metric, steps=144), known.model, known.batch, maps)
    expected = (kept - kept[:, -1:]).square()
    yield check(metric, known.name, "any map: the loss is of the probability", found.curves[metric], expected)
    share = _enough(kept - kept[:, -1:], 144, 0.01)
    yield check(metric, known.name, "any map: 0.01 is a tenth of probability", found.values[metric], share)


def gates(metric: str) -> Iterator[Check]:
    """Two pixels: none is needed, one is enough, or both are needed; by which is known first."""
    table: tuple[tuple[Callable[[], Known], float, float], ...] = (
        (subjects.product, 1.0, 1.0),
        (subjects.conjunction, 1.0, 1.0),
        (subjects.disjunction, 0.5, 0.5),
        (subjects.exclusive, 0.5, 1.0),
        (subjects.minimum, 1.0, 1.0),
        (subjects.maximum, 1.0, 0.5),
    )
    for subject, first, second in table:
        known = subject()
        for claim, values, expected in (
            ("first pixel first", [2.0, 1.0], first),
            ("second pixel first", [1.0, -2.0], second),
        ):
            maps = torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2)
            found = scores(build(metric, output="logit", steps=2), known, maps)[metric]
            yield check(metric, known.name, f"{claim}: from the table of f", found, expected)


def constant(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    found = scores(build(metric), known, noise(*known.truth.shape, seed=8))[metric]
    yield check(metric, known.name, "nothing has to be known: 0", found, 0.0)


def counted(metric: str) -> Iterator[Check]:
    """Every token counts 1 or -1: what is enough is all but those that cancel; patches of a token are exact units."""
    known = subjects.counting()
    phi = (known.truth.sum(1) * 4)[:, ::2, ::2].flatten(1)
    tokens = phi.abs() + 0.01 * noise(*phi.shape, seed=3).abs()
    maps = tokens.view(-1, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    kept = _kept(phi, tokens)
    exact = build(metric, output="logit", unit="patch2", steps=16)
    claim = "patches: min k with all tokens that do not cancel among the top k"
    yield check(metric, known.name, claim, scores(exact, known, maps)[metric], _enough(kept - kept[:, -1:], 16, 0.01))


def company(metric: str) -> Iterator[Check]:
    known = subjects.relu()
    maps = noise(*known.truth.shape, seed=7)
    prob = build(metric, epsilon=1e-4)
    found = outcome(prob, known.model, known.batch, maps)
    parts = [outcome(prob, known.model, known.batch.select([i]), maps[[i]]) for i in range(len(maps))]
    alone = torch.cat([part.curves[metric] for part in parts])
    yield check(metric, known.name, "alone as in a batch", alone, found.curves[metric])
    ends = (known.absent.sigmoid() - known.clean.sigmoid()).square()
    yield check(metric, known.name, "the loss where nothing is known", found.curves[metric][:, 0], ends)
    yield check(metric, known.name, "the loss where all is known", found.curves[metric][:, -1], 0.0)
    scaled = replace(known, model=Scored(lambda inputs: known.model(inputs)[:, 0] + 5))
    moved = replace(
        known.batch, logits=scaled.model(known.batch.inputs), baseline_logits=scaled.model(known.batch.baseline)
    )
    exact = build(metric, output="logit", epsilon=1e-4)
    both = [
        outcome(exact, each.model, each.batch, maps).curves[metric] for each in (known, replace(scaled, batch=moved))
    ]
    yield check(metric, known.name, "a constant added to the logit changes nothing", both[1], both[0])


_OF_MAPS = (ends, sequences, distributions, channels)
CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "sparseness": _OF_MAPS,
    "entropy": _OF_MAPS,
    "effective_complexity": (additive, probability, gates, constant, counted, company),
}
