"""Small pictures that come as arrays: MNIST and its like, CIFAR.

A model that takes another size enlarges them as it does photographs.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from benchmark.datasets.listed import Entry, OnDisk

# torchvision wants them all, whichever split is read.
_IDX = tuple(f"{split}-{kind}-ubyte" for split in ("t10k", "train") for kind in ("images-idx3", "labels-idx1"))


@dataclass(frozen=True, kw_only=True)
class _Arrays(OnDisk):
    """What the `_library` of torchvision has in its memory."""

    split: str = "test"

    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    downloads: ClassVar[bool] = True

    @abstractmethod
    def _library(self, download: bool) -> Any:
        """The data set of torchvision."""

    def _download(self) -> None:
        self._library(download=True)

    @cached_property
    def _read(self) -> Any:
        with self._reading():
            return self._library(download=False)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._read.classes)

    @property
    def _labels(self) -> list[int]:
        return [int(label) for label in self._read.targets]

    def _entry(self, place: int) -> Entry:
        pixels = np.asarray(self._read.data[place])
        return Entry(f"{self.split}-{place:05d}", pixels, int(self._read.targets[place]))


@dataclass(frozen=True, kw_only=True)
class MNIST(_Arrays):
    """Handwritten digits, 10,000 to test on, grey, 28x28 (LeCun et al. 1998, doi:10.1109/5.726791)."""

    name: str = "mnist"

    licence: ClassVar[str] = "none stated by its makers, often given as CC BY-SA 3.0"
    source: ClassVar[str] = "https://yann.lecun.com/exdb/mnist/"
    needs: ClassVar[tuple[str, ...]] = tuple(f"MNIST/raw/{file}" for file in _IDX)

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import MNIST as Library

        return Library(self.root, self.split == "train", download=download)


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(_Arrays):
    """Ten kinds of clothes, 10,000 to test on, grey, 28x28 (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747)."""

    name: str = "fashion_mnist"

    licence: ClassVar[str] = "MIT"
    source: ClassVar[str] = "https://github.com/zalandoresearch/fashion-mnist"
    needs: ClassVar[tuple[str, ...]] = tuple(f"FashionMNIST/raw/{file}" for file in _IDX)

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import FashionMNIST as Library

        return Library(self.root, self.split == "train", download=download)


@dataclass(frozen=True, kw_only=True)
class CIFAR10(_Arrays):
    """Ten kinds of animals and vehicles, 10,000 to test on, in colours, 32x32 (Krizhevsky 2009, TR Toronto).

    The files are pickles, which can run code. torchvision opens none whose MD5 is not that of its makers' file.
    """

    name: str = "cifar10"

    licence: ClassVar[str] = "none stated by its makers"
    source: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar.html"
    needs: ClassVar[tuple[str, ...]] = ("cifar-10-batches-py",)

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import CIFAR10 as Library

        return Library(self.root, self.split == "train", download=download)


@dataclass(frozen=True, kw_only=True)
class CIFAR100(_Arrays):
    """A hundred kinds of things, 10,000 to test on, in colours, 32x32 (Krizhevsky 2009, TR Toronto).

    The files are pickles, which can run code. torchvision opens none whose MD5 is not that of its makers' file.
    """

    name: str = "cifar100"

    licence: ClassVar[str] = "none stated by its makers"
    source: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar.html"
    needs: ClassVar[tuple[str, ...]] = ("cifar-100-python",)

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import CIFAR100 as Library

        return Library(self.root, self.split == "train", download=download)
