"""The scores of single images behind every cell, as far as a page can hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.frames import wide
from benchmark.page.boards import Board
from benchmark.page.results import Results
from benchmark.statistics import Array

VALUES = 300_000
"""Most scores of single images on a page, about 2 MB."""


@dataclass(frozen=True)
class Scores:
    """The scores of a table, image by image.

    Attributes:
        uids: of all images, in the order of the data set.
        targets: the class that is explained, by uid.
        columns: by column the scores `(images, methods)` in the order of `uids`, NaN where undefined; one line `-` for
            a metric that gives one number a cell.
        extremes: by (column, method) the best, the median and the worst image; for a column without a direction the
            highest, the median and the lowest. Fewer where fewer images have a score.
    """

    uids: list[str]
    targets: Mapping[str, int]
    columns: Mapping[str, pd.DataFrame]
    extremes: Mapping[tuple[str, str], list[str]]

    def foremost(self, count: int) -> list[str]:
        """`count` images, those first that stand behind the cells of the first columns."""
        there = [uid for chosen in self.extremes.values() for uid in chosen]
        return list(dict.fromkeys([*there, *self.uids]))[:count]


def scores(results: Results, board: Board) -> Scores:
    """What is behind the cells of `board`."""
    tidy = results.tidy
    mine = (tidy["model"] == board.pair.model) & (tidy["dataset"] == board.pair.dataset)
    part = tidy[mine & tidy["column"].isin([heading.name for heading in board.headings])]
    whole = part["uid"] == "-"  # one number for all images, and no image
    images = part[(part["status"] != "failed") & ~whole].drop_duplicates("uid")
    uids = images["uid"].tolist()
    targets = dict(zip(uids, images["target"].tolist(), strict=True))
    columns: dict[str, pd.DataFrame] = {}
    extremes: dict[tuple[str, str], list[str]] = {}
    for heading in board.headings:
        values = wide(part, board.pair.model, board.pair.dataset, heading.name)
        columns[heading.name] = values if whole[part["column"] == heading.name].all() else values.reindex(uids)
        values = values.reindex(uids)
        for method, scored in zip(values.columns, values.to_numpy().T, strict=True):
            extremes[heading.name, str(method)] = _extremes(uids, scored, heading.better)
    return Scores(uids, targets, columns, extremes)


def _extremes(uids: Sequence[str], values: Array, better: int) -> list[str]:
    places = np.flatnonzero(~np.isnan(values))
    order = places[np.argsort(-(better or 1) * values[places], kind="stable")]
    chosen = dict.fromkeys((0, len(order) // 2, len(order) - 1)) if len(order) else ()
    return [uids[order[place]] for place in chosen]


def data(board: Board, behind: Scores, pictured: Sequence[str], room: int) -> dict[str, Any]:
    """What the script of the page is given of a table, `room` scores at most, those of `pictured` images first.

    Values are rounded to four digits. Images beyond the first `shown` are named, and their scores are known in
    `extremes` alone: by column and method `[place of the image, score]` of the best, median and worst.
    """
    methods = [row.method for row in board.rows]
    cells = max(1, len(methods) * len(board.headings))
    shown = list(dict.fromkeys([*pictured, *behind.uids]))[: max(1, room // cells)]
    named = list(dict.fromkeys([*shown, *(uid for chosen in behind.extremes.values() for uid in chosen)]))
    place = {uid: index for index, uid in enumerate(named)}
    values: dict[str, list[list[float | None] | None]] = {}
    extremes: dict[str, list[list[list[float | None]]]] = {}
    for name, frame in behind.columns.items():
        kept = frame.reindex(index=named, columns=methods).to_numpy().T
        values[name] = [None if np.isnan(line).all() else list(map(_rounded, line[: len(shown)])) for line in kept]
        extremes[name] = [
            [[place[uid], _rounded(line[place[uid]])] for uid in behind.extremes.get((name, method), [])]
            for method, line in zip(methods, kept, strict=True)
        ]
    return {
        "title": board.pair.title,
        "images": [[uid, behind.targets[uid]] for uid in named],
        "total": len(behind.uids),
        "shown": len(shown),
        "methods": methods,
        "roles": [row.role for row in board.rows],
        "columns": [{"name": heading.name, "better": heading.better} for heading in board.headings],
        "values": values,
        "extremes": extremes,
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.4g}")
