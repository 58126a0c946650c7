"""Localisation metrics on subjects whose evidence lies in known places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.batches import freeze
from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, gradient, outcome, scores
from benchmark.certificate.subjects import images, noise
from benchmark.protocols import Batch, Explain

_BY_ORDER = {"pointing_game", "relevance_rank", "top_k_intersection", "auroc"}
"""Metrics that look at the order of a map alone."""

_BY_POSITIVE = {"relevance_mass", "energy_pointing_game", "attribution_iou"}
"""Metrics that look at its positive part, and have nothing to say where there is none."""


def _areas(metric: str, masks: Tensor) -> Tensor:
    """Pixels `(N,)` of the region that the metric looks at: the mask, or the box around it."""
    if metric != "energy_pointing_game":
        return masks.sum((1, 2)).double()
    return _boxes(masks).sum((1, 2)).double()


def _boxes(masks: Tensor) -> Tensor:
    boxes = torch.zeros_like(masks)
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = mask.nonzero().T.tolist()
        box[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1] = True
    return boxes


def _hypergeometric(marked: Tensor, total: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the share of marked ones among those drawn without replacement."""
    share = marked / total
    return share, share * (1 - share) / drawn * (total - drawn) / (total - 1).clamp(min=1)


def _overlap(marked: Tensor, total: int, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of intersection over union of `marked` pixels and as many random ones as `drawn`."""
    moments = []
    for m, k in zip(marked.int().tolist(), drawn.int().tolist(), strict=True):
        most = range(max(0, m + k - total), min(m, k) + 1)
        law = [(math.comb(m, j) * math.comb(total - m, k - j) / math.comb(total, k), j / (m + k - j)) for j in most]
        mean = sum(p * iou for p, iou in law)
        moments.append((mean, sum(p * (iou - mean) ** 2 for p, iou in law)))
    mean, variance = torch.tensor(moments, dtype=torch.float64).T
    return mean, variance


def window(metric: str) -> Iterator[Check]:
    """All that the model reads is in the mask, a rectangle of 24 pixels, and all of it speaks for the target."""
    known = subjects.window()
    found = scores(build(metric), known, known.truth)[metric]
    if metric == "attribution_iou":
        phi = known.truth.sum(1).flatten(1)
        above = (phi >= 0.15 * phi.amax(1, keepdim=True)).sum(1).double()
        yield check(metric, known.name, "phi: its pixels above 15 % of the maximum / 24", found, above / 24)
        found = scores(build(metric, rule="mask"), known, known.truth)[metric]
        yield check(metric, known.name, "phi: as many pixels as the mask has are the mask", found, 1.0)
        found = scores(build(metric, rule="top", threshold=0.25), known, known.truth)[metric]
        yield check(metric, known.name, "phi: the top 36 of 144 pixels hold its 24", found, 24 / 36)
    else:
        yield check(metric, known.name, "phi: all of it lies on the object", found, 1.0)
    found = scores(build(metric), known, -known.truth)[metric]
    last = math.nan if metric in _BY_POSITIVE else 0.0
    yield check(metric, known.name, "-phi: nothing positive is left, and the object comes last", found, last)
    if metric == "pointing_game":
        for row, column, distance in ((2, 5, 1.0), (1, 9, 2.0), (2, 3, math.sqrt(2)), (8, 11, math.sqrt(8))):
            spike = torch.zeros_like(known.truth[:, :1])
            spike[:, 0, row, column] = 1.0
            hits = [scores(build(metric, tolerance=t), known, spike)[metric][0] for t in range(4)]
            claim = f"a maximum {distance:.2f} pixels beside the object, tolerances 0 to 3"
            near = torch.tensor([float(distance <= t) for t in range(4)])
            yield check(metric, known.name, claim, torch.stack(hits), near)
    if metric == "top_k_intersection":
        found = scores(build(metric, share=0.5), known, known.truth)[metric]
        yield check(metric, known.name, "phi: the top 72 of 144 pixels hold its 24", found, 24 / 72)


def tokens(metric: str) -> Iterator[Check]:
    """Red tokens speak for the target and are the mask of m pixels, blue ones, b pixels, against it."""
    known = subjects.counting(count=200)
    assert known.batch.masks is not None
    red, blue = known.batch.masks, known.truth[:, 2] < 0
    m, b, d = red.sum((1, 2)).double(), blue.sum((1, 2)).double(), red[0].numel()
    box = _boxes(red)
    expected: Mapping[str, Tensor | float] = {"phi": 1.0, "-phi": 0.0, "|phi|": m / (m + b)}
    if metric == "energy_pointing_game":
        there = {"phi": red, "-phi": blue, "|phi|": red | blue}
        expected = {claim: (pixels & box).sum((1, 2)).double() / pixels.sum((1, 2)) for claim, pixels in there.items()}
    elif metric == "auroc":
        expected = {"phi": 1.0, "-phi": 0.0, "|phi|": (d - m - b / 2) / (d - m)}
    elif metric == "relevance_rank":
        expected = {"phi": 1.0, "-phi": (2 * m - d).clamp(min=0) / m, "|phi|": m / (m + b)}
    for claim, maps in (("phi", known.truth), ("-phi", -known.truth), ("|phi|", known.truth.abs())):
        found = scores(build(metric), known, maps)[metric]
        if claim == "|phi|" and metric in ("relevance_rank", "top_k_intersection"):
            mean, variance = _hypergeometric(m, m + b, m if metric == "relevance_rank" else torch.ones_like(m))
            claim = "|phi|: red and blue tie, m / (m + b) on average, within 4 standard errors"
            yield check(metric, known.name, claim, found.mean(), mean.mean(), 4 * variance.sum().sqrt() / len(m))
        else:
            yield check(metric, known.name, f"{claim}: from the count of tokens", found, expected[claim])


def constant_map(metric: str) -> Iterator[Check]:
    """A map that says nothing scores as the average of random ones, exactly or by its ties."""
    for known in (subjects.window(count=400), subjects.counting(count=400)):
        assert known.batch.masks is not None
        masks = known.batch.masks
        d, m, region = masks[0].numel(), masks.sum((1, 2)).double(), _areas(metric, masks)
        found = scores(build(metric), known, torch.ones_like(known.truth))[metric]
        if metric == "auroc":
            yield check(metric, known.name, "constant map: 1/2", found, 0.5)
        elif metric in ("relevance_rank", "top_k_intersection"):
            drawn = m if metric == "relevance_rank" else torch.full_like(m, round(0.02 * d))
            mean, variance = _hypergeometric(m, torch.full_like(m, d), drawn)
            claim = "constant map: the object's share of the image, within 4 standard errors"
            yield check(metric, known.name, claim, found.mean(), mean.mean(), 4 * variance.sum().sqrt() / len(m))
            claim = "constant map: the spread of random ties"
            yield check(metric, known.name, claim, (found - mean).square().mean() / variance.mean(), 1.0, 0.35)
        else:
            what = "box" if metric == "energy_pointing_game" else "object"
            yield check(metric, known.name, f"constant map: the {what}'s share of the image", found, region / d)


def random_maps(metric: str) -> Iterator[Check]:
    """Independent exponential pixels: the mean over many images, with its standard error from the exact law."""
    for known in (subjects.window(count=400), subjects.counting(count=400)):
        assert known.batch.masks is not None
        masks = known.batch.masks
        d, m, region = masks[0].numel(), masks.sum((1, 2)).double(), _areas(metric, masks)
        maps = noise(len(m), 2, *masks.shape[1:], seed=31).square().sum(1, keepdim=True)  # chi-square of 2: exponential
        total, share = torch.full_like(m, d), region / d
        protocols: list[tuple[Mapping[str, Any], Tensor, Tensor, str]] = []
        if metric == "pointing_game":
            protocols = [({}, share, share * (1 - share), "the object's share")]
        elif metric == "auroc":
            protocols = [({}, 0 * m + 0.5, (d + 1) / (12 * m * (d - m)), "1/2")]
        elif metric == "relevance_rank":
            protocols = [({}, *_hypergeometric(m, total, m), "the object's share")]
        elif metric == "top_k_intersection":
            drawn = torch.full_like(m, round(0.1 * d))
            protocols = [({"share": 0.1}, *_hypergeometric(m, total, drawn), "the object's share")]
        elif metric == "attribution_iou":
            kept = (maps >= 0.15 * maps.amax((1, 2, 3), keepdim=True)).sum((1, 2, 3))
            protocols = [
                ({}, *_overlap(m, d, kept), "the hypergeometric mean for k kept pixels"),
                ({"rule": "mask"}, *_overlap(m, d, m), "the hypergeometric mean for as many pixels as the mask"),
            ]
        else:
            variance = share * (1 - share) / (d + 1)  # of a Beta(region, d - region) share
            what = "box" if metric == "energy_pointing_game" else "object"
            protocols = [({}, share, variance, f"the {what}'s share")]
        for options, mean, variance, formula in protocols:
            found = scores(build(metric, **options), known, maps)[metric]
            claim = f"random maps: {formula}, within 4 standard errors"
            yield check(metric, known.name, claim, found.mean(), mean.mean(), 4 * variance.sum().sqrt() / len(m))


def constant(metric: str) -> Iterator[Check]:
    """The model uses nothing, and the map that says so is 0: only metrics of the order have a (chance) score."""
    known = subjects.constant(count=400)
    assert known.batch.masks is not None
    d, m = 144.0, torch.full((400,), 12.0, dtype=torch.float64)
    found = scores(build(metric), known, known.truth)[metric]
    if metric in _BY_POSITIVE:
        yield check(metric, known.name, "map of zeros: no positive evidence, undefined", found, math.nan)
    elif metric in ("relevance_rank", "top_k_intersection"):
        drawn = m if metric == "relevance_rank" else torch.full_like(m, 3)
        mean, variance = _hypergeometric(m, torch.full_like(m, d), drawn)
        claim = "map of zeros: the object's share of the image, within 4 standard errors"
        yield check(metric, known.name, claim, found.mean(), mean.mean(), 4 * variance.sum().sqrt() / len(m))
    else:
        expected = 0.5 if metric == "auroc" else 12 / 144
        yield check(metric, known.name, "map of zeros: what a random map scores on average", found, expected)


def undefined(metric: str) -> Iterator[Check]:
    """An image without an object has no score; one that is all object has none where something beside it is needed."""
    known = subjects.window()
    assert known.batch.masks is not None
    masks = known.batch.masks.clone()
    masks[0], masks[1] = False, True
    odd = replace(known, batch=replace(known.batch, masks=masks))
    maps = noise(4, 1, 12, 12, seed=32).abs() + 1
    found = scores(build(metric), odd, maps)[metric]
    usual = scores(build(metric), known, maps)[metric]
    yield check(metric, known.name, "no object: undefined, and not a hit", found[0], math.nan)
    if metric == "attribution_iou":
        expected = float((maps[1] >= 0.15 * maps[1].max()).double().mean())
    else:
        expected = math.nan if metric == "auroc" else 1.0
    yield check(
        metric, known.name, "nothing but the object: 1, or undefined where a rest is needed", found[1], expected
    )
    yield check(metric, known.name, "the images beside them are not touched", found[2:], usual[2:], 0)


def company(metric: str) -> Iterator[Check]:
    """What no map, scale or neighbour may change."""
    known = subjects.counting(count=5)
    maps = noise(5, 1, 8, 8, seed=33)
    found = scores(build(metric), known, maps)[metric]
    alone = [outcome(build(metric), known.model, known.batch.select([i]), maps[[i]]).values[metric] for i in range(5)]
    yield check(metric, known.name, "alone as in a batch", torch.cat(alone), found)
    larger = torch.cat([1000 * maps[:1], maps[1:]])
    grown = scores(build(metric), known, larger)[metric]
    yield check(metric, known.name, "scale is no matter, its own or a neighbour's", grown, found)
    lopsided = torch.cat([0 * maps + 50, maps, 0 * maps - 50], 1)
    summed = scores(build(metric), known, lopsided)[metric]
    yield check(metric, known.name, "channels are summed first", summed, found)
    if metric in _BY_ORDER:
        bent = scores(build(metric), known, (maps / 3).exp() - 5)[metric]
        yield check(metric, known.name, "a rising transform of the map changes nothing", bent, found)
    else:
        cut = scores(build(metric), known, maps.clamp(min=0))[metric]
        yield check(metric, known.name, "negative values are no evidence, however large", cut, found)


class _Colours(nn.Module):
    """Class c is 40 times the mean of colour channel c, at any size."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 40 * inputs.mean((2, 3))


_COLOURS = "one colour a class"
_SIZE = (12, 18)


def _colours(count: int, dim: int | None = None) -> Batch:
    """Images of one of five colours each, image i of class i % 5; class `dim` so dark that the model is not sure."""
    kind = torch.arange(count) % 5
    pixels = torch.zeros(count, 5, *_SIZE, dtype=torch.float64)
    pixels[torch.arange(count), kind] = 0.4 + 0.6 * images(count, 1, *_SIZE, seed=41)[:, 0]
    pixels[kind == dim] *= 0.01
    return _frozen(pixels, kind)


def _frozen(pixels: Tensor, kind: Tensor) -> Batch:
    uids = [f"colour-{i}" for i in range(len(pixels))]
    return freeze(_Colours().eval(), pixels, uids, labels=kind, explain="label", baseline="grey")


def _played(batch: Batch, explain: Explain, **options: Any) -> Tensor:
    found = outcome(build("grid_pointing_game", **options), _Colours().eval(), batch, 0 * batch.inputs, explain)
    return found.values["grid_pointing_game"]


def _given(batch: Batch, **options: Any) -> Batch:
    """The mosaics that a method is asked to explain."""
    given: list[Batch] = []

    def explain(model: nn.Module, mosaics: Batch) -> Tensor:
        given.append(mosaics)
        return mosaics.inputs

    _played(batch, explain, **options)
    return given[0]


def _evidence(model: nn.Module, batch: Batch) -> Tensor:
    """Gradient x input, exact on this model."""
    return gradient(model, batch) * batch.inputs


def _flat(model: nn.Module, batch: Batch) -> Tensor:
    return torch.ones_like(batch.inputs)


def _drawn(model: nn.Module, batch: Batch) -> Tensor:
    """Independent exponential pixels, the same for an image in any company."""
    uniform = randomness.uniform(batch.keys("null")[:, 0], 1, *batch.inputs.shape[2:])
    return -(1 - uniform.double()).log()


def mosaics(metric: str) -> Iterator[Check]:
    """Each class reads one colour, which is in one cell: all of its evidence is there, in both layouts."""
    batch = _colours(30)
    for grid in (2, 3):
        for resize in (True, False):
            layout = f"{grid} x {grid}, {'shrunk' if resize else 'at full size'}"
            found = _played(batch, _evidence, grid=grid, resize=resize)
            yield check(metric, _COLOURS, f"gradient x input, {layout}: 1", found, 1.0)
            found = _played(batch, _flat, grid=grid, resize=resize)
            yield check(metric, _COLOURS, f"constant map, {layout}: 1 / {grid}^2", found, 1 / grid**2)
        null = build(metric, grid=grid).measures[0].null or math.nan
        yield check(metric, _COLOURS, f"the expected score of random maps, {grid} x {grid}", null, 1 / grid**2, 0)
    found = _played(batch, gradient)
    yield check(metric, _COLOURS, "gradient, the same in every cell: 1 / 4", found, 0.25)
    found = _played(batch, lambda model, each: 1e-12 * _evidence(model, each))
    yield check(metric, _COLOURS, "scale is no matter", found, 1.0)
    found = _played(batch, lambda model, each: -each.inputs)
    yield check(metric, _COLOURS, "no positive evidence: undefined", found, math.nan)


def another_class(metric: str) -> Iterator[Check]:
    """Evidence for another class lies in its own cell, or nowhere if that class is not in the mosaic."""
    batch = _colours(30)
    other = (batch.targets + 1) % 5
    found = _played(batch, lambda model, each: _evidence(model, replace(each, targets=other)))
    there = _given(batch).logits.gather(1, other[:, None])[:, 0] > 0
    yield check(metric, _COLOURS, "evidence for another class: 0", found, torch.where(there, 0.0, math.nan))


def layout(metric: str) -> Iterator[Check]:
    """What a method is given: sound logits, four classes a mosaic, every cell as often as any."""
    batch, model = _colours(400), _Colours().eval()
    shrunk, full = _given(batch, resize=True), _given(batch, resize=False)
    for name, given in (("shrunk", shrunk), ("full size", full)):
        yield check(metric, _COLOURS, f"logits of the mosaics, {name}", given.logits, model(given.inputs))
        absent = model(given.baseline)
        yield check(metric, _COLOURS, f"logits of their baselines, {name}", given.baseline_logits, absent)
    own, target = (each.logits.gather(1, batch.targets[:, None]) for each in (batch, full))
    yield check(metric, _COLOURS, "the target's logit is a quarter: the others have other targets", target, own / 4)
    yield check(metric, _COLOURS, "four different classes", (full.logits > 0).sum(1).double(), 4.0)
    cells = _given(batch, grid=3, resize=False).inputs.unflatten(3, (3, -1)).unflatten(2, (3, -1)).sum((1, 3, 5))
    apart = (cells.flatten(1).sort(1).values.diff(dim=1) > 1e-9).sum(1).double()
    yield check(metric, _COLOURS, "nine different images", apart + 1, 9.0)
    assert shrunk.masks is not None
    corners = torch.stack([shrunk.masks[:, row, column] for row in (0, -1) for column in (0, -1)]).double()
    claim = "each cell a quarter of the time, within 4 standard errors"
    yield check(metric, _COLOURS, claim, corners.mean(1), 0.25, 4 * math.sqrt(0.25 * 0.75 / 400))


def shrinking(metric: str) -> Iterator[Check]:
    """A checkerboard of single pixels becomes grey; every third pixel of it is a checkerboard again."""
    kind = torch.arange(15) % 5
    pixels = torch.zeros(15, 5, *_SIZE, dtype=torch.float64)
    pixels[torch.arange(15), kind] = ((torch.arange(12)[:, None] + torch.arange(18)) % 2).double()
    given = _given(_frozen(pixels, kind), grid=3).inputs.sum(1)
    yield check(metric, _COLOURS, "a third of a checkerboard is grey inside", given[:, 1:3, 1:5], 0.5, 0.01)


def doubt(metric: str) -> Iterator[Check]:
    """Images of which the model is not sure take no part."""
    batch = _colours(30, dim=4)
    found = _played(batch, _evidence)
    expected = torch.where(batch.targets == 4, math.nan, 1.0)
    yield check(metric, _COLOURS, "an image below min_confidence is undefined", found, expected)
    logits = _given(batch).logits
    yield check(metric, _COLOURS, "and is in no other's mosaic", logits[:, 4], 0.0, 0)
    yield check(
        metric, _COLOURS, "with min_confidence 0 it takes part", _played(batch, _evidence, min_confidence=0), 1.0
    )


def random_mosaics(metric: str) -> Iterator[Check]:
    """Independent exponential pixels: a Beta share of a quarter of d pixels."""
    for resize, d in ((True, 216), (False, 864)):
        found = _played(_colours(400), _drawn, resize=resize)
        error = math.sqrt(0.25 * 0.75 / (d + 1) / 400)
        claim = f"random maps of {d} pixels: 1 / 4, within 4 standard errors"
        yield check(metric, _COLOURS, claim, found.mean(), 0.25, 4 * error)


def any_company(metric: str) -> Iterator[Check]:
    batch = _colours(20)

    def explain(model: nn.Module, each: Batch) -> Tensor:
        return _drawn(model, each) * each.inputs  # so that it matters who else is in the mosaic

    found = _played(batch, explain)
    alone = torch.cat([_played(batch.select([i]), explain) for i in range(20)])
    yield check(metric, _COLOURS, "alone as in a batch", alone, found)
    backwards = replace(batch.select(list(range(20))[::-1]), whole=None)
    yield check(metric, _COLOURS, "the order of the data set is no matter", _played(backwards, explain).flip(0), found)


_ON_MASKS = (window, tokens, constant_map, random_maps, constant, undefined, company)
_ON_MOSAICS = (mosaics, another_class, layout, shrinking, doubt, random_mosaics, any_company)
CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "pointing_game": _ON_MASKS,
    "relevance_mass": _ON_MASKS,
    "relevance_rank": _ON_MASKS,
    "energy_pointing_game": _ON_MASKS,
    "top_k_intersection": _ON_MASKS,
    "auroc": _ON_MASKS,
    "attribution_iou": _ON_MASKS,
    "grid_pointing_game": _ON_MOSAICS,
}
