"""Pixel flipping, IROF, minimal subset, monotonicity, SaCo and ERASER on subjects whose curves are formulas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from skimage.segmentation import slic
from torch import Tensor

from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, outcome, scores
from benchmark.certificate.subjects import Known, Scored, known, noise
from benchmark.protocols import Batch

_SHARED = {"output": "logit", "baseline": "shared", "unit": "pixel"}

_GATES = {  # f(x), f without the first pixel, f without the second, f(b)
    subjects.product: (6.0, 0.0, 0.0, 0.0),
    subjects.conjunction: (1.0, 0.0, 0.0, 0.0),
    subjects.disjunction: (1.0, 1.0, 1.0, 0.0),
    subjects.exclusive: (1.0, 0.0, 1.0, 0.0),
    subjects.minimum: (2.0, 0.0, 0.0, 0.0),
    subjects.maximum: (3.0, 3.0, 2.0, 0.0),
}


def _gates() -> Iterator[tuple[Known, str, Tensor, tuple[float, float, float, float]]]:
    """Subjects of two pixels with maps of both orders, and f of the whole, without the first, only with it, of none."""
    for subject, (whole, first_gone, second_gone, nothing) in _GATES.items():
        for claim, values, table in (
            ("first pixel first", [2.0, 1.0], (whole, first_gone, second_gone, nothing)),
            ("second pixel first", [1.0, 2.0], (whole, second_gone, first_gone, nothing)),
        ):
            yield subject(), claim, torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2), table


def _sorted(subject: Known, maps: Tensor) -> Tensor:
    """Exact contributions `(N, d)` of the pixels from the one that `maps` has for the most relevant on."""
    order = maps.sum(1).flatten(1).argsort(1, descending=True)
    return subject.truth.sum(1).flatten(1).gather(1, order)


def _additive() -> Iterator[tuple[Known, str, Tensor]]:
    """Subjects with exact contributions, and maps to take them by; one whose channels must be summed before ranking."""
    for subject in (subjects.linear(), subjects.additive()):
        yield subject, "phi", subject.truth
        yield subject, "random map", noise(*subject.truth.shape, seed=9)
    linear = subjects.linear()
    rest = linear.truth[:, 1:] * 0 + torch.tensor([50.0, -50.0]).view(1, 2, 1, 1)
    yield linear, "channels are summed before ranking", torch.cat([linear.truth.sum(1, keepdim=True), rest], 1)


def company(metric: str) -> Iterator[Check]:
    """No image is scored by what else is in the batch."""
    subject = subjects.relu()
    maps = noise(*subject.truth.shape, seed=7)
    exact = build(metric)
    found = _stacked(outcome(exact, subject.model, subject.batch, maps).values)
    alone = [outcome(exact, subject.model, subject.batch.select([i]), maps[[i]]).values for i in range(len(maps))]
    yield check(metric, subject.name, "alone as in a batch", torch.cat([_stacked(each) for each in alone]), found)
    larger = outcome(exact, subject.model, subject.batch, torch.cat([1000 * maps[:1], maps[1:]])).values
    yield check(metric, subject.name, "a neighbour's scale is no matter", _stacked(larger), found)


def _stacked(values: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([values[name] for name in sorted(values)], 1)


# Pixel flipping and region perturbation


def _drop(phi: Tensor, steps: int) -> dict[str, Tensor]:
    """AOPC of contributions in the order in which they go: phi_k is in L + 1 - k of the L + 1 terms."""
    weight = 1 - torch.arange(1, steps + 1, dtype=torch.float64) / (steps + 1)
    most, least = (phi[:, :steps] * weight).sum(1), (phi.flip(1)[:, :steps] * weight).sum(1)
    return {"aopc": most, "aopc_lerf": least, "abpc": most - least}


def flipped(metric: str) -> Iterator[Check]:
    for subject, what, maps in _additive():
        for steps, regions in ((64, None), (20, 20)):
            found = scores(build(metric, **_SHARED, steps=steps, regions=regions), subject, maps)
            for name, expected in _drop(_sorted(subject, maps), steps).items():
                claim = f"{what}: {name} = sum phi_k (L + 1 - k) / (L + 1), L = {steps}"
                yield check(metric, subject.name, claim, found[name], expected)


def _shown(metric: str, subject: Known, batch: Batch, fill: str) -> Tensor:
    """What the model is shown in place of each image of `batch` where all is absent, in pixel space."""
    shown: list[Tensor] = []
    handle = subject.model.register_forward_pre_hook(lambda _, args: shown.append(args[0].clone()))
    exact = build(metric, baseline=fill, unit="pixel", steps=1, regions=None)
    outcome(exact, subject.model, batch, torch.zeros_like(batch.inputs))
    handle.remove()
    return replace(batch, inputs=torch.cat(shown)).pixels


def noise_for_absent(metric: str) -> Iterator[Check]:
    """Uniform noise is of moments that are known, and independent from pixel to pixel and from image to image."""
    subject = subjects.linear(count=8, side=16)
    batch = replace(subject.batch, mean=(0.4,), std=(0.2,), inputs=(subject.batch.pixels - 0.4) / 0.2)
    found = _shown(metric, subject, batch, "uniform")
    outside = ((found < -1e-6) | (found > 1 + 1e-6)).double().mean()
    yield check(metric, subject.name, "uniform: share of pixels outside [0, 1]", outside, 0.0, 0.0)
    off, n = found - 0.5, found.numel()
    yield check(
        metric, subject.name, "uniform: mean 1/2, within 4 standard errors", off.mean(), 0.0, 4 / (12 * n) ** 0.5
    )
    claim = "uniform: variance 1/12, within 4 standard errors"
    yield check(metric, subject.name, claim, off.square().mean(), 1 / 12, 4 * ((1 / 80 - 1 / 144) / n) ** 0.5)
    for dimension, what in enumerate(("images", "channels", "rows", "columns")):
        product = 12 * off * off.roll(1, dimension)
        claim = f"uniform: neighbouring {what} do not correlate, within 4 standard errors"
        yield check(metric, subject.name, claim, product.mean(), 0.0, 4 / n**0.5)
    alone = torch.cat([_shown(metric, subject, batch.select([i]), "uniform") for i in range(8)])
    yield check(metric, subject.name, "uniform: the same noise alone as in a batch", alone, found)


def samples_for_absent(metric: str) -> Iterator[Check]:
    """Another image of the data set, also where the batch is a part of it; any of them, equally often."""
    subject, seeds = subjects.linear(), 64
    pixels, chosen = subject.batch.pixels, torch.zeros(4, 4, dtype=torch.float64)
    for seed in range(seeds):
        found = _shown(metric, subject, replace(subject.batch, seed=seed), "sample")
        chosen += (found[:, None] == pixels).flatten(2).all(2)
    expected = (1 - torch.eye(4, dtype=torch.float64)) / 3
    claim = "sample: never the image itself, each other for a third of the seeds, within 4 standard errors"
    tolerance = 4 * (expected * (1 - expected) / seeds).sqrt()
    yield check(metric, subject.name, claim, chosen / seeds, expected, tolerance)
    found = _shown(metric, subject, subject.batch, "sample")
    for part in ([0], [1], [2, 3], [3, 0, 1]):
        alone = _shown(metric, subject, subject.batch.select(part), "sample")
        claim = f"sample: the same image of the data set for {part} by themselves"
        yield check(metric, subject.name, claim, alone, found[part])


def regions(metric: str) -> Iterator[Check]:
    """Squares of 2 pixels under uniform noise: w (x - u) of each square, by the mean of the map over it."""
    subject = subjects.linear()
    maps, absent = noise(*subject.truth.shape, seed=6), _shown(metric, subject, subject.batch, "uniform")
    phi = (subject.truth * (subject.batch.inputs - absent) / (subject.batch.inputs - subject.batch.baseline)).sum(1)
    phi, worth = (each.unfold(1, 2, 2).unfold(2, 2, 2).sum((3, 4)).flatten(1) for each in (phi, maps.sum(1)))
    phi = phi.gather(1, worth.argsort(1, descending=True))
    for steps in (16, 7):
        options = {"output": "logit", "baseline": "uniform", "unit": "patch2", "steps": steps, "regions": steps}
        found = scores(build(metric, **options), subject, maps)
        for name, expected in _drop(phi, steps).items():
            claim = f"squares under noise: {name} = sum phi_k (L + 1 - k) / (L + 1), L = {steps}"
            yield check(metric, subject.name, claim, found[name], expected)


def flipped_at_random(metric: str) -> Iterator[Check]:
    """sum w_k phi_pi(k) over random orders: mean d mean(w) mean(phi), variance d^2 var(w) var(phi) / (d - 1)."""
    copies, steps = 400, 16
    subject = subjects.linear(count=2, side=4, copies=copies)
    phi = subject.truth.sum(1).flatten(1).view(2, copies, -1)[:, 0]
    found = scores(build(metric, **_SHARED, steps=steps, regions=None), subject, torch.ones_like(subject.truth))
    weight = 1 - torch.arange(1, steps + 1, dtype=torch.float64) / (steps + 1)
    for name, w in (("aopc", weight), ("aopc_lerf", weight.flip(0)), ("abpc", weight - weight.flip(0))):
        mean = steps * w.mean() * phi.mean(1)
        variance = steps**2 * w.var(correction=0) * phi.var(1, correction=0) / (steps - 1)
        values = found[name].view(2, copies)
        claim = f"constant map: {name} is the mean of a random order, within 4 standard errors"
        yield check(metric, subject.name, claim, values.mean(1), mean, 4 * (variance / copies).sqrt())
        claim = f"constant map: {name} has the variance of a random order"
        yield check(metric, subject.name, claim, values.var(1) / variance, 1.0, 0.25)


def flipped_gates(metric: str) -> Iterator[Check]:
    for subject, claim, maps, (whole, without, only, nothing) in _gates():
        found = scores(build(metric, **_SHARED), subject, maps)
        most, least = (2 * whole - without - nothing) / 3, (2 * whole - only - nothing) / 3
        for name, expected in (("aopc", most), ("aopc_lerf", least), ("abpc", most - least)):
            yield check(metric, subject.name, f"{claim}: {name} from the table of f", found[name], expected)


def flipped_constant(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    found = scores(build(metric, output="logit"), subject, noise(*subject.truth.shape, seed=8))
    yield check(metric, subject.name, "no drop anywhere", _stacked(found), 0.0)


def flipped_backwards(metric: str) -> Iterator[Check]:
    """On any model: the order reversed, and what SRG makes of the same curves."""
    subject = subjects.relu()
    maps = noise(*subject.truth.shape, seed=7)
    options = {"output": "prob", "baseline": "shared", "unit": "pixel", "steps": 16}
    found, reverse = (scores(build(metric, **options, regions=None), subject, each) for each in (maps, -maps))
    yield check(metric, subject.name, "-map: the two orders change places", found["aopc"], reverse["aopc_lerf"])
    yield check(metric, subject.name, "-map: ABPC changes its sign", found["abpc"], -reverse["abpc"])
    srg = scores(build("srg", **options), subject, maps)["srg"]
    yield check(metric, subject.name, "ABPC to the end is SRG L / (L + 1)", found["abpc"], srg * 16 / 17)


# IROF


def segments(metric: str) -> Iterator[Check]:
    """A segment at a time, the one of highest mean first: the trapezoid of what is left of a linear score."""
    subject = subjects.linear(count=3, side=16)
    maps = noise(*subject.truth.shape, seed=5)
    expected = []
    for i, pixels in enumerate(subject.batch.pixels.permute(0, 2, 3, 1).numpy()):
        part = torch.from_numpy(slic(pixels, n_segments=12, slic_zero=True, start_label=0, channel_axis=-1))
        where = [part == number for number in part.unique()]
        where.sort(key=lambda inside, i=i: float(maps[i].sum(0)[inside].mean()), reverse=True)  # type: ignore[misc]
        lost = torch.stack([subject.truth[i].sum(0)[inside].sum() for inside in where]).cumsum(0)
        expected.append(_left(subject.clean[i], torch.cat([lost[:1] * 0, lost])))
    found = scores(build(metric, output="logit", baseline="shared", unit="slic12"), subject, maps)["irof"]
    yield check(metric, subject.name, "superpixels: 1 - trapezoid of f(x^l) / f(x)", found, torch.stack(expected))


def _left(clean: Tensor, lost: Tensor) -> Tensor:
    """1 - the mean trapezoid of (clean - lost) / clean, undefined where clean is not above 0."""
    curve = (clean - lost) / clean if clean > 0 else lost * torch.nan
    return 1 - (curve[1:] + curve[:-1]).mean() / 2


def removed(metric: str) -> Iterator[Check]:
    for subject, what, maps in _additive():
        phi, exact = _sorted(subject, maps), build(metric, **_SHARED, steps=64)
        area = subject.absent + (phi * (torch.arange(64) + 0.5) / 64).sum(1)
        expected = torch.where(subject.clean > 0, 1 - area / subject.clean, torch.nan)
        claim = f"{what}: 1 - Del / f(x), undefined where f(x) <= 0"
        yield check(metric, subject.name, claim, scores(exact, subject, maps)["irof"], expected)
        curve = (subject.clean[:, None] - torch.cat([phi[:, :1] * 0, phi.cumsum(1)], 1)).sigmoid()
        expected = 1 - (curve[:, 1:] + curve[:, :-1]).mean(1) / 2 / curve[:, 0]
        found = scores(build(metric, **{**_SHARED, "output": "prob"}, steps=64), subject, maps)["irof"]
        yield check(metric, subject.name, f"{what}: of the probability", found, expected)


def removed_gates(metric: str) -> Iterator[Check]:
    for subject, claim, maps, (whole, without, _, nothing) in _gates():
        expected = 1 - (whole + 2 * without + nothing) / (4 * whole)
        found = scores(build(metric, **_SHARED), subject, maps)["irof"]
        yield check(metric, subject.name, f"{claim}: from the table of f", found, expected)


def removed_constant(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    found = scores(build(metric, output="logit"), subject, noise(*subject.truth.shape, seed=8))["irof"]
    yield check(metric, subject.name, "all is left, however many segments", found, 0.0)


# Minimal subset


def _first(reached: Tensor, steps: int) -> Tensor:
    """Fraction of the units at the first of `steps` at which the condition `(N, d)`, by 1..d units, holds."""
    d = reached.shape[1]
    at = [round(step * d / steps) for step in range(1, steps + 1)]
    return torch.tensor([next(k for k in at if row[k - 1]) / d for row in reached.tolist()], dtype=torch.float64)


def subset(metric: str) -> Iterator[Check]:
    """f = w.x - 1 with w >= 0 on a window, f(b) = -1: the class is lost where what is left is worth no more than 1."""
    subject = subjects.window()
    for what, maps in (("phi", subject.truth), ("random map", noise(*subject.truth.shape, seed=9))):
        taken = _sorted(subject, maps).cumsum(1)
        for steps in (144, 12):
            found = scores(build(metric, steps=steps), subject, maps)
            lost, enough = subject.clean[:, None] - taken <= 0, subject.absent[:, None] + taken > 0
            for name, reached in (("deletion", lost), ("insertion", enough)):
                claim = f"{what}: {name}, first of {steps} steps across the boundary"
                yield check(metric, subject.name, claim, found[name], _first(reached, steps))


def subset_gates(metric: str) -> Iterator[Check]:
    for subject, claim, maps, (_, without, only, _) in _gates():
        found = scores(build(metric), subject, maps)
        deletion, insertion = 0.5 if without <= 0 else 1.0, 0.5 if only > 0 else 1.0
        yield check(metric, subject.name, f"{claim}: deletion from the table of f", found["deletion"], deletion)
        yield check(metric, subject.name, f"{claim}: insertion from the table of f", found["insertion"], insertion)


def subset_of_tokens(metric: str) -> Iterator[Check]:
    """Red tokens first: red - blue of them have to go, as a draw is no prediction, and one is enough."""
    subject = subjects.counting()
    found = scores(build(metric, unit="patch2"), subject, subject.truth)
    defined = torch.where(subject.clean > 0, 0.0, torch.nan)
    yield check(metric, subject.name, "deletion: (red - blue) / 16", found["deletion"], defined + subject.clean / 16)
    yield check(metric, subject.name, "insertion: 1 / 16", found["insertion"], defined + 1 / 16)


def subset_undefined(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    found = _stacked(scores(build(metric), subject, noise(*subject.truth.shape, seed=8)))
    yield check(metric, subject.name, "undefined where the baseline is of the class", found, torch.nan)
    linear = subjects.linear(count=8)
    defined = (linear.clean > 0) & (linear.absent <= 0)
    found = _stacked(scores(build(metric), linear, linear.truth)).isnan().double()
    claim = "defined where x is of the class and the baseline is not"
    yield check(metric, linear.name, claim, found, (~defined).double()[:, None])


# Monotonicity


def rising(metric: str) -> Iterator[Check]:
    for subject, what, maps in _additive():
        phi = _sorted(subject, maps).flip(1)
        found = scores(build(metric, **_SHARED, steps=64), subject, maps)
        claim = f"{what}: one pixel a step, the share of phi >= 0 whatever the order"
        yield check(metric, subject.name, claim, found["steady"], (subject.truth.sum(1) >= 0).double().mean((1, 2)))
        found = scores(build(metric, **_SHARED, steps=5), subject, maps)
        ends = [round(step * 64 / 5) for step in range(6)]
        sums = torch.stack([phi[:, low:high].sum(1) for low, high in pairwise(ends)], 1)
        claim = f"{what}: several a step, the share of sums >= 0"
        yield check(metric, subject.name, claim, found["steady"], (sums >= 0).double().mean(1))


def _veto() -> Known:
    """f = x1 - x1 x2 + x2 / 2 at (1, 1): the second pixel is for the class alone and against it beside the first."""

    def function(inputs: Tensor) -> Tensor:
        first, second = inputs.flatten(1).T
        return first - first * second + second / 2

    pixels = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    return known("veto", Scored(function), pixels, lambda batch: torch.tensor([0.5, 0.0]).view(1, 1, 1, 2).double())


def rising_gates(metric: str) -> Iterator[Check]:
    for subject, claim, maps, _ in _gates():
        both = _stacked(scores(build(metric, **_SHARED), subject, maps))
        yield check(metric, subject.name, f"{claim}: never falls", both, 1.0)
    subject = _veto()
    for values, expected in (([1.0, 2.0], 0.5), ([2.0, 1.0], 1.0)):
        found = scores(build(metric, **_SHARED), subject, torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2))
        claim = "f = x1 - x1 x2 + x2 / 2 at (1, 1): the least relevant comes first"
        yield check(metric, subject.name, claim, found["steady"], expected)
        yield check(metric, subject.name, "monotone only if no step falls", found["monotone"], float(expected == 1))


def rising_tokens(metric: str) -> Iterator[Check]:
    subject = subjects.counting()
    found = scores(build(metric, output="logit", unit="patch2"), subject, noise(*subject.truth.shape, seed=9))
    blue = (subject.truth.sum(1)[:, ::2, ::2] < 0).double().mean((1, 2))
    yield check(metric, subject.name, "steady: all but the blue tokens", found["steady"], 1 - blue)
    yield check(metric, subject.name, "not monotone with a blue token", found["monotone"], 0.0)
    window = subjects.window()
    found = scores(build(metric, **_SHARED, steps=144), window, noise(*window.truth.shape, seed=9))
    yield check(metric, window.name, "w >= 0 and black as absent: monotone", _stacked(found), 1.0)


def rising_reversed(metric: str) -> Iterator[Check]:
    subject = subjects.relu()
    maps = noise(*subject.truth.shape, seed=7)
    options = {"output": "prob", "baseline": "shared", "unit": "pixel", "steps": 16}
    found = outcome(build(metric, **options), subject.model, subject.batch, maps)
    curve = outcome(build("deletion", **options), subject.model, subject.batch, maps).curves["deletion"].flip(1)
    yield check(metric, subject.name, "the curve of deletion, read backwards", found.curves["steady"], curve)
    share = (curve[:, 1:] >= curve[:, :-1]).double().mean(1)
    yield check(metric, subject.name, "the share of its steps that do not fall", found.values["steady"], share)


def rising_constant(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    found = scores(build(metric, output="logit"), subject, noise(*subject.truth.shape, seed=8))
    yield check(metric, subject.name, "undefined where nothing changes", _stacked(found), torch.nan)


# SaCo


def _saco(phi: Tensor, salience: Tensor, groups: int) -> float:
    """The double sum, for one image: contributions and map `(d,)`."""
    order = salience.argsort(descending=True)
    size = len(phi) // groups
    parts = [order[g * size : (g + 1) * size] for g in range(groups)]
    s, drop = ([float(each[part].sum()) for part in parts] for each in (salience, phi))
    top = total = 0.0
    for i in range(groups):
        for j in range(i + 1, groups):
            top += ((drop[i] > drop[j]) - (drop[i] < drop[j])) * (s[i] - s[j])
            total += abs(s[i] - s[j])
    return top / total


def salient(metric: str) -> Iterator[Check]:
    for subject, what, maps in _additive():
        for groups in (8, 10):
            exact = build(metric, **_SHARED, groups=groups)
            pairs = zip(subject.truth.sum(1).flatten(1), maps.sum(1).flatten(1), strict=True)
            expected = torch.tensor([_saco(*pair, groups) for pair in pairs], dtype=torch.float64)
            claim = f"{what}: sum sign(D_i - D_j) (s_i - s_j) / sum |s_i - s_j|, K = {groups}"
            yield check(metric, subject.name, claim, scores(exact, subject, maps)["saco"], expected)
        if what == "phi":
            both = [scores(exact, subject, sign * subject.truth)["saco"] for sign in (1, -1)]
            yield check(metric, subject.name, "1 for phi", both[0], 1.0)
            yield check(metric, subject.name, "-1 for -phi", both[1], -1.0)
            cubed = scores(exact, subject, subject.truth.sum(1, keepdim=True) ** 3 - 1)["saco"]
            yield check(metric, subject.name, "1 in the order of phi", cubed, 1.0)


def salient_baseline(metric: str) -> Iterator[Check]:
    subject = subjects.linear()
    absent = subject.batch.inputs.mean((2, 3), keepdim=True)
    truth = subject.truth * (subject.batch.inputs - absent) / (subject.batch.inputs - subject.batch.baseline)
    found = scores(build(metric, output="logit"), subject, truth)["saco"]
    yield check(metric, subject.name, "1 for w (x - mean colour), its own baseline", found, 1.0)
    phi, maps = truth.sum(1).flatten(1), noise(*truth.shape, seed=4)
    expected = [_saco(*pair, 10) for pair in zip(phi, maps.sum(1).flatten(1), strict=True)]
    found = scores(build(metric, output="logit"), subject, maps)["saco"]
    claim = "random map under the mean colour: the double sum"
    yield check(metric, subject.name, claim, found, torch.tensor(expected, dtype=torch.float64))


def salient_squares(metric: str) -> Iterator[Check]:
    """Squares of 3 pixels in 8 are cut off at the border: a group is worth the sum of its pixels."""
    subject = subjects.linear()
    found = scores(build(metric, output="logit", baseline="shared", unit="patch3", groups=9), subject, subject.truth)
    yield check(metric, subject.name, "squares of different size: 1 for phi", found["saco"], 1.0)


def salient_dummies(metric: str) -> Iterator[Check]:
    """Rows of an image, of which the model reads four: groups that lose nothing are no evidence."""
    subject = subjects.window()
    rows = torch.arange(12, 0, -1, dtype=torch.float64).view(1, 1, 12, 1).expand(4, 1, 12, 12)
    found = scores(build(metric, **_SHARED, groups=12), subject, rows)["saco"]
    expected = [_saco(phi, rows[0].flatten(), 12) for phi in subject.truth.sum(1).flatten(1)]
    claim = "a pair of groups that lose the same counts for neither side"
    yield check(metric, subject.name, claim, found, torch.tensor(expected, dtype=torch.float64))


def salient_gates(metric: str) -> Iterator[Check]:
    for subject, claim, maps, (_, without, only, _) in _gates():
        expected = torch.nan if without == only else 1.0 if without < only else -1.0
        found = scores(build(metric, **_SHARED), subject, maps)["saco"]
        yield check(metric, subject.name, f"{claim}: undefined where both lose the same, else +-1", found, expected)


def salient_constant(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    found = scores(build(metric, output="logit"), subject, noise(*subject.truth.shape, seed=8))["saco"]
    yield check(metric, subject.name, "undefined where nothing is lost", found, torch.nan)
    linear = subjects.linear()
    found = scores(build(metric, output="logit"), linear, linear.truth * 0 + 0.1)["saco"]
    yield check(metric, linear.name, "undefined for a constant map", found, torch.nan)


def salient_at_random(metric: str) -> Iterator[Check]:
    copies = 400
    subject = subjects.linear(count=2, side=8, copies=copies)
    maps = noise(*subject.truth.shape, seed=3)
    found = scores(build(metric, output="logit"), subject, maps)["saco"].view(2, copies)
    claim = "random maps: 0 in the mean, within 4 standard errors"
    yield check(metric, subject.name, claim, found.mean(1), 0.0, 4 * found.std(1) / copies**0.5)


# ERASER


_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)


def _erased(phi: Tensor) -> dict[str, Tensor]:
    """Means of the sums over the top shares, at least one unit, and over the rest, of contributions in their order."""
    top = torch.stack([phi[:, : max(1, round(share * phi.shape[1]))].sum(1) for share in _SHARES]).mean(0)
    return {"comprehensiveness": top, "sufficiency": phi.sum(1) - top}


def erased(metric: str) -> Iterator[Check]:
    for subject, what, maps in _additive():
        found = scores(build(metric, output="logit"), subject, maps)
        for name, expected in _erased(_sorted(subject, maps)).items():
            part = {"comprehensiveness": "the top", "sufficiency": "the rest"}[name]
            claim = f"{what}: {name} is the mean over q of the sum of phi over {part}"
            yield check(metric, subject.name, claim, found[name], expected)


def erased_gates(metric: str) -> Iterator[Check]:
    for subject, claim, maps, (whole, without, only, _) in _gates():
        found = scores(build(metric, output="logit"), subject, maps)
        for name, left in (("comprehensiveness", without), ("sufficiency", only)):
            yield check(metric, subject.name, f"{claim}: {name} from the table of f", found[name], whole - left)


def erased_tokens(metric: str) -> Iterator[Check]:
    subject = subjects.counting()
    found = scores(build(metric, output="logit", unit="patch2"), subject, subject.truth)
    phi = (subject.truth.sum(1) * 4)[:, ::2, ::2].flatten(1).sort(1, descending=True).values
    for name, expected in _erased(phi).items():
        yield check(metric, subject.name, f"patches: {name} counts tokens", found[name], expected)


def erased_constant(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    found = scores(build(metric, output="logit"), subject, noise(*subject.truth.shape, seed=8))
    yield check(metric, subject.name, "no drop anywhere", _stacked(found), 0.0)


def erased_ends(metric: str) -> Iterator[Check]:
    """On any model: what is without the top is what is left of the reverse order."""
    subject = subjects.relu()
    maps = noise(*subject.truth.shape, seed=7)
    some = scores(build(metric, shares=[0.25]), subject, maps)
    rest = scores(build(metric, shares=[0.75]), subject, -maps)
    claim = "comprehensiveness of q is sufficiency of 1 - q in reverse"
    yield check(metric, subject.name, claim, some["comprehensiveness"], rest["sufficiency"])
    whole = scores(build(metric, shares=[1.0]), subject, maps)
    clean, absent = subject.clean.sigmoid(), subject.absent.sigmoid()
    yield check(metric, subject.name, "all of it: f(x) - f(b)", whole["comprehensiveness"], clean - absent)
    yield check(metric, subject.name, "all of it is sufficient", whole["sufficiency"], 0.0)


_FLIPPED = (
    *(flipped, noise_for_absent, samples_for_absent, regions, flipped_at_random, flipped_gates),
    *(flipped_constant, flipped_backwards, company),
)
CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "pixel_flipping": _FLIPPED,
    "region_perturbation": _FLIPPED,
    "irof": (segments, removed, removed_gates, removed_constant, company),
    "minimal_subset": (subset, subset_gates, subset_of_tokens, subset_undefined, company),
    "monotonicity": (rising, rising_gates, rising_tokens, rising_reversed, rising_constant, company),
    "saco": (
        *(salient, salient_baseline, salient_squares, salient_dummies, salient_gates, salient_constant),
        *(salient_at_random, company),
    ),
    "eraser": (erased, erased_gates, erased_tokens, erased_constant, erased_ends, company),
}
