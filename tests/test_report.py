"""The report page: what stands on it is what the records say, and it works by hand, by keyboard and on paper."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save_file

from benchmark import records
from benchmark.attributions import Entry
from benchmark.cells import Cell, Choice
from benchmark.errors import UserError
from benchmark.page import charts, rankings, results
from benchmark.page.boards import boards
from benchmark.page.pictures import pictures
from benchmark.page.results import Results
from benchmark.page.scores import data, scores
from benchmark.protocols import Measure
from benchmark.records import Record
from benchmark.report import main, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = 12
SCRIPT = "<script>alert(1)</script>"
ODD = f"odd{SCRIPT}\"'&"
METHODS = {"alpha": 0.6, "beta": 0.3, "gamma": 0.1, ODD: 0.2}
ENVIRONMENT = {
    "assay": "0.1.0",
    "commit": "0123456789abcdef",
    "python": "3.11.7",
    "torch": "2.15.0",
    "device": "a processor, 1 threads",
    "instructions": "AVX512",
    "dtype": "float32",
    "host": "somewhere",
    "settings": {"threads": 1, "batch_size": 32},
    "created": "2026-01-01T00:00:00+00:00",
}


def record(
    method: str,
    metric: Choice,
    measures: list[Measure],
    values: np.ndarray,
    curves: np.ndarray | None = None,
    family: str = "faithfulness",
    role: str = "method",
    dataset: str = "digits",
    reason: str | None = None,
) -> Record:
    """`values (N, measures)`, NaN is filed as degenerate; `curves (N, K)` of every measure."""
    rows = [
        (f"image-{i}", i % 3, measure.name, value, "ok" if math.isfinite(value) else "degenerate", curve)
        for j, measure in enumerate(measures)
        for i, value in enumerate(values[:, j].tolist())
        for curve in [None if curves is None else curves[i].tolist()]
    ]
    if family == "cost":
        rows = [("-", -1, *row[2:]) for row in rows]
    facts = {
        "measures": [asdict(measure) for measure in measures],
        "family": family,
        "role": role,
        "reason": reason,
        "seconds": 1.0,
        "forwards": 10,
        "backwards": 0,
        "environment": ENVIRONMENT,
        "method": {"passes": {"alpha": 32, "beta": 2, "gamma": 8}.get(method), "stochastic": True},
        "build": {"method": {"_target_": "methods.saliency.Saliency"}, "metric": {"_target_": "metrics.srg.SRG"}},
    }
    cell = Cell(Choice("net"), Choice(dataset), Choice(method, {"steps": 16}), metric)
    return Record(cell, pd.DataFrame(rows, columns=records.SCHEMA.names), facts)


def fill(root: Path, datasets: tuple[str, ...] = ("digits", "shapes")) -> None:
    """Four methods and a null row on two data sets: SRG, deletion and insertion, relevance mass, timings, a failure."""
    rng = np.random.default_rng(0)
    options = {"output": "prob", "steps": 4}
    for dataset in datasets:
        for method, level in {**METHODS, "random": 0.0}.items():
            role = "null" if method == "random" else "method"
            kind = {"role": role, "dataset": dataset}
            gain = level + 0.1 * rng.normal(size=(IMAGES, 1))
            for name, better, values in (("srg", True, gain), ("deletion", False, 0.5 - gain / 2)):
                falling = np.linspace(1, 0, 5) ** (1 + 4 * level) + np.zeros((IMAGES, 1))
                metric = Choice(name, options, "2")
                known = falling if name == "deletion" else None
                records.write(root, record(method, metric, [Measure(name, better, (-1, 1))], values, known, **kind))
            rising = np.linspace(0, 1, 5) ** (1 / (1 + 4 * level)) + np.zeros((IMAGES, 1))
            measures = [Measure("insertion", True, (0, 1))]
            records.write(
                root, record(method, Choice("insertion", options, "2"), measures, 0.5 + gain / 2, rising, **kind)
            )
            mass = 0.5 + 0.1 * rng.normal(size=(IMAGES, 1))
            mass[0] = np.nan
            measures = [Measure("relevance_mass", True, (0, 1))]
            localised = record(method, Choice("relevance_mass"), measures, mass, family="localisation", **kind)
            if method == "gamma":
                records.write_error(root, localised.cell, "ValueError: out of luck")
            else:
                records.write(root, localised)
            measures = [Measure("images_per_second", True, (0, math.inf), ranked=False, unit="1/s")]
            speed = np.array([[100 * (1 + level)]])
            records.write(root, record(method, Choice("throughput"), measures, speed, family="cost", **kind))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    fill(root)
    write_report(root, images=0)
    return root


class Parsed(HTMLParser):
    """The tables of a page by `data-of` and kind, its elements in order, and the texts of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.boards: list[dict[str, Any]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.append((tag, given))
        if tag not in ("meta", "input", "br", "wbr"):
            self.open.append(tag)
        if tag == "table" and (given.get("class") or "").startswith("board"):
            self.boards.append({"of": given["data-of"], "cost": "data-cost" in given, "columns": [], "rows": {}})
        if "data-column" in given:
            self.boards[-1]["columns"].append(given["data-column"])
        if "data-method" in given:
            self.boards[-1]["rows"][given["data-method"]] = []
        if tag == "table":
            self.inside = (given.get("class") or "").startswith("board")
        if tag == "td" and self.inside and self.boards[-1]["rows"] and "beside" not in (given.get("class") or ""):
            list(self.boards[-1]["rows"].values())[-1].append(given)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(text)


@pytest.fixture(scope="module")
def read(folder: Path) -> Results:
    return results.read(folder)


@pytest.fixture(scope="module")
def parsed(folder: Path) -> Parsed:
    return Parsed((folder / "report.html").read_text())


def test_every_element_is_closed_and_every_name_is_there(parsed: Parsed) -> None:
    assert parsed.open == []
    ids = [given["id"] for _, given in parsed.tags if "id" in given]
    assert len(ids) == len(set(ids))
    assert {given["href"] for tag, given in parsed.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_tables_hold_the_means_of_the_frame(read: Results, parsed: Parsed) -> None:
    summary = read.summary.set_index(["model", "dataset", "method", "column"])
    seen = 0
    for board in parsed.boards:
        pair = read.pairs[int(board["of"])]
        for method, cells in board["rows"].items():
            for column, given in zip(board["columns"], cells, strict=True):
                row = summary.loc[(pair.model, pair.dataset, method, column)]
                seen += 1
                if row["status"] == "ok":
                    assert float(given["data-v"]) == pytest.approx(row["mean"], rel=1e-9)
                else:
                    assert "data-v" not in given
                    assert row["reason"] in given["title"]
    assert seen == len(summary) == 2 * 5 * 5


def test_rows_stand_best_first_and_say_so(parsed: Parsed) -> None:
    board = parsed.boards[0]
    means = [float(cells[board["columns"].index("srg")]["data-v"]) for cells in board["rows"].values()]
    assert means[:4] == sorted(means[:4], reverse=True)
    assert list(board["rows"])[-1] == "random"
    heads = {given["data-column"]: given for tag, given in parsed.tags if tag == "th" and "data-column" in given}
    assert heads["srg"]["aria-sort"] == "descending"
    assert "aria-sort" not in heads["deletion"]


def test_names_are_only_ever_text(folder: Path, parsed: Parsed) -> None:
    text = (folder / "report.html").read_text()
    assert ODD in parsed.boards[0]["rows"]
    assert SCRIPT not in text
    scripts = [given for tag, given in parsed.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    given = json.loads("".join(parsed.texts["script"][:1]))
    assert given[0]["methods"].count(ODD) == 1


def test_nothing_is_fetched(folder: Path, parsed: Parsed) -> None:
    policy = next(given["content"] for _, given in parsed.tags if given.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for tag, given in parsed.tags:
        assert not {"src", "onclick", "onload"} & set(given), tag
        assert tag not in ("link", "iframe", "object")
    assert "url(" not in (folder / "report.html").read_text()


def test_the_same_records_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_report(folder, tmp_path / "again.html", images=0)
    assert again.read_bytes() == (folder / "report.html").read_bytes()


def test_pictures_are_described(parsed: Parsed) -> None:
    drawings = [given for tag, given in parsed.tags if tag == "svg"]
    assert all(given["role"] == "img" and given["aria-label"] for given in drawings)
    # Of each data set five panels of curves, a diagram of each metric that ranks, a front in time and one in passes.
    assert len(drawings) == 2 * (5 + 4 + 2)


def test_curves_stand_at_the_steps_that_their_metric_lists(tmp_path: Path) -> None:
    for name, better in (("deletion", False), ("insertion", True)):
        options = Choice(name, {"output": "prob", "steps": [0, 0.25, 1]})
        given = [Measure(name, better, (0, 1))], np.full((4, 1), 0.5), np.tile([1.0, 0.0, 0.0], (4, 1))
        records.write(tmp_path, record("alpha", options, *given))
    text = write_report(tmp_path, images=0).read_text()
    # From 30 to 184, a trapezoid of 1/4 / 2 and one of 3/4 / 2.
    assert '<path class="curve deletion" d="M30.0 8.0L68.5 108.0L184.0 108.0"/>' in text
    assert '<path class="curve insertion" d="M30.0 8.0L145.5 108.0L184.0 108.0"/>' in text
    assert "deletion from 1 to 0, area 0.125; insertion from 1 to 0, area 0.375." in text


def test_failures_protocols_and_environment_are_on_the_page(folder: Path) -> None:
    text = re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text())
    assert "failed: relevance_mass of gamma: ValueError: out of luck" in text
    assert "1 of 12 images degenerate" in text
    for said in ("version 2", "seed of all draws", "0123456789ab", "a processor, 1 threads", "batch size 32"):
        assert said in text
    # What the source says of a metric, without the metric being imported.
    assert "Area between the curves of insertion and deletion" in text
    certificate = json.loads((Path(__file__).parent.parent / "results" / "certificate.json").read_text())
    checks = len(certificate["metrics"]["srg"]["checks"])
    assert f"{checks} of {checks} checks passed" in text


def test_scores_behind_a_cell(read: Results) -> None:
    board = next(iter(boards(read)))
    behind = scores(read, board)
    given = data(board, behind, ["image-7"], room=10**6)
    values = behind.columns["srg"]["beta"]
    best, median, worst = values.idxmax(), values.sort_values(ascending=False).index[IMAGES // 2], values.idxmin()
    assert behind.extremes["srg", "beta"] == [best, median, worst]
    assert behind.extremes["deletion", "beta"] == [best, median, worst]  # deletion = (1 - srg) / 2, lower is better
    assert given["images"][0] == ["image-7", 1]
    assert given["shown"] == given["total"] == IMAGES
    row = given["methods"].index("beta")
    for place, (uid, _) in enumerate(given["images"]):
        assert given["values"]["srg"][row][place] == pytest.approx(values[uid], rel=1e-3)
    assert [given["images"][place][0] for place, _ in given["extremes"]["srg"][row]] == [best, median, worst]
    undefined = [uid for uid, _ in given["images"]].index("image-0")
    assert given["values"]["relevance_mass"][row][undefined] is None
    assert given["values"]["relevance_mass"][given["methods"].index("gamma")] is None


def test_ties_alone_have_words(tmp_path: Path) -> None:
    """Neither Friedman's p nor tau is defined for them."""
    for dataset, steps in (("digits", 0.0), ("shapes", 0.1)):
        for place, method in enumerate(("alpha", "beta", "gamma")):
            values = np.full((4, 1), steps * place)
            single = [Measure("srg", True, (-1, 1))]
            records.write(tmp_path, record(method, Choice("srg", version="2"), single, values, dataset=dataset))
    text = write_report(tmp_path, images=0).read_text()
    assert not re.search(r"\bnan\b", text)
    assert "4 images, every image ties all methods</span>" in text
    assert text.count("Friedman's test p = 0.018</span>") == 1  # chi^2 of 8 with 2 degrees of freedom
    assert '<th scope="row">srg</th><td class="count">0.50</td><td class="count">–</td>' in text


@pytest.fixture
def settled(tmp_path: Path) -> Path:
    """SRG under two baselines that order methods in opposite directions, deletion under two seeds, two fixed rows.

    An image adds its number to every score, and the second seed adds 2.
    """
    levels = {"alpha": 3.0, "beta": 2.0, "gamma": 1.0, "random": 0.0, "truth": 4.0}
    roles = {"random": "null", "truth": "oracle"}
    images = np.arange(IMAGES, dtype=float)[:, None]
    for method, level in levels.items():
        role = roles.get(method, "method")
        for baseline, sign in (("black", 1), ("blur", -1)):
            metric = Choice("srg", {"baseline": baseline}, "2")
            values = sign * level + images
            records.write(tmp_path, record(method, metric, [Measure("srg", True, (-1, 1))], values, role=role))
        for seed in (0, 1):
            single = [Measure("deletion", False, (0, 1))]
            made = record(method, Choice("deletion", version="2"), single, level + images + 2 * seed, role=role)
            records.write(tmp_path, replace(made, cell=replace(made.cell, seed=seed)))
    return tmp_path


def test_places_say_how_sure_a_rank_is(settled: Path) -> None:
    """Every image gives one order: no rank moves, and W and alpha are 1."""
    read = results.read(settled)
    (board,) = boards(read)
    found = {each.heading.name: each for each in rankings.differences(read, board, scores(read, board))}
    places = [(each.method, each.rank, each.low, each.high, each.first) for each in found["srg(baseline=black)"].places]
    assert places == [("alpha", 1, 1, 1, 1), ("beta", 2, 2, 2, 0), ("gamma", 3, 3, 3, 0)]
    assert [each.anchored for each in found["srg(baseline=black)"].places] == pytest.approx([0.75, 0.5, 0.25])
    assert [each.method for each in found["srg(baseline=blur)"].places] == ["gamma", "beta", "alpha"]
    assert all(math.isnan(each.anchored) for each in found["srg(baseline=blur)"].places), "random beats the oracle"
    assert {(each.w, each.alpha) for each in found.values()} == {(1.0, 1.0)}
    text = write_report(settled, images=0).read_text()
    assert '<th scope="row">alpha</th><td>1</td><td>1 to 1</td><td>1.00</td><td>0.75</td>' in text
    assert "Kendall's W 1.00, Krippendorff's alpha 1.00" in text


def test_settings_of_one_metric_are_held_against_each_other(settled: Path) -> None:
    read = results.read(settled)
    (board,) = boards(read)
    found = {each.metric: each for each in rankings.settings(read, board, scores(read, board))}
    black, blur = "srg(baseline=black)", "srg(baseline=blur)"
    said = found["srg"].stability
    assert (said.w, said.tau, said.lowest) == (0, -1, -1)
    assert said.winners == {black: "alpha", blur: "gamma"}
    assert {frozenset(flip) for flip in found["srg"].flips} == {
        frozenset((one, other, black, blur))
        for one, other in (("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma"))
    }
    assert all(
        flip[:2] in {("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma")}
        for flip in found["srg"].flips
        if flip[2] == black
    )
    assert (found["deletion"].stability.w, found["deletion"].flips, found["deletion"].more) == (1, [], 0)
    text = write_report(settled, images=0).read_text()
    assert f"alpha beats gamma under {black}, gamma beats alpha under {blur}" in text
    assert "none shown" in text


def test_variance_is_split_where_seeds_or_models_are_several(settled: Path, folder: Path) -> None:
    """Image numbers 0 to 11 have the variance 13, the shifts 0 and 2 of the seeds 2, and nothing is left."""
    read = results.read(settled)
    (split,) = rankings.splits(read, list(boards(read)))
    assert (split.dataset, split.column, split.methods) == ("digits", "deletion", 3)
    assert split.shares == pytest.approx({"image": 13 / 15, "seed": 2 / 15, "model": math.nan, "rest": 0}, nan_ok=True)
    for one in list(records.read_all(settled)):
        if one.cell.seed == 0 and one.cell.metric.name == "deletion":
            rows = one.rows.assign(value=one.rows["value"] + 2)
            records.write(settled, Record(replace(one.cell, model=Choice("other")), rows, one.facts))
    read = results.read(settled)
    (split,) = rankings.splits(read, list(boards(read)))
    expected = {"image": 13 / 15, "seed": math.nan, "model": 2 / 15, "rest": 0}
    assert split.shares == pytest.approx(expected, nan_ok=True), "the other model has no second seed"
    for one in list(records.read_all(settled)):
        if one.cell.seed == 1 and one.cell.model.name == "net":
            rows = one.rows.assign(value=one.rows["value"] + 2)
            records.write(settled, Record(replace(one.cell, model=Choice("other")), rows, one.facts))
    read = results.read(settled)
    (split,) = rankings.splits(read, list(boards(read)))
    expected = {"image": 13 / 17, "seed": 2 / 17, "model": 2 / 17, "rest": 0}
    assert split.shares == pytest.approx(expected)
    assert '<td class="count">0.76</td><td class="count">0.12</td>' in write_report(settled, images=0).read_text()
    plain = (folder / "report.html").read_text()
    assert "Where does the spread" not in plain
    assert "every setting of one metric" not in plain


def test_one_number_for_all_images_is_no_image(tmp_path: Path) -> None:
    """It ranks methods and agrees with other metrics all the same."""
    measures = [Measure("srg", True, (-1, 1))]
    for place, method in enumerate(("alpha", "beta", "gamma")):
        values = place + np.arange(4.0)[:, None]
        records.write(tmp_path, record(method, Choice("srg", version="2"), measures, values))
        single = record(method, Choice("deletion", version="2"), [Measure("deletion", False, (0, 1))], values[:1])
        rows = single.rows.assign(uid="-", target=-1, value=-float(place))
        records.write(tmp_path, Record(single.cell, rows, single.facts))
    found = results.read(tmp_path)
    (board,) = boards(found)
    behind = scores(found, board)
    given = data(board, behind, [], room=10**6)
    assert behind.uids == [f"image-{place}" for place in range(4)]
    assert given["extremes"]["deletion"] == [[], [], []]
    assert given["values"]["deletion"] == [None, None, None]
    agreed = rankings.agreed(board, behind)
    assert agreed is not None
    assert agreed.tau.at["srg", "deletion"] == 1


def test_a_page_holds_no_more_scores_than_it_may(read: Results) -> None:
    board = next(iter(boards(read)))
    behind = scores(read, board)
    cells = len(board.rows) * len(board.headings)
    given = data(board, behind, [], room=3 * cells)
    assert given["shown"] == 3
    assert given["total"] == IMAGES
    assert all(len(line) == 3 for lines in given["values"].values() for line in lines if line)
    row = given["methods"].index("alpha")
    values = behind.columns["srg"]["alpha"]
    told = {given["images"][place][0]: value for place, value in given["extremes"]["srg"][row]}
    assert told == pytest.approx({uid: values[uid] for uid in behind.extremes["srg", "alpha"]}, rel=1e-3)


def test_bars_join_ranks_within_the_critical_difference() -> None:
    assert charts._cliques([1.0, 1.5, 2.2, 4.0], 1.0) == [(0, 1), (1, 2)]
    assert charts._cliques([1.0, 1.5, 1.9, 4.0], 1.0) == [(0, 2)]
    assert charts._cliques([1.0, 3.0, 5.0], 1.0) == []
    assert charts._cliques([1.0, 2.0, 3.0], 2.0) == [(0, 2)]
    drawing = charts.critical_difference({"a": 1.25, "<b>": 1.75}, 0.5, 20)
    assert "Mean ranks of 2 rows over 20 images, critical difference 0.50. a 1.25; &lt;b&gt; 1.75." in drawing
    many = charts.critical_difference({f"m{i}": float(i + 1) for i in range(40)}, 3.0, 20)
    assert "the best 30 of 40 rows" in many
    assert "m29" in many
    assert "m30" not in many


def test_better_is_up_and_cheaper_is_left() -> None:
    points = [charts.Point("good", 1, 0.1, True), charts.Point("slow", 100, 0.2, False)]
    drawing = charts.pareto(points, "ms", "deletion", higher_is_better=False)
    place = {
        name: (float(x), float(y))
        for x, y, name in re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="5"><title>(\w+):', drawing)
    }
    assert place["good"][0] < place["slow"][0]
    assert place["good"][1] < place["slow"][1]  # y runs downwards


def test_tables_need_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from benchmark.report import main\n"
        f"assert main([{str(folder)!r}, '--images', '0', '--out', {str(tmp_path / 'page.html')!r}]) == 0\n"
        "assert not {'torch', 'timm', 'matplotlib', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "page.html").exists()


def test_a_folder_without_records_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds no records: expected the folder of a sweep, made by python -m benchmark\n"
    )
    with pytest.raises(UserError, match="holds no records"):
        write_report(tmp_path)


def test_one_model_one_method_and_timings_alone_make_a_page(tmp_path: Path) -> None:
    speed = [Measure("images_per_second", True, (0, math.inf), ranked=False, unit="1/s")]
    records.write(tmp_path, record("alpha", Choice("throughput"), speed, np.array([[10.0]]), family="cost"))
    text = write_report(tmp_path).read_text()
    assert "There are no scores of images." in text
    single = [Measure("srg", True, (-1, 1))]
    records.write(tmp_path, record("alpha", Choice("srg", version="2"), single, np.array([[0.25], [0.75]])))
    text = write_report(tmp_path, images=0).read_text()
    assert "No pictures were asked for." in text
    assert "A diagram takes three methods on two images." in text


def keep_maps(folder: Path, root: Path) -> None:
    """The records of `folder` in `root`, and maps of alpha: constant on the first image, a square on the others."""
    shutil.copytree(folder / "records", root / "records")
    cell = next(each.cell for each in results.read(folder).scored if each.cell.method.name == "alpha")
    values = np.zeros((IMAGES, 2, 8, 8), dtype=np.float32)
    values[1:, 0, 2:4, 2:4] = 1.0
    entry = Entry(root, cell.model, cell.dataset, cell.method, cell.seed)
    entry.path.parent.mkdir(parents=True)
    save_file({"maps": values}, entry.path)


def test_pictures_of_kept_maps(folder: Path, tmp_path: Path) -> None:
    """Maps are painted from the cache, row by row, without the images where nothing says how those are made."""
    keep_maps(folder, tmp_path)
    read = results.read(tmp_path)
    uids = [f"image-{i}" for i in range(IMAGES)]
    found = pictures(read, read.pairs[0], uids, ["image-3", "image-0"], {})
    assert list(found.maps) == ["alpha"]
    assert found.maps["alpha"]["image-0"] == "constant"
    head, _, code = found.maps["alpha"]["image-3"].partition(",")
    assert head == "data:image/webp;base64"
    painted = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB")).astype(float)
    assert painted.shape == (16, 16, 3)  # small maps are doubled
    assert painted[6, 6].sum() < painted[0, 0].sum()
    assert "No maps are kept of beta, gamma" in found.remarks[1]


def test_what_is_missing_for_pictures_is_said(folder: Path, tmp_path: Path) -> None:
    text = write_report(folder, tmp_path / "page.html").read_text()
    assert "No images: " in text
    assert "No maps: the folder attributions/" in text
    assert "data:image" not in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, folder: Path) -> Iterator[Page]:
    """The page in a browser; whatever it says on the console, or wants of the network, is a failure."""
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
    page.goto((folder / "report.html").as_uri())
    yield page
    page.close()
    assert said == []


def column(page: Page, name: str, body: str = "method") -> list[str]:
    """The texts of a column of the first table, of the visible rows of one role."""
    return page.locator(
        f"table.board >> nth=0 >> tbody[data-role={body}] td[data-at='{name}'] b:visible"
    ).all_inner_texts()


@pytest.mark.pages
def test_headings_sort_by_mouse_and_keyboard(opened: Page) -> None:
    table = opened.locator("table.board").first
    head = table.locator("th[data-column=deletion]")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert table.locator("[aria-sort]").count() == 1
    found = [float(text) for text in column(opened, "deletion")]
    assert found == sorted(found)
    assert len(found) == 4
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(opened, "deletion")] == found[::-1]
    # What has no value stands last whatever the direction, and null rows stay below methods.
    mass = table.locator("th[data-column=relevance_mass] [role=button]")
    for _ in range(2):
        mass.click()
        methods = table.locator("tbody[data-role=method] tr th").all_inner_texts()
        assert methods[-1] == "gamma"
    assert table.locator("tbody").last.locator("tr:not(.role) th").all_inner_texts() == ["random"]
    table.locator("th[data-kind=text] [role=button]").click()
    names = table.locator("tbody[data-role=method] tr th").all_inner_texts()
    assert names == sorted(METHODS)


@pytest.mark.pages
def test_filters_by_text_role_family_and_pair(opened: Page) -> None:
    rows = opened.locator("table.board >> nth=0 >> tbody tr:not(.role):visible")
    assert rows.count() == 5
    opened.get_by_label("Method", exact=True).fill("ALP")
    assert rows.locator("th").all_inner_texts() == ["alpha"]
    assert opened.locator("#count").inner_text() == "1 of 5 rows"
    opened.get_by_role("button", name="Clear").click()
    opened.locator("#role").select_option("null")
    assert rows.locator("th").all_inner_texts() == ["random"]
    opened.locator("#role").select_option("")
    opened.locator("#family").select_option("localisation")
    assert opened.locator("table.board >> nth=0 >> th[data-column]:visible").count() == 1
    assert rows.first.locator("td[data-at]:visible").count() == 1
    opened.locator("#family").select_option("")
    assert opened.locator("#tables article:visible").count() == 1
    opened.locator("#pair").select_option("net on shapes")
    assert opened.locator("#tables article:visible h3").all_text_contents() == ["net on shapes"]
    opened.locator("#pair").select_option("all")
    assert opened.locator("#tables article:visible").count() == 2


@pytest.mark.pages
def test_a_cell_opens_its_images_by_keyboard(opened: Page, read: Results) -> None:
    behind = scores(read, next(iter(boards(read))))
    first = opened.locator("table.board >> nth=0 >> td[tabindex='0']")
    first.focus()
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("Enter")
    dialog = opened.get_by_role("dialog")
    assert dialog.get_by_role("heading").inner_text() == "srg of beta"
    captions = dialog.locator(".trio figcaption").all_inner_texts()
    for caption, word, uid in zip(captions, ("best", "median", "worst"), behind.extremes["srg", "beta"], strict=True):
        value = behind.columns["srg"]["beta"][uid]
        assert caption.startswith(f"{word}: {value:.3g}".replace("-", "−"))
        assert uid in caption
    assert dialog.locator("svg circle").count() == IMAGES
    opened.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert opened.evaluate("document.activeElement.dataset.at") == "srg"
    # A failed cell says why.
    opened.locator("table.board >> nth=0 >> tr[data-method=gamma] td[data-at=relevance_mass]").click()
    assert "out of luck" in dialog.inner_text()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


@pytest.mark.pages
def test_an_image_shows_all_methods(opened: Page, read: Results) -> None:
    behind = scores(read, next(iter(boards(read))))
    opened.locator("table.board >> nth=0 >> tr[data-method=alpha] td[data-at=srg]").click()
    opened.get_by_role("button", name="All methods on this image").last.click()
    drill = opened.locator("[data-drill='0']")
    uid = behind.extremes["srg", "alpha"][-1]
    assert uid in drill.locator("select").first.locator("option:checked").inner_text()
    values = behind.columns["srg"].loc[uid]
    shown = dict(text.split("\n") for text in drill.locator(".tiles figcaption").all_inner_texts()[1:])
    assert set(shown) == {*METHODS, "random (null)"}
    for name, text in shown.items():
        assert float(text.replace("−", "-")) == pytest.approx(values[name.removesuffix(" (null)")], rel=0.01)
    assert list(shown) == [name + " (null)" * (name == "random") for name in values.sort_values(ascending=False).index]
    drill.get_by_role("button", name="next").click()
    assert uid not in drill.locator("select").first.locator("option:checked").inner_text()
    drill.get_by_text("All scores of this image").click()
    drill.locator("table tbody tr").first.wait_for()
    assert drill.locator("table tbody tr").count() == 5
    assert drill.locator("table thead th").count() == 1 + len(behind.columns)


@pytest.mark.pages
def test_maps_are_seen(browser: Browser, folder: Path, tmp_path: Path) -> None:
    keep_maps(folder, tmp_path)
    page = browser.new_page()
    page.goto(write_report(tmp_path).as_uri())
    page.locator("tr[data-method=alpha] td[data-at=srg]:visible").click()
    page.wait_for_function("[...document.querySelectorAll('dialog img')].every((image) => image.complete)")
    maps = page.get_by_role("dialog").get_by_role("img", name="Map of alpha on image-")
    assert maps.count() == 3
    for place in range(3):
        told = str(maps.nth(place).get_attribute("alt") or maps.nth(place).inner_text())
        constant = maps.nth(place).evaluate("node => node.tagName === 'DIV'")
        assert told == "constant" if constant else maps.nth(place).evaluate("node => node.naturalWidth") == 16
    page.close()


@pytest.mark.pages
def test_without_javascript_all_tables_are_there(browser: Browser, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.locator("#tables article:visible").count() == 2
    assert page.locator(".tools").is_hidden()
    assert page.locator("#images noscript").first.inner_text().startswith("This part needs JavaScript")
    context.close()


@pytest.mark.pages
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(opened: Page, scheme: str) -> None:
    """WCAG AA: 4.5 to 1 for every text, on the shades of cells too."""
    opened.emulate_media(color_scheme=scheme)
    assert opened.evaluate(CONTRAST) == []


CONTRAST = """() => {
  const parts = (colour) => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    const scale = colour.startsWith("color(") ? 255 : 1;
    return [...numbers.slice(0, 3).map((n) => n * scale), numbers[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = (rgb) => {
    const linear = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const colour = parts(getComputedStyle(node).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, behind(node.parentElement));
  };
  const bad = [];
  const texts = "h1, h2, p, th, td, td b, td i, small, .of, a, summary, dt, dd, label, li";
  for (const node of document.querySelectorAll(texts)) {
    if (!node.checkVisibility() || !node.textContent.trim()) continue;
    const below = behind(node);
    const [a, b] = [light(over(parts(getComputedStyle(node).color), below)), light(below)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(`${node.tagName} ${node.className} ${node.textContent.slice(0, 20)}`);
  }
  return bad;
}"""


@pytest.mark.pages
def test_paper_holds_every_table(opened: Page, tmp_path: Path) -> None:
    opened.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
    opened.emulate_media(media="print")
    assert opened.locator("#tables article:visible").count() == 2
    assert opened.locator(".bar").is_hidden()
    # Wider than the paper means cut off.
    opened.set_viewport_size({"width": 1045, "height": 740})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 1045
    for place in range(opened.locator("table.board:visible").count()):
        assert opened.locator("table.board:visible").nth(place).bounding_box()["width"] <= 1045


@pytest.mark.pages
def test_two_hundred_rows_and_thirty_metrics_are_quick(browser: Browser, tmp_path: Path) -> None:
    """Made of frames, so that the page is measured and not the disk."""
    rng = np.random.default_rng(0)
    measures = [Measure(f"metric_{j:02d}", True, (0, 1)) for j in range(30)]
    for i in range(200):
        values = rng.normal(i / 200, 0.2, size=(48, 30))
        role = "null" if i >= 190 else "method"
        records.write(tmp_path, record(f"method_{i:03d}", Choice("many"), measures, values, role=role))
    start = time.process_time()
    path = write_report(tmp_path, images=0)
    assert time.process_time() - start < 60
    assert path.stat().st_size < 5_000_000
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    start = time.perf_counter()
    page.goto(path.as_uri())
    assert page.locator("#count").inner_text() == "200 of 200 rows"
    assert time.perf_counter() - start < 10
    took = page.evaluate(
        """() => {
          const start = performance.now();
          document.querySelectorAll("table.board thead tr:last-child [role=button]")[9].click();
          document.body.getBoundingClientRect();
          return performance.now() - start;
        }"""
    )
    assert took < 2000
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1045, "height": 740})
    assert page.evaluate("document.querySelector('table.board').getBoundingClientRect().width") <= 1045
    page.close()
