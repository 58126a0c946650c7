"""Performance information curves whose images, file sizes and scores are made here a second time."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor

from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, outcome, scores
from benchmark.certificate.road import company, imputed
from benchmark.certificate.subjects import Known, Scored, noise
from benchmark.protocols import Metric


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
            rebuilt.append(imputed(image, ~there) if fill == "nli" else image * there)
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
    yield from company(metric, known, maps, "sic")
    linear = subjects.linear()
    yield from company(metric, linear, noise(*linear.truth.shape, seed=4), "sic")


CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "pic": (pic_diagonal, pic_revealed, pic_imputed, pic_undefined, pic_confidence, pic_company)
}
