"""One line of the certificate: what a metric must find on a subject whose answer is known, and what it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from benchmark import plugins
from benchmark.certificate.subjects import Known
from benchmark.choices import CONF
from benchmark.protocols import Batch, Explain, Metric, Scores

EXACT = 1e-9
"""Tolerance of an identity in float64."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        metric: name of the metric, as in conf/metrics.
        subject: column of the certificate: what the model is.
        claim: what must hold, as a formula in words of the metric's docstring.
        expected, measured: of the value that is furthest off.
        tolerance: largest difference that passes; 0 where two numbers are made of the same bits.
    """

    metric: str
    subject: str
    claim: str
    expected: float
    measured: float
    tolerance: float

    @property
    def passed(self) -> bool:
        if math.isnan(self.expected) or math.isnan(self.measured):
            return math.isnan(self.expected) and math.isnan(self.measured)
        return abs(self.expected - self.measured) <= self.tolerance


Certify = Callable[[str], Iterable[Check]]
"""A function of a metric's name that yields its checks on one subject."""


def check(
    metric: str,
    subject: str,
    claim: str,
    measured: Tensor | float,
    expected: Tensor | float,
    tolerance: Tensor | float = EXACT,
) -> Check:
    """The comparison of `measured` with `expected`, of any shapes that broadcast, at its worst place.

    `tolerance` may broadcast too, where the error of sampling differs between images. A NaN is matched by a NaN alone.
    """
    parts = [torch.as_tensor(value, dtype=torch.float64) for value in (measured, expected, tolerance)]
    found, wanted, allowed = (part.flatten() for part in torch.broadcast_tensors(*parts))
    off = (found - wanted).abs() - allowed
    off = torch.where(found.isnan() != wanted.isnan(), torch.inf, torch.where(found.isnan(), -torch.inf, off))
    worst = int(off.argmax())
    return Check(metric, subject, claim, float(wanted[worst]), float(found[worst]), float(allowed[worst]))


def build(name: str, **options: Any) -> Metric:
    """The metric of conf/metrics/`name`.yaml, or of a class `module.Class`, with `options` in place of its own."""
    own = "." in name
    config = OmegaConf.create({"_target_": name}) if own else OmegaConf.load(CONF / "metrics" / f"{name}.yaml")
    trusted = {name.split(".")[0]} if own else ()
    return plugins.build(OmegaConf.merge(config, options), trusted)  # type: ignore[arg-type]


def options_of(metric: Metric) -> dict[str, Any]:
    """The options of a metric, to build parts of it or the same with one changed."""
    return {field.name: getattr(metric, field.name) for field in fields(metric)}  # type: ignore[arg-type]


def scores(metric: Metric, known: Known, maps: Tensor, explain: Explain | None = None) -> Mapping[str, Tensor]:
    """What `metric` finds for `maps (N, C or 1, H, W)` on a known subject, through the whole of its protocol."""
    return outcome(metric, known.model, known.batch, maps, explain).values


def outcome(metric: Metric, model: nn.Module, batch: Batch, maps: Tensor, explain: Explain | None = None) -> Scores:
    """Prepare, parts and score, as the harness goes through them; with the curves."""
    parts = {name: outcome(part, model, batch, maps, explain) for name, part in metric.parts().items()}
    prepared = {**metric.prepare(model, batch), **parts}
    return metric.score(model, batch, maps, explain or gradient, prepared)


def gradient(model: nn.Module, batch: Batch) -> Tensor:
    """Gradient of the target's logit, the method that is explained again where a check names no other."""
    inputs = batch.inputs.clone().requires_grad_()
    total = model(inputs).gather(1, batch.targets[:, None]).sum()
    return torch.autograd.grad(total, inputs)[0]
