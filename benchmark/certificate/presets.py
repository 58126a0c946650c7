"""Presets of other libraries on an additive model: the points of the curve are a formula, the area a transcription.

Each definition is written down here a second time, in plain Python and without a look at the metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from benchmark.certificate.checks import Certify, Check, build, check, scores
from benchmark.certificate.subjects import Known, Scored, images, known, noise

Points = Sequence[float]


def _rise(curve: Points) -> float:
    """(sum - first / 2 - last / 2) / (points - 1)."""
    return (sum(curve) - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)


def _mean(curve: Points) -> float:
    return sum(curve) / len(curve)


def _without_end(curve: Points) -> float:
    """Mean over `linspace(0, 1, steps, endpoint=False)` of what is deleted."""
    return sum(curve[:-1]) / len(curve[:-1])


def _unscaled(curve: Points) -> float:
    """Trapezoids of width 1, the first point being that of the first step."""
    return sum((a + b) / 2 for a, b in pairwise(curve[1:]))


@dataclass(frozen=True)
class Definition:
    """What another library computes, from the image to its absence.

    Attributes:
        score: `prob` or `logit`.
        baseline: `zero` in normalised space or `blur`.
        counts: pixels deleted at each point, of d.
        area: of the points, the whole image first.
    """

    score: str
    baseline: str
    counts: Callable[[int], Sequence[int]]
    area: Callable[[Points], float]


def _every(steps: int) -> Callable[[int], Sequence[int]]:
    return lambda d: [round(k * d / min(steps, d)) for k in range(min(steps, d) + 1)]


def _by_ceil(steps: int) -> Callable[[int], Sequence[int]]:
    return lambda d: [*range(0, d, math.ceil(d / steps)), d]


def _tenths(d: int) -> Sequence[int]:
    """Ten points, the last of which jumps from 80 % to 100 %."""
    return [*(round(k * d / 10) for k in range(9)), d]


DEFINITIONS = {
    "deletion_rise": Definition("prob", "zero", _every(224), _rise),
    "insertion_rise": Definition("prob", "blur", _every(224), _rise),
    "deletion_torch_cam": Definition("logit", "zero", _by_ceil(20), _rise),
    "insertion_torch_cam": Definition("logit", "zero", _by_ceil(20), _rise),
    "deletion_xplique": Definition("logit", "zero", _every(10), _rise),
    "insertion_xplique": Definition("logit", "zero", _every(10), _rise),
    "deletion_attribench": Definition("logit", "zero", _every(99), _mean),
    "insertion_attribench": Definition("logit", "zero", _every(99), _mean),
    "deletion_idsds": Definition("prob", "zero", _every(32), _without_end),
    "insertion_idsds": Definition("prob", "zero", _every(32), _without_end),
    "deletion_pnpxai": Definition("prob", "zero", _tenths, _mean),
    "insertion_pnpxai": Definition("prob", "zero", _tenths, _mean),
    "deletion_quantus": Definition("prob", "zero", _every(100), _unscaled),
}


def _additive(height: int = 20, width: int = 20) -> Known:
    """f = w.x + c on inputs whose mean colour is not black."""
    weight = noise(3, height, width, seed=41) / 20
    model = Scored(lambda inputs: (inputs * weight).sum((1, 2, 3)) + 0.1)
    subject = known("linear", model, images(2, 3, height, width, seed=42), lambda b: weight * b.inputs)
    inputs = (subject.batch.inputs - 0.5) / 0.25
    batch = replace(subject.batch, inputs=inputs, mean=(0.5,), std=(0.25,), logits=model(inputs))
    return replace(subject, batch=batch, truth=weight * inputs)


def additive(metric: str) -> Iterator[Check]:
    definition = DEFINITIONS[metric]
    insert = metric.startswith("insertion")
    # Sizes that the steps divide: elsewhere the libraries round to whole pixels in ways of their own.
    subject = _additive(*{"attribench": (9, 11), "rise": (14, 16)}.get(metric.split("_")[1], (20, 20)))
    weight = subject.truth / subject.batch.inputs
    absent = torch.zeros_like(subject.truth) if definition.baseline == "zero" else _blurred(subject.batch.inputs)
    phi = (weight * (subject.batch.inputs - absent)).sum(1).flatten(1)
    maps = noise(*subject.truth.shape, seed=43)
    # Insertion restores the most relevant first, so what it leaves absent are the least relevant.
    order = maps.sum(1).flatten(1).argsort(1, descending=not insert)
    f_absent = subject.model(absent)[:, 0]
    expected = []
    for image in range(2):
        left = float(phi[image].sum() + f_absent[image])
        removed = [0.0, *phi[image, order[image]].cumsum(0).tolist()]
        curve = [left - removed[count] for count in definition.counts(phi.shape[1])]
        read = [1 / (1 + math.exp(-value)) for value in curve] if definition.score == "prob" else curve
        expected.append(definition.area(read))
    found = scores(build(metric), subject, maps)[metric.split("_")[0]]
    wanted = torch.tensor(expected, dtype=torch.float64)
    yield check(metric, subject.name, "the points and the area of the other definition", found, wanted)


def _blurred(inputs: Tensor) -> Tensor:
    """RISE's substrate: the kernel is an impulse in a window of 11 x 11 under scipy's Gaussian, the borders are 0."""
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(impulse, 5))
    return nn.functional.conv2d(inputs.flatten(0, 1).unsqueeze(1), kernel[None, None], padding=5).view_as(inputs)


def constant(metric: str) -> Iterator[Check]:
    model = Scored(lambda inputs: inputs.flatten(1).sum(1) * 0 + 0.7)
    subject = known("constant", model, images(2, 3, 20, 20), lambda batch: torch.zeros_like(batch.inputs))
    level = 0.7 if DEFINITIONS[metric].score == "logit" else 1 / (1 + math.exp(-0.7))
    expected = 99 * level if metric == "deletion_quantus" else level
    found = scores(build(metric), subject, noise(*subject.truth.shape, seed=44))[metric.split("_")[0]]
    yield check(metric, subject.name, "a flat curve: its level, whatever the points", found, expected)


def company(metric: str) -> Iterator[Check]:
    """The same alone, beside a map a thousand times as large, and where all pixels are tied."""
    subject, measure = _additive(), metric.split("_")[0]
    maps = noise(*subject.truth.shape, seed=46)
    together = scores(build(metric), subject, maps)[measure]
    loud = scores(build(metric), subject, torch.cat([1000 * maps[:1], maps[1:]]))[measure]
    yield check(metric, subject.name, "a neighbour's scale is no matter", loud, together)
    for what, given in (("alone as in a batch", maps), ("alone as in a batch, all ties", torch.ones_like(maps))):
        apart = [replace(subject, batch=subject.batch.select([image])) for image in range(2)]
        parts = [scores(build(metric), one, given[[image]])[measure] for image, one in enumerate(apart)]
        yield check(metric, subject.name, what, torch.cat(parts), scores(build(metric), subject, given)[measure])


def blucher(metric: str) -> Iterator[Check]:
    """On 100 units of equal size: 15 fractions in equal ratios from 0.2 % to 100 %, after the whole image."""
    fractions = [0.0, *(0.002 * 500 ** (k / 14) for k in range(15))]
    stated = torch.tensor(list(build(metric).steps), dtype=torch.float64)  # type: ignore[attr-defined]
    yield check(metric, "linear", "15 fractions in equal ratios", stated, torch.tensor(fractions).double(), 1e-4)
    subject = _additive()
    maps = noise(*subject.truth.shape, seed=45)
    phi, worth = (nn.functional.avg_pool2d(each.sum(1), 2).flatten(1) * 4 for each in (subject.truth, maps))
    at = torch.tensor([round(100 * fraction) for fraction in fractions])
    whole = subject.model(subject.batch.inputs)[:, :1]
    # Both curves lose the same fractions of the units: MIF the most, LIF the least relevant first.
    mif, lif = (
        (
            whole - nn.functional.pad(phi.gather(1, worth.argsort(1, descending=first)).cumsum(1), (1, 0))[:, at]
        ).sigmoid()
        for first in (True, False)
    )
    expected = torch.trapezoid(lif - mif, at.double() / 100)
    found = scores(build(metric, unit="patch2"), subject, maps)["srg"]
    yield check(metric, subject.name, "LIF - MIF at the same absent fractions, trapezoid", found, expected)
    model = Scored(lambda inputs: inputs.flatten(1).sum(1) * 0 + 0.7)
    flat = known("constant", model, images(2, 3, 20, 20), lambda batch: torch.zeros_like(batch.inputs))
    yield check(metric, flat.name, "superpixels: no drop anywhere", scores(build(metric), flat, maps)["srg"], 0.0)


CHECKS: Mapping[str, tuple[Certify, ...]] = {
    **dict.fromkeys(DEFINITIONS, (additive, constant, company)),
    "srg_blucher": (blucher, company),
}
