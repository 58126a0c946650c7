"""Two pictures of a sweep: the maps of some images side by side, and the curves of deletion and insertion."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from benchmark.cells import digest
from benchmark.errors import UserError
from benchmark.records import Record, write_whole
from benchmark.statistics import bootstrap_intervals

Array = NDArray[np.float64]

_WIDTH = 1600  # pixels of a full figure, twice what a README shows, so that it is sharp on dense screens
_DPI = 200
_MARGIN = 16
_SIGNED = colormaps["RdBu_r"]
# The upper half of a diverging map: zero has the same colour in both, and the hue tells which of them it is.
_UNSIGNED = LinearSegmentedColormap.from_list("unsigned", colormaps["PuOr_r"](np.linspace(0.5, 1, 128)))
_GREY = "0.45"
_RESAMPLES = 2000

# Okabe and Ito's colours (2008, "Color universal design") without yellow and black, then Paul Tol's muted scheme.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#332288", "#999933", "#882255", "#117733", "#AA4499", "#DDCC77", "#661100", "#44AA99", "#CC6677"),
)
_DASHES: tuple[Any, ...] = ("--", ":", "-.", (0, (6, 1.5)), (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 4)))
_SCORES = {"prob": "probability of the class", "logit": "logit of the class", "logodds": "log-odds of the class"}


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


def curves(path: Path, records: Sequence[Record]) -> None:
    """Write a PNG with the mean curves of deletion and of insertion, a line a method, for one model and data set.

    A line is the mean over the images with status ok, its band a 95 % bootstrap interval of that mean over images. The
    list of methods stands in the order of insertion minus deletion area; null rows are grey and broken, oracles black.

    Args:
        path: where the picture goes, whole or not at all.
        records: of deletion and insertion of one model on one data set; records of other metrics are passed over. Of
            two records of the same method, protocol and seed the later one is drawn.

    Raises:
        UserError: no record has a curve, or the file cannot be written.
    """
    traced = _traces(records)
    if not traced:
        raise UserError("no curve to draw: expected records of deletion or insertion with at least one scored image")
    figure = Figure(figsize=(_WIDTH / _DPI, 3.3), dpi=_DPI, layout=None)
    panels: dict[str, Axes] = {}
    for index, measure in enumerate(("deletion", "insertion")):
        panels[measure] = figure.add_axes((0.062 + 0.328 * index, 0.14, 0.292, 0.745))
        _draw(panels[measure], measure, traced)
    _frame(panels, sorted({trace.output for trace in traced}))
    cell = records[0].cell
    figure.text(0.062, 0.965, f"{cell.model.name} on {cell.dataset.name}", fontsize=8, weight="bold", va="center")
    images = max(trace.images for trace in traced)
    note = f"mean over {images} images, 95 % bootstrap band" if images > 1 else "one image"
    figure.text(0.987, 0.965, note, fontsize=6.5, color=_GREY, ha="right", va="center")
    _list(figure.add_axes((0.7, 0.03, 0.287, 0.855)), sorted(traced, key=lambda trace: -trace.gain))
    _write(path, figure)


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
    tile = min(240.0, (_WIDTH - 2 * _MARGIN - gaps) / (1 + len(order)))
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
        colour = _GREY if name in nulls else "black"
        words = "\n".join(plan.titles[name])
        page.text(x + plan.tile / 2, plan.top - 8, words, plan.font, colour, ha="center", va="bottom")
    apart = [x for name, x in plan.columns.items() if name in nulls]
    if apart:
        end, y = apart[-1] + plan.tile, _MARGIN + plan.line
        page.line(apart[0], end, y)
        page.text((apart[0] + end) / 2, y - 4, "null methods", plan.font, _GREY, ha="center", va="bottom")


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
        page.text(middle, y + plan.tall / 2, word, plan.font, _GREY, ha="center", va="center")
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
        page.text(x, y, "number: SRG, higher is better, best of the row in bold", plan.font, _GREY, ha=side)


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


def signed(number: float) -> str:
    """Two decimals with a true minus sign, and no minus before zero."""
    return f"{number:.2f}".replace("-0.00", "0.00").replace("-", "−")


@dataclass
class _Trace:
    """What `curves` draws of one method: by measure the mean curve, its band (low, high), the mean area and SRG."""

    name: str
    role: str
    output: str
    means: dict[str, Array] = field(default_factory=dict)
    bands: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    areas: dict[str, float] = field(default_factory=dict)
    images: int = 0
    style: dict[str, Any] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """Insertion minus deletion area, by which methods are listed; one of the two where there is no other."""
        return self.areas.get("insertion", 0.0) - self.areas.get("deletion", 0.0)


def _traces(records: Sequence[Record]) -> list[_Trace]:
    """One trace a method, protocol and seed, in the order of their names, each with a style of its own."""
    found: dict[tuple[str, str], _Trace] = {}
    for record in records:
        cell = record.cell
        choice = [cell.method.name, dict(cell.method.params), cell.method.version, dict(cell.metric.params), cell.seed]
        for measure in ("deletion", "insertion"):
            rows = record.rows[(record.rows["measure"] == measure) & (record.rows["status"] == "ok")]
            rows = rows[rows["curve"].notna()]
            if rows.empty:
                continue
            output = str(cell.metric.params.get("output", "prob"))
            trace = found.setdefault(
                (cell.method.name, digest(choice)), _Trace(cell.method.name, record.facts["role"], output)
            )
            lines = np.stack(rows["curve"].to_list()).astype(float)
            trace.means[measure] = lines.mean(0)
            trace.bands[measure] = bootstrap_intervals(lines, resamples=_RESAMPLES)
            trace.areas[measure] = float(rows["value"].mean())
            trace.images = max(trace.images, len(rows))
    for _, namesakes in groupby(sorted(found), key=lambda key: key[0]):
        for place, key in enumerate(namesakes):
            found[key].name += f" ({place + 1})" if place else ""
    traces = [found[key] for key in sorted(found)]
    for trace in traces:
        if len(trace.areas) == 2:
            trace.areas["SRG"] = trace.gain
    _style(traces)
    return traces


def _style(traces: Sequence[_Trace]) -> None:
    """Colour by place among the names, so that a method keeps its colour in every figure of a sweep."""
    methods = nulls = 0
    for trace in traces:
        if trace.role == "null":
            grey = ("0.4", "0.55", "0.68")[nulls % 3]
            trace.style = {"color": grey, "linestyle": _DASHES[nulls % len(_DASHES)], "linewidth": 1.0}
            nulls += 1
        elif trace.role == "oracle":
            trace.style = {"color": "black", "linestyle": "-", "linewidth": 1.5}
        else:
            trace.style = {"color": _COLOURS[methods % len(_COLOURS)], "linestyle": "-", "linewidth": 1.3}
            methods += 1


def _draw(panel: Axes, measure: str, traces: Sequence[_Trace]) -> None:
    """Mean curves with their bands, methods on top."""
    for trace in sorted(traces, key=lambda trace: trace.role == "method"):
        if measure not in trace.means:
            continue
        mean, (low, high) = trace.means[measure], trace.bands[measure]
        fraction = np.linspace(0, 1, len(mean))
        panel.plot(fraction, mean, **trace.style, solid_capstyle="round")
        faint = 0.07 if trace.role == "null" else 0.13
        panel.fill_between(fraction, low, high, color=trace.style["color"], alpha=faint, linewidth=0)


def _frame(panels: Mapping[str, Axes], outputs: Sequence[str]) -> None:
    """Titles, labels and grid of the panels, which share one scale."""
    limits = [panel.get_ylim() for panel in panels.values() if panel.lines]
    bottom, top = min(lower for lower, _ in limits), max(upper for _, upper in limits)
    if outputs == ["prob"]:
        bottom, top = 0.0, min(1.0, top)
    for measure, panel in panels.items():
        panel.set_title(measure, fontsize=8, pad=5)
        if not panel.lines:
            panel.set_axis_off()
            panel.text(0.5, 0.5, "no record", fontsize=7, color=_GREY, ha="center", transform=panel.transAxes)
        panel.set_xlabel(f"fraction of pixels {'deleted' if measure == 'deletion' else 'inserted'}", fontsize=7)
        panel.set_ylabel(" / ".join(_SCORES.get(output, output) for output in outputs), fontsize=7)
        panel.set_xlim(0, 1)
        panel.set_ylim(bottom, top)
        panel.tick_params(labelsize=6.5, length=2, color=_GREY)
        panel.grid(color="0.92", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(_GREY)
    if panels["deletion"].lines:
        panels["insertion"].set_ylabel("")
        panels["insertion"].tick_params(labelleft=False)


def _list(axes: Axes, traces: Sequence[_Trace]) -> None:
    """The legend as a small table: line, name, the two areas and their difference."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    rows = max(16, len(traces) + 1)
    axes.set_ylim(rows - 0.5, -0.5)
    size = min(6.6, 6.6 * 17 / (rows + 1))
    where = {"deletion": 0.7, "insertion": 0.85, "SRG": 1.0}
    for title, name in {"del": "deletion", "ins": "insertion", "SRG": "SRG"}.items():
        if any(name in trace.areas for trace in traces):
            axes.text(where[name], 0, title, fontsize=size, color=_GREY, ha="right", va="center")
    for row, trace in enumerate(traces, start=1):
        axes.plot([0.0, 0.1], [row, row], **{**trace.style, "linewidth": 1.5})
        colour = _GREY if trace.role == "null" else "black"
        axes.text(0.13, row, trace.name.replace("_", " "), fontsize=size, color=colour, va="center")
        for name, area in trace.areas.items():
            axes.text(where[name], row, signed(area), fontsize=size, color=colour, ha="right", va="center")


class _Page:
    """A figure whose coordinates are pixels from the top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(math.ceil(width) / _DPI, math.ceil(height) / _DPI), dpi=_DPI, layout=None)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_xlim(0, math.ceil(width))
        self.axes.set_ylim(math.ceil(height), 0)

    def text(self, x: float, y: float, words: str, size: float, colour: str = "black", **style: Any) -> float:
        """Write `words` with letters of `size` pixels; where they end."""
        self.axes.text(x, y, words, fontsize=size * 72 / _DPI, color=colour, **{"va": "center", **style})
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
        self.axes.set_xlim(0, self.figure.get_figwidth() * _DPI)
        self.axes.set_ylim(self.figure.get_figheight() * _DPI, 0)

    def scale(self, colours: Colormap, low: str, high: str, x: float, y: float, font: float) -> float:
        """A bar of `colours` between two words; where it ends."""
        x = self.text(x, y, low, font, _GREY) + 0.6 * font
        self.picture(colours(np.linspace(0, 1, 64))[None, :, :3], x, y - 0.4 * font, 7 * font, 0.8 * font)
        return self.text(x + 7.6 * font, y, high, font, _GREY)

    def write(self, path: Path) -> None:
        _write(path, self.figure)


def _write(path: Path, figure: Figure) -> None:
    """File `figure` as a PNG whose bytes depend on what it shows alone."""
    canvas = FigureCanvasAgg(figure)
    write_whole(path, lambda temporary: canvas.print_png(temporary, metadata={"Software": None}))
