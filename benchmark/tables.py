"""A summary as text: laid out once, and written for a screen or as Markdown; `latex` and `html_table` do the rest."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.frames import COST, FACTS, ROLES, UNCERTIFIED, headline
from benchmark.ranking import placed

_WORDS = {"not_applicable": "n/a"}


@dataclass(frozen=True)
class Entry:
    """A cell of a table as text: the mean with its interval, or the `word` that stands for it.

    `half` is half the width of the interval, `count` is `62/64` where not all images could be scored, and `place` 1 or
    2 for the best and the second mean of the methods that the table shows and `ranking.placed` admits, in a column that
    ranks; else 0.
    """

    word: str = ""
    mean: str = ""
    low: str = ""
    high: str = ""
    half: str = ""
    letters: str = ""
    count: str = ""
    place: int = 0

    @property
    def pieces(self) -> list[str]:
        """What is aligned below each other, or the word alone."""
        if self.word:
            return [self.word]
        bounds = [f"[{self.low},", f"{self.high}]"] if self.low else ["", ""]
        return [self.mean, *bounds, self.letters, self.count]


@dataclass(frozen=True)
class Table:
    """One model on one data set, scores or costs of one device: a line a method, a column a measure.

    Attributes:
        model, dataset: labels, as in the title.
        cost: it holds timings.
        images: the most that a cell has.
        columns: the facts of each column that has a meaning somewhere, in order, by family.
        roles: the role of each method, in order.
        beside: what stands beside every method, by heading: how many images, and its passes an image.
        entries: the cells, by method and column.
        cells: the rows of the summary behind it.
    """

    title: str
    model: str
    dataset: str
    cost: bool
    images: int
    columns: pd.DataFrame
    roles: pd.Series
    beside: Mapping[str, Mapping[str, str]]
    entries: Mapping[tuple[str, str], Entry]
    cells: pd.DataFrame

    @property
    def notes(self) -> list[str]:
        """Sentences that belong below."""
        return notes_on(self.cells)


def laid_out(summary: pd.DataFrame) -> Iterator[Table]:
    """The tables of a summary, timings of each device apart."""
    devices = summary["device"].where(summary["family"] == COST, "")
    for (dataset, model, cost, _), part in summary.groupby(
        ["dataset", "model", summary["family"] == COST, devices], sort=False
    ):
        columns = part.drop_duplicates("column").set_index("column")[FACTS]
        meant = part.loc[part["status"] != "not_applicable", "column"]
        columns = columns[columns.index.isin(meant)]
        roles = part.drop_duplicates("method").set_index("method")["role"]
        totals = part.groupby("method", sort=False)["total"].max()
        title = [f"dataset {dataset}", f"model {model}"]
        first = headline(columns)
        title += [COST, *dict.fromkeys(columns["device"])] if cost else [f"n = {totals.max()}"]
        title += _budget(part)
        title += [f"sorted by {first}"] if first else []
        entries = {
            (str(row.method), str(name)): _cost(row) if cost else _entry(row, sizes, places.get(str(row.method), 0))
            for name, rows in part.groupby("column", sort=False)
            for sizes in [rows[["low", "high", "mean"]].abs().max(axis=1)]
            for places in [_places(rows)]
            for row in rows.itertuples()
        }
        beside = {"n": {str(method): str(total or "") for method, total in totals.items()}}
        passes = part.drop_duplicates("method").set_index("method")["passes"]
        if passes.notna().any():
            beside["passes"] = {str(method): "" if np.isnan(each) else f"{each:.0f}" for method, each in passes.items()}
        yield Table(
            " · ".join(title),
            str(model),
            str(dataset),
            bool(cost),
            int(totals.max()),
            columns,
            roles,
            {} if cost else beside,
            entries,
            part,
        )


def _places(rows: pd.DataFrame) -> dict[str, int]:
    """The methods with the best mean of a column that ranks (1) and with the second best (2), null rows left out.

    So are methods that are not `ranking.placed`.
    """
    fact = rows.iloc[0]
    if not fact["ranked"] or fact["higher_is_better"] is None:
        return {}
    methods = (rows["role"] == "method") & placed(rows["n"], rows["total"].max())
    means = rows[methods].set_index("method")["mean"]
    ranks = means.rank(method="dense", ascending=not fact["higher_is_better"])
    return {str(method): int(rank) for method, rank in ranks.items() if rank <= 2}


def _budget(part: pd.DataFrame) -> list[str]:
    """The passes an image that methods were cut to, where none is known to take more and no other was not cut."""
    methods = part[part["role"] == "method"].drop_duplicates("method")
    budgets = methods["budget"].dropna().unique()
    if len(budgets) != 1:
        return []
    cut, passes = methods["budget"] == budgets[0], methods["passes"]
    if not ((passes <= budgets[0]) | (cut & passes.isna())).all():
        return []
    return [f"budget {budgets[0]:.0f} passes an image"]


def _entry(row: Any, sizes: pd.Series, place: int) -> Entry:
    """The texts of a cell; `sizes` of its column."""
    if row.status != "ok":
        return Entry(_WORDS.get(row.status, row.status))
    # One number of decimals for a column, unless its smallest cell would be left with less than two digits.
    decimals = _decimals(sizes.max())
    together = decimals is not None and sizes[sizes > 0].min() >= 10 ** (1 - decimals)
    size = float(sizes.max() if together else sizes[row.Index])
    count = f"{row.n}/{row.total}" if row.n < row.total else ""
    mean = _number(row.mean, size)
    if np.isnan(row.low):
        return Entry("", mean, letters=row.letters, count=count, place=place)
    low, high, half = (_number(value, size) for value in (row.low, row.high, (row.high - row.low) / 2))
    return Entry("", mean, low, high, half, row.letters, count, place)


def _cost(row: Any) -> Entry:
    if row.status != "ok":
        return Entry(_WORDS.get(row.status, row.status))
    return Entry("", f"{row.mean:.0f}" if abs(row.mean) >= 1000 else f"{row.mean:.3g}")


def _number(value: float, size: float) -> str:
    """`value` with the decimals of numbers of `size`, and without the sign of a zero."""
    decimals = _decimals(size)
    text = f"{value:.2e}" if decimals is None else f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _decimals(size: float) -> int | None:
    """Three for numbers of ordinary size, None where only powers of ten can show them."""
    for decimals, low, high in ((3, 0.01, 10), (4, 0.001, 0.01), (1, 10, 10_000)):
        if low <= size < high:
            return decimals
    return 3 if size == 0 else None


def heading(name: str, fact: Any) -> str:
    arrow = {True: " ↑", False: " ↓"}.get(fact["higher_is_better"], "")
    return f"{name}{arrow}" + (f" [{fact['unit']}]" if fact["unit"] else "")


def notes_on(part: pd.DataFrame) -> list[str]:
    """How many cells have no number and why, which images are left out, which methods were cut to a budget."""
    notes = _counts(part)
    if not _budget(part):
        for budget, same in part.drop_duplicates("method").groupby("budget", sort=False):
            kept = same[~(same["passes"] > budget)]
            notes.append(f"budget {budget:.0f} passes an image: {', '.join(kept['method'])}")
            if len(over := same[same["passes"] > budget]):
                notes.append(
                    f"budget {budget:.0f} passes an image, and no fewer than `passes`: {', '.join(over['method'])}"
                )
    for status in ("not_applicable", "failed", "missing"):
        for reason, same in part[part["status"] == status].groupby("reason", sort=False):
            notes.append(f"{_WORDS.get(status, status)}: {_which(same, part)}: {str(reason) or 'no value'}")
    for status in ("degenerate", "invalid", "not_applicable"):
        left_out = part[(part[status] > 0) & (part["status"] != "not_applicable")]
        for (count, total), same in left_out.groupby([status, "total"], sort=False):
            notes.append(f"{count} of {total} images {_WORDS.get(status, status)}: {_which(same, part)}")
    return notes


def _counts(part: pd.DataFrame) -> list[str]:
    """`160 cells: 128 scored (2 over fewer images, 48 uncertified), 30 n/a, 2 failed`, nothing where all is plain."""
    scored = part[part["status"] == "ok"]
    fewer, uncertified = (scored["n"] < scored["total"]).sum(), (scored["family"] == UNCERTIFIED).sum()
    remarks = [
        f"{count} {words}" for count, words in ((fewer, "over fewer images"), (uncertified, UNCERTIFIED)) if count
    ]
    without = part.loc[part["status"] != "ok", "status"].value_counts()
    order = [status for status in ("not_applicable", "degenerate", "invalid", "failed", "missing") if status in without]
    if not remarks and not order:
        return []
    counted = [f"{len(scored)} scored" + (f" ({', '.join(remarks)})" if remarks else "")]
    counted += [f"{without[status]} {_WORDS.get(status, status)}" for status in order]
    return [f"{len(part)} cells: {', '.join(counted)}"]


def _which(cells: pd.DataFrame, part: pd.DataFrame) -> str:
    """`deletion, insertion of rise; srg of every row`: a metric stands for all of its columns."""
    widths = part.drop_duplicates("column").groupby("metric").size()
    whole = cells.groupby(["metric", "method"])["column"].transform("size") == cells["metric"].map(widths)
    names = cells["column"].mask(whole, cells["metric"])
    methods_of = cells.groupby(names, sort=False)["method"].agg(lambda methods: ", ".join(dict.fromkeys(methods)))
    roles = dict.fromkeys(part["method"])
    everything = ", ".join(roles)
    found: dict[str, list[str]] = {}
    for name, methods in methods_of.items():
        found.setdefault("every row" if methods == everything and len(roles) > 2 else methods, []).append(str(name))
    return "; ".join(f"{', '.join(names)} of {methods}" for methods, names in found.items())


def terminal(summary: pd.DataFrame, width: int | None = None) -> str:
    """Plain text for a screen of `width` characters (default: this one): a block a family, more where it is wide."""
    width = width or max(100, shutil.get_terminal_size((140, 24)).columns)
    texts = []
    for table in laid_out(summary):
        lines = [table.title, "═" * len(table.title)]
        for family, columns in table.columns.groupby("family", sort=False):
            lines += ["", *_blocks(table, str(family), columns, width)]
        notes = [textwrap.wrap(note, width, subsequent_indent="    ") for note in table.notes]
        texts.append("\n".join([*lines, *([""] if notes else []), *(line for note in notes for line in note)]))
    return "\n\n\n".join(texts) + "\n"


def _blocks(table: Table, family: str, columns: pd.DataFrame, width: int) -> Iterator[str]:
    """The lines of a family, its columns side by side as far as they fit."""
    methods = [str(method) for method in table.roles.index]
    stub = [_column([family, *methods])]
    for beside, texts in table.beside.items():
        stub.append(_column([beside, *(texts[method] for method in methods)], right=True))
    waiting = []
    for name, fact in columns.iterrows():
        above, label = ("", str(name)) if fact["metric"] == name else (str(fact["metric"]), str(fact["measure"]))
        bodies = _aligned([table.entries[method, str(name)].pieces for method in methods])
        waiting.append((above, [heading(label, fact), *bodies]))
    while waiting:
        used = sum(len(column[0]) + 2 for column in stub)
        shown: list[list[str]] = []
        said = ""
        while waiting:
            above, body = waiting[0]
            column = _column(["" if above == said else above, *body])
            if shown and used + len(column[0]) > width:
                break
            shown.append(column)
            used += len(column[0]) + 2
            said = above
            waiting.pop(0)
        columns_shown = [*(["".ljust(len(column[0])), *column] for column in stub), *shown]
        lines = ["  ".join(cells).rstrip() for cells in zip(*columns_shown, strict=True)]
        yield from lines[:2] if lines[0] else lines[1:2]
        yield "─" * (used - 2)
        before = "method"
        for role, line in zip(table.roles, lines[2:], strict=True):
            if role != before and ROLES.get(role):
                yield f"── {ROLES[role]} ".ljust(used - 2, "─")
            before = role
            yield line
        if waiting:
            yield ""


def _column(cells: Sequence[str], right: bool = False) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]


def _aligned(cells: Sequence[list[str]]) -> list[str]:
    """Cells as text, means and bounds below each other; a word stands alone."""
    pieces = max(map(len, cells))
    widths = [max(len(cell[piece]) for cell in cells if len(cell) == pieces) for piece in range(pieces)]

    def text(cell: list[str]) -> str:
        if len(cell) < pieces:
            return cell[0]
        sides = [str.rjust] * 3 + [str.ljust] * 2
        return " ".join(side(part, width) for side, part, width in zip(sides, cell, widths, strict=False) if width)

    return [text(cell) for cell in cells]


def markdown(summary: pd.DataFrame) -> str:
    """The tables as Markdown, a heading a model and data set and a table a family."""
    lines = []
    for table in laid_out(summary):
        lines += [f"## {markdown_escaped(table.title)}", ""]
        for family, columns in table.columns.groupby("family", sort=False):
            counts = len(table.beside)
            headings = [heading(str(name), fact) for name, fact in columns.iterrows()]
            lines += [f"### {family}", "", _line(["method", *table.beside, *headings])]
            lines.append("|:--|" + "--:|" * (counts + len(columns)))
            before = "method"
            for method, role in table.roles.items():
                if role != before and ROLES.get(role):
                    lines.append(_line([f"*{ROLES[role]}*", *[""] * (len(columns) + counts)]))
                before = role
                cells = [" ".join(filter(None, table.entries[str(method), str(name)].pieces)) for name in columns.index]
                lines.append(_line([str(method), *(texts[str(method)] for texts in table.beside.values()), *cells]))
            lines.append("")
        notes = [f"- {markdown_escaped(note)}" for note in table.notes]
        lines += [*notes, *([""] if notes else [])]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown_escaped, cells))} |"


def markdown_escaped(text: str) -> str:
    """On one line, and without signs that would end a cell or start a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
