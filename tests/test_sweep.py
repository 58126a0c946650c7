"""The sweep as a user runs it: narrow, broken, interrupted, twice at once, extended by a plug-in of one's own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from benchmark import records
from benchmark.__main__ import _per_job

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("models=small_cnn", "datasets=digits", "datasets.n=6", "tracking=none", "threads=1")
QUICK = "metrics=[deletion,insertion,srg,completeness,pointing_game]"

README = (ROOT / "README.md").read_text()


def from_readme(name: str) -> str:
    """The code block of the README that is to be the file `name`."""
    found = re.search(rf"```python\n(# {re.escape(name)}\n.*?)```", README, re.DOTALL)
    assert found, name
    return found.group(1)


BROKEN_METHODS = """
import torch
from benchmark.protocols import Method

class Raises(Method):
    def attribute(self, model, batch):
        raise ValueError("nothing works today")

class AllNaN(Method):
    def attribute(self, model, batch):
        return torch.full_like(batch.inputs, float("nan"))

class Partly(Method):
    def attribute(self, model, batch):
        maps = batch.inputs.clone()
        maps[0] = float("nan")
        return maps

class WrongShape(Method):
    def attribute(self, model, batch):
        return torch.zeros(3)

class Trains(Method):
    def attribute(self, model, batch):
        model.train()
        for parameter in model.parameters():
            parameter.add_(1)
        return batch.inputs
"""


def benchmark(
    *arguments: str, folder: Path, module: str = "benchmark", **environment: str
) -> subprocess.CompletedProcess:
    """Run `python -m benchmark` in `folder`, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def parquets(root: Path) -> dict[str, float]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in (root / "records").rglob("*.parquet")}


def quality(root: Path) -> bytes:
    return (root / "tables" / "leaderboard.csv").read_bytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """The folder of an uninterrupted sweep."""
    folder = tmp_path_factory.mktemp("reference")
    done = benchmark(*SMALL, QUICK, "methods=saliency,smoothgrad,random", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results"


def test_what_a_sweep_leaves(reference: Path) -> None:
    found = list(records.read_all(reference))
    assert len(found) == 3 * 5
    for record in found:
        rows = record.rows
        assert rows["uid"].nunique() == 6
        assert set(rows["status"]) <= set(records.STATUSES)
        assert rows.loc[rows["status"] != "ok", "value"].isna().all()
        assert {"torch", "device", "commit", "created"} <= set(record.facts["environment"])
    by_metric = {record.cell.metric.name: record for record in found if record.cell.method.name == "saliency"}
    assert by_metric["deletion"].facts["forwards"] == 6 * 31
    assert by_metric["srg"].facts["forwards"] == 0
    assert by_metric["completeness"].facts["reason"]
    values = {name: record.rows["value"].to_numpy() for name, record in by_metric.items()}
    assert values["srg"] == pytest.approx(values["insertion"] - values["deletion"], abs=1e-15)
    figures = [path.name for path in (reference / "figures").iterdir()]
    assert {name.rpartition("-")[2] for name in figures} == {"heat_maps.png", "curves.png"}
    assert len({name.rpartition("-")[0] for name in figures}) == 1
    assert all(name.startswith("small_cnn-digits-") for name in figures)
    assert (reference / "tables" / "leaderboard.md").exists()


def test_second_run_computes_nothing(reference: Path) -> None:
    before, table = parquets(reference), quality(reference)
    done = benchmark(*SMALL, QUICK, "methods=saliency,smoothgrad,random", folder=reference.parent)
    assert done.returncode == 0, done.stderr
    assert "5 filed" in done.stderr
    assert parquets(reference) == before
    assert quality(reference) == table
    again = benchmark("results", folder=reference.parent, module="benchmark.leaderboard")
    assert again.returncode == 0
    assert "saliency" in again.stdout
    assert quality(reference) == table


def test_killed_and_resumed_is_equal_digit_by_digit(reference: Path, tmp_path: Path) -> None:
    arguments = [*SMALL, QUICK, "methods=saliency,smoothgrad,random"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "benchmark", *arguments],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    root = tmp_path / "results"
    deadline = time.monotonic() + 120
    while len(parquets(root)) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    before = parquets(root)
    assert 3 <= len(before) < 15
    list(records.read_all(root))
    done = benchmark(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    after = parquets(root)
    assert {path: after[path] for path in before} == before
    assert quality(root) == quality(reference)


def test_two_processes_on_one_folder(reference: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmark", *SMALL, QUICK, "methods=saliency,smoothgrad,random"]
    sweeps = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in "ab"]
    for sweep in sweeps:
        _, errors = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, errors.decode()
    assert quality(tmp_path / "results") == quality(reference)
    assert not list(tmp_path.rglob(".*.parquet*"))


def test_own_method_computes_its_own_cells_alone(reference: Path, tmp_path: Path) -> None:
    """The README's ten lines and its command, from a folder outside the repository."""
    command = "methods=custom methods._target_=my_methods.GradientTimesDifference"
    assert f"python -m benchmark {command}" in README
    (tmp_path / "my_methods.py").write_text(from_readme("my_methods.py"))
    before = parquets(reference)
    own = [*SMALL, QUICK, f"results={reference}", *command.split()]
    done = benchmark(*own, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    after = parquets(reference)
    assert {path: after[path] for path in before} == before
    new = [records.read(reference / path) for path in after if path not in before]
    assert len(new) == 5
    assert {record.cell.method.name for record in new} == {"gradient_times_difference"}
    assert new[0].cell.method.params == {}
    assert "gradient_times_difference" in done.stdout
    assert "smoothgrad" in done.stdout
    (tmp_path / "my_methods.py").write_text(from_readme("my_methods.py") + "\n# edited\n")
    assert benchmark(*own, folder=tmp_path).returncode == 0
    assert len(parquets(reference)) == len(after) + 5
    for path in set(parquets(reference)) - set(before):
        (reference / path).unlink()


def test_own_metric(tmp_path: Path) -> None:
    assert "python -m benchmark 'metrics=[custom]' metrics.custom._target_=my_metrics.Peak" in README
    (tmp_path / "my_metrics.py").write_text(from_readme("my_metrics.py"))
    own = ["metrics=[custom]", "metrics.custom._target_=my_metrics.Peak"]
    done = benchmark(*SMALL, "methods=saliency,constant", *own, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "results" / "tables" / "leaderboard.csv")
    values = table.set_index("method")["mean"]
    assert values["constant"] == pytest.approx(1 / (32 * 32), rel=1e-5)
    assert values["saliency"] > values["constant"]


def test_a_broken_method_costs_its_own_cells(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN_METHODS)
    reasons = {
        "Raises": "ValueError: nothing works today",
        "AllNaN": "returned NaN or infinity in all of 6 maps",
        "WrongShape": r"returned a map of shape (3,), expected (6, 1, 32, 32)",
        "Trains": "it changed the model's weights or modules",
    }
    classes = ",".join(f"broken.{name}" for name in [*reasons, "Partly"])
    done = benchmark(*SMALL, "metrics=[deletion]", "methods=custom", f"methods._target_={classes}", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for reason in reasons.values():
        assert reason in done.stderr
        assert reason in done.stdout
    assert "4 of 5 cells have no record" in done.stderr
    found = list(records.read_all(tmp_path / "results"))
    assert [record.cell.method.name for record in found] == ["partly"]
    assert found[0].rows["status"].tolist() == ["invalid"] + ["ok"] * 5
    assert "5/6" in done.stdout
    assert len(list(records.read_errors(tmp_path / "results"))) == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["methods=gradcam"], "methods=gradcam does not exist; did you mean grad_cam?"),
        (["metrics=[deletion,insertoin]"], "metrics=insertoin does not exist; did you mean insertion?"),
        (["+sweeps=imagenet"], "sweeps=imagenet does not exist"),
        (["datasets=folder", "datasets.root=/nowhere/at/all", "models=small_cnn"], "/nowhere/at/all"),
        (["datasets=pets"], "datasets.root is missing: the folder below which the files of the data set lie"),
        (["datasets=medmnist", "datasets.root=/tmp"], "datasets.kind is missing: pathmnist, dermamnist, octmnist"),
        (["models=timm"], "models.name is missing: which network, as in `timm.list_models()`"),
        (["datasets=photos", "models=small_cnn"], "small_cnn"),
        (["methods=grad_cam", "models=small_cnn", "models.layer=layer9"], "layer9"),
        (
            ["methods=grad_cam", "methods.layers=x"],
            "methods.layers is no option of methods=grad_cam: see conf/methods/",
        ),
        (["datasets=voc,shapes", "datasets.root=/tmp"], "datasets.root is no option of datasets=shapes: see"),
        (["metrics.deletion.patch=2"], "metrics.deletion.patch is no option of what was chosen"),
        (["models=timm", "models.name=resnet5000", "datasets=shapes"], "resnet5000"),
        (["models=timm", "models.name=test_resnet", "datasets=photos"], "models.checkpoint"),
        (["methods=custom", "datasets=shapes"], "methods._target_=my_module.MyClass"),
        (["methods=custom", "methods._target_=os.system"], "os.system"),
        (["device=cuda:77", "methods=saliency"], "device=cuda:77"),
        (["tracking=wandb", "tracking.mode=sometimes", "methods=random"], "sometimes"),
    ],
)
def test_a_mistake_gets_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    settings = ["datasets.n=2", "metrics=[deletion]", "models=small_cnn", "datasets=digits", "methods=saliency"]
    given = {argument.split("=")[0].lstrip("+") for argument in arguments}
    done = benchmark(
        *[setting for setting in settings if setting.split("=")[0] not in given], *arguments, folder=tmp_path
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any(sentence in line for line in lines), done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) <= 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("datasets=mnist,folder datasets.root=/a/b", "datasets=mnist,folder datasets.root=choice(/a/b)"),
        ("methods=glob(*grad*) methods.samples=8", "methods=glob(*grad*) methods.samples=choice(8)"),
        ("datasets=mnist,folder datasets.n=4,8 datasets.root='a b'", None),
        ("datasets=mnist datasets.root=/a", "datasets=mnist datasets.root=/a"),
        ("models=a,b datasets.root=/a +datasets.x=1 metrics=[srg,road]", None),
        ("--config-dir=x=y models=a,b models.size=[3,8,8]", "--config-dir=x=y models=a,b models.size=choice([3,8,8])"),
    ],
)
def test_options_of_swept_choices_wait_for_each_job(given: str, expected: str | None) -> None:
    """The default choice need not have them; nothing else is touched."""
    expected = expected or given.replace("datasets.root='a b'", "datasets.root=choice('a b')")
    assert _per_job(re.split(r" (?!b')", given)) == re.split(r" (?!b')", expected)


def test_one_option_for_several_data_sets(tmp_path: Path) -> None:
    """The default data set has no root; a name that no data set has is still a mistake."""
    settings = ("models=small_cnn", "models.dataset=shapes", "datasets=folder,csv", "methods=random")
    done = benchmark(*settings, "datasets.root=/nowhere/at/all", folder=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: datasets.root=/nowhere/at/all")]
    assert len(lines) == 2
    done = benchmark(*settings, "datasets.rot=/nowhere/at/all", folder=tmp_path)
    assert "datasets.rot is no option of datasets=folder and datasets=csv: see conf/datasets/" in done.stderr


def test_help_says_what_can_be_chosen(tmp_path: Path) -> None:
    started = time.monotonic()
    done = benchmark("--help", folder=tmp_path)
    assert done.returncode == 0
    for word in ("integrated_gradients", "small_vit", "photos", "srg", "wandb", "results"):
        assert word in done.stdout
    assert time.monotonic() - started < 5, "the help page must not import torch"


def test_foreign_package_in_our_place(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "__init__.py").write_text("")
    done = benchmark(*SMALL, QUICK, "methods=random", folder=tmp_path)
    assert done.returncode != 0
    assert "Python finds the package metrics at" in done.stderr
