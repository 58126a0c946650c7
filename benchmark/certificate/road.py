"""ROAD on subjects whose curves, and whose imputed pixels, are formulas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from benchmark import randomness
from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, outcome, scores
from benchmark.certificate.subjects import Known, Scored, noise

_TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


def _counts(d: int) -> list[int]:
    """How many of d units are absent at each tenth."""
    return [round(fraction * d) for fraction in _TENTHS]


def _additive(known: Known, phi: Tensor, order: Tensor) -> dict[str, Tensor]:
    """On an additive score with a fixed baseline, f at each fraction is f(x) less the contributions that are gone."""
    ordered = phi.gather(1, order)
    morf, lerf = (
        known.clean - torch.stack([part[:, :k].sum(1) for k in _counts(phi.shape[1])]).mean(0)
        for part in (ordered, ordered.flip(1))
    )
    return {"combined": (lerf - morf) / 2, "morf": morf, "lerf": lerf}


def road_additive(metric: str) -> Iterator[Check]:
    for known in (subjects.linear(), subjects.additive(), subjects.window()):
        exact = build(metric, output="logit", baseline="shared")
        phi = known.truth.sum(1).flatten(1)
        maps = noise(*known.truth.shape, seed=9)
        expected = _additive(known, phi, maps.sum(1).flatten(1).argsort(1, descending=True))
        found = scores(exact, known, maps)
        for name, value in expected.items():
            yield check(metric, known.name, f"{name}: f(x) less the phi of the units that are gone", found[name], value)


def road_counted(metric: str) -> Iterator[Check]:
    """Each token is worth 1, so patches of a token are exact units."""
    known = subjects.counting()
    found = scores(build(metric, output="logit", baseline="shared", unit="patch2"), known, known.truth)
    phi = (known.truth.sum(1) * 4)[:, ::2, ::2].flatten(1)
    expected = _additive(known, phi, phi.argsort(1, descending=True))
    for name, value in expected.items():
        yield check(metric, known.name, f"{name}, patches: f(x) less the phi of those gone", found[name], value)


def road_gates(metric: str) -> Iterator[Check]:
    """Two pixels of which one is absent."""
    points = {  # f without the first pixel, f without the second
        "product": (subjects.product(), 0.0, 0.0),
        "and": (subjects.conjunction(), 0.0, 0.0),
        "or": (subjects.disjunction(), 1.0, 1.0),
        "xor": (subjects.exclusive(), 0.0, 1.0),
        "min": (subjects.minimum(), 0.0, 0.0),
        "max": (subjects.maximum(), 3.0, 2.0),
    }
    maps = torch.tensor([2.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
    for known, first, second in points.values():
        found = scores(build(metric, output="logit", baseline="shared", fractions=[0.5]), known, maps)
        for name, value in (("morf", first), ("lerf", second), ("combined", (second - first) / 2)):
            yield check(metric, known.name, f"{name}: from the table of f", found[name], value)


def road_random(metric: str) -> Iterator[Check]:
    """Ties fall at random. Var sum a_k phi_pi(k) = sum (a - mean a)^2 sum (phi - mean phi)^2 / (d - 1)."""
    copies = 600
    known = subjects.linear(count=2, side=4, copies=copies)
    phi = known.truth.sum(1).flatten(1).view(2, copies, -1)[:, 0]
    d = phi.shape[1]
    place, counts = torch.arange(d)[:, None], torch.tensor(_counts(d))
    weight = ((place < counts).double() - (place >= d - counts).double()).mean(1) / 2
    spread = (weight - weight.mean()).square().sum() * (phi - phi.mean(1, keepdim=True)).square().sum(1) / (d - 1)
    exact = build(metric, output="logit", baseline="shared")
    found = scores(exact, known, torch.ones_like(known.truth))["combined"].view(2, copies)
    claim = "constant map: the mean of a random order, within 4 standard errors"
    yield check(metric, known.name, claim, found.mean(1), 0.0, 4 * (spread / copies).sqrt())
    yield check(metric, known.name, "constant map: the variance of a random order", found.var(1) / spread, 1.0, 0.25)


def road_exact_counts(metric: str) -> Iterator[Check]:
    """f counts the pixels that are there, and five pixels in six have the value 0, as in a map with a ReLU."""
    pixels = torch.ones(3, 1, 12, 12, dtype=torch.float64)
    model = Scored(lambda inputs: inputs.sum((1, 2, 3)))
    known = subjects.known("pixel count", model, pixels, lambda batch: batch.inputs)
    maps = torch.zeros_like(pixels)
    maps[:, :, 3:9, 4:8] = subjects.images(3, 1, 6, 4) + 0.1
    curves = outcome(build(metric, output="logit", baseline="shared"), known.model, known.batch, maps).curves
    expected = 144 - torch.tensor(_counts(144), dtype=torch.float64)
    for name in ("morf", "lerf"):
        claim = f"{name}: a map of zeros loses round(p d) pixels as any other"
        yield check(metric, known.name, claim, curves[name], expected)


def road_constant(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    found = scores(build(metric, output="logit"), known, noise(*known.truth.shape, seed=8))
    for name, value in (("combined", 0.0), ("morf", 0.7), ("lerf", 0.7)):
        yield check(metric, known.name, f"{name}: no drop anywhere", found[name], value)


def imputed(image: Tensor, missing: Tensor) -> Tensor:
    """One image `(C, H, W)` with missing pixels from a dense solve: each the weighted mean of its neighbours."""
    height, width = missing.shape
    y, x = (places.flatten() for places in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    apart = (y[:, None] - y).abs(), (x[:, None] - x).abs()
    beside, across = apart[0] + apart[1] == 1, (apart[0] == 1) & (apart[1] == 1)
    weight = beside.double() / 6 + across.double() / 12
    gone = missing.flatten()
    matrix = (torch.diag(weight.sum(1)) - weight)[gone]
    solution = torch.linalg.solve(matrix[:, gone], -matrix[:, ~gone] @ image.flatten(1)[:, ~gone].T)
    filled = image.flatten(1).clone()
    filled[:, gone] = solution.T
    return filled.view_as(image)


def road_imputation(metric: str) -> Iterator[Check]:
    """A linear score of what a dense solve puts in the holes, and of the noise of each image."""
    known = subjects.linear(count=2)
    maps = noise(*known.truth.shape, seed=5)
    curves = outcome(build(metric, output="logit"), known.model, known.batch, maps).curves
    inputs, keys = known.batch.inputs, known.batch.keys("imputation")[:, 0]
    drawn = 0.01 * randomness.normal(keys, *inputs.shape[1:]).double()
    ordered = maps.sum(1).flatten(1).argsort(1, descending=True)
    for name, places in (("morf", ordered), ("lerf", ordered.flip(1))):
        rows = []
        for i, image in enumerate(inputs):
            for k in _counts(64):
                missing = torch.zeros(64, dtype=torch.bool).index_fill(0, places[i, :k], True).view(8, 8)
                rows.append(imputed(image, missing) + drawn[i] * missing)
        expected = known.model(torch.stack(rows))[:, 0].view(2, -1)
        claim = f"{name}: f of the weighted means of neighbours, plus noise"
        yield check(metric, known.name, claim, curves[name], expected, 2e-3)


def road_company(metric: str) -> Iterator[Check]:
    known = subjects.relu()
    maps = noise(*known.truth.shape, seed=7)
    exact = build(metric)
    found, opposite = (scores(exact, known, each) for each in (maps, -maps))
    yield check(metric, known.name, "-map: MoRF and LeRF change places", found["morf"], opposite["lerf"])
    yield check(metric, known.name, "-map: the negative", found["combined"], -opposite["combined"])
    yield from company(metric, known, maps, "combined")


def company(metric: str, known: Known, maps: Tensor, measure: str) -> Iterator[Check]:
    """What holds for an image does not depend on its neighbours."""
    configured = build(metric)
    found = scores(configured, known, maps)[measure]
    parts = [outcome(configured, known.model, known.batch.select([i]), maps[[i]]) for i in range(len(maps))]
    alone = torch.cat([part.values[measure] for part in parts])
    yield check(metric, known.name, f"{measure}: alone as in a batch", alone, found)
    louder = torch.cat([1000 * maps[:1], maps[1:]])
    yield check(
        metric,
        known.name,
        f"{measure}: a neighbour's scale is no matter",
        scores(configured, known, louder)[measure],
        found,
    )


CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "road": (
        *(road_additive, road_counted, road_gates, road_random, road_exact_counts),
        *(road_constant, road_imputation, road_company),
    )
}
