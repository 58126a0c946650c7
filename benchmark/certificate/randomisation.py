"""Randomisation tests on models so small that the new map is a formula of the new weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from scipy import stats
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from benchmark.certificate import subjects
from benchmark.certificate.checks import EXACT, Certify, Check, build, check, gradient, outcome, scores
from benchmark.certificate.subjects import Known, images, known, noise
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Explain, Metric

_SIDE = 12  # more than the window of structural similarity
_ALIKE = ("spearman_abs", "spearman", "ssim", "hog", "cosine")
_VECTORS = ("spearman_abs", "spearman", "hog", "cosine")  # undefined for a constant map
_ROUNDED = torch.tensor([EXACT, EXACT, EXACT, 1e-6, EXACT], dtype=torch.float64)[:, None]
"""Tolerances of `_ALIKE`: scikit-image votes for orientations in float32."""


class _Linear(nn.Module):
    """z = W x: the gradient of class c is row c of W."""

    def __init__(self, classes: int, side: int, seed: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(side * side, classes, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight.copy_(noise(classes, side * side, seed=seed))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layer(inputs.flatten(1))
        return found


class _Deep(nn.Module):
    """z = B A x with A and B of one shape: the gradient of class 0 is the first row of B A."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(_SIDE**2, _SIDE**2, bias=False, dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            self.first.weight.copy_(noise(_SIDE**2, _SIDE**2, seed=2))
            self.second.weight.copy_(noise(_SIDE**2, _SIDE**2, seed=3))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.second(self.first(inputs.flatten(1)))
        return found


class _Bare(nn.Module):
    """f = w.x with w a parameter that no `reset_parameters` covers, like a class token; its gradient is w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 + noise(1, _SIDE, _SIDE, seed=4))

    def forward(self, inputs: Tensor) -> Tensor:
        found = (inputs * self.weight).sum((1, 2, 3))
        return torch.stack([found, torch.zeros_like(found)], 1)


class _Still(nn.Module):
    """f = 0.7 whatever the image and the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(_SIDE**2, 2, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1)) * 0 + torch.tensor([0.7, 0.0], dtype=torch.float64)


def _weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def _linear(count: int = 2, classes: int = 2, side: int = _SIDE) -> Known:
    return known("linear", _Linear(classes, side), images(count, 1, side, side), lambda batch: 0 * batch.inputs)


def _deep(count: int = 2) -> Known:
    return known("two layers", _Deep(), images(count, 1, _SIDE, _SIDE), lambda batch: 0 * batch.inputs)


def _bare() -> Known:
    return known("bare parameter", _Bare(), images(2, 1, _SIDE, _SIDE), lambda batch: 0 * batch.inputs)


def _still() -> Known:
    return known("constant", _Still(), images(2, 1, _SIDE, _SIDE), lambda batch: 0 * batch.inputs)


class _Watched:
    """Explains by `explain` and keeps the models and batches it was asked for."""

    def __init__(self, explain: Explain = gradient) -> None:
        self.explain = explain
        self.models: list[nn.Module] = []
        self.batches: list[Batch] = []

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.models.append(deepcopy(model))
        self.batches.append(batch)
        return self.explain(model, batch)


def _magnitude(model: nn.Module, batch: Batch) -> Tensor:
    """|x|: a map that ignores the model and the class."""
    return batch.inputs.abs()


def _alike(first: Tensor, others: Sequence[Tensor]) -> Tensor:
    """`_ALIKE` of a map `(H, W)` and each of the others, by scipy, scikit-image and numpy: `(5, others)`."""

    def unit(values: np.ndarray) -> np.ndarray:
        return (values - values.min()) / (values.max() - values.min())

    def gradients(values: np.ndarray) -> np.ndarray:
        cell = max(1, min(values.shape) // 8)
        return np.asarray(hog(unit(values), pixels_per_cell=(cell, cell), cells_per_block=(3, 3)))

    def one(a: np.ndarray, b: np.ndarray) -> list[float]:
        options = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return [
            stats.spearmanr(abs(a).ravel(), abs(b).ravel()).statistic,
            stats.spearmanr(a.ravel(), b.ravel()).statistic,
            structural_similarity(unit(a), unit(b), full=True, **options)[1][5:-5, 5:-5].mean(),
            np.corrcoef(gradients(a), gradients(b))[0, 1],
            (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()),
        ]

    return torch.tensor([one(first.numpy(), other.numpy()) for other in others], dtype=torch.float64).T


def _all(values: Mapping[str, Tensor], names: Sequence[str] = _ALIKE) -> Tensor:
    """The measures of all images, `(measures, N)`."""
    return torch.stack([values[name] for name in names])


def _found(values: Mapping[str, Tensor]) -> Tensor:
    """`_ALIKE` of the first image, `(5, 1)` or with curves `(5, stages)`."""
    return torch.stack([values[name][0].reshape(-1) for name in _ALIKE])


def _test(metric: str, **options: object) -> Metric:
    """The metric, with few noisy copies where it takes any: more prove nothing on maps that do not depend on x."""
    return build(metric, **({"samples": 2} if metric.startswith("smooth") else {}), **options)


def _copies(metric: str, subject: Known, **options: object) -> list[nn.Module]:
    """The re-initialised models that the metric has explained, each once."""
    watched = _Watched()
    scores(_test(metric, **options), subject, gradient(subject.model, subject.batch), watched)
    return watched.models[2::2] if metric.startswith("smooth") else watched.models


def ignoring(metric: str) -> Iterator[Check]:
    """A map that ignores the model is fully alike, and rolled copies of a one-hot map correlate by -1 / (d - 1)."""
    subject = _deep()
    found = scores(_test(metric), subject, subject.batch.inputs.abs(), _magnitude)
    yield check(metric, subject.name, "|x| ignores the model: 1", _found(found), 1.0)
    one_hot = torch.zeros_like(subject.batch.inputs)
    one_hot[:, :, 4, 5] = 1

    def negative(model: nn.Module, batch: Batch) -> Tensor:
        return one_hot if model is subject.model else -one_hot

    found = scores(_test(metric), subject, one_hot, negative)
    claim = "a one-hot map turns negative: the gap is that of magnitudes, 1 + 1 / (d - 1)"
    yield check(metric, subject.name, claim, found["gap"], 1 + 1 / (_SIDE**2 - 1))


def linear(metric: str) -> Iterator[Check]:
    """One layer has one stage, however many are asked for, so that no map is compared with itself."""
    subject = _linear()
    for seeds in (1, 3):
        copies = _copies(metric, subject, seeds=seeds)
        rows = [_weights(model)[0][0].view(_SIDE, _SIDE) for model in (subject.model, *copies)]
        found = scores(_test(metric, seeds=seeds), subject, gradient(subject.model, subject.batch))
        expected = _alike(rows[0], rows[1:]).mean(1, keepdim=True)
        claim = f"similarity of the old and the new weights, {seeds} seed(s)"
        yield check(metric, subject.name, claim, _found(found), expected, _ROUNDED)
        yield check(metric, subject.name, f"{seeds} seed(s), as many explanations", len(copies), seeds, 0)
    equal = [(a == b).double().mean() for a, b in itertools.combinations(rows, 2)]
    yield check(metric, subject.name, "no weight stays or returns with another seed", torch.stack(equal), 0.0, 0)


def layers(metric: str) -> Iterator[Check]:
    """Every stage of the order: from the weights of a copy whose layers are all new."""
    subject = _deep()
    (new,) = _copies("parameter_randomisation", subject, stages=1)
    (old_a, old_b), (new_a, new_b) = _weights(subject.model), _weights(new)
    steps = {
        "top_down": [(old_a, new_b), (new_a, new_b)],
        "bottom_up": [(new_a, old_b), (new_a, new_b)],
        "independent": [(old_a, new_b), (new_a, old_b)],
    }
    maps = gradient(subject.model, subject.batch)
    for order, weights in steps.items():
        found = outcome(_test(metric, order=order, stages=2), subject.model, subject.batch, maps)
        products = [(b[0] @ a).view(_SIDE, _SIDE) for a, b in weights]
        expected = _alike(maps[0, 0], products)
        claim = f"{order}: similarity of the first rows of B A before and after each stage"
        yield check(metric, subject.name, claim, _found(found.curves), expected, _ROUNDED)
        claim = f"{order}: mean of the stages, the map itself left out"
        yield check(metric, subject.name, claim, _found(found.values), expected.mean(1, keepdim=True), _ROUNDED)
    equal = [(a == b).double().mean() for a, b in itertools.combinations((old_a, old_b, new_a, new_b), 2)]
    yield check(metric, subject.name, "layers of one shape get weights of their own", torch.stack(equal), 0.0, 0)


def bare(metric: str) -> Iterator[Check]:
    subject = _bare()
    (copy,) = _copies(metric, subject)
    old, new = (_weights(model)[0].flatten() for model in (subject.model, copy))
    yield check(metric, subject.name, "no value of a bare parameter stays", (old == new).double().mean(), 0.0, 0)
    spread, d = old.std(), len(old)
    claim = "its new values have the old mean, within 4 standard errors"
    yield check(metric, subject.name, claim, new.mean(), old.mean(), 4 * spread / math.sqrt(d))
    claim = "and the old spread"
    yield check(metric, subject.name, claim, new.std() / spread, 1.0, 4 / math.sqrt(2 * (d - 1)))
    found = scores(_test(metric), subject, gradient(subject.model, subject.batch))
    expected = _alike(old.view(_SIDE, _SIDE), [new.view(_SIDE, _SIDE)])
    yield check(metric, subject.name, "similarity of the old and the new values", _found(found), expected, _ROUNDED)


def constant(metric: str) -> Iterator[Check]:
    subject = _still()
    found = scores(_test(metric), subject, gradient(subject.model, subject.batch))
    undefined = _all(found, (*_VECTORS, "gap"))
    yield check(metric, subject.name, "no map to begin with: undefined", undefined, math.nan)
    subject, calls = _deep(), itertools.count()
    trained = 2 if metric.startswith("smooth") else 0  # explanations of the trained model

    def fading(model: nn.Module, batch: Batch) -> Tensor:
        return batch.inputs.abs() if next(calls) < trained else torch.zeros_like(batch.inputs)

    found = scores(_test(metric), subject, subject.batch.inputs, fading)
    nothing = _all(found, _VECTORS)
    yield check(metric, subject.name, "maps of copies are constant: nothing is left, 0", nothing, 0.0)


def fresh(metric: str) -> Iterator[Check]:
    """Maps of independent pixels, drawn anew at every call, correlate by 0 with variance 1 / (d - 1)."""
    subject, draw = _deep(count=40), itertools.count(50)
    maps = noise(40, 1, _SIDE, _SIDE)
    found = scores(_test(metric), subject, maps, lambda model, batch: noise(*maps.shape, seed=next(draw)))
    error = 1 / math.sqrt((_SIDE**2 - 1) * 40 * 2)
    means = torch.stack([found[name].mean() for name in ("spearman_abs", "spearman", "cosine")])
    yield check(metric, subject.name, "random at every call: 0 within 4 standard errors", means, 0.0, 4 * error)


def asked(metric: str) -> Iterator[Check]:
    """What a method is given: the old target, and the outputs of the model that it explains."""
    subject, watched = _deep(), _Watched()
    scores(_test(metric), subject, gradient(subject.model, subject.batch), watched)
    pairs = list(zip(watched.models, watched.batches, strict=True))
    kept = [torch.equal(batch.targets, subject.batch.targets) for _, batch in pairs]
    yield check(metric, subject.name, "the target stays that of the trained model", sum(kept), len(pairs), 0)
    off = [
        (model(images) - logits).abs().max()
        for model, batch in pairs
        for images, logits in ((batch.inputs, batch.logits), (batch.baseline, batch.baseline_logits))
    ]
    claim = "the batch holds the outputs of the model that is explained"
    yield check(metric, subject.name, claim, torch.stack(off), 0.0)


def smoothed(metric: str) -> Iterator[Check]:
    """The noise is a tenth of the image's own range, and the same for all models."""
    pixels = images(3, 1, 32, 32) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1)
    subject = known("linear", _Linear(2, 32), pixels, lambda batch: 0 * batch.inputs)
    watched = _Watched()
    maps = gradient(subject.model, subject.batch)
    found = scores(build(metric, samples=4), subject, maps, watched)
    inputs = torch.stack([batch.inputs for batch in watched.batches])
    span = pixels.amax((1, 2, 3), keepdim=True) - pixels.amin((1, 2, 3), keepdim=True)
    drawn = ((inputs[:4] - pixels) / (0.1 * span)).transpose(0, 1).flatten(1)
    error = 1 / math.sqrt(drawn.shape[1])
    yield check(metric, subject.name, "noise of mean 0, within 4 standard errors", drawn.mean(1), 0.0, 4 * error)
    claim = "and of a tenth of the image's range"
    yield check(metric, subject.name, claim, drawn.std(1), 1.0, 4 * error / math.sqrt(2))
    between = torch.corrcoef(drawn.view(3, 4, -1)[0])[~torch.eye(4, dtype=torch.bool)]
    yield check(metric, subject.name, "copies have noise of their own", between, 0.0, 4 * error * 2)
    yield check(metric, subject.name, "all models see the same noise", inputs[4:], inputs[:4], 0)
    other = scores(build(metric, samples=4), subject, -7 * maps + 1)
    yield check(metric, subject.name, "the map of x itself does not enter", _found(other), _found(found))


def _entropies(metric: str, claim: str, before: Tensor, after: Sequence[Tensor], expected: float) -> Check:
    """The check of the rise between hand-made maps of 100 pixels, one after another for the copies."""
    subject = _linear(count=1, side=10)
    maps = iter(after)
    found = scores(
        build(metric, seeds=len(after)),
        *(subject, before.double().view(1, 1, 10, 10), lambda model, batch: next(maps).double().view(1, 1, 10, 10)),
    )
    return check(metric, subject.name, claim, found[metric], expected)


def complexity(metric: str) -> Iterator[Check]:
    """C of 100 different values, one in each of 100 bins, is ln 100; of two values, equally often, ln 2."""
    many = torch.arange(100.0)
    two, one = (torch.arange(100) // 50).double(), torch.full((100,), 3.0)
    three = torch.cat([torch.tensor([-1.0, 0.0, 1.0]).repeat(33), torch.zeros(1)])
    thirds = -2 * 0.33 * math.log(0.33) - 0.34 * math.log(0.34)
    both = math.log(100) / math.log(2) - 1
    yield _entropies(metric, "from two values to 100: ln 100 / ln 2 - 1", two, [many], both)
    yield _entropies(metric, "from 100 values to two: ln 2 / ln 100 - 1", many, [two], 1 / (both + 1) - 1)
    yield _entropies(metric, "three values, of both signs", two, [three], thirds / math.log(2) - 1)
    yield _entropies(metric, "neither scale, nor offset, nor sign of the map matters", 1 - 1e5 * two, [-3 * many], both)
    yield _entropies(metric, "two seeds: the mean of their rises", two, [many, two], both / 2)
    yield _entropies(metric, "the copies' map is constant: -1", many, [one], -1.0)
    yield _entropies(metric, "the map is constant: undefined", one, [many], math.nan)
    uneven = torch.where(many < 90, 0.0, 1.0)
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    yield _entropies(metric, "bins of equal width, not of equal content", two, [uneven], entropy / math.log(2) - 1)


def everything_new(metric: str) -> Iterator[Check]:
    for subject in (_deep(), _bare()):
        found = scores(build(metric), subject, subject.batch.inputs.abs(), _magnitude)
        yield check(metric, subject.name, "|x| ignores the model: 0", found[metric], 0.0)
        (copy,) = _copies(metric, subject)
        pairs = zip(_weights(subject.model), _weights(copy), strict=True)
        equal = torch.stack([(old == new).double().mean() for old, new in pairs])
        yield check(metric, subject.name, "no weight stays", equal, 0.0, 0)
    subject = _still()
    found = scores(build(metric), subject, gradient(subject.model, subject.batch))
    yield check(metric, subject.name, "no map to begin with: undefined", found[metric], math.nan)


def other_class(metric: str) -> Iterator[Check]:
    copies, classes = 240, 5
    subject = known(
        *("linear", _Linear(classes, _SIDE), images(1, 1, _SIDE, _SIDE).expand(copies, -1, -1, -1)),
        lambda batch: 0 * batch.inputs,
    )
    watched = _Watched()
    maps = gradient(subject.model, subject.batch)
    found = scores(build(metric), subject, maps, watched)
    other = watched.batches[0].targets
    yield check(metric, subject.name, "one explanation", len(watched.batches), 1, 0)
    share = torch.bincount(other, minlength=classes) / copies
    error = math.sqrt(3 / 16 / copies)
    expected = torch.tensor([0.0, 0.25, 0.25, 0.25, 0.25])
    claim = "never the target, all others equally likely, within 4 standard errors"
    yield check(metric, subject.name, claim, share, expected, 4 * error * (expected > 0))
    rows = _weights(subject.model)[0].view(classes, _SIDE, _SIDE)
    known_alike = _alike(rows[0], list(rows))
    measured = _all(found)
    claim = "similarity of two rows of the weights"
    yield check(metric, subject.name, claim, measured, known_alike[:, other], _ROUNDED)


def opposite(metric: str) -> Iterator[Check]:
    """Of two classes there is one other: with logits (f, -f) its map is the negative, with (f, 0) nothing is left."""
    subject = _linear()
    (weight,) = _weights(subject.model)
    weight[1] = -weight[0]
    found = scores(build(metric), subject, gradient(subject.model, subject.batch))
    signed = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    measured = _all(found, _VECTORS)
    yield check(metric, subject.name, "logits (f, -f): 1 where signs are no matter, else -1", measured, signed)
    subject = subjects.linear()
    found = scores(build(metric), subject, gradient(subject.model, subject.batch))
    nothing = _all(found, _VECTORS)
    yield check(metric, subject.name, "logits (f, 0): nothing is left, 0", nothing, 0.0)
    subject = subjects.constant()
    found = scores(build(metric), subject, gradient(subject.model, subject.batch))
    undefined = _all(found, (*_VECTORS, "gap"))
    yield check(metric, subject.name, "no map to begin with: undefined", undefined, math.nan)


def agnostic(metric: str) -> Iterator[Check]:
    subject = subjects.counting(side=12)
    found = scores(build(metric), subject, subject.batch.inputs.abs(), _magnitude)
    measured = _all(found)
    yield check(metric, subject.name, "|x| ignores the class: 1", measured, 1.0)


def _beside(metric: str, subject: Known, twin: nn.Module, explain: Explain = gradient) -> Mapping[str, Tensor]:
    maps = explain(subject.model, subject.batch)
    return build(metric).score(subject.model, subject.batch, maps, explain, {"twin": twin}).values


def twin(metric: str) -> Iterator[Check]:
    subject, watched = _linear(), _Watched()
    other = _Linear(2, _SIDE, seed=6).requires_grad_(False)
    found = _beside(metric, subject, other, watched)
    rows = [_weights(model)[0][0].view(_SIDE, _SIDE) for model in (subject.model, other)]
    claim = "similarity of the weights of the model and of its twin"
    yield check(metric, subject.name, claim, _found(found), _alike(rows[0], rows[1:]), _ROUNDED)
    seen = watched.batches[1]
    yield check(metric, subject.name, "the target is that of the model", seen.targets, subject.batch.targets, 0)
    yield check(metric, subject.name, "the batch holds the outputs of the twin", seen.logits, other(seen.inputs))
    claim = "a twin with the same weights: 1"
    yield check(metric, subject.name, claim, _found(_beside(metric, subject, subject.model)), 1.0)
    claim = "|x| ignores the model: 1"
    yield check(metric, subject.name, claim, _found(_beside(metric, subject, other, _magnitude)), 1.0)
    try:
        build(metric).score(subject.model, subject.batch, subject.batch.inputs, gradient, {})
        refused = False
    except NotApplicable:
        refused = True
    yield check(metric, subject.name, "without a twin it is not applicable", refused, True, 0)


def still_twin(metric: str) -> Iterator[Check]:
    subject = _still()
    found = _beside(metric, subject, _Linear(2, _SIDE))
    undefined = _all(found, (*_VECTORS, "gap"))
    yield check(metric, subject.name, "no map to begin with: undefined", undefined, math.nan)
    subject, zero = _deep(), _Deep().requires_grad_(False)
    _weights(zero)[0].zero_()
    found = _beside(metric, subject, zero)
    nothing = _all(found, _VECTORS)
    yield check(metric, subject.name, "the twin's map is constant: nothing is left, 0", nothing, 0.0)


_CASCADE: tuple[Certify, ...] = (ignoring, linear, layers, bare, constant, fresh, asked)
CHECKS: Mapping[str, tuple[Certify, ...]] = {
    "parameter_randomisation": _CASCADE,
    "parameter_randomisation_independent": _CASCADE,
    "smooth_parameter_randomisation": (*_CASCADE, smoothed),
    "efficient_parameter_randomisation": (complexity, everything_new, asked),
    "random_logit": (other_class, opposite, agnostic),
    "data_randomisation": (twin, still_twin),
}
