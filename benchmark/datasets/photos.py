"""Colour photographs that come inside the scikit-image wheel, so that a model of natural images runs offline."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, check_options, file_digest
from benchmark.errors import UserError

# What shows an object that an ImageNet model can name; scikit-image's other pictures are textures, cells and text.
_FILES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg")


@dataclass(frozen=True)
class Photos:
    """Six photographs without labels: an astronaut, a cat, a cup of coffee, a workshop from two sides, a rocket.

    `seed` orders them, and the first `n` are listed, or all where there are fewer or `n` is None.

    Raises:
        UserError: scikit-image is not installed.
    """

    n: int | None = None
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    name: str = "photos"

    version: ClassVar[str] = "1"
    licence: ClassVar[str] = "public domain or CC0, the workshop of the Middlebury stereo data for research"
    source: ClassVar[str] = "https://github.com/scikit-image/scikit-image"
    classes: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_options(self)
        if importlib.util.find_spec("skimage") is None:
            raise UserError('the photographs come with scikit-image, which is missing: pip install -e ".[offline]"')

    @cached_property
    def fingerprint(self) -> str:
        return digest(["photos", self.version, [file_digest(path) for path in self._paths]])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Item:
        path = self._paths[index]
        with Image.open(path) as photo:
            return Item(path.stem, photo.convert("RGB"))

    @cached_property
    def _paths(self) -> list[Path]:
        spec = importlib.util.find_spec("skimage")
        assert spec is not None
        assert spec.origin is not None
        order = np.random.default_rng(self.seed).permutation(len(_FILES))[: self.n]
        return [Path(spec.origin).parent / "data" / _FILES[index] for index in order]
