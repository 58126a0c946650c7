"""What known truth says of methods and metrics, from records made up so that every number is known by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark import integrity, records, truth
from benchmark.cells import Cell, Choice
from benchmark.errors import UserError
from benchmark.protocols import Measure
from benchmark.records import Record
from benchmark.statistics import bootstrap_interval

SCENES = 8
ADDITIVE = Choice("additive")


def record(
    method: str,
    metric: str,
    values: Mapping[str, Any],
    dataset: Choice = ADDITIVE,
    network: str | None = None,
    role: str = "method",
    higher: bool | None = True,
) -> Record:
    """A record with `values` by measure, a scene each."""
    trained = {} if network is None else {"trained": network}
    split = dataset.params.get("split", "test")
    rows = [
        (
            f"{dataset.name}-0-{split}-{scene:06d}",
            0,
            name,
            float(value),
            "ok" if np.isfinite(value) else "degenerate",
            None,
        )
        for name, scores in values.items()
        for scene, value in enumerate(np.broadcast_to(scores, SCENES))
    ]
    measures = [asdict(Measure(name, higher, (-9.0, 9.0))) for name in values]
    facts = {"measures": measures, "family": "faithfulness", "role": role, "reason": None}
    cell = Cell(Choice("small_cnn", trained), dataset, Choice(method), Choice(metric))
    return Record(cell, pd.DataFrame(rows, columns=records.SCHEMA.names), facts)


def shortcut(
    method: str, network: str, split: str, mass: Any, mark: float, thing: float, role: str = "method"
) -> Record:
    values = {"certified": np.nan, "shortcut_mass": mass, "drop_mark": mark, "drop_object": thing}
    return record(method, "shortcut_mass", values, Choice("shortcut", {"split": split}), network, role)


class TestValidity:
    def found(self) -> list[Record]:
        best = {f"method{place}": float(place) for place in range(truth.FEWEST)}
        found = [record(name, "srg_rendered", {"srg": value}) for name, value in best.items()]
        found += [record(name, "srg", {"srg": value}) for name, value in best.items()]
        found += [record(name, "deletion", {"deletion": value}, higher=False) for name, value in best.items()]
        # One of the 45 pairs the other way: tau = (44 - 1) / 45.
        swapped = best | {"method0": 1.0, "method1": 0.0}
        found += [record(name, "saco", {"saco": value}) for name, value in swapped.items()]
        found += [record(name, "entropy", {"entropy": value}, higher=None) for name, value in best.items()]
        found += [record(name, "completeness", {"completeness": best[name]}) for name in list(best)[1:]]
        # Nulls are no part of the order.
        found += [record("random", metric, {"srg": 99.0}, role="null") for metric in ("srg", "srg_rendered")]
        return found

    def table(self) -> pd.DataFrame:
        return truth.validity_table(self.found()).set_index("column")

    def test_is_tau_to_the_rendered_order(self) -> None:
        tau = self.table()["tau"]
        assert tau.to_dict() == pytest.approx({"srg": 1.0, "deletion": -1.0, "saco": 43 / 45})

    def test_a_reference_of_two_versions_is_that_filed_last(self) -> None:
        again = [
            replace(
                each,
                cell=replace(each.cell, metric=Choice("srg_rendered", version="2")),
                facts={**each.facts, "environment": {"created": "2026-01-01"}},
            )
            for each in self.found()
            if each.cell.metric.name == "srg_rendered"
        ]
        table = truth.validity_table([*self.found(), *again]).set_index("column")
        assert table["tau"].to_dict() == self.table()["tau"].to_dict()

    def test_counts_methods(self) -> None:
        assert self.table()["methods"].tolist() == [10, 10, 10], "nine are too few"

    def test_page_and_picture(self, tmp_path: Path) -> None:
        for each in self.found():
            records.write(tmp_path, each)
        page = truth.write(tmp_path)[0].read_text()
        assert "| metric | mean | additive small_cnn |" in page
        assert "| saco | 0.96 | 0.96 [0.96, 0.96] |" in page
        with Image.open(tmp_path / "figures" / "validity.png") as picture:
            assert picture.width == 1600

    def test_needs_the_reference(self) -> None:
        assert truth.validity_table([record("a", "srg", {"srg": 1.0})]).empty


class TestShortcuts:
    MASS = np.linspace(0.5, 0.7, SCENES)

    def found(self) -> list[Record]:
        """Two networks use the mark, one loses three times as much without it, one next to nothing.

        One method sees the mark, one marks every mark, one is blind.
        """
        networks = {"rho1": (9.0, 1.0), "rho1-seed1": (8.0, 1.5), "rho0.5": (3.0, 1.0), "rho0": (0.5, -9.0)}
        found = []
        for network, (mark, thing) in networks.items():
            used = mark > 5
            sees = {"aligned": self.MASS if used else 0.1, "decoy": 0.1}
            for split in ("aligned", "decoy"):
                found += [
                    shortcut("sees", network, split, sees[split], mark, thing),
                    shortcut("edges", network, split, 0.4, mark, thing, role="null"),
                    shortcut("blind", network, split, 0.2 - 0.1 * used, mark, thing),
                ]
        return found

    def table(self) -> pd.DataFrame:
        return truth.shortcut_table(self.found()).set_index("method")

    def test_who_uses_the_mark_is_known_by_behaviour(self) -> None:
        table = self.table()
        assert table["used"].tolist() == [2, 2, 2]
        assert table["models"].tolist() == [4, 4, 4]

    def test_mass_and_gaps(self) -> None:
        table = self.table()
        assert table["mass"].to_dict() == pytest.approx({"sees": 0.6, "edges": 0.4, "blind": 0.1})
        assert table["gap"].to_dict() == pytest.approx({"sees": 0.5, "edges": 0.0, "blind": 0.0})
        assert table["gap_unused"].to_dict() == pytest.approx({"sees": 0.0, "edges": 0.0, "blind": 0.0})
        assert table.loc["sees", "gap_low"] < 0.5 < table.loc["sees", "gap_high"]

    def test_detection(self) -> None:
        table = self.table()
        assert table["auroc"].to_dict() == pytest.approx({"sees": 1.0, "edges": 0.5, "blind": 0.0})
        # Two networks of four can be parted in six ways, of which one is this and one its opposite.
        assert table["auroc_p"].to_dict() == pytest.approx({"sees": 2 / 6, "edges": 1.0, "blind": 2 / 6})

    def test_rounding_detects_nothing(self) -> None:
        """A map that is constant in every network, up to the last digit."""
        masses = {"rho1": 1 / 64 + 7e-12, "rho1-seed1": 1 / 64 + 5e-12, "rho0.5": 1 / 64, "rho0": 1 / 64 - 5e-12}
        drops = {"rho1": (9.0, 1.0), "rho1-seed1": (8.0, 1.5), "rho0.5": (3.0, 1.0), "rho0": (0.5, -9.0)}
        found = [shortcut("flat", name, "aligned", mass, *drops[name]) for name, mass in masses.items()]
        (row,) = truth.shortcut_table(found).to_dict("records")
        assert row["auroc"] == 0.5
        assert np.isnan(row["slope"])

    def test_detection_is_a_share_of_pairs(self) -> None:
        """Masses (5, 3) of users against (4, 1): three pairs of four; the six ways to part 5, 4, 3, 1 by hand."""
        drops = {"a": (9.0, 1.0), "b": (8.0, 1.0), "c": (3.0, 1.0), "d": (0.5, 0.0)}
        masses = dict(zip(drops, (0.5, 0.3, 0.4, 0.1), strict=True))
        found = [shortcut("some", name, "aligned", masses[name], *drops[name]) for name in drops]
        (row,) = truth.shortcut_table(found).to_dict("records")
        # Of {5,4}, {5,3}, {5,1}, {4,3}, {4,1}, {3,1} the first two have as much or more; two-sided twice 2 / 6.
        assert (row["auroc"], row["auroc_p"]) == (0.75, pytest.approx(4 / 6))

    def test_slope_is_a_rank_correlation_over_networks(self) -> None:
        """Masses (1, 1, 0, 0) against drops in the order (4, 3, 2, 1): r of (3.5, 3.5, 1.5, 1.5) is 2 / sqrt(5)."""
        table = self.table()
        assert table.loc["sees", "slope"] == pytest.approx(2 / 5**0.5)
        assert table.loc["blind", "slope"] == pytest.approx(-2 / 5**0.5)
        assert np.isnan(table.loc["edges", "slope"])

    def test_one_network_alone_tells_less(self) -> None:
        found = [each for each in self.found() if each.cell.model.params["trained"] == "rho1"]
        table = truth.shortcut_table(found).set_index("method")
        assert table.loc["sees", "gap"] == pytest.approx(0.5)
        assert table.loc["sees", ["gap_unused", "slope", "auroc"]].isna().all()

    @pytest.mark.parametrize("change", [{"seed": 1}, {"metric": Choice("shortcut_mass", version="2")}])
    def test_of_versions_and_seeds_the_last_filed_is_taken(self, change: dict[str, Any]) -> None:
        later = shortcut("sees", "rho1", "aligned", 0.9, 9.0, 1.0)
        facts = {**later.facts, "environment": {"created": "2026-01-01"}}
        again = replace(later, cell=replace(later.cell, **change), facts=facts)
        assert truth.shortcut_table([*self.found(), again])["mass"].tolist() == pytest.approx([0.9])
        assert truth.shortcut_table([again, *self.found()])["mass"].tolist() == pytest.approx([0.9])

    def test_two_lists_of_scenes_are_refused(self) -> None:
        (one, *_) = self.found()
        params = {**one.cell.dataset.params, "n": 4}
        other = replace(one, cell=replace(one.cell, dataset=replace(one.cell.dataset, params=params)))
        with pytest.raises(UserError, match="several lists of the same scenes"):
            truth.shortcut_table([one, other])

    def test_a_failed_decoy_leaves_the_mass(self) -> None:
        found = [each for each in self.found() if each.cell.dataset.params["split"] == "aligned"]
        table = truth.shortcut_table(found).set_index("method")
        assert table.loc["sees", "mass"] == pytest.approx(0.6)
        assert np.isnan(table.loc["sees", "gap"])


def test_contrast_is_of_two_models_on_the_same_scenes() -> None:
    found = [
        record(
            method, "object_mass", {"object_mass": mass}, Choice("dual_label", {"label": label, "split": "test"}), label
        )
        for method, masses in {"follows": (0.8, 0.3), "edges": (0.4, 0.4)}.items()
        for label, mass in zip(("shape", "texture"), masses, strict=True)
    ]
    table = truth.contrast_table(found).set_index("method")
    assert table["contrast"].to_dict() == pytest.approx({"follows": 0.5, "edges": 0.0})
    assert table.loc["follows", ["low", "high"]].tolist() == pytest.approx([0.5, 0.5])
    assert truth.contrast_table(found[:1]).empty


def test_precision_and_false_alarms_stand_side_by_side(tmp_path: Path) -> None:
    scenes = Choice("suppressor", {"split": "test"})
    precision = np.array([0.2, 0.4, 0.6, 0.8, 0.2, 0.4, 0.6, 0.8])
    scores = {
        "relevance_rank": {"finds": precision, "alarms": [0.25] * 7 + [np.nan]},
        "suppressor_mass": {"finds": 0.125, "alarms": 0.75},
    }
    for metric, methods in scores.items():
        assert truth.suppressor_table(records.read_all(tmp_path)).empty, "one column says half"
        for method, values in methods.items():
            records.write(tmp_path, record(method, metric, {metric: values}, scenes))
    truth.write(tmp_path)
    table = pd.read_csv(tmp_path / "tables" / "suppressors.csv").set_index("method")
    low, high = bootstrap_interval(precision)
    assert table.loc["finds", ["precision", "precision_low", "precision_high"]].tolist() == pytest.approx(
        [0.5, low, high], rel=1e-5
    )
    assert table["false_alarms"].to_dict() == {"finds": 0.125, "alarms": 0.75}
    assert table.loc["alarms", "precision"] == 0.25
    page = (tmp_path / "tables" / "truth.md").read_text()
    assert page.index(f"| finds | 0.50 [{low:.2f}, {high:.2f}] | 0.12 [0.12, 0.12] |") < page.index("| alarms | 0.25")
    assert not integrity.of_tables(tmp_path)[1]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert truth.main([str(tmp_path)]) == 2
    assert "expected the folder of python -m benchmark +sweeps=truth" in capsys.readouterr().err
    for each in TestShortcuts().found():
        records.write(tmp_path, each)
    assert truth.main([str(tmp_path)]) == 0
    page = (tmp_path / "tables" / "truth.md").read_text()
    assert "### small_cnn: 2 of 4 networks use the watermark" in page
    low, high = bootstrap_interval(TestShortcuts.MASS)
    mass, gap = f"0.60 [{low:.2f}, {high:.2f}]", f"0.50 [{low - 0.1:.2f}, {high - 0.1:.2f}]"
    assert f"| sees | {mass} | {gap} | 0.00 [0.00, 0.00] | 0.89 | 1.00 | 0.33 |" in page
    assert page in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "tables" / "shortcuts.csv").set_index("method")
    assert table["auroc"].to_dict() == {"sees": 1.0, "edges": 0.5, "blind": 0.0}
    assert table["role"].to_dict() == {"sees": "method", "edges": "null row", "blind": "method"}


def test_checking_the_tables_writes_nothing(tmp_path: Path) -> None:
    """Least of all the picture that belongs to them: a submission is closed."""
    for each in TestValidity().found():
        records.write(tmp_path, each)
    truth.write(tmp_path)
    picture = tmp_path / "figures" / "validity.png"
    picture.write_bytes(b"as it was filed")
    assert not integrity.of_tables(tmp_path)[1]
    assert picture.read_bytes() == b"as it was filed"


def test_tables_are_checked_against_the_records(tmp_path: Path) -> None:
    for each in TestShortcuts().found():
        records.write(tmp_path, each)
    written = truth.write(tmp_path)
    checked, faults = integrity.of_tables(tmp_path)
    assert set(written) <= set(checked)
    assert not faults
    table = tmp_path / "tables" / "shortcuts.csv"
    table.write_text(table.read_text().replace(",1,0.333333", ",0.9,0.333333"))
    [(path, fault)] = integrity.of_tables(tmp_path)[1]
    assert path == table
    assert "python -m benchmark.truth" in fault
