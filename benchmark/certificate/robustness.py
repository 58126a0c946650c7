"""Sensitivity, local Lipschitz and relative stability, where the change of a map is a formula of the step taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, gradient, outcome, scores
from benchmark.certificate.subjects import Known, Scored, known, noise
from benchmark.protocols import Batch, Explain


def _isotropic(count: int = 4, side: int = 2) -> Known:
    """f = a x'x / 2 with a = 1.5, so the gradient is a x and moves by a d, whatever the direction of d."""
    model = Scored(lambda inputs: 0.75 * inputs.square().sum((1, 2, 3)))
    pixels = subjects.images(count, 1, side, side, seed=6) + 0.5
    return known("isotropic quadratic", model, pixels, lambda batch: 0.75 * batch.inputs.square())


def _peak() -> Known:
    """f = 1/1000 - sum |x_i - p_i| at its peak p: no neighbour keeps the predicted class."""
    pixels = subjects.images(3, 1, 4, 4, seed=7)
    model = Scored(lambda inputs: 1e-3 - (inputs[:, None] - pixels).abs().sum((2, 3, 4)).amin(1))
    return known("peak", model, pixels, lambda batch: torch.zeros_like(batch.inputs))


def _edge() -> Known:
    """f = x - 1/2 of one pixel at 0.505: the neighbours below 1/2 change the predicted class."""
    pixels = torch.full((6, 1, 1, 1), 0.505, dtype=torch.float64)
    return known("edge", Scored(lambda inputs: inputs.sum((1, 2, 3)) - 0.5), pixels, lambda batch: batch.inputs)


class _Watched:
    """Explains, and keeps every batch that it is given: the neighbours that a score must be a formula of."""

    def __init__(self, explain: Explain) -> None:
        self.explain = explain
        self.batches: list[Batch] = []

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.batches.append(batch)
        return self.explain(model, batch)

    def inputs(self) -> Tensor:
        """Neighbours `(samples, N, C, H, W)`."""
        return torch.stack([batch.inputs for batch in self.batches])


def _times_input(model: nn.Module, batch: Batch) -> Tensor:
    return gradient(model, batch) * batch.inputs


def _size(values: Tensor) -> Tensor:
    return values.flatten(-3).norm(dim=-1)


def _above(found: Tensor, bound: Tensor | float) -> Tensor:
    """By how much a bound is broken."""
    return (found - bound).clamp(min=0)


def _normalised(plain: Known) -> Batch:
    """The same pictures for a model that wants them with mean 0.5 and deviation 0.25."""
    pixels = plain.batch.pixels
    inputs, absent = (pixels - 0.5) / 0.25, (plain.batch.baseline - 0.5) / 0.25
    return replace(plain.batch, mean=(0.5,), std=(0.25,), inputs=inputs, baseline=absent)


def frozen(metric: str) -> Iterator[Check]:
    """What a neighbour shares with its image, and what is its own; seen by the absolute distance of two maps."""
    subject = subjects.linear()
    pixels = subject.batch.inputs[0].numel()

    def score(explain: Explain, batch: Batch = subject.batch) -> Mapping[str, Tensor]:
        return outcome(built, subject.model, batch, explain(subject.model, batch), explain).values

    def named(model: nn.Module, batch: Batch) -> Tensor:
        return randomness.normal(batch.keys("method")[:, 0], *batch.inputs.shape[1:]).double()

    def said(model: nn.Module, batch: Batch) -> Tensor:
        """A map that shows the logits that came with the batch, and whether they are the model's."""
        return (batch.logits[:, 0] - model(batch.inputs)[:, 0] + 1)[:, None, None, None].expand_as(batch.inputs)

    def asked(model: nn.Module, batch: Batch) -> Tensor:
        return (batch.targets[:, None, None, None] + 1) * torch.ones_like(batch.inputs) + batch.baseline

    def among(model: nn.Module, batch: Batch) -> Tensor:
        return (batch.whole or batch).inputs.mean(0).expand_as(batch.inputs)

    built = build(metric, samples=5)
    for claim, explain in (
        ("the data set stays: 0", among),
        ("target and baseline stay: 0", asked),
        ("the method's own noise stays: 0", named),
        ("the logits are the neighbour's own: 0", said),
    ):
        for name, found in score(explain).items():
            if name != "representation":
                yield check(metric, subject.name, f"{name}: {claim}", found, 0.0)
    watched = _Watched(_times_input)
    score(watched)
    steps = (watched.inputs()[1:] - subject.batch.inputs).flatten(2)
    yield check(metric, subject.name, "|d| <= radius", _above(steps.abs(), 0.02), 0.0)
    draws = steps.flatten(0, 1)
    alike = ((draws[:, None] - draws[None]).abs().amax(2) < 1e-9).sum() - len(draws)
    yield check(metric, subject.name, "no two images or draws share a step", alike, 0.0)
    # The mean of |d| over all channels and pixels is half the radius, with variance radius^2 / 12 a number.
    error = 0.02 / (12 * steps.numel()) ** 0.5
    yield check(metric, subject.name, "mean d = 0", steps.mean(), 0.0, 8 * error)
    yield check(metric, subject.name, "mean |d| = radius / 2", steps.abs().mean(), 0.01, 4 * error)
    watched = _Watched(_times_input)
    score(watched, coded := _normalised(subject))
    moved = 0.25 * (watched.inputs()[1:] - coded.inputs)
    yield check(metric, subject.name, "the radius is one of pixel space", moved.abs().mean(), 0.01, 4 * error)
    built = build(metric, samples=40, ball="l2", radius=0.1)
    watched = _Watched(_times_input)
    score(watched)
    length = _size(watched.inputs()[1:] - subject.batch.inputs)
    yield check(metric, subject.name, "ball l2: ||d|| <= radius", _above(length, 0.1), 0.0)
    # ||d|| / radius is the d-th root of a uniform number: mean k / (k + 1) with variance k / (k + 1)^2 / (k + 2).
    error = (pixels / (pixels + 1) ** 2 / (pixels + 2) / length.numel()) ** 0.5
    claim = "ball l2: mean ||d|| = radius k / (k + 1) of k dimensions"
    yield check(metric, subject.name, claim, length.mean(), 0.1 * pixels / (pixels + 1), 0.4 * error)


def company(metric: str) -> Iterator[Check]:
    subject = subjects.relu()
    built = build(metric, samples=4)
    maps = _times_input(subject.model, subject.batch)
    together = outcome(built, subject.model, subject.batch, maps, _times_input).values
    alone = [subject.batch.select([i]) for i in range(len(maps))]
    parts = [outcome(built, subject.model, part, maps[[i]], _times_input).values for i, part in enumerate(alone)]
    for name, found in together.items():
        yield check(metric, subject.name, f"{name}: alone as in a batch", torch.cat([p[name] for p in parts]), found)


def linear_sensitivity(metric: str) -> Iterator[Check]:
    subject = subjects.linear()
    weight, inputs = noise(3, 8, 8, seed=1), subject.batch.inputs
    found = scores(build(metric), subject, gradient(subject.model, subject.batch))
    for name in ("max", "average"):
        yield check(metric, subject.name, f"gradient: {name} = 0", found[name], 0.0)
    for relative in (False, True):
        watched = _Watched(_times_input)
        found = scores(build(metric, relative=relative), subject, weight * inputs, watched)
        moved = _size(weight * (watched.inputs() - inputs)) / (_size(weight * inputs) if relative else 1)
        by = " / ||w x||" if relative else ""
        claim = f"gradient x input: max ||w d||{by}"
        yield check(metric, subject.name, claim, found["max"], moved.amax(0))
        yield check(metric, subject.name, claim.replace("max", "mean"), found["average"], moved.mean(0))
        if not relative:
            bound = 0.02 * float(weight.norm())
            yield check(metric, subject.name, "gradient x input: max <= r ||w||", _above(found["max"], bound), 0.0)

    def tripled(model: nn.Module, batch: Batch) -> Tensor:
        return 3 * _times_input(model, batch)

    for relative, times in ((False, 3), (True, 1)):
        built = build(metric, relative=relative)
        plain, large = (
            scores(built, subject, explain(subject.model, subject.batch), explain)
            for explain in (_times_input, tripled)
        )
        claim = f"relative={str(relative).lower()}: three times the map, {times} times the score"
        yield check(metric, subject.name, claim, large["max"], times * plain["max"])


def quadratic_sensitivity(metric: str) -> Iterator[Check]:
    subject, matrix = subjects.quadratic(), subjects.quadratic_matrix()
    maps, steepest = gradient(subject.model, subject.batch), float(torch.linalg.matrix_norm(matrix, 2))
    watched = _Watched(gradient)
    found = scores(build(metric, relative=False, ball="l2", samples=50), subject, maps, watched)["max"]
    moved = ((watched.inputs() - subject.batch.inputs).flatten(2) @ matrix).norm(dim=2)
    yield check(metric, subject.name, "gradient: max ||A d||", found, moved.amax(0))
    yield check(metric, subject.name, "gradient: max <= r ||A||", _above(found, 0.02 * steepest), 0.0)
    found = scores(build(metric, relative=True, ball="l2", samples=50), subject, maps)["max"]
    at = (subject.batch.inputs.flatten(1) @ matrix).norm(dim=1)
    yield check(metric, subject.name, "gradient: relative max ||A d|| / ||A x||", found, moved.amax(0) / at)


def sampled_sensitivity(metric: str) -> Iterator[Check]:
    """Of n steps in a ball of k dimensions, the longest has E||d|| = r nk / (nk + 1), and a mean one r k / (k + 1)."""
    for ball, side in (("linf", 1), ("l2", 2)):
        subject = _isotropic(count=300, side=side)
        found = scores(
            build(metric, relative=False, ball=ball, samples=8), subject, gradient(subject.model, subject.batch)
        )
        for name, k in (("max", 8 * side**2), ("average", side**2)):
            draws = 300 if name == "max" else 8 * 300
            error = 0.03 * (k / (k + 1) ** 2 / (k + 2) / draws) ** 0.5
            claim = f"gradient, ball {ball}: mean {name} = a r {k} / {k + 1}"
            yield check(metric, subject.name, claim, found[name].mean(), 0.03 * k / (k + 1), 4 * error)


def constant_sensitivity(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    zeros = torch.zeros_like(subject.batch.inputs)
    for name in ("max", "average"):
        found = scores(build(metric, relative=True), subject, zeros)[name]
        yield check(metric, subject.name, f"zero map: relative {name} undefined", found, torch.nan)
        found = scores(build(metric, relative=False), subject, zeros)[name]
        yield check(metric, subject.name, f"zero map: {name} = 0", found, 0.0)


def lipschitz(metric: str) -> Iterator[Check]:
    subject = subjects.linear()
    weight, inputs = noise(3, 8, 8, seed=1), subject.batch.inputs
    found = scores(build(metric), subject, gradient(subject.model, subject.batch))
    for name in ("relative", "absolute"):
        yield check(metric, subject.name, f"gradient: {name} = 0", found[name], 0.0)
    watched = _Watched(_times_input)
    found = scores(build(metric), subject, weight * inputs, watched)
    steps = watched.inputs() - inputs
    ratio = (_size(weight * steps) / _size(steps)).amax(0)
    yield check(metric, subject.name, "gradient x input: max ||w d|| / ||d||", found["absolute"], ratio)
    claim = "gradient x input: max ||w d|| / ||d|| / ||w x||"
    yield check(metric, subject.name, claim, found["relative"], ratio / _size(weight * inputs))
    steepest = float(weight.abs().max())
    yield check(metric, subject.name, "gradient x input: <= max |w|", _above(found["absolute"], steepest), 0.0)

    def shown(model: nn.Module, batch: Batch) -> Tensor:
        return batch.inputs

    coded = _normalised(subject)
    found = outcome(build(metric), subject.model, coded, coded.inputs, shown).values
    yield check(metric, subject.name, "the input itself: 1 / deviation, d in pixel space", found["absolute"], 4.0)


def curved_lipschitz(metric: str) -> Iterator[Check]:
    for ball in ("linf", "l2"):
        subject = _isotropic()
        maps = gradient(subject.model, subject.batch)
        found = scores(build(metric, ball=ball), subject, maps)
        yield check(metric, subject.name, f"gradient, ball {ball}: a", found["absolute"], 1.5)
        yield check(metric, subject.name, f"gradient, ball {ball}: a / ||a x||", found["relative"], 1.5 / _size(maps))
    subject, matrix = subjects.quadratic(), subjects.quadratic_matrix()
    watched = _Watched(gradient)
    found = scores(build(metric, samples=50), subject, gradient(subject.model, subject.batch), watched)
    steps = (watched.inputs() - subject.batch.inputs).flatten(2)
    ratio = (steps @ matrix).norm(dim=2) / steps.norm(dim=2)
    yield check(metric, subject.name, "gradient: max ||A d|| / ||d||", found["absolute"], ratio.amax(0))
    steepest = float(torch.linalg.matrix_norm(matrix, 2))
    yield check(metric, subject.name, "gradient: <= ||A||", _above(found["absolute"], steepest), 0.0)


def constant_lipschitz(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    found = scores(build(metric), subject, torch.zeros_like(subject.batch.inputs))
    yield check(metric, subject.name, "zero map: 0", found["absolute"], 0.0)
    yield check(metric, subject.name, "zero map: relative undefined", found["relative"], torch.nan)


def _change(metric: str, before: Tensor, after: Tensor, eps_min: float = 1e-6) -> Tensor:
    """Relative change of `before (N, ...)` to `after (samples, N, ...)`, as the configured metric means it."""
    before, after = before.flatten(1), after.flatten(2)
    if metric.endswith("element"):
        return ((after - before) / before.abs().clamp(min=eps_min * before.abs().amax(1, keepdim=True))).norm(dim=2)
    return (after - before).norm(dim=2) / before.norm(dim=1)


def linear_stability(metric: str) -> Iterator[Check]:
    subject = subjects.linear()
    weight, inputs = noise(3, 8, 8, seed=1), subject.batch.inputs
    found = scores(build(metric), subject, gradient(subject.model, subject.batch))
    yield check(metric, subject.name, "gradient: input 0", found["input"], 0.0)
    yield check(metric, subject.name, "gradient: output 0", found["output"], 0.0)
    claim = "no layer with weights: representation undefined"
    yield check(metric, subject.name, claim, found["representation"], torch.nan)
    watched = _Watched(_times_input)
    found = scores(build(metric, radius=1e-3), subject, weight * inputs, watched)
    steps, moved = watched.inputs() - inputs, _change(metric, weight * inputs, weight * watched.inputs())
    ratio = (moved / _change(metric, inputs, watched.inputs())).amax(0)
    yield check(metric, subject.name, "gradient x input: max r(w x) / r(x)", found["input"], ratio, 1e-7)
    if metric.endswith("element"):
        yield check(metric, subject.name, "gradient x input: input 1", found["input"], 1.0, 1e-7)
    ratio = (moved / (weight * steps).sum((2, 3, 4)).abs()).amax(0)
    yield check(metric, subject.name, "gradient x input: max r(w x) / |w.d|", found["output"] / ratio, 1.0, 1e-7)


def curved_stability(metric: str) -> Iterator[Check]:
    subject = _isotropic()
    found = scores(build(metric), subject, gradient(subject.model, subject.batch))
    yield check(metric, subject.name, "gradient a x: input 1", found["input"], 1.0)


def represented_stability(metric: str) -> Iterator[Check]:
    """What enters the last layer with weights is the mean of the second convolution, rectified."""
    subject = subjects.relu()
    first, second, head = (weight for weight in subject.model.parameters())

    def hidden(inputs: Tensor) -> Tensor:
        found = nn.functional.conv2d(inputs, first, padding=1).relu()
        return nn.functional.conv2d(found, second, padding=1).relu().mean((2, 3))

    watched = _Watched(_times_input)
    maps = _times_input(subject.model, subject.batch)
    found = scores(build(metric, samples=6), subject, maps, watched)
    near = watched.inputs()
    moved = _change(metric, maps, torch.stack([_times_input(subject.model, batch) for batch in watched.batches]))
    layers = torch.stack([hidden(inputs) for inputs in near])
    said = (layers @ head.T)[..., 0]
    inside = _change(metric, hidden(subject.batch.inputs), layers)
    expected = {
        "input": (moved / _change(metric, subject.batch.inputs, near)).amax(0),
        "representation": (moved / inside).amax(0),
        "output": (moved / (said - subject.clean).abs()).amax(0),
    }
    for name, of in (("input", "r(x)"), ("representation", "r(L)"), ("output", "||h(x) - h(y)||")):
        yield check(metric, subject.name, f"max r(phi) / {of}", found[name] / expected[name], 1.0, 1e-7)


def kept_stability(metric: str) -> Iterator[Check]:
    subject = _peak()
    found = scores(build(metric), subject, subject.batch.inputs, lambda model, batch: batch.inputs)
    for name in ("input", "output"):
        claim = f"{name}: undefined where no neighbour keeps the class"
        yield check(metric, subject.name, claim, found[name], torch.nan)
    subject = _edge()
    watched = _Watched(lambda model, batch: 1 / batch.inputs)
    found = scores(build(metric, samples=12), subject, 1 / subject.batch.inputs, watched)
    x, y = subject.batch.inputs, watched.inputs()
    kept = (x / y).masked_fill(y <= 0.5, 0.0).amax((0, 2, 3, 4))
    yield check(metric, subject.name, "1/x: max x/y over neighbours that keep the class", found["input"], kept)


def constant_stability(metric: str) -> Iterator[Check]:
    subject = subjects.constant()
    zeros = torch.zeros_like(subject.batch.inputs)
    for near, explain in (("zero", None), ("not zero", lambda model, batch: batch.inputs)):
        found = scores(build(metric), subject, zeros, explain)
        for name in ("input", "output"):
            claim = f"{name}: zero map undefined, neighbours' maps {near}"
            yield check(metric, subject.name, claim, found[name], torch.nan)
    watched = _Watched(lambda model, batch: batch.inputs)
    found = scores(build(metric, eps_min=0.5), subject, subject.batch.inputs, watched)
    moved = _change(metric, subject.batch.inputs, watched.inputs(), 0.5).amax(0)
    yield check(metric, subject.name, "no change of the output: r(phi) / eps_min", found["output"], moved / 0.5)


_STABILITY: tuple[Certify, ...] = (
    *(linear_stability, curved_stability, represented_stability, kept_stability, constant_stability),
    *(frozen, company),
)
CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "sensitivity": (
        *(linear_sensitivity, quadratic_sensitivity, sampled_sensitivity, constant_sensitivity),
        *(frozen, company),
    ),
    "local_lipschitz": (lipschitz, curved_lipschitz, constant_lipschitz, frozen, company),
    "relative_stability": _STABILITY,
    "relative_stability_element": _STABILITY,
}
