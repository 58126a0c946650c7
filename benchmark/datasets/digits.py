"""Handwritten digits: the 1,797 real 8x8 scans that scikit-learn carries (Alpaydin & Kaynak 1998, UCI)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.cells import digest
from benchmark.datasets import Item, check_options
from benchmark.errors import UserError

SIZE = 32
_TEST = 360
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Digits:
    """Grey scans enlarged bilinearly to `(1, 32, 32)`, white on black; the class is the digit.

    The split into 1,437 images to train on and 360 to test on never changes. `seed` orders the images of a split and
    the first `n` are listed, or all where there are fewer or `n` is None.
    """

    n: int | None = 64
    seed: int = 0
    explain: Explained = "predicted"
    baseline: Baseline = "mean"
    split: Literal["train", "test"] = "test"
    name: str = "digits"

    version: ClassVar[str] = "1"
    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def __post_init__(self) -> None:
        check_options(self)
        if self.split not in _SPLITS:
            raise UserError(f"datasets.split={self.split} is unknown: expected one of {', '.join(_SPLITS)}")

    @property
    def fingerprint(self) -> str:
        return digest(["digits", self.version, self._listed()])

    def __len__(self) -> int:
        return len(self._listed())

    def __getitem__(self, index: int) -> Item:
        scan = self._listed()[index]
        images, labels = _scans()
        return Item(f"digits-{scan:04d}", images[scan], labels[scan])

    def _listed(self) -> list[int]:
        return _order(self.split, self.seed)[: self.n]


@cache
def _order(split: str, seed: int) -> list[int]:
    """Every scan of the split, by its place in scikit-learn's list, in the order that `seed` gives."""
    fixed = np.random.default_rng(0).permutation(len(_scans()[1]))
    members = fixed[:_TEST] if split == "test" else fixed[_TEST:]
    order: list[int] = np.random.default_rng([1, seed]).permutation(members).tolist()
    return order


@cache
def _scans() -> tuple[Tensor, list[int]]:
    from sklearn.datasets import load_digits

    scans = load_digits()
    small = torch.from_numpy(scans.images).float().unsqueeze(1) / 16
    images = torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return images, scans.target.tolist()
