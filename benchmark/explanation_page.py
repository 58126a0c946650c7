"""The picture of one explained image: what the model saw and said, its stages, and every method twice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.canvas import Page, fitted, shrunk, width_of, wrapped
from benchmark.colours import Scale, flaw, overlay, paint, scale_of
from benchmark.explanations import Explanation
from benchmark.figures import GREY, WIDTH, Array

_MARGIN = 30
_GAP = 8
_TITLE, _FONT, _SMALL = 24.0, 20.0, 17.0
_FAINT = "0.62"
_ACCENT = "#b2182b"  # the red of what speaks for the class
_SEEN = 264.0  # height of the image
_BARS = 460.0  # least width of the chart of classes


def page(path: Path, found: Explanation, image: int) -> None:
    """Write a PNG about one image of `found`.

    On top what the model saw of it, the most probable classes (the explained one in red) and a map of each stage of the
    network. Below, every method: over the image, and by itself with the values that its colours mean.

    A map with negative values runs from blue through white (0) to red, one without from white (its lowest) to brown;
    full colour is the 99th percentile of its |value|. A method without a map says why.

    Raises:
        UserError: the file cannot be written.
    """
    picture = found.picture(image)
    aspect = picture.shape[0] / picture.shape[1]
    cells = _cells(len(found.methods), aspect)
    top = _MARGIN + 1.9 * _TITLE
    below = top + 1.6 * _SMALL + _SEEN + 1.7 * _FONT
    sheet = Page(WIDTH, below + cells.rows * cells.tall + 3.6 * _SMALL + _MARGIN / 2)
    _heading(sheet, found, image)
    left = _seen(sheet, picture, aspect, top)
    right = _stages(sheet, found, image, picture, aspect, left + 2 * _MARGIN + _BARS, top)
    _classes(sheet, found, image, left + 1.6 * _MARGIN, right - 1.6 * _MARGIN, top)
    for place, method in enumerate(found.methods):
        _method(sheet, found, method, image, picture, cells, place, below)
    _note(sheet, below + cells.rows * cells.tall, bool(found.nulls))
    sheet.write(path)


@dataclass(frozen=True)
class _Cells:
    """Where methods stand: `across` in a row, each a pair of pictures `tile` wide and `high` high."""

    across: int
    rows: int
    tile: float
    high: float

    @property
    def wide(self) -> float:
        return 2 * self.tile + _GAP

    @property
    def tall(self) -> float:
        return 1.7 * _FONT + self.high + 3.4 * _SMALL

    def corner(self, place: int) -> tuple[float, float]:
        """Left upper corner of a cell, from that of the first."""
        step = (WIDTH - 2 * _MARGIN + _between()) / self.across
        return _MARGIN + place % self.across * step, place // self.across * self.tall


def _between() -> float:
    return 1.1 * _MARGIN


def _cells(methods: int, aspect: float) -> _Cells:
    """Two to four methods side by side, as many as there are."""
    across = min(4, max(2, methods))
    tile = ((WIDTH - 2 * _MARGIN - (across - 1) * _between()) / across - _GAP) / 2
    tile = min(tile, 300.0, 420.0 / aspect)
    return _Cells(across, math.ceil(methods / across), tile, tile * aspect)


def _heading(sheet: Page, found: Explanation, image: int) -> None:
    """The names of the image and the model, with the size that the model takes."""
    _, channels, high, wide = found.pixels.shape
    model = f"{found.model} sees {wide} × {high} pixels" + (" of grey" if channels == 1 else "")
    y = _MARGIN + _TITLE / 2
    sheet.text(WIDTH - _MARGIN, y, model, _SMALL, GREY, ha="right")
    room = WIDTH - 3 * _MARGIN - width_of(model, _SMALL)
    name = " ".join(found.names[image].split())
    sheet.text(_MARGIN, y, fitted(name, _TITLE, room, "bold"), _TITLE, weight="bold")


def _seen(sheet: Page, picture: Array, aspect: float, top: float) -> float:
    """The image; where it ends on the right."""
    wide = min(_SEEN / aspect, 520.0)
    sheet.text(_MARGIN, top, "what the model sees", _SMALL, GREY)
    sheet.picture(_coloured(picture), _MARGIN, top + 0.9 * _SMALL, wide, wide * aspect)
    return _MARGIN + wide


def _classes(sheet: Page, found: Explanation, image: int, left: float, right: float, top: float) -> None:
    """The most probable classes with a bar from 0 to 100 % each, the explained one in red."""
    rows = found.top(image)
    target = int(found.targets[image])
    sheet.text(left, top, "probability", _SMALL, GREY)
    step = (_SEEN - 6) / len(rows)
    for place, (index, probability) in enumerate(rows):
        y = top + 0.9 * _SMALL + 6 + place * step
        mine = index == target
        colour, weight = (_ACCENT, "bold") if mine else ("black", "normal")
        number, tag = percent(probability), "  explained" if mine else ""
        room = right - left - width_of(number + tag, _FONT) - _FONT
        name = fitted(found.label(index), _FONT, room, weight)
        line = y + 0.55 * _FONT
        sheet.text(left, line, name, _FONT, colour, weight=weight)
        if mine:
            sheet.text(left + width_of(name, _FONT, weight) + 0.5 * _FONT, line, "explained", _SMALL, _ACCENT)
        sheet.text(right, line, number, _FONT, colour, weight=weight, ha="right")
        bar, thick = y + 1.3 * _FONT, max(6.0, min(12.0, step - 1.75 * _FONT))
        sheet.box(left, bar, right - left, thick, "0.93")
        sheet.box(left, bar, (right - left) * probability, thick, _ACCENT if mine else _FAINT)


def _stages(
    sheet: Page, found: Explanation, image: int, picture: Array, aspect: float, left: float, top: float
) -> float:
    """A map of each stage of the network in one or two rows; where they begin on the left."""
    count = len(found.layers)
    if not count:
        return float(WIDTH - _MARGIN + 1.6 * _MARGIN)
    label = 1.5 * _SMALL
    room = WIDTH - _MARGIN - left

    def size(rows: int) -> float:
        across = math.ceil(count / rows)
        return min((room - (across - 1) * _GAP) / across, (_SEEN - rows * label) / rows / aspect)

    rows = max((1, 2), key=size)
    across, tile = math.ceil(count / rows), size(rows)
    begin = WIDTH - _MARGIN - across * tile - (across - 1) * _GAP
    sheet.text(begin, top, "evidence at the end of each stage (Layer-CAM)", _SMALL, GREY)
    for place, (name, maps) in enumerate(found.layers.items()):
        x = begin + place % across * (tile + _GAP)
        y = top + 0.9 * _SMALL + place // across * (tile * aspect + label)
        values = maps[image].double().numpy()
        sheet.picture(_over(values, picture), x, y, tile, tile * aspect)
        words = fitted(name, _SMALL - 2, tile)
        sheet.text(x + tile / 2, y + tile * aspect + 0.75 * _SMALL, words, _SMALL - 2, GREY, ha="center")
    return begin


def _method(
    sheet: Page, found: Explanation, method: str, image: int, picture: Array, cells: _Cells, place: int, below: float
) -> None:
    """A method: its name, its map over the image, its map alone, and what the colours mean."""
    x, y = cells.corner(place)
    y += below
    null = method in found.nulls
    tag = "null method" if null else ""
    room = cells.wide - (width_of(tag, _SMALL) + _FONT if tag else 0)
    name = method.replace("_", " ")
    size = shrunk(name, _FONT, room, "bold")
    sheet.text(x, y + 0.6 * _FONT, fitted(name, size, room, "bold"), size, GREY if null else "black", weight="bold")
    if tag:
        sheet.text(x + cells.wide, y + 0.6 * _FONT, tag, _SMALL, GREY, ha="right")
    y += 1.5 * _FONT
    if method in found.reasons:
        what = "failed" if method in found.failures else "not applicable"
        _reason(sheet, f"{what}: {found.reasons[method]}", x, y, cells)
        return
    values = found.heat(method)[image].double().numpy()
    word = flaw(values)
    if word == "invalid":
        bad = int((~np.isfinite(values)).sum())
        _reason(sheet, f"NaN or infinity at {bad:,} of {values.size:,} pixels", x, y, cells)
        return
    if word:
        _reason(sheet, f"constant: {number(float(values.flat[0]))} everywhere", x, y, cells)
        return
    scale, second = scale_of(values), x + cells.tile + _GAP
    sheet.picture(overlay(values, picture), x, y, cells.tile, cells.high)
    sheet.picture(scale.colour(values), second, y, cells.tile, cells.high)
    y += cells.high + 0.7 * _SMALL
    extremes = [f"lowest {number(values.min())}", f"highest {number(values.max())}"]
    for line, words in enumerate(extremes):
        sheet.text(x, y + (0.35 + 1.15 * line) * (_SMALL - 1), words, _SMALL - 2, GREY)
    _bar(sheet, scale, second, y, cells.tile)


def _bar(sheet: Page, scale: Scale, x: float, y: float, wide: float) -> None:
    """The colours of a map and what both ends, and 0 between them, stand for."""
    sheet.picture(scale.colour(np.linspace(scale.low, scale.high, 256))[None], x, y, wide, 0.65 * _SMALL)
    line, size = y + 1.55 * _SMALL, _SMALL - 2
    sheet.text(x, line, number(scale.low), size, GREY)
    sheet.text(x + wide, line, number(scale.high), size, GREY, ha="right")
    if scale.signed:
        sheet.text(x + wide / 2, line, "0", size, GREY, ha="center")


def _reason(sheet: Page, words: str, x: float, y: float, cells: _Cells) -> None:
    """A sentence where two pictures would stand."""
    sheet.box(x, y, cells.wide, cells.high, "0.95")
    lines = wrapped(words, _SMALL, cells.wide - 2 * _SMALL, max(1, int(cells.high / (1.3 * _SMALL)) - 1))
    middle = x + cells.wide / 2, y + cells.high / 2
    sheet.text(*middle, "\n".join(lines), _SMALL, "0.35", ha="center", linespacing=1.3)


def _note(sheet: Page, y: float, nulls: bool) -> None:
    """How to read the colours."""
    sheet.line(_MARGIN, WIDTH - _MARGIN, y)
    lines = [
        "Red speaks for the explained class, blue against it, white is 0. A map without negative values runs from "
        "white, its lowest, to brown.",
        "Full colour is the 99th percentile of each map: compare places within a map, not maps with each other."
        + (" Null methods know nothing of the model." if nulls else ""),
    ]
    for place, words in enumerate(lines):
        sheet.text(_MARGIN, y + (1.4 + 1.4 * place) * _SMALL, words, _SMALL, GREY)


def _over(values: Array, picture: Array) -> Array:
    return paint(values, picture)[0] if flaw(values) else overlay(values, picture)


def _coloured(picture: Array) -> Array:
    return picture if picture.ndim == 3 else np.stack([picture] * 3, -1)


def percent(probability: float) -> str:
    """A probability as people say it, never 0 or 100 % where it is not."""
    if 0 < probability < 0.001:
        return "< 0.1 %"
    if 0.999 < probability < 1:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %"


def number(value: float) -> str:
    """Two digits that count, with a true minus sign."""
    size = abs(value)
    text = f"{value:.1e}" if 0 < size < 1e-3 or size >= 1e5 else f"{value:.0f}" if size >= 99.5 else f"{value:.2g}"
    if "e" in text:
        digits, _, exponent = text.partition("e")
        text = f"{digits.removesuffix('.0')}e{int(exponent)}"
    return text.replace("-", "−")
