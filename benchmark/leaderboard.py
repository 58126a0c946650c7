"""Ranked tables from records: `python -m benchmark.leaderboard [DIR]`. Nothing is computed again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from benchmark import records
from benchmark.cells import Cell, Choice, digest
from benchmark.certificate import certified
from benchmark.errors import UserError, unknown
from benchmark.frames import AXES, COST, Labels, Scored, assemble, frame, summarise, take
from benchmark.records import Record
from benchmark.tables import heading, markdown, terminal

_LEGEND = (
    "`0.412 [0.381, 0.443] ab` is the mean over images, the 95 % bootstrap interval of that mean "
    "(BCa, 10,000 resamples of the images), and letters.",
    "Rows of a column that share a letter are not shown to differ; `a` stands at the best mean. Behind the letters are "
    "paired permutation tests over the images, with Holm's correction over all pairs of rows of the column, at a "
    "family-wise level of 5 %. A column without letters describes and does not rank.",
    "↑ higher is better, ↓ lower is better; without an arrow the number has no direction. Rows are sorted by the "
    "column named in the title, null and oracle rows stand apart.",
    "`passes`: forward and backward passes through the model that one explanation takes, empty where that depends on "
    "the image or the model. `budget`: the passes that samples, steps and masks of the methods were cut to.",
    "`62/64` after a number: only 62 of 64 images could be scored, the others are left out and listed below the table "
    "as `degenerate` (undefined for this map or model) or `invalid` (NaN or infinity in the map).",
    "`uncertified`: the metric has not proved itself on models with a known answer (`python -m benchmark.certify`), so "
    "it shows numbers and ranks nothing.",
    "`n/a`: the metric has no meaning for this method, model or data set. `failed`: an error stopped the cell, and the "
    "next run tries it again. `missing`: nothing has been filed for the cell yet. Reasons stand below the table.",
)
_COST_LEGEND = (
    "Time, memory and passes of making the explanations alone, one number a cell, in the unit of the heading. "
    "They belong to the device on which they were taken.",
    "↑ higher is better, ↓ lower is better.",
)


def tables(found: Iterable[Record], root: Path) -> dict[str, pd.DataFrame]:
    """For trackers: the tidy `leaderboard` and `cost`, and by `<dataset> <model>` the ranked means, a row a method."""
    scored = list(found)
    if not scored:
        return {}
    summary = summarise(frame(scored, certified=certified(root)))
    named = dict(_tidy(summary))
    for (dataset, model), part in summary[summary["family"] != COST].groupby(["dataset", "model"], sort=False):
        rows = part.drop_duplicates("method")[["method", "role"]].set_index("method")
        rows["n"] = part.groupby("method")["total"].max()
        for name, column in part.groupby("column", sort=False):
            rows[heading(str(name), column.iloc[0])] = column.set_index("method")["mean"]
        named[f"{dataset} {model}"] = rows.reset_index()
    return named


def tidy(root: Path) -> pd.DataFrame:
    """`frames.frame` of everything that is filed under `root`; metrics that the certificate does not know rank nothing.

    Raises:
        UserError: there is no record, or one is damaged.
    """
    return assemble(*_read(root))


def write_tables(root: Path) -> list[Path]:
    """Write `leaderboard` and `cost`, as `.csv` and `.md`, under `<root>/tables/` from all records under `root`.

    Returns:
        The paths written; there is no `cost` without timings, and no `leaderboard` with nothing else.

    Raises:
        UserError: there is no record, one is damaged, or the folder cannot be written.
    """
    return _write(root, summarise(tidy(root)))


def report(root: Path, pairs: Iterable[tuple[Choice, Choice]] | None = None) -> str:
    """Write all tables and return those of the given (model, dataset) pairs, of all without `pairs`, as plain text.

    Raises:
        UserError: as `write_tables`.
    """
    scored, failed, names = _read(root)
    summary = summarise(assemble(scored, failed, names))
    _write(root, summary)
    if pairs is not None:
        found = [
            tuple(names.get((axis, digest(asdict(choice))), "") for axis, choice in zip(AXES, pair, strict=False))
            for pair in pairs
        ]
        summary = summary[[pair in found for pair in zip(summary["model"], summary["dataset"], strict=True)]]
    return _page(summary)


def _read(root: Path) -> tuple[list[Scored], list[tuple[Cell, str]], Labels]:
    scored, failed, names = take(records.read_all(root), records.read_errors(root), certified(root))
    if not scored and not failed:
        raise UserError(f"{root} holds no records: expected the folder of a sweep, made by python -m benchmark")
    return scored, failed, names


def _write(root: Path, summary: pd.DataFrame) -> list[Path]:
    paths = []
    for name, part in _tidy(summary):
        title, legend = ("Cost", _COST_LEGEND) if name == COST else ("Leaderboard", _LEGEND)
        text = "\n".join([f"# {title}", "", *(f"- {line}" for line in legend), "", markdown(part)])
        paths += [
            _write_text(Path(root, "tables", f"{name}.csv"), part.to_csv(index=False, float_format="%.6g")),
            _write_text(Path(root, "tables", f"{name}.md"), text),
        ]
    return paths


def _tidy(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """What scores say and what timings say, apart: the first must not change when the second do."""
    cost = summary["family"] == COST
    for name, part in (("leaderboard", summary[~cost]), (COST, summary[cost])):
        if len(part):
            yield name, part


def _write_text(path: Path, text: str) -> Path:
    records.write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _page(summary: pd.DataFrame) -> str:
    """The tables of `summary` with a short key."""
    key = (
        "mean [95 % bootstrap interval] letters: rows that share a letter are not shown to differ (paired permutation\n"
        "tests with Holm, 5 %); ↑ higher is better, ↓ lower is better; 62/64: images that could be scored."
    )
    return f"{terminal(summary)}\n{key}" if len(summary) else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m benchmark.leaderboard [DIR]`: print the tables, write them, compute nothing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.leaderboard",
        description="Make the ranked tables of a folder of records again: print them and write DIR/tables/. "
        "Nothing is explained or scored.",
        epilog="The files always hold all rows, and letters always compare all rows: filters shorten what is printed.",
    )
    parser.add_argument("root", metavar="DIR", nargs="?", type=Path, default=Path("results"), help="default: results")
    for axis in ("model", "dataset", "method"):
        parser.add_argument(f"--{axis}", metavar="NAME", help=f"print this {axis} only")
    options = parser.parse_args(arguments)
    try:
        scored, failed, names = _read(options.root)
        summary = summarise(assemble(scored, failed, names))
        shown = summary
        for axis in ("model", "dataset", "method"):
            if wanted := getattr(options, axis):
                shown = _only(shown, axis, wanted)
        paths = _write(options.root, summary)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(_page(shown), *(f"written: {path}" for path in paths), sep="\n")
    return 0


def _only(summary: pd.DataFrame, axis: str, wanted: str) -> pd.DataFrame:
    """The rows whose label on `axis` is `wanted`, or that name with options or a version behind it."""
    there = list(dict.fromkeys(summary[axis]))
    found = [label for label in there if label == wanted or label.startswith((f"{wanted}(", f"{wanted}@"))]
    if not found:
        raise UserError(unknown(f"{axis} ", wanted, there))
    return summary[summary[axis].isin(found)]


if __name__ == "__main__":
    sys.exit(main())
