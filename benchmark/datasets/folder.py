"""Any folder of images with one subfolder a class."""

from __future__ import annotations

import re
from collections import defaultdict
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

_ENDINGS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Folder:
    """Images under `root/<class>/`; labels count the classes in the order of their names.

    Where every class folder is named by a WordNet id (n01440764, ...) the labels are those of ImageNet-1k, so that a
    part of ImageNet fits a model of all its classes. `seed` draws `n` images, as equally from the classes as they
    allow; None lists all.

    Raises:
        UserError: `root` is missing or holds no class folder with an image, or a WordNet id is not of ImageNet-1k.
    """

    root: str
    n: int | None = 1000
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    name: str = "folder"

    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        check_options(self)
        if not self._paths:
            found = "does not exist" if not Path(self.root).is_dir() else "holds no image in a subfolder"
            raise UserError(f"datasets.root={self.root} {found}: expected a subfolder for each class, with images")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return self._labels[1]

    @cached_property
    def fingerprint(self) -> str:
        files = [[path.parent.name, path.name, file_digest(path)] for path in self._paths]
        return digest(["folder", self.version, files])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Item:
        path = self._paths[index]
        try:
            with Image.open(path) as photo:
                image = photo.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} is no image that can be read: mend or remove it") from error
        return Item(f"{path.parent.name}/{path.name}", image, self._labels[0][path.parent.name])

    @cached_property
    def _groups(self) -> dict[str, list[Path]]:
        """Images by class, both in the order of their names."""
        groups = defaultdict(list)
        for path in sorted(Path(self.root).glob("*/*")):
            if path.suffix.lower() in _ENDINGS and path.is_file():
                groups[path.parent.name].append(path)
        return dict(groups)

    @cached_property
    def _paths(self) -> list[Path]:
        """The listed images: shuffled within each class, taken from the classes in turn, then sorted by name."""
        turns: list[tuple[int, float, Path]] = []
        for number, paths in enumerate(self._groups.values()):
            rng = np.random.default_rng([self.seed, number])
            turns += [(turn, rng.random(), paths[index]) for turn, index in enumerate(rng.permutation(len(paths)))]
        return sorted(path for _, _, path in sorted(turns)[: self.n])

    @cached_property
    def _labels(self) -> tuple[dict[str, int], tuple[str, ...]]:
        """The label of each class folder, and the names of all classes that labels count."""
        names = sorted(self._groups)
        if not all(_WNID.fullmatch(name) for name in names):
            return {name: label for label, name in enumerate(names)}, tuple(names)
        from timm.data.imagenet_info import ImageNetInfo

        imagenet = ImageNetInfo()
        index = {wnid: label for label, wnid in enumerate(imagenet.label_names())}
        for name in names:
            if name not in index:
                raise UserError(f"{Path(self.root, name)} is named like an ImageNet class but is none of its 1,000")
        return {name: index[name] for name in names}, tuple(imagenet.label_descriptions())
