"""The maps of some images side by side: a row an image, a column a method."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from benchmark.figures import DPI, GREY, WIDTH, Array, signed, write

_MARGIN = 16
_SIGNED = colormaps["RdBu_r"]
# The upper half of a diverging map: zero has the same colour in both, and the hue tells which of them it is.
_UNSIGNED = LinearSegmentedColormap.from_list("unsigned", colormaps["PuOr_r"](np.linspace(0.5, 1, 128)))


def heat_maps(
    path: Path,
    images: Sequence[ArrayLike],
    captions: Sequence[str],
    maps: Mapping[str, ArrayLike],
    scores: Mapping[str, Sequence[float]],
    nulls: Collection[str] = (),
) -> None:
    """Write a PNG with a row an image: the image, then its map by each method.

    A map with negative values runs from blue through white (0) to red, one without from white (its lowest) to brown;
    full colour is the 99th percentile of its |value|, so colours compare places within a map and not maps with each
    other. Under the colours the image shows in faint grey. A map that is constant or not finite is flat grey and says
    so.

    Args:
        path: where the picture goes, whole or not at all.
        images: `(H, W, 3)` or `(H, W)`, values in [0, 1].
        captions: a line or two under each image, such as the predicted class and its probability.
        maps: by method `(k, H, W)`, signed.
        scores: by method SRG of each image, printed under the map, the best of the row in bold; a method may be
            missing, and NaN prints nothing.
        nulls: names of the methods that know nothing of the model; they stand apart, at the end.

    Raises:
        UserError: the file cannot be written.
    """
    pictures = [np.asarray(image, dtype=float).clip(0, 1) for image in images]
    values = {name: np.asarray(stack, dtype=float) for name, stack in maps.items()}
    plan = _plan(pictures[0].shape[0] / pictures[0].shape[1], captions, values, nulls)
    page = _Page(plan.right + _MARGIN, plan.rows[-1] + plan.line * (1 if plan.beside else 2.2) + _MARGIN)
    _titles(page, plan, nulls)
    negative: set[bool] = set()  # which of the two scales of colours the page needs
    for index, picture in enumerate(pictures):
        y = plan.rows[index]
        _image(page, plan, picture, captions[index], y)
        numbers = {name: float(scores[name][index]) for name in values if name in scores}
        negative |= _row(page, plan, picture, {name: stack[index] for name, stack in values.items()}, numbers, y)
    _key(page, plan, negative, scored=bool(scores))
    page.write(path)


@dataclass(frozen=True)
class _Plan:
    """Where things stand on a page of heat maps, in pixels.

    Attributes:
        tile, tall: width and height of a picture.
        font, line: size of letters, distance between lines.
        columns: left edge of each method, in the order of the columns.
        titles: of each column, broken into lines.
        rows: upper edge of each row, and what is below the last.
        right: edge of what is drawn.
    """

    tile: float
    tall: float
    font: float
    line: float
    columns: Mapping[str, float]
    titles: Mapping[str, list[str]]
    rows: Array
    right: float

    @property
    def top(self) -> float:
        return float(self.rows[0])

    @property
    def beside(self) -> bool:
        """Whether the note has room beside the two scales, which need 33 letters' width, as it does."""
        return self.right >= 66 * self.font


def _plan(aspect: float, captions: Sequence[str], names: Collection[str], nulls: Collection[str]) -> _Plan:
    """Methods in their order, those of `nulls` apart at the end; pictures as large as fit, letters as fit them."""
    order = sorted(names, key=lambda name: name in nulls)
    apart = any(name in nulls for name in order)
    gap, between = 6, 20
    gaps = between + gap * max(0, len(order) - 1) + (between if apart else 0)
    tile = min(240.0, (WIDTH - 2 * _MARGIN - gaps) / (1 + len(order)))
    titles = {name: textwrap.wrap(name.replace("_", " "), 11, break_long_words=False) for name in order}
    longest = max((len(word) for lines in titles.values() for word in lines), default=1)
    font = min(20.0, tile * 0.16, tile / (0.6 * longest))
    line = 1.3 * font
    top = _MARGIN + line * max((len(words) for words in titles.values()), default=0) + (line + 8 if apart else 0) + 8
    steps = [tile * aspect + 8 + line * len(_lines(caption)) + 8 for caption in captions]
    left = _MARGIN + tile + between
    return _Plan(
        tile=tile,
        tall=tile * aspect,
        font=font,
        line=line,
        columns={
            name: left + index * (tile + gap) + (between if name in nulls else 0) for index, name in enumerate(order)
        },
        titles=titles,
        rows=top + np.concatenate([[0.0], np.cumsum(steps)]),
        right=max(_MARGIN + tile + gaps + len(order) * tile, 33 * font),
    )


def _lines(caption: str) -> list[str]:
    return caption.splitlines() or [""]


def _titles(page: _Page, plan: _Plan, nulls: Collection[str]) -> None:
    """Names over the columns, and a bracket over the null methods."""
    for name, x in plan.columns.items():
        colour = GREY if name in nulls else "black"
        words = "\n".join(plan.titles[name])
        page.text(x + plan.tile / 2, plan.top - 8, words, plan.font, colour, ha="center", va="bottom")
    apart = [x for name, x in plan.columns.items() if name in nulls]
    if apart:
        end, y = apart[-1] + plan.tile, _MARGIN + plan.line
        page.line(apart[0], end, y)
        page.text((apart[0] + end) / 2, y - 4, "null methods", plan.font, GREY, ha="center", va="bottom")


def _image(page: _Page, plan: _Plan, picture: Array, caption: str, y: float) -> None:
    """An image and its caption in letters that fit its width."""
    page.picture(picture if picture.ndim == 3 else np.stack([picture] * 3, -1), _MARGIN, y, plan.tile, plan.tall)
    for offset, words in enumerate(_lines(caption)):
        size = min(plan.font, plan.tile / (0.56 * max(1, len(words))))
        below = y + plan.tall + 6 + offset * plan.line
        page.text(_MARGIN + plan.tile / 2, below, words, size, ha="center", va="top")


def _row(
    page: _Page, plan: _Plan, picture: Array, values: Mapping[str, Array], numbers: Mapping[str, float], y: float
) -> set[bool]:
    """The maps of one image with their numbers, the best in bold; whether maps with colours have negative values."""
    best = max((number for number in numbers.values() if math.isfinite(number)), default=math.nan)
    negative = set()
    for name, x in plan.columns.items():
        painted, word = paint(values[name], picture)
        if not word:
            negative.add(bool(values[name].min() < 0))
        middle = x + plan.tile / 2
        page.picture(painted, x, y, plan.tile, plan.tall)
        page.text(middle, y + plan.tall / 2, word, plan.font, GREY, ha="center", va="center")
        number = numbers.get(name, math.nan)
        if math.isfinite(number):
            style = {"weight": "bold"} if number == best else {}
            page.text(middle, y + plan.tall + 6, signed(number), plan.font, ha="center", va="top", **style)
    return negative


def _key(page: _Page, plan: _Plan, negative: Collection[bool], scored: bool) -> None:
    """What colours and numbers mean, under the last row."""
    y, x = plan.rows[-1] + plan.line / 2, float(_MARGIN)
    if True in negative:
        x = page.scale(_SIGNED, "negative", "positive", x, y, plan.font) + 2 * plan.font
    if False in negative:
        page.scale(_UNSIGNED, "lowest", "highest", x, y, plan.font)
    if scored:
        x, y, side = (plan.right, y, "right") if plan.beside else (_MARGIN, y + 1.2 * plan.line, "left")
        page.text(x, y, "number: SRG, higher is better, best of the row in bold", plan.font, GREY, ha=side)


def paint(values: ArrayLike, image: ArrayLike) -> tuple[Array, str]:
    """Colours `(H, W, 3)` of one map `(H, W)` over its image in faint grey, and a word where there is no map to see."""
    values, image = np.asarray(values, dtype=float), np.asarray(image, dtype=float)
    word = "invalid" if not np.isfinite(values).all() else "constant" if np.ptp(values) == 0 else ""
    if word:
        return np.full((*values.shape, 3), 0.86), word
    size = np.abs(values)
    # A map that is zero nearly everywhere has no 99th percentile to scale by.
    scale = np.percentile(size, 99) or size.max()
    low = values.min()
    # A map without negatives may lie far above zero everywhere, as RISE's do: only its differences can be seen.
    colours = (
        _SIGNED((values / scale + 1) / 2) if low < 0 else _UNSIGNED((values - low) / max(scale - low, 1e-12 * scale))
    )
    grey = image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])
    return np.asarray(colours)[..., :3] * (0.8 + 0.2 * grey[..., None]), ""


class _Page:
    """A figure whose coordinates are pixels from the top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(math.ceil(width) / DPI, math.ceil(height) / DPI), dpi=DPI, layout=None)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_xlim(0, math.ceil(width))
        self.axes.set_ylim(math.ceil(height), 0)

    def text(self, x: float, y: float, words: str, size: float, colour: str = "black", **style: Any) -> float:
        """Write `words` with letters of `size` pixels; where they end."""
        self.axes.text(x, y, words, fontsize=size * 72 / DPI, color=colour, **{"va": "center", **style})
        return x + 0.56 * size * len(words)

    def line(self, x: float, until: float, y: float) -> None:
        self.axes.plot([x, until], [y, y], color="0.75", linewidth=0.6)

    def picture(self, colours: Array, x: float, y: float, width: float, height: float) -> None:
        """Pixels `(H, W, 3)` in a frame: squares where they are larger than those of the page, else averaged."""
        many = colours.shape[0] > height or colours.shape[1] > width
        self.axes.imshow(
            colours,
            extent=(x, x + width, y + height, y),
            aspect="auto",
            interpolation="antialiased" if many else "nearest",
        )
        self.axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="0.8", linewidth=0.4))
        # imshow moves the limits to the picture.
        self.axes.set_xlim(0, self.figure.get_figwidth() * DPI)
        self.axes.set_ylim(self.figure.get_figheight() * DPI, 0)

    def scale(self, colours: Colormap, low: str, high: str, x: float, y: float, font: float) -> float:
        """A bar of `colours` between two words; where it ends."""
        x = self.text(x, y, low, font, GREY) + 0.6 * font
        self.picture(colours(np.linspace(0, 1, 64))[None, :, :3], x, y - 0.4 * font, 7 * font, 0.8 * font)
        return self.text(x + 7.6 * font, y, high, font, GREY)

    def write(self, path: Path) -> None:
        write(path, self.figure)
