"""Networks from anywhere: programs in files, the hub, a user's own module; and those that misbehave."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from benchmark import checkpoints, own_models, subjects
from benchmark.batches import freeze as frozen
from benchmark.cam_layer import last_spatial
from benchmark.choices import CONF
from benchmark.errors import NotApplicable, UserError
from benchmark.models import Model, freeze
from benchmark.preprocessing import Preprocessing, model
from benchmark.probe import examine
from methods.attention_rollout import AttentionRollout
from methods.grad_cam import GradCAM
from methods.guided_backprop import GuidedBackprop
from methods.input_x_gradient import InputXGradient
from methods.lrp import LRP

SIZE = (3, 32, 32)
IMAGES = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A small network with batch norm, an activation in place, and dropout."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


def load(choice: str, /, trusted: tuple[str, ...] = (), **options: object) -> Model:
    """The model of conf/models/`choice`.yaml with `options` set."""
    config = OmegaConf.create({"models": OmegaConf.load(CONF / "models" / f"{choice}.yaml")})
    config.models.merge_with(options)
    return own_models.build(config.models, trusted)


# What a network may do wrong


class Changed(Net):
    """A network whose output, or input, goes through `change` first."""

    def __init__(self, change: Callable[[Tensor], Any], before: bool = False) -> None:
        super().__init__()
        self.change, self.before = change, before

    def forward(self, images: Tensor) -> Any:
        return super().forward(self.change(images)) if self.before else self.change(super().forward(images))


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


class Trains(nn.Module):
    """Stays in train mode, whatever it is told."""

    def train(self, mode: bool = True) -> Trains:
        return super().train(True)  # type: ignore[return-value]


class TrainedNet(Trains, Net):
    pass


class TrainedScale(Trains):
    def forward(self, images: Tensor) -> Tensor:
        return images


class Wanting(Net):
    def requires_grad_(self, requires_grad: bool = True) -> Wanting:
        return self


def of_the_batch() -> nn.Module:
    net = Net()
    net.body[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return net


MISBEHAVING = {
    "dropout": (Changed(lambda z: nn.functional.dropout(z, 0.5)), "another output for the same images in every pass"),
    "train mode": (TrainedNet(), "another output for the same images in every pass"),
    "batch statistics": (of_the_batch(), "another output in other company"),
    "batch mean": (Changed(lambda z: z - z.mean(0)), "another output in other company"),
    "alone": (Changed(lambda z: z * (1 + (len(z) == 1))), "another output in other company"),
    "single": (
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        "another output in other company",
    ),
    "dictionary": (Changed(lambda z: {"logits": z}), "returns a dict, expected one tensor of logits"),
    "tuple": (Changed(lambda z: (z, z)), "returns a tuple, expected one tensor of logits"),
    "one logit": (Changed(lambda z: z[:, :1]), r"no classifier of two or more classes: its output is \(2, 1\)"),
    "dense map": (Changed(lambda z: z[:, :, None, None].expand(-1, -1, 8, 8)), r"its output is \(2, 4, 8, 8\)"),
    "whole number": (Changed(lambda z: z.argsort()), "numbers of type torch.int64"),
    "nan": (Changed(lambda z: z.where(z != z.max(), torch.nan)), "returns NaN or infinity"),
    "probabilities": (Changed(lambda z: z.softmax(1)), "are probabilities .* leave its softmax out"),
    "counter": (Counting(), "changes its buffer seen"),
    "size": (nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), r"does not take 2 float32 images of 3x32x32"),
}


@pytest.mark.parametrize("kind", MISBEHAVING)
def test_a_network_whose_numbers_would_be_wrong_is_refused(kind: str) -> None:
    network, sentence = MISBEHAVING[kind]
    with pytest.raises(UserError, match=f"it .*{sentence}|it {sentence}|of it {sentence}"):
        examine("it", freeze(network), IMAGES)


def test_habits_that_change_no_number_are_remarks() -> None:
    quiet = examine("it", freeze(Net()), IMAGES)
    assert (quiet.classes, quiet.remarks) == (4, ())
    log = freeze(Changed(lambda z: z.log_softmax(1)))
    assert examine("it", log, IMAGES).remarks == (), "logits up to a constant"
    before = IMAGES.clone()
    for network, remark in (
        (nn.Sequential(nn.ReLU(inplace=True), Net()), ()),  # positive images stay what they are
        (Changed(lambda x: x.mul_(2), before=True), ("it writes to its input, so it is given copies",)),
        (nn.Sequential(Net(), TrainedScale()), ("1 stays in train mode, to no effect on the output",)),
        (Wanting(), ("parameter body.0.weight still wants a gradient",)),
        (Changed(torch.detach), ("its output carries no gradient: methods that differentiate are not applicable",)),
    ):
        assert examine("it", freeze(network), IMAGES).remarks == remark
    assert torch.equal(IMAGES, before)


def test_remarks_are_filed_with_every_record(tmp_path: Path, own: None) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [
            "models=custom",
            "models._target_=own_net.Writing",
            "models.size=[3,64,64]",
            "models.class_names=x.txt",
        ]
        config = compose("config", [*chosen, "datasets=shapes", "datasets.n=2", "device=cpu"])
    Path("x.txt").write_text("a\nb\nc\n\nd\n")
    subject = subjects.load(config, ("own_net",))
    assert subject.environment["remarks"] == ["it writes to its input, so it is given copies"]
    assert subject.model.class_names == ("a", "b", "c", "d")
    assert subject.build["model"]["class_names"] is None
    assert subject.model_choice.name == "own_net.Writing"
    assert set(subject.model_choice.params) == {"size", "mean", "std", "transform"}
    assert "+" in subject.model_choice.version, "the user's file is a part of the key"


# A user's own module


OWN = """
import torch
from torch import nn
from benchmark.models import Model
from tests.test_real_models import Net

class Writing(Net):
    def forward(self, images):
        return super().forward(images.mul_(2))

def build(width=8):
    return Net(width)

def whole():
    names = ("a", "b", "c", "d")
    return Model("whole", Net(), (3, 32, 32), (0.5,) * 3, (0.25,) * 3, 4, names, "body.0", "", str, "shapes")

def number():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `own_net` in the current folder, which is on the path."""
    (tmp_path / "own_net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_net", None)


def test_a_module_of_the_users_own(own: None, tmp_path: Path) -> None:
    torch.save(Net(5).state_dict(), tmp_path / "weights.pth")
    given = {"_target_": "own_net.build", "size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "width": 5}
    found = load("custom", ("own_net",), **given, checkpoint="weights.pth", class_names=["a", "b", "c", "d"])
    assert (found.name, found.size, found.mean, found.std) == ("own_net.build", SIZE, (0.5,) * 3, (1.0,) * 3)
    assert (found.classes, found.class_names, found.layer) == (4, ("a", "b", "c", "d"), "body")
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())
    assert torch.equal(found.network(IMAGES), freeze(Net(5))(IMAGES))
    white = found.pixels(Image.new("RGB", (80, 50), (255, 255, 255)))
    assert torch.equal(white, torch.ones(SIZE))
    assert load("custom", ("own_net",), **given, layer="body.0", name="mine").layer == "body.0"


def test_a_model_of_the_users_own_is_overruled_by_the_config(own: None) -> None:
    found = load("custom", ("own_net",), _target_="own_net.whole")
    assert (found.name, found.mean, found.std, found.dataset) == ("whole", (0.5,) * 3, (0.25,) * 3, "shapes")
    assert (found.layer, found.class_names, found.transform) == ("body.0", ("a", "b", "c", "d"), str)
    assert not found.network.training
    said = load("custom", ("own_net",), _target_="own_net.whole", size=[3, 64, 64], std=[1, 1, 1], name="other")
    assert (said.name, said.size, said.mean, said.std) == ("other", (3, 64, 64), (0.5,) * 3, (1, 1, 1))
    assert said.pixels(Image.new("RGB", (80, 70))).shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"_target_": "own_net.build"}, r"returns a network: models\.size=\[channels,height,width\] says"),
        ({"_target_": "own_net.number"}, "returns a int, expected a torch.nn.Module"),
        ({"_target_": "own_net.build", "size": 224}, r"models\.size=224 is no size .* as \[3,224,224\]"),
        ({"_target_": "own_net.build", "size": [3, 32, 32], "mean": [0.5]}, r"models\.mean=\[0\.5\]: .*of 3 channels"),
        ({"_target_": "own_net.build", "size": [3, 32, 32], "std": [1, 0, 1]}, r"models\.std=\[1, 0, 1\] divides"),
        ({"_target_": "own_net.build", "size": [3, 32, 32], "class_names": ["a"]}, "has 1 names, .* has 4 classes"),
        ({"_target_": "own_net.build", "size": [3, 32, 32], "class_names": "no.txt"}, "is no file of names"),
        ({"_target_": "own_net.build", "size": [3, 32, 32], "layer": "bdy"}, "models.layer=bdy does not exist"),
        ({"_target_": "own_net.build", "size": [3, 32, 32], "depth": 3}, "unexpected keyword argument 'depth'"),
        ({}, r"models=custom needs the class to use: models\._target_="),
    ],
)
def test_what_is_said_wrongly_of_it_is_refused(own: None, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load("custom", ("own_net",), **options)


def test_code_of_others_runs_only_if_it_is_trusted(own: None) -> None:
    with pytest.raises(UserError, match=r"outside this project: .* trust=\[own_net\]"):
        load("custom", _target_="own_net.build", size=[3, 32, 32])


def test_names_of_classes_come_from_a_list_or_a_file(tmp_path: Path) -> None:
    for text in ("cat\n\ndog\n", '["cat", "dog"]', '{"1": "dog", "0": "cat"}'):
        (tmp_path / "names").write_text(text)
        assert Preprocessing(SIZE).stated(class_names=str(tmp_path / "names")).class_names == ["cat", "dog"]
    for text in ('{"a": 1}', '["cat"'):
        (tmp_path / "names").write_text(text)
        with pytest.raises(UserError, match="no list of names"):
            Preprocessing(SIZE).stated(class_names=str(tmp_path / "names"))


# Programs


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network traced, scripted, and exported for one image or any number of them."""
    folder, net = tmp_path_factory.mktemp("programs"), freeze(Net())
    paths = {name: folder / f"{name}.pt" for name in ("traced", "scripted", "alone", "any", "five")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, IMAGES), str(paths["traced"]))
        torch.jit.save(torch.jit.script(net), str(paths["scripted"]))
        torch.export.save(torch.export.export(net, (IMAGES[:1],)), paths["alone"])
        torch.export.save(torch.export.export(net, (IMAGES.repeat(2, 1, 1, 1)[:5],)), paths["five"])
        dynamic = ({0: torch.export.Dim.DYNAMIC},)
        torch.export.save(torch.export.export(net, (IMAGES,), dynamic_shapes=dynamic), paths["any"])
    return paths


@pytest.mark.parametrize("kind", ["traced", "scripted", "alone", "any"])
def test_a_program_does_what_its_network_does(programs: dict[str, Path], kind: str) -> None:
    size = {"size": list(SIZE)} if kind in ("traced", "scripted") else {}
    found, net = load("file", path=str(programs[kind]), **size), freeze(Net())
    assert (found.name, found.size, found.layer, found.classes, found.remarks) == (kind, SIZE, "", 4, ())
    assert torch.allclose(found.network(IMAGES), net(IMAGES), atol=1e-6)
    for copy in (deepcopy(found.network), deepcopy(found.network).cpu().to(memory_format=torch.channels_last)):
        assert torch.allclose(copy(IMAGES), net(IMAGES), atol=1e-6)
        with torch.no_grad():
            for parameter in copy.parameters():
                parameter.zero_()
        assert copy(IMAGES).eq(0).all(), "a randomised copy computes with its own weights"
    if kind in ("traced", "scripted"):
        precise = deepcopy(found.network).double()
        assert torch.allclose(precise(IMAGES.double()), freeze(Net()).double()(IMAGES.double()), atol=1e-12)
    assert torch.allclose(found.network(IMAGES), net(IMAGES), atol=1e-6)
    batch, other = (frozen(network, IMAGES, list("abc"), chunk=2) for network in (found.network, net))
    maps = InputXGradient().attribute(found.network, batch)
    assert torch.allclose(maps, InputXGradient().attribute(net, other), atol=1e-6)
    for method, reason in (
        (GradCAM(layer=""), "no layer with a spatial map"),
        (AttentionRollout(), "no attention among tokens is to be seen"),
        (LRP(), "operations of a compiled model cannot be seen"),
        (GuidedBackprop(), "operations of a compiled model cannot be seen"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            method.attribute(found.network, batch)


def test_programs_that_cannot_be_used_are_refused(programs: dict[str, Path], tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("no program")
    size = {"size": list(SIZE)}
    for path, options, sentence in (
        (tmp_path / "missing.pt", size, "there is no program"),
        (tmp_path / "text.pt", size, "is no program: expected a file of"),
        (tmp_path / "weights.pt", size, "holds weights and no program: give models.checkpoint"),
        (programs["traced"], {}, "does not say what it takes"),
        (programs["five"], {}, "was exported for 5 images at a time"),
        (programs["any"], {"layer": "body"}, "models.layer=body: a program has no layers"),
        (programs["any"], {"size": [3, 16, 16]}, "does not take 2 float32 images of 3x16x16"),
    ):
        with pytest.raises(UserError, match=sentence):
            load("file", path=str(path), **options)


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("was-here"),)


@pytest.mark.parametrize("hidden", ["weights", "sample", "object"])
def test_a_program_with_pickled_code_is_refused_unread(
    programs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code = pickle.dumps(Harmful())
    with zipfile.ZipFile(programs["any"]) as old, zipfile.ZipFile("bad.pt2", "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if hidden == "weights" and member.endswith("model_weights_config.json"):
                config = json.loads(content)
                next(iter(config["config"].values()))["use_pickle"] = True
                content = json.dumps(config).encode()
            if (hidden == "weights" and "weight_" in member) or (hidden == "sample" and "sample_inputs" in member):
                content = code
            new.writestr(member, content)
        if hidden == "object":
            new.writestr("any/data/constants/custom_obj_0", code)
    with pytest.raises(UserError, match="which would need pickle: export it again"):
        load("file", path="bad.pt2")
    assert not Path("was-here").exists()


# Checkpoints in their wrappers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"module." + key: value for key, value in state.items()},
        lambda state: {"state_dict": {"model." + key: value for key, value in state.items()}, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}, "lr": 0.1},
        lambda state: {
            "state_dict": {"net." + key: v for key, v in state.items()} | {"ema.body.0.bias": torch.ones(8)}
        },
        lambda state: torch.optim.swa_utils.AveragedModel(filled(Net(), state)).state_dict(),
        lambda state: {"_orig_mod.module." + key: value for key, value in state.items()},
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
        lambda state: {"criterion": {"weight": torch.ones(4)}, "model": state, "teacher": Net(width=16).state_dict()},
        lambda state: {"model": state, "ema": {"module": dict(state)}},
        lambda state: prefixed("student.", state) | prefixed("teacher.", Net(classes=9).state_dict()),
    ],
    ids=[
        "plain",
        "parallel",
        "lightning",
        "training",
        "part",
        "average",
        "compiled",
        "old",
        "others",
        "twice",
        "teacher",
    ],
)
def test_weights_are_found_in_their_wrapper(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]) -> None:
    state = {key: value + 1 for key, value in Net().state_dict().items()}
    torch.save(wrap(state), tmp_path / "weights.pth")
    net = Net()
    checkpoints.load(net, str(tmp_path / "weights.pth"))
    assert torch.equal(net.body[0].weight, state["body.0.weight"])
    assert torch.equal(net.body[1].running_var, state["body.1.running_var"])


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def filled(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    net.load_state_dict(state)
    return net


def test_weights_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pth", Net().state_dict()
    average = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "model_ema": {"state_dict": average}}, path)
    with pytest.raises(
        UserError, match=r"dictionaries \(model, model_ema\.state_dict\) that fit this model and differ"
    ):
        checkpoints.load(Net(), str(path))
    torch.save({"model." + key: value for key, value in state.items()} | prefixed("ema.", average), path)
    with pytest.raises(UserError, match=r"several state dictionaries \(model\., ema\.\) that fit"):
        checkpoints.load(Net(), str(path))
    others = {"model": Net(classes=5).state_dict(), "ema": Net(classes=6).state_dict()}
    torch.save(others, path)
    with pytest.raises(UserError, match=r"several state dictionaries \(model, ema\), none of which fits this model"):
        checkpoints.load(Net(), str(path))
    with pytest.raises(UserError, match=r"several state dictionaries \(model, ema\): save"):
        checkpoints.read(path)
    torch.save({"model." + key: value for key, value in Net(classes=5).state_dict().items()}, path)
    with pytest.raises(UserError, match=r"does not fit this model at .*number of classes"):
        checkpoints.load(Net(), str(path))


def test_a_file_of_text_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content in ("epoch 3\n", "not weights\n", "lr 0.1\n", "(weights)\n", "<html>\n", "101\n", ""):
        path.write_text(content)
        with pytest.raises(UserError, match=r"weights\.pth is no safetensors file or state dictionary that loads"):
            checkpoints.load(Net(), str(path))


# timm and torchvision, in other words


def test_what_the_authors_say_of_a_network_can_be_overruled(tmp_path: Path) -> None:
    import timm

    net = timm.create_model("test_vit", img_size=64, in_chans=1)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    said = {"size": [1, 64, 64], "mean": [0.1], "std": [0.2]}
    found = load("timm", name="test_vit", checkpoint=f"{tmp_path}/weights.pth", **said)
    assert (found.size, found.mean, found.std) == ((1, 64, 64), (0.1,), (0.2,))
    assert found.pixels(Image.new("L", (90, 80), 255)).eq(1).all()
    assert found.class_names is not None
    assert len(found.class_names) == 1000
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), tmp_path / "resnet.pth")
    names = [str(number) for number in range(1000)]
    said = {"size": [3, 96, 96], "mean": [0, 0, 0], "class_names": names}
    other = load("torchvision", name="resnet18", checkpoint=f"{tmp_path}/resnet.pth", **said)
    assert (other.size, other.mean, other.class_names) == ((3, 96, 96), (0, 0, 0), tuple(names))
    assert other.pixels(Image.new("RGB", (300, 200))).shape == (3, 96, 96)
    with pytest.raises(UserError, match="no square of three channels"):
        load("torchvision", name="resnet18", checkpoint=f"{tmp_path}/resnet.pth", size=[3, 96, 64])


@pytest.mark.parametrize("side", [False, True], ids=["alone", "with side branches"])
@pytest.mark.parametrize(("name", "layer"), [("googlenet", "inception5b"), ("inception_v3", "Mixed_7c")])
def test_inception_is_fed_alike_from_the_index_and_from_a_file(
    name: str, layer: str, side: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import get_model, get_model_weights

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = get_model(name, weights=None, init_weights=False).state_dict()
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: state)
    published = freeze(get_model(name, weights=get_model_weights(name).DEFAULT))
    saved = {key: value for key, value in state.items() if side or not key.lower().startswith("aux")}
    torch.save(saved, tmp_path / "weights.pth")
    found = load("torchvision", name=name, checkpoint=f"{tmp_path}/weights.pth", size=[3, 96, 96], layer=layer)
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.network(images), published(images))
    with pytest.raises(UserError, match=r"does not fit this model at fc\.weight, fc\.bias"):
        load("torchvision", name=name, checkpoint=f"{tmp_path}/weights.pth", classes=3)


# The layer of CAM methods


@pytest.mark.parametrize(
    ("name", "options", "size", "layer"),
    [
        ("cait_xxs24_224", {"depth": 2, "img_size": 64}, 64, "blocks"),
        ("xcit_nano_12_p8_224", {"depth": 2}, 64, "cls_attn_blocks.1.norm1"),
        ("crossvit_9_240", {"depth": ([1, 1, 0],)}, 240, "blocks.0.fusion.1.norm1"),
        ("levit_128s", {}, 224, "stages"),
        ("pit_ti_224", {"depth": (1, 1, 1)}, 224, "transformers.2.blocks.0.norm1"),
        ("beit_base_patch16_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 224, "blocks.0"),
        ("eva02_tiny_patch14_224", {"depth": 1}, 224, "blocks.0"),
        ("poolformer_s12", {}, 64, "stages"),
        ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, 64, "stages"),
        ("regnety_002", {}, 64, "s4"),
        ("mobilevit_xxs", {}, 64, "final_conv"),
        ("swinv2_cr_tiny_ns_224", {"depths": (1, 1), "embed_dim": 24, "num_heads": (2, 2)}, 224, "stages"),
    ],
)
def test_the_layer_of_cam_methods_is_where_everything_passes(
    name: str, options: dict[str, Any], size: int, layer: str
) -> None:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(name, **options)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
    assert last_spatial(freeze(network), (3, size, size)) == layer
    assert not any(module._forward_hooks for module in network.modules())


class ClassAttention(nn.Module):
    """A class token that reads patches by attention with three projections: once, or twice as `readers` says."""

    def __init__(self, readers: int) -> None:
        super().__init__()
        self.patch, self.mix, self.head = nn.Conv2d(3, 6, 8, 8), nn.LayerNorm(6), nn.Linear(6, 3)
        self.token = nn.Parameter(torch.ones(1, 1, 6))
        self.readers = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(6)} | {name: nn.Linear(6, 6) for name in ("q", "k", "v")})
            for _ in range(readers)
        )
        self.num_prefix_tokens = 1

    def forward(self, images: Tensor) -> Tensor:
        patches = self.mix(self.patch(images).flatten(2).mT)
        token = self.token.expand(len(images), -1, -1)
        for reader in self.readers:
            tokens = reader["norm"](torch.cat([token, patches], 1))
            weights = (reader["q"](tokens[:, :1]) @ reader["k"](tokens).mT).softmax(2)
            token = token + weights @ reader["v"](tokens)
        return self.head(token[:, 0])  # type: ignore[no-any-return]


def test_a_projection_inside_attention_is_no_layer_for_cam_methods() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        once, twice = freeze(ClassAttention(1)), freeze(ClassAttention(2))
    assert last_spatial(once, (3, 32, 32)) == "readers.0.norm"
    assert last_spatial(twice, (3, 32, 32)) == "mix", "of several norms that read the patches none is all there is"


def test_a_network_without_gradients_has_no_layer() -> None:
    assert last_spatial(freeze(Changed(torch.detach)), SIZE) == ""


# The hub


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision transformer with random weights, as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
    names = {0: "cat", 1: "dog", 2: "cow"}
    config = transformers.ViTConfig(**shape, image_size=32, patch_size=8, id2label=names, initializer_range=0.3)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3]
    )
    processor.save_pretrained(folder)
    return folder


def test_a_classifier_of_the_hub(hub_folder: Path) -> None:
    import transformers

    found = load("hub", path=str(hub_folder))
    assert (found.name, found.size, found.classes) == ("tiny", SIZE, 3)
    assert (found.mean, found.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert (found.class_names, found.remarks) == (("cat", "dog", "cow"), ())
    assert (found.layer, found.network.num_prefix_tokens) == ("network.vit.layers.1.layernorm_before", 1)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    inputs = found.normalise(found.pixels(photo)).unsqueeze(0)
    classifier = transformers.ViTForImageClassification.from_pretrained(hub_folder).eval()
    processed = transformers.AutoImageProcessor.from_pretrained(hub_folder)(photo, return_tensors="pt")
    assert torch.allclose(inputs, processed["pixel_values"], atol=1e-5)
    assert torch.allclose(found.network(inputs), classifier(**processed).logits, atol=1e-5)
    assert str(found.transform) == str(load("hub", path=str(hub_folder)).transform), "it is part of a record's key"
    batch = frozen(found.network, IMAGES, list("abc"), mean=found.mean, std=found.std)
    for method in (AttentionRollout(), GradCAM(found.layer), LRP()):
        assert method.attribute(found.network, batch).isfinite().all()
    said = load(
        "hub", path=str(hub_folder), mean=[0, 0, 0], class_names=["a", "b", "c"], name="other", layer="network.vit"
    )
    assert (said.name, said.mean, said.class_names, said.layer) == ("other", (0, 0, 0), ("a", "b", "c"), "network.vit")


def test_its_weights_and_its_config_are_its_hash(hub_folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(hub_folder, tmp_path / "copy")
    one, same = load("hub", path=str(hub_folder)), load("hub", path=str(tmp_path / "copy"))
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    assert one.weights == same.weights != load("hub", path=str(tmp_path / "copy")).weights


def test_what_the_hub_does_not_have_is_refused(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bare = tmp_path / "bare"
    transformers.ViTModel(transformers.ViTConfig.from_pretrained(hub_folder)).save_pretrained(bare)
    unprepared = tmp_path / "unprepared"
    transformers.ViTForImageClassification.from_pretrained(hub_folder).save_pretrained(unprepared)
    twice = tmp_path / "twice"
    transformers.ViTForImageClassification.from_pretrained(hub_folder).save_pretrained(twice)
    transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}, include_top=True).save_pretrained(twice)
    for options, sentence in (
        ({}, r"needs models\.name=OWNER/NAME on the hub, or models\.path=FOLDER"),
        ({"name": str(hub_folder)}, "is a folder: give it as models.path="),
        ({"path": str(tmp_path)}, "it has no config.json"),
        ({"path": str(bare)}, r"has no weights for classifier\..*no whole image classifier"),
        ({"path": str(unprepared)}, "has no image processor: give models.size"),
        ({"path": str(twice)}, r"does not end in \(x - mean\) / std"),
        ({"name": "nobody/nothing", "cache_dir": str(tmp_path)}, "not in the hub's cache: models.download=true"),
        ({"name": "nobody/nothing", "cache_dir": str(tmp_path), "download": True}, "cannot download nobody/nothing"),
    ):
        with pytest.raises(UserError, match=sentence):
            load("hub", **options)
    prepared = load("hub", path=str(unprepared), size=[3, 32, 32], mean=[0.5] * 3, std=[0.5] * 3)
    assert prepared.pixels(Image.new("RGB", (70, 60))).shape == SIZE


def test_without_transformers_there_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    from benchmark.hub_models import hub

    with pytest.raises(UserError, match=r'needs transformers: pip install -e "\.\[hub\]"'):
        hub("any/name")


def test_a_network_in_the_cache_needs_no_network(hub_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "models--owner--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    shutil.copytree(hub_folder, folder / "snapshots" / "abc")
    found = load("hub", name="owner/tiny", cache_dir=str(tmp_path))
    assert found.name == "owner/tiny"
    assert found.weights == load("hub", path=str(hub_folder)).weights


def test_a_model_made_here_is_frozen() -> None:
    made = model("it", Net().train(), Preprocessing(SIZE), None)
    assert not any(module.training for module in made.network.modules())
