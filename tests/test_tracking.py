"""What W&B is told, read back from its offline files; no test here needs a network, a key or a terminal."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from benchmark import records
from benchmark.cells import Cell, Choice
from benchmark.errors import UserError
from benchmark.records import Record
from benchmark.tracking import NoTracking, WandbTracking, summary

SWEEP = "smoke 1"


def record(metric: str, family: str, rows: list[tuple[str, str, float, str]], method: str = "rise") -> Record:
    cell = Cell(
        Choice("small_cnn", {"width": 8}),
        Choice("shapes", {"n": 3}),
        Choice(method, {"masks": 40}, version="2"),
        Choice(metric, {"output": "prob", "steps": 10}, version="3"),
        seed=5,
    )
    frame = pd.DataFrame(
        [(uid, 1, measure, value, status, None) for uid, measure, value, status in rows], columns=records.SCHEMA.names
    )
    facts = {"measures": [], "family": family, "role": "method", "reason": None, "environment": {"torch": "2.0"}}
    return Record(cell, frame, facts)


def group(method: str = "rise") -> list[Record]:
    nan = float("nan")
    return [
        record(
            "deletion",
            "faithfulness",
            [("a", "deletion", 0.25, "ok"), ("b", "deletion", 0.5, "ok"), ("c", "deletion", 9.0, "invalid")],
            method,
        ),
        record(
            "infidelity",
            "faithfulness",
            [("a", "beta_1", 1.5, "ok"), ("a", "beta_optimal", nan, "degenerate")],
            method,
        ),
        record("throughput", "cost", [("-", "images_per_second", 80.0, "ok")], method),
    ]


# --- a reader of .wandb files: a log of blocks, as in LevelDB ---


def chunks(path: Path, block: int = 32768) -> Iterator[bytes]:
    """Each whole record of the log; a header is (crc, length, kind), kinds: 1 full, 2 first, 3 middle, 4 last."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = block - position % block
        if left < 7:
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        chunk = data[position + 7 : position + 7 + length]
        if len(chunk) < length:  # still being written
            return
        assert zlib.crc32(bytes([kind]) + chunk) == checksum
        position += 7 + length
        parts = chunk if kind in (1, 2) else parts + chunk
        if kind in (1, 4):
            yield parts


def read_run(path: Path) -> dict[str, Any]:
    """Config, summary, history, the run itself and, by type, the files of its artifacts; `ended` if it is whole."""
    from wandb.proto.wandb_internal_pb2 import Record as Message

    found: dict[str, Any] = {"config": {}, "summary": {}, "history": {}, "artifacts": {}, "ended": False}

    def take(into: dict[str, Any], items: Any) -> None:
        into |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    for chunk in chunks(path):
        message = Message()
        message.ParseFromString(chunk)
        kind = message.WhichOneof("record_type")
        if kind == "run":
            found["run"] = message.run
            take(found["config"], message.run.config.update)
        elif kind in ("config", "summary"):
            take(found[kind], getattr(message, kind).update)
        elif kind == "history":
            take(found["history"], message.history.item)
        elif kind == "artifact":
            files = [entry.path for entry in message.artifact.manifest.contents]
            assert all(Path(entry.local_path).is_absolute() for entry in message.artifact.manifest.contents)
            found["artifacts"].setdefault(message.artifact.type, []).extend(files)
        elif kind == "exit":
            found["ended"] = True
    return found


def runs(folder: Path) -> list[dict[str, Any]]:
    """All offline runs in `folder`. W&B writes the file some milliseconds after the run is finished: wait for it."""
    until = time.monotonic() + 10
    while True:
        found = [read_run(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
        if all(run["ended"] for run in found) or time.monotonic() > until:
            return found
        time.sleep(0.01)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who never logged in."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("NETRC", str(folder / "none"))
    return folder


# --- cell groups ---


def test_summary_is_the_mean_over_images_that_are_ok_and_counts_the_others() -> None:
    assert summary(group()) == {
        "faithfulness/deletion": 0.375,
        "faithfulness/deletion/n": 2,
        "faithfulness/deletion/invalid": 1,
        "faithfulness/infidelity.beta_1": 1.5,
        "faithfulness/infidelity.beta_1/n": 1,
        "faithfulness/infidelity.beta_optimal/n": 0,
        "faithfulness/infidelity.beta_optimal/degenerate": 1,
        "cost/throughput.images_per_second": 80.0,
        "cost/throughput.images_per_second/n": 1,
    }


def test_group_is_one_offline_run(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    WandbTracking().log_group(tmp_path / "runs", SWEEP, group())
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")
    (found,) = runs(tmp_path / "runs")
    run, config = found["run"], found["config"]
    assert (run.project, run.run_group, run.job_type) == ("assay", SWEEP, "cell")
    assert run.display_name == "small_cnn/shapes/rise"
    assert (config["model"], config["dataset"], config["method"]) == ("small_cnn", "shapes", "rise")
    assert config["params"] == {"model": {"width": 8}, "dataset": {"n": 3}, "method": {"masks": 40}}
    assert config["versions"] == {"model": "1", "dataset": "1", "method": "2"}
    assert config["metrics"]["deletion"] == {"output": "prob", "steps": 10, "version": "3"}
    assert (config["seed"], config["role"], config["sweep"]) == (5, "method", SWEEP)
    numbers = {key: value for key, value in found["summary"].items() if not key.startswith("_")}
    assert numbers == summary(group())


def test_run_is_named_by_what_was_scored(tmp_path: Path, home: Path) -> None:
    """The same group again is the same run; another method or sweep is another."""
    tracking, folder = WandbTracking(), tmp_path / "runs"
    for sweep, method in ((SWEEP, "rise"), (SWEEP, "rise"), (SWEEP, "saliency"), ("other", "rise")):
        tracking.log_group(folder, sweep, group(method))
    ids = {}
    for found in runs(folder):
        ids.setdefault((found["run"].run_group, found["config"]["method"]), set()).add(found["run"].run_id)
    assert len(ids) == 3
    assert all(len(found) == 1 for found in ids.values())
    assert len(set.union(*ids.values())) == 3


def test_run_of_the_user_stays_open(tmp_path: Path, home: Path) -> None:
    import wandb

    with wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True)) as mine:
        WandbTracking().log_group(tmp_path / "runs", SWEEP, group())
        assert wandb.run is mine
        mine.log({"still": "open"})
    (found,) = runs(tmp_path)
    assert found["history"]["still"] == "open"


# --- the leaderboard ---


def test_leaderboard_has_tables_figures_and_the_records(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    paths = [records.write(root, entry) for entry in group()]
    (root / "tables").mkdir()
    (root / "tables" / "leaderboard.md").write_text("| method |\n")
    picture = root / "figures" / "curves.png"
    picture.parent.mkdir()
    Figure(figsize=(1, 1)).savefig(picture)
    table = pd.DataFrame(
        {"method": ["rise", "random"], "srg": [np.float64(0.5), float("nan")], "rank": ["a", 2]},
        index=pd.Index(["m", "n"], name="model"),
    )
    here = Path(os.path.relpath(root))
    WandbTracking().log_leaderboard(tmp_path / "runs", SWEEP, group(), {"shapes": table}, [picture], here)

    assert capfd.readouterr() == ("", "")
    (found,) = runs(tmp_path / "runs")
    assert (found["run"].run_group, found["run"].job_type) == (SWEEP, "leaderboard")
    assert found["config"]["records"] == 3
    assert found["config"]["metrics"] == ["deletion", "infidelity", "throughput"]
    (shown,) = (tmp_path / "runs").glob("wandb/offline-run-*/files/media/table/tables/shapes_*.table.json")
    content = json.loads(shown.read_text())
    assert content["columns"] == ["model", "method", "srg", "rank"]
    assert content["data"] == [["m", "rise", 0.5, "a"], ["n", "random", None, 2]]
    (image,) = (tmp_path / "runs").glob("wandb/offline-run-*/files/media/images/figures/curves_*.png")
    assert image.read_bytes() == picture.read_bytes()
    files = {path.relative_to(root).as_posix() for path in paths} | {"tables/leaderboard.md"}
    assert set(found["artifacts"]["results"]) == files
    assert not list(home.rglob("staging"))


# --- modes and failures ---


@pytest.mark.parametrize("tracking", [NoTracking(), WandbTracking(mode="disabled")])
def test_nothing_is_written_when_nothing_is_tracked(tmp_path: Path, tracking: NoTracking | WandbTracking) -> None:
    folder = tmp_path / "runs"
    tracking.log_group(folder, SWEEP, group())
    tracking.log_leaderboard(folder, SWEEP, group(), {}, [], tmp_path)
    assert not folder.exists()


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"tracking.mode=on does not exist .* offline, online, disabled"):
        WandbTracking(mode="on")  # type: ignore[arg-type]


def test_online_without_a_key_is_refused_at_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    started = time.perf_counter()
    with pytest.raises(UserError, match=r"run `wandb login`, or use tracking.mode=offline"):
        WandbTracking(mode="online").log_group(tmp_path / "runs", SWEEP, group())
    assert time.perf_counter() - started < 5
    assert capfd.readouterr() == ("", "")


def test_failure_of_wandb_is_one_sentence(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def fail(**_: Any) -> None:
        raise RuntimeError("the service died\nTraceback ...")

    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", fail)
        with pytest.raises(UserError, match=r"\(try tracking=none\): the service died$"):
            WandbTracking().log_group(tmp_path / "runs", SWEEP, group())
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb, or use tracking=none"):
        WandbTracking().log_group(tmp_path / "runs", SWEEP, group())


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="W&B failed for small_cnn/shapes/rise"):
        WandbTracking().log_group(tmp_path / "file" / "runs", SWEEP, group())


def test_record_that_is_gone_fails_the_leaderboard_alone(tmp_path: Path, home: Path) -> None:
    with pytest.raises(UserError, match="W&B failed for leaderboard"):
        WandbTracking().log_leaderboard(tmp_path / "runs", SWEEP, group(), {}, [], tmp_path / "nowhere")
    WandbTracking().log_group(tmp_path / "runs", SWEEP, group())
    assert len(runs(tmp_path / "runs")) == 2


def test_import_brings_neither_wandb_nor_torch() -> None:
    code = (
        "import sys, benchmark.tracking, benchmark.figures; sys.exit(any(m in sys.modules for m in ('wandb', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
