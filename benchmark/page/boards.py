"""The leaderboards: the tables of `benchmark.tables`, with the numbers that their cells sort and shade by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.frames import COST, ROLES, headline
from benchmark.page.results import Pair, Results
from benchmark.tables import Entry, Table, laid_out

_SHADES = 4


@dataclass(frozen=True)
class Heading:
    """A column: `better` is 1 where higher is better, -1 where lower is, 0 where the number only describes."""

    name: str
    metric: str
    measure: str
    family: str
    unit: str
    better: int
    ranked: bool

    @property
    def arrow(self) -> str:
        return {1: "↑", -1: "↓"}.get(self.better, "")

    @property
    def words(self) -> str:
        """The direction, for those who do not see the arrow."""
        return {1: "higher is better", -1: "lower is better"}.get(self.better, "no direction")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        heading: of its column.
        entry: its texts.
        value: the mean, None where there is none.
        shade: 0 at the worst mean of the column to 4 at the best, 0 in a column without a direction.
        why: the reason why there is no number.
    """

    heading: Heading
    entry: Entry
    value: float | None
    shade: int
    why: str


@dataclass(frozen=True)
class Row:
    method: str
    role: str
    beside: list[str]
    cells: list[Cell]


@dataclass(frozen=True)
class Board:
    """One table.

    Attributes:
        sorted_by: the column that its rows stand in the order of, None for none.
        groups: the title of each role that there is, and its rows: methods, then null rows, then oracles.
        notes: what belongs below it, in sentences.
    """

    pair: Pair
    table: Table
    headings: list[Heading]
    sorted_by: str | None
    groups: list[tuple[str, list[Row]]]
    notes: list[str]

    @property
    def families(self) -> list[tuple[str, int]]:
        """The families, each with how many columns it has; columns of a family stand side by side."""
        counts = self.table.columns["family"].value_counts(sort=False)
        return [(str(family), int(count)) for family, count in counts.items()]

    @property
    def device(self) -> str:
        """What timings were taken on, empty for scores."""
        return ", ".join(filter(None, dict.fromkeys(self.table.columns["device"])))

    @property
    def rows(self) -> list[Row]:
        return [row for _, rows in self.groups for row in rows]


def boards(results: Results) -> Iterator[Board]:
    """Every table, in the order of `tables.laid_out`."""
    return map(_board, laid_out(results.summary))


def _board(table: Table) -> Board:
    facts: dict[tuple[str, str], Any] = {(str(row.method), str(row.column)): row for row in table.cells.itertuples()}
    headings = [heading(str(name), fact) for name, fact in table.columns.iterrows()]
    methods = {str(method): str(role) for method, role in table.roles.items()}
    columns = {each.name: [facts[method, each.name] for method in methods] for each in headings}
    shades = {each.name: _shades([row.mean for row in columns[each.name]], each) for each in headings}
    groups: dict[str, list[Row]] = {}
    for place, (method, role) in enumerate(methods.items()):
        cells = []
        for each in headings:
            fact, entry = columns[each.name][place], table.entries[method, each.name]
            why = "" if fact.status == "ok" else f"{entry.word}: {fact.reason or 'no value'}"
            value = None if np.isnan(fact.mean) else float(fact.mean)
            cells.append(Cell(each, entry, value, shades[each.name][place], why))
        beside = [texts[method] for texts in table.beside.values()]
        groups.setdefault(role, []).append(Row(method, role, beside, cells))
    return Board(
        pair=Pair(table.model, table.dataset),
        table=table,
        headings=headings,
        sorted_by=headline(table.columns),
        groups=[(ROLES.get(role, role), rows) for role, rows in groups.items()],
        notes=list(table.notes),
    )


def heading(name: str, fact: Any) -> Heading:
    """The heading of the column called `name`, with the `frames.FACTS` of it."""
    better = {True: 1, False: -1}.get(fact["higher_is_better"], 0)
    return Heading(
        name,
        metric=str(fact["metric"]),
        measure=str(fact["measure"]),
        family=str(fact["family"]),
        unit=str(fact["unit"]),
        better=better,
        ranked=bool(fact["ranked"]),
    )


def _shades(means: Sequence[float], of: Heading) -> list[int]:
    """The shade of each mean, by rank; 0 where there is none, and in a column that compares nothing."""
    if not of.better or not (of.ranked or of.family == COST):
        return [0] * len(means)
    ranks = (of.better * pd.Series(means, dtype=float)).rank()
    shades = _SHADES * (ranks - 1) / max(1.0, ranks.max() - 1)
    return [0 if np.isnan(shade) else int(shade) for shade in shades]
