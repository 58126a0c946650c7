"""`python -m benchmark.compare RESULTS METHOD --against A,B`: is a method better than others, image by image?

Everything is read from records: nothing is explained or scored, and no mean is compared with another mean.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from benchmark import leaderboard, records
from benchmark.comparison import TESTS
from benchmark.comparison_tables import latex, markdown, terminal
from benchmark.errors import UserError, unknown
from benchmark.frames import COST, assemble, identity, labels
from benchmark.interruption import interruptible
from benchmark.selection import split
from benchmark.verdicts import Question, answer, asked_rows, refuse_versions

_DESCRIPTION = """\
Compare METHOD with others on every model, data set and metric that METHOD has records of, paired over the images.
Prints the comparison and writes RESULTS/tables/compare-METHOD.csv, .md and .tex. Nothing is explained or scored."""

_EPILOG = """\
Verdicts are corrected by Holm over one family: every comparison that this command makes with a verdict, over all
metrics, models, data sets and rivals together. Columns that do not rank (uncertified, or without a direction) stand
apart and get no verdict. A cell that METHOD has and a rival lacks, or has of other images or another version, is
refused by name, and so are two versions of a metric: --metric srg@2 chooses one.

Exit code: 0 if everything is compared, 2 if something cannot be."""


def write(folder: Path, found: pd.DataFrame) -> list[Path]:
    """Write a comparison as `compare-METHOD.csv`, `.md` and `.tex` into `folder`.

    Raises:
        UserError: the folder cannot be written.
    """
    stem = f"compare-{records.file_name(found['method'].iloc[0])}"
    texts = {"csv": found.to_csv(index=False, float_format="%.6g"), "md": markdown(found), "tex": latex(found)}
    paths = []
    for suffix, text in texts.items():
        path = Path(folder, f"{stem}.{suffix}")
        records.write_whole(path, partial(Path.write_text, data=text, encoding="utf-8"))
        paths.append(path)
    return paths


def again(root: Path, path: Path) -> list[Path]:
    """Write the comparison of `compare-METHOD.csv` in `path` as the records of `root` give it, into `<root>/tables/`.

    Raises:
        UserError: it is no comparison, or one that these records do not allow.
    """
    try:
        filed = pd.read_csv(path, keep_default_na=False, dtype=str)
        scores = filed[filed["kind"] != "cost"]
        rivals, models, datasets, columns = (
            tuple(dict.fromkeys(scores[name])) for name in ("rival", "model", "dataset", "column")
        )
        (method,) = set(filed["method"])
        tests = set(scores["test"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"it is no comparison: {' '.join(str(error).split())}") from error
    test = next((each for each in TESTS if each in tests), TESTS[0])
    scored, failed, names = leaderboard.read(root)
    tidy = assemble(scored, failed, names)
    question = Question(method, rivals, models, datasets, columns, test)
    refuse_versions(tidy, scored, names, question)
    return write(root / "tables", answer(tidy, question))


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare as `arguments` ask, print, and write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", metavar="RESULTS", type=Path, help="the folder of a sweep, with records/ in it")
    parser.add_argument("method", metavar="METHOD", help="its name in the tables")
    parser.add_argument("--against", metavar="A,B", type=split, required=True, help="the methods to compare it with")
    for axis in ("model", "dataset", "metric"):
        parser.add_argument(f"--{axis}", metavar="NAMES", type=split, help=f"compare on these {axis}s only")
    parser.add_argument("--test", choices=TESTS, default=TESTS[0], help="default: permutation")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write there (default: RESULTS/tables)")
    options = parser.parse_args(arguments)
    try:
        scored, failed, names = leaderboard.read(options.root)
        tidy = assemble(scored, failed, names)
        question = _question(tidy, options)
        refuse_versions(tidy, scored, names, question)
        found = answer(tidy, question)
        paths = write(options.out or options.root / "tables", found)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(terminal(found), *(f"written: {path}" for path in paths), sep="\n")
    return 0


def _question(tidy: pd.DataFrame, options: argparse.Namespace) -> Question:
    """What the options ask, in labels."""
    method, *rivals = (_one(tidy, name, options.root) for name in (options.method, *options.against))
    if not rivals:
        raise UserError("--against names no method to compare with")
    if method in rivals:
        raise UserError(f"{method} cannot be compared with itself")
    models, datasets = (_several(tidy, axis, getattr(options, axis)) for axis in ("model", "dataset"))
    question = Question(
        method, tuple(dict.fromkeys(rivals)), models, datasets, _columns(tidy, options.metric), options.test
    )
    _refuse_lacking(tidy, question, options)
    return question


def _refuse_lacking(tidy: pd.DataFrame, question: Question, options: argparse.Namespace) -> None:
    """Raise if a model, data set or metric that the options name has no score of the method."""
    asked = asked_rows(tidy, question)
    own = asked[(asked["method"] == question.method) & (asked["family"] != COST)]
    for axis in ("model", "dataset", "metric"):
        for name in getattr(options, axis) or ():
            meant = _columns(tidy, [name]) if axis == "metric" else _several(tidy, axis, [name])
            if not own["column" if axis == "metric" else axis].isin(meant or ()).any():
                raise UserError(
                    f"{question.method} has no record of {axis} {name} among what is asked for: compute it with "
                    "python -m benchmark, or leave it out"
                )


def _one(tidy: pd.DataFrame, name: str, root: Path) -> str:
    """The label of the only method called `name`."""
    found = _labels(tidy, "method", name)
    if len(found) > 1:
        newest = _dates(root)
        found.sort(key=lambda label: newest.get(label, ""), reverse=True)
        raise UserError(f"{name} stands for {len(found)} rows: name one of {', '.join(found)} (the newest first)")
    return found[0]


def _dates(root: Path) -> dict[str, str]:
    """When the last record of each method was made, by label."""
    made = [(record.cell, str(record.facts["environment"]["created"])) for record in records.read_all(root)]
    names = labels(cell for cell, _ in made)
    return {names["method", identity(cell, "method")]: date for cell, date in sorted(made, key=lambda each: each[1])}


def _several(tidy: pd.DataFrame, axis: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(label for name in names for label in _labels(tidy, axis, name))


def _columns(tidy: pd.DataFrame, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Columns by their own names or by those of metrics, which stand for all of their columns."""
    if names is None:
        return None
    scores = tidy[tidy["family"] != COST].drop_duplicates("column")
    found: list[str] = []
    for name in names:
        own = scores[(scores["column"] == name) | scores["metric"].map(lambda label, name=name: _called(label, name))]
        if own.empty:
            raise UserError(unknown("metric ", name, dict.fromkeys([*scores["metric"], *scores["column"]])))
        found += own["column"].tolist()
    return tuple(dict.fromkeys(found))


def _labels(tidy: pd.DataFrame, axis: str, name: str) -> list[str]:
    """The labels on `axis` that are `name`, or that name with options, a version or both behind it."""
    there = list(dict.fromkeys(tidy[axis]))
    if found := [label for label in there if _called(label, name)]:
        return [name] if name in found else found
    raise UserError(unknown(f"{axis} ", name, there))


def _called(label: str, name: str) -> bool:
    without_options = re.sub(r"\(.*\)", "", label)
    return name in (label, without_options) or label.startswith((f"{name}(", f"{name}@", f"{name}#"))


if __name__ == "__main__":
    sys.exit(main())
