"""Cells and records: keys, whole files, broken files, what an old version wrote."""

from __future__ import annotations

import errno
import json
import math
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from benchmark import records
from benchmark.cells import Cell, Choice
from benchmark.errors import UserError
from benchmark.records import Record

CELL = Cell(
    Choice("small_cnn", {"size": [3, 64, 64]}, "0123"),
    Choice("shapes", {"n": 2, "seed": 0}),
    Choice("integrated_gradients", {"steps": 16}),
    Choice("deletion", {"steps": 100, "output": "prob"}),
)
FACTS = {
    "measures": [{"name": "deletion", "higher_is_better": False, "range": [0.0, 1.0], "null": None}],
    "family": "faithfulness",
    "role": "method",
    "reason": None,
    "seconds": 1.5,
    "forwards": 198,
    "backwards": 0,
    "environment": {"torch": "2.15.0"},
}


def record(cell: Cell = CELL) -> Record:
    rows = [
        ("a", 3, "deletion", 0.25, "ok", [1.0, 0.25, 0.0]),
        ("b", 1, "deletion", math.nan, "invalid", None),
    ]
    return Record(cell, pd.DataFrame(rows, columns=records.SCHEMA.names), FACTS)


def test_key_is_stable_and_sees_every_change() -> None:
    assert CELL.key == "2ddd96d710154f801ca255f0f5984995b9d494c3bb3a280924929a0a3158ea7c"
    assert Cell.from_dict(json.loads(json.dumps(asdict(CELL)))).key == CELL.key
    reordered = replace(CELL, metric=Choice("deletion", {"output": "prob", "steps": 100}))
    assert reordered.key == CELL.key
    changes = [
        replace(CELL, seed=1),
        replace(CELL, device="a GPU"),
        replace(CELL, metric=Choice("deletion", {"steps": 101, "output": "prob"})),
        replace(CELL, metric=Choice("deletion", {"steps": 100, "output": "prob"}, version="2")),
        replace(CELL, model=Choice("small_cnn", {"size": [3, 64, 64]}, "4567")),
    ]
    assert len({cell.key for cell in [CELL, *changes]}) == len(changes) + 1


def test_round_trip(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    assert path.relative_to(tmp_path).parts[:4] == ("records", "small_cnn", "shapes", "integrated_gradients")
    assert path.name == f"deletion-{CELL.key[:16]}.parquet"
    assert b"ARROW:schema" not in path.read_bytes(), "it holds all metadata again"
    found = records.read(path)
    assert found.cell == CELL
    assert found.facts == FACTS
    assert found.rows["uid"].tolist() == ["a", "b"]
    assert found.rows["value"].tolist()[0] == 0.25
    assert math.isnan(found.rows["value"].tolist()[1])
    assert found.rows["curve"].tolist()[0].tolist() == [1.0, 0.25, 0.0]
    assert [found.cell for found in records.read_all(tmp_path)] == [CELL]


def test_a_published_file_is_never_changed(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    before = path.read_bytes()
    other = record()
    other.rows["value"] = 9.0
    records.write(tmp_path, other)
    assert path.read_bytes() == before


def test_error_is_filed_and_goes_with_success(tmp_path: Path) -> None:
    records.write_error(tmp_path, CELL, "it broke")
    assert list(records.read_errors(tmp_path)) == [(CELL, "it broke")]
    records.write(tmp_path, record())
    assert list(records.read_errors(tmp_path)) == []


def test_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; everything filed before is kept"):
        records.write_whole(path, fail)
    assert list(path.parent.iterdir()) == []


def test_two_writers_do_no_harm(tmp_path: Path) -> None:
    cells = [replace(CELL, seed=seed) for seed in range(20)]

    def work() -> None:
        for cell in cells:
            records.write(tmp_path, record(cell))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {found.cell.seed for found in records.read_all(tmp_path)} == set(range(20))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 20


def test_a_foreign_or_cut_file_is_named(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=path.name):
        records.read(path)
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(UserError, match=path.name):
        records.read(path)


def test_names_are_safe_in_paths(tmp_path: Path) -> None:
    cell = replace(CELL, model=Choice("../../hf-hub:timm/x y"))
    path = records.record_path(tmp_path, cell)
    assert path.resolve().is_relative_to(tmp_path.resolve() / "records")
    assert len(path.relative_to(tmp_path).parts) == 5
