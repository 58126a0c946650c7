"""Class activation maps against pytorch-grad-cam, captum and torch-cam."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import maps
from benchmark.protocols import Batch
from methods._layers import activation_of, layer_of, spatial, strongest_channels, upsampled
from methods.ablation_cam import AblationCAM
from methods.cam import CAM
from methods.eigen_cam import EigenCAM, EigenGradCAM
from methods.grad_cam import GradCAM
from methods.grad_cam_plus_plus import GradCAMPlusPlus, SmoothGradCAMPlusPlus
from methods.hires_cam import HiResCAM
from methods.layer_cam import LayerCAM
from methods.score_cam import ScoreCAM
from methods.xgrad_cam import XGradCAM
from tests.parity.pairs import CNNS, Pair

FEW = 4
"""Channels that the methods with a pass for each are compared on."""


class Shifted(nn.Module):
    """The model behind a baseline, so that multiplying what it gets by a mask fades the image to the baseline."""

    def __init__(self, model: nn.Module, baseline: Tensor) -> None:
        super().__init__()
        self.model, self.baseline = model, baseline

    def forward(self, difference: Tensor) -> Tensor:
        return self.model(difference + self.baseline)


def of_grad_cam(name: str, model: nn.Module, batch: Batch, layer: str):
    """The peer called `name`, the activations and gradients that it works on, and its targets."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    size, prefix = (batch.inputs.shape[2], batch.inputs.shape[3]), maps.prefix_tokens(model)
    peer = getattr(pytorch_grad_cam, name)(
        model, [layer_of(model, layer)], reshape_transform=lambda found: spatial(found, size, prefix)
    )
    targets = [ClassifierOutputTarget(int(target)) for target in batch.targets]
    hooks = peer.activations_and_grads
    logits = hooks(batch.inputs.clone().requires_grad_())
    if peer.uses_gradients:
        sum(target(row) for target, row in zip(targets, logits, strict=True)).backward()
    gradients = hooks.gradients[0].numpy() if peer.uses_gradients else None
    activations = hooks.activations[0].numpy()
    hooks.release()
    return peer, activations, gradients, targets


def image_of(name: str, relu: bool = True, scale: float = 1.0):
    """The peer's coarse map, without its scaling to [0, 1], upsampled as ours.

    `scale` multiplies gradients and divides activations for the weights, so that a constant that the peer adds to a
    denominator makes no difference.
    """

    def theirs(model: nn.Module, batch: Batch, layer: str) -> Tensor:
        peer, activations, gradients, targets = of_grad_cam(name, model, batch, layer)
        if scale == 1.0:
            cam = torch.from_numpy(peer.get_cam_image(batch.inputs, None, targets, activations, gradients, False))
        else:
            weights = peer.get_cam_weights(batch.inputs, None, targets, activations / scale, gradients * scale)
            cam = torch.from_numpy((weights[..., None, None] / scale * activations).sum(1))
        return upsampled((cam.relu() if relu else cam).unsqueeze(1), batch)

    return theirs


def eigen(centred: bool):
    def theirs(model: nn.Module, batch: Batch, layer: str) -> Tensor:
        from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction as project

        _, activations, _, _ = of_grad_cam("EigenCAM", model, batch, layer)
        if centred:
            cam = project(activations)
        else:  # beside its negative, a matrix has mean zero already, and the same right singular vectors
            cam = project(np.concatenate([activations, -activations], 2))[:, : activations.shape[2]]
            extremes = cam.max((1, 2), keepdims=True) + cam.min((1, 2), keepdims=True)
            cam = np.where(extremes < 0, -cam, cam)
        return upsampled(torch.from_numpy(cam).unsqueeze(1), batch)

    return theirs


def eigen_grad(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    peer, activations, gradients, targets = of_grad_cam("EigenGradCAM", model, batch, layer)
    cam = peer.get_cam_image(batch.inputs, None, targets, activations, gradients, False)
    evidence = (activations * gradients).sum(1)
    cam = np.where((cam * evidence).sum((1, 2), keepdims=True) < 0, -cam, cam)
    return upsampled(torch.from_numpy(cam).unsqueeze(1), batch)


def few(model: nn.Module, batch: Batch, layer: str) -> tuple[Tensor, Tensor]:
    """The channels that ours chooses, `(N, FEW)`, and their maps."""
    activation = activation_of(model, batch, layer)
    chosen = strongest_channels(activation, FEW)
    return chosen, torch.stack([each[index] for each, index in zip(activation, chosen, strict=True)])


def score(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    _, activation = few(model, batch, layer)
    targets = [ClassifierOutputTarget(int(target)) for target in batch.targets]
    peer = pytorch_grad_cam.ScoreCAM(Shifted(model, batch.baseline[:1]), [])
    peer.device = batch.inputs.device
    align = patch("torch.nn.UpsamplingBilinear2d", lambda size: nn.Upsample(size, mode="bilinear"))
    exact = SimpleNamespace(**{**vars(torch), "Tensor": lambda values: torch.tensor(values, dtype=torch.float64)})
    quiet = SimpleNamespace(tqdm=lambda each: each)
    with align, patch.multiple("pytorch_grad_cam.score_cam", torch=exact, tqdm=quiet):
        weights = peer.get_cam_weights(batch.inputs - batch.baseline, None, targets, activation.numpy(), None)
    cam = (torch.from_numpy(weights)[..., None, None] * activation).sum(1, keepdim=True)
    return upsampled(cam.relu(), batch)


def score_torchcam(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from torchcam.methods import ScoreCAM as Peer

    _, activation = few(model, batch, layer)
    shifted = Shifted(model, batch.baseline[:1]).eval()
    with Peer(shifted, f"model.{layer}") as peer:
        shifted(batch.inputs - batch.baseline)
        peer.hook_a = [activation]
        (weights,) = peer._get_weights(batch.targets.tolist())
    return upsampled((weights[..., None, None] * activation).sum(1, keepdim=True).relu(), batch)


def ablation(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    import pytorch_grad_cam
    from pytorch_grad_cam.ablation_layer import AblationLayer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    chosen, _ = few(model, batch, layer)
    rows = iter(chosen.numpy())

    class Few(AblationLayer):
        def activations_to_be_ablated(self, activations: object, ratio_channels_to_ablate: float = 1.0) -> np.ndarray:
            self.indices = next(rows)
            return self.indices

    targets = [ClassifierOutputTarget(int(target)) for target in batch.targets]
    peer = pytorch_grad_cam.AblationCAM(model, [layer_of(model, layer)], ablation_layer=Few())
    peer.activations_and_grads.release()
    activation = activation_of(model, batch, layer)
    numbers = SimpleNamespace(**{**vars(np), "float32": np.asarray})
    quiet = SimpleNamespace(tqdm=lambda each: each)
    with patch.multiple("pytorch_grad_cam.ablation_cam", np=numbers, tqdm=quiet):
        weights = peer.get_cam_weights(batch.inputs.clone(), layer_of(model, layer), targets, activation.numpy(), None)
    logit = batch.logits.gather(1, batch.targets.unsqueeze(1))
    cam = torch.from_numpy(weights) * logit.sign()
    return upsampled((cam[..., None, None] * activation).sum(1, keepdim=True), batch)


def captum(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    inputs = batch.inputs.clone().requires_grad_()
    found = LayerGradCam(model, layer_of(model, layer)).attribute(inputs, batch.targets, relu_attributions=True)
    return LayerAttribution.interpolate(found, batch.inputs.shape[2:], "bilinear")


def cam_torchcam(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from torchcam.methods import CAM as Peer

    head = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)][-1]
    with torch.no_grad(), Peer(model, layer, fc_layer=head) as peer:
        logits = model(batch.inputs.clone())
        (cam,) = peer(batch.targets.tolist(), logits, normalized=False)
    return upsampled(cam.unsqueeze(1), batch)


def smooth_torchcam(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from torchcam.methods import SmoothGradCAMpp as Peer

    with Peer(model, layer, num_samples=3, std=0.6) as peer:
        model(batch.inputs.clone())
        activation = peer.hook_a[0]
        (weights,) = peer._get_weights(batch.targets.tolist(), None, eps=0.0)
    return upsampled((weights[..., None, None] * activation).sum(1, keepdim=True).relu(), batch)


PAIRS = (
    Pair("grad_cam", GradCAM, "grad-cam GradCAM", image_of("GradCAM")),
    Pair("grad_cam", GradCAM, "captum LayerGradCam", captum, CNNS),
    Pair("cam", CAM, "torchcam CAM", cam_torchcam, CNNS),
    Pair(
        "grad_cam_plus_plus",
        GradCAMPlusPlus,
        "grad-cam GradCAMPlusPlus",
        image_of("GradCAMPlusPlus", scale=1e6),
        note="the paper adds nothing to the denominator; grad-cam 1e-6, negligible here; torch-cam loses the division",
    ),
    Pair(
        "smooth_grad_cam_plus_plus",
        lambda layer: SmoothGradCAMPlusPlus(layer, samples=3),
        "torchcam SmoothGradCAMpp",
        smooth_torchcam,
        CNNS,
        timed=False,
        note="behind a global average alone: torchcam weighs with the last copy's gradient, and sums A times g^3",
    ),
    Pair(
        "xgrad_cam",
        XGradCAM,
        "grad-cam XGradCAM",
        image_of("XGradCAM", scale=1e-8),
        note="the paper adds nothing to the denominator; grad-cam 1e-7, made negligible here",
    ),
    Pair("hires_cam", HiResCAM, "grad-cam HiResCAM", image_of("HiResCAM", relu=False)),
    Pair("layer_cam", LayerCAM, "grad-cam LayerCAM", image_of("LayerCAM")),
    Pair(
        "eigen_cam",
        EigenCAM,
        "grad-cam EigenCAM",
        eigen(centred=False),
        timed=False,
        note="grad-cam centres channels, which the paper does not; it gets a matrix of mean zero here",
    ),
    Pair("eigen_cam", lambda layer: EigenCAM(layer, centred=True), "grad-cam EigenCAM", eigen(centred=True)),
    Pair("eigen_grad_cam", EigenGradCAM, "grad-cam EigenGradCAM", eigen_grad),
    Pair(
        "score_cam",
        lambda layer: ScoreCAM(layer, channels=FEW),
        "grad-cam ScoreCAM",
        score,
        note="grad-cam upsamples masks corner to corner and adds 1e-8 to their range; it is given our upsampling",
    ),
    Pair(
        "score_cam",
        lambda layer: ScoreCAM(layer, channels=FEW),
        "torchcam ScoreCAM",
        score_torchcam,
        CNNS,
        note="the paper scales masks after upsampling, torchcam before: the same on maps of 2 x 2",
    ),
    Pair(
        "ablation_cam",
        lambda layer: AblationCAM(layer, channels=FEW, relu=False),
        "grad-cam AblationCAM",
        ablation,
        CNNS,
        note="the paper zeroes a channel; grad-cam does where the layer is not negative, else it sets -1e7",
    ),
)
