"""Images of your own, listed in a CSV file with their labels and, where you have them, masks or boxes."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from benchmark.datasets.listed import Drawn, Edges, Entry, Listed, Painted
from benchmark.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CsvList(Listed):
    """One image a line of a CSV file with the columns `path`, `label` and, if there are any, `mask` or `box`.

    Paths count from the folder of the CSV file. Labels are names, or numbers that count the outputs of the model from
    0; classes without numbers count in the order of their names. A mask is a picture as large as the image, other than
    black where the object is; what is transparent counts as black. A box is `left top right bottom` in pixels from the
    upper left corner; several are separated by semicolons.

    Raises:
        UserError: the file is missing, a column is missing or unknown, a line cannot be understood, or labels are
            names and numbers.

    Attributes:
        root: the CSV file that lists the images.
        class_count: how many classes there are where labels are numbers; None for one more than the largest, or where
            labels are names.
    """

    root: str
    class_count: int | None = None
    name: str = "csv"

    version: ClassVar[str] = "2"
    licence: ClassVar[str] = "your own"
    source: ClassVar[str] = "a file of yours"

    def _find(self) -> None:
        if not Path(self.root).is_file():
            raise UserError(f"datasets.root={self.root} is no file: expected a CSV file with the columns path,label")

    @property
    def classes(self) -> tuple[str, ...]:
        if not self._numbered:
            return tuple(sorted({row["label"] for row in self._rows}))
        return tuple(map(str, range(self.class_count or max(self._labels) + 1)))

    @cached_property
    def _labels(self) -> list[int]:
        if not self._numbered:
            index = {name: label for label, name in enumerate(self.classes)}
            return [index[row["label"]] for row in self._rows]
        labels = [int(row["label"]) for row in self._rows]
        if self.class_count is not None and max(labels) >= self.class_count:
            raise UserError(f"{self.root} has a label {max(labels)}: datasets.class_count must be larger")
        return labels

    def _entry(self, place: int) -> Entry:
        row, folder = self._rows[place], Path(self.root).parent
        mask: Painted | Drawn | None = None
        if "mask" in row:
            mask = Painted(folder / row["mask"], colour=True)
        elif "box" in row:
            mask = Drawn(tuple(self._edges(text, place) for text in row["box"].split(";")))
        return Entry(row["path"], folder / row["path"], self._labels[place], mask)

    @cached_property
    def _numbered(self) -> bool:
        """Whether labels are numbers: all of them, or none that could be meant as one."""
        numbered = self._rows[0]["label"].isdecimal()
        for line, row in enumerate(self._rows, 2):
            label = row["label"]
            if label.isdecimal() != numbered or (not numbered and _is_whole(label)):
                expected = "numbers from 0 in every line, or names in every line"
                raise UserError(f"{self.root}, line {line}: label {label!r}: expected {expected}")
        if self.class_count is not None and not numbered:
            known = f"datasets.class_count={self.class_count}"
            raise UserError(f"{self.root} has names as labels, which count themselves: {known} goes with numbers")
        return numbered

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        try:
            with Path(self.root).open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                columns, rows = tuple(reader.fieldnames or ()), list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.root} is no CSV file that can be read: {error}") from error
        if set(columns) not in ({"path", "label"}, {"path", "label", "mask"}, {"path", "label", "box"}):
            found = ",".join(columns) or "none"
            raise UserError(f"{self.root} has the columns {found}: expected path,label and, if known, mask or box")
        if not rows:
            raise UserError(f"{self.root} lists no image: expected a line for each below path,label")
        for line, row in enumerate(rows, 2):
            if None in row or not all(row.values()):
                raise UserError(f"{self.root}, line {line}: expected a value for each of {','.join(columns)}")
        seen: set[str] = set()
        for row in rows:
            if row["path"] in seen:
                raise UserError(f"{self.root} lists {row['path']} twice: expected each image once")
            seen.add(row["path"])
        return rows

    def _edges(self, text: str, place: int) -> Edges:
        try:
            left, top, right, bottom = map(float, text.split())
        except ValueError:
            left = top = right = bottom = math.nan
        if not (left < right and top < bottom):
            raise UserError(f"{self.root}, line {place + 2}: box {text!r} is not left top right bottom, in pixels")
        return left, top, right, bottom

    @property
    def _where(self) -> str:
        return f"in {self.root}"

    @property
    def _remedy(self) -> str:
        return f"paths count from {Path(self.root).parent}"


def _is_whole(label: str) -> bool:
    try:
        int(label)
    except ValueError:
        return False
    return True
