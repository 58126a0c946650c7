"""Everything under a folder of records that the page speaks of, read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import mixing, records
from benchmark.cells import Cell, digest
from benchmark.certificate import certified
from benchmark.errors import UserError
from benchmark.fractions import fractions
from benchmark.frames import Labels, Scored, assemble, identity, labels, summarise, take
from benchmark.records import Record
from benchmark.statistics import Array, bootstrap_intervals

CURVES = ("deletion", "insertion")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Curve:
    """The mean over images of the curves of one cell and measure, with a 95 % bootstrap interval of that mean.

    Attributes:
        cell: what was scored.
        measure: `deletion` or `insertion`.
        fractions: `(K,)` of what is deleted or inserted at each point, from 0 to 1, see `fractions.fractions`.
        mean, low, high: `(K,)`.
        images: how many have a curve.
    """

    cell: Cell
    measure: str
    fractions: Array
    mean: Array
    low: Array
    high: Array
    images: int

    @property
    def area(self) -> float:
        """Of the trapezoids under the mean."""
        return float(np.trapezoid(self.mean, self.fractions))

    @property
    def protocol(self) -> str:
        """What curves of deletion and insertion must share to be drawn together: options and seed of their metric."""
        return digest([dict(self.cell.metric.params), self.cell.seed])


@dataclass(frozen=True)
class Pair:
    """One model on one data set, by the labels of both."""

    model: str
    dataset: str

    @property
    def title(self) -> str:
        return f"{self.model} on {self.dataset}"


@dataclass(frozen=True)
class Results:
    """What is filed under a folder.

    Attributes:
        root: the folder.
        scored: every record without its curves.
        failed: cells whose last try failed, with the reason.
        names: labels of all choices, see `frames.labels`.
        certified: (name, version) of the metrics that may rank.
        tidy: a row an image and measure, see `frames.frame`.
        summary: a row a cell and measure, see `frames.summarise`.
        curves: of deletion and insertion.
        left_out: sentences about records that must not stand in tables beside the others, see `mixing.newest`.
    """

    root: Path
    scored: Sequence[Scored]
    failed: Sequence[tuple[Cell, str]]
    names: Labels
    certified: frozenset[tuple[str, str]]
    tidy: pd.DataFrame
    summary: pd.DataFrame
    curves: Sequence[Curve]
    left_out: Sequence[str]

    @property
    def pairs(self) -> list[Pair]:
        """In the order of the tables."""
        there = self.summary[["model", "dataset"]].drop_duplicates()
        return [Pair(str(model), str(dataset)) for model, dataset in there.itertuples(index=False)]

    def label(self, cell: Cell, axis: str) -> str:
        return self.names[axis, identity(cell, axis)]

    def pair(self, cell: Cell) -> Pair:
        return Pair(self.label(cell, "model"), self.label(cell, "dataset"))


def read(root: Path) -> Results:
    """Everything under `root`.

    Raises:
        UserError: there is no record, or a file is damaged.
    """
    curves: list[Curve] = []
    allowed = frozenset(certified(root))
    found = _noted(records.read_all(root), curves)
    scored, failed, left_out = mixing.newest(*take(found, records.read_errors(root), allowed)[:2])
    if not scored and not failed:
        raise UserError(f"{root} holds no records: expected the folder of a sweep, made by python -m benchmark")
    names = labels([*(record.cell for record in scored), *(cell for cell, _ in failed)])
    tidy = assemble(scored, failed, names)
    shown = {record.cell.key for record in scored}
    kept = [curve for curve in curves if curve.cell.key in shown]
    return Results(root, scored, failed, names, allowed, tidy, summarise(tidy), kept, left_out)


def _noted(found: Iterable[Record], curves: list[Curve]) -> Iterator[Record]:
    """The records as they come; their curves are averaged in passing, because most of a record is curves."""
    for record in found:
        stated = {measure["name"] for measure in record.facts["measures"]}
        for measure in (measure for measure in CURVES if measure in stated):
            rows = record.rows[(record.rows["measure"] == measure) & (record.rows["status"] == "ok")]
            rows = rows[rows["curve"].notna()]
            if len(rows):
                lines = np.stack(rows["curve"].to_list()).astype(float)
                low, high = bootstrap_intervals(lines, resamples=_RESAMPLES)
                places = fractions(record.cell.metric, measure, lines.shape[1])
                curves.append(Curve(record.cell, measure, places, lines.mean(0), low, high, len(rows)))
        yield record
