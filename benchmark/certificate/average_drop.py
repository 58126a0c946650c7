"""Average drop from the probabilities before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, scores
from benchmark.certificate.road import company
from benchmark.certificate.subjects import noise


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
        yield from company(metric, known, maps, measure)
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
    "average_drop": (drop_formula, drop_gates, drop_gamed, drop_constant, drop_company, drop_pixels)
}
