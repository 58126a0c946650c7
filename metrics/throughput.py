"""Throughput: what an explanation costs, measured apart from what it is worth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores

_INFINITY = float("inf")


@dataclass(frozen=True)
class Throughput(Metric):
    """Images a second in batches, latency at batch 1, peak memory, energy, and passes an image.

    Each number is the median of repeats after a warm-up, the device synchronised before every reading of the clock.
    The passes an image need no clock: they are exact and the same on every machine. A backward that stops at a layer
    counts as one. Peak memory is what the explanation of one batch adds to what was allocated before. Energy is the
    GPU's own counter over at least a second, undefined without NVML.

    Attributes:
        images: in the timed batch, at most.
        repeats: of the timed batch, at least 3 and as many as fit `seconds`, but no more than this.
        latencies: single images timed, at least 3 and as many as fit eight times `seconds`; of fewer than 20 there is
            no 95th percentile.
        seconds: budget of the timed batches.
    """

    images: int = 8
    repeats: int = 10
    latencies: int = 20
    seconds: float = 0.25

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "cost"
    per: ClassVar[str] = "cell"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("images_per_second", True, (0.0, _INFINITY), ranked=False, unit="1/s"),
        Measure("latency_p50", False, (0.0, _INFINITY), ranked=False, unit="ms"),
        Measure("latency_p95", False, (0.0, _INFINITY), ranked=False, unit="ms"),
        Measure("peak_memory", False, (0.0, _INFINITY), ranked=False, unit="MiB"),
        Measure("energy", False, (0.0, _INFINITY), ranked=False, unit="J/image"),
        Measure("forwards", False, (0.0, _INFINITY), ranked=False, unit="passes/image"),
        Measure("backwards", False, (0.0, _INFINITY), ranked=False, unit="passes/image"),
    )

    def __post_init__(self) -> None:
        if min(self.images, self.repeats, self.latencies) < 1 or self.seconds <= 0:
            raise UserError("throughput needs images, repeats, latencies >= 1 and seconds > 0")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        device = batch.inputs.device
        batch = batch.select(list(range(min(self.images, len(batch)))))
        singles = [batch.select([i]) for i in range(len(batch))]
        with passes.counted(model) as count:
            memory = _peak_memory(lambda: explain(model, batch), device)
        times = _timed(lambda i: explain(model, batch), self.repeats, self.seconds, device)
        latencies = _timed(
            lambda i: explain(model, singles[i % len(singles)]), self.latencies, 8 * self.seconds, device
        )
        rates = [len(batch) / seconds for seconds in times]
        milliseconds = torch.tensor(latencies, dtype=torch.float64) * 1000
        values = {
            "images_per_second": statistics.median(rates),
            "latency_p50": float(milliseconds.quantile(0.5)),
            "latency_p95": float(milliseconds.quantile(0.95)) if len(latencies) >= 20 else torch.nan,
            "peak_memory": memory / 2**20,
            "energy": _energy(lambda: explain(model, batch), device) / len(batch),
            "forwards": count.forwards / len(batch),
            "backwards": count.backwards / len(batch),
        }
        curves = {"images_per_second": torch.tensor([rates]), "latency_p50": milliseconds[None]}
        return Scores({name: torch.tensor([value]) for name, value in values.items()}, curves)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(run: Callable[[int], Any], most: int, budget: float, device: torch.device) -> list[float]:
    """Seconds of each of 3 to `most` runs, as many as fit `budget`, after one that does not count."""
    run(0)
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < most and sum(seconds) < budget):
        _synchronise(device)
        started = time.perf_counter()
        run(len(seconds))
        _synchronise(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def _peak_memory(run: Callable[[], Any], device: torch.device) -> float:
    """Bytes that tensors made by `run` hold at most at one time."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _energy(run: Callable[[], Any], device: torch.device) -> float:
    """Joules of the GPU's own counter for one `run`, NaN where nothing counts them.

    The counter moves about every 100 ms, so it is read over at least a second.
    """
    if device.type != "cuda":
        return torch.nan
    try:
        import pynvml
    except ImportError:
        return torch.nan
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        before, started, runs = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), time.perf_counter(), 0
        while time.perf_counter() - started < 1:
            run()
            _synchronise(device)
            runs += 1
        return (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1000 / runs
    except pynvml.NVMLError:
        return torch.nan
