"""What can be said of records without computing anything again: are they whole, consistent, and what the tables say?"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import compare, leaderboard, manifest, records, truth
from benchmark.cells import digest
from benchmark.errors import UserError
from benchmark.plugins import targets
from benchmark.records import Record

Faults = Iterator[tuple[Path, str]]
"""Files, and what is wrong with them in one sentence."""

CELL = "-"
"""The uid of a number that belongs to the whole cell."""

_FACTS = ("measures", "family", "role", "reason", "environment")


def of_record(root: Path, path: Path, record: Record) -> Faults:
    """What is wrong with the record in `path`, looked at alone."""
    expected = records.record_path(root, record.cell)
    if path.name != expected.name:
        yield path, f"its name is not the key of its cell, whose file is {expected.name}"
    elif path != expected:
        yield path, f"it stands among the records of another cell, its place is {expected.parent}"
    if missing := [name for name in _FACTS if name not in record.facts]:
        yield path, f"it does not state {', '.join(missing)}"
        return
    if record.rows_digest is not None and record.rows_digest != records.digest_rows(record.rows):
        yield path, "its rows are not those that were filed: their digest differs"
    for sentence in _of_rows(record):
        yield path, sentence


def _of_rows(record: Record) -> Iterator[str]:
    rows = record.rows
    if unknown := set(rows["status"]) - set(records.STATUSES):
        yield f"it has the status {', '.join(sorted(map(str, unknown)))}, known are {', '.join(records.STATUSES)}"
    wrong = rows[(rows["status"] == "ok") != np.isfinite(rows["value"].astype(float))]
    if len(wrong):
        row = wrong.iloc[0]
        yield f"{row.measure} of {row.uid} is {row.value} and its status {row.status}: only what is ok has a value"
    if record.facts["reason"] and (rows["status"] != "not_applicable").any():
        yield f"it has scores and says that it is not applicable: {record.facts['reason']}"
    stated = [measure["name"] for measure in record.facts["measures"]]
    if set(rows["measure"]) != set(stated):
        yield f"it holds {', '.join(sorted(set(rows['measure'])))} and states {', '.join(sorted(stated))}"
    if rows.duplicated(["uid", "measure"]).any() or len(rows) != rows["uid"].nunique() * rows["measure"].nunique():
        yield "it has not one row for each image and measure"
    if rows.groupby("uid")["target"].nunique().max() > 1:
        yield "it explains two classes of one image"
    for name, curves in rows["curve"].dropna().groupby(rows["measure"]):
        if curves.map(len).nunique() > 1:
            yield f"its curves of {name} have different lengths"


def mixed(found: Mapping[Path, Record], timings: Collection[Path]) -> Faults:
    """Records that must not meet in one table: other images (of all but `timings`), or other versions of a choice."""
    pairs: dict[str, dict[Path, Record]] = {}
    for path, record in found.items():
        key = digest([asdict(record.cell.model), asdict(record.cell.dataset)])
        pairs.setdefault(key, {})[path] = record
    for pair in pairs.values():
        images = {path: tuple(records.images(record.rows)) for path, record in pair.items() if path not in timings}
        for path, other in _minority(images):
            same = set(images[path]) == set(images[other])
            differ = "the images in another order" if same else "other images or classes"
            yield path, f"it lists {differ} than {other}, of the same model and data set"
        for axis in ("method", "metric"):
            choices = {path: getattr(record.cell, axis) for path, record in pair.items()}
            # The version of a plug-in names those among its options too, and other ones are no other version.
            classes = {path: (choice.name, *targets(choice.params)) for path, choice in choices.items()}
            for kind in dict.fromkeys(classes.values()):
                name = kind[0]
                versions = {path: choice.version for path, choice in choices.items() if classes[path] == kind}
                for path, other in _minority(versions):
                    yield (
                        path,
                        (
                            f"{axis} {name} of version {versions[path]} beside version {versions[other]} in {other}: "
                            "a table never mixes versions"
                        ),
                    )


def _minority(values: Mapping[Path, Hashable]) -> Iterator[tuple[Path, Path]]:
    """Every file whose value is not the commonest, and the first file of the commonest."""
    for commonest, _ in Counter(values.values()).most_common(1):
        other = next(path for path, value in values.items() if value == commonest)
        yield from ((path, other) for path, value in values.items() if value != commonest)


def without_null(found: Iterable[Record]) -> list[str]:
    """The models and data sets that have rows of methods, and no null row to say what chance scores."""
    roles: dict[str, set[str]] = {}
    for record in found:
        pair = f"{record.cell.model.name} × {record.cell.dataset.name}"
        roles.setdefault(pair, set()).add(str(record.facts["role"]))
    return [pair for pair, there in roles.items() if "method" in there and "null" not in there]


def of_tables(root: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The tables under `root` that its records make, and every file beside them or that says something else.

    Raises:
        UserError: a file that they are made of is damaged.
    """
    checked: list[Path] = []
    faults: list[tuple[Path, str]] = []
    if not Path(root, "tables").is_dir():
        return checked, faults
    with tempfile.TemporaryDirectory() as folder:
        # All but what is derived, so that it is written there from the same files.
        for entry in root.resolve().iterdir():
            if entry.name not in manifest.DERIVED:
                Path(folder, entry.name).symlink_to(entry)
        try:
            written = dict.fromkeys(leaderboard.write_tables(Path(folder)), "leaderboard")
            if (root / "tables" / "truth.md").exists():
                written |= dict.fromkeys(truth.write(Path(folder)), "truth")
            for filed in sorted((root / "tables").glob("compare-*.csv")):
                try:
                    written |= dict.fromkeys(compare.again(Path(folder), filed), "compare")
                except UserError as error:
                    faults.append((filed, f"the records do not give it: {error}"))
        except UserError as error:
            raise UserError(str(error).replace(folder, str(root))) from error
        for made, module in written.items():
            filed = root / "tables" / made.name
            if filed.exists():
                checked.append(filed)
                if difference := _difference(filed, made):
                    faults.append((filed, f"{difference}; python -m benchmark.{module} {root} writes it again"))
        for stray in sorted({path.name for path in (root / "tables").iterdir()} - {made.name for made in written}):
            faults.append((root / "tables" / stray, "not a table of these records"))
    return checked, faults


def _difference(filed: Path, made: Path) -> str:
    """In what a table differs from the one that the records give."""
    try:
        if made.suffix == ".parquet":
            # Equal frames: the bytes depend on who wrote them.
            equal = pd.read_parquet(filed).equals(pd.read_parquet(made))
            return "" if equal else "its rows are not what the records give"
        lines = filed.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{filed} cannot be read: {error}") from error
    return _first_difference(lines, made.read_text(encoding="utf-8").splitlines())


def _first_difference(filed: list[str], made: list[str]) -> str:
    for number, (line, expected) in enumerate(zip(filed, made, strict=False), 1):
        if line != expected:
            return f"line {number} is not what the records give: {line[:200]!r} instead of {expected[:200]!r}"
    if len(filed) != len(made):
        return f"it has {len(filed)} lines, the records give {len(made)}"
    return ""
