"""Completeness, non-sensitivity and input invariance, where what the axiom asks is known pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, gradient, outcome, scores
from benchmark.certificate.subjects import Known, noise
from benchmark.protocols import Batch, Explain


def _times_input(model: nn.Module, batch: Batch) -> Tensor:
    return gradient(model, batch) * batch.inputs


def _both(
    metric: str, known: Known, claim: str, maps: Tensor, absolute: Tensor | float, relative: Tensor | float
) -> Iterator[Check]:
    found = scores(build(metric), known, maps)
    yield check(metric, known.name, f"{claim}: absolute", found["absolute"], absolute)
    yield check(metric, known.name, f"{claim}: relative", found["relative"], relative)


def complete(metric: str) -> Iterator[Check]:
    """Exact contributions sum to f(x) - f(b), whatever the model and the baseline."""
    for known in (
        *(subjects.linear(), subjects.additive(), subjects.quadratic(), subjects.relu(), subjects.window()),
        *(subjects.product(), subjects.conjunction(), subjects.disjunction(), subjects.exclusive()),
        *(subjects.minimum(), subjects.maximum(), subjects.symmetric(), subjects.counting()),
    ):
        found = scores(build(metric), known, known.truth)
        yield check(metric, known.name, "exact contributions: absolute 0", found["absolute"], 0.0)
        if float((known.clean - known.absent).abs().min()) > 1e-3:
            yield check(metric, known.name, "exact contributions: relative 0", found["relative"], 0.0)


def incomplete(metric: str) -> Iterator[Check]:
    """Where something is missing, the error is what is missing."""
    known = subjects.linear()
    drop = (known.clean - known.absent).abs()
    yield from _both(metric, known, "a pixel too much by 0.3", _plus(known.truth, 0.3), 0.3, 0.3 / drop)
    yield from _both(metric, known, "a pixel too little by 0.3", _plus(known.truth, -0.3), 0.3, 0.3 / drop)
    yield from _both(metric, known, "-phi", -known.truth, 2 * drop, 2.0)
    yield from _both(metric, known, "3 phi", 3 * known.truth, 2 * drop, 2.0)
    yield from _both(metric, known, "zero map", 0 * known.truth, drop, 1.0)
    yield from _both(metric, known, "phi in one channel", known.truth.sum(1, keepdim=True), 0.0, 0.0)
    larger = torch.cat([1000 * known.truth[:1], known.truth[1:]])
    found = scores(build(metric), known, larger)["absolute"]
    yield check(metric, known.name, "a neighbour's scale is no matter", found[1:], 0.0)


def _plus(maps: Tensor, amount: float) -> Tensor:
    changed = maps.clone()
    changed[:, 0, 1, 2] += amount
    return changed


def homogeneous(metric: str) -> Iterator[Check]:
    """x * gradient sums to k f(x) where f(c x) = c^k f(x)."""
    for known, degree in ((subjects.product(), 2), (subjects.quadratic(), 2), (subjects.relu(), 1)):
        maps = _times_input(known.model, known.batch)
        claim = f"gradient x input, degree {degree}"
        yield from _both(metric, known, claim, maps, (degree - 1) * known.clean.abs(), float(degree - 1))


def outputs(metric: str) -> Iterator[Check]:
    known = subjects.relu()
    for output, change in (
        ("prob", known.clean.sigmoid() - known.absent.sigmoid()),
        ("logodds", known.clean - known.absent),
    ):
        maps = known.truth * (change / known.truth.sum((1, 2, 3)))[:, None, None, None]
        found = scores(build(metric, output=output), known, maps)["absolute"]
        yield check(metric, known.name, f"output={output}: sum phi = its change", found, 0.0)
    other = replace(known, batch=replace(known.batch, targets=torch.ones_like(known.batch.targets)))
    yield from _both(metric, other, "the other class, whose logit is 0", known.truth, known.clean.abs(), torch.nan)


def constant_completeness(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    yield from _both(metric, known, "zero map", known.truth, 0.0, torch.nan)
    maps = noise(*known.truth.shape, seed=5)
    yield from _both(metric, known, "any map", maps, maps.sum((1, 2, 3)).abs(), torch.nan)


def dummies(metric: str) -> Iterator[Check]:
    """Of 144 pixels the model reads 24, linearly: X0 are the other 120."""
    known = subjects.window()
    reads = known.batch.masks
    assert reads is not None
    moved = reads.roll(2, dims=2)
    built = build(metric, unit="pixel", eps=1e-9)
    noisy = noise(*known.truth.shape, seed=6)
    for claim, maps, expected in (
        ("phi: 0", known.truth, 0.0),
        ("-phi: 0, since a negative value is a value", -known.truth, 0.0),
        ("1e-20 phi: 0, since units are relative", 1e-20 * known.truth, 0.0),
        ("a map without zeros: |X0| / units", noisy, 120 / 144),
        ("zero map: the rest of the units", 0 * noisy, 24 / 144),
        ("window two columns off: 2 x 8 pixels", moved[:, None].double(), 16 / 144),
        ("1 and -1 in two channels are not 0", reads[:, None] * torch.tensor([1.0, -1, 0]).view(1, 3, 1, 1), 0.0),
    ):
        yield check(metric, known.name, claim, scores(built, known, maps)["non_sensitivity"], expected)
    for unit, expected in (("patch2", 27 / 36), ("grid6", 27 / 36), ("grid2", 0.0)):
        found = scores(build(metric, unit=unit, eps=1e-9), known, noisy)["non_sensitivity"]
        yield check(metric, known.name, f"{unit}, a map without zeros: |X0| / units", found, expected)
    for reduce in ("sum", "l2", "max"):
        found = scores(build(metric, unit="pixel", eps=1e-9, reduce=reduce), known, -known.truth)["non_sensitivity"]
        yield check(metric, known.name, f"reduce={reduce}, -phi: 0", found, 0.0)
    for output in ("prob", "logodds"):
        found = scores(build(metric, unit="pixel", eps=1e-9, output=output), known, known.truth)["non_sensitivity"]
        yield check(metric, known.name, f"output={output}: the same dummies", found, 0.0)
    for baseline in ("white", "sample"):
        built = build(metric, unit="pixel", eps=1e-9, baseline=baseline)
        found = scores(built, known, known.truth)["non_sensitivity"]
        yield check(metric, known.name, f"redrawn from {baseline}: the same dummies", found, 0.0)


def heeded(metric: str) -> Iterator[Check]:
    """A model that reads every pixel has no dummies: the score is the share of zeros in the map."""
    known = subjects.linear()
    half = known.truth.clone()
    half[:, :, :4] = 0
    for claim, maps, expected in (("phi: 0", known.truth, 0.0), ("upper half 0: 1/2", half, 0.5)):
        found = scores(build(metric, unit="pixel", eps=1e-9), known, maps)["non_sensitivity"]
        yield check(metric, known.name, claim, found, expected)
    black = replace(known, batch=replace(known.batch, inputs=known.batch.inputs * 0, baseline=known.batch.baseline * 0))
    black = replace(black, batch=replace(black.batch, logits=black.model(black.batch.inputs)))
    found = scores(build(metric, unit="pixel", eps=1e-9), black, known.truth)["non_sensitivity"]
    yield check(metric, known.name, "image and baseline black: a redraw still tells", found, 0.0)
    weight = noise(3, 8, 8, seed=1)
    silent, idle = (
        values <= 0.2 * values.amax(1, keepdim=True)
        for values in (
            (weight * (1 - known.batch.inputs)).sum(1).abs().flatten(1),
            known.truth.abs().sum(1).flatten(1),
        )
    )
    built = build(metric, unit="pixel", eps=0.2, baseline="white", draws=1)
    for claim, maps, share in (
        ("eps: a change <= eps x the largest is none", torch.ones_like(known.truth), silent),
        ("eps: and so with attributions", known.truth, silent != idle),
    ):
        found = scores(built, known, maps)["non_sensitivity"]
        yield check(metric, known.name, claim, found, share.double().mean(1))


def constant_dummies(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    for claim, maps, expected in (
        ("zero map: 0, all units are dummies", known.truth, 0.0),
        ("a map without zeros: 1", noise(*known.truth.shape, seed=6), 1.0),
    ):
        yield check(metric, known.name, claim, scores(build(metric), known, maps)["non_sensitivity"], expected)


def company(metric: str) -> Iterator[Check]:
    known = subjects.counting()
    built, maps = build(metric, unit="patch2", eps=0.3), noise(*known.truth.shape, seed=7).relu()
    together = scores(built, known, maps)["non_sensitivity"]
    larger = scores(built, known, torch.cat([1000 * maps[:1], maps[1:]]))["non_sensitivity"]
    yield check(metric, known.name, "a neighbour's scale is no matter", larger, together)
    alone = [known.batch.select([i]) for i in range(len(maps))]
    parts = [outcome(built, known.model, part, maps[[i]]).values["non_sensitivity"] for i, part in enumerate(alone)]
    yield check(metric, known.name, "alone as in a batch", torch.cat(parts), together)


def _invariance(metric: str, known: Known, explain: Explain, batch: Batch | None = None, shift: float = 1.0) -> Tensor:
    batch = batch or known.batch
    maps = explain(known.model, batch)
    return outcome(build(metric, shift=shift), known.model, batch, maps, explain).values["input_invariance"]


def shifted(metric: str) -> Iterator[Check]:
    known = subjects.linear()
    weight, inputs = noise(3, 8, 8, seed=1), known.batch.inputs

    def from_baseline(model: nn.Module, batch: Batch) -> Tensor:
        return gradient(model, batch) * (batch.inputs - batch.baseline)

    def pictured(model: nn.Module, batch: Batch) -> Tensor:
        return gradient(model, batch) * batch.pixels

    yield check(metric, known.name, "gradient: 0", _invariance(metric, known, gradient), 0.0)
    for shift in (1.0, -0.5):
        found = _invariance(metric, known, _times_input, shift=shift)
        expected = abs(shift) * weight.norm() / (weight * inputs).flatten(1).norm(dim=1)
        yield check(metric, known.name, f"gradient x input, m = {shift:g}: |m| ||w|| / ||w x||", found, expected)
    claim = "gradient x (input - baseline): 0, the baseline is shifted along"
    yield check(metric, known.name, claim, _invariance(metric, known, from_baseline), 0.0)
    claim = "gradient x pixels: 0, the pictures are the same"
    yield check(metric, known.name, claim, _invariance(metric, known, pictured), 0.0)
    coded = replace(known.batch, mean=(0.5, 0.4, 0.3), std=(0.25,))
    yield check(metric, known.name, f"{claim}, with a mean a channel", _invariance(metric, known, pictured, coded), 0.0)

    def compared(model: nn.Module, batch: Batch) -> Tensor:
        others = (batch.whole or batch).inputs.mean(0)
        return gradient(model, batch) * (batch.inputs - others)

    part = known.batch.select([1, 2])
    claim = "gradient x (input - mean of the data set): 0, it is shifted along"
    yield check(metric, known.name, claim, _invariance(metric, known, compared, part), 0.0)


def same_model(metric: str) -> Iterator[Check]:
    """f'(x + m) = f(x) and f'(b + m) = f(b): a map of how far they differ, plus 1, is the same."""
    for known in (subjects.relu(), subjects.additive(), subjects.quadratic()):

        def off(model: nn.Module, batch: Batch) -> Tensor:
            error = (model(batch.inputs) - batch.logits).abs().sum(1)
            error = error + (model(batch.baseline) - batch.baseline_logits).abs().sum(1)
            return (1 + error)[:, None, None, None].expand_as(batch.inputs)

        yield check(metric, known.name, "f'(x + m) = f(x), f'(b + m) = f(b)", _invariance(metric, known, off), 0.0)
        yield check(metric, known.name, "gradient: 0", _invariance(metric, known, gradient), 0.0)
        slope = gradient(known.model, known.batch)
        expected = slope.flatten(1).norm(dim=1) / (slope * known.batch.inputs).flatten(1).norm(dim=1)
        found = _invariance(metric, known, _times_input)
        yield check(metric, known.name, "gradient x input: |m| ||g|| / ||g x||", found, expected)


def constant_invariance(metric: str) -> Iterator[Check]:
    known = subjects.constant()
    yield check(metric, known.name, "zero map: undefined", _invariance(metric, known, gradient), torch.nan)
    ones = _invariance(metric, known, lambda model, batch: torch.ones_like(batch.inputs))
    yield check(metric, known.name, "constant map: 0", ones, 0.0)


CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "completeness": (complete, incomplete, homogeneous, outputs, constant_completeness),
    "non_sensitivity": (dummies, heeded, constant_dummies, company),
    "input_invariance": (shifted, same_model, constant_invariance),
}
