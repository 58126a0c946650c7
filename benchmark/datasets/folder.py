"""Any folder of images with one subfolder a class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from PIL import Image

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, check_options, file_digest
from benchmark.datasets.imagenet import is_wnid, synsets, wordnet
from benchmark.datasets.listed import ENDINGS, balanced
from benchmark.errors import UserError


@dataclass(frozen=True)
class Folder:
    """Images under `root/<class>/`; labels count the classes in the order of their names.

    Where every class folder is named by a WordNet id (n01440764, ...) the labels are those of ImageNet-1k, so that a
    part of ImageNet fits a model of all its classes. `seed` draws `n` images, as equally from the classes as they
    allow; None lists all.

    Raises:
        UserError: `root` is missing or holds no class folder with an image, or a WordNet id is not of ImageNet-1k.

    Attributes:
        root: the folder with a subfolder for each class.
    """

    root: str
    n: int | None = 1000
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    name: str = "folder"

    version: ClassVar[str] = "1"
    licence: ClassVar[str] = "your own"
    source: ClassVar[str] = "a folder of yours"

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
    def _found(self) -> list[Path]:
        """All images, by class and name."""
        return [p for p in sorted(Path(self.root).glob("*/*")) if p.suffix.lower() in ENDINGS and p.is_file()]

    @cached_property
    def _names(self) -> list[str]:
        """Those of the class folders, in order."""
        return sorted({path.parent.name for path in self._found})

    @cached_property
    def _paths(self) -> list[Path]:
        """The listed images, by class and name."""
        number = {name: at for at, name in enumerate(self._names)}
        places = balanced([number[path.parent.name] for path in self._found], self.n, self.seed)
        return [self._found[place] for place in places]

    @cached_property
    def _labels(self) -> tuple[dict[str, int], tuple[str, ...]]:
        """The label of each class folder, and the names of all classes that labels count."""
        if not all(map(is_wnid, self._names)):
            return {name: label for label, name in enumerate(self._names)}, tuple(self._names)
        return synsets(self._names, self.root), wordnet()[1]
