"""Ranked tables from records: `python -m benchmark.leaderboard [DIR]`. Nothing is computed again.

A sweep writes `<root>/tables/` from all records, of several versions of a method or metric the highest. The
command refuses to choose by itself. A selection is printed, and written only where `--out` says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from benchmark import mixing, records
from benchmark.cells import Choice, digest
from benchmark.certificate import certified
from benchmark.errors import UserError
from benchmark.frames import AXES, COST, Labels, Scored, assemble, csv, labels, summarise, take
from benchmark.html_table import html
from benchmark.interruption import interruptible
from benchmark.latex import latex
from benchmark.mixing import Failed
from benchmark.provenance import Origins, origins
from benchmark.selection import Selection
from benchmark.tables import markdown, terminal

_LEGEND = (
    "`0.412 [0.381, 0.443] ab` is the mean over images, the 95 % bootstrap interval of that mean "
    "(10,000 resamples of the images; BCa below 100 images, percentiles from there on), and letters.",
    "Rows of a column that share a letter are not shown to differ; `a` stands at the best mean. Behind the letters are "
    "paired permutation tests over the images, with Holm's correction over all pairs of rows of the column, at a "
    "family-wise level of 5 %. A column without letters describes and does not rank.",
    "↑ higher is better, ↓ lower is better; without an arrow the number has no direction. Rows are sorted by the "
    "column named in the title, those that it scores on fewer than half of the images last; null and oracle rows stand "
    "apart.",
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


_PLACES = (
    "Bold is the best mean of the methods shown in a column that ranks, underlined the second, among methods that are "
    "scored on at least half of the images."
)
_FORMATS = ("csv", "md", "parquet", "tex", "html")


@dataclass(frozen=True)
class Board:
    """The tables of a folder before they are written.

    Attributes:
        summary: as of `frames.summarise`.
        origins: where the numbers come from.
        left_out: sentences about records that must not stand in the tables.
    """

    summary: pd.DataFrame
    origins: Origins
    left_out: Sequence[str] = ()


def tidy(root: Path) -> pd.DataFrame:
    """`frames.frame` of everything that is filed under `root`; metrics that the certificate does not know rank nothing.

    Raises:
        UserError: there is no record, or one is damaged.
    """
    return assemble(*read(root))


def write_tables(root: Path) -> list[Path]:
    """Write `leaderboard` and `cost`, in every format, under `<root>/tables/` from all records under `root`.

    Of several versions of a method or metric in one table the highest is taken, of several lists of images the one
    filed last; the others are counted in a sentence.

    Returns:
        The paths written; there is no `cost` without timings, and no `leaderboard` with nothing else.

    Raises:
        UserError: there is no record, one is damaged, or the folder cannot be written.
    """
    scored, failed, _ = read(root)
    return _write(_newest(scored, failed)[0], Path(root, "tables"))


def report(root: Path, pairs: Iterable[tuple[Choice, Choice]] | None = None) -> str:
    """Write all tables and return those of the given (model, dataset) pairs, of all without `pairs`, as plain text.

    Raises:
        UserError: as `write_tables`.
    """
    scored, failed, _ = read(root)
    board, names = _newest(scored, failed)
    _write(board, Path(root, "tables"))
    summary = board.summary
    if pairs is not None:
        found = [
            tuple(names.get((axis, digest(asdict(choice))), "") for axis, choice in zip(AXES, pair, strict=False))
            for pair in pairs
        ]
        summary = summary[[pair in found for pair in zip(summary["model"], summary["dataset"], strict=True)]]
    return _page(summary, board.left_out)


def select(root: Path, selection: Selection, newest: bool = False) -> Board:
    """The tables of what `selection` asks for; letters compare all methods of a column, shown or not.

    Args:
        newest: of several versions take the highest, of several lists of images those filed last, instead of refusing.

    Raises:
        UserError: a table would mix versions, lists of images or devices of timings; nothing is of the name that was
            asked for; there is no record, or one is damaged.
    """
    scored, failed, names = read(root)
    meant = selection.resolve(scored, failed, names)
    scored, failed = meant.without_rivals(scored, failed)
    left_out: list[str] = []
    if newest:
        scored, failed, left_out = mixing.newest(scored, failed)
    names = _labels(scored, failed)
    scored, failed = meant.narrowed(scored, failed)
    together = "no cell is of all that was asked for: each name exists, and nothing is filed for them together"
    if not scored and not failed:
        raise UserError(together)
    if mixed := [*mixing.versions(scored), *mixing.images(scored), *mixing.devices(scored)]:
        more = f"; {len(mixed) - 1} more like this" if len(mixed) > 1 else ""
        raise UserError(f"{mixing.sentence(mixed[0])}{more}")
    summary = summarise(assemble(scored, failed, names))
    shown = {names["method", key] for key in meant.methods if ("method", key) in names}
    summary = summary[summary["method"].isin(shown)] if selection.method else summary
    if summary.empty:
        raise UserError(together)
    return Board(summary, origins(scored, failed, names), left_out)


def read(root: Path) -> tuple[list[Scored], list[Failed], Labels]:
    """Everything that is filed under `root`, as of `frames.take`.

    Raises:
        UserError: there is no record, or one is damaged.
    """
    scored, failed, names = take(records.read_all(root), records.read_errors(root), certified(root))
    if not scored and not failed:
        raise UserError(f"{root} holds no records: expected the folder of a sweep, made by python -m benchmark")
    return scored, failed, names


def _newest(scored: Sequence[Scored], failed: Sequence[Failed]) -> tuple[Board, Labels]:
    scored, failed, left_out = mixing.newest(scored, failed)
    names = _labels(scored, failed)
    return Board(summarise(assemble(scored, failed, names)), origins(scored, failed, names), left_out), names


def _labels(scored: Sequence[Scored], failed: Sequence[Failed]) -> Labels:
    return labels([*(one.cell for one in scored), *(cell for cell, _ in failed)])


def _write(board: Board, folder: Path) -> list[Path]:
    """`leaderboard` and `cost` in every format: scores do not change when timings do."""
    paths = []
    for name, part in _apart(board.summary):
        for suffix in _FORMATS:
            paths.append(_write_file(Path(folder, f"{name}.{suffix}"), {name: part}, board))
    return paths


def _write_file(path: Path, parts: dict[str, pd.DataFrame], board: Board) -> Path:
    """The given parts of the board, in the format that the ending of `path` names."""
    summary = pd.concat(parts.values(), ignore_index=True)
    if path.suffix == ".parquet":
        records.write_whole(path, lambda temporary: summary.to_parquet(temporary, index=False))
        return path
    written: dict[str, Callable[[], str]] = {
        ".csv": lambda: csv(summary),
        ".md": lambda: "\n".join(_markdown(name, part, board.left_out) for name, part in parts.items()),
        ".tex": lambda: latex(summary, board.origins),
        ".html": lambda: html(
            " and ".join(_title(name) for name in parts),
            [*board.left_out, *(line for name in parts for line in _legend(name)), _PLACES],
            summary,
            board.origins,
        ),
    }
    text = written[path.suffix]()
    records.write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _markdown(name: str, part: pd.DataFrame, left_out: Sequence[str]) -> str:
    lines = [*_legend(name), *left_out]
    return "\n".join([f"# {_title(name)}", "", *(f"- {line}" for line in lines), "", markdown(part)])


def _title(name: str) -> str:
    return "Cost" if name == COST else "Leaderboard"


def _legend(name: str) -> Sequence[str]:
    return _COST_LEGEND if name == COST else _LEGEND


def _apart(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """What scores say and what timings say, apart: the first must not change when the second do."""
    cost = summary["family"] == COST
    for name, part in (("leaderboard", summary[~cost]), (COST, summary[cost])):
        if len(part):
            yield name, part


def _page(summary: pd.DataFrame, left_out: Sequence[str]) -> str:
    """The tables of `summary` with a short key."""
    key = (
        "mean [95 % bootstrap interval] letters: rows that share a letter are not shown to differ (paired permutation\n"
        "tests with Holm, 5 %); ↑ higher is better, ↓ lower is better; 62/64: images that could be scored."
    )
    return "\n".join([terminal(summary), key, *left_out]) if len(summary) else ""


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m benchmark.leaderboard [DIR]`: print the tables, write them, compute nothing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.leaderboard",
        description="Make the ranked tables of a folder of records again: print them and write DIR/tables/ as CSV, "
        "Markdown, Parquet, LaTeX and HTML. Nothing is explained or scored.",
        epilog="A selection is printed, and written where --out says: DIR/tables/ always holds everything. Letters "
        "always compare all methods, shown or not. Names are those of the tables, several with commas; --method rise "
        "means rise with any options, rise@2 its version 2 alone. A table that would mix versions, lists of images, or "
        "timings of several devices is refused.",
    )
    parser.add_argument("root", metavar="DIR", nargs="?", type=Path, default=Path("results"), help="default: results")
    for axis in AXES:
        parser.add_argument(f"--{axis}", metavar="NAMES", help=f"only this {axis.replace('dataset', 'data set')}")
    parser.add_argument("--device", metavar="NAME", help="timings of this device only, by a part of its name")
    parser.add_argument("--newest", action="store_true", help="of several versions take the highest")
    parser.add_argument(
        "--out", metavar="PATH", type=Path, help=f"a folder, or one file that ends in {', '.join(_FORMATS)}"
    )
    options = parser.parse_args(arguments)
    try:
        selection = Selection.parse(**{axis: getattr(options, axis) for axis in (*AXES, "device")})
        out: Path | None = options.out
        alone = out is not None and bool(out.suffix) and not out.is_dir()
        if out is not None and alone and out.suffix[1:] not in _FORMATS:
            raise UserError(f"--out {out} ends in none of {', '.join(_FORMATS)}, and no folder of this name exists")
        board = select(options.root, selection, options.newest)
        if out is not None and alone:
            paths = [_write_file(out, dict(_apart(board.summary)), board)]
        elif out is not None or selection == Selection():
            paths = _write(board, out or Path(options.root, "tables"))
        else:
            paths = []
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(_page(board.summary, board.left_out), *(f"written: {path}" for path in paths), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
