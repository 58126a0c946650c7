"""A page to draw on, in pixels from the top left corner, and words that fit where they are put."""

from __future__ import annotations

import math
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextToPath
from PIL import Image

from benchmark.figures import DPI, GREY, Array
from benchmark.records import write_whole


class Page:
    """A figure whose coordinates are pixels from the top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(math.ceil(width) / DPI, math.ceil(height) / DPI), dpi=DPI, layout=None)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_xlim(0, math.ceil(width))
        self.axes.set_ylim(math.ceil(height), 0)

    def text(self, x: float, y: float, words: str, size: float, colour: str = "black", **style: Any) -> float:
        """Write `words` with letters of `size` pixels; about where they end."""
        style = {"va": "center", "parse_math": False, **style}
        self.axes.text(x, y, legible(words), fontsize=size * 72 / DPI, color=colour, **style)
        return x + 0.56 * size * len(words)

    def line(self, x: float, until: float, y: float) -> None:
        self.axes.plot([x, until], [y, y], color="0.75", linewidth=0.6)

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="none"))

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
        """File the page as a PNG, without the transparency that it does not have: a tenth smaller."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        write_whole(path, lambda temporary: pixels.save(temporary, "PNG", dpi=(DPI, DPI)))


def width_of(words: str, size: float, weight: str = "normal") -> float:
    """How many pixels wide one line of `words` is in letters of `size` pixels."""
    properties = FontProperties(size=100, weight=weight)
    width, _, _ = TextToPath().get_text_width_height_descent(legible(words), properties, ismath=False)
    return float(width) * size / 100


def shrunk(words: str, size: float, width: float, weight: str = "normal") -> float:
    """The size of letters, at most `size` and at least three quarters of it, in which `words` are `width` wide."""
    return max(0.75 * size, min(size, size * width / max(width_of(words, size, weight), 1e-9)))


def fitted(words: str, size: float, width: float, weight: str = "normal") -> str:
    """`words`, without their middle where they are wider than `width` in letters of `size`."""
    if width_of(words, size, weight) <= width:
        return words
    for kept in range(len(words) - 1, 1, -1):
        head = (kept + 1) // 2
        shorter = f"{words[:head].rstrip()}…{words[len(words) - (kept - head) :].lstrip()}"
        if width_of(shorter, size, weight) <= width:
            return shorter
    return "…"


def wrapped(words: str, size: float, width: float, lines: int) -> list[str]:
    """`words` in at most `lines` lines of `width` pixels; the last loses its middle where that is not enough."""
    letters = max(4, int(len(words) * width / max(width_of(words, size), 1)))
    while letters > 4 and any(width_of(line, size) > width for line in textwrap.wrap(words, letters)):
        letters -= 1
    found = textwrap.wrap(words, letters)
    if len(found) > lines:
        found = [*found[: lines - 1], fitted(" ".join(found[lines - 1 :]), size, width)]
    return found


def legible(words: str) -> str:
    """`words` with a box for every letter that the font does not have, where matplotlib would warn."""
    return "".join(letter if letter == "\n" or _drawn(letter) else "□" for letter in words)


@cache
def _drawn(letter: str) -> bool:
    font = font_manager.get_font(font_manager.findfont(FontProperties()))
    return letter.isprintable() and font.get_char_index(ord(letter)) > 0
