"""The tables of `benchmark.truth` as a page, each with what its numbers mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from benchmark.tables import markdown_escaped

REFERENCE = "srg_rendered.srg"
"""The column that metrics are held against: SRG with scenes drawn anew in place of perturbed images."""

_TEXTS = {
    "validity": (
        f"Kendall's tau-b between the order of the methods under a metric and under `{REFERENCE}`, whose images are "
        "drawn anew without the parts that are gone, with its 95 % bootstrap interval over images. Null and oracle "
        "rows are left out. 1: the metric ranks as the truth does; 0: it knows nothing of it. `mean`: over tables."
    ),
    "shortcuts": (
        "A network uses the watermark if, in the mean over scenes, its logit loses at least 1 without the mark, and "
        "five times as much as without the object, both drawn anew. `mass`: share of the positive map on the mark, in "
        "networks that use it. `gap`: how much more that is than on a decoy in its place; `gap unused`: the same in "
        "networks that do not use it, where 0 is right. `slope`: rank correlation over networks of mass and of what "
        "the logit loses without the mark. `auroc`: chance that a network that uses the mark has more mass than one "
        "that does not; `p`: of a permutation test over networks that there is nothing to it, two-sided. Intervals are "
        "over scenes."
    ),
    "contrast": (
        "Share of the positive map on the object, in the network that is to name the shape minus in the one that is to "
        "name the texture around it, on the same images. A map that follows the model is above 0, one that follows the "
        "image is at 0."
    ),
    "suppressors": (
        "`precision`: share of the largest relevance, as many pixels as the figures have, that lies on the figures. "
        "`false alarms`: share of the magnitudes on suppressors, pixels that tell nothing of the class and help to "
        "cancel noise. A map that is faithful to the model may mark both, so they are two columns and no score."
    ),
}


def markdown(tables: Mapping[str, pd.DataFrame]) -> str:
    """The tables as a page, each with what its numbers mean."""
    lines = ["# Known truth", ""]
    for name, table in tables.items():
        lines += [f"## {name.capitalize()}", "", _TEXTS[name], "", *_LINES[name](table), ""]
    return "\n".join(lines)


def _validity_lines(table: pd.DataFrame) -> list[str]:
    table = table.assign(place=table["dataset"] + " " + table["model"])
    cells = table.assign(text=[_text(*row) for row in table[["tau", "low", "high"]].to_numpy()])
    places = list(dict.fromkeys(cells["place"]))
    texts = cells.pivot(index="column", columns="place", values="text").reindex(columns=places).fillna("")
    means = table.groupby("column")["tau"].mean().sort_values(ascending=False, kind="stable")
    rows = [[str(name), f"{mean:.2f}", *texts.loc[[name]].to_numpy()[0]] for name, mean in means.items()]
    return _table(["metric", "mean", *places], rows)


def _shortcut_lines(table: pd.DataFrame) -> list[str]:
    lines = []
    for model, part in table.groupby("model", sort=False):
        first = part.iloc[0]
        ordered = part.sort_values(["auroc", "gap", "mass"], ascending=False, kind="stable")
        rows = []
        for row in ordered.to_dict("records"):
            mass, gap, unused = (
                _text(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))) for name in ("mass", "gap", "gap_unused")
            )
            p = "" if np.isnan(row["auroc_p"]) else f"{row['auroc_p']:.2g}"
            rows.append([row["method"], mass, gap, unused, _text(row["slope"]), _text(row["auroc"]), p])
        lines += [f"### {model}: {first.used} of {first.models} networks use the watermark", ""]
        lines += [*_table(["method", "mass", "gap", "gap unused", "slope", "auroc", "p"], rows), ""]
    return lines


def _contrast_lines(table: pd.DataFrame) -> list[str]:
    texts = table.assign(text=[_text(*row) for row in table[["contrast", "low", "high"]].to_numpy()])
    order = table.groupby("method")["contrast"].mean().sort_values(ascending=False, kind="stable").index
    shown = texts.pivot(index="method", columns="model", values="text").reindex(order).fillna("")
    return _table(["method", *shown.columns], [[name, *row] for name, row in zip(order, shown.to_numpy(), strict=True)])


def _suppressor_lines(table: pd.DataFrame) -> list[str]:
    lines = []
    for model, part in table.groupby("model", sort=False):
        rows = []
        for row in part.sort_values("precision", ascending=False, kind="stable").to_dict("records"):
            texts = (
                _text(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))) for name in ("precision", "false_alarms")
            )
            rows.append([row["method"], *texts])
        lines += [f"### {model}", "", *_table(["method", "precision", "false alarms"], rows), ""]
    return lines


_LINES = {
    "validity": _validity_lines,
    "shortcuts": _shortcut_lines,
    "contrast": _contrast_lines,
    "suppressors": _suppressor_lines,
}


def _text(value: float, low: float = np.nan, high: float = np.nan) -> str:
    if np.isnan(value):
        return ""
    return f"{value:z.2f}" if np.isnan(low) else f"{value:z.2f} [{low:z.2f}, {high:z.2f}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(head), "|:--|" + "--:|" * (len(head) - 1), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown_escaped, cells))} |"
