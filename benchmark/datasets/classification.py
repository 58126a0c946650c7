"""Photographs of one label each, without masks, that torchvision reads, or that lie in a folder a class.

The next one takes a class of ten lines: what it is, its licence and source, what must lie below `root`, and the
torchvision class that reads it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from benchmark.datasets.listed import Entry, OnDisk


@dataclass(frozen=True, kw_only=True)
class _Photographs(OnDisk):
    """What the `_library` of torchvision lists."""

    @abstractmethod
    def _library(self, download: bool) -> Any:
        """The data set of torchvision, with `loader=Path`, so that it gives a file and a label for each image."""

    def _download(self) -> None:
        self._library(download=True)

    @cached_property
    def _read(self) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
        """Every image with its label, and the names of the classes."""
        with self._reading():
            library = self._library(download=False)
            return [library[place] for place in range(len(library))], tuple(library.classes)

    @property
    def classes(self) -> tuple[str, ...]:
        return self._read[1]

    @property
    def _labels(self) -> list[int]:
        return [label for _, label in self._read[0]]

    def _entry(self, place: int) -> Entry:
        path, label = self._read[0][place]
        return Entry(f"{path.parent.name}/{path.stem}", path, label)


@dataclass(frozen=True, kw_only=True)
class Food101(_Photographs):
    """101 dishes, 250 test photographs each (Bossard, Guillaumin & Van Gool 2014, doi:10.1007/978-3-319-10599-4_29)."""

    split: str = "test"
    name: str = "food101"

    licence: ClassVar[str] = "for scientific fair use, photographs of Foodspotting"
    source: ClassVar[str] = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
    needs: ClassVar[tuple[str, ...]] = ("food-101/meta/{split}.json", "food-101/images")
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    downloads: ClassVar[bool] = True

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import Food101 as Library

        return Library(self.root, self.split, download=download, loader=Path)


@dataclass(frozen=True, kw_only=True)
class EuroSAT(_Photographs):
    """27,000 satellite pictures of ten kinds of land, 64x64, in one list without a split (Helber et al. 2019,
    arXiv:1709.00029)."""

    name: str = "eurosat"

    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "https://github.com/phelber/EuroSAT"
    needs: ClassVar[tuple[str, ...]] = ("eurosat/2750",)
    downloads: ClassVar[bool] = True

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import EuroSAT as Library

        return Library(self.root, download=download, loader=Path)


@dataclass(frozen=True, kw_only=True)
class RESISC45(_Photographs):
    """31,500 aerial pictures of 45 kinds of scene, 256x256, in one list without a split (Cheng, Han & Lu 2017,
    arXiv:1703.00121)."""

    name: str = "resisc45"

    licence: ClassVar[str] = "none stated; made from Google Earth, for research"
    source: ClassVar[str] = "https://gcheng-nwpu.github.io/"
    needs: ClassVar[tuple[str, ...]] = ("NWPU-RESISC45",)

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import ImageFolder

        return ImageFolder(str(Path(self.root, "NWPU-RESISC45")), loader=Path)


@dataclass(frozen=True, kw_only=True)
class Flowers102(_Photographs):
    """102 flowers of Britain, 6,149 test photographs (Nilsback & Zisserman 2008, doi:10.1109/ICVGIP.2008.47)."""

    split: str = "test"
    name: str = "flowers102"

    licence: ClassVar[str] = "none stated; photographs from the web, for research"
    source: ClassVar[str] = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    needs: ClassVar[tuple[str, ...]] = ("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat")
    splits: ClassVar[tuple[str, ...]] = ("test", "val", "train")
    downloads: ClassVar[bool] = True

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import Flowers102 as Library

        return Library(self.root, self.split, download=download, loader=Path)


@dataclass(frozen=True, kw_only=True)
class DTD(_Photographs):
    """47 textures in words of people, 40 test photographs each, first of ten partitions (Cimpoi et al. 2014,
    arXiv:1311.3618)."""

    split: str = "test"
    name: str = "dtd"

    licence: ClassVar[str] = "for research"
    source: ClassVar[str] = "https://www.robots.ox.ac.uk/~vgg/data/dtd/"
    needs: ClassVar[tuple[str, ...]] = ("dtd/dtd/images", "dtd/dtd/labels/{split}1.txt")
    splits: ClassVar[tuple[str, ...]] = ("test", "val", "train")
    downloads: ClassVar[bool] = True

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import DTD as Library

        return Library(self.root, self.split, download=download, loader=Path)
