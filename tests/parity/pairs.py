"""A method of ours beside the same method of another library, on one model and one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import timm
import torch
import torchvision
from torch import Tensor, nn

from benchmark import cam_layer
from benchmark.batches import freeze
from benchmark.protocols import Batch, Method

CNNS = ("mobilenet_v2", "resnet18")
ALL = (*CNNS, "vit")


@dataclass(frozen=True)
class Pair:
    """Two implementations of one definition.

    Attributes:
        method: name of ours in `conf/methods`.
        ours: makes it with the options under which the two agree, given the layer for CAM methods.
        reference: the library and what it calls the method.
        theirs: its maps of a batch, `(N, C, H, W)` or `(N, 1, H, W)`, given the same layer; imports the library within.
        subjects: of `ALL`, where the reference runs and defines the same thing.
        tolerance: largest `difference` that float64 leaves between equal definitions.
        timed: whether the two do the same work, so that their times may be compared.
        note: where references differ, who follows the paper; empty where there is nothing to say.
    """

    method: str
    ours: Callable[[str], Method]
    reference: str
    theirs: Callable[[nn.Module, Batch, str], Tensor]
    subjects: tuple[str, ...] = ALL
    tolerance: float = 1e-6
    timed: bool = True
    note: str = ""


@cache
def subject(
    name: str, side: int = 64, count: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Batch, str]:
    """A model with random weights and running statistics, images, and the model's layer for CAM methods.

    `side` is the height and width of the images. Weights, images and targets depend on `name` alone.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "vit":
            model = timm.create_model("vit_tiny_patch16_224", img_size=side, depth=4, num_classes=20)
        else:
            model = getattr(torchvision.models, name)(num_classes=20)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.8, 1.2)
                nn.init.normal_(module.bias, 0.0, 0.1)
                module.running_mean = 0.1 * torch.randn(module.num_features)
                module.running_var = 0.5 + torch.rand(module.num_features)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.normal_(module.weight, 0.0, module.in_features**-0.5)
                nn.init.normal_(module.bias, 0.0, 0.1)
        pixels = torch.rand(count, 3, side, side)
    model = model.to(dtype).eval().requires_grad_(False)
    uids = [f"image-{i}" for i in range(count)]
    batch = freeze(model, pixels.to(dtype), uids, mean=(0.5,), std=(0.25,), baseline="black", chunk=8)
    return model, batch, cam_layer.last_spatial(model, (3, side, side))


def difference(ours: Tensor, theirs: Tensor) -> float:
    """`max |a - b| / max |b|`, the worst image."""
    theirs = theirs.detach().to(ours)
    gap = (ours - theirs).flatten(1).abs().amax(1)
    return float((gap / theirs.flatten(1).abs().amax(1)).max())
