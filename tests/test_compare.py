"""Is a new method better? Every number against another library or hand calculation, every refusal by name."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from benchmark import compare, integrity, leaderboard, records, verdicts
from benchmark.cells import Cell, Choice
from benchmark.protocols import Measure
from benchmark.records import Record
from benchmark.verdicts import Question, answer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()

MEASURES = {
    "srg": ("faithfulness", [Measure("srg", True, (-1, 1))]),
    "deletion": ("faithfulness", [Measure("deletion", False, (0, 1))]),
    "spread": ("complexity", [Measure("spread", None, (0, 1), ranked=False)]),
    "throughput": ("cost", [Measure("images_per_second", True, (0, math.inf), ranked=False, unit="1/s")]),
}


@pytest.fixture(autouse=True)
def _all_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of these tests are made up: their metrics may rank, unless a test says otherwise."""
    monkeypatch.setattr(leaderboard, "certified", lambda root: None)


def cell(method: str, metric: str = "srg", **changes: Any) -> Cell:
    options = {
        "model": "small_cnn",
        "dataset": "shapes",
        "version": "1",
        "metric_version": "1",
        "device": None,
    } | changes
    return Cell(
        Choice(options["model"]),
        Choice(options["dataset"], {"n": options.get("n", 48)}),
        Choice(method, version=options["version"]),
        Choice(metric, version=options["metric_version"]),
        device=options["device"],
    )


def file(root: Path, of: Cell, values: Any, reason: str | None = None, **facts: Any) -> Path:
    """File a made-up record: a value an image, degenerate where it is NaN, not applicable where there is a reason."""
    family, measures = MEASURES[of.metric.name]
    uids = ["-"] if of.device else [f"image-{index:03d}" for index in range(len(values))]
    rows = [
        (uid, index % 10, measures[0].name, float(value), status_of(value, reason), None)
        for index, (uid, value) in enumerate(zip(uids, values, strict=True))
    ]
    stated = {"measures": [asdict(each) for each in measures], "family": family, "role": "method", "reason": reason}
    stated |= {
        "environment": {"created": facts.pop("created", "2026-01-01")},
        "method": {"passes": facts.pop("passes", None)},
    }
    return records.write(root, Record(of, pd.DataFrame(rows, columns=records.SCHEMA.names), stated))


def status_of(value: float, reason: str | None) -> str:
    if reason:
        return "not_applicable"
    return "ok" if math.isfinite(value) else "degenerate"


def scores(mean: float, seed: int, images: int = 48, spread: float = 0.1) -> np.ndarray:
    return mean + spread * np.random.default_rng(seed).standard_normal(images)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three methods on two data sets: `new` beats `old` clearly, and is much like `twin`."""
    for dataset in ("shapes", "digits"):
        for seed, (method, gain, passes) in enumerate((("new", 0.3, 30), ("old", 0.0, 2), ("twin", 0.28, 30))):
            shift = 10 * (dataset == "digits") + seed
            file(tmp_path, cell(method, dataset=dataset), scores(gain, shift), passes=passes)
            file(tmp_path, cell(method, "deletion", dataset=dataset), scores(0.6 - gain, 3 + shift), passes=passes)
            file(tmp_path, cell(method, "spread", dataset=dataset), scores(0.5, 6 + shift), passes=passes)
    return tmp_path


@pytest.fixture
def compared(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command: its exit code, and all that it prints."""

    def run(*arguments: object) -> tuple[int, str]:
        code = compare.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out + printed.err

    return run


def asked(root: Path, *rivals: str, **options: Any) -> pd.DataFrame:
    return answer(leaderboard.tidy(root), Question("new", rivals, **options))


def line(found: pd.DataFrame, column: str, rival: str, dataset: str = "shapes") -> pd.Series:
    rows = found[(found["column"] == column) & (found["rival"] == rival) & (found["dataset"] == dataset)]
    assert len(rows) == 1
    return rows.iloc[0]


# --- numbers ---


def test_numbers_are_those_of_other_libraries(root: Path) -> None:
    found = asked(root, "old", "twin", test="wilcoxon")
    judged = found[found["kind"] == "compared"]
    assert len(judged) == 2 * 2 * 2
    a, b = scores(0.3, 0), scores(0.28, 2)
    row = line(found, "srg", "twin")
    assert row["mean"] == pytest.approx(a.mean())
    assert row["rival_mean"] == pytest.approx(b.mean())
    assert row["difference"] == pytest.approx((a - b).mean())
    assert row["superiority"] == pytest.approx(np.mean(a > b))
    assert row["effect"] == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    theirs = [stats.wilcoxon(scores(0.3, 0), other).pvalue for other in (scores(0.0, 1), scores(0.28, 2))]
    assert [line(found, "srg", rival)["p"] for rival in ("old", "twin")] == pytest.approx(theirs, rel=1e-6)
    corrected = multipletests(judged["p"], method="holm")[1]
    np.testing.assert_allclose(judged["p_holm"].astype(float), corrected)


def test_the_interval_is_that_of_the_differences(root: Path) -> None:
    row = line(asked(root, "twin"), "srg", "twin")
    differences = scores(0.3, 0) - scores(0.28, 2)
    theirs = stats.bootstrap((differences,), np.mean, n_resamples=20_000, rng=np.random.default_rng(1))
    low, high = theirs.confidence_interval
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.03 * (high - low))
    assert row["half"] == pytest.approx(1.96 * scores(0.3, 0).std(ddof=1) / math.sqrt(48), rel=0.06)


def test_a_lower_score_is_better_where_the_metric_says_so(root: Path) -> None:
    found = asked(root, "old")
    for column in ("srg", "deletion"):
        row = line(found, column, "old")
        assert row["verdict"] == "better"
        assert row["superiority"] > 0.9
        assert np.sign(row["difference"]) == (1 if column == "srg" else -1)
    reverse = answer(leaderboard.tidy(root), Question("old", ("new",)))
    assert set(reverse.loc[reverse["kind"] == "compared", "verdict"]) == {"worse"}


def test_how_many_more_images_agrees_with_the_t_test(root: Path) -> None:
    found = asked(root, "twin")
    family = int((found["kind"] == "compared").sum())
    row = line(found, "srg", "twin")
    needed = TTestPower().solve_power(abs(row["effect"]), alpha=0.05 / family, power=0.9, alternative="two-sided")
    assert row["more_images"] == pytest.approx(needed - 48, abs=2)
    assert row["verdict"] == f"no difference shown; {row['more_images']:,.0f} more images would be needed"


@pytest.mark.parametrize(
    ("p", "direction", "more", "words"),
    [
        (0.05, 1, 0, "better"),
        (0.01, -1, 100, "worse"),
        (0.01, 0, 100, "different, but mean and ranks point apart"),
        (0.0501, 1, 340.0, "no difference shown; 340 more images would be needed"),
        (0.9, 1, 1.0, "no difference shown; 1 more image would be needed"),
        (0.9, 1, 12345.0, "no difference shown; 12,345 more images would be needed"),
        (0.9, 0, math.inf, "no difference shown"),
        (0.9, 1, -3.0, "no difference shown"),
        (math.nan, 0, math.nan, "no difference shown"),
    ],
)
def test_verdicts_in_words(p: float, direction: int, more: float, words: str) -> None:
    assert verdicts._verdict(p, direction, more) == words


def test_equal_scores_are_no_difference(root: Path) -> None:
    for dataset in ("shapes", "digits"):
        file(root, cell("copy", dataset=dataset), scores(0.3, 10 * (dataset == "digits")))
    row = line(asked(root, "copy", columns=("srg",)), "srg", "copy")
    assert (row["difference"], row["superiority"], row["p"], row["verdict"]) == (0, 0.5, 1, "no difference shown")


def test_where_mean_and_ranks_point_apart_it_is_said(root: Path) -> None:
    """Forty images a little better, eight much worse: the ranks are for it, the mean against."""
    base = scores(0.0, 99)
    gains = np.r_[np.linspace(0.010, 0.011, 40), np.full(8, -0.5)]
    file(root, cell("new", dataset="skewed"), base + gains)
    file(root, cell("old", dataset="skewed"), base)
    row = line(asked(root, "old", datasets=("skewed",), test="wilcoxon"), "srg", "old", "skewed")
    assert row["p_holm"] < 0.05
    assert row["verdict"] == "different, but mean and ranks point apart"


def test_images_without_a_difference_take_the_lowest_ranks(root: Path) -> None:
    """As in the test itself (Pratt): sixty gains outweigh thirty losses that are hardly larger (else 1830 : 2265)."""
    gains = np.r_[np.zeros(300), np.linspace(1.0, 1.1, 60), np.linspace(-1.2, -1.3, 30)]
    file(root, cell("new", dataset="tied"), gains)
    file(root, cell("old", dataset="tied"), np.zeros(390))
    row = line(asked(root, "old", datasets=("tied",), test="wilcoxon"), "srg", "old", "tied")
    assert row["p"] < 0.05
    assert row["verdict"] == "better"


def test_images_without_a_score_are_left_out_in_pairs(tmp_path: Path) -> None:
    a, b = scores(0.3, 0), scores(0.0, 1)
    a[:3], b[2:5] = np.nan, np.nan
    file(tmp_path, cell("new"), a)
    file(tmp_path, cell("old"), b)
    row = line(asked(tmp_path, "old"), "srg", "old")
    assert (row["images"], row["total"]) == (43, 48)
    assert row["mean"] == pytest.approx(a[5:].mean())
    assert row["difference"] == pytest.approx((a - b)[5:].mean())


def test_a_large_family_can_still_be_significant() -> None:
    """With 10,000 permutations no p would survive the correction for 520 comparisons."""
    pair = (scores(1, 0, 20), scores(0, 1, 20))
    row = {"kind": "compared", "scores": pair, "p": 1 / 10_001, "effect": 3.0, "images": 20, "test": "permutation"}
    judged = verdicts._judged([dict(row) for _ in range(520)], "permutation")
    assert {each["verdict"] for each in judged} == {"better"}


# --- what gets no verdict ---


def test_columns_that_do_not_rank_stand_apart(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = line(asked(root, "old"), "spread", "old")
    assert (row["kind"], row["verdict"]) == ("described", "")
    assert math.isnan(row["p"])
    assert row["difference"] == pytest.approx((scores(0.5, 6) - scores(0.5, 7)).mean())
    monkeypatch.setattr(leaderboard, "certified", lambda root: {("deletion", "1")})
    found = asked(root, "old")
    assert set(found.loc[found["kind"] == "compared", "column"]) == {"deletion"}
    assert set(found.loc[found["kind"] == "described", "column"]) == {"srg", "spread"}


def test_cells_without_meaning_say_why(root: Path, compared) -> None:
    for method, values, reason in (("new", scores(0, 0), None), ("old", [math.nan] * 48, "it makes no such claim")):
        file(root, cell(method, dataset="other"), values, reason)
    code, text = compared(root, "new", "--against", "old")
    assert code == 0, text
    assert "not compared: srg: old: it makes no such claim" in text


def test_costs_are_compared_on_one_device_alone(root: Path) -> None:
    for method, device, pace, passes in (
        ("new", "cpu", 5.0, 30),
        ("old", "cpu", 50.0, 2),
        ("new", "H100", 100.0, 30),
        ("twin", "H200", 100.0, 30),
    ):
        file(root, cell(method, "throughput", device=device), [pace], passes=passes)
    found = asked(root, "old", "twin", datasets=("shapes",))
    costs = found[found["kind"] == "cost"].set_index(["rival", "column"])
    assert costs["ratio"]["old", "passes an image"] == 15
    assert costs["ratio"]["twin", "passes an image"] == 1
    assert costs["ratio"]["old", "seconds an image on cpu"] == pytest.approx(10)
    assert costs["mean"]["old", "seconds an image on cpu"] == pytest.approx(0.2)
    assert ("old", "seconds an image on H100") not in costs.index
    assert costs["reason"]["twin", "seconds an image"] == "timed on different devices"
    assert set(found.loc[found["kind"] == "compared", "column"]) == {"srg", "deletion"}


# --- refusals ---


def remove(root: Path, of: Cell) -> None:
    records.record_path(root, of).unlink()


def fail(root: Path, of: Cell) -> None:
    remove(root, of)
    records.write_error(root, of, "out of memory")


def replace(root: Path, of: Cell, by: Cell, images: int = 48) -> None:
    remove(root, of)
    file(root, by, scores(0, 0, images))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda root: remove(root, cell("old")), "srg: no record of old on small_cnn × shapes"),
        (lambda root: fail(root, cell("old")), "srg: old failed on small_cnn × shapes"),
        (lambda root: fail(root, cell("new")), "srg: new failed on small_cnn × shapes"),
        (
            lambda root: replace(root, cell("old"), cell("old"), images=40),
            "srg: new and old list other images or classes on small_cnn × shapes (48 and 40, 40 in both)",
        ),
        (
            lambda root: replace(root, cell("old"), cell("old", metric_version="2")),
            "srg@1: no record of old on small_cnn × shapes, which has srg@2: another version, protocol",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(change: Callable[[Path], Any], sentence: str, root: Path, compared) -> None:
    change(root)
    code, text = compared(root, "new", "--against", "old,twin", "--dataset", "shapes")
    assert code == 2
    assert text.startswith("error: cannot compare ")
    assert sentence in text
    assert text.count("\n") == 1
    assert not (root / "tables").exists()
    code, text = compared(root, "new", "--against", "old,twin", "--dataset", "digits")
    assert code == 0, text


def test_two_versions_of_a_metric_are_refused(root: Path, compared) -> None:
    """One family would hold the same question twice; a method's versions may be compared."""
    for method in ("new", "old"):
        file(root, cell(method, metric_version="2"), scores(0.1, 3), created="2026-02-01")
    code, text = compared(root, "new", "--against", "old")
    assert code == 2
    said = "a comparison never mixes versions of a metric (small_cnn on shapes: srg@2, srg@1): --metric srg@2 chooses"
    assert text == f"error: {said} the one that was filed last\n"
    assert not (root / "tables").exists()
    for version in ("1", "2"):
        code, text = compared(root, "new", "--against", "old", "--metric", f"srg@{version}")
        assert code == 0, text
    assert compared(root, "new", "--against", "old", "--dataset", "digits", "--metric", "srg@1")[0] == 0
    assert compared(root, "new", "--against", "old", "--metric", "deletion")[0] == 0


def test_other_lists_of_images_are_other_data_sets(root: Path, compared) -> None:
    for metric in ("srg", "deletion", "spread"):
        replace(root, cell("old", metric), cell("old", metric, n=40), images=40)
    code, text = compared(root, "new", "--against", "old", "--model", "small_cnn", "--metric", "srg")
    assert code == 2
    assert "no record of old on small_cnn × shapes(n=48), which has small_cnn × shapes(n=40)" in text


def test_what_the_method_was_not_asked_for_is_not_compared(root: Path) -> None:
    file(root, cell("old", dataset="elsewhere"), scores(0, 0))
    assert "elsewhere" not in set(asked(root, "old")["dataset"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("newer", "--against", "old"), "method newer does not exist; did you mean new?"),
        (("new", "--against", "old,twn"), "method twn does not exist; did you mean twin?"),
        (("new", "--against", "old,new"), "new cannot be compared with itself"),
        (("new", "--against", ","), "--against names no method"),
        (("new", "--against", "old", "--model", "smal_cnn"), "model smal_cnn does not exist; did you mean small_cnn?"),
        (("new", "--against", "old", "--dataset", "shape"), "data set shape does not exist; did you mean shapes?"),
        (("new", "--against", "old", "--metric", "deletoin"), "metric deletoin does not exist; did you mean deletion?"),
        (("new", "--against", "old", "--metric", "throughput"), "metric throughput does not exist"),
        (("new", "--against", "old", "--metric", ","), "new has no record of what is asked for"),
    ],
)
def test_mistakes_get_one_sentence(arguments, sentence: str, root: Path, compared) -> None:
    code, text = compared(root, *arguments)
    assert code == 2
    assert text.startswith("error: ")
    assert sentence in text
    assert text.count("\n") == 1


def test_what_is_named_is_compared_or_refused(root: Path, compared) -> None:
    """A column of the rivals alone must not drop out of a comparison that names it."""
    remove(root, cell("new", "deletion"))
    code, text = compared(root, "new", "--against", "old", "--dataset", "shapes", "--metric", "srg,deletion")
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith("error: new has no record of metric deletion among what is asked for")
    assert compared(root, "new", "--against", "old", "--metric", "srg,deletion")[0] == 0
    remove(root, cell("new", dataset="digits"))
    remove(root, cell("new", "deletion", dataset="digits"))
    code, text = compared(root, "new", "--against", "old", "--dataset", "shapes,digits", "--metric", "srg")
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith("error: new has no record of dataset digits")


def test_timings_alone_are_not_compared(root: Path, compared) -> None:
    """As they would be no answer, and there is no score to hold against another one."""
    for method in ("swift", "old"):
        file(root, cell(method, "throughput", device="cpu"), [5])
    code, text = compared(root, "swift", "--against", "old")
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith("error: swift has no record of what is asked for")


@pytest.mark.parametrize("test", ["permutation", "wilcoxon"])
def test_few_images_are_no_difference_shown(test: Any, tmp_path: Path, compared) -> None:
    """One image has no spread, and no test of signs says anything at 5 % before the sixth."""
    for method, values in (("new", [0.5]), ("old", [0.2])):
        file(tmp_path, cell(method), values)
    code, text = compared(tmp_path, "new", "--against", "old", "--test", test)
    assert code == 0, text
    assert "no difference shown\n" in text
    for images, words in ((2, "no difference shown; 4 more images would be needed"), (6, "better")):
        for method, gain in (("new", 0.3), ("old", 0.0)):
            file(tmp_path, cell(method, dataset=f"of {images}"), gain + 0.01 * np.arange(images))
        row = line(asked(tmp_path, "old", datasets=(f"of {images}",), test=test), "srg", "old", f"of {images}")
        assert row["verdict"] == words


def test_names_are_those_of_the_tables_command(root: Path, compared, capsys) -> None:
    """A version may be named that no label shows, as there is no other."""
    code, text = compared(root, "new@1", "--against", "old@1", "--metric", "srg@1", "--model", "small_cnn@1")
    assert code == 0, text
    assert pd.read_csv(root / "tables" / "compare-new.csv")["rival"].unique().tolist() == ["old"]
    assert leaderboard.main([str(root), "--method", "new@1,old@1", "--metric", "srg@1"]) == 0
    capsys.readouterr()
    code, text = compared(root, "new@2", "--against", "old")
    assert (code, text) == (2, "error: method new@2 does not exist; did you mean new? (there are: new, old, twin)\n")


def test_a_name_of_several_rows_is_refused_newest_first(root: Path, compared) -> None:
    for day, version in ((3, "1+b"), (1, "1+c"), (2, "1+a")):
        file(root, cell("mine", version=version), scores(0.3, day), created=f"2026-01-0{day}")
    code, text = compared(root, "mine", "--against", "old")
    assert code == 2
    assert "mine stands for 3 rows: name one of mine@1+b, mine@1+a, mine@1+c (the newest first)" in text
    code, text = compared(root, "mine@1+a", "--against", "old,mine@1+c")
    assert code == 0, text
    assert (root / "tables" / "compare-mine_1_a.md").exists()


# --- what is printed and written ---


def test_what_is_printed_and_written(root: Path, compared) -> None:
    code, text = compared(root, "new", "--against", "old,twin")
    assert code == 0, text
    assert "all 8 comparisons with a verdict (2 columns, 2 rivals, 2 pairs of model and data set)" in text
    assert "better" in text
    assert "more images would be needed" in text
    tables = root / "tables"
    first = {path.name: path.read_bytes() for path in tables.iterdir()}
    assert set(first) == {"compare-new.csv", "compare-new.md", "compare-new.tex"}
    compared(root, "new", "--against", "old,twin")
    assert {path.name: path.read_bytes() for path in tables.iterdir()} == first
    filed = pd.read_csv(tables / "compare-new.csv")
    pd.testing.assert_series_equal(filed["p_holm"], asked(root, "old", "twin")["p_holm"], rtol=1e-5)
    assert "| srg ↑ |" in first["compare-new.md"].decode()
    code, text = compared(root, "new", "--against", "old", "--out", root / "paper")
    assert code == 0
    assert (root / "paper" / "compare-new.tex").exists()


def test_the_row_of_latex(root: Path) -> None:
    file(root, cell("my_new", dataset="other"), scores(0.3, 0))
    file(root, cell("old_one", dataset="other"), scores(0.0, 1))
    file(root, cell("rise", dataset="other"), scores(0.6, 2))
    found = answer(leaderboard.tidy(root), Question("my_new", ("old_one", "rise")))
    text = compare.latex(found)
    row = next(each for each in text.splitlines() if each.startswith(r"my\_new & "))
    mean, half = found["mean"].iloc[0], found["half"].iloc[0]
    assert row == (rf"my\_new & {mean:.3f} & {{\tiny$\,\pm\,${half:.3f}}}\textsuperscript{{1}}\textsubscript{{2}} \\")
    assert r"1~old\_one & " in text
    assert r"\multicolumn{2}{c}{srg~$\uparrow$}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert text.isascii()


def test_powers_of_ten_in_latex(root: Path) -> None:
    for method, size in (("new", 3e-10), ("old", 1e-10)):
        file(root, cell(method, dataset="small"), size * scores(1, len(method)))
    row = next(each for each in compare.latex(asked(root, "old", datasets=("small",))).splitlines() if "new & " in each)
    assert row.count(r"$\cdot10^{-10}$") == row.count(r"$\cdot10^{-12}$") == 1
    assert "e-" not in row.replace(r"\textsuperscript", "")


@pytest.mark.pages
def test_latex_compiles_in_a_plain_article(root: Path) -> None:
    compare.write(root, asked(root, "old", "twin"))
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{compare-new}\end{document}"
    (root / "page.tex").write_text(page)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_verification_makes_a_comparison_again(root: Path, compared) -> None:
    compared(root, "new", "--against", "old,twin", "--dataset", "shapes", "--test", "wilcoxon")
    checked, faults = integrity.of_tables(root)
    assert {path.suffix for path in checked} == {".csv", ".md", ".tex"}
    assert faults == []
    for suffix, then, now in (("md", "better", "Better"), ("csv", ",better,", ",worse,"), ("tex", "0.", "1.")):
        path = root / "tables" / f"compare-new.{suffix}"
        text = path.read_text()
        path.write_text(text.replace(then, now, 1))
        assert [fault[0] for fault in integrity.of_tables(root)[1]] == [path]
        path.write_text(text)
    remove(root, cell("old"))
    ((path, sentence), *strays) = integrity.of_tables(root)[1]
    assert path.name == "compare-new.csv"
    assert "the records do not give it: cannot compare srg: no record of old" in sentence
    assert {path.suffix for path, _ in strays} == {".csv", ".md", ".tex"}


def test_help_and_comparison_do_without_torch() -> None:
    script = "import sys, benchmark.compare, benchmark.merge; print({'torch', 'timm', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_examples_of_the_page_run(root: Path, compared) -> None:
    """Every command of docs/compare.md, with the names of this folder."""
    page = (ROOT / "docs" / "compare.md").read_text()
    commands = re.findall(r"^    python -m benchmark\.compare results (.+)$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        names = {"my_method": "new", "grad_cam,integrated_gradients": "old,twin", "rise": "old"}
        for theirs, ours in {**names, "pointing_game": "deletion", "paper": str(root / "paper")}.items():
            command = command.replace(theirs, ours)
        code, text = compared(root, *command.split())
        assert code == 0, text
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(
        code.replace('"results"', repr(str(root))).replace("smoothgrad", "new").replace('"saliency", "rise"', '"old",'),
        {},
    )


# --- the whole way ---


def run(command: str, *more: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a command of the README in `folder`, as a user would."""
    assert command in README
    words = [word for word in command.split() if word != "python"]
    return subprocess.run([sys.executable, *words, *more], cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_whole_way_of_a_new_method(tmp_path: Path) -> None:
    """A file of ten lines, one command for its cells alone, one that compares: as the README says."""
    small = ("models=small_cnn", "datasets=digits", "datasets.n=8", "tracking=none", "threads=1", "metrics=[srg]")
    done = run("python -m benchmark", *small, "methods=grad_cam,integrated_gradients", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results.glob("records/*/*/*/*")}
    assert len(before) == 2 * 3

    block = re.search(r"```python\n(# my_methods.py\n.*?)```", README, re.DOTALL)
    assert block
    (tmp_path / "my_methods.py").write_text(block.group(1))
    statements = [
        each for each in block.group(1).splitlines() if each.strip() and not each.strip().startswith(("#", '"'))
    ]
    assert len(statements) <= 10
    own = "python -m benchmark methods=custom methods._target_=my_methods.GradientTimesDifference"
    done = run(own, *small, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "grad_cam" in done.stdout
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in results.glob("records/*/*/*/*")}
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in set(after) - set(before)} == {"gradient_times_difference"}
    assert len(after) == 3 * 3

    command = "python -m benchmark.compare results gradient_times_difference --against grad_cam,integrated_gradients"
    done = run(command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "all 6 comparisons with a verdict (3 columns, 2 rivals, 1 pair of model and data set)" in done.stdout
    assert "difference shown" in done.stdout or "better" in done.stdout or "worse" in done.stdout
    assert (results / "tables" / "compare-gradient_times_difference.tex").exists()
    done = run("python -m benchmark.merge results --out SUBMISSION", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "coverage: 9 of 9 cells" in done.stdout
