"""Data sets of others: small copies in their real file formats, what is read from them, and what is wrong with them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import savemat

from benchmark import subjects
from benchmark.choices import CONF, choices
from benchmark.datasets import file_digest
from benchmark.datasets.arrays import CIFAR10, CIFAR100, MNIST, FashionMNIST
from benchmark.datasets.classification import DTD, RESISC45, EuroSAT, Flowers102, Food101
from benchmark.datasets.csv_list import CsvList
from benchmark.datasets.folder import Folder
from benchmark.datasets.hub import Hub
from benchmark.datasets.imagenet import ImageNet, ImageNetS, Imagenette
from benchmark.datasets.listed import Listed, Painted, _digest, balanced
from benchmark.datasets.medmnist import CLASSES, MedMNIST
from benchmark.datasets.objects import CUB, VOC, VOC_CLASSES, Pets, VocMask
from benchmark.errors import UserError
from benchmark.models import Model
from benchmark.plugins import build

TENCH, SPRINGER, CHURCH = "n01440764", "n02102040", "n03028079"  # 0, 217 and 497 of ImageNet-1k


# Small copies. A photograph is of one colour that tells which it is, red counting up.


def photograph(path: Path, red: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 100, 0)).save(path, quality=95)
    return path


def text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def painted(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def block(value: int, rows: slice, columns: slice, size: tuple[int, int] = (40, 30)) -> np.ndarray:
    """`value` inside, 0 outside, `(height, width)` in uint8."""
    values = np.zeros(size[::-1], np.uint8)
    values[rows, columns] = value
    return values


def mnist(root: Path) -> None:
    rng = np.random.default_rng(0)
    for family in ("MNIST", "FashionMNIST"):
        folder = root / family / "raw"
        folder.mkdir(parents=True)
        for split, count in (("train", 6), ("t10k", 20)):
            pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            labels = (np.arange(count) % 10).astype(np.uint8)
            for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
                header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
                (folder / f"{split}-{kind}-ubyte").write_bytes(header + array.tobytes())


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles as published, and torchvision told that they are the published ones."""
    rng = np.random.default_rng(0)

    def dump(path: Path, data: dict[str, object]) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(data))
        return hashlib.md5(path.read_bytes()).hexdigest()

    library = torchvision.datasets
    for family, key, names in ((library.CIFAR10, "labels", 10), (library.CIFAR100, "fine_labels", 100)):
        folder = root / family.base_folder
        for lists in ("train_list", "test_list"):
            files = [file for file, _ in getattr(family, lists)]
            data = [{"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), key: list(range(10)) * 2} for _ in files]
            sums = [[file, dump(folder / file, each)] for file, each in zip(files, data, strict=True)]
            monkeypatch.setattr(family, lists, sums)
        meta = dump(folder / family.meta["filename"], {family.meta["key"]: [f"class {at}" for at in range(names)]})
        monkeypatch.setattr(family, "meta", {**family.meta, "md5": meta})


def voc(root: Path, year: int = 2012) -> None:
    """Three photographs of 40 x 30: a dog on a sofa, a dog and a cat that is difficult, a person."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    objects = {
        "2007_000001": [("dog", (11, 6, 20, 15), 0), ("sofa", (1, 1, 40, 30), 0), ("dog", (31, 1, 40, 5), 1)],
        "2007_000002": [("dog", (1, 1, 10, 10), 0), ("cat", (21, 21, 30, 30), 1)],
        "2007_000003": [("person", (5, 5, 8, 8), 0)],
    }
    for number, (name, things) in enumerate(objects.items()):
        photograph(folder / "JPEGImages" / f"{name}.jpg", 50 * number)
        inner = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
        xml = [
            f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox><xmax>{right}</xmax><xmin>{left}"
            f"</xmin><ymin>{top}</ymin><ymax>{bottom}</ymax></bndbox>{inner if kind == 'person' else ''}</object>"
            for kind, (left, top, right, bottom), difficult in things
        ]
        text(folder / "Annotations" / f"{name}.xml", ["<annotation>", *xml, "</annotation>"])
        classes = np.zeros((30, 40), np.uint8)
        for kind, (left, top, right, bottom), _ in sorted(things, key=lambda thing: thing[0] != "sofa"):
            classes[top - 1 : bottom, left - 1 : right] = VOC_CLASSES.index(kind) + 1
        classes[0] = 255  # what annotators left undecided
        image = Image.fromarray(classes).convert("P")
        image.putpalette([at for at in range(256) for _ in "rgb"])
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        image.save(folder / "SegmentationClass" / f"{name}.png")
    text(folder / "ImageSets" / "Main" / "val.txt", list(objects))
    text(folder / "ImageSets" / "Segmentation" / "val.txt", list(objects)[:2])


def pets(root: Path) -> None:
    folder, lines = root / "oxford-iiit-pet", []
    for label, breed in ((1, "Abyssinian"), (2, "american_bulldog")):
        for number in (1, 2, 10):
            name = f"{breed}_{number}"
            photograph(folder / "images" / f"{name}.jpg", 10 * number)
            trimap = np.full((30, 40), 2, np.uint8)
            trimap[5:15, 10:30] = 3
            trimap[6:14, 11:29] = 1
            painted(folder / "annotations" / "trimaps" / f"{name}.png", trimap)
            lines.append(f"{name} {label} {label} 1")
    text(folder / "annotations" / "test.txt", lines)


def cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    names = [
        "001.Black_footed_Albatross/Black_footed_Albatross_0001_796111.jpg",
        "001.Black_footed_Albatross/Black_footed_Albatross_0002_55.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg",
    ]
    for number, name in enumerate(names):
        photograph(folder / "images" / name, 40 * number)
        outline = block(153, slice(10, 20), slice(10, 20))
        outline[0] = 102  # painted by two of five
        painted(folder / "segmentations" / name.replace(".jpg", ".png"), outline)
    text(folder / "images.txt", [f"{at} {name}" for at, name in enumerate(names, 1)])
    text(folder / "classes.txt", ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"])
    text(folder / "image_class_labels.txt", ["1 1", "2 1", "3 2"])
    text(folder / "train_test_split.txt", ["1 0", "2 1", "3 0"])
    text(folder / "bounding_boxes.txt", [f"{at} 10.0 5.0 20.0 15.0" for at in (1, 2, 3)])
    text(folder / "parts" / "part_locs.txt", [f"{at} 1 20.0 10.0 1" for at in (1, 2, 3)] + ["1 2 0.0 0.0 0"])


def synsets(root: Path, *wnids: str, count: int = 3) -> None:
    for wnid in wnids:
        for number in range(1, count + 1):
            photograph(root / wnid / f"ILSVRC2012_val_{int(wnid[1:]) % 1000:05d}{number:03d}.JPEG", number)


def imagenet_s(root: Path) -> None:
    folder = root / "ImageNetS919"
    synsets(folder / "validation", TENCH, SPRINGER, count=1)
    for path in (folder / "validation").glob("*/*"):
        codes = np.zeros((30, 40, 3), np.uint8)
        codes[5:10, 5:10] = (4, 1, 0)  # class 260
        codes[20:25, 5:10] = (1000 % 256, 1000 // 256, 0)  # left undecided
        painted(folder / "validation-segmentation" / path.parent.name / f"{path.stem}.png", codes)


def devkit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The development kit: 1,000 leaves and an inner node, truth of three photographs, and its checksum made known."""
    from timm.data.imagenet_info import ImageNetInfo

    wnids = list(reversed(ImageNetInfo().label_names()))  # ILSVRC's own numbers have another order
    columns = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(at, wnid, f"{wnid}, thing", "", 0) for at, wnid in enumerate(wnids, 1)] + [(1001, "n0", "all", "", 2)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, columns).reshape(-1, 1)})
    truth = "".join(f"{wnids.index(wnid) + 1}\n" for wnid in (CHURCH, TENCH, TENCH))
    path = root / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        files = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
        for name, content in files.items():
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    known = torchvision.datasets.imagenet.ARCHIVE_META
    monkeypatch.setitem(known, "devkit", (path.name, hashlib.md5(path.read_bytes()).hexdigest()))


def food101(root: Path) -> None:
    listed = {"waffles": ["waffles/1", "waffles/2"], "apple_pie": ["apple_pie/7"]}
    for number, name in enumerate(name for names in listed.values() for name in names):
        photograph(root / "food-101" / "images" / f"{name}.jpg", number)
    text(root / "food-101" / "meta" / "test.json", [json.dumps(listed)])


def flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "flowers-102"
    for number in (1, 2, 3):
        photograph(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": [[102, 5, 1]]})
    savemat(folder / "setid.mat", {"trnid": [[2]], "valid": [[2]], "tstid": [[1, 3]]})
    known = dict(torchvision.datasets.Flowers102._file_dict)
    for key in ("label", "setid"):
        file = known[key][0]
        known[key] = (file, hashlib.md5((folder / file).read_bytes()).hexdigest())
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_file_dict", known)


def folders(root: Path, *names: str) -> None:
    for name in names:
        for number in (1, 2):
            photograph(root / name / f"{name}_{number}.jpg", number)


def dtd(root: Path) -> None:
    folders(root / "dtd" / "dtd" / "images", "banded", "zigzagged")
    text(root / "dtd" / "dtd" / "labels" / "test1.txt", ["zigzagged/zigzagged_1.jpg", "banded/banded_2.jpg"])


def medmnist(root: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (8, 28, 28), dtype=np.uint8)
    colour = rng.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    labels = np.array([[0], [1]] * 4, np.uint8)
    np.savez_compressed(root / "breastmnist.npz", test_images=grey, test_labels=labels)
    np.savez_compressed(root / "bloodmnist_224.npz", test_images=colour, test_labels=labels + 6)


@pytest.fixture
def everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small copy of each."""
    for make in (mnist, voc, pets, cub, imagenet_s, food101, dtd, medmnist):
        make(tmp_path)
    cifar(tmp_path, monkeypatch)
    flowers(tmp_path, monkeypatch)
    synsets(tmp_path / "val", TENCH, CHURCH)
    synsets(tmp_path / "imagenette2-320" / "val", TENCH, SPRINGER)
    folders(tmp_path / "eurosat" / "2750", "AnnualCrop", "SeaLake")
    folders(tmp_path / "NWPU-RESISC45", "airplane", "wetland")
    return tmp_path


ALL: list[tuple[Callable[[str], Listed], list[int], int]] = [
    # the data set below a root, its labels, how many classes there are
    (lambda root: ImageNet(root=root), [0, 0, 0, 497, 497, 497], 1000),
    (lambda root: Imagenette(root=root, size="320px"), [0, 0, 0, 217, 217, 217], 1000),
    (lambda root: ImageNetS(root=root), [0, 217], 1000),
    (lambda root: MNIST(root=root), [*range(10)] * 2, 10),
    (lambda root: FashionMNIST(root=root), [*range(10)] * 2, 10),
    (lambda root: CIFAR10(root=root), [*range(10)] * 2, 10),
    (lambda root: CIFAR100(root=root), [*range(10)] * 2, 100),
    (lambda root: VOC(root=root), [17, 11, 14], 20),
    (lambda root: VOC(root=root, explain="label"), [11, 17, 11, 14], 20),
    (lambda root: VOC(root=root, explain="label", mask="segmentation"), [11, 17, 11], 20),
    (lambda root: Pets(root=root), [0, 0, 0, 1, 1, 1], 2),
    (lambda root: CUB(root=root), [0, 1], 2),
    (lambda root: CUB(root=root, split="train"), [0], 2),
    (lambda root: Food101(root=root), [1, 1, 0], 2),
    (lambda root: EuroSAT(root=root), [0, 0, 1, 1], 2),
    (lambda root: RESISC45(root=root), [0, 0, 1, 1], 2),
    (lambda root: Flowers102(root=root), [101, 0], 102),
    (lambda root: DTD(root=root), [1, 0], 2),
    (lambda root: MedMNIST(root=root, kind="breastmnist"), [0, 1] * 4, 2),
    (lambda root: MedMNIST(root=root, kind="bloodmnist", size=224), [6, 7] * 4, 8),
]


@pytest.mark.parametrize(("make", "labels", "classes"), ALL)
def test_every_image_has_its_label(
    everything: Path, make: Callable[[str], Listed], labels: list[int], classes: int
) -> None:
    dataset = make(str(everything))
    items = [dataset[place] for place in range(len(dataset))]
    assert [item.label for item in items] == labels
    assert dataset.classes is not None
    assert len(dataset.classes) == classes
    assert len({item.uid for item in items}) == len(items)
    assert not any(str(everything) in item.uid for item in items)
    for item in items:
        assert isinstance(item.image, Image.Image)
        assert item.image.mode == "RGB"
        if item.mask is not None:
            assert isinstance(item.mask, Image.Image)
            assert item.mask.size == item.image.size


@pytest.mark.parametrize(("make", "labels", "classes"), ALL)
def test_where_it_lies_is_no_matter_and_a_changed_image_is(
    everything: Path, make: Callable[[str], Listed], labels: list[int], classes: int
) -> None:
    first = make(str(everything))
    uids, before = [entry.uid for entry in first._listed], first.fingerprint
    moved = everything.rename(everything.with_name(f"{everything.name}-moved"))
    again = make(str(moved))
    assert [entry.uid for entry in again._listed] == uids
    assert again.fingerprint == before
    image = again._listed[0].image
    if isinstance(image, Path):
        photograph(image, 222)
        assert make(str(moved)).fingerprint != before
    else:
        changed = replace(again._listed[0], image=image ^ 1)
        again.__dict__["_listed"][0] = changed
        del again.__dict__["fingerprint"]
        assert again.fingerprint != before


def test_pixels_are_those_of_the_file(everything: Path) -> None:
    raw = (everything / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    digit = np.frombuffer(raw[16 + 784 * 3 : 16 + 784 * 4], np.uint8).reshape(28, 28)
    assert np.array_equal(np.asarray(MNIST(root=str(everything))[3].image.convert("L")), digit)
    plain = pickle.loads((everything / "cifar-10-batches-py" / "test_batch").read_bytes())["data"][5]
    picture = np.asarray(CIFAR10(root=str(everything))[5].image)
    assert np.array_equal(picture[:, :, 1].ravel(), plain[1024:2048]), "the second third is green"
    with np.load(everything / "bloodmnist_224.npz") as arrays:
        wanted = arrays["test_images"][2]
    assert np.array_equal(np.asarray(MedMNIST(root=str(everything), kind="bloodmnist", size=224)[2].image), wanted)
    assert CIFAR10(root=str(everything)).classes[3] == "class 3"
    assert CLASSES["breastmnist"] == ("malignant", "normal, benign")


def test_a_subset_takes_classes_in_turn_and_grows() -> None:
    labels = [4, 4, 4, 4, 4, 4, 9, 9, 9, None]
    few, more = balanced(labels, 5, 0), balanced(labels, 8, 0)
    assert sorted(str(labels[place]) for place in few) == ["4", "4", "9", "9", "None"]
    assert set(few) < set(more)
    assert balanced(labels, None, 3) == balanced(labels, 99, 0) == list(range(10))
    assert balanced(labels, 5, 1) != few


# Masks


def inside(dataset: Listed, place: int = 0) -> np.ndarray:
    mask = dataset[place].mask
    assert isinstance(mask, Image.Image)
    return np.asarray(mask.convert("L")) == 255


def test_boxes_of_voc_are_those_of_the_class_or_of_all(everything: Path) -> None:
    root = str(everything)
    pairs = VOC(root=root, explain="label")
    assert [entry.uid for entry in pairs._listed] == [
        "2007_000001/dog",
        "2007_000001/sofa",
        "2007_000002/dog",  # its cat is difficult
        "2007_000003/person",
    ]
    dogs = block(1, slice(5, 15), slice(10, 20)) | block(1, slice(0, 5), slice(30, 40))
    assert np.array_equal(inside(pairs, 0), dogs.astype(bool)), "pixels count from 1, ends included, difficult or not"
    assert inside(pairs, 3).sum() == 16
    whole = VOC(root=root)
    assert [entry.uid for entry in whole._listed] == ["2007_000001", "2007_000002", "2007_000003"]
    assert inside(whole, 0).all()
    assert inside(whole, 1).sum() == 200, "a dog of 100 pixels and a cat of 100"


def test_painted_masks_have_the_class_alone_and_nothing_undecided(everything: Path) -> None:
    root = str(everything)
    dogs = block(1, slice(5, 15), slice(10, 20)) | block(1, slice(1, 5), slice(30, 40))
    pairs = VOC(root=root, explain="label", mask="segmentation")
    assert np.array_equal(inside(pairs, 0), dogs.astype(bool))
    sofa = ~dogs.astype(bool)
    sofa[0] = False
    assert np.array_equal(inside(pairs, 1), sofa)
    assert inside(VOC(root=root, mask="segmentation"), 0).sum() == 29 * 40
    assert np.array_equal(inside(Pets(root=root)), block(1, slice(6, 14), slice(11, 29)).astype(bool))
    assert np.array_equal(inside(ImageNetS(root=root)), block(1, slice(5, 10), slice(5, 10)).astype(bool))


def test_a_bird_has_a_box_parts_and_an_outline(everything: Path) -> None:
    root = str(everything)
    assert np.array_equal(inside(CUB(root=root)), block(1, slice(5, 20), slice(10, 30)).astype(bool))
    outline = inside(CUB(root=root, mask="segmentation"))
    assert np.array_equal(outline, block(1, slice(10, 20), slice(10, 20)).astype(bool))
    parts = inside(CUB(root=root, mask="parts"))
    # A disc of radius 2 around the corner (20, 10) between pixels; the part that is not visible is none.
    assert np.array_equal(
        np.argwhere(parts),
        [[r, c] for r in range(8, 12) for c in range(18, 22) if ((r - 9.5) ** 2 + (c - 19.5) ** 2 <= 4)],
    )
    assert parts.sum() == 12
    assert CUB(root=root).classes == ("Black footed Albatross", "Laysan Albatross")


def model(transform: Callable[[Image.Image], torch.Tensor], size: tuple[int, int, int]) -> Model:
    network = torch.nn.Flatten()
    return Model("m", network, size, (0.0,), (1.0,), 2, None, "", "", transform)


def test_a_mask_takes_the_way_of_its_photograph() -> None:
    """A photograph that is its own mask: what the model sees of it, black or white, is what the mask becomes."""
    from timm.data.transforms_factory import create_transform

    drawn = np.zeros((90, 120), np.uint8)
    drawn[20:71, 30:77] = 255
    photo, mask = Image.fromarray(drawn), Image.fromarray(drawn > 0)
    for interpolation in ("bilinear", "bicubic", "nearest"):
        for shape in ((3, 64, 64), (1, 48, 48)):
            options = {
                "input_size": (3, *shape[1:]),
                "mean": (0.0,) * shape[0],
                "std": (1.0,) * shape[0],
                "crop_pct": 0.875,
            }
            seen = model(create_transform(**options, interpolation=interpolation), shape)
            pixels, found = seen.pixels(photo), seen.mask(mask)
            assert found is not None
            assert found.dtype == torch.bool
            assert found.shape == shape[1:]
            assert torch.equal(found, pixels[0] > 0.5)
    # By hand: 90 rows become 73 of which 64 are kept from the 4th: a row r of 64 shows (r + 4.5) * 90 / 73.
    seen = model(
        create_transform((3, 64, 64), mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=0.875, interpolation="bilinear"),
        (3, 64, 64),
    )
    rows = [r for r in range(64) if 20 < (r + 4.5) * 90 / 73 < 71]
    found = seen.mask(mask)
    assert found is not None
    assert found.any(1).nonzero()[:, 0].tolist() == pytest.approx(rows, abs=1)
    tensor = torch.ones(64, 64, dtype=torch.bool)
    assert seen.mask(tensor) is tensor
    assert seen.mask(None) is None


# Files of the user


def listing(root: Path, lines: list[str]) -> str:
    text(root / "list.csv", lines)
    return str(root / "list.csv")


def test_a_csv_file_lists_labels_masks_and_boxes(tmp_path: Path) -> None:
    for number, name in enumerate(("a/1.png", "b.png", "c.jpg")):
        photograph(tmp_path / name, number)
    painted(tmp_path / "mask.png", block(7, slice(0, 3), slice(0, 5)))
    names = CsvList(root=listing(tmp_path, ["path,label", "a/1.png,zebra", "b.png,ant", "c.jpg,zebra"]))
    assert [names[place].label for place in range(3)] == [1, 0, 1]
    assert names.classes == ("ant", "zebra")
    assert [names[place].uid for place in range(3)] == ["a/1.png", "b.png", "c.jpg"]
    assert names[0].mask is None
    numbers = CsvList(root=listing(tmp_path, ["path,label", "b.png,3"]), class_count=7)
    assert numbers[0].label == 3
    assert len(numbers.classes) == 7
    masked = CsvList(root=listing(tmp_path, ["label,path,mask", "x,b.png,mask.png"]))
    assert inside(masked).sum() == 15
    boxed = CsvList(root=listing(tmp_path, ["path,label,box", "b.png,x,0 0 4 3;10 10 11.4 12"]))
    assert inside(boxed).sum() == 12 + 2
    before = masked.fingerprint
    painted(tmp_path / "mask.png", block(7, slice(0, 3), slice(0, 6)))
    assert CsvList(root=listing(tmp_path, ["label,path,mask", "x,b.png,mask.png"])).fingerprint != before


def white_in_black() -> Image.Image:
    return Image.fromarray(block(255, slice(0, 3), slice(0, 5)))


def transparent(mode: str, colour: object, around: object) -> Image.Image:
    """Of `colour` where the object is, else of `around`, which is to be transparent."""
    picture = Image.new(mode, (40, 30), around)
    picture.paste(colour, (0, 0, 5, 3))
    return picture


PAINTED: dict[str, Callable[[], Image.Image]] = {
    "grey": white_in_black,
    "bit": lambda: white_in_black().convert("1"),
    "16 bits": lambda: Image.fromarray(block(1, slice(0, 3), slice(0, 5)).astype(np.uint16)),
    "colours": lambda: white_in_black().convert("RGB"),
    "palette": lambda: white_in_black().convert("RGB").quantize(2),
    "adaptive palette": lambda: white_in_black().convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE),
    "grey and alpha": lambda: transparent("LA", (9, 255), (200, 0)),
    "colours and alpha": lambda: transparent("RGBA", (0, 0, 9, 1), (255, 255, 255, 0)),
    "black and alpha": lambda: white_in_black().convert("RGBA"),
    "palette and alpha": lambda: transparent("RGBA", (9, 9, 9, 255), (255, 255, 255, 0)).quantize(4),
}


@pytest.mark.parametrize("kind", PAINTED)
def test_a_mask_of_ones_own_is_other_than_black(tmp_path: Path, kind: str) -> None:
    photograph(tmp_path / "b.png")
    PAINTED[kind]().save(tmp_path / "mask.png")
    masked = CsvList(root=listing(tmp_path, ["path,label,mask", "b.png,x,mask.png"]))
    assert (inside(masked) == block(1, slice(0, 3), slice(0, 5))).all()


def test_how_a_mask_is_read_is_a_part_of_what_it_is(tmp_path: Path) -> None:
    painted(tmp_path / "mask.png", block(7, slice(0, 3), slice(0, 5)))
    plain = Painted(tmp_path / "mask.png")
    assert _digest(plain) == [file_digest(plain.path), 1, 2**24]
    assert _digest(replace(plain, colour=True)) != _digest(plain)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["file,class", "b.png,1"], "has the columns file,class: expected path,label and, if known, mask or box"),
        (["path,label"], "lists no image"),
        (["path,label", "b.png,"], "line 2: expected a value for each of path,label"),
        (["path,label", "b.png,1,2"], "line 2: expected a value for each"),
        (["path,label", "b.png,1", "b.png,2"], r"lists b\.png twice"),
        (
            ["path,label", "b.png,1", "c.png,cat"],
            "line 3: label 'cat': expected numbers from 0 in every line, or names in",
        ),
        (["path,label", "b.png,cat", "c.png,1"], "line 3: label '1': expected numbers"),
        (["path,label", "b.png,-1", "c.png,1"], "line 2: label '-1': expected numbers"),
        (["path,label", "b.png,1", "c.png,-1"], "line 3: label '-1': expected numbers"),
        (["path,label", "b.png,cat", "c.png, 1"], "line 3: label ' 1': expected numbers"),
        (["path,label", "gone.png,1"], r"csv lists .*gone\.png, which is missing: paths count from"),
        (["path,label,mask", "b.png,1,small.png"], r"small\.png has 4x3 pixels and its photograph 40x30: a mask must"),
        (["path,label,box", "b.png,1,4 3 2 1"], "line 2: box '4 3 2 1' is not left top right bottom"),
        (["path,label,box", "b.png,1,4 3"], "line 2: box '4 3' is not left top right bottom"),
    ],
)
def test_a_csv_file_with_a_mistake(tmp_path: Path, lines: list[str], sentence: str) -> None:
    photograph(tmp_path / "b.png")
    photograph(tmp_path / "small.png", size=(4, 3))
    with pytest.raises(UserError, match=sentence):
        CsvList(root=listing(tmp_path, lines))[0]


def test_no_csv_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file: expected a CSV file with the columns path,label"):
        CsvList(root=str(tmp_path))
    with pytest.raises(UserError, match=r"has a label 9: datasets.class_count must be larger"):
        CsvList(root=listing(tmp_path, ["path,label", "b.png,9"]), class_count=9)
    with pytest.raises(UserError, match=r"has names as labels, .*datasets\.class_count=9 goes with numbers"):
        CsvList(root=listing(tmp_path, ["path,label", "b.png,cat"]), class_count=9)


# ImageNet as its archives leave it


def test_flat_photographs_find_their_classes_in_the_development_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 3):
        photograph(tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", number)
    with pytest.raises(UserError, match=r"holds photographs without their classes: put ILSVRC2012_devkit_t12\.tar\.gz"):
        ImageNet(root=str(tmp_path))
    devkit(tmp_path, monkeypatch)
    dataset = ImageNet(root=str(tmp_path))
    assert [dataset[place].label for place in range(2)] == [497, 0], "the first is a church, the third a tench"
    assert [dataset[place].uid for place in range(2)] == ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000003"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ILSVRC2012_devkit_t12.tar.gz", "val"]
    with (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"imagenet in .* is damaged"):
        ImageNet(root=str(tmp_path))


def test_archives_are_unpacked_when_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar and .* are missing; get ILSVRC2012_img_val\.tar"):
        ImageNet(root=str(tmp_path))
    devkit(tmp_path, monkeypatch)
    path = tmp_path / "ILSVRC2012_img_val.tar"
    with tarfile.open(path, "w") as archive:
        for number in (1, 2, 3):
            photo = photograph(tmp_path / "new" / f"ILSVRC2012_val_{number:08d}.JPEG", number)
            archive.add(photo, photo.name)
    known = torchvision.datasets.imagenet.ARCHIVE_META
    monkeypatch.setitem(known, "val", (path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    with pytest.raises(UserError, match=r"val is missing; .* and set datasets\.download=true"):
        ImageNet(root=str(tmp_path))
    dataset = ImageNet(root=str(tmp_path), download=True)
    assert {dataset[place].uid[-1]: dataset[place].label for place in range(3)} == {"1": 497, "2": 0, "3": 0}
    flat = [entry.uid for entry in ImageNet(root=str(tmp_path))._listed]
    assert sorted(flat) == [f"ILSVRC2012_val_{number:08d}" for number in (1, 2, 3)]


# What is wrong


@pytest.mark.parametrize(("make", "labels", "classes"), ALL)
def test_what_is_not_there_is_looked_for_by_name(
    tmp_path: Path, make: Callable[[str], Listed], labels: list[int], classes: int
) -> None:
    with pytest.raises(UserError) as caught:
        make(str(tmp_path))
    sentence = str(caught.value)
    assert str(tmp_path) in sentence, "where it was looked for"
    assert "http" in sentence, "where to get it"
    assert "missing" in sentence
    assert not list(tmp_path.iterdir()), "nothing is made or fetched"


def test_a_root_that_is_one_too_deep_is_put_right(everything: Path) -> None:
    with pytest.raises(UserError, match=rf"did you mean datasets\.root={everything}\?"):
        Pets(root=str(everything / "oxford-iiit-pet"))


@pytest.mark.parametrize(("mask", "folder"), [("box", "Main"), ("segmentation", "Segmentation")])
def test_a_split_of_voc_is_an_archive_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: VocMask, folder: str
) -> None:
    voc(tmp_path, 2007)
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / folder
    with pytest.raises(
        UserError, match=rf"voc is not there: .*VOC2007/ImageSets/{folder}/test\.txt is missing; set data"
    ):
        VOC(root=str(tmp_path), year=2007, split="test", mask=mask)
    monkeypatch.setattr(VOC, "_download", lambda self: text(lists / "test.txt", ["2007_000002"]))
    assert len(VOC(root=str(tmp_path), year=2007, split="test", mask=mask, download=True)) == 1


def test_missing_and_damaged_files_have_names(everything: Path) -> None:
    root = str(everything)
    (everything / "food-101" / "images" / "waffles" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"food101 lists .*waffles/1\.jpg, which is missing: set datasets\.download"):
        Food101(root=root)
    (everything / "oxford-iiit-pet" / "annotations" / "trimaps" / "Abyssinian_1.png").unlink()
    with pytest.raises(UserError, match=r"pets lists .*Abyssinian_1\.png, which is missing"):
        Pets(root=root)
    photo = everything / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000001.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(UserError, match=r"2007_000001\.jpg is no image that can be read"):
        VOC(root=root)[0]
    (everything / "VOCdevkit" / "VOC2012" / "Annotations" / "2007_000001.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"voc in .* is damaged \(no element found"):
        VOC(root=root)
    images = everything / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"mnist in .* is damaged"):
        MNIST(root=root)
    (everything / "breastmnist.npz").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"breastmnist in .* is damaged"):
        MedMNIST(root=root, kind="breastmnist")
    np.savez(everything / "octmnist.npz", test_images=np.array([{}], object), test_labels=np.zeros((1, 1)))
    with pytest.raises(UserError, match=r"damaged \(Object arrays cannot be loaded when allow_pickle=False"):
        MedMNIST(root=root, kind="octmnist")


def test_pickles_are_opened_only_if_they_are_the_published_ones(everything: Path) -> None:
    """A pickle that would leave a file, in the place of one of CIFAR's."""

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (everything / "it ran",)

    (everything / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"cifar10 in .* is damaged"):
        CIFAR10(root=str(everything))
    assert not (everything / "it ran").exists()


def test_archives_that_lie_there_are_unpacked_and_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gz files as published, their checksums made known: `download=true` verifies and unpacks them."""
    mnist(tmp_path)
    sums = []
    for path in sorted((tmp_path / "MNIST" / "raw").iterdir()):
        packed = path.with_name(f"{path.name}.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        sums.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
        path.unlink()
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(UserError, match=r"set datasets\.download=true or get it from"):
        MNIST(root=str(tmp_path))
    assert len(MNIST(root=str(tmp_path), download=True)) == 20
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", [(name, "0" * 32) for name, _ in sums])
    for path in (tmp_path / "MNIST" / "raw").glob("*-ubyte"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"mnist cannot be downloaded to .*: Error downloading .*get it from https://yann"
    ):
        MNIST(root=str(tmp_path), download=True)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda root: MNIST(root=root, split="val"), "datasets.split=val does not exist.*there are: test, train"),
        (lambda root: VOC(root=root, year=2010), "datasets.year=2010 is unknown: expected 2007 or 2012"),
        (lambda root: VOC(root=root, split="test"), "keeps the answers of its test split"),
        (lambda root: CUB(root=root, mask="boxes"), "datasets.mask=boxes does not exist; did you mean box"),
        (
            lambda root: Imagenette(root=root, size="64px"),
            "datasets.size=64px is unknown: expected full, 320px or 160px",
        ),
        (
            lambda root: ImageNetS(root=root, classes_kept=100),
            "datasets.classes_kept=100 is unknown: expected 919, 300 or 50",
        ),
        (lambda root: MedMNIST(root=root, kind="chestmnist"), "datasets.kind=chestmnist does not exist"),
        (
            lambda root: MedMNIST(root=root, kind="bloodmnist", size=64),
            "datasets.size=64 is unknown: expected 28 or 224",
        ),
        (lambda root: RESISC45(root=root, download=True), "cannot be downloaded by this program: get it from https"),
        (lambda root: Pets(root=root, n=0), "datasets.n=0 leaves no image"),
    ],
)
def test_options_that_no_data_set_has(tmp_path: Path, make: Callable[[str], Listed], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make(str(tmp_path))


# From a command to a batch


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """The random weights of a tiny network of some classes."""
    import timm
    from safetensors.torch import save_file

    def make(classes: int) -> str:
        path = tmp_path_factory.mktemp("weights") / "w.safetensors"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            save_file(timm.create_model("test_resnet", num_classes=classes).state_dict(), path)
        return str(path)

    return make


def loaded(*overrides: str) -> subjects.Subject:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return subjects.load(compose("config", list(overrides)))


def test_masks_reach_the_metrics(everything: Path, checkpoint: Callable[[int], str]) -> None:
    """Three photographs of VOC: 30 x 40 pixels become 160 x 213 or so, of which the middle 160 x 160 are seen."""
    weights = ["models=timm", "models.name=test_resnet", f"models.checkpoint={checkpoint(20)}", "models.classes=20"]
    subject = loaded("datasets=voc", f"datasets.root={everything}", "datasets.explain=label", *weights)
    batch = subject.batches[0]
    assert batch.masks is not None
    assert batch.masks.shape == (4, *batch.inputs.shape[2:])
    assert batch.masks[1].all(), "the sofa fills the photograph"
    assert batch.targets.tolist() == [11, 17, 11, 14]
    # The person has rows 4 to 8 and columns 4 to 8 of 30 x 40, enlarged by 5.6 to 168 x 224 and cropped to 160 x 160.
    assert batch.masks[3].float().mean().item() == pytest.approx(4 * 5.6 * (8 * 5.6 - 32) / 160**2, rel=0.05)
    assert subject.build["dataset"]["root"] == "???"
    with pytest.raises(UserError, match=r"the labels of voc have 20 classes, test_resnet has 7: set datasets.explain"):
        loaded(
            *("datasets=voc", f"datasets.root={everything}", "datasets.explain=label", *weights[:2]),
            *(f"models.checkpoint={checkpoint(7)}", "models.classes=7"),
        )


def test_how_an_image_came_there_is_no_part_of_what_it_is(everything: Path, checkpoint: Callable[[int], str]) -> None:
    words = ["datasets=pets", f"datasets.root={everything}", "models=timm", "models.name=test_resnet"]
    words += [f"models.checkpoint={checkpoint(2)}", "models.classes=2"]
    plain, fetched = loaded(*words), loaded(*words, "datasets.download=true")
    assert plain.dataset_choice == fetched.dataset_choice
    assert plain.build["dataset"] == fetched.build["dataset"]


def test_mosaics_are_made_of_photographs(everything: Path, checkpoint: Callable[[int], str]) -> None:
    from metrics.grid_pointing_game import GridPointingGame

    words = ["datasets=cifar10", f"datasets.root={everything}", "datasets.explain=label", "models=timm"]
    weights = ["models.name=test_resnet", f"models.checkpoint={checkpoint(10)}", "models.classes=10"]
    subject = loaded(*words, *weights)
    found = GridPointingGame(min_confidence=0.0).prepare(subject.model.network, subject.batches[0])
    members = found["members"]
    assert (members >= 0).all()
    targets = subject.batches[0].targets
    assert all(len(set(targets[row].tolist())) == 4 for row in members), "four classes in each"


# The hub


@pytest.fixture
def library() -> object:
    return pytest.importorskip("datasets")


def hub(root: Path, library: object) -> str:
    """A folder laid out like a repository: Parquet with encoded images and named labels."""
    encoded = []
    for number in range(6):
        file = io.BytesIO()
        Image.new("RGB", (8, 6), (number * 40, 0, 0)).save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["ant", "bee"])})
    rows = library.Dataset.from_dict({"image": encoded, "label": [0, 1] * 3}, features=features)
    (root / "data").mkdir()
    rows.to_parquet(root / "data" / "test-00000-of-00001.parquet")
    return str(root)


def test_a_data_set_of_the_hub_is_read_without_running_it(
    tmp_path: Path, library: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "repo").mkdir()
    dataset = Hub(repo=hub(tmp_path / "repo", library), n=4)
    assert dataset.classes == ("ant", "bee")
    assert sorted(dataset[place].label for place in range(4)) == [0, 0, 1, 1]
    whole = Hub(repo=str(tmp_path / "repo"), n=None)
    assert whole[5].image.getpixel((0, 0)) == (200, 0, 0)
    assert whole[5].uid == "test-000005"
    with pytest.raises(UserError, match=r"column of .* labels does not exist; did you mean label"):
        Hub(repo=str(tmp_path / "repo"), label="labels")
    with pytest.raises(UserError, match=r"the column label of .* holds no images"):
        Hub(repo=str(tmp_path / "repo"), image="label")
    with pytest.raises(UserError, match=r"cannot be loaded \(.*train"):
        Hub(repo=str(tmp_path / "repo"), split="train")


def test_the_hub_is_not_asked_unless_told(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for settings in (constants, library.config):
        monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    with pytest.raises(UserError, match=r"nobody/nothing cannot be loaded .*; set datasets\.download=true to fetch it"):
        Hub(repo="nobody/nothing")


def test_the_hub_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.datasets.hub.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[hub\]\""):
        Hub(repo="ylecun/mnist")


# What is written about them


def _sets() -> dict[str, type]:
    from hydra.utils import get_class

    found = {path.stem: get_class(OmegaConf.load(path)._target_) for path in (CONF / "datasets").glob("*.yaml")}
    return {name: cls for name, cls in found.items() if issubclass(cls, Listed)}


def test_every_data_set_names_its_licence_and_its_source() -> None:
    page = (CONF.parent / "docs" / "datasets.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert {"folder", "photos"} | set(_sets()) <= set(rows)
    for name, cls in {**_sets(), "folder": Folder}.items():
        assert cls.licence in rows[name], name
        assert cls.source in rows[name], name
        if name != "folder":
            assert f"({cls.licence})" in choices("datasets")[name], name


def test_every_file_of_conf_has_every_option_and_its_default() -> None:
    for name, cls in _sets().items():
        config = OmegaConf.to_container(OmegaConf.load(CONF / "datasets" / f"{name}.yaml"), resolve=False)
        options = {field.name: field.default for field in fields(cls)}
        assert set(config) - {"_target_"} == set(options), name
        for option, default in options.items():
            if option != "name" and config[option] != "???":
                assert config[option] == default, f"{name}.{option}"


def test_build_is_the_way_of_the_command_line(everything: Path) -> None:
    config = OmegaConf.create({"datasets": OmegaConf.load(CONF / "datasets" / "medmnist.yaml")})
    config.datasets.merge_with({"root": str(everything), "kind": "breastmnist"})
    assert build(config.datasets).name == "breastmnist"
    config.datasets.name = "breasts"
    assert build(config.datasets).name == "breasts"


def test_what_has_to_be_given_says_what_it_is_for() -> None:
    for name in _sets():
        config = OmegaConf.create({"datasets": OmegaConf.load(CONF / "datasets" / f"{name}.yaml")})
        missing = [option for option in config.datasets if OmegaConf.is_missing(config.datasets, option)]
        with pytest.raises(UserError, match=f"^datasets.{missing[0]} is missing: the ") as refused:
            build(config.datasets)
        assert all(f"datasets.{option} is missing: " in str(refused.value) for option in missing)
        assert "no default" not in str(refused.value)
        if name == "medmnist":
            assert all(kind in str(refused.value) for kind in CLASSES)
