"""Throughput on explanations whose passes and least duration are known; what the clock adds is not certified."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmark.certificate import subjects
from benchmark.certificate.checks import Certify, Check, build, check, gradient, scores
from benchmark.protocols import Batch

_PAUSE = 0.02


def passes(metric: str) -> Iterator[Check]:
    """Forwards and backwards an image are counted, not estimated."""
    known = subjects.relu()

    def five(model: nn.Module, batch: Batch) -> Tensor:
        with torch.inference_mode():
            return torch.stack([model(batch.inputs)[:, :1, None, None] * batch.inputs for _ in range(5)]).sum(0)

    for what, explain, forwards, backwards in (("gradient", gradient, 1, 1), ("five forwards", five, 5, 0)):
        found = scores(build(metric, seconds=0.01), known, known.truth, explain)
        yield check(metric, known.name, f"{what}: forwards an image", found["forwards"], forwards, 0)
        yield check(metric, known.name, f"{what}: backwards an image", found["backwards"], backwards, 0)


def duration(metric: str) -> Iterator[Check]:
    """A pause of 20 ms is the least that a call can take, alone or in a batch of four."""
    known = subjects.constant()

    def slow(model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(_PAUSE)
        return torch.zeros_like(batch.inputs)

    found = scores(build(metric, seconds=0.01, images=4), known, known.truth, slow)
    least = min(float(found["latency_p50"]), 1000 * _PAUSE)
    yield check(metric, known.name, "a pause of 20 ms: latency of 20 ms or more", least, 1000 * _PAUSE)
    rate = max(float(found["images_per_second"]), 4 / _PAUSE)
    yield check(metric, known.name, "a pause of 20 ms for four images: 200 a second or fewer", rate, 4 / _PAUSE)


CHECKS: Mapping[str, tuple[Certify, ...]] = {"throughput": (passes, duration)}
