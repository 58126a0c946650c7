"""The curves of deletion and insertion, a line a method, with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.cells import digest
from benchmark.errors import UserError
from benchmark.figures import DPI, GREY, WIDTH, Array, signed, write
from benchmark.fractions import fractions
from benchmark.records import Record
from benchmark.statistics import bootstrap_intervals

_RESAMPLES = 2000

# Okabe and Ito's colours (2008, "Color universal design") without yellow and black, then Paul Tol's muted scheme.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#332288", "#999933", "#882255", "#117733", "#AA4499", "#DDCC77", "#661100", "#44AA99", "#CC6677"),
)
_DASHES: tuple[Any, ...] = ("--", ":", "-.", (0, (6, 1.5)), (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 4)))
_SCORES = {"prob": "probability of the class", "logit": "logit of the class", "logodds": "log-odds of the class"}


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
    figure = Figure(figsize=(WIDTH / DPI, 3.3), dpi=DPI, layout=None)
    panels: dict[str, Axes] = {}
    for index, measure in enumerate(("deletion", "insertion")):
        panels[measure] = figure.add_axes((0.062 + 0.328 * index, 0.14, 0.292, 0.745))
        _draw(panels[measure], measure, traced)
    _frame(panels, sorted({trace.output for trace in traced}))
    cell = records[0].cell
    figure.text(0.062, 0.965, f"{cell.model.name} on {cell.dataset.name}", fontsize=8, weight="bold", va="center")
    images = max(trace.images for trace in traced)
    note = f"mean over {images} images, 95 % bootstrap band" if images > 1 else "one image"
    figure.text(0.987, 0.965, note, fontsize=6.5, color=GREY, ha="right", va="center")
    _list(figure.add_axes((0.7, 0.03, 0.287, 0.855)), sorted(traced, key=lambda trace: -trace.gain))
    write(path, figure)


@dataclass
class _Trace:
    """What `curves` draws of one method: by measure where its points stand, the mean curve, its band (low, high), the
    mean area and SRG."""

    name: str
    role: str
    output: str
    fractions: dict[str, Array] = field(default_factory=dict)
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
            trace.fractions[measure] = fractions(cell.metric, measure, lines.shape[1])
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
        fraction, (low, high) = trace.fractions[measure], trace.bands[measure]
        panel.plot(fraction, trace.means[measure], **trace.style, solid_capstyle="round")
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
            panel.text(0.5, 0.5, "no record", fontsize=7, color=GREY, ha="center", transform=panel.transAxes)
        panel.set_xlabel(f"fraction of pixels {'deleted' if measure == 'deletion' else 'inserted'}", fontsize=7)
        panel.set_ylabel(" / ".join(_SCORES.get(output, output) for output in outputs), fontsize=7)
        panel.set_xlim(0, 1)
        panel.set_ylim(bottom, top)
        panel.tick_params(labelsize=6.5, length=2, color=GREY)
        panel.grid(color="0.92", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GREY)
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
            axes.text(where[name], 0, title, fontsize=size, color=GREY, ha="right", va="center")
    for row, trace in enumerate(traces, start=1):
        axes.plot([0.0, 0.1], [row, row], **{**trace.style, "linewidth": 1.5})
        colour = GREY if trace.role == "null" else "black"
        axes.text(0.13, row, trace.name.replace("_", " "), fontsize=size, color=colour, va="center")
        for name, area in trace.areas.items():
            axes.text(where[name], row, signed(area), fontsize=size, color=colour, ha="right", va="center")
