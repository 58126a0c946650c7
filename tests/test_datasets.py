"""Data sets: the same images everywhere, masks that are right, and nothing but the shape that tells the class."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmark.datasets import Item
from benchmark.datasets.digits import Digits
from benchmark.datasets.folder import Folder
from benchmark.datasets.photos import Photos
from benchmark.datasets.shapes import CLASSES, Shapes
from benchmark.errors import UserError


def tensor(item: Item) -> Tensor:
    assert isinstance(item.image, Tensor)
    return item.image


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor]:
    """300 images `(N, 3, 64, 64)` and masks `(N, 64, 64)`."""
    dataset = Shapes(n=300)
    items = [dataset[index] for index in range(300)]
    return torch.stack([tensor(item) for item in items]), torch.stack([item.mask for item in items])


def test_a_shape_depends_on_seed_split_and_place_alone() -> None:
    few, many = Shapes(n=8), Shapes(n=100)
    backwards = {index: many[index] for index in reversed(range(8))}
    for index in range(8):
        assert torch.equal(tensor(few[index]), tensor(backwards[index]))
        assert few[index].uid == backwards[index].uid
    for other in (Shapes(seed=1), Shapes(split="train")):
        assert not torch.equal(tensor(few[3]), tensor(other[3]))
        assert few[3].uid != other[3].uid


def test_the_stream_of_shapes_is_the_one_that_models_were_trained_on() -> None:
    """A generator or formula that changes moves every number: raise `Shapes.version`, then retrain and update this."""
    image = tensor(Shapes()[4])
    found = [image.mean().item(), image.std().item(), image[0, 10, 20].item(), image[2, 50, 40].item()]
    assert found == pytest.approx([0.403832, 0.168521, 0.766426, 0.368822], abs=1e-4)


def test_shapes_stop_at_the_end() -> None:
    dataset = Shapes(n=7)
    assert len(list(dataset)) == len(dataset) == 7
    with pytest.raises(IndexError):
        dataset[7]


def test_images_lie_in_range_and_classes_are_balanced() -> None:
    labels = [Shapes(n=60)[index].label for index in range(60)]
    assert [labels.count(label) for label in range(len(CLASSES))] == [10] * 6
    image, mask = tensor(Shapes()[0]), Shapes()[0].mask
    assert image.dtype == torch.float32
    assert image.shape == (3, 64, 64)
    assert mask is not None
    assert mask.shape == (64, 64)
    assert mask.dtype == torch.bool
    assert image.min() >= 0
    assert image.max() <= 1


def test_masks_cover_the_shape(drawn: tuple[Tensor, Tensor]) -> None:
    """Within three pixels of a shape, brightness tells the mask; shapes are whole, and no class covers more."""
    images, masks = drawn
    area = masks.float().mean((1, 2))
    assert area.min() > 0.03
    assert area.max() < 0.13
    by_class = torch.stack([area[label::6].mean() for label in range(6)])
    assert by_class.max() - by_class.min() < 0.015
    border = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]])
    assert not border.any()
    grown = functional.max_pool2d(masks.float().unsqueeze(1), 7, 1, 3).squeeze(1).bool()
    agreement = []
    for light, inside, around in zip(images.mean(1), masks, grown, strict=True):
        shape, ring = light[inside].median(), light[around & ~inside].median()
        assert shape > ring + 0.05
        agreement.append(((light > (shape + ring) / 2) == inside)[around].float().mean())
    assert torch.stack(agreement).mean() > 0.97, "a mask that is off by one pixel reaches 0.92"


def test_a_disc_fills_its_circle_and_a_ring_does_not() -> None:
    for index, filled in ((0, True), (4, False)):
        mask = Shapes()[index].mask
        assert mask is not None
        row, column = (places.float().mean().round().int() for places in torch.where(mask))
        assert bool(mask[row, column]) == filled


def test_maps_that_ignore_the_model_do_not_find_the_shape(drawn: tuple[Tensor, Tensor]) -> None:
    """Pointing game below 20 % and mass below 30 % for each; the shape covers 8 % of the image."""
    images, masks = drawn
    light = images.mean(1)
    padded = functional.pad(light.unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    edges = functional.conv2d(padded, torch.stack([kernel, kernel.T]).unsqueeze(1)).norm(dim=1)
    line = torch.arange(64) - 31.5
    centre = torch.exp(-(line.view(-1, 1) ** 2 + line**2) / 512).expand_as(light)
    unusual = (images - images.mean((2, 3), keepdim=True)).abs().sum(1)
    for name, maps in {"intensity": light, "edges": edges, "centre": centre, "unusual": unusual}.items():
        noisy = maps + 1e-6 * torch.rand(maps.shape, generator=torch.Generator().manual_seed(0))
        peak = noisy.flatten(1).argmax(1, keepdim=True)
        assert masks.flatten(1).gather(1, peak).float().mean() < 0.2, name
        assert ((maps * masks).sum((1, 2)) / maps.sum((1, 2))).mean() < 0.3, name


def test_digits_have_one_split_whatever_the_seed() -> None:
    listed = [{Digits(n=None, seed=seed)[index].uid for index in range(360)} for seed in (0, 1)]
    trained = {Digits(n=None, split="train")[index].uid for index in range(1437)}
    assert listed[0] == listed[1]
    assert not listed[0] & trained
    assert len(listed[0] | trained) == 1797
    assert Digits(seed=0).fingerprint != Digits(seed=1).fingerprint
    assert len(Digits(n=5)) == 5
    assert len(Digits(n=10_000)) == 360


def test_digits_are_the_scans_enlarged() -> None:
    from sklearn.datasets import load_digits

    item = Digits()[0]
    scan = int(item.uid.removeprefix("digits-"))
    assert item.label == load_digits().target[scan]
    small = functional.avg_pool2d(tensor(item), 4)
    assert tensor(item).shape == (1, 32, 32)
    assert (small[0] - torch.from_numpy(load_digits().images[scan]) / 16).abs().max() < 0.35
    assert tensor(item).mean() == pytest.approx(load_digits().images[scan].mean() / 16, abs=0.02)


def test_photos_are_fixed_by_their_bytes() -> None:
    pytest.importorskip("skimage")
    photos = Photos()
    assert {photos[index].uid for index in range(len(photos))} >= {"chelsea", "coffee", "rocket"}
    assert all(photos[index].image.mode == "RGB" for index in range(len(photos)))
    assert len(photos.fingerprint) == 64
    assert Photos(n=2).fingerprint != photos.fingerprint


def test_photos_without_scikit_image_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.datasets.photos.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[offline\]\""):
        Photos()


def folder(root: Path, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 6), (number, 0, 0)).save(root / name / f"{number:02d}.png")
    return root


def uids(dataset: Folder) -> list[str]:
    return [dataset[index].uid for index in range(len(dataset))]


def test_a_folder_lists_a_balanced_subset_fixed_by_the_seed(tmp_path: Path) -> None:
    root = str(folder(tmp_path, {"cat": 10, "ant": 10, "bee": 2}))
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    first = Folder(root, n=8)
    assert first.classes == ("ant", "bee", "cat")
    assert uids(first) == uids(Folder(root, n=8)) == sorted(uids(first))
    assert uids(first) != uids(Folder(root, n=8, seed=1))
    assert [sum(uid.startswith(name) for uid in uids(first)) for name in first.classes] == [3, 2, 3]
    assert set(uids(Folder(root, n=7))) < set(uids(first))
    assert len(Folder(root, n=None)) == 22
    assert first[0].label == 0


def test_a_folder_is_fixed_by_the_bytes_of_its_listed_files(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 2, "b": 2})
    before = Folder(str(root)).fingerprint
    root.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    assert Folder(str(moved)).fingerprint == before
    Image.new("RGB", (8, 6), (99, 0, 0)).save(moved / "a" / "00.png")
    assert Folder(str(moved)).fingerprint != before


def test_wordnet_folders_carry_the_labels_of_imagenet(tmp_path: Path) -> None:
    dataset = Folder(str(folder(tmp_path, {"n02123045": 1, "n01440764": 1})))
    assert [dataset[index].label for index in range(2)] == [0, 281]
    assert len(dataset.classes) == 1000
    assert dataset.classes[281].startswith("tabby")
    odd = Folder(str(folder(tmp_path / "odd", {"n99999999": 1})))
    with pytest.raises(UserError, match="n99999999 is named like an ImageNet class but is none"):
        odd[0]


def test_a_folder_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Folder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image in a subfolder"):
        Folder(str(tmp_path))
    (tmp_path / "empty" / "broken.png").write_bytes(b"no png")
    with pytest.raises(UserError, match=r"broken\.png is no image that can be read"):
        Folder(str(tmp_path))[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"explain": "truth"}, "datasets.explain=truth is unknown: expected one of predicted, label"),
        ({"baseline": "pink"}, "datasets.baseline=pink is unknown: expected one of zero, black, white, grey, mean"),
        ({"n": 0}, "datasets.n=0 leaves no image"),
        ({"seed": -1}, "datasets.seed=-1 is negative"),
        ({"split": "exam"}, "datasets.split=exam is unknown: expected one of train"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, object], sentence: str) -> None:
    for dataset in (Shapes, Digits):
        with pytest.raises(UserError, match=sentence):
            dataset(**options)


def test_all_shapes_are_too_many() -> None:
    with pytest.raises(UserError, match="have no end"):
        Shapes(n=None)


def test_uids_name_one_image_each() -> None:
    for dataset in (Shapes(n=50), Digits(n=50)):
        names = sorted(dataset[index].uid for index in range(50))
        assert all(a != b for a, b in pairwise(names))
