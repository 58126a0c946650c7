"""`python -m benchmark.compare RESULTS METHOD --against A,B`: is a method better than others, image by image?

Everything is read from records: nothing is explained or scored, and no mean is compared with another mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import leaderboard, records
from benchmark.comparison import TESTS
from benchmark.comparison_tables import latex, markdown, terminal
from benchmark.errors import UserError
from benchmark.frames import COST, Labels, Scored, assemble, identity
from benchmark.interruption import interruptible
from benchmark.mixing import Failed
from benchmark.selection import Selection, split
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
        question = _question(_Filed(scored, failed, names, tidy), options)
        refuse_versions(tidy, scored, names, question)
        found = answer(tidy, question)
        paths = write(options.out or options.root / "tables", found)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(terminal(found), *(f"written: {path}" for path in paths), sep="\n")
    return 0


@dataclass(frozen=True)
class _Filed:
    """What a folder holds, by the labels of tables; names mean what they mean to `selection`."""

    scored: Sequence[Scored]
    failed: Sequence[Failed]
    names: Labels
    tidy: pd.DataFrame

    def one(self, name: str) -> str:
        """The label of the only method called `name`."""
        found = self.several("method", [name])
        if len(found) > 1:
            dates = self._dates()
            newest = sorted(found, key=lambda label: dates.get(label, ""), reverse=True)
            raise UserError(f"{name} stands for {len(found)} rows: name one of {', '.join(newest)} (the newest first)")
        return found[0]

    def several(self, axis: str, wanted: Sequence[str]) -> tuple[str, ...]:
        """The labels on `axis` that each name means; one that is a label means nothing else."""
        found: list[str] = []
        for name in wanted:
            asked: dict[str, Any] = {axis: (name,)}
            meant = Selection(**asked).resolve(self.scored, self.failed, self.names)
            labels = [self.names[axis, key] for key in meant.choices[axis]]
            found += [name] if name in labels else labels
        return tuple(dict.fromkeys(found))

    def columns(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The columns of scores that the names of metrics and measures mean."""
        scored = [one for one in self.scored if one.facts["family"] != COST]
        failed = [one for one in self.failed if not one[0].device]
        meant = Selection(metric=tuple(wanted)).resolve(scored, failed, self.names)
        columns = self.tidy[self.tidy["family"] != COST].drop_duplicates("column")
        found: list[str] = []
        for key, measures in meant.choices["metric"].items():
            own = columns[columns["metric"] == self.names["metric", key]]
            # Nothing says what a metric measures that never succeeded.
            found += own.loc[own["measure"].isin(measures) | (not measures), "column"].tolist()
        return tuple(dict.fromkeys(found))

    def _dates(self) -> dict[str, str]:
        """When the last record of each method was made, by label."""
        found: dict[str, str] = {}
        for one in self.scored:
            label = self.names["method", identity(one.cell, "method")]
            found[label] = max(found.get(label, ""), str(one.facts.get("environment", {}).get("created", "")))
        return found


def _question(filed: _Filed, options: argparse.Namespace) -> Question:
    """What the options ask, in labels."""
    method, *rivals = (filed.one(name) for name in (options.method, *options.against))
    if not rivals:
        raise UserError("--against names no method to compare with")
    if method in rivals:
        raise UserError(f"{method} cannot be compared with itself")
    models, datasets = (
        None if (wanted := getattr(options, axis)) is None else filed.several(axis, wanted)
        for axis in ("model", "dataset")
    )
    columns = None if options.metric is None else filed.columns(options.metric)
    question = Question(method, tuple(dict.fromkeys(rivals)), models, datasets, columns, options.test)
    _refuse_lacking(filed, question, options)
    return question


def _refuse_lacking(filed: _Filed, question: Question, options: argparse.Namespace) -> None:
    """Raise if a model, data set or metric that the options name has no score of the method."""
    asked = asked_rows(filed.tidy, question)
    own = asked[(asked["method"] == question.method) & (asked["family"] != COST)]
    for axis in ("model", "dataset", "metric"):
        for name in getattr(options, axis) or ():
            meant = filed.columns([name]) if axis == "metric" else filed.several(axis, [name])
            if not own["column" if axis == "metric" else axis].isin(meant).any():
                raise UserError(
                    f"{question.method} has no record of {axis} {name} among what is asked for: compute it with "
                    "python -m benchmark, or leave it out"
                )


if __name__ == "__main__":
    sys.exit(main())
