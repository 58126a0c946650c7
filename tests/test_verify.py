"""Verification: what a sweep files passes with equal digits, and each kind of edit is found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

from benchmark import certify, integrity, leaderboard, merge, plugins, recipes, records, report, run, subjects, verify
from benchmark.cells import Cell, Choice
from benchmark.certificate import SHIPPED
from benchmark.choices import CONF
from benchmark.evaluate import Evaluation
from benchmark.progress import Progress
from benchmark.records import Record

PEAK = """
from benchmark.protocols import Measure, Metric, Scores

class Peak(Metric):
    measures = (Measure("peak", higher_is_better=True, range=(0.0, 1.0)),)

    def score(self, model, batch, attributions, explain, prepared):
        positive = attributions.clamp(min=0).flatten(1)
        return Scores({"peak": positive.amax(1) / positive.sum(1)})
"""

CHECKS = """
from benchmark.certificate import subjects
from benchmark.certificate.checks import build, check, scores
from benchmark.protocols import Measure, Metric, Scores

class Total(Metric):
    measures = (Measure("total", higher_is_better=None, range=(-float("inf"), float("inf"))),)

    def score(self, model, batch, attributions, explain, prepared):
        return Scores({"total": attributions.sum((1, 2, 3))})

def linear(metric):
    known = subjects.linear()
    found = scores(build(metric), known, known.truth)["total"]
    yield check("total", known.name, "f(x) - f(b)", found, known.clean - known.absent)
    yield check("total", known.name, "one more than f(x) - f(b)", found, known.clean - known.absent + 1)

CHECKS = {"peak_checks.Total": (linear,)}
"""

METRICS = "metrics=[deletion,insertion,srg,infidelity,completeness,throughput,custom]"
OWN = ("metrics.custom._target_=my_metrics.Peak", "metrics.throughput.seconds=0.01")
IMAGES, CELLS = 4, 14


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep, which tests copy before they touch it."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "my_metrics.py").write_text(PEAK)
    root = folder / "results"
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(CONF), version_base="1.3"):
        patch.syspath_prepend(str(folder))
        chosen = ("models=small_cnn", "datasets=digits", "datasets.n=4", "batch_size=3", METRICS, *OWN)
        configs = {name: compose("config", [*chosen, f"methods={name}"]) for name in ("smoothgrad", "random")}
        subject = subjects.load(configs["random"])
        for name, config in configs.items():
            method = plugins.build(config.methods)
            choice = plugins.choose(name, method, config.methods)
            evaluation = Evaluation(root, subject, choice, method, Progress(1))
            outcomes = list(evaluation.run(run._metrics(config, {"my_metrics"})))
            assert {outcome.status for outcome in outcomes} <= {"computed", "filed"}, outcomes
    leaderboard.write_tables(root)
    del sys.modules["my_metrics"]
    return root


@pytest.fixture
def results(swept: Path, tmp_path: Path) -> Path:
    """A copy of it to be edited, without the tables, which every edit would belie."""
    return Path(shutil.copytree(swept, tmp_path / "results", ignore=shutil.ignore_patterns("tables")))


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, dict[str, int]]]:
    """Runs the verification: its exit code, what it says on stderr, and the counts in its table."""

    def run(root: Path, *options: str) -> tuple[int, str, dict[str, int]]:
        code = verify.main([str(root), *options])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        counts: dict[str, int] = {}
        for line in printed.out.splitlines():
            name, count, *_ = line[:20].strip(), *line[20:].split()
            counts[name] = counts.get(name, 0) + int(count)
        return code, printed.err + printed.out, counts

    return run


def record(root: Path, method: str, metric: str) -> Path:
    (path,) = Path(root, "records", "small_cnn", "digits", method).glob(f"{metric}-*.parquet")
    return path


def edit(
    path: Path,
    change_rows: Callable[[pd.DataFrame], Any] = lambda rows: None,
    change: Callable[[dict[str, Any]], Any] = lambda metadata: None,
    *,
    digest: bool = False,
    rename: bool = False,
) -> Path:
    """Write the record in `path` again, changed; with a digest and a name that fit, if asked for."""
    table = pq.read_table(path, partitioning=None)
    metadata, rows = json.loads(table.schema.metadata[b"assay"]), table.to_pandas()
    changed = change_rows(rows)
    rows = changed if isinstance(changed, pd.DataFrame) else rows
    if digest:
        metadata["rows"] = records.digest_rows(rows)
    change(metadata)
    place = path
    if rename:
        path.unlink()
        root = next(parent.parent for parent in path.parents if parent.name == "records")
        place = records.record_path(root, Cell.from_dict(metadata["cell"]))
        place.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pandas(rows, schema=records.SCHEMA, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({b"assay": json.dumps(metadata).encode()}), place)
    return place


def keep(*paths: Path) -> None:
    """Leave no other record, so that nothing else is computed again."""
    for path in paths[0].parents[3].rglob("*.parquet"):
        if path not in paths:
            path.unlink()


def raise_first(rows: pd.DataFrame) -> None:
    rows.loc[0, "value"] += 1e-12


def test_a_sweep_passes_digit_by_digit(swept: Path, verified) -> None:
    before = {path: path.stat().st_mtime_ns for path in swept.rglob("*")}
    code, text, counts = verified(swept, "--rows", "1000")
    assert code == 0, text
    assert counts["records checked"] == CELLS
    settings = records.read(record(swept, "random", "deletion")).facts["environment"]["settings"]
    assert (settings["device"], settings["threads"], settings["batch_size"]) == ("cpu", 1, 3)
    assert settings["channels_last"] is True
    # Two timings, two records of a metric of somebody's own.
    assert counts["not recomputable"] == 4
    assert "--trust my_metrics" in text
    measures = {"deletion": 1, "insertion": 1, "srg": 1, "infidelity": 2, "completeness": 2}
    assert counts["rows recomputed"] == counts["exact"] >= 2 * IMAGES * sum(measures.values())
    assert counts["tables checked"] == 10
    assert {path: path.stat().st_mtime_ns for path in swept.rglob("*")} == before


def test_foreign_code_runs_only_if_trusted(swept: Path, verified, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(swept.parent))
    code, text, counts = verified(swept, "--rows", "1000", "--trust", "my_metrics")
    assert code == 0, text
    assert counts["not recomputable"] == 2
    assert "--trust" not in text
    monkeypatch.delitem(sys.modules, "my_metrics")


def test_the_draw_can_be_repeated(swept: Path, verified) -> None:
    one, other = (verified(swept, "--rows", "1", "--seed", "5") for _ in range(2))
    assert one[2] == other[2]
    # One row is recomputed with its batch: of 3 images or of 1.
    assert one[2]["rows recomputed"] in (1, 2, 3, 4, 6, 12)
    assert verified(swept, "--rows", "0")[2]["rows recomputed"] == 0


def test_a_submission_is_checked_against_its_manifest(results: Path, tmp_path: Path, verified, capsys) -> None:
    submission = tmp_path / "submission"
    assert merge.main([str(results), "--out", str(submission)]) == 0
    capsys.readouterr()
    code, text, counts = verified(submission, "--rows", "0")
    assert code == 0, text
    assert (counts["files in manifest"], counts["records checked"]) == (CELLS, CELLS)
    assert "files in manifest" not in verified(results, "--rows", "0")[1]

    path = record(submission, "random", "srg")
    whole = path.read_bytes()
    edit(path, raise_first, digest=True)  # whole, and with a digest that fits
    code, text, _ = verified(submission, "--rows", "0")
    assert code == 1
    assert f"refused: {path}: its SHA-256 is not the one that manifest.json states" in text
    path.unlink()
    assert f"refused: {path}: manifest.json lists it, and it is not there" in verified(submission, "--rows", "0")[1]
    path.write_bytes(whole[:-100])
    assert f"refused: {path}: " in verified(submission, "--rows", "0")[1]
    path.write_bytes(whole)
    assert verified(submission, "--rows", "0")[0] == 0
    extra = submission / "notes.txt"
    extra.write_text("we win")
    code, text, _ = verified(submission, "--rows", "0")
    assert code == 1
    assert f"refused: {extra}: manifest.json does not list it" in text
    extra.unlink()
    sealed = submission / "manifest.json"
    sealed.write_text(sealed.read_text().replace('"records": 14', '"records": 15'))
    code, text, _ = verified(submission, "--rows", "0")
    assert code == 1
    assert f"refused: {sealed}: what it says of counts, environments is not what its files say" in text


def test_an_edited_value_is_found_without_computing(results: Path, verified) -> None:
    path = edit(record(results, "random", "srg"), raise_first)
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"{path}: its rows are not those that were filed" in text


@pytest.mark.parametrize("metric", ["deletion", "srg", "infidelity", "completeness"])
def test_an_edited_value_with_its_digest_is_found_by_computing(metric: str, results: Path, verified) -> None:
    """In the last digits of one number, and although the caches of the folder would confirm it."""
    change = raise_first if metric != "completeness" else un_apply
    applies = lambda metadata: metadata.update(reason=None)  # noqa: E731
    path = edit(record(results, "smoothgrad", metric), change, applies, digest=True)
    keep(path)
    assert verified(results, "--rows", "0")[0] == 0
    code, text, counts = verified(results, "--rows", "1000")
    assert code == 1
    assert str(path) in text
    assert "when computed again" in text
    assert counts["failed"] >= 1


def un_apply(rows: pd.DataFrame) -> None:
    rows["value"], rows["status"] = 0.5, "ok"


def test_caches_are_not_believed(results: Path, verified) -> None:
    """Maps and shared numbers that somebody exchanged would confirm the scores made of them."""
    caches = list((results / "attributions").rglob("*.safetensors"))
    for path in caches:
        save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}, path)
    assert len(caches) > 2
    assert verified(results, "--rows", "1000")[0] == 0


def test_an_edited_curve_is_found(results: Path, verified) -> None:
    def bend(rows: pd.DataFrame) -> None:
        curve = rows["curve"][0].copy()
        curve[1] += 1e-9
        rows.at[0, "curve"] = curve

    path = edit(record(results, "random", "deletion"), bend, digest=True)
    keep(path)
    code, text, _ = verified(results, "--rows", "1000")
    assert code == 1
    assert f"{path}: the curve of deletion of" in text


def test_name_place_and_cell_must_agree(results: Path, verified) -> None:
    path = record(results, "random", "deletion")
    renamed = path.rename(path.with_name("deletion-0123456789abcdef.parquet"))
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"{renamed}: its name is not the key of its cell, whose file is {path.name}" in text
    moved = renamed.rename(path.parents[1] / "smoothgrad" / path.name)
    assert f"{moved}: it stands among the records of another cell" in verified(results, "--rows", "0")[1]


def test_an_exchanged_cell_is_found(results: Path, verified) -> None:
    other = json.loads(pq.read_schema(record(results, "smoothgrad", "deletion")).metadata[b"assay"])
    path = edit(record(results, "random", "deletion"), change=lambda metadata: metadata.update(cell=other["cell"]))
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"{path}: its name is not the key of its cell" not in text or path.name in text
    assert str(path) in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        *[
            (lambda facts, change=change: facts["measures"][0].update(change), "it states the measures [")
            for change in (
                {"higher_is_better": True},
                {"range": [0.0, float("inf")]},
                {"null": 0.5},
                {"ranked": False},
                {"unit": "%"},
            )
        ],
        (lambda facts: facts["measures"].append({**facts["measures"][0], "name": "more"}), "and states deletion, more"),
        (lambda facts: facts.update(role="oracle"), "it states the role oracle, the code says null"),
        (lambda facts: facts.update(family="axioms"), "it states the family axioms, the code says faithfulness"),
        *[
            (
                lambda facts, name=name: facts["method"].update({name: not facts["method"][name]}),
                "it states the method {",
            )
            for name in ("class_agnostic", "has_baseline", "stochastic", "needs_gradient", "passes")
        ],
        (lambda facts: facts.pop("build"), "its rows have a digest, and it does not say"),
        (lambda facts: facts["environment"].pop("settings"), "its rows have a digest, and it does not say"),
        (
            lambda facts: facts["build"]["metric"].update(_target_="metrics.gone.Gone"),
            "it names metrics.gone.Gone, which",
        ),
        (lambda facts: facts["build"]["model"].update(_target_="benchmark.gone"), "which no file of conf/models does"),
        (lambda facts: facts["build"]["metric"].update(steps=5), "is built with other options than its cell states"),
        (
            lambda facts: facts["build"]["metric"].update(_target_="metrics.insertion.Insertion"),
            "by the name of another",
        ),
        (lambda facts: facts["build"]["model"].update(name="${oc.env:HOME}"), "refers to the machine that reads it"),
        (lambda facts: facts.pop("family"), "it does not state family"),
        (lambda facts: facts.update(measures=[1]), "its facts are not those of a record"),
        (lambda facts: facts["build"].update(metric=3), "its facts are not those of a record"),
    ],
)
def test_edited_facts_are_found(change: Callable[..., Any], sentence: str, results: Path, verified) -> None:
    path = edit(record(results, "random", "deletion"), change=change)
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"refused: {path}: " in text
    assert sentence in text


def test_a_record_cannot_have_any_function_called(results: Path, verified) -> None:
    """Not even one of the project: only what the files of conf name."""
    target = "benchmark.leaderboard.write_tables"
    path = edit(
        record(results, "random", "deletion"),
        change=lambda facts: facts["build"].update(dataset={"_target_": target, "name": str(results)}),
    )
    keep(path)
    code, text, counts = verified(results, "--rows", "10")
    assert code == 1
    assert f"{path}: it names {target}, which no file of conf/datasets does" in text
    assert counts["rows recomputed"] == 0


def set_cell(column: str, value: Any) -> Callable[[pd.DataFrame], None]:
    def change(rows: pd.DataFrame) -> None:
        rows.loc[0, column] = value

    return change


def shorten(rows: pd.DataFrame) -> None:
    rows.at[0, "curve"] = rows["curve"][0][:-1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_cell("status", "fine"), "it has the status fine, known are ok"),
        (set_cell("status", "degenerate"), "only what is ok has a value"),
        (set_cell("value", float("nan")), "only what is ok has a value"),
        (set_cell("measure", "insertion"), "it holds deletion, insertion and states deletion"),
        (lambda rows: rows.__setitem__("uid", [rows["uid"][1], *rows["uid"][1:]]), "not one row for each image"),
        (set_cell("target", 77), "it lists other images or classes than"),
        (set_cell("uid", "digits-9999"), "it lists other images or classes than"),
        (lambda rows: rows[::-1].reset_index(drop=True), "it lists the images in another order than"),
        (shorten, "its curves of deletion have different lengths"),
    ],
)
def test_inconsistent_rows_are_found(change: Callable[..., Any], sentence: str, results: Path, verified) -> None:
    path = edit(record(results, "random", "deletion"), change, digest=True)
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"refused: {path}: " in text
    assert sentence in text


def test_two_classes_of_one_image_are_found(results: Path, verified) -> None:
    path = edit(record(results, "random", "infidelity"), set_cell("target", 77), digest=True)
    assert f"{path}: it explains two classes of one image" in verified(results, "--rows", "0")[1]


def test_scores_of_what_is_not_applicable_are_refused(results: Path, verified) -> None:
    path = record(results, "smoothgrad", "deletion")
    edit(path, change=lambda metadata: metadata.update(reason="has no meaning here"))
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"{path}: it has scores and says that it is not applicable: has no meaning here" in text


def test_images_must_be_those_of_the_data_set(results: Path, verified) -> None:
    """Also where all records agree on others."""
    for path in (results / "records").rglob("*.parquet"):
        edit(path, lambda rows: rows.update({"uid": rows["uid"].str.replace("digits", "other")}), digest=True)
    assert verified(results, "--rows", "0")[0] == 0
    code, text, _ = verified(results, "--rows", "3")
    assert code == 1
    assert "its images or classes are not those of its model and data set" in text


def version(number: str) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata["cell"]["metric"].update(version=number)


def test_versions_are_never_mixed_and_old_ones_are_shown(results: Path, verified) -> None:
    path = edit(record(results, "random", "deletion"), change=version("0"), rename=True)
    code, text, counts = verified(results, "--rows", "0")
    assert code == 1
    assert counts["older"] == 1
    assert "metric deletion was version 0 and is " in text
    assert "metric deletion of version " in text
    assert "a table never mixes versions" in text
    assert path.name in text
    edit(record(results, "smoothgrad", "deletion"), change=version("0"), rename=True)
    code, text, counts = verified(results, "--rows", "0")
    assert code == 0, text
    assert counts["older"] == 2


def other_weights(metadata: dict[str, Any]) -> None:
    metadata["cell"]["model"]["version"] = "0123456789abcdef"


def test_a_record_of_other_weights_is_no_fault(results: Path, verified) -> None:
    """It is counted, and said of it that it ranks; other rows were computed again."""
    other = edit(record(results, "random", "deletion"), change=other_weights, rename=True)
    keep(other, record(results, "random", "insertion"))
    code, text, counts = verified(results, "--rows", "1000")
    assert code == 0, text
    assert "the model small_cnn here is another one: it differs in weights" in text
    assert counts["of them ranked"] == counts["not recomputable"] == 1
    assert counts["rows recomputed"] == IMAGES


def test_nothing_computed_again_is_no_success(results: Path, verified) -> None:
    keep(edit(record(results, "random", "deletion"), change=other_weights, rename=True))
    code, text, counts = verified(results, "--rows", "1000")
    assert code == 2
    assert "nothing could be computed again" in text
    assert counts["of them ranked"] == 1
    assert verified(results, "--rows", "0")[0] == 0, "nobody asked"


def test_timings_need_no_computing(results: Path, verified) -> None:
    keep(record(results, "random", "throughput"))
    code, text, counts = verified(results)
    assert code == 0, text
    assert "of them ranked" not in counts


def test_what_cannot_be_computed_again_must_still_be_what_the_code_says(results: Path, verified) -> None:
    """For want of a place, for want of trust in its method, from before, or a timing."""

    def placeless(metadata: dict[str, Any]) -> None:
        metadata["build"]["model"] = {"_target_": "benchmark.pretrained.timm", "checkpoint": "???"}
        metadata["family"] = "axioms"

    def foreign(metadata: dict[str, Any]) -> None:
        metadata["build"]["method"] = {"_target_": "elsewhere.Method"}
        metadata["measures"][0]["null"] = 0.5

    def from_before(metadata: dict[str, Any]) -> None:
        del metadata["rows"], metadata["build"]
        metadata["role"] = "method"

    def timing(metadata: dict[str, Any]) -> None:
        metadata["measures"][0]["ranked"] = True

    changes = {"deletion": placeless, "insertion": foreign, "srg": from_before, "throughput": timing}
    paths = [edit(record(results, "random", metric), change=change) for metric, change in changes.items()]
    code, text, counts = verified(results, "--rows", "0")
    assert code == 1
    assert counts["refused"] == len(paths)
    assert all(f"refused: {path}: it states the " in text for path in paths)


def whole_cell(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[:1].assign(uid="-", target=-1)


@pytest.mark.parametrize("metric", ["deletion", "custom"])
def test_only_timings_have_rows_of_the_whole_cell(metric: str, results: Path, verified) -> None:
    """Which their class says, and which must not hide other images either."""
    path = edit(record(results, "random", metric.replace("custom", "peak")), whole_cell, digest=True)
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"refused: {path}: it has rows of the whole cell" in text
    assert f"refused: {path}: it lists other images or classes than" in text


def test_timings_have_no_rows_of_images(results: Path, verified) -> None:
    path = edit(record(results, "random", "throughput"), lambda rows: rows.assign(uid="digits-1"), digest=True)
    assert f"{path}: it lists images" in verified(results, "--rows", "0")[1]


def test_every_deviating_file_is_named(results: Path, verified) -> None:
    paths = [record(results, "random", metric) for metric in ("deletion", "insertion")]
    for path in paths:
        edit(path, set_cell("target", 77), digest=True)
    text = verified(results, "--rows", "0")[1]
    assert all(f"refused: {path}: it lists other images or classes than" in text for path in paths)


def test_a_folder_without_null_rows_is_told_so(results: Path, verified) -> None:
    assert "without a null row" not in verified(results, "--rows", "0")[2]
    keep(*(results / "records" / "small_cnn" / "digits" / "smoothgrad").glob("*.parquet"))
    code, text, counts = verified(results, "--rows", "0")
    assert code == 0, text
    assert counts["without a null row"] == 1
    assert "small_cnn × digits: nothing there says" in text


def test_places_are_given_back(results: Path, verified) -> None:
    def elsewhere(metadata: dict[str, Any]) -> None:
        metadata["build"]["model"] = {
            "_target_": "benchmark.pretrained.timm",
            **{"name": "test_resnet", "checkpoint": "???", "classes": 10, "layer": None},
        }

    keep(edit(record(results, "random", "deletion"), change=elsewhere))
    assert "it needs models.checkpoint=... on the command line" in verified(results, "--rows", "0")[1]
    code, text, _ = verified(results, "--rows", "1000", "models.checkpoint=/nowhere/at/all.pth")
    assert code == 2
    assert "there is no checkpoint /nowhere/at/all.pth" in text


def test_elsewhere_the_band_decides(results: Path, verified) -> None:
    """Records that say of themselves that they were made with another torch."""

    def elsewhere(metadata: dict[str, Any]) -> None:
        metadata["environment"]["torch"] = "1.0"

    def off_by(amount: float) -> Callable[[pd.DataFrame], None]:
        def change(rows: pd.DataFrame) -> None:
            rows.loc[0, "value"] += amount

        return change

    area = edit(record(results, "random", "deletion"), off_by(5e-5), elsewhere, digest=True)
    value = edit(record(results, "random", "infidelity"), off_by(0.0), elsewhere, digest=True)
    keep(area, value)
    code, text, counts = verified(results, "--rows", "1000")
    assert code == 0, text
    assert counts["within the band"] == 1
    assert "torch 1.0 then and" in text
    edit(area, off_by(6e-5), digest=True)
    code, text, counts = verified(results, "--rows", "1000")
    assert code == 1
    assert f"{area}: deletion of" in text
    assert ", 1.1 times what may be" in text
    usual = records.read(value).rows
    usual = usual.loc[usual["measure"] == usual["measure"][0], "value"]
    edit(value, off_by(0.9e-3 * usual.median()), digest=True)
    code, text, counts = verified(results, "--rows", "1000")
    assert counts["within the band"] == 1
    assert counts["failed"] == 1


def test_tables_must_be_what_the_records_give(swept: Path, results: Path, verified) -> None:
    shutil.copytree(swept / "tables", results / "tables")
    path = results / "tables" / "leaderboard.csv"
    text = path.read_text()
    lines = text.splitlines()
    path.write_text("\n".join([*lines[:3], lines[3].replace("0.", "0.9", 1), *lines[4:]]) + "\n")
    code, said, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"{path}: line 4 is not what the records give" in said
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert f"{path}: it has {len(lines) - 1} lines" in verified(results, "--rows", "0")[1]
    path.write_text(text)
    assert verified(results, "--rows", "0")[0] == 0
    (stray := path.with_name("leaderboard-final.md")).write_text("| best | mine |")
    code, said, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"refused: {stray}: not a table of these records" in said


def test_a_certificate_is_proved_again_or_refused(
    results: Path, verified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "peak_checks.py").write_text(CHECKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert certify.main(["--checks", "peak_checks", "--results", str(results)]) == 1, "one check fails"
    capsys.readouterr()
    path = results / "certificate-peak_checks.json"
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"{path}: {path.name} is not reproduced: --trust peak_checks runs its checks" in text
    trusting = ("--rows", "0", "--trust", "peak_checks")
    code, text, _ = verified(results, *trusting)
    assert code == 0, text
    true = path.read_text()
    path.write_text(true.replace('"passed": false', '"passed": true'))
    assert f"{path}: its checks, run again, say otherwise of total" in verified(results, *trusting)[1]
    path.write_text(json.dumps({"metrics": {**json.loads(true)["metrics"], "more": {"version": "1", "checks": []}}}))
    assert verified(results, *trusting)[0] == 1
    path.write_text(true)
    (tmp_path / "peak_checks.py").unlink()
    monkeypatch.delitem(sys.modules, "peak_checks")
    assert "its checks cannot be run again: peak_checks is no module" in verified(results, *trusting)[1]


def test_a_copy_of_the_shipped_certificate_is_believed_and_no_other(results: Path, verified) -> None:
    path = results / "certificate.json"
    shutil.copy(SHIPPED, path)
    assert verified(results, "--rows", "0")[0] == 0
    path.write_text(path.read_text() + " ")
    code, text, _ = verified(results, "--rows", "0", "--trust", "certificate")
    assert code == 1
    assert f"refused: {path}: it is not the certificate of this project" in text


def test_files_that_are_no_records_are_named(results: Path, verified) -> None:
    whole = record(results, "random", "deletion")
    cut = record(results, "random", "insertion")
    cut.write_bytes(cut.read_bytes()[:-100])
    pd.DataFrame({"a": [1]}).to_parquet(stray := results / "records" / "stray.parquet")
    columns = whole.with_name("columns.parquet")
    table = pq.read_table(whole, partitioning=None)
    pq.write_table(table.append_column("more", table["value"]), columns)
    code, text, counts = verified(results, "--rows", "0")
    assert code == 1
    assert counts["refused"] == 3
    for path in (cut, stray, columns):
        assert f"refused: {path}: " in text
    assert "expected uid, target, measure, value, status, curve" in text


def test_records_from_before_are_reported(results: Path, verified) -> None:
    def before(metadata: dict[str, Any]) -> None:
        del metadata["rows"], metadata["build"]
        metadata["environment"]["settings"] = "batch_size 3, chunk 392, channels_last"

    path = edit(record(results, "random", "deletion"), change=before)
    assert records.read(path).rows_digest is None
    code, text, counts = verified(results, "--rows", "0")
    assert code == 0, text
    assert counts["without a digest"] == 1
    assert "it is from before records said what they are built from" in text
    keep(path)
    code, text, _ = verified(results, "--rows", "5")
    assert code == 2
    assert "nothing could be computed again" in text


def test_a_submission_has_digests(results: Path, tmp_path: Path, verified, capsys) -> None:
    submission = tmp_path / "submission"
    assert merge.main([str(results), "--out", str(submission)]) == 0
    capsys.readouterr()
    path = edit(record(submission, "random", "deletion"), change=lambda metadata: metadata.pop("rows"))
    code, text, _ = verified(submission, "--rows", "0")
    assert code == 1
    assert f"{path}: it has no digest of its rows, as all of a submission have" in text


def test_numbers_of_an_older_version_are_not_proved(results: Path, verified) -> None:
    """Whatever they are: an exit code of 0 would stand for them."""
    path = edit(record(results, "random", "deletion"), change=version("0"), rename=True)
    keep(path)
    assert verified(results, "--rows", "0")[2]["of them ranked"] == 1
    code, text, _ = verified(results, "--rows", "5")
    assert code == 2
    assert "nothing could be computed again" in text


def test_a_version_to_come_is_refused(results: Path, verified) -> None:
    path = edit(record(results, "random", "deletion"), change=version("99"), rename=True)
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"{path}: it is of version 99 of metric deletion, whose latest is " in text


def test_a_budget_that_the_method_exceeds_is_refused(results: Path, verified) -> None:
    path = edit(record(results, "smoothgrad", "deletion"), change=lambda metadata: metadata.update(budget=2))
    code, text, _ = verified(results, "--rows", "0")
    assert code == 1
    assert f"{path}: it states a budget of 2 passes an image, which its method exceeds" in text


def test_a_folder_without_records_or_a_wrong_word(tmp_path: Path, capsys) -> None:
    assert verify.main([str(tmp_path)]) == 2
    assert f"{tmp_path} holds no records" in capsys.readouterr().err
    for options in (["--rows", "-1"], ["datasets.n=3"], ["--row", "many"]):
        with pytest.raises(SystemExit) as caught:
            verify.main([str(tmp_path), *options])
        assert caught.value.code == 2


@pytest.mark.parametrize("command", [verify, report], ids=["verify", "report"])
@pytest.mark.parametrize("given", ["datasets.n=3", "datasets.root", "here"])
def test_what_is_no_place_is_refused(tmp_path: Path, capsys, command, given: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main([str(tmp_path), given])
    assert caught.value.code == 2
    assert "is no place: expected datasets.root=..., models.checkpoint=..., " in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from benchmark import verify; verify.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "PLACE=VALUE" in done.stdout


def test_names_of_methods_of_other_libraries_are_known() -> None:
    """Their files stand in folders of `conf/methods`."""
    assert recipes._targets("methods")["zennit/epsilon_plus_flat"] == ["methods.zennit_lrp.ZennitLRP"]


def test_plug_ins_within_plug_ins_are_no_other_version() -> None:
    """Two noise tunnels may stand in one table, around methods of different versions; two versions of one may not."""

    def around(base: str, version: str, metric: str = "srg") -> Record:
        options = {"base": {"_target_": f"methods.{base}"}, "samples": 4}
        method = Choice("noise_tunnel", options, f"1+{base.split('.')[1]}@{version}")
        cell = Cell(Choice("cnn"), Choice("shapes"), method, Choice(metric))
        rows = pd.DataFrame([("a", 0, metric, 0.5, "ok", None)], columns=records.SCHEMA.names)
        return Record(cell, rows, {"reason": None})

    first, second = around("gradient.Gradient", "1"), around("smoothgrad.SmoothGrad", "2")
    assert list(integrity.mixed({Path("a"): first, Path("b"): second}, [])) == []
    newer = around("gradient.Gradient", "2", "deletion")
    ((path, sentence),) = integrity.mixed({Path("a"): first, Path("b"): second, Path("c"): newer}, [])
    assert path in (Path("a"), Path("c"))
    assert "method noise_tunnel of version 1+Gradient@" in sentence
