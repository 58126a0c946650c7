"""What a network's authors, or the user, say of its input and its classes, and the model that they make together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmark.cam_layer import choose
from benchmark.errors import UserError
from benchmark.models import Model, Size, digest, freeze
from benchmark.probe import examine

Names = str | Sequence[str]
"""Names of classes, or a file that holds them: a name a line, or JSON, a list or an object from number to name."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network, and what its outputs stand for.

    Attributes:
        size: (C, H, W) of an input.
        mean: of each channel in pixel space, subtracted before the network.
        std: of each channel in pixel space, divided by before the network.
        transform: from a photograph to `(C, H, W)` in [0, 1]; None resizes its shorter side and cuts out the centre.
        class_names: None where nobody says.
    """

    size: Size
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    transform: Callable[[Image.Image], Tensor] | None = None
    class_names: Sequence[str] | None = None

    def stated(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Names | None = None,
    ) -> Preprocessing:
        """The same, but for what the user states otherwise."""
        names = self.class_names if class_names is None else _names(class_names)
        return replace(self, mean=mean or self.mean, std=std or self.std, class_names=names)


def checked_size(size: Any) -> Size:
    """`size` as (C, H, W).

    Raises:
        UserError: it is something else.
    """
    if isinstance(size, list | tuple) and len(size) == 3 and all(isinstance(each, int) and each > 0 for each in size):
        return size[0], size[1], size[2]
    raise UserError(f"models.size={size} is no size of an image: expected [channels,height,width], as [3,224,224]")


def crop(size: Size) -> Callable[[Image.Image], Tensor]:
    """Resizing of the shorter side and a cut of the centre: a photograph to `(C, H, W)` in [0, 1]."""
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    _, height, width = size
    return Compose([Resize(max(height, width)), CenterCrop([height, width]), ToTensor()])


def model(name: str, network: nn.Module, known: Preprocessing, layer: str | None, weights: str | None = None) -> Model:
    """The model that `network` and what is `known` of it make: frozen, examined, with its layer for CAM methods.

    Args:
        layer: None finds it by rule; the empty name stands for none.
        weights: a hash that stands for them; None is `digest`.

    Raises:
        UserError: the network misbehaves (see `benchmark.probe`), there is no such layer, or what is stated does not
            fit the size or the number of classes.
    """
    channels = known.size[0]
    mean, std = known.mean or (0.0,) * channels, known.std or (1.0,) * channels
    for option, values in (("mean", mean), ("std", std)):
        if len(values) != channels or not all(isinstance(value, int | float) for value in values):
            raise UserError(f"models.{option}={list(values)}: expected a number for each of {channels} channels")
    if not all(value > 0 for value in std):
        raise UserError(f"models.std={list(std)} divides by it: expected numbers above 0")
    freeze(network)
    like = next(network.parameters(), torch.empty(0))
    pixels = torch.rand(3, *known.size, generator=torch.Generator().manual_seed(0))
    offset, scale = (pixels.new_tensor(values).view(-1, 1, 1) for values in (mean, std))
    found = examine(name, network, ((pixels - offset) / scale).to(like.device))
    classes = found.classes
    if getattr(network, "num_classes", classes) == 0:
        raise UserError(f"{name} is no classifier of two or more classes: there is no class to explain")
    if known.class_names is not None and len(known.class_names) != classes:
        raise UserError(f"models.class_names has {len(known.class_names)} names, {name} has {classes} classes")
    return Model(
        name=name,
        network=network,
        size=known.size,
        mean=tuple(mean),
        std=tuple(std),
        classes=classes,
        class_names=None if known.class_names is None else tuple(known.class_names),
        layer="" if layer == "" else choose(network, known.size, layer),
        weights=weights or digest(network),
        transform=known.transform or crop(known.size),
        remarks=found.remarks,
    )


def _names(given: Names) -> Sequence[str]:
    """Names of classes, in order.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not isinstance(given, str):
        return [str(name) for name in given]
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"models.class_names={given} is no file of names that can be read: {error}") from None
    if not text.lstrip().startswith(("[", "{")):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = [found[str(place)] for place in range(len(found))]
    except (ValueError, KeyError):
        raise UserError(f"{given} is no list of names and no object from 0, 1, ... to names") from None
    return [str(name) for name in found]
