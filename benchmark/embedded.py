"""Two small models whose trained weights come with the project, so that a sweep runs anywhere, without a network."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from benchmark.cam_layer import choose
from benchmark.errors import UserError
from benchmark.models import Model, digest, freeze

WEIGHTS = Path(__file__).parent / "weights"
TWIN = "-random_labels"
"""Ends the name of the file of a twin: the same network after it learned random labels."""
TASKS: dict[str, tuple[str, ...]] = {
    "shapes": (),
    "digits": (),
    "additive": (),
    "interaction": ("and", "or", "xor"),
    "dual_label": ("shape", "texture"),
    "shortcut": ("rho1", "rho0.9", "rho0.5", "rho0"),
    "suppressor": (),
}
"""Data sets that embedded models are trained on, and the variants of those that have several."""
GATE = 0.95
"""Share of its test images that a model must get right: of one that has not learned its task no truth is known."""
_SEED = re.compile(r"(?:(.*)-)?seed([1-9]\d*)")


@dataclass(frozen=True)
class Cnn:
    """A narrow ResNet-10-T (He et al. 2019, arXiv:1812.01187) whose last feature map is 1/`output_stride` of the image.

    Attributes:
        channels: width of each of the four stages.
        stem_width: channels that the first convolution makes.
        output_stride: pixels of the image to a place of the last feature map.
    """

    channels: Sequence[int] = (16, 24, 32, 48)
    stem_width: int = 8
    output_stride: int = 8

    learning_rate: ClassVar[float] = 1e-2
    faint_rate: ClassVar[float] = 1e-2
    steps: ClassVar[int] = 1000
    scene_steps: ClassVar[int] = 1500
    memory_steps: ClassVar[int] = 1000

    def network(self, size: tuple[int, int, int], classes: int) -> nn.Module:
        """The network with random weights, for images of `size` (C, H, W)."""
        import timm

        network: nn.Module = timm.create_model(
            "resnet10t",
            in_chans=size[0],
            num_classes=classes,
            channels=tuple(self.channels),
            stem_width=self.stem_width,
            output_stride=self.output_stride,
        )
        return network


@dataclass(frozen=True)
class Vit:
    """A plain vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with a class token and normalised keys.

    Attributes:
        patch: side of a patch in pixels.
        width: features of a token.
        depth: blocks.
        heads: attention heads of a block.
    """

    patch: int = 8
    width: int = 48
    depth: int = 3
    heads: int = 3

    learning_rate: ClassVar[float] = 4e-3
    faint_rate: ClassVar[float] = 1e-3  # at the other one it never finds a signal that is barely there
    steps: ClassVar[int] = 12_000
    scene_steps: ClassVar[int] = 5000
    memory_steps: ClassVar[int] = 2000

    def network(self, size: tuple[int, int, int], classes: int) -> nn.Module:
        """The network with random weights, for images of `size` (C, H, W)."""
        import timm

        network: nn.Module = timm.create_model(
            "vit_tiny_patch16_224",
            in_chans=size[0],
            img_size=size[1:],
            num_classes=classes,
            patch_size=self.patch,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            qk_norm=True,  # without it training takes twice as long
        )
        return network


def embedded(
    name: str, dataset: str, architecture: Cnn | Vit, trained: str | None = None, layer: str | None = None
) -> Model:
    """A small model with weights made by `python -m benchmark.train`: shipped, else made on first use and kept.

    Args:
        name: `small_cnn` or `small_vit`.
        dataset: what it was trained on.
        architecture: of the network, as in the model's yaml.
        trained: on which variant of the data set, see `TASKS`, None is the first of them; `seed3`, or `-seed3` behind a
            variant, is the same training from other random numbers.
        layer: for CAM methods; None finds it (see `benchmark.cam_layer`).

    Raises:
        UserError: it can be trained on no such data set, it has not learned enough, the architecture is not the one
            that was trained, or the layer does not exist.
    """
    from safetensors import safe_open
    from torchvision.transforms import Compose, Resize, ToTensor

    path = _weights(name, task(dataset, trained))
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["assay"])
    if facts["test_accuracy"] < GATE:
        again = f"python -m benchmark.train {name} {facts['task']} --out {path}"
        raise UserError(
            f"{path} holds a network that gets {facts['test_accuracy']:.1%} of its test images right, expected at "
            f"least {GATE:.0%}: train it again ({again})"
        )
    channels, height, width = facts["size"]
    size, classes = (channels, height, width), tuple(facts["classes"])
    network = _trained(architecture, size, len(classes), path)
    twin = path.with_stem(path.stem + TWIN)
    return Model(
        name=name,
        network=network,
        size=size,
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        classes=len(classes),
        class_names=classes,
        layer=choose(network, size, layer),
        weights=digest(network),
        transform=Compose([Resize([height, width]), ToTensor()]),
        dataset=dataset,
        twin=_trained(architecture, size, len(classes), twin) if twin.exists() else None,
    )


def task(dataset: str, trained: str | None = None) -> str:
    """What a model is trained on: a data set, with its variant where it has several and its seed where that is not 0.

    Raises:
        UserError: there is no such data set or variant to train on.
    """
    if dataset not in TASKS:
        known = ", ".join(TASKS)
        raise UserError(f"neither small_cnn nor small_vit is trained for {dataset}: expected one of {known}")
    variants = TASKS[dataset]
    variant, number = split_seed(trained or "")
    if variant and variant not in variants:
        some = f"expected {' or '.join(variants)}" if variants else "expected null, there is one"
        raise UserError(f"models.trained={trained} is no training on {dataset}: {some}, or with -seed1 behind it")
    parts = [dataset, *([variant or variants[0]] if variants else []), *([f"seed{number}"] if number else [])]
    return "-".join(parts)


def split_seed(name: str) -> tuple[str, int]:
    """What stands before `-seed3`, and the 3; the name and 0 where there is no seed."""
    found = _SEED.fullmatch(name)
    return (found[1] or "", int(found[2])) if found else (name, 0)


def _weights(name: str, task: str) -> Path:
    """The file with the weights, shipped or kept from before; where there is none the model is trained now."""
    file = f"{name}-{task}.safetensors"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "assay", "weights")
    for folder in (WEIGHTS, cache):
        if (folder / file).exists():
            return folder / file
    from benchmark.train import train

    print(f"training {name} on {task}, once: its weights go to {cache / file}", file=sys.stderr)
    train(name, task, cache / file)
    return cache / file


def _trained(architecture: Cnn | Vit, size: tuple[int, int, int], classes: int, path: Path) -> nn.Module:
    """The network with the weights in `path`, frozen."""
    from safetensors.torch import load_file

    network = architecture.network(size, classes)
    try:
        network.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise UserError(f"{path.name} holds another architecture than models.architecture describes") from error
    return freeze(network)
