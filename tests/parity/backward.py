"""Modified backward passes against captum, shap and grad-cam.

The peers see modules, and not in place, so they are given a copy of the network that acts out of place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch
from methods.deep_lift import DeepLift, DeepShap
from methods.full_grad import FullGrad
from methods.guided_backprop import GuidedBackprop
from methods.guided_grad_cam import GuidedGradCAM
from methods.shap_explainers import _Logit
from tests.parity.pairs import Pair


def out_of_place(model: nn.Module) -> nn.Module:
    """A copy whose activations do not write to their inputs."""
    found = copy.deepcopy(model)
    for module in found.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return found


def guided_by(peer: str) -> Callable[[nn.Module, Batch, str], Tensor]:
    def theirs(model: nn.Module, batch: Batch, layer: str) -> Tensor:
        import captum.attr

        return getattr(captum.attr, peer)(out_of_place(model)).attribute(batch.inputs.clone(), batch.targets)

    return theirs


def guided_grad_cam(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import GuidedGradCam

    peer = out_of_place(model)
    method = GuidedGradCam(peer, peer.get_submodule(layer))
    return method.attribute(batch.inputs.clone(), batch.targets, interpolate_mode="bilinear")


def deep_lift(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import DeepLift as Peer
    from captum.attr._core import deep_lift as rules

    with patch.dict(rules.SUPPORTED_NON_LINEAR, {nn.ReLU6: rules.nonlinear}):
        return Peer(out_of_place(model)).attribute(batch.inputs.clone(), batch.baseline, batch.targets)


SHAP = DeepShap(samples=2)


def deep_lift_shap(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import DeepLiftShap as Peer
    from captum.attr._core import deep_lift as rules

    with patch.dict(rules.SUPPORTED_NON_LINEAR, {nn.ReLU6: rules.nonlinear}):
        return Peer(out_of_place(model)).attribute(batch.inputs.clone(), SHAP.baselines(batch), batch.targets)


def deep_explainer(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    import shap
    from shap.explainers._deep import deep_pytorch as rules

    added = {"ReLU6": rules.nonlinear_1d, "AdaptiveAvgPool2d": rules.linear_1d}
    maps = []
    for image, target in zip(batch.inputs.split(1), batch.targets.tolist(), strict=True):
        with torch.enable_grad(), patch.dict(rules.op_handler, added):
            explainer = shap.DeepExplainer(_Logit(out_of_place(model), target), SHAP.baselines(batch))
            maps.append(torch.as_tensor(explainer.shap_values(image.clone()))[..., 0])
    return torch.cat(maps)


class _Drawn(FullGrad):
    """FullGrad scaled as grad-cam returns it: to [0, 1]."""

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        return _unit(super().attribute(model, batch))


def _unit(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return (maps - low) / (high - low)


def full_grad(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from pytorch_grad_cam import FullGrad as Peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    larger = copy.deepcopy(model)
    larger.get_submodule("fc").weight.mul_(1e6)  # maps do not depend on it, but grad-cam divides by 1e-7 more
    targets = [ClassifierOutputTarget(target) for target in batch.targets.tolist()]
    with torch.enable_grad(), Peer(larger, []) as peer:
        return torch.as_tensor(peer(batch.inputs.clone(), targets)).unsqueeze(1)


RECTIFIED = "captum leaves out ReLU6, functions and activations in place"
RESCALED = "captum and shap leave out ReLU6, here added to their tables, and fail on modules reused or in place"

PAIRS = (
    Pair(
        "guided_backprop",
        lambda layer: GuidedBackprop(),
        "captum GuidedBackprop",
        guided_by("GuidedBackprop"),
        ("resnet18",),
        note=RECTIFIED,
    ),
    Pair(
        "deconvnet",
        lambda layer: GuidedBackprop("deconvnet"),
        "captum Deconvolution",
        guided_by("Deconvolution"),
        ("resnet18",),
        note=RECTIFIED,
    ),
    Pair(
        "guided_grad_cam",
        lambda layer: GuidedGradCAM(layer),
        "captum GuidedGradCam, bilinear",
        guided_grad_cam,
        ("resnet18",),
        note=RECTIFIED,
    ),
    Pair("deep_lift", lambda layer: DeepLift(), "captum DeepLift", deep_lift, ("mobilenet_v2",), note=RESCALED),
    Pair("deep_shap", lambda layer: SHAP, "captum DeepLiftShap", deep_lift_shap, ("mobilenet_v2",), note=RESCALED),
    Pair("deep_shap", lambda layer: SHAP, "shap DeepExplainer", deep_explainer, ("mobilenet_v2",), note=RESCALED),
    Pair(
        "full_grad",
        lambda layer: _Drawn("channel"),
        "grad-cam FullGrad",
        full_grad,
        ("resnet18",),
        tolerance=1e-5,
        note="grad-cam scales every channel, in float32, where the authors' code, and ours by default, scales a layer",
    ),
)
