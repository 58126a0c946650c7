"""ROAD, performance information curves and average drop on subjects whose answer is a formula."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor, nn

from benchmark import randomness
from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, outcome, scores
from benchmark.certificate.subjects import Known, Scored, noise
from benchmark.protocols import Metric

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


def _imputed(image: Tensor, missing: Tensor) -> Tensor:
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
                rows.append(_imputed(image, missing) + drawn[i] * missing)
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
    yield from _company(metric, known, maps, "combined")


def _company(metric: str, known: Known, maps: Tensor, measure: str) -> Iterator[Check]:
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


def _sizes(inputs: Tensor, method: int = 0, quality: int = 75) -> Tensor:
    """Bytes of each image `(C, H, W)` in pixel space as a lossless WebP, colours or one grey channel."""
    found = []
    for image in (255 * inputs).round().clamp(0, 255).to(torch.uint8):
        buffer = io.BytesIO()
        picture = image.permute(1, 2, 0) if len(image) == 3 else image[0]
        Image.fromarray(picture.contiguous().numpy()).save(
            buffer, "webp", lossless=True, method=method, quality=quality
        )
        found.append(buffer.tell())
    return torch.tensor(found, dtype=torch.float64)


def _weighed(sign: float = 1.0, mean: float = 0.0, std: float = 1.0) -> Known:
    """A score that is the size of the image itself, so that a curve of it is the diagonal."""
    model = Scored(lambda inputs: sign * _sizes(inputs * std + mean) / 1000)
    known = subjects.known("size in bytes", model, subjects.images(3, 3, 24, 24), lambda batch: 0 * batch.inputs)
    normalised = (known.batch.pixels - mean) / std
    batch = replace(known.batch, inputs=normalised, mean=(mean,), std=(std,), logits=known.model(normalised))
    return replace(known, batch=batch)


def pic_diagonal(metric: str) -> Iterator[Check]:
    """Where the score is the size itself, y = x at every point, so the area is 1/2 whatever the map."""
    for claim, known in (("pixels", _weighed()), ("normalised images", _weighed(mean=0.4, std=0.2))):
        for monotone in (False, True):
            exact = build(metric, output="logit", monotone=monotone)
            for what, maps in (
                ("random map", noise(3, 3, 24, 24, seed=4)),
                ("ramp", torch.arange(24.0) + noise(3, 1, 24, 24) * 0),
            ):
                found = outcome(exact, known.model, known.batch, maps)
                if monotone:
                    short = (0.5 - found.values["sic"]).clamp(min=0)
                    yield check(metric, known.name, f"{claim}, {what}, monotone: no less than 1/2", short, 0.0)
                else:
                    yield check(metric, known.name, f"{claim}, {what}: SIC = 1/2", found.values["sic"], 0.5)
                    grid = torch.linspace(0, 1, found.curves["sic"].shape[1], dtype=torch.float64)
                    yield check(metric, known.name, f"{claim}, {what}: y = x", found.curves["sic"], grid)


def _revealing(side: int) -> Known:
    """f = w.x - c on random pixels, brighter where w is, none black; the class is won on the way to the image."""
    weight = 10 * (noise(3, side, side, seed=31) + 0.3) / (3 * side * side)
    pixels = 0.55 + 0.25 * weight.sign() + 0.4 * (subjects.images(3, 3, side, side, seed=32) - 0.5)
    model = Scored(lambda inputs: (inputs * weight).sum((1, 2, 3)) - 2.7)
    return subjects.known("linear", model, pixels, lambda batch: weight * batch.inputs)


def _at_the_start(exact: Metric, known: Known) -> Tensor:
    """Which pixels `(N, H, W)` the model is shown before any map is asked."""
    shown: list[Tensor] = []
    handle = known.model.register_forward_pre_hook(lambda _, args: shown.append(args[0].clone()))
    exact.prepare(known.model, known.batch)
    handle.remove()
    return (torch.cat(shown) == known.batch.inputs).all(1)


_REVEALED = (0.03, 0.1, 0.25, 0.45, 0.7)


def _revealed(
    known: Known, maps: Tensor, start: Tensor, *, side: int, fill: str, prob: bool, monotone: bool, effort: str
) -> dict[str, Tensor]:
    """SIC and AIC by plain loops: `start` and the best squares of `side` pixels of one image after the other."""
    areas: dict[str, list[float]] = {"sic": [], "aic": []}
    for image, values, seen in zip(known.batch.inputs, maps.sum(1), start, strict=True):
        worth = values.unfold(0, side, side).unfold(1, side, side).mean((2, 3)).flatten()
        order, across, rebuilt = worth.argsort(descending=True).tolist(), len(values) // side, []
        for share in (0.0, *_REVEALED, 1.0):
            there = seen.clone()
            for square in order[: round(share * len(order))]:
                top, left = side * (square // across), side * (square % across)
                there[top : top + side, left : left + side] = True
            rebuilt.append(_imputed(image, ~there) if fill == "nli" else image * there)
        pictures = torch.stack(rebuilt)
        f = known.model(pictures)[:, 0]
        x = _along(_sizes(pictures, *((4, 100) if effort == "source" else (0, 75))).tolist())
        for name, followed in (("sic", f.sigmoid() if prob else f), ("aic", (f > 0).double())):
            y = _along(followed.tolist())
            if monotone:
                y = [max(y[: k + 1]) for k in range(len(y))]
            points = [(0.0, 0.0), *sorted(zip(x, y, strict=True), key=lambda point: point[0]), (1.0, 1.0)]
            areas[name].append(sum((c - a) * (b + d) / 2 for (a, b), (c, d) in pairwise(points)))
    return {name: torch.tensor(found, dtype=torch.float64) for name, found in areas.items()}


def _along(values: list[float]) -> list[float]:
    """Where all but the first and the last number lie from the one up to the other, clipped."""
    first, *between, last = values
    if last <= first:
        return [math.nan for _ in between]
    return [min(max((value - first) / (last - first), 0.0), 1.0) for value in between]


def pic_revealed(metric: str) -> Iterator[Check]:
    """Black but for what is revealed: every image, its bytes and its score made again by hand."""
    known = _revealing(24)
    phi = known.truth.sum(1, keepdim=True)
    extremes = torch.where(phi > phi.mean(), phi - phi.amin(), -phi)  # the score rises and falls again
    maps = {"phi": known.truth, "random map": noise(*known.truth.shape, seed=33), "-phi": -known.truth}
    maps["best half, then the worst first"] = extremes
    for start, side, output, monotone, effort in (
        (0.0, 1, "logit", True, "fast"),
        (0.05, 1, "prob", False, "fast"),
        (0.05, 4, "prob", True, "source"),
    ):
        options = {"start": start, "output": output, "monotone": monotone, "effort": effort}
        exact = build(metric, **options, baseline="black", unit=f"patch{side}", fractions=_REVEALED)
        seen = _at_the_start(exact, known)
        claim = f"round(p d) pixels are known at the start, p = {start:g}"
        yield check(metric, known.name, claim, seen.sum((1, 2)).double(), float(round(start * 24 * 24)), 0.0)
        what = f"squares of {side}, {output}, start {start:g}, {'monotone' if monotone else 'as it is'}, {effort}"
        found = {}
        for name, each in maps.items():
            found[name] = scores(exact, known, each)
            by_hand = _revealed(
                *(known, each, seen), side=side, fill="black", prob=output == "prob", monotone=monotone, effort=effort
            )
            for measure, expected in by_hand.items():
                claim = f"{measure}, {name}: the area by hand; {what}"
                yield check(metric, known.name, claim, found[name][measure], expected)
        for measure, better, worse in (
            ("sic", "phi", "random map"),
            ("sic", "random map", "-phi"),
            ("aic", "phi", "-phi"),
        ):
            above = (found[better][measure] > found[worse][measure]).double()
            yield check(metric, known.name, f"{measure}: {better} above {worse}; {what}", above, 1.0, 0.0)


def pic_imputed(metric: str) -> Iterator[Check]:
    """The rest from a dense solve; an eighth bit that falls otherwise moves a size by some bytes."""
    known = _revealing(12)
    exact = build(metric, output="logit", start=0.1, fractions=_REVEALED)
    seen = _at_the_start(exact, known)
    phi = known.truth * (1 - 0.55 / known.batch.inputs)  # w (x - mean)
    for name, each in (("w (x - mean)", phi), ("the negative", -phi)):
        by_hand = _revealed(known, each, seen, side=1, fill="nli", prob=False, monotone=True, effort="fast")
        for measure, value in scores(exact, known, each).items():
            claim = f"{measure}, {name}: the area by hand, the rest by linear imputation"
            yield check(metric, known.name, claim, value, by_hand[measure], 0.01)


def pic_undefined(metric: str) -> Iterator[Check]:
    """Nothing to climb: the whole image is not above its start."""
    known = subjects.constant()
    for measure, value in scores(build(metric), known, noise(*known.truth.shape, seed=8)).items():
        yield check(metric, known.name, f"{measure}: no rise to speak of", value, torch.nan)
    known = _weighed(sign=-1.0)
    found = scores(build(metric, output="logit"), known, noise(3, 3, 24, 24, seed=4))["sic"]
    yield check(metric, known.name, "a score that falls with size", found, torch.nan)
    flat = subjects.known(
        *("flat image", Scored(lambda inputs: inputs.mean((1, 2, 3))), torch.full((2, 3, 12, 12), 0.5).double()),
        lambda batch: batch.inputs,
    )
    found = scores(build(metric, baseline="black"), flat, noise(2, 3, 12, 12))["sic"]
    yield check(metric, flat.name, "smaller than its start", found, torch.nan)


def pic_confidence(metric: str) -> Iterator[Check]:
    known = _weighed()
    maps, p = noise(3, 3, 24, 24, seed=4), known.clean.sigmoid()
    limit = float(p.sort().values[1])
    found = scores(build(metric, output="logit", monotone=False, min_confidence=limit), known, maps)["sic"]
    expected = torch.where(p < limit, torch.nan, 0.5)
    yield check(metric, known.name, "undefined below min_confidence", found, expected)


def pic_company(metric: str) -> Iterator[Check]:
    known = _weighed()
    maps = noise(3, 3, 24, 24, seed=4)
    yield from _company(metric, known, maps, "sic")
    linear = subjects.linear()
    yield from _company(metric, linear, noise(*linear.truth.shape, seed=4), "sic")


def _dropped(p: Tensor, o: Tensor) -> dict[str, Tensor]:
    return {
        "drop": (p - o).clamp(min=0) / p,
        "increase": (o > p).double(),
        "gain": (o - p).clamp(min=0) / (1 - p),
    }


def _unit_range(values: Tensor) -> Tensor:
    """Each image's own map between 0 and 1."""
    return torch.stack([(value - value.min()) / (value.max() - value.min()) for value in values])


def drop_formula(metric: str) -> Iterator[Check]:
    for known in (subjects.linear(), subjects.additive(), subjects.window()):
        maps = noise(*known.truth.shape, seed=3)
        mask = _unit_range(maps.sum(1, keepdim=True))
        for fill, absent in (("zero", 0 * known.batch.inputs), ("shared", known.batch.baseline)):
            o = known.model(absent + mask * (known.batch.inputs - absent))[:, 0].sigmoid()
            found = scores(build(metric, baseline=fill), known, maps)
            for name, value in _dropped(known.clean.sigmoid(), o).items():
                claim = f"{name}, {fill}: from p = p_c(x) and o = p_c(b + M (x - b))"
                yield check(metric, known.name, claim, found[name], value)


def drop_gates(metric: str) -> Iterator[Check]:
    """A map that keeps the first of two pixels."""
    maps = torch.tensor([5.0, -3.0], dtype=torch.float64).view(1, 1, 1, 2)
    for known, kept in (
        (subjects.product(), 0.0),
        (subjects.disjunction(), 1.0),
        (subjects.maximum(), 2.0),
        (subjects.minimum(), 0.0),
    ):
        found = scores(build(metric), known, maps)
        expected = _dropped(known.clean.sigmoid(), torch.tensor([kept], dtype=torch.float64).sigmoid())
        for name, value in expected.items():
            yield check(metric, known.name, f"{name}: from the table of f", found[name], value)


def drop_gamed(metric: str) -> Iterator[Check]:
    """A map that hides nothing cannot lose: the row that every table must show."""
    for known in (subjects.relu(), subjects.linear()):
        for level in (1.0, -2.0):
            found = scores(build(metric), known, torch.full_like(known.truth, level))
            for name, value in found.items():
                yield check(metric, known.name, f"{name}: 0 for a map of {level:g} everywhere", value, 0.0, 0.0)
        for name, value in scores(build(metric), known, torch.zeros_like(known.truth)).items():
            yield check(metric, known.name, f"{name}: undefined for a map of nothing but 0", value, torch.nan)


def drop_constant(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    for name, value in scores(build(metric), known, noise(*known.truth.shape, seed=8)).items():
        yield check(metric, known.name, f"{name}: nothing changes", value, 0.0)


def drop_company(metric: str) -> Iterator[Check]:
    known = subjects.relu()
    maps = noise(*known.truth.shape, seed=7)
    for measure in ("drop", "gain"):
        yield from _company(metric, known, maps, measure)
        moved = scores(build(metric), known, 3 * maps + 2)[measure]
        found = scores(build(metric), known, maps)[measure]
        yield check(metric, known.name, f"{measure}: a scale and a shift of the map change nothing", moved, found)


def drop_pixels(metric: str) -> Iterator[Check]:
    """Black is black in pixel space, (0 - mean) / std after normalisation, and zero is the mean colour."""
    plain = subjects.linear(baseline="black")
    pixels = plain.batch.pixels
    batch = replace(plain.batch, mean=(0.5,), std=(0.25,), inputs=(pixels - 0.5) / 0.25, baseline=-2.0 + 0 * pixels)
    shifted = replace(plain, model=_Denormalised(plain.model), batch=batch)
    maps = noise(*pixels.shape, seed=6)
    mask = _unit_range(maps.sum(1, keepdim=True))
    for fill, colour in (("black", 0.0), ("zero", 0.5)):
        found = scores(build(metric, baseline=fill), shifted, maps)["drop"]
        o = plain.model(colour + mask * (pixels - colour))[:, 0].sigmoid()
        claim = f"drop, {fill}: M mixes the image with {colour:g} in pixel space"
        yield check(metric, plain.name, claim, found, _dropped(plain.clean.sigmoid(), o)["drop"])


class _Denormalised(nn.Module):
    """A model of pixels for inputs normalised by mean 1/2 and standard deviation 1/4."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs * 0.25 + 0.5)


CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "road": (
        *(road_additive, road_counted, road_gates, road_random, road_exact_counts),
        *(road_constant, road_imputation, road_company),
    ),
    "pic": (pic_diagonal, pic_revealed, pic_imputed, pic_undefined, pic_confidence, pic_company),
    "average_drop": (drop_formula, drop_gates, drop_gamed, drop_constant, drop_company, drop_pixels),
}
