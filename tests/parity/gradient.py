"""Gradients and their sums along paths and over noise, against captum and shap on the same draws."""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch
from methods._noise import noisy
from methods.expected_gradients import ExpectedGradients
from methods.gradient import Gradient
from methods.input_x_gradient import InputXGradient
from methods.integrated_gradients import IntegratedGradients
from methods.noise_tunnel import NoiseTunnel
from methods.saliency import Saliency
from methods.smoothgrad import SmoothGrad
from tests.parity.pairs import Pair

SAMPLES = 3
NOISE = 0.15


def saliency(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import Saliency as Peer

    return Peer(model).attribute(batch.inputs.clone(), batch.targets).amax(1, keepdim=True)


def gradient(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import Saliency as Peer

    return Peer(model).attribute(batch.inputs.clone(), batch.targets, abs=False)


def input_x_gradient(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import InputXGradient as Peer

    return Peer(model).attribute(batch.inputs.clone().requires_grad_(), batch.targets)


def integrated_gradients(rule: str):
    def theirs(model: nn.Module, batch: Batch, layer: str) -> Tensor:
        from captum.attr import IntegratedGradients as Peer

        options = {"n_steps": 4, "method": rule, "internal_batch_size": batch.chunk}
        return Peer(model).attribute(batch.inputs, batch.baseline, batch.targets, **options)

    return theirs


def black_and_white(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import IntegratedGradients as Peer

    peer, maps = Peer(model), []
    for pixel in (0.0, 1.0):
        start = batch.normalise(torch.full_like(batch.inputs, pixel))
        options = {"n_steps": 4, "method": "gausslegendre", "internal_batch_size": batch.chunk}
        maps.append(peer.attribute(batch.inputs, start, batch.targets, **options))
    return torch.stack(maps).mean(0)


def copies(batch: Batch, noise: float = NOISE):
    """In place of captum's noise ours: `(N * SAMPLES, C, H, W)`, the copies of an image side by side."""
    image = torch.arange(len(batch)).repeat_interleave(SAMPLES)
    drawn = noisy(batch, SAMPLES, noise)(image, torch.arange(SAMPLES).repeat(len(batch)))
    return patch("captum.attr.NoiseTunnel._add_noise_to_input", staticmethod(lambda *given: drawn))


def noise_tunnel(base: str, kind: str):
    def theirs(model: nn.Module, batch: Batch, layer: str) -> Tensor:
        from captum import attr

        options = {"Saliency": {"abs": False}, "IntegratedGradients": {"n_steps": 2, "baselines": batch.baseline}}
        with copies(batch):
            return attr.NoiseTunnel(getattr(attr, base)(model)).attribute(
                batch.inputs, nt_type=kind, nt_samples=SAMPLES, target=batch.targets, **options.get(base, {})
            )

    return theirs


def gradient_shap(noise: float):
    def theirs(model: nn.Module, batch: Batch, layer: str) -> Tensor:
        from captum.attr import GradientShap as Peer

        places, steps = ExpectedGradients(SAMPLES).draws(batch)
        with (
            copies(batch, noise),
            patch("numpy.random.choice", lambda *given: places.flatten()),
            patch("numpy.random.uniform", lambda *given: steps.flatten().numpy()),
        ):
            return Peer(model).attribute(batch.inputs, batch.inputs, SAMPLES, 0.0, batch.targets)

    return theirs


def gradient_explainer(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from shap import GradientExplainer as Peer

    places, steps = ExpectedGradients(SAMPLES).draws(batch)
    drawn_places, drawn_steps = iter(places.flatten().tolist()), iter(steps.flatten().tolist())
    default = torch.get_default_dtype()
    torch.set_default_dtype(batch.inputs.dtype)
    try:
        with (
            patch("numpy.random.choice", lambda *given: next(drawn_places)),
            patch("numpy.random.uniform", lambda *given: next(drawn_steps)),
        ):
            # The highest output alone, which is the target here.
            found, _ = Peer(model, batch.inputs).shap_values(batch.inputs, SAMPLES, ranked_outputs=1, rseed=0)
    finally:
        torch.set_default_dtype(default)
    return torch.from_numpy(found[..., 0])


WIDTH = "same noise on both sides; captum's width is absolute, ours a fraction of the image's range as in the paper"
DRAWS = "same other images and steps on both sides; references may draw the explained image itself, ours does not"

PAIRS = (
    Pair("saliency", lambda layer: Saliency(), "captum Saliency, largest over channels", saliency),
    Pair("gradient", lambda layer: Gradient(), "captum Saliency(abs=False)", gradient),
    Pair("input_x_gradient", lambda layer: InputXGradient(), "captum InputXGradient", input_x_gradient),
    Pair(
        "integrated_gradients",
        lambda layer: IntegratedGradients(4),
        "captum IntegratedGradients(gausslegendre)",
        integrated_gradients("gausslegendre"),
    ),
    Pair(
        "integrated_gradients",
        lambda layer: IntegratedGradients(4, "midpoint"),
        "captum IntegratedGradients(riemann_middle)",
        integrated_gradients("riemann_middle"),
        note="captum's other Riemann sums leave an error that falls with the steps, the midpoint's with their square",
    ),
    Pair(
        "integrated_gradients_black_white",
        lambda layer: IntegratedGradients(4, baseline=("black", "white")),
        "captum IntegratedGradients, mean of two",
        black_and_white,
    ),
    Pair(
        "smoothgrad",
        lambda layer: SmoothGrad(SAMPLES, NOISE),
        "captum NoiseTunnel(Saliency(abs=False), smoothgrad)",
        noise_tunnel("Saliency", "smoothgrad"),
        note=WIDTH,
    ),
    Pair(
        "smoothgrad_squared",
        lambda layer: SmoothGrad(SAMPLES, NOISE, "square"),
        "captum NoiseTunnel(Saliency(abs=False), smoothgrad_sq)",
        noise_tunnel("Saliency", "smoothgrad_sq"),
        note=WIDTH,
    ),
    Pair(
        "vargrad",
        lambda layer: SmoothGrad(SAMPLES, NOISE, "variance"),
        "captum NoiseTunnel(Saliency(abs=False), vargrad)",
        noise_tunnel("Saliency", "vargrad"),
        note=f"{WIDTH}; both divide by the number of draws",
    ),
    Pair(
        "noise_tunnel",
        lambda layer: NoiseTunnel(InputXGradient(), SAMPLES, NOISE),
        "captum NoiseTunnel(InputXGradient)",
        noise_tunnel("InputXGradient", "smoothgrad"),
        note=WIDTH,
    ),
    Pair(
        "noise_tunnel",
        lambda layer: NoiseTunnel(IntegratedGradients(2), SAMPLES, NOISE, "square"),
        "captum NoiseTunnel(IntegratedGradients, smoothgrad_sq)",
        noise_tunnel("IntegratedGradients", "smoothgrad_sq"),
        subjects=("mobilenet_v2", "vit"),
        note=WIDTH,
    ),
    Pair(
        "expected_gradients",
        lambda layer: ExpectedGradients(SAMPLES),
        "captum GradientShap(stdevs=0)",
        gradient_shap(0.0),
        note=DRAWS,
    ),
    Pair(
        "expected_gradients",
        lambda layer: ExpectedGradients(SAMPLES),
        "shap GradientExplainer",
        gradient_explainer,
        note=DRAWS,
    ),
    Pair(
        "gradient_shap",
        lambda layer: ExpectedGradients(SAMPLES, 0.1),
        "captum GradientShap",
        gradient_shap(0.1),
        note=DRAWS,
    ),
)
