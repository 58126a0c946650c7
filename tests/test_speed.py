"""What explaining and scoring cost beside the bare passes they need, in one run. `make bench` prints the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torchvision
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import Occlusion as CaptumOcclusion
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor, nn

from benchmark.batches import freeze
from benchmark.passes import chunked
from benchmark.protocols import Batch
from methods.integrated_gradients import IntegratedGradients
from methods.occlusion import Occlusion
from methods.rise import RISE
from methods.saliency import Saliency
from methods.smoothgrad import SmoothGrad
from metrics.deletion import Deletion
from metrics.infidelity import Infidelity

pytestmark = pytest.mark.speed
CHUNK = 8
Job = tuple[int, int, Callable[[], object], Callable[[], object] | None]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return torchvision.models.mobilenet_v2(weights=None).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images(model: nn.Module) -> Batch:
    pixels = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return freeze(model, pixels, list("abcd"), chunk=CHUNK)


def forwards(model: nn.Module, inputs: Tensor, count: int) -> None:
    with torch.inference_mode():
        for _ in chunked(lambda start, stop: model(inputs[: stop - start]), count, CHUNK):
            pass


def backwards(model: nn.Module, inputs: Tensor, count: int) -> None:
    def both(start: int, stop: int) -> Tensor:
        chosen = inputs[: stop - start].clone().requires_grad_()
        return torch.autograd.grad(model(chosen)[:, 0].sum(), chosen)[0]

    for _ in chunked(both, count, CHUNK):
        pass


NAMES = ("saliency", "integrated_gradients", "smoothgrad", "occlusion", "rise", "deletion", "infidelity")


def jobs(model: nn.Module, images: Batch) -> dict[str, Job]:
    """(forwards, forwards with backwards, ours, captum's) for four images."""
    x, t, b = images.inputs, images.targets, images.baseline
    maps = torch.rand(4, 1, 224, 224)
    peer = CaptumIntegratedGradients(model)
    window = {"sliding_window_shapes": (3, 56, 56), "strides": (3, 56, 56), "perturbations_per_eval": 2}
    works: tuple[Job, ...] = (
        (0, 4, lambda: Saliency().attribute(model, images), lambda: CaptumSaliency(model).attribute(x, t)),
        (
            *(0, 32, lambda: IntegratedGradients(steps=8).attribute(model, images)),
            lambda: peer.attribute(x, b, t, n_steps=8, internal_batch_size=CHUNK),
        ),
        (0, 32, lambda: SmoothGrad(samples=8).attribute(model, images), None),
        (
            *(64, 0, lambda: Occlusion(0.25, 0.25).attribute(model, images)),
            lambda: CaptumOcclusion(model).attribute(x, baselines=b, target=t, **window),
        ),
        (128, 0, lambda: RISE(masks=32).attribute(model, images), None),
        (124, 0, lambda: Deletion(steps=32).score(model, images, maps, None, {}), None),
        (128, 0, lambda: Infidelity(samples=32).prepare(model, images), None),
    )
    return dict(zip(NAMES, works, strict=True))


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.parametrize("name", NAMES)
def test_overhead(model, images, name: str, benchmark, capsys) -> None:
    forward, both, ours, theirs = jobs(model, images)[name]

    def bare() -> None:
        forwards(model, torch.rand(CHUNK, 3, 224, 224), forward)
        backwards(model, torch.rand(CHUNK, 3, 224, 224), both)

    bare()
    ours()
    # Interleaved, so that a machine that slows down slows all alike.
    rounds = [(seconds(bare), seconds(ours), seconds(theirs) if theirs else float("nan")) for _ in range(5)]
    ratio = statistics.median(mine / floor for floor, mine, _ in rounds)
    peer = statistics.median(other / floor for floor, _, other in rounds)
    benchmark.group = "four images of 224 x 224, MobileNetV2"
    benchmark.extra_info |= {"x_bare": ratio, "captum_x_bare": peer, "torch": torch.__version__}
    benchmark.pedantic(ours, rounds=1)
    with capsys.disabled():
        beside = f"   captum {peer:.2f}x" if theirs else ""
        print(f"\n{name:<24} {ratio:.2f}x the bare passes{beside}")
    assert ratio < 1.25
