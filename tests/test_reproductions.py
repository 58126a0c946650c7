"""Published tables: the numbers that the page quotes, and the sweeps that would repeat them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from benchmark import records
from benchmark.choices import CONF, choices
from benchmark.plugins import build
from benchmark.protocols import Metric
from methods.extremal_perturbation import ExtremalPerturbation
from methods.grad_cam_plus_plus import SmoothGradCAMPlusPlus
from methods.input_x_gradient import InputXGradient
from methods.integrated_gradients import IntegratedGradients
from methods.noise_tunnel import NoiseTunnel
from methods.rise import RISE
from methods.saliency import Saliency
from metrics.average_drop import AverageDrop
from metrics.deletion import Deletion
from metrics.insertion import Insertion
from metrics.localisation import PointingGame
from metrics.parameter_randomisation import ParameterRandomisation
from metrics.pic import PIC
from metrics.single_deletion import SingleDeletion
from metrics.srg import SRG
from tests.test_real_datasets import SPRINGER, TENCH, synsets, voc

REPRODUCE = CONF / "reproduce"
SWEEPS = sorted(path.stem for path in (REPRODUCE / "sweeps").glob("*.yaml"))
PAGE = (CONF.parent / "docs" / "reproductions.md").read_text()

# What was published, typed from the sources that each section of the page names, by section, row and column.

PUBLISHED = {
    # Evaluation.ipynb of github.com/eclique/RISE, the output of its last cell.
    "RISE": {
        "images 0 to 4,999": {"deletion": 0.10237, "insertion": 0.76540},
        "images 5,000 to 9,999": {"deletion": 0.10729, "insertion": 0.77845},
        "all": {"deletion": 0.10483, "insertion": 0.77192},
    },
    # docs/pointing.csv of github.com/facebookresearch/TorchRay, its columns of VOC 2007 without the difficult ones.
    "Pointing game": {
        row: {"VGG16": vgg, "ResNet-50": resnet}
        for row, vgg, resnet in (
            ("centre", 69.6, 69.6),
            ("gradient", 76.3, 72.3),
            ("deconvnet", 67.5, 68.6),
            ("guided backprop", 75.9, 77.2),
            ("excitation backprop", 77.1, 84.5),
            ("contrastive excitation backprop", 79.9, 90.7),
            ("RISE", 86.9, 86.4),
            ("Grad-CAM", 86.6, 90.4),
            ("extremal perturbation", 88.0, 88.9),
        )
    },
    # docs/ICCV_XRAI_Poster.pdf of github.com/PAIR-code/saliency.
    "Performance information curves": {
        row: {"ResNet-50-v2 SIC": sic, "ResNet-50-v2 AIC": aic, "Inception SIC": other, "Inception AIC": last}
        for row, sic, aic, other, last in (
            ("XRAI", 0.749, 0.728, 0.720, 0.727),
            ("Grad-CAM", 0.760, 0.727, 0.703, 0.724),
            ("IG (black and white)", 0.575, 0.579, 0.601, 0.634),
            ("IG (4 random)", 0.623, 0.636, 0.595, 0.638),
            ("IG (black)", 0.515, 0.527, 0.530, 0.576),
            ("gradient", 0.521, 0.532, 0.480, 0.543),
            ("gradient x input", 0.315, 0.392, 0.298, 0.409),
            ("edges", 0.473, 0.552, 0.403, 0.514),
            ("random", 0.445, 0.473, 0.278, 0.401),
        )
    },
    # README.md of github.com/frgfm/torch-cam.
    "Average drop": {
        row: {"ResNet-18 drop": a, "ResNet-18 increase": b, "MobileNetV3 drop": c, "MobileNetV3 increase": d}
        for row, a, b, c, d in (
            ("Grad-CAM", 0.2686, 0.2250, 0.2678, 0.3483),
            ("Grad-CAM++", 0.5271, 0.1962, 0.3182, 0.2535),
            ("Smooth Grad-CAM++", 0.2088, 0.2499, 0.2681, 0.2678),
            ("LayerCAM", 0.1712, 0.2819, 0.2526, 0.2882),
        )
    },
    # neurips_poster_2024.pdf of github.com/visinf/idsds, read off a figure to 0.005.
    "In-domain single deletion": {
        row: {"ResNet-50": resnet, "VGG-16": vgg, "ResNet-18": small, "ViT-B/16": vit}
        for row, resnet, vgg, small, vit in (
            ("IxG with SmoothGrad", -0.005, 0.03, 0.01, 0.00),
            ("IG with SmoothGrad", 0.05, 0.115, 0.10, None),
            ("IxG", 0.07, 0.15, 0.10, None),
            ("Smooth Grad-CAM++", 0.10, 0.31, 0.16, None),
            ("IG (uniform), magnitude", 0.125, 0.29, 0.16, 0.085),
            ("RISE", 0.13, 0.31, 0.20, 0.11),
            ("IG (zero)", 0.195, 0.39, 0.28, 0.135),
            ("Grad-CAM++", 0.21, 0.44, 0.25, None),
            ("Grad-CAM", 0.235, 0.545, 0.285, None),
            ("XGrad-CAM", 0.235, 0.575, 0.285, None),
            ("IG (uniform)", 0.255, 0.475, 0.355, 0.145),
        )
    },
    # data/df_pixelwise_*.csv of github.com/bluecher31/pixel-flipping, computed from them.
    "SRG": {
        row: dict(zip(("gradient", "gradient, noisy", "IG", "IG, noisy", "IxG", "LRP", "random"), values, strict=True))
        for row, *values in (
            ("constant 0, deletion", 0.135, 0.134, 0.067, 0.072, 0.086, 0.101, 0.110),
            ("constant 0, insertion", 0.372, 0.467, 0.099, 0.086, 0.094, 0.506, 0.121),
            ("constant 0, SRG", 0.237, 0.333, 0.032, 0.014, 0.009, 0.405, 0.011),
            ("training image, SRG", 0.214, 0.291, 0.017, 0.007, 0.001, 0.355, -0.004),
            ("histogram, SRG", 0.238, 0.336, 0.027, 0.018, 0.008, 0.410, 0.001),
            ("inpainting, deletion", 0.221, 0.180, 0.273, 0.309, 0.310, 0.150, 0.351),
            ("inpainting, SRG", 0.223, 0.323, 0.141, 0.073, 0.066, 0.367, -0.006),
            ("diffusion, deletion", 0.285, 0.223, 0.449, 0.484, 0.466, 0.178, 0.488),
            ("diffusion, SRG", 0.204, 0.299, 0.111, 0.031, 0.066, 0.357, -0.011),
        )
    },
}

# Abstract of Adebayo et al. 2018 and the notes of its repository; abstract of Sixt et al. 2020.
VERDICTS = {
    "gradient": "pass",
    "Grad-CAM": "pass",
    "DeepLIFT": "pass",
    "guided backprop": "fail",
    "guided Grad-CAM": "fail",
    "deconvnet": "fail",
    "excitation backprop": "fail",
    "LRP z+": "fail",
    "LRP alpha-beta": "fail",
}


def tables(section: str) -> list[list[list[str]]]:
    """Every table of a section of the page, a list of rows of cells, the header first."""
    body = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found: list[list[list[str]]] = [[]]
    for line in body.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[rows[0], *rows[2:]] for rows in found if rows]


@pytest.mark.parametrize("section", PUBLISHED)
def test_the_page_quotes_what_was_published(section: str) -> None:
    header, *rows = tables(section)[0]
    assert header[-1] == "ours"
    quoted = {row[0]: dict(zip(header[1:-1], row[1:-1], strict=True)) for row in rows}
    expected = PUBLISHED[section]
    assert list(quoted) == list(expected), "every row and none but these"
    for row, columns in expected.items():
        assert {name: None if cell == "" else float(cell) for name, cell in quoted[row].items()} == columns, row
    assert {row[-1] for row in rows} <= {"not run", "not made"}, "the data are not at hand"


def test_the_page_quotes_the_verdicts_that_were_published() -> None:
    header, *rows = tables("Sanity checks")[0]
    assert header[:2] == ["", "published"]
    assert {row[0]: row[1] for row in rows if row[1]} == VERDICTS


def test_what_the_page_says_of_the_numbers_follows_from_them() -> None:
    pointing = PUBLISHED["Pointing game"]
    assert [row for row, columns in pointing.items() if columns["VGG16"] < pointing["centre"]["VGG16"]] == ["deconvnet"]
    pic = PUBLISHED["Performance information curves"]
    paths = [pic[f"IG ({start})"] for start in ("black", "black and white", "4 random")]
    moved = [max(path[name] for path in paths) - min(path[name] for path in paths) for name in paths[0]]
    assert [round(each, 2) for each in moved] == [0.11, 0.11, 0.07, 0.06]
    assert all(pic["gradient x input"][name] < pic["edges"][name] for name in paths[0])
    srg = PUBLISHED["SRG"]
    assert min(srg["constant 0, deletion"].values()) == srg["constant 0, deletion"]["IG"]
    assert srg["constant 0, deletion"]["gradient"] > srg["constant 0, deletion"]["random"]
    of_srg = [columns for row, columns in srg.items() if row.endswith("SRG")]
    assert len(of_srg) == 5
    assert all(max(columns, key=columns.__getitem__) == "LRP" for columns in of_srg)
    assert max(abs(columns["random"]) for columns in of_srg) == 0.011
    inpainted = srg["inpainting, deletion"]
    assert inpainted["gradient"] < min(inpainted["IG"], inpainted["random"])
    for columns in of_srg:
        assert sorted(columns, key=columns.__getitem__)[:-4:-1] == ["LRP", "gradient, noisy", "gradient"]
    first, second = (PUBLISHED["RISE"][f"images {half}"] for half in ("0 to 4,999", "5,000 to 9,999"))
    assert [round(abs(first[name] - second[name]), 3) for name in first] == [0.005, 0.013]
    insertion, deletion, gain = (srg[f"constant 0, {name}"] for name in ("insertion", "deletion", "SRG"))
    for name in gain:
        assert insertion[name] - deletion[name] == pytest.approx(gain[name], abs=0.0011)
    idsds = PUBLISHED["In-domain single deletion"]
    for base, noisy in (("IxG", "IxG with SmoothGrad"), ("IG (zero)", "IG with SmoothGrad")):
        assert all(idsds[noisy][name] < idsds[base][name] for name in ("ResNet-50", "VGG-16", "ResNet-18"))


# The sweeps


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"hydra.searchpath=[file://{REPRODUCE}]", *overrides], return_hydra_config=True)


@cache
def swept(sweep: str) -> dict[str, list[str]]:
    """What a sweep takes for each of its choices."""
    params = composed(f"+sweeps={sweep}").hydra.sweeper.params
    return {str(name): value.split(",") for name, value in params.items()}


METRICS: dict[str, dict[str, Metric]] = {
    "average_drop": {"average_drop": AverageDrop()},
    "idsds": {"single_deletion_idsds": SingleDeletion(output="logit", baseline="zero")},
    "pic": {"pic": PIC(min_confidence=0.8, effort="source")},
    "pointing_game": {"pointing_game": PointingGame(tolerance=9)},
    "rise": {
        "deletion_rise": Deletion(baseline="zero", steps=28),
        "insertion_rise": Insertion(baseline="blur", steps=28),
    },
    "sanity": {"parameter_randomisation": ParameterRandomisation(stages=100)},
    # 15 fractions in equal ratios from 1 of 500 superpixels to all of them, and none.
    "srg": {
        "srg_blucher": SRG(
            baseline="zero", unit="slic500", steps=[0, *(round(500 ** (k / 14 - 1), 4) for k in range(14)), 1]
        )
    },
}
DATASETS = {
    "average_drop": {"n": None, "explain": "predicted"},
    "idsds": {"explain": "label", "baseline": "zero"},
    "pic": {"explain": "predicted", "baseline": "black"},
    "pointing_game": {"year": 2007, "split": "test", "mask": "box", "explain": "label", "n": 1000},
    "rise": {"explain": "predicted", "baseline": "zero"},
    "sanity": {"explain": "predicted"},
    "srg": {"n": 100, "explain": "label", "baseline": "zero"},
}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_is_the_protocol_that_the_page_describes(sweep: str) -> None:
    params = swept(sweep)
    config = composed(f"+sweeps={sweep}", f"datasets={params['datasets'][0]}")
    assert {name: build(settings) for name, settings in config.metrics.items()} == METRICS[sweep]
    options = OmegaConf.to_container(config.datasets, resolve=False)
    assert isinstance(options, dict)
    assert {name: options[name] for name in DATASETS[sweep]} == DATASETS[sweep]
    known = {field.name for field in fields(get_class(options.pop("_target_")))}
    assert set(options) <= known
    assert f"+sweeps={sweep}" in PAGE


def test_every_command_of_the_page_composes() -> None:
    start = "    python -m benchmark --config-dir conf/reproduce "
    commands = [line.removeprefix(start).split() for line in PAGE.splitlines() if line.startswith(start)]
    assert len(commands) >= 2 * len(SWEEPS)
    for words in commands:
        config = composed(*(word.split(",")[0] for word in words))  # of several methods the first
        assert set(config.metrics) == set(METRICS[words[0].removeprefix("+sweeps=")])
        if "datasets.root=DIR" in words:
            assert config.datasets.root == "DIR", "a root can be given, so the data set is not left to the sweep"


def test_every_imputer_that_srg_is_swept_over_is_a_baseline() -> None:
    for baseline in swept("srg")["metrics.srg_blucher.baseline"]:
        config = composed("+sweeps=srg", f"metrics.srg_blucher.baseline={baseline}")
        assert build(config.metrics.srg_blucher).baseline == baseline


def test_every_name_of_the_sweeps_exists_and_none_is_left_over() -> None:
    for group in ("models", "datasets", "methods"):
        named = {name for sweep in SWEEPS for name in swept(sweep)[group]}
        own = {path.stem for path in (REPRODUCE / group).glob("*.yaml")}
        assert own <= named
        assert named - own <= set(choices(group))
        assert not own & set(choices(group)), "a name that means two things"


def test_methods_have_the_options_of_their_sources() -> None:
    tunnel = {"noise": 0.21, "moment": "mean"}
    path = IntegratedGradients(steps=50)
    expected = {
        "rise_notebook": RISE(masks=5000, cells=10, keep=0.1),
        "rise_torchray": RISE(masks=8000, cells=7, keep=0.5),
        "rise_idsds": RISE(masks=1000, cells=8, keep=0.1),
        "extremal_perturbation_torchray": ExtremalPerturbation(areas=[0.025, 0.05, 0.1, 0.2]),
        "smooth_grad_cam_plus_plus_torch_cam": SmoothGradCAMPlusPlus(layer="block4", samples=4, noise=0.063),
        "integrated_gradients_50": path,
        "integrated_gradients_uniform_50": IntegratedGradients(steps=50, baseline="uniform"),
        "input_x_gradient_noisy_4": NoiseTunnel(InputXGradient(), samples=4, **tunnel),
        "integrated_gradients_noisy_4": NoiseTunnel(path, samples=4, **tunnel),
        "integrated_gradients_noisy_5": NoiseTunnel(path, samples=5, **tunnel),
        "saliency_noisy_5": NoiseTunnel(Saliency(), samples=5, **tunnel),
    }
    names = [path.stem for path in (REPRODUCE / "methods").glob("*.yaml")]
    assert {name: build(composed(f"methods={name}", "models.layer=block4").methods) for name in names} == expected


def test_noise_that_is_absolute_in_other_libraries() -> None:
    """Width 1 (captum) and 0.3 (torch-cam) as parts of the range from black to white in ImageNet's normalisation."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    span = float(((1 - mean) / std).max() - (-mean / std).min())
    assert span == pytest.approx(4.76, abs=0.01)
    assert 1 / span == pytest.approx(0.21, abs=0.001)
    assert 0.3 / span == pytest.approx(0.063, abs=0.001)


def test_networks_have_published_weights() -> None:
    import timm
    from torchvision import models as library

    for path in (REPRODUCE / "models").glob("*.yaml"):
        config = OmegaConf.to_container(composed(f"models={path.stem}").models, resolve=False)
        assert isinstance(config, dict)
        if config["_target_"].endswith("torchvision"):
            assert config["weights"] in library.get_model_weights(config["name"]).__members__, path
        elif config["_target_"].endswith("timm"):
            assert timm.get_pretrained_cfg(config["name"]).architecture == config["name"].split(".")[0]
        else:
            assert (path.stem, config["_target_"]) == ("caffe_voc", "???")


def run(folder: Path, *words: str) -> list[records.Record]:
    """Run a sweep of the page in `folder` and read what it leaves."""
    command = [sys.executable, "-m", "benchmark", "--config-dir", str(REPRODUCE), "tracking=none", "threads=1", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return list(records.read_all(folder / "results"))


def test_average_drop_runs_on_imagenette(tmp_path: Path) -> None:
    """The sweep as it is, on two photographs and with random weights."""
    from torchvision.models import mobilenet_v3_large

    synsets(tmp_path / "imagenette2" / "val", TENCH, SPRINGER, count=1)
    torch.manual_seed(0)
    torch.save(mobilenet_v3_large(weights=None).state_dict(), tmp_path / "weights.pt")
    found = run(
        tmp_path,
        *("+sweeps=average_drop", f"datasets.root={tmp_path}", "models=mobilenet_v3_large_v1"),
        "models.checkpoint=weights.pt",
    )
    assert sorted(record.cell.method.name for record in found) == sorted(swept("average_drop")["methods"])
    for record in found:
        assert sorted(set(record.rows["uid"])) == ["ILSVRC2012_val_00040001", "ILSVRC2012_val_00764001"]
        assert set(record.rows["measure"]) == {"drop", "increase", "gain"}
    constant = next(record.rows for record in found if record.cell.method.name == "constant")
    assert constant["value"].tolist() == [0.0] * 6, "all of the image is kept"


def test_the_pointing_game_runs_on_voc(tmp_path: Path) -> None:
    """The sweep as it is but for the passes a method may take, on three photographs and a network of two layers."""
    voc(tmp_path, year=2007)
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    (lists / "val.txt").rename(lists / "test.txt")
    (tmp_path / "my_models.py").write_text(
        "import torch\n\n\n"
        "def two_layers():\n"
        "    torch.manual_seed(0)\n"
        "    first = torch.nn.Conv2d(3, 8, 7, stride=8)\n"
        "    head = torch.nn.Linear(8, 20)\n"
        "    pool = torch.nn.AdaptiveAvgPool2d(1)\n"
        "    return torch.nn.Sequential(first, torch.nn.ReLU(), pool, torch.nn.Flatten(), head)\n"
    )
    found = run(
        tmp_path,
        *("+sweeps=pointing_game", f"datasets.root={tmp_path}", "models._target_=my_models.two_layers", "budget=16"),
    )
    assert sorted(record.cell.method.name for record in found) == sorted(swept("pointing_game")["methods"])
    listed = {"2007_000001/dog", "2007_000001/sofa", "2007_000002/dog", "2007_000003/person"}
    for record in found:
        assert set(record.rows["uid"]) == listed, "the cat is difficult"
    centre = next(record.rows for record in found if record.cell.method.name == "centre_prior")
    hits = dict(zip(centre["uid"], centre["value"], strict=True))
    # Of 40 x 30 pixels, enlarged by 224 / 30 and cut to the middle, the centre is at row 15 and column 20: on the sofa,
    # which is everywhere; the first dog ends there; the second dog and the person are far away.
    assert hits == {"2007_000001/dog": 1.0, "2007_000001/sofa": 1.0, "2007_000002/dog": 0.0, "2007_000003/person": 0.0}


def test_weights_as_the_authors_of_idsds_file_them_are_read(tmp_path: Path) -> None:
    """Behind `module.model.`, beside the optimiser and counters, as their script saves them."""
    from torchvision.models import resnet18

    from benchmark.checkpoints import load

    network = resnet18(weights=None)
    state = {f"module.model.{name}": value for name, value in network.state_dict().items()}
    kept = {"epoch": 30, "arch": "resnet18", "state_dict": state, "best_acc1": torch.tensor(0.7)}
    kept["optimizer"] = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9).state_dict()
    torch.save(kept, tmp_path / "resnet18_checkpoint_best.pth.tar")
    other = resnet18(weights=None)
    load(other, str(tmp_path / "resnet18_checkpoint_best.pth.tar"))
    assert torch.equal(other.fc.weight, network.fc.weight)
