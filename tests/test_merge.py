"""Records of several machines: united whole, never two truths of one cell, and sealed as a submission."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir

from benchmark import integrity, leaderboard, manifest, merge, plugins, records, report, run, subjects
from benchmark.cells import Cell, Choice
from benchmark.choices import CONF
from benchmark.evaluate import Evaluation
from benchmark.progress import Progress
from benchmark.protocols import Measure
from benchmark.records import Record

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 5


def cell(method: str, metric: str = "srg", dataset: str = "shapes", **changes: Any) -> Cell:
    versions = {"version": changes.pop("version", "1")}
    return Cell(
        Choice("small_cnn"),
        Choice(dataset, {"n": changes.pop("n", IMAGES)}),
        Choice(method, **versions),
        Choice(metric),
        **changes,
    )


def file(root: Path, of: Cell, shift: float = 0.0, **environment: Any) -> Path:
    """File a made-up record; `shift` moves the value of its third image."""
    timing = of.device is not None
    uids = ["-"] if timing else [f"image-{index}" for index in range(IMAGES)]
    values = [0.1 * index + shift * (index == (0 if timing else 2)) for index in range(len(uids))]
    rows = [
        (uid, index % 3, of.metric.name, value, "ok", None)
        for index, (uid, value) in enumerate(zip(uids, values, strict=True))
    ]
    facts = {
        "measures": [asdict(Measure(of.metric.name, True, (-1, 1), ranked=not timing))],
        "family": "cost" if timing else "faithfulness",
        "role": "method",
        "reason": None,
        "environment": {"torch": "2.15", "device": "here", "created": "2026-01-01", **environment},
    }
    return records.write(root, Record(of, pd.DataFrame(rows, columns=records.SCHEMA.names), facts))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two machines: each has a cell of its own, one they share."""
    one, other = tmp_path / "one", tmp_path / "other"
    for root, method in ((one, "rise"), (other, "lime")):
        file(root, cell(method))
        file(root, cell("random"), host=root.name)
    return one, other


@pytest.fixture
def merged(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command: its exit code, and all that it prints."""

    def run_(*arguments: object) -> tuple[int, str]:
        code = merge.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out + printed.err

    return run_


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- uniting ---


def test_equal_cells_are_kept_once_and_sources_stay(folders: tuple[Path, Path], tmp_path: Path, merged) -> None:
    before = [contents(folder) for folder in folders]
    code, text = merged(*folders, "--out", tmp_path / "all")
    assert code == 0, text
    assert [contents(folder) for folder in folders] == before
    united = contents(tmp_path / "all")
    assert united.pop("manifest.json")
    assert united == before[1] | before[0]  # byte by byte; of the shared cell the file of the first
    assert len(united) == 3
    assert "records: 3 (2 from" in text
    assert "in several folders with equal rows, kept once: 1" in text
    assert "coverage: 3 of 3 cells" in text


def test_without_out_the_first_folder_receives(folders: tuple[Path, Path], merged) -> None:
    one, other = folders
    before, lent = contents(one), contents(other)
    written = {place: (one / place).stat().st_ino for place in before}
    code, text = merged(one, other)
    assert code == 0, text
    assert {place: (one / place).stat().st_ino for place in before} == written  # not even by itself
    after = contents(one)
    assert {place: after[place] for place in before} == before
    assert set(after) == set(before) | set(lent)
    assert contents(other) == lent
    assert merged(one, other)[0] == 0
    assert contents(one) == after


def test_another_truth_of_one_cell_is_refused_and_nothing_is_written(
    folders: tuple[Path, Path], tmp_path, merged
) -> None:
    one, other = folders
    path = records.record_path(other, cell("random"))
    path.unlink()
    file(other, cell("random"), shift=0.25, torch="2.14", device="there")
    before = contents(one)
    for arguments in ((one, other), (one, other, "--out", tmp_path / "all")):
        code, text = merged(*arguments)
        assert code == 1
        assert f"refused: {path}: it has the key of {records.record_path(one, cell('random'))}" in text
        assert "1 of 5 differ, most srg of image-2, by 0.25" in text
        assert "device here, host one, torch 2.15; this one with device there, host None, torch 2.14" in text
    assert contents(one) == before
    assert not (tmp_path / "all").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def change(root: Path, of: Cell, rows: Callable[[pd.DataFrame], pd.DataFrame], **facts: Any) -> Path:
    """File the record of `of` with other rows or facts."""
    path = records.record_path(root, of)
    record = records.read(path)
    path.unlink()
    return records.write(root, Record(of, rows(record.rows), {**record.facts, **facts}))


@pytest.mark.parametrize(
    ("rows", "facts", "sentence"),
    [
        (lambda rows: rows.iloc[::-1], {}, "the same images in another order"),
        (lambda rows: rows.iloc[1:], {}, "other images: 1 rows are in one of the two alone"),
        (lambda rows: rows.assign(target=0), {}, "in more than a number"),
        (lambda rows: rows.assign(curve=[[0.0, 1.0]] * len(rows)), {}, "5 of 5 differ"),
        (lambda rows: rows, {"role": "oracle"}, "states another role"),
        (lambda rows: rows, {"family": "axioms"}, "states another family"),
    ],
)
def test_every_other_contradiction_is_named(rows, facts, sentence: str, folders: tuple[Path, Path], merged) -> None:
    path = change(folders[1], cell("random"), rows, **facts)
    code, text = merged(*folders)
    assert code == 1
    assert str(path) in text
    assert sentence in text


def test_curves_are_compared_too(folders: tuple[Path, Path], merged) -> None:
    for folder, end in zip(folders, (1.0, 1.5), strict=True):
        change(folder, cell("random"), lambda rows, end=end: rows.assign(curve=[[0.0, end]] * len(rows)))
    code, text = merged(*folders)
    assert code == 1
    assert "5 of 5 differ, most srg of image-0, by 0.5" in text


def test_the_sign_of_a_zero_is_no_contradiction(folders: tuple[Path, Path], merged) -> None:
    """Two processors may leave either; the first image of each made-up record scores 0."""
    one, other = folders
    record = records.read(records.record_path(one, cell("rise")))
    record.rows.loc[0, "value"] = -0.0
    records.write(other, record)
    code, text = merged(one, other)
    assert code == 0, text
    assert "in several folders with equal rows, kept once: 2" in text


def test_times_are_no_contradiction(folders: tuple[Path, Path], tmp_path: Path, merged) -> None:
    timing = cell("rise", "throughput", device="cpu")
    for folder, shift in zip(folders, (0.5, 0.7), strict=True):
        file(folder, timing, shift=shift)
    code, text = merged(*folders, "--out", tmp_path / "all")
    assert code == 0, text
    assert "that of the first kept: 1" in text
    assert records.read(records.record_path(tmp_path / "all", timing)).rows["value"].tolist() == [0.5]


def test_what_one_machine_failed_another_may_have(folders: tuple[Path, Path], tmp_path: Path, merged) -> None:
    one, other = folders
    records.write_error(one, cell("lime"), "out of memory")
    records.write_error(one, cell("shap"), "out of memory")
    records.write_error(other, cell("shap"), "another reason")
    code, text = merged(one, other, "--out", tmp_path / "all")
    assert code == 0, text
    assert [(cell.title, reason) for cell, reason in records.read_errors(tmp_path / "all")] == [
        ("small_cnn/shapes/shap/srg", "out of memory")
    ]
    assert "errors of cells that have a record elsewhere, dropped: 1" in text
    assert "missing: 1, of them failed: 1" in text
    merged(one, other)
    assert [cell.method.name for cell, _ in records.read_errors(one)] == ["shap"]


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-20])
    return path


def swap(path: Path) -> Path:
    other = path.parents[1] / "lime" / records.record_path(Path(), cell("lime")).name
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)
    return path


def misplace(path: Path) -> Path:
    (path.parents[1] / "best").mkdir()
    return path.rename(path.parents[1] / "best" / path.name)


@pytest.mark.parametrize(
    ("forge", "sentence"),
    [
        (truncate, "is no record of this project, or damaged"),
        (swap, "its name is not the key of its cell"),
        (misplace, "it stands among the records of another cell"),
    ],
)
def test_damaged_and_misplaced_records_are_refused(forge, sentence: str, folders: tuple[Path, Path], merged) -> None:
    path = forge(records.record_path(folders[1], cell("random")))
    before = contents(folders[0])
    code, text = merged(*folders)
    assert code == 1
    assert str(path) in text
    assert sentence in text
    assert contents(folders[0]) == before


def test_a_certificate_of_own_metrics_comes_along(folders: tuple[Path, Path], tmp_path: Path, merged) -> None:
    one, other = folders
    for folder in folders:
        (folder / "certificate-mine.json").write_text('{"metrics": {}}')
    (other / "certificate.json").write_text("of the project: goes with the project")
    assert merged(one, other, "--out", tmp_path / "all")[0] == 0
    assert sorted(path.name for path in (tmp_path / "all").glob("cert*")) == ["certificate-mine.json"]
    (other / "certificate-mine.json").write_text('{"metrics": {"srg": {}}}')
    code, text = merged(one, other)
    assert code == 1
    assert f"{other / 'certificate-mine.json'}: it says otherwise than {one / 'certificate-mine.json'}" in text


def test_names_that_stand_for_several_choices_are_reported(folders: tuple[Path, Path], merged) -> None:
    one, other = folders
    file(other, cell("lime", n=9))
    file(other, cell("rise", version="2"))
    code, text = merged(one, other)
    assert code == 0, text
    assert "note: dataset shapes stands for several, which tables keep apart: shapes(n=5), shapes(n=9)" in text
    assert "note: method rise stands for several, which tables keep apart: rise@1, rise@2" in text
    assert "a table never mixes versions" in text


def test_coverage_counts_and_lists_what_the_grid_lacks() -> None:
    grid = [cell(method, metric, dataset) for dataset in "pq" for method in "abc" for metric in ("srg", "deletion")]
    assert merge.coverage(grid) == ["coverage: 12 of 12 cells (models 1 × data sets 2 × methods 3 × metrics 2)"]
    lacking = [one for one in grid if one.title not in ("small_cnn/p/a/srg", "small_cnn/p/b/srg", "small_cnn/q/c/srg")]
    lacking = [one for one in lacking if one.title != "small_cnn/q/c/deletion"]
    assert merge.coverage(lacking, [grid[0]]) == [
        "coverage: 8 of 12 cells (models 1 × data sets 2 × methods 3 × metrics 2)",
        "missing: 4, of them failed: 1",
        "  small_cnn × p: srg of a, b",
        "  small_cnn × q: everything of c",
    ]
    whole = [one for one in grid if one.dataset.name == "p"] + [grid[6]]
    assert merge.coverage(whole)[2:] == ["  small_cnn × q: deletion of a", "  small_cnn × q: everything of b, c"]
    timings = [cell("a", "throughput", device="cpu"), cell("b", "throughput", device="cuda")]
    assert merge.coverage(timings)[0].startswith("coverage: 2 of 2 cells")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("{one}",), "there is nothing to unite with"),
        (("{one}", "{one}"), "is named twice"),
        (("{one}", "{tmp}/nowhere"), "nowhere holds no records"),
        (("{one}", "--out", "{other}"), "is there already"),
        (("{one}", "{other}", "--out", "{one}/records/all"), "which is read only"),
    ],
)
def test_mistakes_get_one_sentence(arguments, sentence: str, folders: tuple[Path, Path], tmp_path, merged) -> None:
    names = {"one": folders[0], "other": folders[1], "tmp": tmp_path}
    code, text = merged(*(argument.format(**names) for argument in arguments))
    assert code == 2
    assert text.startswith("error: ")
    assert sentence in text
    assert text.count("\n") == 1


def test_the_folder_that_it_runs_in_is_no_place(folders: tuple[Path, Path], tmp_path, merged, monkeypatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    code, text = merged(*folders, "--out", ".")
    assert (code, text) == (2, "error: --out . is the folder that this runs in: --out needs a new folder\n")


@pytest.mark.parametrize("out", [True, False])
def test_an_interrupted_merge_leaves_whole_files(
    out: bool, folders: tuple[Path, Path], tmp_path: Path, merged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the second file is half copied; the same command goes on."""
    one, other = folders
    for method in ("sobel", "constant"):
        file(other, cell(method))
    copy, copied = shutil.copyfile, []

    def interrupted(source: Path, place: Path) -> None:
        copied.append(copy(source, place))
        if len(copied) > 1:
            Path(place).write_bytes(b"half")
            raise KeyboardInterrupt

    arguments = (one, other, *(("--out", tmp_path / "all") if out else ()))
    monkeypatch.setattr(shutil, "copyfile", interrupted)
    code, text = merged(*arguments)
    assert (code, text.count("\n")) == (130, 1)
    assert text.startswith("interrupted: ")
    assert not list(tmp_path.rglob(".*"))
    assert not (tmp_path / "all").exists()
    assert len(list(records.read_all(one))) == (2 if out else 3)
    monkeypatch.setattr(shutil, "copyfile", copy)
    assert merged(*arguments)[0] == 0
    assert len(list(records.read_all(tmp_path / "all" if out else one))) == 5


# --- the manifest ---


@pytest.fixture
def submission(folders: tuple[Path, Path], tmp_path: Path, merged) -> Path:
    assert merged(*folders, "--out", tmp_path / "submission")[0] == 0
    return tmp_path / "submission"


def test_what_the_manifest_says(submission: Path) -> None:
    filed = json.loads((submission / "manifest.json").read_text())
    assert set(filed["files"]) == set(contents(submission)) - {"manifest.json"}
    for place, digest in filed["files"].items():
        theirs = subprocess.run(["sha256sum", submission / place], capture_output=True, text=True, check=True)
        assert theirs.stdout.split()[0] == digest
    counted = {"records": 3, "failed": 0, "images": IMAGES, "model": 1, "dataset": 1, "method": 3, "metric": 1}
    assert filed["counts"] == counted
    assert filed["versions"]["method"] == {"lime": ["1"], "random": ["1"], "rise": ["1"]}
    # Version 1 of SRG is not the one that the certificate lets rank.
    assert filed["certificate"]["ranks"] == {"srg": []}
    assert [made["records"] for made in filed["environments"]] == [3]
    assert list(manifest.faults(submission)) == []


def test_equal_records_give_an_equal_manifest(folders: tuple[Path, Path], submission: Path, tmp_path, merged) -> None:
    merged(*folders, "--out", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(submission)


def test_a_submission_is_closed(folders: tuple[Path, Path], submission: Path, tmp_path: Path, merged) -> None:
    code, text = merged(submission, folders[0])
    assert code == 2
    assert "is a submission, which its manifest closes" in text
    assert merged(submission, folders[0], "--out", tmp_path / "more")[0] == 0
    truncated = truncate(records.record_path(submission, cell("rise")))
    code, text = merged(submission, folders[0], "--out", tmp_path / "worse")
    assert code == 1
    assert f"{truncated}: its SHA-256 is not the one that manifest.json states" in text


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def forge(root: Path) -> None:
        filed = json.loads((root / "manifest.json").read_text())
        change(filed)
        (root / "manifest.json").write_text(json.dumps(filed))

    return forge


def forget(filed: dict[str, Any]) -> None:
    filed["files"].popitem()


@pytest.mark.parametrize(
    ("forge", "sentence"),
    [
        (lambda root: records.record_path(root, cell("rise")).unlink(), "lists it, and it is not there"),
        (lambda root: file(root, cell("shap")), "manifest.json does not list it"),
        (lambda root: (root / "read.me").write_text("x"), "manifest.json does not list it"),
        (lambda root: (root / "manifest.json").write_text("[" * 10**5), "is no manifest of this project, or damaged"),
        (lambda root: (root / "records" / "link").symlink_to(root.parent / "one"), "it is a link"),
        (lambda root: swap(records.record_path(root, cell("random"))), "its SHA-256 is not the one"),
        (edit(forget), "manifest.json does not list it"),
        (edit(lambda filed: filed["files"].update({"../one": "0"})), "lists it, and it is not there"),
        (edit(lambda filed: filed["counts"].update(records=4)), "what it says of counts is not"),
        (edit(lambda filed: filed["versions"]["method"].update(rise=["2"])), "what it says of versions is not"),
        (edit(lambda filed: filed["certificate"]["ranks"].update(srg=["1"])), "what it says of certificate is not"),
        (edit(lambda filed: filed["environments"][0].update(torch="9")), "what it says of environments is not"),
        (edit(lambda filed: filed.update(winner="rise")), "what it says of winner is not"),
        (edit(lambda filed: filed.pop("counts")), "is no manifest of this project"),
        (edit(lambda filed: filed.update(format=2)), "a format that this version cannot read"),
        (lambda root: (root / "manifest.json").write_text("{"), "is no manifest of this project"),
        (lambda root: (root / "manifest.json").write_bytes(b"\xff"), "is no manifest of this project"),
    ],
)
def test_a_forged_submission_is_refused(forge: Callable[[Path], Any], sentence: str, submission: Path) -> None:
    forge(submission)
    assert any(sentence in said for _, said in manifest.faults(submission)), list(manifest.faults(submission))


def test_another_certificate_is_no_fault(submission: Path) -> None:
    edit(lambda filed: filed["certificate"].update(sha256="0", ranks={"srg": ["1"]}))(submission)
    filed = manifest.read(submission)
    assert filed is not None
    assert manifest.other_certificate(filed)
    assert list(manifest.faults(submission)) == []


def test_what_is_made_of_the_records_of_a_submission_may_stand_beside_them(submission: Path, tmp_path, merged) -> None:
    report.write_report(submission, images=0)
    leaderboard.write_tables(submission)
    (submission / "figures").mkdir()
    (submission / "figures" / "validity.png").touch()
    assert list(manifest.faults(submission)) == []
    assert integrity.of_tables(submission)[1] == []
    assert merged(submission, "--out", tmp_path / "again")[0] == 0
    assert set(contents(tmp_path / "again")) == set(manifest.document(submission)["files"]) | {"manifest.json"}
    (submission / "records" / "report.html").touch()
    assert [path for path, _ in manifest.faults(submission)] == [submission / "records" / "report.html"]


@pytest.mark.parametrize("name", sorted(manifest.DERIVED))
def test_a_link_is_refused_under_a_name_of_what_is_made_of_records_too(submission: Path, tmp_path, name: str) -> None:
    (submission / name).symlink_to(tmp_path)
    assert [path for path, _ in manifest.faults(submission)] == [submission / name]


def test_tables_of_a_submission_are_checked_against_its_records(submission: Path) -> None:
    leaderboard.write_tables(submission)
    assert list(manifest.faults(submission)) == []
    table = submission / "tables" / "leaderboard.md"
    table.write_text(table.read_text().replace("0.2", "0.3"))
    assert [path for path, _ in integrity.of_tables(submission)[1]] == [table]


# --- the workflows ---

WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}


@pytest.fixture(scope="module")
def leaderboard_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one submission on its branch main, and another folder of records beside it."""
    folder = tmp_path_factory.mktemp("repository")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = ("models=small_cnn", "datasets=digits", "datasets.n=4", "metrics=[deletion,insertion,srg]")
        configs = {name: compose("config", [*chosen, f"methods={name}"]) for name in ("random", "saliency")}
        subject = subjects.load(configs["random"])
        for name, config in configs.items():
            method = plugins.build(config.methods)
            choice = plugins.choose(name, method, config.methods)
            outcomes = Evaluation(folder / name, subject, choice, method, Progress(1)).run(run._metrics(config, set()))
            assert {outcome.status for outcome in outcomes} <= {"computed", "filed"}
    assert merge.main([str(folder / "random"), "--out", str(folder / "submissions" / "baselines")]) == 0
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "remote", "add", "origin", ".")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    named = ["-c", "user.name=lab", "-c", "user.email=lab@example.org"]
    done = subprocess.run(["git", *named, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "submissions")
    git(folder, "commit", "--quiet", "-m", "submissions")
    return git(folder, "rev-parse", "HEAD")


def check(repository: Path, change: Callable[[Path], Any], rows: int, folder: Path) -> tuple[int, str]:
    """Run the commands of the workflow on a pull request that makes `change`, up to the first that fails."""
    clone = folder / "clone"
    shutil.copytree(repository, clone, ignore=shutil.ignore_patterns("attributions"))
    base = git(clone, "rev-parse", "HEAD")
    git(clone, "checkout", "--quiet", "-b", "lab")
    change(clone)
    head = commit(clone)
    git(clone, "checkout", "--quiet", "main")
    steps = [step["run"] for step in WORKFLOWS["submission"]["jobs"]["check"]["steps"] if "run" in step]
    assert steps[0].count("pip install") == 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "BASE": base, "HEAD": head}
    printed = ""
    for step in steps[1:]:
        assert "--rows 200" in step or "verify" not in step
        script = step.replace("--rows 200", f"--rows {rows}")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
        )
        printed += done.stdout + done.stderr
        if done.returncode:
            return done.returncode, printed
    return 0, printed


def submit(root: Path) -> Path:
    merge.main([str(root / "saliency"), "--out", str(root / "submissions" / "lab")])
    return root / "submissions" / "lab"


def change_published(root: Path) -> None:
    submit(root)
    next((root / "submissions" / "baselines").rglob("srg-*.parquet")).unlink()


def contradict(root: Path) -> None:
    """A submission that is sound by itself, and says otherwise of a published cell."""
    record = records.read(next((root / "random").rglob("deletion-*.parquet")))
    record.rows.loc[0, "value"] += 0.25
    records.write(root / "saliency", record)
    submit(root)


def test_the_workflow_accepts_a_submission(leaderboard_repository: Path, tmp_path: Path) -> None:
    code, text = check(leaderboard_repository, submit, 2, tmp_path)
    assert code == 0, text
    assert "== submissions/lab" in text
    assert "== submissions/baselines" not in text
    table = (tmp_path / "clone" / "leaderboard" / "tables" / "leaderboard.md").read_text()
    assert "saliency" in table
    assert "random" in table


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (change_published, "published files are never changed"),
        (contradict, "it has the key of submissions/baselines"),
        (lambda root: (submit(root) / "manifest.json").unlink(), "it has no manifest.json"),
    ],
)
def test_the_workflow_refuses_a_forgery(change, sentence: str, leaderboard_repository: Path, tmp_path: Path) -> None:
    code, text = check(leaderboard_repository, change, 0, tmp_path)
    assert code == 1
    assert sentence in text


def test_workflows_have_no_right_to_write_and_test_every_python() -> None:
    assert set(WORKFLOWS) >= {"submission", "test"}
    for workflow in WORKFLOWS.values():
        assert "pull_request_target" not in workflow[True]  # YAML reads the key `on` as a truth value
        for job in workflow["jobs"].values():
            assert all("uses" in step or step["run"].strip() for step in job["steps"])
    for name in ("submission", "test"):
        assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
        assert "secrets." not in (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    assert WORKFLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    commands = [step["run"] for step in WORKFLOWS["test"]["jobs"]["test"]["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
