"""The maps of some images side by side: a row an image, a column a method."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from benchmark.canvas import Page, wrapped
from benchmark.colours import SIGNED, UNSIGNED, paint
from benchmark.figures import GREY, WIDTH, Array, signed

_MARGIN = 16
_LARGEST = 240.0
_ACROSS = 18  # methods in a row; a sweep of more is cut into blocks, one below the other


def heat_maps(
    path: Path,
    images: Sequence[ArrayLike],
    captions: Sequence[str],
    maps: Mapping[str, ArrayLike],
    scores: Mapping[str, Sequence[float]],
    nulls: Collection[str] = (),
    reasons: Mapping[str, str] | None = None,
    across: int = _ACROSS,
    largest: float = _LARGEST,
) -> None:
    """Write a PNG with a row an image: the image, then its map by each method.

    A map with negative values runs from blue through white (0) to red, one without from white (its lowest) to brown;
    full colour is the 99th percentile of its |value|, so colours compare places within a map and not maps with each
    other. Under the colours the image shows in faint grey. A map that is constant or not finite is flat grey and says
    so. Where there are more than `across` methods the rows are repeated for the next of them, as many each time.

    Args:
        path: where the picture goes, whole or not at all.
        images: `(H, W, 3)` or `(H, W)`, values in [0, 1].
        captions: a line or two under each image, such as the predicted class and its probability.
        maps: by method `(k, H, W)`, signed.
        scores: by method SRG of each image, printed under the map, the best of the row in bold; a method may be
            missing, and NaN prints nothing.
        nulls: names of the methods that know nothing of the model; they stand apart, at the end.
        reasons: by method why it has no map; shown where its maps would be.
        across: how many methods stand side by side.
        largest: width of a map in pixels at most.

    Raises:
        UserError: the file cannot be written.
    """
    pictures = [np.asarray(image, dtype=float).clip(0, 1) for image in images]
    values = {name: np.asarray(stack, dtype=float) for name, stack in maps.items()}
    reasons = reasons or {}
    blocks = _blocks([*values, *(name for name in reasons if name not in values)], nulls, across)
    aspect = pictures[0].shape[0] / pictures[0].shape[1]
    # The widest block says how large a picture is in all of them.
    tile = min(_plan(aspect, captions, block, nulls, largest).tile for block in blocks)
    plans: list[_Plan] = []
    for block in blocks:
        plans.append(_plan(aspect, captions, block, nulls, tile, plans[-1].end if plans else 0.0))
    last = plans[-1]
    below = last.line * (1 if last.beside or not scores else 2.2)
    page = Page(max(plan.right for plan in plans) + _MARGIN, last.end + below + _MARGIN)
    negative: set[bool] = set()  # which of the two scales of colours the page needs
    for index, picture in enumerate(pictures):
        numbers = {name: float(scores[name][index]) for name in values if name in scores}
        for plan in plans:
            _image(page, plan, picture, captions[index], plan.rows[index])
            row = {name: values[name][index] if name in values else reasons[name] for name in plan.columns}
            negative |= _row(page, plan, picture, row, numbers, plan.rows[index])
    for plan in plans:
        _titles(page, plan, nulls)
    _key(page, last, negative, scored=bool(scores))
    page.write(path)


def _blocks(names: Sequence[str], nulls: Collection[str], across: int) -> list[list[str]]:
    """Methods in their order, those of `nulls` at the end, in as few rows as hold them, about as many in each."""
    order = sorted(names, key=lambda name: name in nulls)
    count = max(1, math.ceil(len(order) / across))
    return [order[part * len(order) // count : (part + 1) * len(order) // count] for part in range(count)]


@dataclass(frozen=True)
class _Plan:
    """Where things stand on a page of heat maps, in pixels.

    Attributes:
        tile, tall: width and height of a picture.
        font, line: size of letters, distance between lines.
        columns: left edge of each method, in the order of the columns.
        titles: of each column, broken into lines.
        top: of the whole.
        rows: upper edge of each row, and what is below the last.
        right: edge of what is drawn.
    """

    top: float
    tile: float
    tall: float
    font: float
    line: float
    columns: Mapping[str, float]
    titles: Mapping[str, list[str]]
    rows: Array
    right: float

    @property
    def end(self) -> float:
        return float(self.rows[-1])

    @property
    def beside(self) -> bool:
        """Whether the note has room beside the two scales, which need 33 letters' width, as it does."""
        return self.right >= 66 * self.font


def _plan(
    aspect: float,
    captions: Sequence[str],
    order: Sequence[str],
    nulls: Collection[str],
    tile: float,
    top: float = 0.0,
) -> _Plan:
    """Pictures as large as fit, at most `tile` wide, letters as fit them; those of `nulls` apart at the end."""
    apart = any(name in nulls for name in order)
    gap, between = 6, 20
    gaps = between + gap * max(0, len(order) - 1) + (between if apart else 0)
    tile = min(tile, (WIDTH - 2 * _MARGIN - gaps) / (1 + len(order)))
    titles = {name: textwrap.wrap(name.replace("_", " "), 11, break_long_words=False) for name in order}
    longest = max((len(word) for lines in titles.values() for word in lines), default=1)
    font = min(20.0, tile * 0.16, tile / (0.6 * longest))
    line = 1.3 * font
    above = line * max((len(words) for words in titles.values()), default=0) + (line + 8 if apart else 0) + 8
    steps = [tile * aspect + 8 + line * len(_lines(caption)) + 8 for caption in captions]
    left = _MARGIN + tile + between
    return _Plan(
        top=top,
        tile=tile,
        tall=tile * aspect,
        font=font,
        line=line,
        columns={
            name: left + index * (tile + gap) + (between if name in nulls else 0) for index, name in enumerate(order)
        },
        titles=titles,
        rows=top + _MARGIN + above + np.concatenate([[0.0], np.cumsum(steps)]),
        right=max(_MARGIN + tile + gaps + len(order) * tile, 33 * font),
    )


def _lines(caption: str) -> list[str]:
    return caption.splitlines() or [""]


def _titles(page: Page, plan: _Plan, nulls: Collection[str]) -> None:
    """Names over the columns, and a bracket over the null methods."""
    for name, x in plan.columns.items():
        colour = GREY if name in nulls else "black"
        words = "\n".join(plan.titles[name])
        page.text(x + plan.tile / 2, plan.rows[0] - 8, words, plan.font, colour, ha="center", va="bottom")
    apart = [x for name, x in plan.columns.items() if name in nulls]
    if apart:
        end, y = apart[-1] + plan.tile, plan.top + _MARGIN + plan.line
        page.line(apart[0], end, y)
        page.text((apart[0] + end) / 2, y - 4, "null methods", plan.font, GREY, ha="center", va="bottom")


def _image(page: Page, plan: _Plan, picture: Array, caption: str, y: float) -> None:
    """An image and its caption in letters that fit its width."""
    page.picture(picture if picture.ndim == 3 else np.stack([picture] * 3, -1), _MARGIN, y, plan.tile, plan.tall)
    for offset, words in enumerate(_lines(caption)):
        size = min(plan.font, plan.tile / (0.56 * max(1, len(words))))
        below = y + plan.tall + 6 + offset * plan.line
        page.text(_MARGIN + plan.tile / 2, below, words, size, ha="center", va="top")


def _row(
    page: Page, plan: _Plan, picture: Array, values: Mapping[str, Array | str], numbers: Mapping[str, float], y: float
) -> set[bool]:
    """The maps of one image with their numbers, the best in bold; whether maps with colours have negative values.

    Where a word stands for a map it is the reason why there is none.
    """
    best = max((number for number in numbers.values() if math.isfinite(number)), default=math.nan)
    negative = set()
    for name, x in plan.columns.items():
        found = values[name]
        if isinstance(found, str):
            painted, word = np.full((*picture.shape[:2], 3), 0.93), found
        else:
            painted, word = paint(found, picture)
            negative |= set() if word else {bool(found.min() < 0)}
        middle = x + plan.tile / 2
        page.picture(painted, x, y, plan.tile, plan.tall)
        _word(page, plan, word, middle, y + plan.tall / 2)
        number = numbers.get(name, math.nan)
        if math.isfinite(number):
            style = {"weight": "bold"} if number == best else {}
            page.text(middle, y + plan.tall + 6, signed(number), plan.font, ha="center", va="top", **style)
    return negative


def _word(page: Page, plan: _Plan, word: str, x: float, y: float) -> None:
    """A word in the middle of a tile, or a sentence in small letters that fills it."""
    if " " not in word:
        page.text(x, y, word, plan.font, GREY, ha="center", va="center")
        return
    size = max(9.0, 0.75 * plan.font)
    lines = wrapped(word, size, plan.tile - size, max(1, int(plan.tall / (1.25 * size)) - 1))
    page.text(x, y, "\n".join(lines), size, GREY, ha="center", va="center")


def _key(page: Page, plan: _Plan, negative: Collection[bool], scored: bool) -> None:
    """What colours and numbers mean, under the last row."""
    y, x = plan.end + plan.line / 2, float(_MARGIN)
    if True in negative:
        x = page.scale(SIGNED, "negative", "positive", x, y, plan.font) + 2 * plan.font
    if False in negative:
        page.scale(UNSIGNED, "lowest", "highest", x, y, plan.font)
    if scored:
        x, y, side = (plan.right, y, "right") if plan.beside else (_MARGIN, y + 1.2 * plan.line, "left")
        page.text(x, y, "number: SRG, higher is better, best of the row in bold", plan.font, GREY, ha=side)
