"""A picture of metric validity: a line a metric, a dot for each model and data set, a bar at their mean."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmark.figures import DPI, GREY, WIDTH, signed, write

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
_MARKS = "os^Dv"
_LONGEST = 46  # signs of a label


def picture(path: Path, table: pd.DataFrame) -> None:
    """Write a PNG of `table`, as `truth.validity_table` makes it; colours are models, marks are data sets.

    Raises:
        UserError: the file cannot be written.
    """
    means = table.groupby("column")["tau"].mean().dropna().sort_values(kind="stable")
    height = 1.2 + 0.17 * len(means)
    figure = Figure(figsize=(WIDTH / DPI, height), dpi=DPI)
    axes = figure.add_axes((0.36, 0.82 / height, 0.5, 1 - 1.12 / height))
    place = {column: index for index, column in enumerate(means.index)}
    models, datasets = (list(dict.fromkeys(table[axis])) for axis in ("model", "dataset"))
    for (model, dataset), part in table.groupby(["model", "dataset"], sort=False):
        shown = part[part["column"].isin(place)]
        axes.plot(
            shown["tau"],
            shown["column"].map(place) + 0.3 * (models.index(model) - (len(models) - 1) / 2),
            _MARKS[datasets.index(dataset) % len(_MARKS)],
            color=_COLOURS[models.index(model) % len(_COLOURS)],
            markersize=3.2,
            markeredgewidth=0,
            alpha=0.85,
            label=f"{model} on {dataset}",
        )
    for column, mean in means.items():
        axes.plot([mean, mean], [place[column] - 0.4, place[column] + 0.4], color="black", linewidth=1.2)
        axes.text(1.02, place[column], signed(mean), transform=axes.get_yaxis_transform(), fontsize=6, va="center")
    axes.set_yticks(range(len(means)), [_short(str(column)) for column in means.index], fontsize=6)
    axes.set_ylim(-0.7, len(means) - 0.3)
    axes.set_xlim(min(-0.25, table["tau"].min() - 0.05), 1.02)
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.grid(axis="y", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=6, length=2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("Kendall's tau to the order of the methods when scenes are drawn anew", fontsize=6.5)
    figure.text(0.36, 1 - 0.12 / height, "Does a metric rank methods as the truth does?", fontsize=8, weight="bold")
    figure.legend(loc="lower center", ncols=5, fontsize=5.5, frameon=False, handletextpad=0.2, borderpad=0.4)
    write(path, figure)


def _short(label: str) -> str:
    """A label whose options are cut where they would not stand beside the axis."""
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 2]}…)"
