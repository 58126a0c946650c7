"""Data sets: fixed, ordered lists of images, with the class to explain and, where it is known, the place of the object.

A data set is a frozen dataclass: its fields are its options, and they enter the key of every record. Which images it
lists depends on its options alone, so image i is the same in every run, order and shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args

from benchmark.baselines import Baseline
from benchmark.batches import Explained
from benchmark.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        uid: its name, whatever its place in the list.
        image: `(C, H, W)` float in [0, 1] where it was generated; an RGB photograph where the model crops and resizes.
        label: index of its class, or None where unknown.
        mask: `(H, W)` bool, true where the object is; of a photograph, a picture of its size that is white there; None
            where unknown.
        parts: `(H, W)` number of the part that each pixel belongs to, 0 for none; None where nothing can be taken out.
        part_names: what parts 1, 2, ... are, the same for every image; empty where they are alike.
        empty: like `image`: the scene drawn without any of its parts, equal to it wherever no part is.
        truth: `(classes, H, W)` what each part contributes to each class, spread evenly over its pixels, where known.
    """

    uid: str
    image: Tensor | Image.Image
    label: int | None = None
    mask: Tensor | Image.Image | None = None
    parts: Tensor | None = None
    empty: Tensor | None = None
    truth: Tensor | None = None
    part_names: tuple[str, ...] = ()


class Dataset(Protocol):
    """What the harness reads of a data set.

    Attributes:
        version: raised with every change of an image or label.
        name: its name in tables.
        n: how many images are asked for, None for all.
        seed: decides which images are listed.
        explain: the class to explain: what the model predicts, or the label.
        baseline: what stands for "absent", in pixel space: `mean` is the image's own mean colour.
        classes: names of the classes, in the order of labels; None where any model's classes will do.
        fingerprint: SHA-256 in hex that fixes the list of images and, where they are files, their bytes.
    """

    version: ClassVar[str]

    @property
    def name(self) -> str: ...
    @property
    def n(self) -> int | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def explain(self) -> Explained: ...
    @property
    def baseline(self) -> Baseline: ...
    @property
    def classes(self) -> tuple[str, ...] | None: ...
    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item: ...


def check_options(dataset: Dataset) -> None:
    """Refuse options that no data set can honour.

    Raises:
        UserError: `explain` or `baseline` is unknown, or `n` or `seed` is out of range.
    """
    for option, allowed in (("explain", get_args(Explained)), ("baseline", get_args(Baseline))):
        if getattr(dataset, option) not in allowed:
            chosen = getattr(dataset, option)
            raise UserError(f"datasets.{option}={chosen} is unknown: expected one of {', '.join(allowed)}")
    if dataset.n is not None and dataset.n < 1:
        raise UserError(f"datasets.n={dataset.n} leaves no image: expected 1 or more")
    if dataset.seed < 0:
        raise UserError(f"datasets.seed={dataset.seed} is negative: expected 0 or more")


def check_drawn(dataset: Dataset, splits: Sequence[str] = get_args(Split)) -> None:
    """Refuse options that no data set that is drawn, without an end, can honour.

    Raises:
        UserError: as `check_options`; or `n` is None, or the split is none of `splits`.
    """
    check_options(dataset)
    if dataset.n is None:
        raise UserError(f"datasets.n=null asks for all {dataset.name}, which have no end: give a number")
    split = getattr(dataset, "split", None)
    if split not in splits:
        raise UserError(f"datasets.split={split} is unknown: expected one of {', '.join(splits)}")


def file_digest(path: Path) -> str:
    """SHA-256 in hex of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
