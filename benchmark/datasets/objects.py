"""Photographs whose object somebody has outlined: boxes, painted masks, places of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args
from xml.etree import ElementTree

from benchmark.datasets.listed import Drawn, Edges, Entry, OnDisk, Painted
from benchmark.errors import UserError, unknown

VocMask = Literal["box", "segmentation"]
BirdMask = Literal["box", "segmentation", "parts"]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True, kw_only=True)
class VOC(OnDisk):
    """Street, farm and home scenes with objects of 20 classes, several in most photographs.

    With `explain=label` an image is listed once for each class in it, under that label, and its mask is of all objects
    of that class; a class whose objects are all marked as difficult is left out, as in the pointing game. With
    `explain=predicted`, where the class is the model's and may be none of the 20, an image is listed once, under the
    label of its largest box, and its mask is of all its objects.

    Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4; the listing is that of Zhang et al. 2018,
    arXiv:1608.00507.

    Attributes:
        year: 2007 or 2012.
        mask: `box` fills the bounding boxes of all photographs; `segmentation` has the painted outlines of a part of
            them.
    """

    year: int = 2012
    split: str = "val"
    mask: VocMask = "box"
    name: str = "voc"

    licence: ClassVar[str] = "Flickr's terms of use, for research"
    source: ClassVar[str] = "http://host.robots.ox.ac.uk/pascal/VOC/"
    splits: ClassVar[tuple[str, ...]] = ("val", "train", "trainval", "test")
    downloads: ClassVar[bool] = True
    classes: ClassVar[tuple[str, ...]] = VOC_CLASSES

    def __post_init__(self) -> None:
        if self.year not in (2007, 2012):
            raise UserError(f"datasets.year={self.year} is unknown: expected 2007 or 2012")
        if self.split == "test" and self.year != 2007:
            raise UserError("VOC 2012 keeps the answers of its test split to itself: set datasets.split=val")
        _check_mask(self.mask, get_args(VocMask))
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        images = f"ImageSets/{'Main' if self.mask == 'box' else 'Segmentation'}/{self.split}.txt"
        return tuple(f"VOCdevkit/VOC{self.year}/{each}" for each in ("Annotations", "JPEGImages", images))

    @property
    def _labels(self) -> list[int]:
        return [entry.label for entry in self._entries if entry.label is not None]

    def _entry(self, place: int) -> Entry:
        return self._entries[place]

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import VOCDetection, VOCSegmentation

        library = VOCDetection if self.mask == "box" else VOCSegmentation
        return library(self.root, str(self.year), self.split, download=download)

    def _download(self) -> None:
        self._library(download=True)

    @cached_property
    def _entries(self) -> list[Entry]:
        with self._reading():
            library = self._library(download=False)
            found = []
            for image, target in zip(map(Path, library.images), map(Path, library.targets), strict=True):
                boxes = self._boxes(image.parent.with_name("Annotations") / f"{image.stem}.xml")
                for uid, label, listed in self._listings(image.stem, boxes):
                    painted = Painted(target, label + 1, label + 1) if uid != image.stem else Painted(target, 1, 20)
                    drawn = Drawn(tuple(edges for _, edges, _ in listed))
                    found.append(Entry(uid, image, label, drawn if self.mask == "box" else painted))
            return found

    def _listings(self, name: str, boxes: Sequence[_Box]) -> list[tuple[str, int, Sequence[_Box]]]:
        """(uid, label, boxes of the mask) of each time that an image with these boxes is listed."""
        if self.explain == "predicted":
            return [(name, max(boxes, key=_area)[0], boxes)] if boxes else []
        listings: list[tuple[str, int, Sequence[_Box]]] = []
        for label in sorted({label for label, _, _ in boxes}):
            of_class = [box for box in boxes if box[0] == label]
            if not all(difficult for _, _, difficult in of_class):
                listings.append((f"{name}/{VOC_CLASSES[label]}", label, of_class))
        return listings

    def _boxes(self, annotation: Path) -> list[_Box]:
        found = []
        for thing in ElementTree.parse(annotation).getroot().findall("object"):
            left, top, right, bottom = (
                float(thing.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            label = VOC_CLASSES.index(thing.findtext("name", "").strip())
            # Pixels count from 1 and the last one belongs to the box.
            found.append((label, (left - 1, top - 1, right, bottom), thing.findtext("difficult", "0").strip() == "1"))
        return found


@dataclass(frozen=True, kw_only=True)
class Pets(OnDisk):
    """Cats and dogs of 37 breeds, about 100 test photographs each, painted as pet, border and background.

    The mask is the pet without its border, which annotators left undecided.

    Source: Parkhi et al. 2012, doi:10.1109/CVPR.2012.6248092.
    """

    split: str = "test"
    name: str = "pets"

    licence: ClassVar[str] = "CC BY-SA 4.0"
    source: ClassVar[str] = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
    needs: ClassVar[tuple[str, ...]] = (
        "oxford-iiit-pet/images",
        "oxford-iiit-pet/annotations/{split}.txt",
        "oxford-iiit-pet/annotations/trimaps",
    )
    splits: ClassVar[tuple[str, ...]] = ("test", "trainval")
    downloads: ClassVar[bool] = True

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._read.classes)

    @property
    def _labels(self) -> list[int]:
        labels: list[int] = self._read._labels
        return labels

    def _entry(self, place: int) -> Entry:
        # torchvision opens every file that it hands out, and labels are needed of all: so its lists are read.
        image, trimap = self._read._images[place], self._read._segs[place]
        return Entry(image.stem, image, self._labels[place], Painted(trimap, 1, 1))

    def _library(self, download: bool) -> Any:
        from torchvision.datasets import OxfordIIITPet

        return OxfordIIITPet(self.root, self.split, download=download)

    def _download(self) -> None:
        self._library(download=True)

    @cached_property
    def _read(self) -> Any:
        with self._reading():
            return self._library(download=False)


@dataclass(frozen=True, kw_only=True)
class CUB(OnDisk):
    """200 birds of North America, about 29 test photographs each, with a box, 15 parts and an outline.

    Source: Wah et al. 2011, Caltech-UCSD Birds-200-2011, CNS-TR-2011-001.

    Attributes:
        mask: `box` fills the bird's bounding box; `segmentation` is where most of five annotators painted it, from the
            archive `segmentations.tgz`, unpacked beside `images`; `parts` are discs around its visible parts, a tenth
            of the box's longer side in radius, which is where a keypoint counts as found (Yang & Ramanan 2013,
            doi:10.1109/TPAMI.2012.261).
    """

    split: str = "test"
    mask: BirdMask = "box"
    name: str = "cub"

    licence: ClassVar[str] = "for non-commercial research and teaching"
    source: ClassVar[str] = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
    splits: ClassVar[tuple[str, ...]] = ("test", "train")
    downloads: ClassVar[bool] = True
    _archive: ClassVar[tuple[str, str]] = (
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
        "97eceeb196236b17998738112f37df78",
    )

    def __post_init__(self) -> None:
        _check_mask(self.mask, get_args(BirdMask))
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        tables = ("images", "classes", "image_class_labels", "train_test_split", "bounding_boxes")
        listed = [f"{table}.txt" for table in tables]
        listed += {"box": [], "parts": ["parts/part_locs.txt"], "segmentation": ["segmentations"]}[self.mask]
        return tuple(f"CUB_200_2011/{each}" for each in listed)

    def _download(self) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        url, md5 = self._archive
        download_and_extract_archive(url, self.root, filename="CUB_200_2011.tgz", md5=md5)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        names = (name.partition(".")[2].replace("_", " ") for _, name in self._table("classes"))
        return tuple(names)

    @property
    def _labels(self) -> list[int]:
        return [entry.label for entry in self._entries if entry.label is not None]

    def _entry(self, place: int) -> Entry:
        return self._entries[place]

    @cached_property
    def _entries(self) -> list[Entry]:
        with self._reading():
            labels, boxes = self._by_image("image_class_labels"), self._by_image("bounding_boxes")
            parts = self._by_image("parts/part_locs") if self.mask == "parts" else {}
            training = {image for image, there in self._table("train_test_split") if there == "1"}
            found = []
            for image, name in self._table("images"):
                if (image in training) == (self.split == "train"):
                    path = Path(self.root, "CUB_200_2011", "images", name)
                    label = int(labels[image][0][0]) - 1
                    found.append(
                        Entry(Path(name).stem, path, label, self._mask(path, boxes[image][0], parts.get(image, [])))
                    )
            return found

    def _mask(self, image: Path, box: Sequence[str], parts: Sequence[Sequence[str]]) -> Painted | Drawn:
        left, top, width, height = map(float, box)
        if self.mask == "segmentation":
            folder = Path(self.root, "CUB_200_2011", "segmentations", image.parent.name)
            return Painted(folder / f"{image.stem}.png", 128, 255)
        if self.mask == "box":
            return Drawn(((left, top, left + width, top + height),))
        radius = 0.1 * max(width, height)
        seen = [(float(x), float(y)) for _, x, y, visible in parts if visible == "1"]
        discs: tuple[Edges, ...] = tuple((x - radius, y - radius, x + radius, y + radius) for x, y in seen)
        return Drawn(discs, "ellipse")

    def _table(self, name: str) -> list[list[str]]:
        lines = Path(self.root, "CUB_200_2011", f"{name}.txt").read_text().splitlines()
        return [line.split() for line in lines if line.strip()]

    def _by_image(self, table: str) -> dict[str, list[list[str]]]:
        """The lines of a table that begin with the number of an image, without it."""
        found: dict[str, list[list[str]]] = {}
        for image, *values in self._table(table):
            found.setdefault(image, []).append(values)
        return found


_Box = tuple[int, Edges, bool]
"""Label, edges, and whether it is marked as difficult."""


def _area(box: _Box) -> float:
    left, top, right, bottom = box[1]
    return (right - left) * (bottom - top)


def _check_mask(mask: str, existing: Sequence[str]) -> None:
    if mask not in existing:
        raise UserError(unknown("datasets.mask=", mask, existing))
