"""Models: the right weights with the right preprocessing, a layer for CAM methods, and a sentence for every mistake."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from benchmark import embedded, pretrained, train
from benchmark.cam_layer import choose, last_spatial
from benchmark.choices import CONF
from benchmark.datasets.digits import Digits
from benchmark.datasets.folder import Folder
from benchmark.datasets.photos import Photos
from benchmark.datasets.shapes import Shapes
from benchmark.errors import UserError
from benchmark.models import Model, check, digest, freeze
from benchmark.plugins import build


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def load(choice: str, dataset: str = "shapes", /, **options: object) -> Model:
    """The model of conf/models/`choice`.yaml with `options` set, beside a data set of that name."""
    config = OmegaConf.create(
        {"datasets": {"name": dataset}, "models": OmegaConf.load(CONF / "models" / f"{choice}.yaml")}
    )
    config.models.merge_with(options)
    model: Model = build(config.models)
    return model


@cache
def unseen(dataset: str) -> tuple[Tensor, Tensor]:
    """All test images and labels."""
    return train.tensors(train.data(dataset, "test"))


@pytest.mark.parametrize("dataset", ["shapes", "digits"])
@pytest.mark.parametrize("name", ["small_cnn", "small_vit"])
def test_embedded_weights_are_as_good_as_promised(name: str, dataset: str) -> None:
    model = load(name, dataset)
    inputs, labels = unseen(dataset)
    assert train.accuracy(model.network, model.normalise(inputs), labels) >= (0.97 if dataset == "shapes" else 0.95)
    check(model, train.data(dataset, "test"))


def test_embedded_weights_are_small() -> None:
    files = sorted(embedded.WEIGHTS.glob("*.safetensors"))
    assert len(files) == 26, "four models, their twins that learned random labels, and eighteen for drawn scenes"
    assert sum(file.stat().st_size for file in files) < 6e6


@pytest.mark.parametrize(("name", "layer"), [("small_cnn", "layer4"), ("small_vit", "blocks.2.norm1")])
def test_embedded_models_are_frozen_and_whole(name: str, layer: str) -> None:
    model = load(name)
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert model.layer == layer
    assert model.class_names == Shapes.classes
    assert model.weights == load(name).weights != load(name, "digits").weights
    assert str(model.transform) == str(load(name).transform), "the transform is part of a record's key"


@pytest.mark.slow
def test_the_cnn_can_be_trained_again(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert train.train("small_cnn", "shapes", tmp_path / "weights.safetensors", steps=700) >= 0.97


def test_training_writes_weights_that_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "small_cnn-digits.safetensors"
    monkeypatch.setattr(train, "data", lambda dataset, split: Digits(n=64, split=split))
    first = train.train("small_cnn", "digits", out, steps=3)
    monkeypatch.setattr(embedded, "WEIGHTS", tmp_path)
    monkeypatch.setattr(embedded, "GATE", 0.0)
    model = load("small_cnn", "digits")
    inputs, labels = train.tensors(Digits(n=64))
    assert train.accuracy(model.network, model.normalise(inputs), labels) == pytest.approx(first)


def test_erasing_takes_the_mean_colour_of_some_blocks_of_half_of_the_images() -> None:
    images = torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    erased = train.erased(images, 0.6, torch.Generator().manual_seed(1))
    changed = (erased != images).any(1)
    assert changed.flatten(1).any(1).float().mean() == pytest.approx(0.5, abs=0.15)
    assert changed.float().mean((1, 2)).max() < 0.8
    mean = images.mean((2, 3), keepdim=True).expand_as(images)
    assert torch.equal(erased[erased != images], mean[erased != images])


def test_a_photograph_takes_the_path_of_its_model_and_a_tensor_passes_through() -> None:
    model = load("efficientnet_lite0")
    pixels = model.pixels(Image.new("L", (300, 260), 255))
    assert pixels.shape == (3, 224, 224)
    assert torch.equal(pixels, torch.ones_like(pixels))
    assert torch.equal(model.normalise(pixels), torch.ones_like(pixels))
    assert model.normalise(torch.zeros(2, 3, 4, 4)).eq(-1).all()
    same = torch.rand(3, 224, 224)
    assert model.pixels(same) is same
    with pytest.raises(UserError, match="takes images of size 3x224x224, this one has 3x64x64"):
        model.pixels(torch.rand(3, 64, 64))
    assert load("small_vit", "digits").pixels(Image.new("RGB", (50, 40))).shape == (1, 32, 32)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_offline_models_know_the_photographs(name: str) -> None:
    pytest.importorskip("skimage")
    model, photos = load(name), Photos()
    from torchvision.models import MobileNet_V2_Weights

    names = MobileNet_V2_Weights.DEFAULT.meta["categories"]
    seen = {}
    with torch.inference_mode():
        for index in range(len(photos)):
            logits = model.network(model.normalise(model.pixels(photos[index].image)).unsqueeze(0))
            seen[photos[index].uid] = names[int(logits.argmax())]
    assert seen["chelsea"] in ("tabby", "tiger cat", "Egyptian cat")
    assert seen["coffee"] == "espresso"
    assert seen["rocket"] in ("missile", "projectile", "drilling platform")
    assert seen["motorcycle_left"] in ("moped", "motor scooter")
    check(model, photos)


@pytest.mark.parametrize(
    ("source", "name", "size", "layer"),
    [
        ("timm", "resnet10t", 64, "layer4"),
        ("timm", "resnet18", 64, "layer4"),
        ("timm", "vgg11", 64, "features"),
        ("timm", "mobilenetv3_small_100", 64, "blocks"),
        ("timm", "tf_efficientnet_lite0", 64, "bn2"),
        ("timm", "test_convnext", 64, "stages"),
        ("timm", "densenet121", 64, "features"),
        ("timm", "vit_tiny_patch16_224", 224, "blocks.11.norm1"),
        ("timm", "deit_tiny_distilled_patch16_224", 224, "blocks.11.norm1"),
        ("timm", "swin_tiny_patch4_window7_224", 224, "norm"),
        ("timm", "mixer_s32_224", 224, "norm"),
        ("torchvision", "resnet18", 64, "layer4"),
        ("torchvision", "vit_b_16", 224, "encoder.layers.encoder_layer_11.ln_1"),
    ],
)
def test_the_layer_of_cam_methods_is_found(source: str, name: str, size: int, layer: str) -> None:
    network = random_network(source, name)
    assert last_spatial(network, (3, size, size)) == layer
    assert not any(module._forward_hooks for module in network.modules())


def random_network(source: str, name: str) -> nn.Module:
    import timm
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module
        # Wide layers are most of the time and tell nothing about the rule.
        if source == "timm":
            network = timm.create_model(name, **({"mlp_ratio": 0.01} if name == "vgg11" else {}))
        elif name == "vit_b_16":
            network = models.VisionTransformer(224, 16, num_layers=12, num_heads=3, hidden_dim=48, mlp_dim=48)
        else:
            network = models.get_model(name)
        for module in network.modules():
            if isinstance(module, nn.Linear):  # some heads start at zero, and then no place matters
                nn.init.normal_(module.weight, std=0.02)
    return freeze(network)


def test_a_perceptron_has_no_layer_for_cam_methods() -> None:
    assert last_spatial(freeze(nn.Sequential(nn.Flatten(), nn.Linear(192, 3))), (3, 8, 8)) == ""


class Registers(nn.Module):
    """4 x 4 patches behind ten tokens, which read as one token before 5 x 5 patches where nobody says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 6, 8, 8), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.norm(nn.functional.pad(self.patch(images).flatten(2).mT, (0, 0, 10, 0)))
        return self.head(tokens.square().mean(1))  # type: ignore[no-any-return]


def test_tokens_are_taken_for_places_only_where_cam_methods_read_them_so() -> None:
    network = freeze(Registers())
    assert last_spatial(network, (3, 32, 32)) == "patch"
    network.num_prefix_tokens = 10  # type: ignore[assignment]
    assert last_spatial(network, (3, 32, 32)) == "norm"


def test_a_layer_that_does_not_exist_is_refused() -> None:
    assert load("small_cnn", layer="layer3").layer == "layer3"
    with pytest.raises(UserError, match=r"models\.layer=layr4 does not exist; did you mean .*layer4"):
        load("small_cnn", layer="layr4")
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"models\.layer=conv_last does not exist \(there are: 0, 1\)"):
        choose(network, (1, 2, 2), "conv_last")


def test_the_digest_sees_names_types_shapes_and_bytes() -> None:
    one = nn.Linear(2, 3)
    same, moved = nn.Linear(2, 3), nn.Linear(2, 3)
    same.load_state_dict(one.state_dict())
    moved.load_state_dict({"weight": one.weight, "bias": one.bias + 1e-3})
    assert digest(one) == digest(same)
    assert len({digest(one), digest(moved), digest(nn.Sequential(one)), digest(one.double())}) == 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A state dictionary of timm's test_resnet with random weights for 5 classes."""
    import timm

    path = tmp_path / "weights.pth"
    torch.save({"state_dict": timm.create_model("test_resnet", num_classes=5).state_dict()}, path)
    return path


def test_a_checkpoint_gives_its_weights(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    save_file(state, tmp_path / "weights.safetensors")
    model = load("timm", name="test_resnet", checkpoint=str(checkpoint), classes=5)
    assert model.classes == 5
    assert model.class_names is None
    assert torch.equal(model.network.state_dict()["fc.weight"], state["fc.weight"])
    assert (
        load("timm", name="test_resnet", checkpoint=f"{tmp_path}/weights.safetensors", classes=5).weights
        == model.weights
    )


def test_a_twin_is_a_second_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    import timm

    path = tmp_path / "twin.pth"
    torch.save(timm.create_model("test_resnet", num_classes=5).state_dict(), path)
    alone, paired = (
        load("timm", name="test_resnet", checkpoint=str(checkpoint), classes=5, **more)
        for more in ({}, {"twin": str(path)})
    )
    assert alone.twin is None
    assert paired.twin is not None
    assert paired.weights == alone.weights != digest(paired.twin)
    assert not any(parameter.requires_grad for parameter in paired.twin.parameters())


def test_a_torchvision_checkpoint_gives_its_weights(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), tmp_path / "weights.pth")
    model = load("torchvision", name="resnet18", checkpoint=f"{tmp_path}/weights.pth")
    assert (model.size, model.layer, model.classes) == ((3, 224, 224), "layer4", 1000)
    assert model.mean == pytest.approx((0.485, 0.456, 0.406))
    white = model.pixels(Image.new("RGB", (400, 300), (255, 255, 255)))
    assert torch.allclose(white, torch.ones(3, 224, 224))


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("/tmp/assay-was-here"),)


def test_a_network_without_two_classes_is_refused(tmp_path: Path) -> None:
    import timm

    for classes in (0, 1):
        path = tmp_path / f"{classes}.pth"
        torch.save(timm.create_model("test_resnet", num_classes=classes).state_dict(), path)
        with pytest.raises(UserError, match="no classifier of two or more classes"):
            load("timm", name="test_resnet", checkpoint=str(path), classes=classes)


def test_checkpoints_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit this model at fc\.weight, .*number of classes"):
        load("timm", name="test_resnet", checkpoint=str(checkpoint))
    with pytest.raises(UserError, match="does not fit this model at"):
        load("timm", name="test_vit", checkpoint=str(checkpoint), classes=5)
    with pytest.raises(UserError, match=r"there is no checkpoint .*missing\.pth"):
        load("timm", name="test_resnet", checkpoint=f"{tmp_path}/missing.pth")
    torch.save({"fc.weight": Harmful()}, tmp_path / "code.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    for file in ("code.pth", "text.safetensors"):
        with pytest.raises(UserError, match="loads without code"):
            load("timm", name="test_resnet", checkpoint=f"{tmp_path}/{file}")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no state dictionary"):
        load("timm", name="test_resnet", checkpoint=f"{tmp_path}/list.pth")


def test_weights_out_of_reach_say_what_to_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download the weights of test_resnet: give models\.checkpoint=FILE"):
        load("timm", name="test_resnet", cache_dir=str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot download"):
        load("timm", name="test_resnet", cache_dir=str(tmp_path))

    def unreachable(*args: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", unreachable)
    with pytest.raises(UserError, match=r"cannot download the weights of resnet18: .*hub/checkpoints"):
        load("torchvision", name="resnet18")


def test_weights_in_the_cache_need_no_network(checkpoint: Path, tmp_path: Path) -> None:
    import timm

    source = timm.create_model("test_resnet")
    folder = tmp_path / f"models--{timm.get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    torch.save(source.state_dict(), folder / "snapshots" / "abc" / "pytorch_model.bin")
    assert load("timm", name="test_resnet", cache_dir=str(tmp_path)).weights == digest(source)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("timm", {"name": "resnet_18"}, "timm model resnet_18 does not exist; did you mean .*resnet18"),
        ("timm", {"name": "test_resnet.best"}, "no weights 'test_resnet.best': expected test_resnet.r160_in1k"),
        (
            "torchvision",
            {"name": "resnet_18"},
            "torchvision classifier resnet_18 does not exist; did you mean .*resnet18",
        ),
        ("torchvision", {"name": "resnet18", "weights": "V9"}, "no weights 'V9': expected IMAGENET1K_V1"),
        ("timm", {"name": "test_resnet", "classes": 5}, "give both or neither"),
        ("torchvision", {"name": "resnet18", "classes": 5}, "give both or neither"),
        ("efficientnet_lite0", {"name": "efficientnet_lite9"}, "expected efficientnet_lite0 or efficientnet_lite2"),
        (
            "small_cnn",
            {"dataset": "photos"},
            "neither small_cnn nor small_vit is trained for photos: expected one of shapes, digits, additive",
        ),
        ("small_vit", {"architecture": {"width": 24}}, "holds another architecture than models.architecture"),
    ],
)
def test_choices_that_do_not_exist_are_refused(model: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load(model, **options)


def test_a_missing_or_altered_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    package, file, _ = pretrained._OFFLINE["efficientnet_lite0"]
    monkeypatch.setitem(pretrained._OFFLINE, "efficientnet_lite0", (package, file, "0" * 64))
    with pytest.raises(UserError, match="is not the published file: reinstall"):
        load("efficientnet_lite0")
    monkeypatch.setattr("benchmark.pretrained.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[offline\]\""):
        load("efficientnet_lite0")


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = load("small_cnn")
    check(model, Shapes(explain="label"))
    with pytest.raises(UserError, match="small_cnn is trained for shapes and knows nothing of digits"):
        check(model, Digits())
    anywhere = dataclasses.replace(model, dataset=None)
    with pytest.raises(UserError, match="images have 1x32x32, small_cnn takes 3x64x64"):
        check(anywhere, Digits())
    pytest.importorskip("skimage")
    with pytest.raises(UserError, match=r"photos has no labels to explain: set datasets\.explain=predicted"):
        check(anywhere, Photos(explain="label"))
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "0.png")
    check(anywhere, Folder(str(tmp_path)))
    with pytest.raises(UserError, match="the labels of folder have 1 classes, small_cnn has 6"):
        check(anywhere, Folder(str(tmp_path), explain="label"))
