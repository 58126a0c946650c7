"""Layers against captum, and the fusion of stages against torch-cam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmark.protocols import Batch
from methods._stages import stages
from methods.hierarchical import Hierarchical
from methods.internal_influence import InternalInfluence
from methods.layer_activation import LayerActivation
from methods.layer_conductance import LayerConductance
from methods.layer_grad_x_activation import LayerGradXActivation
from tests.parity.pairs import CNNS, Pair

INNER = {"features": "features.7", "layer4": "layer2", "blocks.3.norm1": "blocks.1"}
"""By layer for CAM methods, one in the middle of the same network through which everything passes."""


def laid_out(raw: Tensor, batch: Batch) -> Tensor:
    """A layer's values, summed over channels and resized as its definition of a map says; one class token is left out.

    All sizes here divide those of the image.
    """
    if raw.dim() == 3:
        side = round((raw.shape[1] - 1) ** 0.5)
        raw = raw[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    return nn.functional.interpolate(raw.sum(1, keepdim=True), batch.inputs.shape[2:], mode="bilinear")


def captum(name: str, model: nn.Module, layer: str, *args: object, **options: object) -> Tensor:
    from captum import attr

    peer: Any = getattr(attr, name)(model, model.get_submodule(layer))
    return peer.attribute(*args, **options).detach()


def extrapolated(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    """Captum's activations and gradients at each point, and our sum of their products written out."""
    from captum._utils.gradient import compute_layer_gradients_and_eval

    ys, gs = [], []
    for place in (0, 0.25, 0.5, 0.75, 1):
        points = (batch.baseline + place * (batch.inputs - batch.baseline)).requires_grad_()
        module = model.get_submodule(layer)
        (gradient,), (activation,) = compute_layer_gradients_and_eval(model, module, points, batch.targets)
        ys.append(activation.detach())
        gs.append(gradient.detach())
    gs[0] = 3 * gs[1] - 3 * gs[2] + gs[3]

    def trapezoids(stride: int) -> Tensor:
        y, g = torch.stack(ys[::stride]), torch.stack(gs[::stride])
        return ((g[1:] + g[:-1]) / 2 * y.diff(dim=0)).sum(0)

    cells = (4 * trapezoids(1) - trapezoids(2)) / 3
    grid = cells.shape[2:].numel() if cells.dim() == 4 else cells.shape[1] - 1
    return laid_out(cells, batch) * grid / batch.inputs.shape[2:].numel()


def conductance(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    options: dict[str, Any] = {"target": batch.targets, "n_steps": 8, "method": "riemann_trapezoid"}
    cells = captum("LayerConductance", model, layer, batch.inputs, batch.baseline, **options)
    return laid_out(cells, batch) * cells.shape[2:].numel() / batch.inputs.shape[2:].numel()


def influence(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    cells = captum("InternalInfluence", model, layer, batch.inputs, batch.baseline, target=batch.targets, n_steps=8)
    return laid_out(cells.abs(), batch)


def activation(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    return laid_out(captum("LayerActivation", model, layer, batch.inputs).abs(), batch)


def grad_x_activation(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    return laid_out(captum("LayerGradientXActivation", model, layer, batch.inputs.clone(), batch.targets), batch)


def fused(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from torchcam.methods import LayerCAM

    maps = []
    with LayerCAM(model, list(stages(model, batch))) as peer, torch.enable_grad():
        for image, target in zip(batch.inputs, batch.targets, strict=True):
            scores = model(image.unsqueeze(0).clone().requires_grad_())
            cams = [cam / cam.max() for cam in peer(int(target), scores, normalized=False)]
            maps.append(peer.fuse_cams(cams, tuple(image.shape[1:])))
    return torch.stack(maps)


FIRST_ORDER = (
    "captum takes the gradient at one end of each step: equal here, where it is constant, else off by order 1 / steps"
)
PAIRS = (
    Pair(
        "layer_conductance",
        lambda layer: LayerConductance(layer, steps=8),
        "captum LayerConductance",
        conductance,
        CNNS,
        note=FIRST_ORDER,
    ),
    Pair(
        "layer_conductance",
        lambda layer: LayerConductance(INNER[layer], steps=4),
        "captum layer gradients and activations, summed as ours, inner layer",
        lambda model, batch, layer: extrapolated(model, batch, INNER[layer]),
        timed=False,
        note="captum's own sum takes one end of each step, and its nodes leave out the ends of the path",
    ),
    Pair(
        "internal_influence",
        lambda layer: InternalInfluence(layer, steps=8),
        "captum InternalInfluence, magnitudes summed over channels",
        influence,
    ),
    Pair(
        "internal_influence",
        lambda layer: InternalInfluence(INNER[layer], steps=8),
        "captum InternalInfluence, magnitudes summed over channels, inner layer",
        lambda model, batch, layer: influence(model, batch, INNER[layer]),
        ("vit",),
    ),
    Pair(
        "layer_activation",
        LayerActivation,
        "captum LayerActivation, magnitudes summed over channels",
        activation,
    ),
    Pair(
        "layer_grad_x_activation",
        LayerGradXActivation,
        "captum LayerGradientXActivation, summed over channels",
        grad_x_activation,
    ),
    Pair(
        "layer_grad_x_activation",
        lambda layer: LayerGradXActivation(INNER[layer]),
        "captum LayerGradientXActivation, summed over channels, inner layer",
        lambda model, batch, layer: grad_x_activation(model, batch, INNER[layer]),
    ),
    Pair(
        "hierarchical",
        lambda layer: Hierarchical(),
        "torchcam LayerCAM.fuse_cams, maps divided by their maximum",
        fused,
        CNNS,
        note="torch-cam subtracts the minimum too; the paper does not",
    ),
)
