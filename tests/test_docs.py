"""The pages: every command on them runs in a shortened form, every file they show works, and the site builds."""

from __future__ import annotations

import html
import importlib
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from PIL import Image

from benchmark import choices, plugins, run
from benchmark.__main__ import main as sweep
from benchmark.choices import CONF
from tests.test_real_datasets import cub, pets, voc

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

_COMMAND = re.compile(r"^(?:\$ )?((?:python|make|pip|wandb) .+)$")
_BLOCK = re.compile(r"^```(?:sh|bash|shell|console)?\n(?!#!)(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:python -m|python tests/|make|pip install|wandb) [^`]+)`")


def commands() -> dict[str, list[str]]:
    """Every command of the pages, without its comment, and the pages that have it."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = [line for block in _BLOCK.findall(text) for line in block.splitlines()]
        blocks += [line for line in text.splitlines() if line.startswith("    ")]
        lines = [match[1] for line in blocks if (match := _COMMAND.match(line.strip()))]
        lines += [" ".join(code.split()) for code in _INLINE.findall(text)]
        for line in lines:
            for part in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
                found.setdefault(part, []).append(page.name)
    return found


COMMANDS = {command: pages for command, pages in commands().items() if not command.startswith(". ")}


# --- how a command is shortened ---

TIMM = "models.name=test_resnet"
TORCHVISION = "models.name=squeezenet1_1 models.checkpoint=torchvision.pt"
STAND_INS = {
    # Networks with random weights in place of those that have to be fetched, of the same library.
    r"models\.name=resnet50 models\.checkpoint=FILE models\.classes": f"{TIMM} models.checkpoint=ten.pt models.classes",
    r"models\.name=resnet50\.a1_in1k": f"{TIMM} models.checkpoint=timm.pt",
    r"models=torchvision models\.name=resnet50 models\.checkpoint=FILE": f"models=torchvision {TORCHVISION}",
    r"models=torchvision models\.name=resnet50$": f"models=torchvision {TORCHVISION}",
    r"models=efficientnet_lite0": "models=custom models._target_=my_models.build models.size=[3,64,64]",
    # A file that the reader is asked to add to conf/.
    r"methods=my_method": "methods=saliency",
    r" my_method ": " saliency ",
    # Without a key nothing can be sent.
    r"tracking\.mode=online": "tracking.mode=disabled",
    # Fewer images, passes, rows and methods.
    r"datasets\.n=\d+": "datasets.n=2",
    r"--rows \d+": "--rows 2",
    r"methods=all": "methods=saliency,random",
    r"methods\.masks=1000": "methods.masks=4",
    r"\bbudget=\d+": "budget=2",
    r"metrics\.srg\.steps=100": "metrics.srg.steps=4",
    r"steps=8,16,64": "steps=1,2",
    r"samples=4,16": "samples=1,2",
    r"benchmark\.explain (?!--help)": "benchmark.explain threads=1 budget=2 ",
    r"(\+sweeps=baselines)": r"\1 metrics.srg.baseline=zero,nli",
    r"(\+sweeps=photos)": r"\1 metrics=[deletion] metrics.deletion.steps=2",
    r"(\+sweeps=shortcuts)": r"\1 models.trained=rho1",
    r"(benchmark\.certify)$": r"\1 sparseness",
    r"(benchmark\.train \w+) shapes": r"\1 digits --steps 1 --out weights.safetensors",
    r"(benchmark\.verify [\w/-]+)$": r"\1 --rows 2",
    r"--images 12": "--images 1",
}
"""What is put in place of what, each at least once."""


def shortened(command: str) -> str:
    for pattern, instead in STAND_INS.items():
        command = re.sub(pattern, instead, command)
    words = shlex.split(command)
    if words[:3] == ["python", "-m", "benchmark"] and "--help" not in words:
        words[3:] = of_sweep(words[3:])
    return shlex.join(words)


def of_sweep(words: Sequence[str]) -> list[str]:
    """Arguments of `python -m benchmark`, with what makes it small where they leave it open."""
    if "--config-dir" in words and "datasets.root=DIR" in words:
        return list(words)  # composed and not run
    given = {word.lstrip("+").partition("=")[0] for word in words}
    named = next((word.removeprefix("+sweeps=") for word in words if word.startswith("+sweeps=")), None)
    more = ["threads=1"]
    if "datasets.n" not in given:
        more.append("datasets.n=2")
    if "budget" not in given:
        more.append("budget=4")
    if "methods" not in given:
        more.append("methods=saliency")
    if named is None:
        more += [setting for setting in ("models=small_cnn", "datasets=digits") if setting.split("=")[0] not in given]
    if named in (None, "suite", "zoo", "digits", "truth") and not any(each.startswith("metrics") for each in given):
        more += ["metrics=[deletion]", "metrics.deletion.steps=2"]
    if not {"tracking", "tracking.mode"} & given:
        more.append("tracking=none")
    return [*words, *more]


# --- what the commands are run on ---


def page_files() -> dict[str, str]:
    """Files that a reader is asked to write: code blocks with `# name` in their first line, alike wherever they are."""
    found: dict[str, str] = {}
    for page in [ROOT / "README.md", *sorted(DOCS.glob("own_*.md"))]:
        for block in re.findall(r"```\w+\n(# [\w.]+\n.*?)```", page.read_text(), re.DOTALL):
            first, _, rest = block.partition("\n")
            name = first[2:]
            text = block if name.endswith(".py") else rest
            assert found.setdefault(name, text) == text, f"two pages show another {name}"
    return found


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every name that the pages use is there: DIR, FILE, photo.jpg, results, ..."""
    folder = tmp_path_factory.mktemp("workshop")
    for name, text in page_files().items():
        (folder / name).write_text(text)
    with tarfile.open(ROOT / "results" / "published" / "shortcuts.tar.xz") as archive:
        few = [each for each in archive.getmembers() if {"saliency", "occlusion", "random"} & set(each.name.split("/"))]
        archive.extractall(folder, few, filter="data")
    (folder / "shortcuts").rename(folder / "RESULTS")
    shutil.copytree(folder / "RESULTS", folder / "SHORTCUTS")
    for number, name in enumerate(("cats/1.jpg", "dogs/1.jpg")):
        image = np.random.default_rng(number).integers(0, 255, (120, 160, 3), np.uint8)
        for place in (folder / name, folder / "DIR" / name):
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    shutil.copy(folder / "cats/1.jpg", folder / "photo.jpg")
    (folder / "FOLDER").mkdir()
    shutil.copy(folder / "cats/1.jpg", folder / "FOLDER")
    voc(folder / "DIR")
    cub(folder / "DIR")
    pets(folder / "DIR")
    networks(folder)
    (folder / "conf").symlink_to(CONF)
    with pytest.MonkeyPatch.context() as patch:
        entered(folder, patch)
        known = "occlusion,rise,saliency,grad_cam,integrated_gradients,random,custom"
        words = [f"methods={known}", "metrics=[srg,pointing_game]", "datasets=shapes", "datasets.n=4", "budget=8"]
        own = "+methods._target_=my_methods.GradientTimesDifference"
        for methods in (words[0].removesuffix(",custom"), "methods=custom"):
            more = [own.lstrip("+")] if methods == "methods=custom" else []
            swept([methods, *words[1:], *more, "models=small_cnn", "tracking=none", "threads=1"], patch)
        for name in ("SUBMISSION", "submissions/some-lab-2026-03"):
            assert importlib.import_module("benchmark.merge").main(["results", "--out", name]) == 0
    for name in ("DIR", "OTHER", "machine1", "machine2", "mine", "shared", "all", "submissions/baselines"):
        shutil.copytree(folder / "results" / "records", folder / name / "records")
    return folder


def networks(folder: Path) -> None:
    """Weights, programs and a folder of the hub, all of random networks."""
    import timm
    import torchvision

    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=1000).state_dict(), folder / "timm.pt")
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), folder / "ten.pt")
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), folder / "torchvision.pt")
    build = runpy.run_path(str(folder / "my_models.py"))["build"]
    network = build().eval()
    torch.save(network.state_dict(), folder / "FILE")
    example = (torch.rand(2, 3, 64, 64),)
    program = torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, folder / "net.pt2")
    import transformers

    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 32}
    config = transformers.ViTConfig(**shape, image_size=32, patch_size=8, id2label={0: "cat", 1: "dog"})
    transformers.ViTForImageClassification(config).save_pretrained(folder / "FOLDER")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "FOLDER")


def entered(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Be in `folder` as a user is who types a command there."""
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.startswith("my_")]:
        patch.delitem(sys.modules, name)


def swept(words: Sequence[str], patch: pytest.MonkeyPatch) -> int:
    """`python -m benchmark` in this process: a sweep of its own, and no state of torch is left changed."""
    patch.setattr(run, "SWEEP", run.Sweep())
    patch.setattr(sys, "argv", ["benchmark"])
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    try:
        return sweep(list(words))
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic = deterministic


# --- running them ---


@pytest.fixture
def here(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workshop that one command may change."""
    folder = tmp_path / "here"
    shutil.copytree(workshop, folder, symlinks=True, copy_function=os.link)  # files are written whole, so links do
    entered(folder, monkeypatch)
    return folder


@pytest.mark.parametrize("command", dict.fromkeys(map(shortened, COMMANDS)), ids=str)
def test_a_command_runs(command: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    program, *words = shlex.split(command)
    RUNNERS[program](words, monkeypatch)


def of_python(words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    if words[0] != "-m":
        script = ROOT / words[0]
        assert callable(runpy.run_path(str(script))["main"])  # it takes minutes, see LONG
        return
    module, *arguments = words[1:]
    if module in ("venv", "http.server"):
        assert importlib.util.find_spec(module)
    elif module == "pytest":
        markers = {line.split(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
        assert set(arguments) - {"-m"} <= markers
    elif module == "tests.parity":
        assert (ROOT / "tests" / "parity" / "__main__.py").exists()
        assert (ROOT / arguments[0]).exists()
    elif module == "benchmark":
        of_benchmark(arguments, patch)
    else:
        of_module(module, arguments, patch)


def of_benchmark(words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    if "--config-dir" in words and "datasets.root=DIR" in words:
        composed(words)
    else:
        assert swept(words, patch) == 0


def composed(words: Sequence[str]) -> None:
    """A sweep over data and weights that have to be fetched: composed, and what can be is built."""
    place = words.index("--config-dir")
    path = f"hydra.searchpath=[file://{Path(words[place + 1]).resolve()}]"
    chosen = [*words[:place], *words[place + 2 :]]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [path, *(word.split(",")[0] for word in chosen), "models.layer=x"])
        assert config.datasets.root == "DIR"
        plugins.build(config.methods)
        assert [plugins.build(metric).measures for metric in config.metrics.values()]


def of_module(module: str, arguments: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """`python -m benchmark.MODULE`; a mention of it without what it cannot do without is tried with --help."""
    main = importlib.import_module(module).main
    needs = {"benchmark.compare", "benchmark.merge", "benchmark.verify", "benchmark.report", "benchmark.explain"}
    if "--help" in arguments or (module in needs and not arguments):
        arguments = ["--help"]
    for word, value in pairwise(arguments):
        if word == "--out" and Path(value).is_dir():
            shutil.rmtree(value)
    patch.setattr(sys, "argv", [module, *arguments])
    try:
        code = main() if module == "benchmark.train" else main(list(arguments))
    except SystemExit as end:
        code = end.code
    assert not code


def of_make(words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    for target in words:
        command = ["make", "--no-print-directory", "--dry-run", "--assume-old=.venv/ready", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.startswith((".venv/", "NO_MKDOCS")), done.stdout + done.stderr


def of_pip(words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    assert words[0] == "install"
    project = PROJECT["project"]
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word == "-r":
            assert (ROOT / value).exists()
        elif word == "-e":
            extras = re.fullmatch(r"\.\[(\w+)\]", value)
            assert extras
            assert extras[1] in project["optional-dependencies"]


def of_wandb(words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    from wandb.cli.cli import cli

    assert words[0] in cli.commands
    if len(words) > 1:
        # Where the sweep of the workshop would leave its runs: tests/test_tracking.py reads them there.
        assert words[1:] == ["results/wandb/offline-run-*"]


LONG = (
    "make docs",
    "make gallery",
    "make bench",
    "python -m benchmark.certify",
    "python -m tests.parity docs/parity.md",
    "python tests/mutants.py docs/mutants.md",
    "python -m benchmark +sweeps=suite",
    "python -m benchmark +sweeps=zoo budget=64",
    "python -m benchmark +sweeps=photos",
)
"""Commands that nothing is left of when they are shortened: sweeps of their own choices, and what takes minutes."""


@pytest.mark.slow
@pytest.mark.parametrize("command", LONG, ids=str)
def test_a_long_command_runs(command: str, tmp_path: Path) -> None:
    """As it stands, in a copy of the project, but for the images of a sweep."""
    assert command in COMMANDS
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "results", "__pycache__"))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    program, *words = shlex.split(command)
    if words[:2] == ["-m", "benchmark"]:
        words += ["datasets.n=2", "tracking=none"]
    line = [sys.executable, *words] if program == "python" else [program, "--assume-old=.venv/ready", *words]
    done = subprocess.run(line, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


RUNNERS = {"python": of_python, "make": of_make, "pip": of_pip, "wandb": of_wandb}


def test_every_stand_in_is_needed() -> None:
    """What is replaced in no command any more goes."""
    remaining = dict.fromkeys(COMMANDS)
    for pattern, instead in STAND_INS.items():
        after = {re.sub(pattern, instead, command): None for command in remaining}
        assert after != remaining, f"{pattern} stands in no page"
        remaining = after


def test_commands_are_found_wherever_they_stand() -> None:
    assert len(COMMANDS) > 100
    assert "python -m benchmark" in COMMANDS
    joined = "python -m benchmark.leaderboard results --model small_cnn --dataset shapes --metric srg,deletion --method"
    assert any(command.startswith(joined) for command in COMMANDS), "of two lines, joined by a backslash"
    assert "python -m http.server --directory build/site" in COMMANDS, "inside a sentence"
    assert not any("$" in command for command in COMMANDS), "a script is no command"


# --- the rest of the pages ---


def test_code_of_a_notebook_runs(here: Path) -> None:
    """The block of docs/explaining.md that is no file."""
    (code,) = re.findall(r"```python\n(from .*?)```", (DOCS / "explaining.md").read_text(), re.DOTALL)
    code = code.replace('"target=tabby"', '"target=tabby", "budget=2", "threads=1"')
    names: dict[str, object] = {}
    exec(code, names)
    found = names["found"]
    assert found.maps["grad_cam"].shape == (1, 1, 224, 224)
    assert found.probabilities.shape == (1, 1000)
    assert found.targets.shape == (1,)


def test_jobs_of_a_cluster(workshop: Path, tmp_path: Path) -> None:
    """Each job of the array has a method of its own, and they are as many as the array."""
    (script,) = re.findall(r"```sh\n(.*?)```", (DOCS / "cluster.md").read_text(), re.DOTALL)
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    last = int(re.search(r"--array=0-(\d+)", script)[1])
    printed = []
    for task in range(last + 1):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(task)}
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
        printed.append(done.stdout.split())
    methods = [word.removeprefix("methods=") for words in printed for word in words if word.startswith("methods=")]
    assert len(set(methods)) == last + 1
    assert set(methods) <= set(choices.choices("methods"))
    assert {" ".join(words).replace(method, "M") for words, method in zip(printed, methods, strict=True)} == {
        "-m benchmark methods=M results=shared tracking=none"
    }


def test_the_first_table_is_that_of_the_repository() -> None:
    cell = r" ([\d.-]+) \[([\d., -]+)\] (\w+) \|"
    rows = re.findall(rf"^\| (\w+) \|{cell}{cell}$", (DOCS / "start.md").read_text(), re.MULTILINE)
    assert len(rows) == 6
    table = pd.read_csv(ROOT / "results" / "tables" / "leaderboard.csv")
    mine = table[(table["model"] == "small_cnn") & (table["dataset"] == "shapes")].set_index(["method", "column"])
    for method, *cells in rows:
        for column, (mean, interval, letters) in (("srg", cells[:3]), ("pointing_game", cells[3:])):
            row = mine.loc[(method, column)]
            assert float(mean) == pytest.approx(row["mean"], abs=5.1e-4), f"{method}, {column}: docs/start.md is older"
            assert [float(end) for end in interval.split(",")] == pytest.approx([row["low"], row["high"]], abs=5.1e-4)
            assert letters == row["letters"]


def test_peers_are_named_with_a_version_or_a_date() -> None:
    rows = re.findall(r"^\| \[([\w-]+)\]\(https://github.com/\S+\),? ([^|]+) \|", (DOCS / "peers.md").read_text(), re.M)
    assert len(rows) == 16
    assert all(re.fullmatch(r"[\d.]+|[A-Z]\w+ 20\d\d", version) for _, version in rows), rows


# --- the site ---


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: a dead link, or a page that is in no navigation, stops it."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "--site-dir", str(folder)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    built = {str(path.relative_to(site).with_suffix("")) for path in site.rglob("*.html")}
    assert built >= {page.stem for page in DOCS.glob("*.md")} | {"contributing", "changelog", "certificate"}
    assert not list(site.rglob("*.py")) + list(site.rglob("*.yml")), "sources of the site are no part of it"


def plain(text: str) -> str:
    """Text without marks of Markdown, on one line."""
    return " ".join(re.sub(r"[`*]", "", text).split())


@pytest.mark.parametrize("group", ["methods", "metrics", "datasets", "models", "sweeps"])
def test_every_file_of_conf_is_in_the_reference(group: str, site: Path) -> None:
    """Its name, its description, its yaml, and the docstring of its class."""
    page = plain(html.unescape(re.sub(r"<[^>]+>", "", (site / "reference" / f"{group}.html").read_text())))
    for folder in (CONF, CONF / "reproduce"):
        for name, what in choices.choices(group, [folder]).items():
            path = folder / group / f"{name}.yaml"
            assert plain(what) in page
            assert plain(path.read_text()) in page
            target = yaml.safe_load(path.read_text()).get("_target_", "???")
            if target == "???":
                continue
            assert plain(get_object(target).__doc__.split("\n\n")[0]) in page, target


def test_the_site_asks_no_other_host(site: Path) -> None:
    """Links may lead away; nothing is fetched from elsewhere to show a page."""
    fetched = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>|<link\b[^>]*//[^>]*>")
    for page in site.rglob("*.html"):
        found = [tag for tag in fetched.findall(page.read_text()) if 'rel="canonical"' not in tag]
        assert found == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_files_that_are_named_become_links(site: Path) -> None:
    concepts = (site / "concepts.html").read_text()
    assert '<a href="protocols.html">Protocols</a>' in concepts
    assert "<code>protocols.md</code>" not in concepts
    contributing = (site / "contributing.html").read_text()
    assert '<a href="submitting.html">Submit to a public leaderboard</a>' in contributing
