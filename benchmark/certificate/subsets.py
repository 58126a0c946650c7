"""Metrics that take subsets or single units away, and infidelity, on subjects whose drops are formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, outcome, scores
from benchmark.certificate.subjects import Known, Scored, noise

_SUBSETS = ("sensitivity_n", "faithfulness_correlation", "mu_fidelity")
_CELLS = ((0, 3), (3, 5), (5, 8), (8, 10))  # four on a side of ten pixels


def _found(metric: str, known: Known, maps: Tensor, **options: object) -> Tensor:
    """Its score by the logit, `(N,)`."""
    found = scores(build(metric, output="logit", **options), known, maps)
    return found["correlation" if "correlation" in found else metric.removesuffix("_idsds")]


def _ranks(values: Tensor) -> Tensor:
    """Rank of each number of `(N, d)` by counting: those below it, and half of the others that equal it."""
    one, other = values[:, :, None], values[:, None]
    return (other < one).sum(2) + ((other == one).sum(2) - 1) / 2


def _correlation(metric: str, a: Tensor, b: Tensor) -> Tensor:
    """Pearson's of `(N, d)`, or that of the ranks where the metric takes Spearman's."""
    if metric not in ("sensitivity_n", "faithfulness_correlation", "faithfulness_estimate"):
        a, b = _ranks(a), _ranks(b)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a.double(), b.double(), strict=True)])


def _cells(maps: Tensor) -> Tensor:
    """Sums over the 16 cells of images of ten pixels a side, and over the channels."""
    sums = [maps[:, :, top:bottom, left:right].sum((1, 2, 3)) for top, bottom in _CELLS for left, right in _CELLS]
    return torch.stack(sums, 1)


def exact(metric: str) -> Iterator[Check]:
    for known in (subjects.linear(side=10, baseline="black"), _additive_from_black()):
        for claim, maps, expected in (("phi: 1", known.truth, 1.0), ("-phi: -1", -known.truth, -1.0)):
            yield check(metric, known.name, claim, _found(metric, known, maps), expected)
        bent = _found(metric, known, 3e6 * known.truth.sum(1, keepdim=True))
        yield check(metric, known.name, "phi in another unit, on one channel: 1", bent, 1.0)


def _additive_from_black() -> Known:
    """f = sum w_i sin(3 x_i), where zero, black and the shared baseline are one image."""
    weight = noise(1, 8, 8, seed=2)
    model = Scored(lambda inputs: (weight * (3 * inputs).sin()).sum((1, 2, 3)))
    return subjects.known(
        "additive", model, subjects.images(4, 1, 8, 8), lambda batch: weight * (3 * batch.inputs).sin()
    )


def target(metric: str) -> Iterator[Check]:
    """The class to explain is not the predicted one, and the other class's logit varies more than its own."""
    weight, rival = noise(3, 8, 8, seed=11), 3 * noise(3, 8, 8, seed=12)

    class Rivals(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.stack([(inputs * weight).sum((1, 2, 3)), (inputs * rival).sum((1, 2, 3)) + 99], 1)

    subject = subjects.known("linear", Rivals(), subjects.images(4, 3, 8, 8), lambda batch: weight * batch.inputs)
    found = _found(metric, subject, subject.truth)
    yield check(metric, subject.name, "phi of a class that is not predicted: 1, whatever the other does", found, 1.0)


def constant(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    found = _found(metric, known, noise(*known.truth.shape, seed=8))
    yield check(metric, known.name, "no drop varies: undefined", found, math.nan)


def constant_map(metric: str) -> Iterator[Check]:
    """With units of one size every sum is the same, but for subsets that differ in size."""
    known = subjects.window()
    ones = torch.ones_like(known.truth)
    if metric != "mu_fidelity":
        found = _found(metric, known, 0.1 * ones, unit="grid4")
        yield check(metric, known.name, "constant map: undefined", found, math.nan)
        return
    phi, n = known.truth.sum(1).flatten(1), 4000
    cosine = phi.sum(1) / (phi.shape[1] ** 0.5 * phi.norm(dim=1))
    found = _found(metric, known, ones, unit="pixel", correlation="pearson", subsets=n)
    claim = "constant map: Pearson's is the cosine, sum phi / (sqrt(d) |phi|), within 4 standard errors"
    yield check(metric, known.name, claim, found, cosine, 4 * (1 - cosine.square()) / n**0.5)


def company(metric: str) -> Iterator[Check]:
    known = subjects.relu()
    maps = noise(*known.truth.shape, seed=7)
    few = {"subsets": 30} if metric in _SUBSETS else {}
    together = _found(metric, known, maps, **few)
    alone = [replace(known, batch=known.batch.select([i])) for i in range(len(known.batch))]
    parts = torch.cat([_found(metric, part, maps[[i]], **few) for i, part in enumerate(alone)])
    yield check(metric, known.name, "alone as in a batch", parts, together)
    grown = _found(metric, known, torch.cat([1000 * maps[:1], maps[1:]]), **few)
    yield check(metric, known.name, "a neighbour's scale is no matter", grown, together)
    yield check(metric, known.name, "-map: the sign changes", _found(metric, known, -maps, **few), -together)
    scaled = Scored(lambda inputs: 100 * known.model(inputs)[:, 0])
    batch = replace(known.batch, logits=scaled(known.batch.inputs))
    other = _found(metric, replace(known, model=scaled, batch=batch), maps, **few)
    yield check(metric, known.name, "f in another unit: no matter", other, together)


def normalised(metric: str) -> Iterator[Check]:
    """Black is black in pixel space: (0 - mean) / std after normalisation. Zero is the mean colour."""
    weight, pixels = noise(3, 8, 8, seed=1), subjects.images(4, 3, 8, 8)
    colours = {"black": 0.0, "white": 1.0, "zero": 0.5}
    plain = subjects.known(
        "linear", Scored(lambda inputs: (inputs * weight).sum((1, 2, 3))), pixels, lambda batch: batch.inputs
    )
    model = Scored(lambda inputs: ((inputs * 0.25 + 0.5) * weight).sum((1, 2, 3)))
    batch = replace(plain.batch, mean=(0.5,), std=(0.25,), inputs=(pixels - 0.5) / 0.25, baseline=pixels.flip(3))
    own = build(metric).baseline  # type: ignore[attr-defined]
    for fill in ("black", "white") if own == "shared" else (own,):
        phi = weight * (pixels - colours[fill])
        found = _found(metric, replace(plain, model=model, batch=batch), phi, baseline=fill)
        yield check(metric, plain.name, f"phi from {fill}, in pixel space {colours[fill]:g}: 1", found, 1.0)


def sampled(metric: str) -> Iterator[Check]:
    """Two maps, any two: what the correlation tends to with more subsets, from the covariance of random sums."""
    known, n = subjects.linear(side=8), 4000
    maps = known.truth + 4 * noise(*known.truth.shape, seed=9) + 1
    a, b = (each.sum(1).flatten(1) for each in (maps, known.truth))
    if metric == "mu_fidelity":
        options, limit = {"correlation": "pearson", "subsets": n}, nn.functional.cosine_similarity(a, b)
        claim = "any map: Pearson's is the cosine of a and phi, within 4 standard errors"
    else:
        options, limit = {"subsets": n}, _correlation(metric, a, b)
        claim = "any map: the correlation of a and phi, within 4 standard errors"
    if metric == "sensitivity_n":
        options["sizes"] = [0.2]
    found = _found(metric, known, maps, unit="pixel", **options)
    yield check(metric, known.name, claim, found, limit, 4 * (1 - limit.square()) / n**0.5)


def by_size(metric: str) -> Iterator[Check]:
    """Pixels of a network do not add up, so that r_n depends on n."""
    known = subjects.relu()
    maps = noise(*known.truth.shape, seed=7)
    sizes = [0.1, 0.5, 0.9]
    found = outcome(build(metric, sizes=sizes, subsets=30), known.model, known.batch, maps)
    curve = found.curves[metric]
    yield check(metric, known.name, "the mean of r_n over n", found.values[metric], curve.sum(1) / 3)
    first = _found(metric, known, maps, sizes=sizes[:1], subsets=30)
    yield check(metric, known.name, "r_n by itself is the first point of the curve", first, curve[:, 0])


def own_draws(metric: str) -> Iterator[Check]:
    """Images draw subsets of their own: twins with other names score alike and not the same."""
    known = subjects.linear(count=3, copies=2)
    found = _found(metric, known, noise(3, 3, 8, 8, seed=9).repeat_interleave(2, 0)).view(3, 2)
    differ = (found[:, 0] != found[:, 1]).double().mean()
    yield check(metric, known.name, "share of twins whose subsets differ", differ, 1.0, 0.0)


def any_map(metric: str) -> Iterator[Check]:
    """On a linear score the drop of a cell is the sum of its contributions; cells are of several sizes here."""
    known = subjects.linear(side=10, baseline="black")
    maps = noise(*known.truth.shape, seed=9) + 0.3
    expected = _correlation(metric, _cells(maps), _cells(known.truth))
    found = _found(metric, known, maps, unit="grid4")
    yield check(metric, known.name, "any map: the correlation of its sums over cells and phi's", found, expected)


def probability(metric: str) -> Iterator[Check]:
    known = subjects.linear(side=10, baseline="black")
    weight = 0.1 * noise(3, 10, 10, seed=1)
    mild = Scored(lambda inputs: (inputs * weight).sum((1, 2, 3)))
    batch = replace(known.batch, logits=mild(known.batch.inputs))
    truth, maps = weight * batch.inputs, noise(*known.truth.shape, seed=9)
    clean = batch.logits[:, :1]
    drop = clean.sigmoid() - (clean - _cells(truth)).sigmoid()
    found = scores(build(metric, unit="grid4"), replace(known, model=mild, batch=batch), maps)[metric]
    yield check(
        metric, known.name, "any map: its drops are of the probability", found, _correlation(metric, _cells(maps), drop)
    )


def gates(metric: str) -> Iterator[Check]:
    """Two pixels, so that the correlation is 1, -1 or, where both drops are one, undefined."""
    for known, expected in (
        (subjects.product(), math.nan),  # each takes all of f
        (subjects.conjunction(), math.nan),
        (subjects.disjunction(), math.nan),  # neither takes any
        (subjects.exclusive(), 1.0),  # the first takes all
        (subjects.minimum(), math.nan),
        (subjects.maximum(), -1.0),  # the second takes 1
        (subjects.symmetric(), math.nan),
    ):
        maps = torch.tensor([2.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
        yield check(metric, known.name, "(2, 1): from the table of f", _found(metric, known, maps), expected)


def ties(metric: str) -> Iterator[Check]:
    """Tokens are worth 1, 0 or -1, and the map knows only where some are: ties on both sides share their rank."""
    known = subjects.counting()
    there = known.truth.sum(1, keepdim=True).abs()
    a, b = ((4 * each.sum(1))[:, ::2, ::2].flatten(1) for each in (there, known.truth))
    claim = "where tokens are: the correlation, ties by average rank"
    yield check(metric, known.name, claim, _found(metric, known, there, unit="patch2"), _correlation(metric, a, b))


def dummies(metric: str) -> Iterator[Check]:
    """Cells of 3 pixels: 5 of 16 touch the window; the others have no drop at all."""
    known = subjects.window()
    maps = noise(*known.truth.shape, seed=5)
    a, b = (nn.functional.avg_pool2d(each.sum(1, keepdim=True), 3).flatten(1) for each in (maps, known.truth))
    found = _found(metric, known, maps, unit="patch3")
    yield check(
        metric,
        known.name,
        "any map: the correlation of its sums over cells and phi's",
        found,
        _correlation(metric, a, b),
    )


def magnitudes(metric: str) -> Iterator[Check]:
    """Black pixels, weights 3^0, 3^-1, ... of both signs: the loss w^2 E[u^2] is in their order, whatever is drawn."""
    weight = (3.0 ** -torch.arange(16, dtype=torch.float64) * (-1.0) ** torch.arange(16)).view(1, 4, 4)
    model = Scored(lambda inputs: (inputs * weight).sum((1, 2, 3)) + 1)
    subject = subjects.known(
        "linear", model, torch.zeros(3, 1, 4, 4, dtype=torch.float64), lambda batch: weight.expand(3, 1, 4, 4)
    )
    for claim, maps, expected in (
        ("w: 1", subject.truth, 1.0),
        ("-w: 1, the sign is no matter", -subject.truth, 1.0),
        ("1 / w: -1", 1 / subject.truth, -1.0),
    ):
        yield check(metric, subject.name, claim, _found(metric, subject, maps, samples=20), expected)


def redrawn(metric: str) -> Iterator[Check]:
    """A pixel redrawn from [0, 1] costs (x - 1/2)^2 + 1/12 in expectation, so that pixels far apart are in order."""
    x = torch.tensor([0.5, 0.7, 0.85, 1.0], dtype=torch.float64).view(1, 1, 1, 4)
    subject = subjects.known(
        "additive", Scored(lambda inputs: inputs.sum((1, 2, 3))), x, lambda batch: batch.inputs - 0.5
    )
    found = _found(metric, subject, subject.truth, samples=400)
    yield check(metric, subject.name, "|x - 1/2|: 1", found, 1.0)


def redrawn_dummies(metric: str) -> Iterator[Check]:
    """The map is 1 inside the window and 0 outside, where no loss is: the correlation of two groups' ranks."""
    known = subjects.window()
    inside = known.batch.masks.double()  # type: ignore[union-attr]
    ordered = torch.arange(144, dtype=torch.float64) + 1
    a = inside.flatten(1)
    expected = _correlation(metric, a, a * ordered)
    found = _found(metric, known, inside.unsqueeze(1), unit="pixel", samples=2)
    yield check(metric, known.name, "the window: dummies share one rank", found, expected)


def redrawn_company(metric: str) -> Iterator[Check]:
    known = subjects.relu()
    maps = noise(*known.truth.shape, seed=7)
    together = _found(metric, known, maps)
    parts = [_found(metric, replace(known, batch=known.batch.select([i])), maps[[i]]) for i in range(len(known.batch))]
    yield check(metric, known.name, "alone as in a batch", torch.cat(parts), together)


def _quadratic_moments(mean: Tensor, linear: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """E[D^2] and Var[D^2] of D = mean + linear.z + z'Bz, z standard normal, from its cumulants.

    k_r = 2^(r-1) (r-1)! tr B^r + 2^(r-3) r! l'B^(r-2) l for r > 1 (Mathai & Provost 1992).
    """
    powers = [torch.eye(len(matrix), dtype=matrix.dtype)]
    for _ in range(4):
        powers.append(powers[-1] @ matrix)

    def cumulant(r: int) -> Tensor:
        bent = torch.einsum("ni,ij,nj->n", linear, powers[r - 2], linear)
        return 2 ** (r - 1) * math.factorial(r - 1) * powers[r].trace() + 2.0 ** (r - 3) * math.factorial(r) * bent

    k1, k2, k3, k4 = mean + matrix.trace(), cumulant(2), cumulant(3), cumulant(4)
    second = k2 + k1.square()
    fourth = k4 + 4 * k3 * k1 + 3 * k2.square() + 6 * k2 * k1.square() + k1**4
    return second, fourth - second.square()


def _infidelity(metric: str, known: Known, maps: Tensor, **options: object) -> Mapping[str, Tensor]:
    return scores(build(metric, **options), known, maps)


def infidelity_of_noise(metric: str) -> Iterator[Check]:
    """f = x'Ax / 2: the error is a quadratic form of normal numbers, whose moments are known, for every map."""
    known, sigma, n = subjects.quadratic(), 0.3, 1000
    known = replace(known, batch=replace(known.batch, chunk=n))
    matrix, x = subjects.quadratic_matrix(), known.batch.inputs.flatten(1)
    best = x @ matrix
    maps = {"the gradient A x, which is SmoothGrad": best, "A x + d": best + noise(3, 9, seed=13), "0": 0 * best}
    whole = metric == "infidelity_noisy_baseline"
    if whole:
        q, square = 0.5 * (x * best).sum(1) - 0.5 * sigma**2 * matrix.trace(), x.square().sum(1)
        maps["the best map, q x / (|x|^2 + sigma^2)"] = x * (q / (square + sigma**2))[:, None]
    for what, phi in maps.items():
        away = (0.5 * (x * best).sum(1) - (x * phi).sum(1)) if whole else torch.zeros(3, dtype=x.dtype)
        lost = phi if whole else best - phi
        expected, variance = _quadratic_moments(away, sigma * lost, -0.5 * sigma**2 * matrix)
        found = _infidelity(metric, known, phi.view_as(known.batch.inputs), sigma=sigma, samples=n)["beta_1"]
        error = 4 * (variance / n).sqrt()
        claim = f"{what}: the mean squared error of a quadratic form, within 4 standard errors"
        yield check(metric, known.name, claim, found, expected, error)
        if what.startswith("the gradient") and not whole:
            least = sigma**4 / 4 * (matrix.trace() ** 2 + 2 * (matrix @ matrix).trace())
            claim = f"{what}: sigma^4/4 ((tr A)^2 + 2 tr A^2), within 4 standard errors"
            yield check(metric, known.name, claim, found, least, error)
        if what.startswith("the best"):
            least = q.square() * sigma**2 / (square + sigma**2) + 0.5 * sigma**4 * (matrix @ matrix).trace()
            claim = f"{what}: q^2 sigma^2 / (|x|^2 + sigma^2) + sigma^4/2 tr A^2, within 4 standard errors"
            yield check(metric, known.name, claim, found, least, error)


def infidelity_of_linear(metric: str) -> Iterator[Check]:
    known, sigma, n = subjects.linear(side=4), 0.3, 2000
    weight = noise(3, 4, 4, seed=1)
    exact = weight.expand_as(known.truth)
    for name, values in _infidelity(metric, known, exact).items():
        yield check(metric, known.name, f"w: {name} is 0", values, 0.0)
    other = noise(*known.truth.shape, seed=14)
    away = (known.batch.inputs - known.batch.baseline) * (metric == "infidelity_noisy_baseline")
    mean, spread = (away * other).sum((1, 2, 3)), sigma * other.flatten(1).norm(dim=1)
    found = _infidelity(metric, known, exact + other, sigma=sigma, samples=n)["beta_1"]
    variance = 4 * mean.square() * spread.square() + 2 * spread**4
    claim = "w + d: d' E[I I'] d, within 4 standard errors"
    yield check(metric, known.name, claim, found, mean.square() + spread.square(), 4 * (variance / n).sqrt())
    one = _infidelity(metric, known, other[:, :1])["beta_1"]
    three = _infidelity(metric, known, other[:, :1].expand_as(other) / 3)["beta_1"]
    yield check(metric, known.name, "one value a pixel stands for equal parts of its channels", one, three)


def infidelity_of_squares(metric: str) -> Iterator[Check]:
    for known in (subjects.linear(), subjects.additive()):
        for name, values in _infidelity(metric, known, known.truth).items():
            yield check(metric, known.name, f"phi: {name} is 0", values, 0.0)
        other = noise(*known.truth.shape, seed=14)
        found = _infidelity(metric, known, other, side=1.0)["beta_1"]
        claim = "a square over the whole image: (sum a - f(x) + f(b))^2"
        yield check(metric, known.name, claim, found, (other.sum((1, 2, 3)) - known.clean + known.absent).square())
    product = subjects.product()
    both = _infidelity(metric, product, product.truth)
    yield check(metric, product.name, "Shapley (3, 3), either pixel takes all of f: (3 - 6)^2", both["beta_1"], 9.0)
    yield check(metric, product.name, "Shapley (3, 3), beta = 2: 0", both["beta_optimal"], 0.0)
    for subject in (subjects.conjunction(), subjects.minimum()):
        drop = float(subject.clean)
        found = _infidelity(metric, subject, torch.full_like(subject.truth, drop))["beta_1"]
        yield check(metric, subject.name, "(f, f), either pixel takes all of f: 0", found, 0.0)
    known = subjects.window()
    for fill, level in (("black", 0.0), ("white", 1.0)):
        weight = torch.where(known.truth != 0, known.truth / (known.batch.inputs - known.batch.baseline), 0.0)
        found = _infidelity(metric, known, weight * (known.batch.inputs - level), baseline=fill)["beta_1"]
        yield check(metric, known.name, f"phi from {fill}: 0", found, 0.0)


def infidelity_scales(metric: str) -> Iterator[Check]:
    known = subjects.relu()
    maps = noise(*known.truth.shape, seed=7)
    once = _infidelity(metric, known, maps)
    often = _infidelity(metric, known, -50 * maps)
    yield check(metric, known.name, "the map's scale: beta* forgives it", often["beta_optimal"], once["beta_optimal"])
    nothing = _infidelity(metric, known, 0 * maps)
    yield check(metric, known.name, "zero map: beta* is no help", nothing["beta_optimal"], nothing["beta_1"])
    above = (once["beta_optimal"] - torch.minimum(once["beta_1"], nothing["beta_1"])).clamp(min=0)
    yield check(metric, known.name, "beta* is no worse than 1 and 0", above, 0.0)
    scaled = Scored(lambda inputs: 3 * known.model(inputs)[:, 0])
    batch = replace(known.batch, logits=scaled(known.batch.inputs))
    larger = _infidelity(metric, replace(known, model=scaled, batch=batch), 3 * maps)
    yield check(metric, known.name, "3 f and 3 phi: 9 times", larger["beta_1"], 9 * once["beta_1"])
    parts = [_infidelity(metric, replace(known, batch=known.batch.select([i])), maps[[i]])["beta_1"] for i in range(4)]
    yield check(metric, known.name, "alone as in a batch", torch.cat(parts), once["beta_1"])


def infidelity_of_constant(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    zero = _infidelity(metric, known, known.truth)
    yield check(metric, known.name, "zero map: 0", zero["beta_1"], 0.0)
    found = _infidelity(metric, known, noise(*known.truth.shape, seed=8))["beta_optimal"]
    yield check(metric, known.name, "any map, beta* = 0: 0", found, 0.0)


_SHARED = (exact, target, constant, constant_map, company, normalised)
_SUBSET = (*_SHARED, sampled, own_draws)
_SINGLE = (*_SHARED, any_map, gates, ties, dummies)
_NOISE = (infidelity_of_linear, infidelity_of_noise, infidelity_scales, infidelity_of_constant)
CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "sensitivity_n": (*_SUBSET, by_size),
    "faithfulness_correlation": _SUBSET,
    "mu_fidelity": _SUBSET,
    "faithfulness_estimate": (*_SINGLE, probability),
    "single_deletion": _SINGLE,
    "single_deletion_idsds": _SINGLE,
    "monotonicity_correlation": (magnitudes, redrawn, redrawn_dummies, redrawn_company, constant, constant_map),
    "infidelity": (infidelity_of_squares, infidelity_scales, infidelity_of_constant),
    "infidelity_gaussian": _NOISE,
    "infidelity_noisy_baseline": _NOISE,
}
