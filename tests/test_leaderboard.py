"""From records to tables: labels that never mix, numbers that can be checked, texts that a reader understands."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark import frames, html_table, latex, leaderboard, mixing, records, selection, tables
from benchmark.cells import Cell, Choice
from benchmark.certificate import certified
from benchmark.errors import UserError
from benchmark.frames import frame, labels, summarise
from benchmark.leaderboard import report, write_tables
from benchmark.protocols import Measure
from benchmark.records import Record
from benchmark.statistics import bootstrap_interval, rank_groups
from benchmark.tables import markdown, terminal

INFINITY = math.inf
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _all_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of these tests are made up: their metrics may rank, unless a test says otherwise."""
    monkeypatch.setattr(leaderboard, "certified", lambda root: None)


METRICS: dict[str, tuple[str, list[Measure]]] = {
    "completeness": (
        "axioms",
        [Measure("absolute", False, (0, INFINITY)), Measure("relative", False, (0, INFINITY))],
    ),
    "deletion": ("faithfulness", [Measure("deletion", False, (0, 1))]),
    "infidelity": (
        "faithfulness",
        [Measure("beta_1", False, (0, INFINITY)), Measure("beta_optimal", False, (0, INFINITY))],
    ),
    "insertion": ("faithfulness", [Measure("insertion", True, (0, 1))]),
    "parameter_randomisation": (
        "randomisation",
        [Measure(name, None, (-1, 1), ranked=False) for name in ("spearman_abs", "spearman", "ssim", "gap")],
    ),
    "pointing_game": ("localisation", [Measure("pointing_game", True, (0, 1))]),
    "relevance_mass": ("localisation", [Measure("relevance_mass", True, (0, 1))]),
    "srg": ("faithfulness", [Measure("srg", True, (-1, 1), null=0.0)]),
    "throughput": (
        "cost",
        [
            Measure("images_per_second", True, (0, INFINITY), ranked=False, unit="1/s"),
            *(Measure(name, False, (0, INFINITY), ranked=False, unit="ms") for name in ("latency_p50", "latency_p95")),
            Measure("peak_memory", False, (0, INFINITY), ranked=False, unit="MiB"),
            Measure("energy", False, (0, INFINITY), ranked=False, unit="J/image"),
            *(
                Measure(name, False, (0, INFINITY), ranked=False, unit="passes/image")
                for name in ("forwards", "backwards")
            ),
        ],
    ),
}
METHODS = {
    "grad_cam": 0.30,
    "input_x_gradient": 0.15,
    "integrated_gradients": 0.22,
    "occlusion": 0.34,
    "rise": 0.32,
    "saliency": 0.12,
    "smoothgrad": 0.14,
}
NULLS = {"blurred_random": 0.0, "centre_prior": 0.1, "constant": 0.0, "intensity": 0.1, "random": 0.0, "sobel": 0.03}


def cell(method: Choice | str, metric: Choice | str = "srg", **changes: Any) -> Cell:
    """A cell on one model and data set, with names for choices without options."""
    axes = {"model": "small_cnn", "dataset": "shapes", "method": method, "metric": metric} | changes
    chosen = {
        name: Choice(value) if isinstance(value, str) and name != "device" else value for name, value in axes.items()
    }
    return Cell(**chosen)


def record(
    of: Cell,
    values: dict[str, Any],
    status: dict[str, list[str]] | None = None,
    role: str = "method",
    reason: str | None = None,
) -> Record:
    """A record with `values` by measure, an entry an image, NaN filed as degenerate unless `status` says otherwise."""
    family, measures = METRICS[of.metric.name]
    rows = []
    for name, scores in values.items():
        for index, value in enumerate(scores):
            state = status[name][index] if status else ("ok" if np.isfinite(value) else "degenerate")
            uid = "-" if family == "cost" else f"image{index:04d}"
            rows.append((uid, index % 10, name, float(value), state, None))
    facts = {"measures": [asdict(measure) for measure in measures], "family": family, "role": role, "reason": reason}
    return Record(of, pd.DataFrame(rows, columns=records.SCHEMA.names), facts)


def sweep(
    root: Path, model: str = "small_cnn", dataset: str = "shapes", images: int = 64, pace: float = 1.0, every: int = 1
) -> None:
    """File records of realistic shape, of `every` n-th method; `pace` scales the timings and nothing else."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 0.12, images)
    rows = [(name, skill, "method") for name, skill in METHODS.items()]
    rows += [(name, skill, "null") for name, skill in NULLS.items()] + [("ground_truth", 0.4, "oracle")]
    for method, skill, role in rows[::every]:
        for metric, (family, measures) in METRICS.items():
            of = cell(method, metric, model=model, dataset=dataset, device="cpu" if family == "cost" else None)
            noise = {measure.name: difficulty + rng.normal(0, 0.08, images) for measure in measures}
            if family == "cost":
                values = {name: [pace * 37.123 * (1 + len(name)) * (1 + skill) ** 9] for name in noise}
                values["energy"] = [math.nan]
                status = {name: ["not_applicable" if name == "energy" else "ok"] for name in values}
                records.write(root, record(of, values, status, role))
                continue
            if metric == "completeness" and method not in ("integrated_gradients", "input_x_gradient", "occlusion"):
                empty = {name: [math.nan] * images for name in noise}
                status = {name: ["not_applicable"] * images for name in noise}
                reason = "the method makes no claim to account for f(x) - f(baseline)"
                records.write(root, record(of, empty, status, role, reason))
                continue
            values = {name: skill + draws for name, draws in noise.items()}
            if metric in ("deletion", "infidelity", "completeness"):
                values = {name: np.abs(0.5 - draws) for name, draws in values.items()}
            if metric == "infidelity":
                values["beta_1"] = np.exp(8 * values["beta_1"])
            if metric == "pointing_game":
                values = {"pointing_game": (values["pointing_game"] > 0.2).astype(float)}
            if metric == "parameter_randomisation" and method == "constant":
                values = {name: [math.nan] * images for name in values}
            elif metric == "parameter_randomisation" and method == "rise":
                values["ssim"] = np.r_[[math.nan] * 2, values["ssim"][2:]]
            records.write(root, record(of, values, role=role))


def summary_of(*found: Record, errors: Any = ()) -> pd.DataFrame:
    return summarise(frame(found, errors))


def row_of(summary: pd.DataFrame, method: str, column: str) -> pd.Series:
    rows = summary[(summary["method"] == method) & (summary["column"] == column)]
    assert len(rows) == 1
    return rows.iloc[0]


# --- labels ---


def labels_of(axis: str, *choices: Choice) -> list[str]:
    cells = [cell("saliency", **{axis: choice}) if axis != "method" else cell(choice) for choice in choices]
    found = labels(cells)
    return [found[axis, frames.identity(one, axis)] for one in cells]


@pytest.mark.parametrize("axis", ["model", "dataset", "method", "metric"])
def test_choices_of_one_name_are_told_apart_by_what_differs(axis: str) -> None:
    small, large = Choice("rise", {"masks": 512, "p": 0.5}), Choice("rise", {"masks": 4096, "p": 0.5})
    assert labels_of(axis, small) == ["rise"]
    assert labels_of(axis, small, large, Choice("lime")) == ["rise(masks=512)", "rise(masks=4096)", "lime"]
    assert labels_of(axis, small, replace(small, version="2")) == ["rise@1", "rise@2"]
    assert labels_of(axis, small, replace(large, version="2")) == ["rise(masks=512)@1", "rise(masks=4096)@2"]


def test_labels_of_nested_and_missing_options() -> None:
    nested = [Choice("ig", {"path": {"steps": steps, "kind": "line"}}) for steps in (8, 64)]
    assert labels_of("method", *nested) == ["ig(path.steps=8)", "ig(path.steps=64)"]
    assert labels_of("method", Choice("ig"), Choice("ig", {"clip": None})) == ["ig", "ig(clip=null)"]


def test_labels_that_would_read_alike_stay_apart() -> None:
    found = labels_of("method", Choice("rise", {"masks": 1}), Choice("rise", {"masks": "1"}))
    assert len(set(found)) == 2
    assert all(label.startswith("rise(masks=1)") for label in found)


def test_seeds_and_devices_are_never_mixed_in_one_column() -> None:
    seeds = [replace(cell("rise"), seed=seed) for seed in (0, 1)]
    assert [labels(seeds)["metric", frames.identity(one, "metric")] for one in seeds] == [
        "srg(seed=0)",
        "srg(seed=1)",
    ]
    devices = [cell("rise", "throughput", device=device) for device in ("cpu", "H100")]
    timings = frame(record(of, {"images_per_second": [index]}) for index, of in enumerate(devices))
    assert set(timings["column"]) >= {
        "throughput(device=cpu).images_per_second",
        "throughput(device=H100).images_per_second",
    }


def test_anchored_stands_between_random_and_the_best_oracle() -> None:
    """(0.35 - 0.1) / (0.6 - 0.1) = 0.5 of SRG; lower is better: (0.3 - 0.5) / (0.1 - 0.5) = 0.5 of deletion."""
    rows = {"rise": (0.35, 0.3), "random": (0.1, 0.5), "constant": (0.0, 0.9), "part": (0.2, 0.4), "truth": (0.6, 0.1)}
    roles = {"random": "null", "constant": "null", "part": "oracle", "truth": "oracle"}
    found = [
        record(cell(method, metric), {metric: [value, value]}, role=roles.get(method, "method"))
        for method, values in rows.items()
        for metric, value in zip(("srg", "deletion"), values, strict=True)
    ]
    summary = summary_of(*found)
    expected = {"rise": (0.5, 0.5), "random": (0, 0), "constant": (-0.2, -1), "part": (0.2, 0.25), "truth": (1, 1)}
    for method, values in expected.items():
        for metric, value in zip(("srg", "deletion"), values, strict=True):
            assert row_of(summary, method, metric)["anchored"] == pytest.approx(value), (method, metric)
    for lacking in ("random", "oracle"):
        kept = [one for one in found if lacking not in (one.cell.method.name, one.facts["role"])]
        assert summary_of(*kept)["anchored"].isna().all(), f"no {lacking}"
    upside_down = [replace(one, rows=one.rows.assign(value=-one.rows["value"])) for one in found]
    assert row_of(summary_of(*upside_down), "part", "srg")["anchored"] != 0.2
    beaten = [one for one in upside_down if one.cell.metric.name == "srg" and one.cell.method.name != "constant"]
    assert summary_of(*beaten)["anchored"].isna().all(), "random, -0.1, beats both oracles"
    timed = [replace(one, facts={**one.facts, "family": "cost"}) for one in found]
    assert summary_of(*timed)["anchored"].isna().all(), "timings have no anchors"
    directionless = [
        replace(one, facts={**one.facts, "measures": [{**one.facts["measures"][0], "higher_is_better": None}]})
        for one in found
    ]
    assert summary_of(*directionless)["anchored"].isna().all()


def test_two_protocols_of_a_metric_are_two_columns() -> None:
    prob, logit = (Choice("deletion", {"output": output}) for output in ("prob", "logit"))
    summary = summary_of(
        record(cell("rise", prob), {"deletion": [0.1, 0.3]}), record(cell("rise", logit), {"deletion": [7.0, 9.0]})
    )
    assert row_of(summary, "rise", "deletion(output=prob)")["mean"] == pytest.approx(0.2)
    assert row_of(summary, "rise", "deletion(output=logit)")["mean"] == pytest.approx(8)


# --- frame and summary ---


def test_frame_is_tidy() -> None:
    tidy = frame(
        [record(cell("rise", "infidelity"), {"beta_1": [1.0, 2.0], "beta_optimal": [0.5, math.nan]}, role="null")]
    )
    assert list(tidy["column"]) == ["infidelity.beta_1"] * 2 + ["infidelity.beta_optimal"] * 2
    assert list(tidy["status"]) == ["ok", "ok", "ok", "degenerate"]
    np.testing.assert_equal(tidy["value"].to_numpy(), [1, 2, 0.5, math.nan])
    for name, value in {
        "model": "small_cnn",
        "dataset": "shapes",
        "method": "rise",
        "metric": "infidelity",
        "family": "faithfulness",
        "higher_is_better": False,
        "ranked": True,
        "unit": "",
        "role": "null",
        "reason": "",
    }.items():
        assert (tidy[name] == value).all(), name


def test_summary_says_what_the_statistics_say() -> None:
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(rng.normal(0, 0.1, (40, 3)) + np.array([0.5, 0.52, 0.1]), columns=["rise", "lime", "random"])
    scores.loc[3:5, "rise"] = math.nan
    summary = summary_of(*(record(cell(method), {"srg": list(scores[method])}) for method in scores))
    groups = rank_groups(scores, higher_is_better=True)
    assert groups == {"rise": "a", "lime": "a", "random": "b"}
    for method in scores:
        row = row_of(summary, str(method), "srg")
        assert row["mean"] == pytest.approx(scores[method].mean())
        assert (row["low"], row["high"]) == pytest.approx(bootstrap_interval(scores[method]))
        assert row["letters"] == groups[method]
        assert row["total"] == 40
    rise = row_of(summary, "rise", "srg")
    assert (rise["n"], rise["degenerate"], rise["invalid"]) == (37, 3, 0)


def test_lower_is_better_puts_the_letter_a_at_the_smallest_mean() -> None:
    good, bad = np.linspace(0.1, 0.2, 30), np.linspace(0.6, 0.9, 30)
    summary = summary_of(
        record(cell("bad", "deletion"), {"deletion": bad}), record(cell("good", "deletion"), {"deletion": good})
    )
    assert dict(zip(summary["method"], summary["letters"], strict=True)) == {"good": "a", "bad": "b"}


@pytest.mark.parametrize("change", [{"ranked": False}, {"higher_is_better": None}])
def test_evidence_has_an_interval_but_no_letters(change: dict[str, Any]) -> None:
    scored = record(cell("rise"), {"srg": np.linspace(0, 1, 20)})
    assert row_of(summary_of(scored), "rise", "srg")["letters"] == "a"
    scored.facts["measures"][0].update(change)
    row = row_of(summary_of(scored), "rise", "srg")
    assert row["low"] < row["mean"] < row["high"]
    assert row["letters"] == ""


def test_only_valid_scores_enter_a_mean() -> None:
    status = {"srg": ["ok", "ok", "degenerate", "invalid", "not_applicable", "ok"]}
    values = [0.1, 0.3, math.nan, math.nan, math.nan, math.inf]
    row = row_of(summary_of(record(cell("rise"), {"srg": values}, status)), "rise", "srg")
    assert row["mean"] == pytest.approx(0.2)
    assert list(row[["n", "total", "degenerate", "invalid", "not_applicable"]]) == [2, 6, 1, 2, 1]


def test_cells_without_a_number_say_why() -> None:
    found = [
        record(cell("rise"), {"srg": [0.1, 0.2]}),
        record(cell("rise", "deletion"), {"deletion": [0.1, 0.2]}),
        record(
            cell("rise", "pointing_game"),
            {"pointing_game": [math.nan] * 2},
            {"pointing_game": ["not_applicable"] * 2},
            reason="the data set has no masks",
        ),
        record(cell("flat"), {"srg": [math.nan] * 2}),
    ]
    errors = [(cell("broken"), "out of memory"), (cell("broken", "saco"), "no such metric")]
    summary = summary_of(*found, errors=errors)
    state = {(row.method, row.column): row.status for row in summary.itertuples()}
    assert state["rise", "srg"] == "ok"
    assert state["rise", "pointing_game"] == "not_applicable"
    assert state["flat", "srg"] == "degenerate"
    assert state["flat", "deletion"] == state["broken", "deletion"] == "missing"
    assert state["broken", "srg"] == state["broken", "saco"] == "failed"
    assert row_of(summary, "broken", "srg")["reason"] == "out of memory"
    for text in (" ".join(terminal(summary).split()), markdown(summary)):
        assert text.count("the data set has no masks") == 1
        assert "failed: srg of broken: out of memory" in text
        assert "failed: saco of broken: no such metric" in text
        assert "2 of 2 images degenerate: srg of flat" in text
        assert "missing: deletion, pointing_game of broken, flat; saco of rise, flat: no record is filed yet" in text


def test_a_metric_without_proof_shows_numbers_and_ranks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = np.tile([-0.01, 0.01], 10)
    for method, skill in (("rise", 0.4), ("saliency", 0.2)):
        records.write(tmp_path, record(cell(method, "deletion"), {"deletion": skill + steps}))
        records.write(tmp_path, record(cell(method), {"srg": skill + steps}))
        records.write(tmp_path, record(cell(method, "throughput", device="cpu"), {"images_per_second": [9.0]}))
    for version, ranked in (("1", True), ("2", False)):
        checks = [{"passed": True}]
        proof = {name: {"version": of, "checks": checks} for name, of in (("srg", version), ("deletion", "1"))}
        proof = {"metrics": proof}
        (tmp_path / "certificate.json").write_text(json.dumps(proof))
        monkeypatch.setattr(leaderboard, "certified", certified)
        monkeypatch.setattr("benchmark.certificate.SHIPPED", tmp_path / "none.json")
        assert leaderboard.main([str(tmp_path)]) == 0
        text = capsys.readouterr().out
        assert ("uncertified" in text) is not ranked
        assert ("sorted by srg" in text) is ranked
        assert "0.400 [" in text
        summary = pd.read_csv(tmp_path / "tables" / "leaderboard.csv")
        assert set(summary[summary["column"] == "srg"]["letters"].isna()) == {not ranked}
        assert "throughput.images_per_second" in (tmp_path / "tables" / "cost.csv").read_text(), "a cost is a cost"
    (tmp_path / "certificate.json").write_text("[]")
    assert leaderboard.main([str(tmp_path)]) == 2
    assert "is no certificate" in capsys.readouterr().err


def test_a_record_outweighs_the_error_of_an_earlier_try() -> None:
    tidy = frame([record(cell("rise"), {"srg": [0.1, 0.2]})], [(cell("rise"), "out of memory")])
    assert list(tidy["status"]) == ["ok", "ok"]


def test_failures_alone_make_a_table_too() -> None:
    summary = summary_of(errors=[(cell("rise"), "no weights")])
    assert "failed: srg of rise: no weights" in terminal(summary)


def test_rows_are_sorted_by_srg_and_nulls_and_oracles_stand_apart() -> None:
    def scored(method: str, score: float, role: str = "method") -> list[Record]:
        measures = {"deletion": ["deletion"], "infidelity": ["beta_1", "beta_optimal"], "srg": ["srg"]}
        values = {metric: {name: [score, score + 0.1] for name in names} for metric, names in measures.items()}
        return [record(cell(method, metric), values[metric], role=role) for metric in measures]

    found = [
        *scored("worse", 0.1),
        *scored("null", 0.7, "null"),
        *scored("oracle", 0.9, "oracle"),
        *scored("better", 0.3),
        record(cell("unscored"), {"srg": [math.nan] * 2}),
    ]
    summary = summary_of(*found)
    assert list(dict.fromkeys(summary["method"])) == ["better", "worse", "unscored", "null", "oracle"]
    assert list(dict.fromkeys(summary["column"])) == ["srg", "deletion", "infidelity.beta_1", "infidelity.beta_optimal"]
    # Without srg the first column that ranks decides, here the lower the better.
    summary = summary_of(*(one for one in found if one.cell.metric.name == "deletion"))
    assert list(dict.fromkeys(summary["method"])) == ["worse", "better", "null", "oracle"]


def test_a_method_on_fewer_than_half_of_the_images_neither_leads_nor_is_bold() -> None:
    skills = {"few": 0.9, "half": 0.5, "better": 0.4, "worse": 0.2}
    scores = {name: np.full(4, skill) for name, skill in skills.items()}
    scores["few"][1:], scores["half"][2:] = math.nan, math.nan
    found = [record(cell(name), {"srg": values}) for name, values in scores.items()]
    none = record(cell("none"), {"srg": [math.nan] * 4})
    summary = summary_of(*found, none)
    assert summary["method"].tolist() == ["half", "better", "worse", "few", "none"]
    (table,) = tables.laid_out(summary)
    assert [table.entries[name, "srg"].place for name in table.roles.index] == [1, 2, 0, 0, 0]
    # Where no method has half of the images none is the best, and the order is that of the means.
    (table,) = tables.laid_out(summary_of(found[0], none, record(cell("one"), {"srg": [0.95, *[math.nan] * 3]})))
    assert [table.entries[name, "srg"].place for name in table.roles.index] == [0, 0, 0]
    assert list(table.roles.index) == ["one", "few", "none"]


# --- text ---


def small() -> pd.DataFrame:
    steps = np.tile([-0.01, 0.01], 10)
    return summary_of(
        record(cell("rise"), {"srg": 0.4 + steps}),
        record(cell("rise", "infidelity"), {"beta_1": 2 + steps, "beta_optimal": 1 + steps}),
        record(cell("random"), {"srg": np.r_[[math.nan] * 2, np.zeros(18)]}, role="null"),
        record(
            cell("random", "infidelity"),
            {"beta_1": [math.nan] * 20, "beta_optimal": [math.nan] * 20},
            {"beta_1": ["not_applicable"] * 20, "beta_optimal": ["not_applicable"] * 20},
            "null",
            "a | b <c>\nd",
        ),
        record(cell("rise", "throughput", device="cpu"), {"images_per_second": [1234.56], "latency_p50": [0.01234]}),
    )


def test_terminal_text() -> None:
    expected = """\
dataset shapes · model small_cnn · n = 20 · sorted by srg
═════════════════════════════════════════════════════════

                                                infidelity
faithfulness   n  srg ↑                         beta_1 ↓                beta_optimal ↓
──────────────────────────────────────────────────────────────────────────────────────────────
rise          20  0.400 [0.396, 0.404] a        2.000 [1.996, 2.004] a  1.000 [0.996, 1.004] a
── null rows: know nothing of the model ──────────────────────────────────────────────────────
random        20  0.000 [0.000, 0.000] b 18/20  n/a                     n/a

6 cells: 4 scored (1 over fewer images), 2 n/a
n/a: infidelity of random: a | b <c> d
2 of 20 images degenerate: srg of random
"""
    assert terminal(small()[lambda summary: summary["family"] != "cost"], width=100) == expected


def test_terminal_lines_keep_to_the_width() -> None:
    text = terminal(small(), width=60)
    assert max(map(len, text.splitlines())) <= 60 + len(" · sorted by throughput.images_per_second")
    assert "beta_optimal ↓" in text


def test_markdown_text() -> None:
    expected = """\
## dataset shapes · model small_cnn · n = 20 · sorted by srg

### faithfulness

| method | n | srg ↑ | infidelity.beta_1 ↓ | infidelity.beta_optimal ↓ |
|:--|--:|--:|--:|--:|
| rise | 20 | 0.400 [0.396, 0.404] a | 2.000 [1.996, 2.004] a | 1.000 [0.996, 1.004] a |
| *null rows: know nothing of the model* |  |  |  |  |
| random | 20 | 0.000 [0.000, 0.000] b 18/20 | n/a | n/a |

- 6 cells: 4 scored (1 over fewer images), 2 n/a
- n/a: infidelity of random: a \\| b &lt;c> d
- 2 of 20 images degenerate: srg of random

## dataset shapes · model small_cnn · cost · cpu · sorted by throughput.images_per_second

### cost

| method | throughput.images_per_second ↑ [1/s] | throughput.latency_p50 ↓ [ms] |
|:--|--:|--:|
| rise | 1235 | 0.0123 |
"""
    assert markdown(small()) == expected


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        (0.41234, 0.5, "0.412"),
        (1.0, 1.0, "1.000"),
        (-0.0001, 0.02, "0.000"),
        (0.0, 0.0, "0.000"),
        (0.00412, 0.005, "0.0041"),
        (123.456, 200.0, "123.5"),
        (4.0, 200.0, "4.0"),
        (0.0000412, 0.00005, "4.12e-05"),
        (123456.0, 2e5, "1.23e+05"),
    ],
)
def test_numbers_keep_their_digits(value: float, size: float, expected: str) -> None:
    assert tables._number(value, size) == expected


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((0.4, 0.04), ["0.400 [", "0.040 ["]),
        ((0.4, 0.004), ["0.400 [", "0.0040 ["]),
        ((120.0, 4.0), ["120.0 [", "4.0 ["]),
        ((3000.0, 4e-5), ["3000.0 [", "4.00e-05 ["]),
    ],
)
def test_a_column_has_one_number_of_decimals_unless_small_numbers_would_lose_theirs(
    scales: tuple[float, float], expected: list[str]
) -> None:
    steps = np.tile([0.9, 1.1], 20)
    text = markdown(
        summary_of(
            *(
                record(cell(method, "infidelity"), {"beta_1": scale * steps, "beta_optimal": steps})
                for method, scale in zip(("bad", "good"), scales, strict=True)
            )
        )
    )
    assert all(f"| {number}" in text for number in expected)


# --- files and command line ---


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    sweep(root, images=24, every=2)
    sweep(root, model="small_vit", images=24, every=4)
    records.write_error(root, cell("lime", "srg"), "out of memory")
    return root


def test_tables_are_written_whole_and_can_be_read_back(results: Path) -> None:
    paths = write_tables(results)
    suffixes = ("csv", "md", "parquet", "tex", "html")
    assert [path.name for path in paths] == [f"{name}.{end}" for name in ("leaderboard", "cost") for end in suffixes]
    assert sorted(paths) == sorted(Path(results, "tables").iterdir())
    table = pd.read_csv(paths[0])
    row = row_of(table[table["model"] == "small_vit"], "rise", "srg")
    rise = next(one for one in records.read_all(results) if one.cell == cell("rise", model="small_vit"))
    assert row["mean"] == pytest.approx(rise.rows["value"].mean(), rel=1e-5)
    assert "cost" not in set(table["family"])
    assert set(pd.read_csv(paths[5])["family"]) == {"cost"}
    assert set(table["role"]) == {"method", "null row"}, "no word that pandas reads as no value"
    frame = pd.read_parquet(paths[2])
    scores = summarise(leaderboard.tidy(results))[lambda summary: summary["family"] != "cost"]
    pd.testing.assert_frame_equal(frame, scores.reset_index(drop=True))
    assert set(frame["role"]) == {"method", "null"}
    text = paths[1].read_text(encoding="utf-8")
    assert "failed: srg of lime: out of memory" in text
    assert all(word in text for word in ("bootstrap", "Holm", "`n/a`", "`missing`"))


def test_quality_tables_do_not_depend_on_timings(tmp_path: Path) -> None:
    for name, pace in (("one", 1.0), ("two", 1.7)):
        sweep(tmp_path / name, images=16, pace=pace, every=4)
    one, two = (write_tables(tmp_path / name) for name in ("one", "two"))
    equal = [a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True)]
    assert equal == [True] * 5 + [False] * 5


def test_report_shows_the_asked_pairs_by_their_whole_choice(tmp_path: Path) -> None:
    asked, other = Choice("shapes", {"n": 32}), Choice("shapes", {"n": 64})
    for dataset in (asked, other):
        records.write(tmp_path, record(cell("rise", dataset=dataset), {"srg": [0.1, 0.2]}))
    text = report(tmp_path, [(Choice("small_cnn"), asked)])
    assert "dataset shapes(n=32)" in text
    assert "shapes(n=64)" not in text
    assert "shapes(n=64)" in Path(tmp_path, "tables", "leaderboard.md").read_text(encoding="utf-8")
    assert "shapes(n=64)" in report(tmp_path)
    assert report(tmp_path, [(Choice("small_cnn", version="9"), asked)]) == ""


def test_command_prints_tables_and_paths(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path for path in results.rglob("*") if "tables" not in path.parts)
    assert leaderboard.main([str(results)]) == 0
    printed = capsys.readouterr().out
    assert "model small_cnn" in printed
    assert "model small_vit" in printed
    for name in ("leaderboard", "cost"):
        assert all(
            f"written: {results}/tables/{name}.{end}" in printed for end in ("csv", "md", "parquet", "tex", "html")
        )
    assert sorted(path for path in results.rglob("*") if "tables" not in path.parts) == before


def test_a_selection_is_printed_and_written_where_it_is_asked(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tables(results)
    before = {path: path.read_bytes() for path in Path(results, "tables").iterdir()}
    asked = ["--model", "small_cnn", "--method", "rise,smoothgrad", "--metric", "srg,infidelity.beta_1"]
    assert leaderboard.main([str(results), *asked]) == 0
    printed = capsys.readouterr().out
    assert "srg ↑" in printed
    assert "beta_1 ↓" in printed
    assert not any(
        word in printed for word in ("small_vit", "occlusion", "deletion", "beta_optimal", "cost", "written")
    )
    assert leaderboard.main([str(results), *asked, "--out", str(tmp_path / "mine.csv")]) == 0
    assert leaderboard.main([str(results), *asked, "--out", str(tmp_path / "folder")]) == 0
    assert f"written: {tmp_path}/folder/leaderboard.tex" in capsys.readouterr().out
    assert len(list(Path(tmp_path, "folder").iterdir())) == 5
    assert {path: path.read_bytes() for path in Path(results, "tables").iterdir()} == before
    some, everything = pd.read_csv(tmp_path / "mine.csv"), pd.read_csv(results / "tables" / "leaderboard.csv")
    assert set(some["column"]) == {"srg", "infidelity.beta_1"}
    assert set(some["method"]) == {"rise", "smoothgrad"}
    keys = ["model", "dataset", "column", "method"]
    both = some.merge(everything, on=keys, suffixes=("", "_all"))
    assert len(both) == 4
    for name in ("mean", "low", "high", "letters", "n", "total", "status"):
        assert both[name].equals(both[f"{name}_all"]), f"{name}: letters compare all rows, shown or not"


@pytest.mark.parametrize("names", ["", ",", " , "])
@pytest.mark.parametrize("axis", ["model", "dataset", "method", "metric", "device"])
def test_a_name_that_names_nothing_is_refused(
    axis: str, names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(tmp_path, record(cell("rise"), {"srg": [1.0, 2.0]}))
    assert leaderboard.main([str(tmp_path), f"--{axis}", names]) == 2
    said = f"--{axis} '{names}' names nothing: leave it out for all, or name one of the tables\n"
    assert capsys.readouterr() == ("", said)
    assert not (tmp_path / "tables").exists()


def test_a_device_where_nothing_was_timed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(tmp_path, record(cell("rise"), {"srg": [1.0, 2.0]}))
    assert leaderboard.main([str(tmp_path), "--device", "cpu"]) == 2
    assert capsys.readouterr() == ("", "device cpu does not exist (there are none)\n")


def test_names_of_a_selection() -> None:
    parse = selection.Selection.parse
    assert parse(method="rise, lime(a=1, b=[2, 3]),ig@2").method == ("rise", "lime(a=1, b=[2, 3])", "ig@2")
    for label in ("noise(n=2, of=f(x))", "noise(of=f(x, y), n=2)"):
        assert parse(method=f"{label},, rise").method == (label, "rise")
    few, many = (Choice("rise", {"masks": masks}) for masks in (8, 64))
    found = [record(cell(method, "infidelity"), {"beta_1": [1.0], "beta_optimal": [1.0]}) for method in (few, many)]
    scored, failed, names = frames.take(found, [])
    for wanted, meant in (("rise", [few, many]), ("rise(masks=8)", [few]), ("rise@1", [few, many])):
        keys = parse(method=wanted).resolve(scored, failed, names).methods
        assert keys == [frames.identity(cell(method), "method") for method in meant]
    for wanted in ("rise(masks=9)", "rise@2", "ris", "beta_1"):
        with pytest.raises(UserError, match="does not exist"):
            parse(method=wanted).resolve(scored, failed, names)
    assert set(parse(metric="infidelity").resolve(scored, failed, names).choices["metric"].values()) == {
        frozenset({"beta_1", "beta_optimal"})
    }


# --- stopped by hand ---


@pytest.mark.parametrize("name", ["leaderboard", "compare", "verify", "report", "truth"])
def test_ctrl_c_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    records.write(tmp_path, record(cell("rise"), {"srg": [1.0, 2.0]}))
    monkeypatch.setattr(records, "read", stopped)
    monkeypatch.setattr(records, "read_all", stopped)
    more = ["rise", "--against", "lime"] if name == "compare" else []
    assert importlib.import_module(f"benchmark.{name}").main([str(tmp_path), *more]) == 130
    assert capsys.readouterr() == ("", "interrupted: every file that is there is whole; run the same command again\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_nobody_reads_is_no_traceback(unbuffered: str, tmp_path: Path) -> None:
    """As of `| head -1`, whether the pipe breaks while a table is printed or when the command ends."""
    records.write(tmp_path, record(cell("rise"), {"srg": [1.0, 2.0]}))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "benchmark.leaderboard", str(tmp_path)]
    with os.fdopen(writing, "w") as pipe:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(
            command, stdout=pipe, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment, check=False
        )
    assert (done.returncode, done.stderr) == (141, "")
    assert (tmp_path / "tables" / "leaderboard.md").exists()


# --- what is never mixed ---


def filed(of: Cell, values: list[float], created: str = "", images: int | None = None) -> Record:
    """A record made on `created`; `images` of another length list other images."""
    name = of.metric.name if of.metric.name != "throughput" else "images_per_second"
    found = record(of, {name: values[:images]})
    return replace(found, facts={**found.facts, "environment": {"created": created}})


STEPS = list(np.linspace(-0.1, 0.1, 20))


def refused(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> str:
    assert leaderboard.main([str(root), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert not Path(root, "tables").exists()
    return captured.err


@pytest.mark.parametrize("axis", ["method", "metric"])
def test_versions_are_refused_until_one_is_chosen(
    axis: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"method": "rise", "metric": "srg"}[axis]
    for version, created, level in (("9", "2026-01-01", 0.3), ("10", "2025-01-01", 0.6)):
        choice = Choice(name, {"option": 3}, version)
        of = cell(choice) if axis == "method" else cell("rise", choice)
        records.write(tmp_path, filed(of, [level + step for step in STEPS], created))
    records.write(tmp_path, filed(cell("lime", "deletion"), STEPS))
    said = refused(capsys, tmp_path)
    assert f"small_cnn on shapes: {name}@10 (1 cell), {name}@9 (1 cell)" in said
    assert f"--newest keeps the highest, --{axis} {name}@10 chooses one" in said
    for arguments, mean in ((["--newest"], 0.6), ([f"--{axis}", f"{name}@10"], 0.6), ([f"--{axis}", f"{name}@9"], 0.3)):
        assert leaderboard.main([str(tmp_path), *arguments, "--out", str(tmp_path / "one.csv")]) == 0
        printed = capsys.readouterr().out
        table = pd.read_csv(tmp_path / "one.csv")
        row = row_of(table, "rise", "srg")
        assert row["mean"] == pytest.approx(mean)
        assert ("left out of small_cnn on shapes: " in printed) == (arguments == ["--newest"])
        assert "@" not in "".join(table["method"] + table["column"])
    assert leaderboard.main([str(tmp_path), "--metric", "deletion"]) == 0, "this table mixes nothing"
    capsys.readouterr()
    # A sweep goes on: the highest version, whatever the dates say, and a sentence on the rest.
    text = report(tmp_path)
    assert f"left out of small_cnn on shapes: {name}@9 (1 cell), older than {name}@10" in text
    assert "0.600" in text
    assert "0.300" not in text
    for end in ("md", "html"):
        assert f"{name}@9 (1 cell)" in Path(tmp_path, "tables", f"leaderboard.{end}").read_text(encoding="utf-8")


def test_versions_of_plugins_inside_a_choice_and_of_files_count_too(tmp_path: Path) -> None:
    def kinds(*versions: str) -> list[list[str]]:
        scored, _, _ = frames.take([filed(cell(Choice("tunnel", version=version)), STEPS) for version in versions], [])
        return [list(mixture.kinds) for mixture in mixing.versions(scored)]

    assert kinds("1+Rise@1", "1+GradCam@2") == [], "two bases are two methods"
    assert kinds("1+Rise@1", "1+Rise@2") == [["tunnel@1+Rise@2", "tunnel@1+Rise@1"]]
    assert kinds("1+0123456789ab", "1+ba9876543210") == [["tunnel@1+ba9876543210", "tunnel@1+0123456789ab"]]


def test_versions_meet_in_one_table_only(tmp_path: Path) -> None:
    for version, dataset in (("1", "shapes"), ("2", "digits")):
        records.write(tmp_path, filed(cell("rise", Choice("srg", version=version), dataset=dataset), STEPS))
        records.write(tmp_path, filed(cell("lime", model=Choice("own", version=version)), STEPS))
    board = leaderboard.select(tmp_path, selection.Selection())
    assert set(board.summary["model"]) == {"small_cnn", "own@1", "own@2"}, "models have tables of their own"
    assert set(board.summary["column"]) == {"srg@1", "srg@2"}


def test_protocols_are_columns_of_their_own(tmp_path: Path) -> None:
    for baseline in ("blur", "black"):
        records.write(tmp_path, filed(cell("rise", Choice("srg", {"baseline": baseline})), STEPS))
    board = leaderboard.select(tmp_path, selection.Selection.parse(metric="srg(baseline=blur)"))
    assert list(board.summary["column"]) == ["srg(baseline=blur)"]
    board = leaderboard.select(tmp_path, selection.Selection())
    assert set(board.summary["column"]) == {"srg(baseline=blur)", "srg(baseline=black)"}
    text = latex.latex(board.summary, board.origins)
    said = "srg(baseline=black) (version 1): baseline=black; srg(baseline=blur) (version 1): baseline=blur."
    assert f"Protocol: {said}" in text


def test_lists_of_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(tmp_path, filed(cell("rise"), STEPS, "2026-01-01"))
    records.write(tmp_path, filed(cell("rise", "throughput", device="cpu"), [3.0]))
    assert leaderboard.main([str(tmp_path), "--out", str(tmp_path / "one.csv")]) == 0, "a timing lists no images"
    capsys.readouterr()
    records.write(tmp_path, filed(cell("lime"), STEPS, "2026-02-01", images=19))
    said = refused(capsys, tmp_path)
    assert "list 1 of 19 (1 cell), list 2 of 20 (1 cell), such as srg of rise" in said
    assert leaderboard.main([str(tmp_path), "--newest", "--metric", "srg"]) == 0
    printed = capsys.readouterr().out
    assert "left out of small_cnn on shapes: list 2 of 20 (1 cell), older than list 1 of 19" in printed
    other = record(cell("lime"), {"srg": STEPS})
    other.rows["target"] += 1
    assert len(mixing.images(frames.take([filed(cell("rise"), STEPS), other], [])[0])) == 1, "other classes"


def test_timings_of_two_devices_are_refused_and_stand_apart_after_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for device, pace in (("EPYC, 1 threads", 3.0), ("H100, chunk 8", 777.0)):
        records.write(tmp_path, filed(cell("rise", "throughput", device=device), [pace]))
    records.write(tmp_path, filed(cell("rise"), STEPS))
    said = refused(capsys, tmp_path)
    assert (
        "timings of different devices (small_cnn on shapes: H100, chunk 8 (1 cell), EPYC, 1 threads (1 cell))" in said
    )
    assert "choose one with --device 'H100, chunk 8'" in said
    assert leaderboard.main([str(tmp_path), "--device", "EPYC"]) == 0
    printed = capsys.readouterr().out
    assert "3" in printed
    assert "777" not in printed
    assert "srg ↑" in printed, "scores have no device"
    text = report(tmp_path)
    assert "cost · EPYC, 1 threads" in text
    assert "cost · H100, chunk 8" in text


def test_a_failure_of_another_version_makes_way_for_a_number(tmp_path: Path) -> None:
    old, new = (Choice("rise", version=version) for version in "12")
    records.write_error(tmp_path, cell(old), "broken then")
    records.write_error(tmp_path, cell(old, "deletion"), "broken too")
    records.write(tmp_path, filed(cell(new), STEPS))
    text = " ".join(report(tmp_path).split())
    assert "left out of small_cnn on shapes: 1 failed cell of other versions than those shown" in text
    assert "broken then" not in text
    assert "failed: deletion of rise@1: broken too" in text, "nothing else says what became of it"


# --- LaTeX and HTML ---


def adversary(root: Path) -> leaderboard.Board:
    """A board with every sign that LaTeX or HTML could stumble over, and every kind of cell."""
    for place, (name, role) in enumerate(
        [
            ("50%_of&#~^\\{}$", "method"),
            ("<b>é≥ö中λΩ", "method"),
            ("c", "method"),
            ("zufällig", "null"),
            ("o", "oracle"),
        ]
    ):
        method = Choice(name, {"note": 'a | b "q" – ×', "masks": place})
        if name == "o":
            empty = {"absolute": [math.nan] * 20, "relative": [math.nan] * 20}
            states = {each: ["not_applicable"] * 20 for each in empty}
            records.write(root, record(cell(method, "completeness"), empty, states, role, "it makes no claim"))
        for scale, metric in ((1, "srg"), (30_000, "infidelity"), (-1e-6, "completeness")):
            names = [measure.name for measure in METRICS[metric][1]]
            values = {each: scale * (np.array(STEPS) - 0.1 * place) for each in names}
            if name == "c" and metric == "srg":
                values["srg"][:3] = math.nan
            records.write(root, record(cell(method, Choice(metric, {"unit": "patch_16"})), values, role=role))
    records.write_error(root, cell("c", "deletion"), "out of memory: 5 % & more_ #1\nTraceback")
    records.write(root, filed(cell("c", "throughput", device="GPU_1 & more"), [123456.0]))
    return leaderboard.select(root, selection.Selection())


def test_latex_says_what_the_table_says(tmp_path: Path) -> None:
    for method, level, role in (
        ("best", 0.9, "method"),
        ("second", 0.8, "method"),
        ("third", 0.2, "method"),
        ("nil", 1.5, "null"),
    ):
        records.write(tmp_path, record(cell(method), {"srg": [level + step for step in STEPS]}, role=role))
    board = leaderboard.select(tmp_path, selection.Selection())
    text = latex.latex(board.summary, board.origins)
    row = row_of(board.summary, "best", "srg")
    half = f"{(row['high'] - row['low']) / 2:.3f}"
    behind = rf"{{\tiny$\,\pm\,${half}}}\textsuperscript{{b}}"
    assert rf"best & \textbf{{0.900}} & {behind} \\" in text
    assert r"second & \underline{0.800} & " in text
    assert r"third & 0.200 & " in text
    assert "nil & 1.500 & " in text, "a null row is never the best"
    assert text.index(r"\midrule" + "\n" + r"\multicolumn{3}{@{}l}{\textit{null rows") < text.index("nil & ")
    assert r"srg~$\uparrow$" in text
    assert "n = 20 images" in text
    assert "which has 4 rows" in text
    only = leaderboard.select(tmp_path, selection.Selection.parse(method="second,third"))
    text = latex.latex(only.summary, only.origins)
    assert r"\textbf{0.800}" in text, "best of the methods shown"
    assert "which has 4 rows" in text


def test_greek_letters_are_commands_of_latex() -> None:
    assert latex.escaped("λΛςσ") == r"$\lambda$$\Lambda$$\varsigma$$\sigma$"


def test_latex_is_ascii_and_large_tables_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = adversary(tmp_path)
    monkeypatch.setattr(latex, "_LINES", 3)
    text = latex.latex(board.summary, board.origins)
    assert text.isascii()
    assert r"50\%\_of\&\#\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}\$" in text
    assert r"$<$b$>$\'{e}$\geq$\"{o}\texttt{U+4E2D}$\lambda$$\Omega$" in text
    assert "continued." in text
    for word in ("failed", "missing", "17/20", "n/a", "out of memory: 5 \\% \\& more\\_ \\#1 Traceback"):
        assert word in text, word
    assert all(text.count(rf"\begin{{{each}}}") == text.count(rf"\end{{{each}}}") for each in ("table", "tabular"))


@pytest.mark.pages
def test_latex_compiles_in_a_plain_article(tmp_path: Path) -> None:
    board = adversary(tmp_path)
    many = [record(cell(f"method_{place:03d}"), {"srg": STEPS}) for place in range(80)]
    for each in many:
        records.write(tmp_path / "long", each)
    long = leaderboard.select(tmp_path / "long", selection.Selection())
    texts = [latex.latex(each.summary, each.origins) for each in (board, long)]
    lines = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}", *texts, r"\end{document}"]
    (tmp_path / "paper.tex").write_text("\n".join(lines), encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    said = (tmp_path / "paper.log").read_text(errors="replace")
    assert not [line for line in said.splitlines() if re.match(r"Overfull \\hbox|LaTeX Font Warning|.*too large", line)]


def test_html_shows_every_kind_of_cell(tmp_path: Path) -> None:
    board = adversary(tmp_path)
    page = html_table.html("Leaderboard", ["`a` is the best"], board.summary, board.origins)
    assert "<code>a</code> is the best" in page
    assert "&lt;b&gt;é≥ö中" in page
    assert "<b>é" not in page
    found = pd.read_html(io.StringIO(page), flavor="lxml") if find_spec("lxml") else []
    for word in ("failed", "missing", "17/20", "null rows: know nothing of the model", "oracle rows: know the truth"):
        assert word in page, word
    assert page.count("<table>") == page.count("</table>") == 4
    assert not re.search(r"<script|<link|<img|https?:", page), "no network"
    assert "unit=patch_16" in page
    assert found == [] or len(found) == 4


@pytest.mark.pages
def test_html_in_a_browser(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    board = adversary(tmp_path)
    path = tmp_path / "page.html"
    path.write_text(html_table.html("Leaderboard", [], board.summary, board.origins), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 700})
        problems: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        assert page.locator("table").count() == 4
        best = page.locator("tbody tr", has=page.locator("b")).first
        assert best.locator("th").inner_text() == "50%_of&#~^\\{}$"
        assert page.evaluate("document.documentElement.scrollWidth") <= 900, "wide tables scroll by themselves"
        assert (problems, asked) == ([], [path.as_uri()])
        browser.close()


def test_command_explains_mistakes_in_one_sentence(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failed(*arguments: str) -> str:
        assert leaderboard.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    assert "holds no records" in failed(str(tmp_path))
    assert "did you mean rise" in failed(str(results), "--method", "rize")
    assert "did you mean srg" in failed(str(results), "--metric", "deletion,srgg")
    assert "nothing is filed for them together" in failed(str(results), "--model", "small_vit", "--method", "lime")
    assert "ends in none of csv, md" in failed(str(results), "--out", str(tmp_path / "table.docx"))
    path = records.write(tmp_path, record(cell("rise"), {"srg": [0.1, 0.2]}))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert str(path) in failed(str(tmp_path))
    path.write_bytes(whole[:4] + bytes(200) + whole[204:])
    assert str(path) in failed(str(tmp_path))
    path.unlink()
    broken = path.with_suffix(".error.json")
    broken.write_text("{")
    assert str(broken) in failed(str(tmp_path))


def test_unwritable_folder_is_a_user_error(tmp_path: Path) -> None:
    records.write(tmp_path, record(cell("rise"), {"srg": [0.1, 0.2]}))
    Path(tmp_path, "tables").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_tables(tmp_path)


def test_help_and_tables_need_no_deep_learning() -> None:
    code = "import sys, benchmark.leaderboard; print(sorted({'torch', 'timm', 'wandb', 'hydra'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def costing(method: str, values: list[float], passes: int | None, budget: int | None) -> Record:
    found = record(cell(method), {"srg": values})
    return replace(found, facts={**found.facts, "method": {"passes": passes}, "budget": budget})


def test_the_table_states_the_budget() -> None:
    spent = [costing("rise", [0.5, 0.4], 64, 64), costing("lime", [0.3, 0.4], None, 64)]
    cheap = costing("saliency", [0.1, 0.2], 2, None)
    text = terminal(summarise(frame([*spent, cheap])), width=100)
    assert (
        text.splitlines()[0] == "dataset shapes · model small_cnn · n = 2 · budget 64 passes an image · sorted by srg"
    )
    assert [line.split()[:3] for line in text.splitlines()[4:8]] == [
        ["─" * len(text.splitlines()[4])],
        ["rise", "2", "64"],
        ["lime", "2", "0.350"],
        ["saliency", "2", "2"],
    ]
    assert "| method | n | passes | srg ↑ |" in markdown(summarise(frame([*spent, cheap])))


def test_a_budget_that_not_all_keep_is_a_note() -> None:
    dear = costing("ablation_cam", [0.1, 0.2], 1281, None)
    lines = terminal(summarise(frame([costing("rise", [0.5, 0.4], 64, 64), dear])), width=100).splitlines()
    assert "budget" not in lines[0]
    assert lines[-1] == "budget 64 passes an image: rise"


def test_a_method_that_cannot_take_so_few_passes_is_named() -> None:
    found = [costing("rise", [0.5, 0.4], 64, 64), costing("sobol", [0.3, 0.4], 130, 64)]
    lines = terminal(summarise(frame(found)), width=100).splitlines()
    assert "budget" not in lines[0]
    assert lines[-2:] == [
        "budget 64 passes an image: rise",
        "budget 64 passes an image, and no fewer than `passes`: sobol",
    ]


def test_a_method_that_no_budget_changes_may_be_filed_with_and_without_one() -> None:
    filed = [costing("saliency", [0.5, 0.4], 2, 64), record(cell("saliency", "deletion"), {"deletion": [0.1, 0.2]})]
    assert set(summarise(frame(filed))["budget"]) == {64.0}
