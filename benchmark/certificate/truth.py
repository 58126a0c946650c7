"""Metrics of known truth on scenes set by hand: what each part contributes is a formula, and so is every score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import permutations, product
from statistics import mean

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from benchmark import randomness
from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, gradient, outcome, scores
from benchmark.certificate.subjects import Known, Scored, images, noise
from benchmark.datasets.additive import Additive
from benchmark.datasets.interaction import Interaction
from benchmark.exact import exact
from benchmark.protocols import Batch, Explain

_SIDE = 12
_CELL = 3  # of a grid of four by four
_CELLS = ((0, 5, 10), (3, 6, 9, 12), (1, 4, 11, 14, 15), (2, 7, 8))
"""Where the parts of each scene stand."""
_NAMES = ("object", "mark", "suppressors")


def scenes(copies: int = 1, *, idle: bool = False) -> Known:
    """f = w.x + c on four scenes of three to five parts, a cell each; t_p = sum over the part of w (x - empty).

    The second part is narrower than the others.
    With `idle` the first part looks like the surroundings, so that it contributes nothing, and so do all of the last
    scene's. With `copies`, each scene that many times under names of its own.
    """
    weight = noise(3, _SIDE, _SIDE, seed=61)
    parts = torch.zeros(len(_CELLS), _SIDE, _SIDE, dtype=torch.int64)
    for scene, cells in enumerate(_CELLS):
        for number, cell in enumerate(cells, start=1):
            row, column = (_CELL * place for place in divmod(cell, 4))
            parts[scene, row : row + _CELL, column : column + _CELL - (number == 2)] = number
    empty, drawn = (images(len(_CELLS), 3, _SIDE, _SIDE, seed=seed) for seed in (62, 63))
    shown = parts > int(idle)
    if idle:
        shown[-1] = False
    pixels = torch.where(shown.unsqueeze(1), drawn, empty).repeat_interleave(copies, 0)
    parts, empty = (each.repeat_interleave(copies, 0) for each in (parts, empty))
    model = Scored(lambda inputs: (inputs * weight).sum((1, 2, 3)) + 0.3)
    found = subjects.known("linear scenes", model, pixels, lambda batch: weight * (batch.inputs - empty))
    truth = torch.zeros(len(pixels), 2, _SIDE, _SIDE, dtype=torch.float64)
    for scene, where in _each(parts):
        truth[scene, 0][where] = found.truth[scene].sum(0)[where].mean()
    batch = replace(found.batch, parts=parts, part_names=_NAMES, empty=empty, truth=truth)
    return replace(found, batch=batch)


def _each(parts: Tensor) -> list[tuple[int, Tensor]]:
    """Every part of every scene: its scene, and where it is `(H, W)`."""
    return [(scene, of == number) for scene, of in enumerate(parts) for number in range(1, int(of.max()) + 1)]


def _sums(known: Known, values: Tensor) -> list[list[float]]:
    """Of each scene, the sum of `values (N, H, W)` over each part."""
    assert known.batch.parts is not None
    found: list[list[float]] = [[] for _ in values]
    for scene, where in _each(known.batch.parts):
        found[scene].append(float(values[scene][where].sum()))
    return found


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _agreement(metric: str, known: Known, maps: Tensor, claim: str, *expected: Tensor | float) -> Iterator[Check]:
    """Correlation, sign and background of `maps`, against what they must be."""
    found = scores(build(metric), known, maps)
    for name, wanted in zip(("correlation", "sign", "background"), expected, strict=True):
        yield check(metric, known.name, f"{claim}: {name}", found[name], wanted)


def contributions(metric: str) -> Iterator[Check]:
    known = scenes()
    assert known.batch.truth is not None
    even = known.batch.truth[:, :1]
    yield from _agreement(metric, known, known.truth, "w (x - empty)", 1.0, 1.0, 0.0)
    yield from _agreement(metric, known, even, "the truth, spread evenly", 1.0, 1.0, 0.0)
    yield from _agreement(metric, known, -7 * even, "its opposite, in another unit", -1.0, 0.0, 0.0)
    above = _column([mean(float(t > 0) for t in sums) for sums in _sums(known, known.truth.sum(1))])
    found = scores(build(metric), known, even.abs())["sign"]
    yield check(metric, known.name, "magnitudes have the signs of the parts that speak for it", found, above)


def any_map(metric: str) -> Iterator[Check]:
    known = scenes(idle=True)
    maps = noise(*known.truth.shape, seed=64) + 0.1
    values = maps.sum(1)
    worth, truth = _sums(known, values), _sums(known, known.truth.sum(1))
    assert known.batch.parts is not None
    r, sign, background = [], [], []
    for scene, (a, t) in enumerate(zip(worth[:-1], truth[:-1], strict=True)):
        r.append(float(stats.pearsonr(a, t).statistic))
        sign.append(mean(float(x * y > 0) for x, y in zip(a, t, strict=True) if y != 0))
        spoken = (known.batch.parts[scene] > 1) * values[scene].abs()
        background.append(float(1 - spoken.sum() / values[scene].abs().sum()))
    claim = "any map, where part 1 contributes nothing and in the last scene none does"
    expected = (_column([*each, math.nan]) for each in (r, sign, background))
    yield from _agreement(metric, known, maps, claim, *expected)


def flat_maps(metric: str) -> Iterator[Check]:
    known = scenes()
    ones = torch.ones_like(known.truth[:, :1])
    above = _column([mean(float(t > 0) for t in sums) for sums in _sums(known, known.truth.sum(1))])
    area = _column([1 - (len(cells) * _CELL - 1) * _CELL / _SIDE**2 for cells in _CELLS])
    pairs = zip(_sums(known, ones.sum(1)), _sums(known, known.truth.sum(1)), strict=True)
    r = _column([float(stats.pearsonr(*pair).statistic) for pair in pairs])
    yield from _agreement(metric, known, 0.1 * ones, "constant map, parts are worth their pixels", r, above, area)
    yield from _agreement(metric, known, 0 * ones, "map of zeros: no sign", math.nan, 0.0, math.nan)
    around = (known.batch.parts == 0).double().unsqueeze(1)  # type: ignore[union-attr]
    yield from _agreement(metric, known, around, "map of the surroundings", math.nan, 0.0, 1.0)


def networks(metric: str) -> Iterator[Check]:
    """Networks set by hand, of which the truth of the data set is true: (x - empty) * gradient knows it too."""
    datasets: list[Additive | Interaction] = [Additive(n=6)]
    datasets += [Interaction("and", n=6), Interaction("or", n=6), Interaction("xor", n=6)]
    for dataset in datasets:
        known = _exact(dataset)
        assert known.batch.truth is not None
        rows = torch.arange(6)
        truth = known.batch.truth[rows, known.batch.targets]
        idle = torch.where(truth.flatten(1).any(1), 0.0, math.nan)
        what = f"{dataset.name} {getattr(dataset, 'gate', '')}".strip()
        claim = f"{what}: its contributions, undefined where none has any"
        yield from _agreement(metric, known, truth.unsqueeze(1), claim, idle + 1, idle + 1, idle)
        if isinstance(dataset, Additive):
            assert known.batch.empty is not None
            path = gradient(known.model, known.batch) * (known.batch.inputs - known.batch.empty)
            found = scores(build(metric), known, path)["correlation"]
            yield check(metric, known.name, f"{what}: (x - empty) * gradient", found, 1.0, 1e-6)  # float32 weights


def _exact(dataset: Additive | Interaction) -> Known:
    model = exact("exact_cnn", dataset.name, getattr(dataset, "gate", None))
    items = [dataset[index] for index in range(len(dataset))]
    pixels, parts, empty, truth = (
        torch.stack([getattr(item, name) for item in items]) for name in ("image", "parts", "empty", "truth")
    )
    labels = torch.tensor([item.label for item in items])
    network = model.network.double()
    found = subjects.known("exact CNN", network, pixels.double(), lambda batch: truth)
    batch = replace(found.batch, targets=labels, parts=parts, empty=empty.double(), truth=truth.double())
    return replace(found, batch=batch)


def agreement_company(metric: str) -> Iterator[Check]:
    known = scenes()
    maps = noise(*known.truth.shape, seed=65)
    together = scores(build(metric), known, maps)
    scaled = scores(build(metric), known, 1e-5 * maps)
    alone = [outcome(build(metric), known.model, known.batch.select([i]), maps[[i]]).values for i in range(len(maps))]
    for name, values in together.items():
        yield check(metric, known.name, f"alone as beside scenes of more parts: {name}", _joined(alone, name), values)
        yield check(metric, known.name, f"the unit of the map is no matter: {name}", scaled[name], values)


def _joined(each: list[Mapping[str, Tensor]], name: str) -> Tensor:
    return torch.cat([found[name] for found in each])


def _part(metric: str) -> int:
    """Number of the part that a mass is about."""
    return {"object_mass": 1, "shortcut_mass": 2, "suppressor_mass": 3}[metric]


def on_part(metric: str) -> Iterator[Check]:
    known = scenes()
    assert known.batch.parts is not None
    there = (known.batch.parts == _part(metric)).double().unsqueeze(1)
    share = there.mean((1, 2, 3))
    for claim, maps, expected in (
        ("all of the map on the part: 1", there, 1.0),
        ("all of it elsewhere: 0", 1 - there, 0.0),
        ("constant map: the part's share of the image", 0 * there + 0.1, share),
        ("3 on the part, 1 elsewhere", 1 + 2 * there, 3 * share / (1 + 2 * share)),
        ("map of zeros: undefined", 0 * there, math.nan),
    ):
        yield check(metric, known.name, claim, scores(build(metric), known, maps)[metric], expected)
    against = 2 * there - 1
    claim, expected = ("-1 elsewhere is no evidence: 1", 1.0)
    if metric == "suppressor_mass":
        claim, expected = ("-1 elsewhere is a magnitude: the part's share", share)
    yield check(metric, known.name, claim, scores(build(metric), known, against)[metric], expected)


def random_mass(metric: str) -> Iterator[Check]:
    known = scenes(copies=100)
    d, m = _SIDE**2, _CELL * (_CELL - (_part(metric) == 2))
    maps = noise(400, 2, _SIDE, _SIDE, seed=66).square().sum(1, keepdim=True)  # chi-square of 2: exponential
    found = scores(build(metric), known, maps)[metric]
    error = 4 * math.sqrt(m / d * (1 - m / d) / (d + 1) / 400)  # of a Beta(m, d - m) share
    yield check(
        metric, known.name, "random maps: the part's share, within 4 standard errors", found.mean(), m / d, error
    )


def mass_company(metric: str) -> Iterator[Check]:
    known = scenes()
    assert known.batch.parts is not None
    maps = noise(*known.truth.shape, seed=67)
    found = scores(build(metric), known, maps)[metric]
    alone = [outcome(build(metric), known.model, known.batch.select([i]), maps[[i]]).values for i in range(4)]
    yield check(metric, known.name, "alone as in a batch", _joined(alone, metric), found)
    scaled = scores(build(metric), known, 1000 * maps)[metric]
    yield check(metric, known.name, "the unit of the map is no matter", scaled, found)
    names = ("", *reversed(_NAMES))  # parts 3, 2 and 1 are now 2, 3 and 4
    turned = known.batch.parts.new_tensor([0, 4, 3, 2, 1, 5])[known.batch.parts]
    other = replace(known, batch=replace(known.batch, parts=turned, part_names=names))
    yield check(metric, known.name, "parts in another order", scores(build(metric), other, maps)[metric], found)
    parts = known.batch.parts.clone()
    parts[0][parts[0] == _part(metric)] = 9
    bare = scores(build(metric), replace(known, batch=replace(known.batch, parts=parts)), maps)[metric]
    expected = torch.cat([found.new_tensor([math.nan]), found[1:]])
    yield check(metric, known.name, "a scene without the part: undefined, its neighbours as before", bare, expected)


def certified(metric: str) -> Iterator[Check]:
    """f = sum of the pixels: a mark of four pixels and an object of four, whose contributions are set."""
    cases = ((8.0, 1.0), (8.0, 1.5), (8.0, 1.7), (8.0, 9.0), (1.1, -3.0), (-1.0, -9.0), (0.9, 0.0), (0.0, -2.0))
    pixels = torch.zeros(len(cases), 1, 6, 6, dtype=torch.float64)
    parts = torch.zeros(len(cases), 6, 6, dtype=torch.int64)
    parts[:, :2, :2], parts[:, 4:, 4:] = 2, 1
    mark, thing = torch.tensor(cases, dtype=torch.float64).T
    pixels[:, 0, :2, :2], pixels[:, 0, 4:, 4:] = mark[:, None, None] / 4, thing[:, None, None] / 4
    model = Scored(lambda inputs: inputs.sum((1, 2, 3)) + 2)
    known = subjects.known("linear scenes", model, pixels, lambda batch: batch.inputs)
    batch = replace(known.batch, parts=parts, part_names=_NAMES, empty=torch.zeros_like(pixels))
    maps = torch.full_like(pixels, 0.5).masked_fill(parts.unsqueeze(1) == 2, 2.0)
    share, nan = 8 / (8 + 16), math.nan
    expected = _column([share, share, nan, nan, share, nan, nan, nan])
    found = outcome(build(metric), model, batch, maps).values
    claim = "certified where the mark's drop is 1 or more and five times the object's"
    yield check(metric, known.name, claim, found["certified"], expected)
    yield check(metric, known.name, "every scene with a mark has a share", found["shortcut_mass"], share)
    yield check(metric, known.name, "drop_mark: what it contributes", found["drop_mark"], mark)
    yield check(metric, known.name, "drop_object: what it contributes", found["drop_object"], thing)
    lenient = outcome(build(metric, factor=4.0), model, batch, maps).values["certified"]
    expected = _column([share, share, share, nan, share, nan, nan, nan])
    yield check(metric, known.name, "certified at four times", lenient, expected)
    slight = outcome(build(metric, least=0.8), model, batch, maps).values["certified"]
    expected = _column([share, share, nan, nan, share, nan, share, nan])
    yield check(metric, known.name, "certified from 0.8 logits", slight, expected)
    unmarked = outcome(build(metric), model, replace(batch, parts=parts % 2), maps).values
    for name in ("certified", "shortcut_mass", "drop_mark"):
        yield check(metric, known.name, f"no mark, {name}: undefined", unmarked[name], math.nan)
    yield check(metric, known.name, "no mark: drop_object as before", unmarked["drop_object"], thing)


def drops(metric: str) -> Iterator[Check]:
    known = scenes()
    found = scores(build(metric), known, known.truth)
    for number, name in ((2, "drop_mark"), (1, "drop_object")):
        expected = _column([sums[number - 1] for sums in _sums(known, known.truth.sum(1))])
        yield check(metric, known.name, f"{name}: sum of w (x - empty) over part {number}", found[name], expected)


_OBJECT = slice(3, 6)
"""Rows and columns of the object."""


def _levels(cases: list[tuple[float, float, float, float]]) -> Known:
    """Scenes of an object over a ground, in two channels: levels of the first, where a map may look, and f of each.

    A case is the first channel of the object and of the ground behind it, f with the object and f without. The first
    channel has a black and a white row, so that a map of it has the scale of its own numbers.
    """
    object_level, ground_level, seen, unseen = torch.tensor(cases, dtype=torch.float64).T[:, :, None, None]
    parts = torch.zeros(len(cases), _SIDE, _SIDE, dtype=torch.int64)
    parts[:, _OBJECT, _OBJECT] = 1
    pixels = torch.zeros(len(cases), 2, _SIDE, _SIDE, dtype=torch.float64)
    pixels[:, 0] = ground_level
    pixels[:, 0, 0], pixels[:, 0, -1] = 0.0, 1.0
    pixels[:, 1] = unseen / _SIDE**2
    empty = pixels.clone()
    pixels[:, 0, _OBJECT, _OBJECT] = object_level
    pixels[:, 1, _OBJECT, _OBJECT] += (seen - unseen) / 9
    model = Scored(lambda inputs: inputs[:, 1].sum((1, 2)))
    known = subjects.known("linear scenes", model, pixels, lambda batch: batch.inputs)
    return replace(known, batch=replace(known.batch, parts=parts, part_names=_NAMES[:1], empty=empty))


def _first(model: nn.Module, batch: Batch) -> Tensor:
    return batch.inputs[:, :1]


def _dependence(known: Known, explain: Explain, **options: float) -> Mapping[str, Tensor]:
    metric = build("input_dependence", **options)
    return outcome(metric, known.model, known.batch, explain(known.model, known.batch), explain).values


def levels(metric: str) -> Iterator[Check]:
    """The map is the first channel: its mean on the object is the level of what stands there."""
    cases = [(0.2, 0.5), (0.5, 0.2), (0.5, 0.5), (0.452, 0.5), (0.548, 0.5), (0.448, 0.5), (0.552, 0.5)]
    known = _levels([(*case, 3.0, 3.0) for case in cases])
    found = _dependence(known, _first)
    expected = _column([1, 0, 0, 1, 0, 1, 0])
    yield check(
        metric, known.name, "dependence: 1 where the object has less than the ground", found["dependence"], expected
    )
    expected = _column([0, 0, 1, 1, 1, 0, 0])
    yield check(metric, known.name, "independence: 1 within 10 % of the ground", found["independence"], expected)
    strict = _dependence(known, _first, threshold=0.0)["independence"]
    yield check(metric, known.name, "independence with threshold 0: equal", strict, _column([0, 0, 1, 0, 0, 0, 0]))
    for claim, explain in (("three times the map", _tripled), ("the map with negative values", _negative)):
        again = _dependence(known, explain)
        for name in ("dependence", "independence"):
            yield check(metric, known.name, f"{claim}: the same {name}", again[name], found[name])


def _tripled(model: nn.Module, batch: Batch) -> Tensor:
    return 3 * _first(model, batch)


def _negative(model: nn.Module, batch: Batch) -> Tensor:
    """A black pixel is -9, which is no evidence either."""
    return torch.where(_first(model, batch) == 0, -9.0, _first(model, batch))


def outliers(metric: str) -> Iterator[Check]:
    """One pixel of nine on the object is a thousand times the others: it is cut to 1, and the scale stays."""
    known = _levels([(0.2, 0.5, 3.0, 3.0), (0.5, 0.5, 3.0, 3.0)])

    def spiked(model: nn.Module, batch: Batch) -> Tensor:
        found = _first(model, batch).clone()
        assert batch.parts is not None
        found[:, 0, 4, 4] *= 1 + 999 * (batch.parts[:, 4, 4] == 1)
        return found

    # (8 level + 1) / 9 against 0.5
    found = _dependence(known, spiked)
    yield check(metric, known.name, "an outlier on the object: dependence", found["dependence"], _column([1, 0]))
    wide = _dependence(known, spiked, threshold=0.12)["independence"]
    yield check(metric, known.name, "an outlier on the object: independence within 12 %", wide, _column([0, 1]))


def need(metric: str) -> Iterator[Check]:
    """Of an object that the model needs nothing is said."""
    nan, outputs = math.nan, [(3.0, 3.0), (3.0, 1.0), (1.0, 3.0), (0.3, 0.1), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)]
    known = _levels([(0.2, 0.5, *each) for each in outputs])
    found = _dependence(known, _first)
    expected = _column([1, 1, 1, 1, nan, nan, nan])
    claim = "dependence: undefined where the class is another with or without the object"
    yield check(metric, known.name, claim, found["dependence"], expected)
    claim = "independence: undefined too where the probability moves by more than 0.1"
    yield check(metric, known.name, claim, found["independence"], _column([0, nan, nan, 0, nan, nan, nan]))
    drop = _column([1 / (1 + math.exp(-a)) - 1 / (1 + math.exp(-b)) for a, b in outputs])
    yield check(metric, known.name, "drop: of the probability", found["drop"], drop)


def unmoved(metric: str) -> Iterator[Check]:
    """Maps that do not look at the image, and maps without a scale."""
    known = _levels([(0.2, 0.5, 3.0, 3.0)] * 3)

    def drawn(model: nn.Module, batch: Batch) -> Tensor:
        return randomness.uniform(batch.keys("null")[:, 0], 1, _SIDE, _SIDE).double()

    found = _dependence(known, drawn)
    yield check(metric, known.name, "a map that never looks: dependence 0", found["dependence"], 0.0)
    yield check(metric, known.name, "a map that never looks: independence 1", found["independence"], 1.0)
    flat = _dependence(known, lambda model, batch: torch.ones_like(batch.inputs[:, :1]))
    yield check(metric, known.name, "constant map: dependence is undefined", flat["dependence"], math.nan)
    yield check(metric, known.name, "constant map: independence is undefined", flat["independence"], math.nan)


def transcribed(metric: str) -> Iterator[Check]:
    """Any map, by the source's own steps: positive part, 99th percentile, minimum, mean over the object."""
    known = _levels([(0.2 + 0.02 * i, 0.5, 3.0, 3.0) for i in range(12)])
    batch = known.batch
    assert batch.parts is not None
    assert batch.empty is not None

    def mixed(model: nn.Module, batch: Batch) -> Tensor:
        drawn = randomness.normal(batch.keys("mixed")[:, 0], 1, _SIDE, _SIDE).double()
        return batch.inputs[:, :1] * (1 + drawn)

    def on_object(values: Tensor, scene: int) -> float:
        positive = values[0].numpy().clip(min=0)
        high, low = np.percentile(positive, 99), positive.min()
        scaled = ((positive - low) / (high - low)).clip(0, 1)
        assert batch.parts is not None
        return float(scaled[batch.parts[scene].numpy() == 1].mean())

    bare = replace(batch, inputs=batch.empty)
    pairs = [
        tuple(on_object(each[scene], scene) for each in (mixed(known.model, batch), mixed(known.model, bare)))
        for scene in range(len(batch))
    ]
    found = _dependence(known, mixed)
    for name, expected in (
        ("dependence", [float(seen < unseen) for seen, unseen in pairs]),
        ("independence", [float(abs(seen - unseen) <= 0.1 * unseen) for seen, unseen in pairs]),
    ):
        yield check(metric, known.name, f"any map, step by step: {name}", found[name], _column(expected))


def _curve(known: Known, maps: Tensor, insert: bool) -> Tensor:
    """Area of `w (x - empty)` along parts and surroundings in the order of their means, `(N,)`."""
    assert known.batch.parts is not None
    found = []
    for scene, parts in enumerate(known.batch.parts):
        where = [parts == number for number in range(int(parts.max()) + 1)]
        worth = [float(maps[scene].sum(0)[each].mean()) for each in where]
        phi = [float(known.truth[scene].sum(0)[each].sum()) for each in where]
        order = sorted(range(len(where)), key=lambda unit: -worth[unit])
        found.append(_area(float(known.clean[scene]), [phi[unit] for unit in order], insert))
    return _column(found)


def _area(clean: float, phi: list[float], insert: bool) -> float:
    """Trapezoid over the curve that loses, or wins, `phi` one by one."""
    value, step = (clean - sum(phi), 1.0) if insert else (clean, -1.0)
    points = [value + step * sum(phi[:k]) for k in range(len(phi) + 1)]
    return (sum(points) - (points[0] + points[-1]) / 2) / len(phi)


def rendered(metric: str) -> Iterator[Check]:
    known, measure = scenes(), metric.removesuffix("_rendered")
    maps = noise(*known.truth.shape, seed=68)

    def areas(given: Tensor) -> Tensor:
        deletion, insertion = (_curve(known, given, insert) for insert in (False, True))
        return {"deletion": deletion, "insertion": insertion, "srg": insertion - deletion}[measure]

    found = scores(build(metric), known, maps)[measure]
    yield check(metric, known.name, "any map: the trapezoid over parts and surroundings", found, areas(maps))
    best = scores(build(metric), known, known.truth)[measure]
    orders = []
    for scene, sums in enumerate(_sums(known, known.truth.sum(1))):
        every = [
            (_area(float(known.clean[scene]), list(order), False), _area(float(known.clean[scene]), list(order), True))
            for order in permutations([0.0, *sums])
        ]
        orders.append(
            {
                "deletion": min(each for each, _ in every),
                "insertion": max(each for _, each in every),
                "srg": max(b - a for a, b in every),
            }[measure]
        )
    yield check(metric, known.name, "w (x - empty): the best of all orders", best, _column(orders))
    opposite = scores(build(metric), known, -known.truth)[measure]
    ends = known.clean + known.clean - known.truth.sum((1, 2, 3))
    worst = -best if measure == "srg" else ends - best
    what = "" if measure == "srg" else "f(x) + f(empty) "
    yield check(metric, known.name, f"its opposite: {what}minus the best", opposite, worst)
    alone = [outcome(build(metric), known.model, known.batch.select([i]), maps[[i]]).values for i in range(4)]
    yield check(metric, known.name, "alone as beside scenes of more parts", _joined(alone, measure), found)


def rendered_cells(metric: str) -> Iterator[Check]:
    """Parts and cells of the grid coincide, and a cell without a part loses nothing."""
    known = scenes()
    maps = noise(*known.truth.shape, seed=69)
    for claim, given, end in (("w (x - empty): 1", known.truth, 1.0), ("its opposite: -1", -known.truth, -1.0)):
        yield check(metric, known.name, claim, scores(build(metric), known, given)["single_deletion"], end)
    places = [slice(_CELL * i, _CELL * i + _CELL) for i in range(4)]
    worth, drop = (
        [[float(each[rows, columns].sum()) for rows, columns in product(places, places)] for each in of.sum(1)]
        for of in (maps, known.truth)
    )
    expected = _column([float(stats.spearmanr(*pair).statistic) for pair in zip(worth, drop, strict=True)])
    found = scores(build(metric), known, maps)["single_deletion"]
    yield check(metric, known.name, "any map: Spearman's over 16 cells, empty ones tied", found, expected)
    nothing = known.batch.inputs
    still = replace(known, batch=replace(known.batch, empty=nothing))
    found = scores(build(metric), still, maps)["single_deletion"]
    yield check(metric, known.name, "nothing can be taken out: undefined", found, math.nan)


_ON_PART = (on_part, random_mass, mass_company)
CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "part_agreement": (contributions, any_map, flat_maps, networks, agreement_company),
    "object_mass": _ON_PART,
    "suppressor_mass": _ON_PART,
    "shortcut_mass": (*_ON_PART, certified, drops),
    "input_dependence": (levels, outliers, need, unmoved, transcribed),
    **dict.fromkeys(("deletion_rendered", "insertion_rendered", "srg_rendered"), (rendered,)),
    "single_deletion_rendered": (rendered_cells,),
}
