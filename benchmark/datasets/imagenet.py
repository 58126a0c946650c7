"""ImageNet-1k and parts of it; labels are the indices of its 1,000 classes, so that any of its models fits."""

from __future__ import annotations

import re
import tempfile
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

from benchmark.datasets.listed import ENDINGS, Entry, OnDisk, Painted
from benchmark.errors import UserError

_WNID = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")
_OFFICIAL = re.compile(r"(ILSVRC2012_val|n\d{8})_\d+")
_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_VALIDATION = "ILSVRC2012_img_val.tar"


@dataclass(frozen=True, kw_only=True)
class _Synsets(OnDisk):
    """Photographs by class of ImageNet-1k."""

    @property
    def classes(self) -> tuple[str, ...]:
        return wordnet()[1]

    @property
    def _labels(self) -> list[int]:
        return [label for _, label in self._files]

    def _entry(self, place: int) -> Entry:
        path, label = self._files[place]
        return Entry(_uid(path), path, label)

    @cached_property
    def _files(self) -> list[tuple[Path, int]]:
        """Every photograph and its label."""
        return in_synsets(self._photographs)

    @property
    @abstractmethod
    def _photographs(self) -> Path:
        """The folder of folders that are named by WordNet ids."""


@dataclass(frozen=True, kw_only=True)
class ImageNet(_Synsets):
    """The 50,000 validation photographs of ImageNet-1k, 50 a class.

    They lie in `root/val` or in `root` itself: in a folder a class named by its WordNet id, or all in one folder as the
    archive holds them, with the development kit in `root`, whose checksum torchvision verifies. With `download=true`
    torchvision unpacks the archive in `root` to `root/val`; it has to be fetched by hand.

    Source: Russakovsky et al. 2015, arXiv:1409.0575.
    """

    name: str = "imagenet"

    licence: ClassVar[str] = "for non-commercial research and teaching"
    source: ClassVar[str] = "https://image-net.org/download.php"
    downloads: ClassVar[bool] = True

    @cached_property
    def _files(self) -> list[tuple[Path, int]]:
        if found := in_synsets(self._photographs):
            return found
        numbered = {path: _NUMBER.fullmatch(path.stem) for path in sorted(self._photographs.glob("*.JPEG"))}
        if not any(numbered.values()):
            return []
        devkit = Path(self.root, _DEVKIT)
        if not devkit.is_file():
            raise UserError(
                f"{self._photographs} holds photographs without their classes: put {_DEVKIT} of {self.source} into "
                f"{self.root}, or each photograph into a folder named by its class, such as n01440764"
            )
        with self._reading():
            index = wordnet()[0]
            labels = [index[wnid] for wnid in _ground_truth(devkit)]
            return [(path, labels[int(match[1]) - 1]) for path, match in numbered.items() if match]

    @property
    def _photographs(self) -> Path:
        inside = Path(self.root, "val")
        return inside if inside.is_dir() else Path(self.root)

    @property
    def _absent(self) -> list[str]:
        """The archives, where nothing else is there."""
        if Path(self.root).is_dir() and self._files:
            return []
        return [each for each in (_VALIDATION, _DEVKIT) if not Path(self.root, each).is_file()] or ["val"]

    def _download(self) -> None:
        from torchvision.datasets import ImageNet as Library

        Library(self.root, "val")
        self.__dict__.pop("_files", None)

    @property
    def _remedy(self) -> str:
        return f"get {_VALIDATION} and {_DEVKIT} from {self.source} into {self.root} and set datasets.download=true"


@dataclass(frozen=True, kw_only=True)
class Imagenette(_Synsets):
    """Ten easy classes of ImageNet, about 390 validation photographs each.

    Source: Howard 2019, github.com/fastai/imagenette.

    Attributes:
        size: `full`, or the shorter side of the published copies, `320px` or `160px`.
    """

    size: str = "full"
    split: str = "val"
    name: str = "imagenette"

    licence: ClassVar[str] = "Apache-2.0, photographs as ImageNet"
    source: ClassVar[str] = "https://github.com/fastai/imagenette"
    splits: ClassVar[tuple[str, ...]] = ("val", "train")
    downloads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size not in ("full", "320px", "160px"):
            raise UserError(f"datasets.size={self.size} is unknown: expected full, 320px or 160px")
        super().__post_init__()

    @property
    def _absent(self) -> list[str]:
        return [] if self._photographs.is_dir() else [str(self._photographs.relative_to(self.root))]

    @property
    def _photographs(self) -> Path:
        size = "" if self.size == "full" else f"-{self.size.removesuffix('px')}"
        return Path(self.root, f"imagenette2{size}", self.split)

    def _download(self) -> None:
        from torchvision.datasets import Imagenette as Library

        Library(self.root, self.split, self.size, download=True)


@dataclass(frozen=True, kw_only=True)
class ImageNetS(_Synsets):
    """12,419 validation photographs of ImageNet, of 919 classes, whose object is painted pixel by pixel.

    Below `root` lie `ImageNetS919/validation` and `ImageNetS919/validation-segmentation`, as the makers' script leaves
    them; `classes_kept` may also be 300 or 50.

    Source: Gao et al. 2022, arXiv:2106.03149.

    Attributes:
        classes_kept: 919, 300 or 50 classes.
    """

    classes_kept: int = 919
    name: str = "imagenet_s"

    licence: ClassVar[str] = "for non-commercial research, photographs as ImageNet"
    source: ClassVar[str] = "https://github.com/LUSSeg/ImageNet-S"
    needs: ClassVar[tuple[str, ...]] = (
        "ImageNetS{classes_kept}/validation",
        "ImageNetS{classes_kept}/validation-segmentation",
    )

    def __post_init__(self) -> None:
        if self.classes_kept not in (919, 300, 50):
            raise UserError(f"datasets.classes_kept={self.classes_kept} is unknown: expected 919, 300 or 50")
        super().__post_init__()

    @property
    def _photographs(self) -> Path:
        return Path(self.root, f"ImageNetS{self.classes_kept}", "validation")

    def _entry(self, place: int) -> Entry:
        path, label = self._files[place]
        folder = self._photographs.with_name("validation-segmentation")
        # Classes count from 1; 0 is everything else and 1,000 what was left undecided.
        return Entry(_uid(path), path, label, Painted(folder / path.parent.name / f"{path.stem}.png", 1, 999))


@cache
def wordnet() -> tuple[dict[str, int], tuple[str, ...]]:
    """The label of each WordNet id of ImageNet-1k, and the names of its classes in the order of labels."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return {wnid: label for label, wnid in enumerate(info.label_names())}, tuple(info.label_descriptions())


def synsets(names: Iterable[str], root: Path | str) -> dict[str, int]:
    """The label of each of the folders `names` of `root`.

    Raises:
        UserError: one is none of the classes of ImageNet-1k.
    """
    labels = wordnet()[0]
    for name in names:
        if name not in labels:
            raise UserError(f"{Path(root, name)} is named like an ImageNet class but is none of its 1,000")
    return {name: labels[name] for name in names}


def in_synsets(root: Path) -> list[tuple[Path, int]]:
    """Every image in a folder of `root` that is named by a WordNet id, and its label."""
    found = [path for path in sorted(root.glob("n*/*")) if path.suffix.lower() in ENDINGS]
    labels = synsets(sorted({path.parent.name for path in found if is_wnid(path.parent.name)}), root)
    return [(path, labels[path.parent.name]) for path in found if path.parent.name in labels]


def is_wnid(name: str) -> bool:
    return _WNID.fullmatch(name) is not None


def _uid(path: Path) -> str:
    """The name that ImageNet gave, which needs no folder, or with its folder the one that somebody else gave."""
    return path.stem if _OFFICIAL.fullmatch(path.stem) else f"{path.parent.name}/{path.stem}"


def _ground_truth(devkit: Path) -> list[str]:
    """The WordNet id of each validation photograph, in the order of their numbers."""
    from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

    with tempfile.TemporaryDirectory() as folder:  # torchvision leaves a file where it parses
        parse_devkit_archive(folder, str(devkit.resolve()))
        found: list[str] = load_meta_file(folder)[1]
    return found
