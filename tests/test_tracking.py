"""What is shown of groups and sweeps, and what W&B is told: read back from its offline files, without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmark import leaderboard, overviews, records, report
from benchmark.agreement import agreement
from benchmark.cells import Cell, Choice
from benchmark.errors import UserError
from benchmark.frames import summarise, wide
from benchmark.page import results
from benchmark.records import Record
from benchmark.tracking import NoTracking, Picture, WandbTracking, sweep_name

NAN = float("nan")
ROOT = Path(__file__).resolve().parent.parent
Row = tuple[str, str, float, str, list[float] | None]


def record(
    metric: str, family: str, rows: list[Row], method: str = "rise", higher: bool = True, **other: Any
) -> Record:
    params = {"output": "prob", "steps": 2} | other.pop("params", {})
    cell = Cell(
        Choice("small_cnn", {"width": 8}),
        Choice(other.pop("dataset", "shapes"), {"n": 3}),
        Choice(method, {"masks": 40}, version="2"),
        Choice(metric, params, version="3"),
        seed=5,
        device="a CPU" if family == "cost" else None,
    )
    frame = pd.DataFrame(
        [(uid, 1, measure, value, status, curve) for uid, measure, value, status, curve in rows],
        columns=records.SCHEMA.names,
    )
    measures = [
        {
            "name": name,
            "higher_is_better": higher,
            "ranked": family != "cost",
            "unit": "",
            "range": [0, 1],
            "null": None,
        }
        for name in dict.fromkeys(frame["measure"])
    ]
    facts = {
        "measures": measures,
        "family": family,
        "role": other.pop("role", "method"),
        "method": {"passes": 40},
        "budget": 40,
        "reason": None,
        "seconds": 0.5,
        "forwards": 3,
        "backwards": 1,
        "environment": {"torch": "2.0", "commit": "abc"} | other.pop("environment", {}),
    }
    assert not other
    return Record(cell, frame, facts)


def group(method: str = "rise", dataset: str = "shapes") -> list[Record]:
    which: dict[str, Any] = {"method": method, "dataset": dataset}
    return [
        record(
            "deletion",
            "faithfulness",
            [
                ("a", "deletion", 0.25, "ok", [1.0, 0.25, 0.0]),
                ("b", "deletion", 0.5, "ok", [0.5, 0.75, 0.5]),
                ("c", "deletion", NAN, "invalid", None),
            ],
            higher=False,
            **which,
        ),
        record(
            "infidelity",
            "faithfulness",
            [("a", "beta_1", 1.5, "ok", None), ("a", "beta_optimal", NAN, "degenerate", None)],
            **which,
        ),
        record("throughput", "cost", [("-", "images_per_second", 80.0, "ok", [70.0, 90.0])], **which),
    ]


def no_pictures(count: int) -> list[Picture]:
    return []


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
    """Config, summary, history, the run itself and, by type, (name, files) of its artifacts; `ended` if it is whole."""
    from wandb.proto.wandb_internal_pb2 import Record as Message

    found: dict[str, Any] = {
        "config": {},
        "summary": {},
        "history": {},
        "artifacts": {},
        "kinds": set(),
        "ended": False,
    }

    def take(into: dict[str, Any], items: Any) -> None:
        into |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    for chunk in chunks(path):
        message = Message()
        message.ParseFromString(chunk)
        kind = message.WhichOneof("record_type")
        found["kinds"].add(kind)
        if kind == "run":
            found["run"] = message.run
            take(found["config"], message.run.config.update)
        elif kind in ("config", "summary"):
            take(found[kind], getattr(message, kind).update)
        elif kind == "history":
            take(found["history"], message.history.item)
        elif kind == "artifact":
            files = {entry.path: entry for entry in message.artifact.manifest.contents}
            assert all(Path(entry.local_path).is_absolute() for entry in files.values())
            found["artifacts"][message.artifact.type] = (message.artifact.name, files)
        elif kind == "exit":
            found["ended"] = True
    return found


def runs(folder: Path) -> list[dict[str, Any]]:
    """All offline runs in `folder`, in their order; waits, since W&B writes some time after a run is finished."""
    until = time.monotonic() + 10
    while True:
        folders = sorted(folder.glob("wandb/offline-run-*"), key=lambda path: (path.name[:27], path.stat().st_ctime_ns))
        files = [path for each in folders for path in each.glob("run-*.wandb")]
        found = [read_run(path) | {"folder": path.parent} for path in files]
        if (len(found) == len(folders) and all(run["ended"] for run in found)) or time.monotonic() > until:
            return found
        time.sleep(0.01)


def table(run: dict[str, Any], key: str) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table that a run logged."""
    content = json.loads((run["folder"] / "files" / run["history"][f"{key}/path"]).read_text())
    return content["columns"], content["data"]


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


def file_all(root: Path, *groups: list[Record]) -> list[Path]:
    """File the records, and a certificate that lets their metrics rank."""
    paths = [records.write(root, entry) for found in groups for entry in found]
    passed = {"version": "3", "checks": [{"passed": True}]}
    metrics = {entry.cell.metric.name: passed for found in groups for entry in found}
    (root / "certificate.json").write_text(json.dumps({"metrics": metrics}))
    return paths


def swept(root: Path) -> overviews.Sweep:
    tidy = leaderboard.tidy(root)
    return overviews.sweep(tidy, summarise(tidy))


# --- what there is to see of a group ---


def test_summary_is_that_of_the_tables(tmp_path: Path) -> None:
    """The mean over valid images by hand; everything else as the leaderboard of the whole folder says it."""
    found = overviews.group(group()).summary
    assert found["faithfulness/deletion"] == 0.375
    assert (found["faithfulness/deletion/n"], found["faithfulness/deletion/total"]) == (2, 3)
    assert found["faithfulness/deletion/invalid"] == 1
    assert found["faithfulness/deletion/low"] == 0.25
    assert found["faithfulness/deletion/high"] == 0.5
    assert found["faithfulness/infidelity.beta_1"] == 1.5
    assert "faithfulness/infidelity.beta_1/low" not in found, "one image has no interval"
    assert "faithfulness/infidelity.beta_optimal" not in found
    assert found["faithfulness/infidelity.beta_optimal/degenerate"] == 1
    assert found["cost/throughput.images_per_second"] == 80.0
    assert [found[f"scoring/{what}"] for what in ("seconds", "forwards", "backwards")] == [1.5, 9, 3]

    endless = record("auroc", "localisation", [(*"ab", float("inf"), "ok", None), ("c", "b", 0.5, "ok", None)])
    found = overviews.group([endless]).summary
    assert (found["localisation/auroc.b"], found["localisation/auroc.b/invalid"]) == (0.5, 1)

    random = np.random.default_rng(0)
    scored = [
        record("auroc", "localisation", [(str(i), "auroc", random.random(), "ok", None) for i in range(30)], method)
        for method in ("rise", "saliency")
    ]
    file_all(tmp_path, [*scored, *group()])
    for row in summarise(leaderboard.tidy(tmp_path)).query("column == 'auroc'").itertuples():
        (mine,) = [entry for entry in scored if entry.cell.method.name == row.method]
        summary = overviews.group([mine]).summary
        names = ("", "/low", "/high", "/n", "/total")
        expected = [row.mean, row.low, row.high, row.n, row.total]
        assert [summary[f"localisation/auroc{name}"] for name in names] == pytest.approx(expected, rel=1e-12)


def test_config_says_every_choice() -> None:
    fine = record("deletion", "faithfulness", [("a", "deletion", 0.5, "ok", None)], params={"steps": 9})
    other = record("auroc", "localisation", [("a", "auroc", 0.5, "ok", None)], environment={"commit": "def"})
    found = overviews.group([*group(), fine, other]).config
    assert (found["model"], found["dataset"], found["method"]) == ("small_cnn", "shapes", "rise")
    assert found["params"] == {"model": {"width": 8}, "dataset": {"n": 3}, "method": {"masks": 40}}
    assert found["versions"] == {"model": "1", "dataset": "1", "method": "2"}
    assert (found["seed"], found["budget"], found["role"], found["passes"]) == (5, 40, "method", 40)
    assert found["environment"] == {"torch": "2.0", "commit": ["abc", "def"]}
    assert found["metrics"]["deletion(steps=2)"] == {"output": "prob", "steps": 2, "version": "3"}
    assert found["metrics"]["deletion(steps=9)"] == {"output": "prob", "steps": 9, "version": "3"}
    assert json.dumps(found)


def test_curves_are_means_over_valid_images() -> None:
    parts = [("a", "insertion", 0.5, "ok", [1.0, 3.0]), ("b", "insertion", NAN, "degenerate", [9.0, 9.0])]
    more = record("srg", "faithfulness", parts)
    curves = overviews.group([*group(), more]).curves
    assert list(curves) == ["deletion", "srg.insertion"]
    assert list(curves["deletion"]) == ["fraction deleted", "mean", "low", "high"]
    np.testing.assert_allclose(curves["deletion"]["fraction deleted"], [0, 0.5, 1])
    np.testing.assert_allclose(curves["deletion"]["mean"], [0.75, 0.5, 0.25])
    np.testing.assert_allclose(curves["deletion"]["low"], [0.5, 0.25, 0.0])
    np.testing.assert_allclose(curves["deletion"]["high"], [1.0, 0.75, 0.5])
    assert curves["srg.insertion"]["fraction inserted"].tolist() == [0.0, 1.0]
    assert curves["srg.insertion"]["mean"].tolist() == [1.0, 3.0]


def test_points_of_curves_stand_where_the_listed_steps_are() -> None:
    rows = [("a", name, 0.5, "ok", [1.0, 0.5, 0.0]) for name in ("deletion", "insertion")]
    curves = overviews.group([record("srg", "faithfulness", rows, params={"steps": [0, 0.25, 1]})]).curves
    assert curves["srg.deletion"]["fraction deleted"].tolist() == [0, 0.25, 1]
    assert curves["srg.insertion"]["fraction inserted"].tolist() == [0, 0.75, 1]


# --- what there is to see of a sweep ---


def many(dataset: str = "shapes") -> list[list[Record]]:
    """Four methods and a null row: `one` and `two` rank them in opposite orders, `three` nearly as `one` does."""
    speeds = {"slow": 1.0, "middle": 10.0, "quick": 100.0, "worst": 5.0, "random": 1000.0}
    level = {"slow": 0.8, "middle": 0.6, "quick": 0.4, "worst": 0.2, "random": 0.1}
    draws = np.random.default_rng(1).normal(size=12) / 50
    found = []
    for method, speed in speeds.items():
        which: dict[str, Any] = {"role": "null" if method == "random" else "method", "dataset": dataset}
        one = [(f"i{i:02}", "one", level[method] + draw, "ok", None) for i, draw in enumerate(draws)]
        two = [(uid, "two", value, status, curve) for uid, _, value, status, curve in one]
        swapped = {"quick": "middle", "middle": "quick"}.get(method, method)
        three = [(f"i{i:02}", "three", level[swapped] + draw, "ok", None) for i, draw in enumerate(draws)]
        timing = [("-", "images_per_second", speed, "ok", None)]
        found.append(
            [
                record("one", "faithfulness", one, method, **which),
                record("two", "faithfulness", two, method, higher=False, **which),
                record("three", "faithfulness", three, method, **which),
                record("throughput", "cost", timing, method, **which),
            ]
        )
    return found


def test_sweep_has_a_table_a_column_agreements_and_fronts(tmp_path: Path) -> None:
    file_all(tmp_path, *many(), *many("digits"))
    shown = swept(tmp_path)
    assert shown.config["methods"] == ["middle", "quick", "random", "slow", "worst"]
    assert shown.counts == {"ok": 40}
    columns = ("one", "two", "three", "throughput.images_per_second")
    assert set(shown.tables) == {("small_cnn", dataset, name) for dataset in ("digits", "shapes") for name in columns}
    best = shown.tables["small_cnn", "shapes", "one"]
    assert best["method"].tolist() == ["slow", "middle", "quick", "worst", "random"]
    assert best["letters"].tolist() == ["a", "b", "c", "d", "e"]
    assert best["n"].tolist() == [12] * 5
    means = shown.means["small_cnn", "shapes"].set_index("method")
    assert means.loc["slow", "one ↑"] == best["mean"][0]
    assert means.loc["slow", "throughput.images_per_second ↑"] == 1.0

    found = shown.agreements["small_cnn", "shapes"]
    assert found.tau.loc["one", "two"] == -1.0
    assert found.tau.loc["one", "three"] == pytest.approx(2 / 3), "one of six pairs the other way round"
    assert abs(found.order.index("one") - found.order.index("three")) == 1

    front = shown.fronts["small_cnn", "shapes", "throughput.images_per_second"].set_index("method")
    assert list(front.index) == ["quick", "middle", "worst", "slow"], "from the fastest; a null row explains nothing"
    assert front["milliseconds"].tolist() == [10, 100, 200, 1000]
    assert front["front"].tolist() == [True, True, False, True]
    front = shown.fronts["small_cnn", "shapes", "passes"].set_index("method")
    assert front["passes"].tolist() == [40] * 4
    assert front.index[front["front"]].tolist() == ["slow"]


def test_what_cannot_be_compared_is_left_out(tmp_path: Path) -> None:
    """One method, one metric that ranks, no timings: a table and nothing else."""
    records.write(tmp_path, group()[0])
    shown = swept(tmp_path)
    assert list(shown.tables) == [("small_cnn", "shapes", "deletion")]
    assert not shown.agreements
    assert not shown.fronts


# --- cell groups in W&B ---


def test_group_is_one_offline_run(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    draws = np.random.default_rng(0).integers(256, size=(3, 128, 128, 3), dtype=np.uint8)
    pictures = [(f"image {place}", colours) for place, colours in enumerate(draws)]
    WandbTracking(images=2).log_group(tmp_path, group(), lambda count: pictures[:count])
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")

    (found,) = runs(tmp_path)
    run, overview = found["run"], overviews.group(group())
    assert (run.project, run.run_group, run.job_type) == ("assay", sweep_name(tmp_path), "cell")
    assert run.display_name == "small_cnn/shapes/rise"
    config = {key: value for key, value in found["config"].items() if not key.startswith("_wandb")}
    assert config == {"sweep": sweep_name(tmp_path), **overview.config}
    shown = ("_", "curves/", "heat_maps/")
    numbers = {key: value for key, value in found["summary"].items() if not key.startswith(shown)}
    assert numbers == overview.summary

    columns, rows = table(found, "curves/deletion_table")
    assert columns == ["step", "lineKey", "lineVal"]
    assert [(place, value) for place, line, value in rows if line == "mean"] == [(0.0, 0.75), (0.5, 0.5), (1.0, 0.25)]
    assert {line for _, line, _ in rows} == {"mean", "low", "high"}
    chart = found["config"]["_wandb/visualize/curves/deletion"]["panel_config"]
    assert chart["panelDefId"] == "wandb/lineseries/v0"
    assert chart["stringSettings"] == {"title": "deletion", "xname": "fraction deleted"}

    assert found["history"]["heat_maps/captions"] == ["image 0", "image 1"]
    for name, (_, picture) in zip(found["history"]["heat_maps/filenames"], pictures[:2], strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(found["folder"] / "files" / name)), picture)


def test_nothing_says_whose_machine_it_was(tmp_path: Path, home: Path) -> None:
    """No command line, no user, no list of packages, no code: nothing but what a record says."""
    WandbTracking().log_group(tmp_path, group(), no_pictures)
    (found,) = runs(tmp_path)
    told = {"run", "config", "summary", "history", "artifact", "telemetry"}
    assert found["kinds"] <= told | {"header", "files", "footer", "exit"}, "no output, no measurements of the machine"
    written = [path.name for path in (found["folder"] / "files").rglob("*") if path.is_file()]
    assert all(name.endswith(".table.json") for name in written), written


def test_second_run_updates_what_has_changed(tmp_path: Path, home: Path) -> None:
    """As a sweep that is resumed: the same group and ids, nothing written twice, all that is filed in every run."""
    tracking, root = WandbTracking(), tmp_path / "results"
    tracking.log_group(root, group()[:2], no_pictures)
    tracking.log_group(root, group("saliency"), no_pictures)
    tracking.log_group(root, group("saliency"), no_pictures)
    first = runs(root)
    assert len(first) == 2
    moved = root.rename(tmp_path / "elsewhere")
    time.sleep(1)  # the folder of a run is named by the second
    tracking.log_group(moved, group("saliency"), no_pictures)
    tracking.log_group(moved, group(), no_pictures)

    found = runs(moved)
    assert len(found) == 3
    last = next(
        run
        for run in found
        if "cost/throughput.images_per_second" in run["summary"] and run["config"]["method"] == "rise"
    )
    (before,) = [run for run in first if run["config"]["method"] == "rise"]
    assert last["run"].run_id == before["run"].run_id
    assert {run["run"].run_group for run in found} == {sweep_name(moved)}
    assert len({run["run"].run_id for run in found}) == 2
    assert set(before["summary"]) < set(last["summary"])


def test_another_target_or_a_run_cut_short_is_written(tmp_path: Path, home: Path) -> None:
    WandbTracking().log_group(tmp_path, group(), no_pictures)
    (first,) = runs(tmp_path)
    time.sleep(1)
    WandbTracking(project="other").log_group(tmp_path, group(), no_pictures)
    assert [run["run"].project for run in runs(tmp_path)] == ["assay", "other"]
    for mark in tmp_path.rglob("assay.logged"):
        mark.unlink()
    time.sleep(1)
    WandbTracking(project="other").log_group(tmp_path, group(), no_pictures)
    assert len(runs(tmp_path)) == 3
    assert {run["run"].run_id for run in runs(tmp_path)} == {first["run"].run_id}


def test_sweeps_have_names_of_their_own(tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "results", tmp_path / "other" / "results"
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(sweep_name, [one] * 32))
    assert len(names) == 1
    (name,) = names
    assert name.startswith("results-")
    assert sweep_name(other) != name
    assert [path.name for path in (one / "wandb").iterdir()] == ["group.txt"]


def test_run_of_the_user_stays_open(tmp_path: Path, home: Path) -> None:
    import wandb

    with wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True)) as mine:
        WandbTracking().log_group(tmp_path / "results", group(), no_pictures)
        assert wandb.run is mine
        mine.log({"still": "open"})
    (found,) = runs(tmp_path)
    assert found["history"]["still"] == "open"


# --- the leaderboard in W&B ---


def test_leaderboard_has_tables_charts_figures_page_and_records(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    kept = file_all(root, *many())
    paths = [*kept, root / "certificate.json", root / "tables" / "a.parquet", root / "tables" / "x" / "a.md"]
    paths[-1].parent.mkdir(parents=True)
    for path in paths[-2:]:
        path.write_text("| method |\n")
    (root / "tables" / ".a.md.half").write_text("")
    (root / "figures").mkdir()
    Figure(figsize=(1, 1)).savefig(root / "figures" / "curves.png")
    WandbTracking().log_sweep(Path(os.path.relpath(root)))

    assert capfd.readouterr() == ("", "")
    (found,) = runs(root)
    shown = swept(root)
    assert (found["run"].run_group, found["run"].job_type) == (sweep_name(root), "leaderboard")
    assert found["config"]["metrics"] == ["one", "three", "throughput", "two"]
    assert found["summary"]["cells/ok"] == 20

    for place, expected in shown.tables.items():
        columns, rows = table(found, "/".join(("leaderboard", *place)))
        assert columns == list(expected.columns)
        assert rows == expected.astype(object).where(expected.notna(), None).to_numpy().tolist()
    columns, rows = table(found, "means/small_cnn/shapes")
    assert columns[:2] == ["method", "role"]
    assert set(columns[2:]) == {"one ↑", "two ↓", "three ↑", "throughput.images_per_second ↑"}
    assert {row[0] for row in rows} == {"slow", "middle", "quick", "worst", "random"}

    tidy = leaderboard.tidy(root).query("role == 'method'")
    names = list(dict.fromkeys(place[2] for place in shown.tables))[:-1]
    direct = agreement({name: (wide(tidy, "small_cnn", "shapes", name), name != "two") for name in names})
    columns, rows = table(found, "agreement/small_cnn/shapes")
    assert columns == ["metric", *direct.order]
    assert rows == [[name, *direct.tau.loc[name, list(direct.order)]] for name in direct.order]
    columns, rows = table(found, "agreement_intervals/small_cnn/shapes")
    assert columns == ["metric", "other", "tau", "low", "high"]
    assert len(rows) == 9
    assert all(
        row[2:] == [frame.loc[row[0], row[1]] for frame in (direct.tau, direct.low, direct.high)] for row in rows
    )

    columns, rows = table(found, "pareto/small_cnn/shapes/throughput.images_per_second_table")
    assert columns == ["method", "quality", "milliseconds", "front"]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        *(("quick", 10, True), ("middle", 100, True), ("worst", 200, False), ("slow", 1000, True))
    ]
    chart = found["config"]["_wandb/visualize/pareto/small_cnn/shapes/throughput.images_per_second"]["panel_config"]
    assert chart["panelDefId"] == "wandb/scatter/v0"
    assert chart["fieldSettings"] == {"x": "milliseconds", "y": "quality"}

    (image,) = found["folder"].glob("files/media/images/figures/curves_*.png")
    assert image.read_bytes() == (root / "figures" / "curves.png").read_bytes()
    page = found["folder"] / "files" / found["history"]["report/path"]
    assert page.read_text() == report.page(results.read(root), 8, {})
    _, files = found["artifacts"]["report"]
    assert Path(files["report.html"].local_path).read_text() == page.read_text()

    name, files = found["artifacts"]["results"]
    assert name == f"results-{sweep_name(root)}"
    assert set(files) == {path.relative_to(root).as_posix() for path in paths}
    for path in paths:
        entry = files[path.relative_to(root).as_posix()]
        assert entry.digest == base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()
        assert Path(entry.local_path).read_bytes() == path.read_bytes()
        # What changes later is copied; of records there is one copy.
        assert (Path(entry.local_path) == path) == (path in kept)
        assert Path(entry.local_path).is_relative_to(root)
    assert not list(home.rglob("staging"))


def test_leaderboard_of_a_resumed_sweep_is_the_same_run(tmp_path: Path, home: Path) -> None:
    tracking = WandbTracking()
    file_all(tmp_path, *many()[:2])
    tracking.log_sweep(tmp_path)
    time.sleep(1)
    file_all(tmp_path, *many())
    tracking.log_sweep(tmp_path)
    first, second = runs(tmp_path)
    assert first["run"].run_id == second["run"].run_id
    assert first["artifacts"]["results"][0] == second["artifacts"]["results"][0]
    kept, more = (set(run["artifacts"]["results"][1]) for run in (first, second))
    assert kept < more
    assert len(table(second, "leaderboard/small_cnn/shapes/one")[1]) == 5


def test_page_and_figures_show_no_image_that_they_must_not(tmp_path: Path, home: Path) -> None:
    """The page that somebody has made with images is not the one that is sent."""
    page = tmp_path / "report.html"
    page.write_text("<!doctype html><title>with images</title>")
    file_all(tmp_path, *many())
    (tmp_path / "figures").mkdir()
    for name in ("m-d-1-curves", "m-d-1-heat_maps"):
        Figure(figsize=(1, 1)).savefig(tmp_path / "figures" / f"{name}.png")
    for place, images in enumerate((8, 0)):
        WandbTracking(images=images).log_sweep(tmp_path)
        found = runs(tmp_path)[place]
        sent = (found["folder"] / "files" / found["history"]["report/path"]).read_text()
        assert sent == report.page(results.read(tmp_path), images, {})
        pictures = {key.split("/")[1] for key in found["history"] if key.startswith("figures/")}
        assert pictures == ({"m-d-1-curves", "m-d-1-heat_maps"} if images else {"m-d-1-curves"})
        time.sleep(1)  # the folder of a run is named by the second
    assert page.read_text() == "<!doctype html><title>with images</title>"


# --- modes and failures ---


@pytest.mark.parametrize("tracking", [NoTracking(), WandbTracking(mode="disabled")])
def test_nothing_is_written_when_nothing_is_tracked(tmp_path: Path, tracking: NoTracking | WandbTracking) -> None:
    root = tmp_path / "results"
    tracking.log_group(root, group(), no_pictures)
    tracking.log_sweep(root)
    assert not root.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "on"}, r"tracking.mode=on does not exist .* offline, online, disabled"),
        ({"images": -1}, r"tracking.images=-1 is no number of images: expected 0 or more"),
        ({"images": "all"}, r"tracking.images=all is no number of images"),
    ],
)
def test_mistakes_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        WandbTracking(**options)


def test_online_without_a_key_is_refused_at_once(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    started = time.perf_counter()
    with pytest.raises(UserError, match=r"run `wandb login`, or use tracking.mode=offline"):
        WandbTracking(mode="online").log_group(tmp_path, group(), no_pictures)
    assert time.perf_counter() - started < 5
    assert capfd.readouterr() == ("", "")


def test_failure_of_wandb_is_one_sentence(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def fail(**_: Any) -> None:
        raise RuntimeError("the service died\nTraceback ...")

    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", fail)
        with pytest.raises(UserError, match=r"\(try tracking=none\): the service died$"):
            WandbTracking().log_group(tmp_path, group(), no_pictures)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb, or use tracking=none"):
        WandbTracking().log_group(tmp_path, group(), no_pictures)


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="W&B failed for small_cnn/shapes/rise"):
        WandbTracking().log_group(tmp_path / "file" / "results", group(), no_pictures)


def test_pictures_that_fail_leave_a_run_to_be_written_again(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(count: int) -> list[Picture]:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"W&B failed for small_cnn/shapes/rise .*No space left on device"):
        WandbTracking().log_group(tmp_path, group(), fail)
    assert capfd.readouterr() == ("", ""), "no traceback of W&B's own"
    WandbTracking().log_group(tmp_path, group(), no_pictures)
    assert [run for run in runs(tmp_path) if run["summary"].get("faithfulness/deletion") == 0.375]


def test_sweep_goes_on_without_what_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each try may take half a minute without a network: there is one."""
    from benchmark.run import Sweep

    asked = []

    class Broken(NoTracking):
        def log_sweep(self, root: Path) -> None:
            asked.append(root)
            raise RuntimeError("no such device\nand more")

    sweep = Sweep()
    sweep.tracking = Broken()
    for _ in range(3):
        sweep._tracked(lambda tracking: tracking.log_sweep(Path("results")))
    assert asked == [Path("results")]
    assert capsys.readouterr().err == "warning: nothing is tracked from here on: RuntimeError: no such device\n"


def test_a_sweep_from_the_command_line_is_tracked_and_resumed(tmp_path: Path, home: Path) -> None:
    """Without a key nothing is tracked and everything is filed; the next runs catch up, in one group."""

    def sweep(*arguments: str) -> subprocess.CompletedProcess[str]:
        choices = ["models=small_cnn", "datasets=digits", "datasets.n=2", "metrics=[deletion]", "threads=1"]
        command = [sys.executable, "-m", "benchmark", *choices, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    os.environ["PYTHONPATH"] = str(ROOT)
    failed = sweep("methods=constant,random", "tracking.mode=online")
    assert failed.returncode == 0, failed.stderr
    assert failed.stderr.count("run `wandb login`") == failed.stderr.count("nothing is tracked") == 1
    assert "Traceback" not in failed.stderr
    root = tmp_path / "results"
    assert len(list(records.read_all(root))) == 2

    assert sweep("methods=constant,random").returncode == 0
    first = runs(root)
    assert sweep("methods=constant,random,saliency").returncode == 0
    both = runs(root)
    assert [run["run"].display_name for run in first] == [
        *("small_cnn/digits/constant", "small_cnn/digits/random", "leaderboard")
    ]
    assert [run["run"].display_name for run in both[3:]] == ["small_cnn/digits/saliency", "leaderboard"]
    assert {run["run"].run_group for run in both} == {sweep_name(root)}
    assert both[4]["run"].run_id == first[2]["run"].run_id
    assert [run["history"]["heat_maps/count"] for run in (*first[:2], both[3])] == [2, 2, 2]
    names = set(both[3]["history"]["heat_maps/filenames"])
    assert len(names) == 2, "two images, two pictures"


def test_import_brings_neither_wandb_nor_torch() -> None:
    code = (
        "import sys, benchmark.tracking, benchmark.figures; sys.exit(any(m in sys.modules for m in ('wandb', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
