"""A model ready to be explained: in eval mode, frozen, with its own preprocessing and its layer for CAM methods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from benchmark.datasets import Dataset
from benchmark.errors import UserError

Size = tuple[int, int, int]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Model:
    """A network and everything that its authors fixed about its input.

    Attributes:
        name: its name in tables.
        network: in eval mode, no parameter wants a gradient; maps `(N, C, H, W)` to logits `(N, classes)`.
        size: (C, H, W) of an input.
        mean: of each channel in pixel space, subtracted before the network.
        std: of each channel in pixel space, divided by before the network.
        classes: how many logits it has.
        class_names: what they stand for, or None where unknown.
        layer: the module whose output CAM methods weigh; empty where the network has no spatial map.
        weights: SHA-256 in hex over names, types, shapes and bytes of the weights and buffers.
        transform: the network's own resizing and cropping of a photograph, to `(C, H, W)` in pixel space [0, 1].
        dataset: the only data set that it was trained for, or None where any will do.
        twin: the same network trained on random labels, frozen likewise, or None where there is none.
        remarks: what `benchmark.probe` found that changes no number.
    """

    name: str
    network: nn.Module
    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    class_names: tuple[str, ...] | None
    layer: str
    weights: str
    transform: Callable[[Image.Image], Tensor]
    dataset: str | None = None
    twin: nn.Module | None = None
    remarks: tuple[str, ...] = ()

    def pixels(self, image: Tensor | Image.Image) -> Tensor:
        """An image as the model sees it before normalisation: `(C, H, W)` float in [0, 1].

        Raises:
            UserError: a tensor has another size than the model's inputs.
        """
        if isinstance(image, Image.Image):
            return self.transform(image.convert("RGB" if self.size[0] == 3 else "L"))
        if tuple(image.shape) != self.size:
            raise UserError(f"{self.name} takes images of size {_by(self.size)}, this one has {_by(image.shape)}")
        return image

    def mask(self, mask: Tensor | Image.Image | None) -> Tensor | None:
        """Where the object is in `pixels` of its image: `(H, W)` bool.

        The mask of a photograph takes the photograph's own way, so that resizing and cropping are the same; a pixel is
        the object's if more than half of what went into it was.
        """
        if isinstance(mask, Image.Image):
            return self.pixels(mask)[0] > 0.5
        return mask

    def normalise(self, pixels: Tensor) -> Tensor:
        """The network's input for `pixels (..., C, H, W)`."""
        mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def check(model: Model, dataset: Dataset) -> None:
    """Refuse a pair that does not fit, before anything is computed.

    Raises:
        UserError: the model was trained for another data set, takes images of another size, or the labels to explain
            are missing or have another number of classes.
    """
    if model.dataset not in (None, dataset.name):
        raise UserError(f"{model.name} is trained for {model.dataset} and knows nothing of {dataset.name}")
    item = dataset[0]
    if isinstance(item.image, Tensor) and tuple(item.image.shape) != model.size:
        sizes = f"{_by(item.image.shape)}, {model.name} takes {_by(model.size)}"
        raise UserError(f"{model.name} does not fit {dataset.name}, whose images have {sizes}")
    if dataset.explain == "label":
        if item.label is None or dataset.classes is None:
            raise UserError(f"{dataset.name} has no labels to explain: set datasets.explain=predicted")
        if len(dataset.classes) != model.classes:
            classes = f"{len(dataset.classes)} classes, {model.name} has {model.classes}"
            raise UserError(f"the labels of {dataset.name} have {classes}: set datasets.explain=predicted")


def freeze(network: Network) -> Network:
    """`network` itself, in eval mode, with no parameter that wants a gradient."""
    network.eval().requires_grad_(False)
    return network


def digest(network: nn.Module) -> str:
    """SHA-256 in hex over names, types, shapes and bytes of the weights and buffers."""
    sha = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _by(size: torch.Size | Size) -> str:
    return "x".join(map(str, size))
