"""What every metric that needs passes costs beside those passes, bare, in one run; and how many a second method needs.

`make bench` prints the table. One thread, CPU time, MobileNetV2 at 224 x 224, each round interleaved with bare passes.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from benchmark import passes
from benchmark.batches import freeze
from benchmark.certificate.checks import build
from benchmark.protocols import Batch, Metric, Scores
from methods.saliency import Saliency

pytestmark = pytest.mark.speed
CHUNK = 4
ROUNDS = 3

PASS_BOUND: dict[str, dict[str, Any]] = {
    "deletion": {},
    "insertion": {},
    "pixel_flipping": {"steps": 16},
    "region_perturbation": {"regions": 16},
    "irof": {"unit": "slic30", "steps": 30},
    "minimal_subset": {"steps": 16},
    "monotonicity": {},
    "saco": {},
    "eraser": {},
    "effective_complexity": {"steps": 16},
    "average_drop": {},
    "pic": {},
    "road": {},
    "infidelity": {"samples": 32},
    "infidelity_gaussian": {"samples": 32},
    "infidelity_noisy_baseline": {"samples": 32},
    "sensitivity_n": {"sizes": [0.2, 0.6], "subsets": 16},
    "faithfulness_correlation": {"subsets": 32},
    "mu_fidelity": {"subsets": 32},
    "faithfulness_estimate": {"unit": "grid5"},
    "monotonicity_correlation": {"unit": "grid4", "samples": 2},
    "single_deletion": {},
    "non_sensitivity": {"unit": "grid4"},
    "sensitivity": {"samples": 8},
    "local_lipschitz": {"samples": 8},
    "relative_stability": {"samples": 8},
    "input_invariance": {},
    "random_logit": {},
    "parameter_randomisation": {},
    "smooth_parameter_randomisation": {"samples": 4},
    "efficient_parameter_randomisation": {},
    "grid_pointing_game": {"min_confidence": 0.0},
}
NO_LIMIT = {
    "road": "solves a linear system for each image and step",
    "pic": "compresses each image of a curve to measure its entropy",
    "irof": "cuts each image into superpixels, once for all methods",
    "average_drop": "a single pass an image",
    "random_logit": "a single pass an image, and six similarities of two maps",
    "parameter_randomisation": "a pass a stage, and six similarities of two maps",
    "smooth_parameter_randomisation": "as parameter randomisation",
    "efficient_parameter_randomisation": "a single pass an image, and a histogram",
    "infidelity_gaussian": "draws a normal number for every value of every perturbation, for the passes and the map",
    "infidelity_noisy_baseline": "as with Gaussian noise",
    "input_invariance": "a single pass an image",
}
"""Not bound by passes; shown and not held to the limit."""
LIMIT = 1.10
NOISE = 0.08
"""What equal work differs by on a shared machine, between rounds of one run."""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v2(weights=None).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images(model: nn.Module) -> Batch:
    """Four images that the untrained network puts into different classes."""
    pixels = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3])
    return freeze(model, pixels, list("abcd"), labels=labels, explain="label", chunk=CHUNK)


@pytest.fixture(scope="module")
def maps(model: nn.Module, images: Batch) -> Tensor:
    return Saliency().attribute(model, images)


def bare(model: nn.Module, images: Batch, forwards: int, backwards: int) -> None:
    """`forwards` images forward, `backwards` of them also backward to the input."""

    def forth(start: int, stop: int) -> None:
        with torch.inference_mode():
            model(images.inputs[: stop - start])

    def back(start: int, stop: int) -> None:
        chosen = images.inputs[: stop - start].clone().requires_grad_()
        torch.autograd.grad(model(chosen)[:, 0].sum(), chosen)

    for work, total in ((forth, forwards - backwards), (back, backwards)):
        for _ in passes.chunked(work, total, CHUNK):
            pass


def explain(model: nn.Module, batch: Batch) -> Tensor:
    return Saliency().attribute(model, batch)


def first(metric: Metric, model: nn.Module, images: Batch, maps: Tensor) -> Mapping[str, Tensor]:
    """All that the first method costs; returns what the second need not pay again."""
    prepared = metric.prepare(model, images)
    second(metric, model, images, maps, prepared)
    return prepared


def second(metric: Metric, model: nn.Module, images: Batch, maps: Tensor, prepared: Mapping[str, Tensor]) -> Scores:
    return metric.score(model, images, maps, explain, prepared)


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def ratios(floor: Callable[[], object], *works: Callable[[], object] | None) -> list[float]:
    """CPU time of each work over that of `floor`, the median of interleaved rounds after one that does not count."""
    found: list[list[float]] = [[] for _ in works]
    for number in range(ROUNDS + 1):
        before = seconds(floor)
        times = [seconds(work) if work else float("nan") for work in works]
        after = seconds(floor)
        for ratio, spent in zip(found, times, strict=True):
            ratio += [2 * spent / (before + after)] * (number > 0)
    return [statistics.median(ratio) for ratio in found]


@pytest.mark.parametrize("name", PASS_BOUND)
def test_overhead(name: str, model, images, maps, capsys) -> None:
    metric = build(name, **PASS_BOUND[name])
    with passes.counted(model) as all_of_it:
        prepared = first(metric, model, images, maps)
    with passes.counted(model) as again:
        second(metric, model, images, maps, prepared)
    floor = partial(bare, model, images, all_of_it.forwards, all_of_it.backwards)
    ratio, theirs = ratios(floor, lambda: first(metric, model, images, maps), peers(model, images, maps).get(name))
    with capsys.disabled():
        counts = [f"{count.forwards / 4:.0f}+{count.backwards / 4:.0f}" for count in (all_of_it, again)]
        beside = f"   {PEERS[name]} {theirs:.2f}x" if name in PEERS else ""
        print(f"\n{name:<36} passes {counts[0]:>8}, second method {counts[1]:>8}   {ratio:.2f}x bare{beside}", end="")
    assert name in NO_LIMIT or ratio < LIMIT + NOISE


PEERS = {
    "deletion": "Quantus PixelFlipping",
    "faithfulness_correlation": "Quantus",
    "infidelity_gaussian": "captum",
    "sensitivity": "captum",
    "local_lipschitz": "Quantus",
}


def peers(model: nn.Module, images: Batch, maps: Tensor) -> dict[str, Callable[[], object]]:
    """The same amount of work by the library of `PEERS`, on the same images."""
    import captum.metrics
    import quantus

    x, y, a = images.inputs.numpy(), images.targets.numpy(), maps.numpy()
    given = {"model": model, "x_batch": x, "y_batch": y, "device": "cpu", "batch_size": CHUNK}
    quiet = {"disable_warnings": True, "display_progressbar": False, "normalise": False}

    def explained(model: nn.Module, inputs: Any, targets: Any, **_: object) -> Any:
        batch = freeze(model, torch.as_tensor(inputs), list("abcd")[: len(inputs)], chunk=CHUNK)
        return Saliency().attribute(model, batch).numpy()

    def gaussian(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn_like(inputs)
        return noise, inputs - noise

    def pixel_flipping() -> object:
        return quantus.PixelFlipping(features_in_step=224 * 7, return_auc_per_sample=False, **quiet)(**given, a_batch=a)

    def correlation() -> object:
        return quantus.FaithfulnessCorrelation(nr_runs=32, subset_size=224, **quiet)(**given, a_batch=a)

    def lipschitz() -> object:
        return quantus.LocalLipschitzEstimate(nr_samples=8, **quiet)(**given, a_batch=a, explain_func=explained)

    def infidelity() -> object:
        wide = maps.expand(-1, 3, -1, -1)
        return captum.metrics.infidelity(
            model,
            gaussian,
            images.inputs,
            wide,
            target=images.targets,
            n_perturb_samples=32,
            max_examples_per_batch=CHUNK,
        )

    def sensitivity() -> object:
        def saliency(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            targets = images.targets.repeat_interleave(len(inputs[0]) // 4)
            with torch.enable_grad():
                chosen = inputs[0].clone().requires_grad_()
                score = model(chosen).gather(1, targets[:, None]).sum()
                return (torch.autograd.grad(score, chosen)[0].abs(),)

        return captum.metrics.sensitivity_max(
            saliency, images.inputs, n_perturb_samples=8, max_examples_per_batch=CHUNK
        )

    def silently(work: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return work()

        return run

    works = (pixel_flipping, correlation, infidelity, sensitivity, lipschitz)
    return {name: silently(work) for name, work in zip(PEERS, works, strict=True)}


@pytest.mark.parametrize("name", ["relevance_mass", "sparseness"])
def test_metrics_without_passes(name: str, model, capsys) -> None:
    """Milliseconds an image, beside Quantus."""
    import quantus

    pixels = torch.rand(16, 3, 224, 224)
    masks = torch.zeros(16, 224, 224, dtype=torch.bool)
    masks[:, 50:150, 60:160] = True
    batch = freeze(model, pixels, [str(i) for i in range(16)], masks=masks, chunk=CHUNK)
    maps = torch.rand(16, 1, 224, 224)
    metric = build(name)
    peer = {"relevance_mass": quantus.RelevanceMassAccuracy, "sparseness": quantus.Sparseness}[name](
        disable_warnings=True, display_progressbar=False, normalise=False, abs=name == "sparseness"
    )
    theirs = partial(
        *(peer, model, pixels.numpy(), batch.targets.numpy(), maps.numpy()),
        **({"s_batch": masks[:, None].numpy()} if name == "relevance_mass" else {}),
    )
    metric.score(model, batch, maps, explain, {})
    ours, other = (
        statistics.median(1000 * seconds(work) / 16 for _ in range(ROUNDS))
        for work in (lambda: metric.score(model, batch, maps, explain, {}), theirs)
    )
    with capsys.disabled():
        print(f"\n{name:<36} no pass   {ours:.2f} ms an image   Quantus {other:.1f} ms", end="")
    assert ours < other
