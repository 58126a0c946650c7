"""A comparison as text: for a screen, as Markdown, as rows of LaTeX."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, isnan, log10
from typing import Any

import pandas as pd

from benchmark.latex import escaped, number
from benchmark.tables import markdown_escaped

_MOST_DECIMALS = 6
_MOST_COLUMNS = 5  # as many as fit a page
_ARROWS = {True: r"~$\uparrow$", False: r"~$\downarrow$"}
_TEST_NAMES = {"permutation": "paired permutation test", "wilcoxon": "Wilcoxon's signed-rank test"}


def terminal(found: pd.DataFrame) -> str:
    """Plain text for a screen."""
    texts = []
    for title, blocks, notes in _pairs(found):
        lines = [title, "═" * len(title)]
        for block in blocks:
            widths = [max(map(len, cells)) for cells in zip(*block, strict=True)]
            header, *body = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in block]
            lines += ["", header, "─" * (sum(widths) + 2 * len(widths) - 2), *body]
        texts.append("\n".join([*lines, *([""] if notes else []), *notes]))
    return "\n\n\n".join([*texts, "\n".join(_legend(found))]) + "\n"


def markdown(found: pd.DataFrame) -> str:
    """A heading a model and data set; what is compared, described and paid in a table each."""
    lines = [f"# {found['method'].iloc[0]} against {', '.join(dict.fromkeys(found['rival']))}", ""]
    lines += [*(f"- {line}" for line in _legend(found)), ""]
    for title, blocks, notes in _pairs(found):
        lines += [f"## {markdown_escaped(title)}", ""]
        for header, *body in blocks:
            rows = [header, [":--"] * len(header), *body]
            lines += [*(f"| {' | '.join(map(markdown_escaped, row))} |" for row in rows), ""]
        lines += [*(f"- {markdown_escaped(note)}" for note in notes), *([""] if notes else [])]
    return "\n".join(lines)


def latex(found: pd.DataFrame) -> str:
    """Rows for a paper, a booktabs table for each model, data set and family: the method, then its rivals.

    The first row has the columns of the leaderboard's table, so it can be pasted there. The numbers of the rivals that
    the method is better than are raised, of those that it is worse than lowered.
    """
    compared = found[found["kind"] == "compared"]
    method, rivals = found["method"].iloc[0], list(dict.fromkeys(found["rival"]))
    numbers = {rival: str(number) for number, rival in enumerate(rivals, 1)}
    lines = ["% Needs \\usepackage{booktabs}. Written by python -m benchmark.compare from records; do not edit."]
    lines += [f"% {line.encode('ascii', 'replace').decode()}" for line in _legend(found)]
    for (dataset, model), pair in compared.groupby(["dataset", "model"], sort=False):
        for family, part in pair.groupby("family", sort=False):
            names = list(dict.fromkeys(part["column"]))
            for start in range(0, len(names), _MOST_COLUMNS):
                shown = part[part["column"].isin(names[start : start + _MOST_COLUMNS])]
                title = f"{family}, {model} on {dataset}, n = {shown['total'].max():.0f}"
                lines += ["", f"% {title.encode('ascii', 'replace').decode()}", *_tabular(shown, method, numbers)]
    key = ", ".join(f"{number} {escaped(rival)}" for rival, number in numbers.items())
    note = rf"Raised: {escaped(method)} is better than, lowered: worse than {key}."
    return "\n".join([*lines, "", *([] if compared.empty else [rf"{{\scriptsize {note}}}"]), ""])


def _tabular(part: pd.DataFrame, method: str, numbers: dict[str, str]) -> Iterator[str]:
    """One family: a mean and what belongs to it are two columns, aligned, as in the leaderboard."""
    columns = {str(name): rows for name, rows in part.groupby("column", sort=False)}
    yield rf"\begin{{tabular}}{{@{{}}l{'r@{}l' * len(columns)}@{{}}}}"
    yield r"\toprule"
    heads = [f"{escaped(name)}{_ARROWS[rows['higher_is_better'].iloc[0]]}" for name, rows in columns.items()]
    spans = [rf"\multicolumn{{2}}{{c}}{{{head}}}" for head in heads]
    yield rf"method & {' & '.join(spans)} \\"
    yield r"\midrule"
    yield rf"{escaped(method)} & {' & '.join(_own(rows, numbers) for rows in columns.values())} \\"
    for rival in numbers:
        cells = [_rival(rows, rival) for rows in columns.values()]
        yield rf"{numbers[rival]}~{escaped(rival)} & {' & '.join(cells)} \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _own(rows: pd.DataFrame, numbers: dict[str, str]) -> str:
    """The cell of the method: its mean, half the width of its interval, and which rivals it differs from."""
    marks = ""
    for verdict, command in (("better", "textsuperscript"), ("worse", "textsubscript")):
        if rivals := ",".join(numbers[rival] for rival in rows.loc[rows["verdict"] == verdict, "rival"]):
            marks += rf"\{command}{{{rivals}}}"
    return _mean(rows, rows["mean"].iloc[0], rows["half"].iloc[0]) + marks


def _rival(rows: pd.DataFrame, rival: str) -> str:
    own = rows[rows["rival"] == rival]
    return _mean(rows, own["rival_mean"].iloc[0], own["rival_half"].iloc[0]) if len(own) else " & "


def _mean(rows: pd.DataFrame, mean: float, half: float) -> str:
    decimals = _decimals(rows)
    text = number(_number(mean, decimals))
    return f"{text} & " + ("" if isnan(half) else rf"{{\tiny$\,\pm\,${number(_number(half, decimals))}}}")


def _pairs(found: pd.DataFrame) -> Iterator[tuple[str, list[list[list[str]]], list[str]]]:
    """For each model and data set a title, tables (their first line is the heading), and what has no scores."""
    method = found["method"].iloc[0]
    for (dataset, model), part in found.groupby(["dataset", "model"], sort=False):
        total = part["total"].max()
        title = f"dataset {dataset} · model {model}" + ("" if isnan(total) else f" · n = {total:.0f}")
        blocks = []
        for kind, heading in (
            ("compared", ["column", method, "against", "mean", "difference [95 %]", "P(better)", "p", "verdict"]),
            ("described", ["column without verdict", method, "against", "mean", "difference [95 %]"]),
            ("cost", ["cost", method, "against", "", "times"]),
        ):
            rows = part[(part["kind"] == kind) & (part["reason"] == "")]
            lines: list[list[str]] = []
            for _, same in rows.groupby("column", sort=False):
                decimals = _decimals(same)
                cells = [_line(row, decimals) for row in same.itertuples()]
                lines += [cells[0], *(["", "" if cell[1] == cells[0][1] else cell[1], *cell[2:]] for cell in cells[1:])]
            blocks += [[heading, *lines]] if lines else []
        notes = [
            f"not compared: {', '.join(dict.fromkeys(same['column']))}: {reason}"
            for reason, same in part[part["reason"] != ""].groupby("reason", sort=False)
        ]
        yield title, blocks, notes


def _line(row: Any, decimals: int | None) -> list[str]:
    """The cells of a line."""
    if row.kind == "cost":
        times = "" if isnan(row.ratio) else f"{row.ratio:.3g}"
        return [row.column, _number(row.mean, None), row.rival, _number(row.rival_mean, None), times]
    arrow = {True: " ↑", False: " ↓"}.get(row.higher_is_better, "")
    means = [_number(mean, decimals) for mean in (row.mean, row.rival_mean)]
    low, high = (_number(bound, decimals, "+") for bound in (row.low, row.high))
    some = f" ({row.images} of {row.total} images)" if row.images < row.total else ""
    difference = _number(row.difference, decimals, "+") + ("" if isnan(row.low) else f" [{low}, {high}]") + some
    cells = [f"{row.column}{arrow}", means[0], row.rival, means[1], difference]
    if row.kind == "described":
        return cells
    p = "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
    return [*cells, f"{row.superiority:.2f}", p, row.verdict]


def _decimals(rows: pd.DataFrame) -> int | None:
    """So many that half the width of the narrowest interval has two digits, None where that is not to be read."""
    halves = (rows["high"] - rows["low"]) / 2
    if not (halves > 0).any():
        return None
    decimals = max(0, 1 - floor(log10(halves[halves > 0].min())))
    return decimals if decimals <= _MOST_DECIMALS else None


def _number(value: float, decimals: int | None, sign: str = "") -> str:
    """`value` with `decimals`, or three digits of it without; nothing for NaN, and no sign of a zero."""
    if isnan(value):
        return ""
    text = f"{value:{sign}.3g}" if decimals is None else f"{value:{sign}.{decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _legend(found: pd.DataFrame) -> list[str]:
    """How to read a comparison."""
    compared = found[found["kind"] == "compared"]
    method = found["method"].iloc[0]
    if compared.empty:
        return ["Nothing here ranks, so there is no verdict."]
    test = _TEST_NAMES[compared["test"].iloc[0]]
    counts = [
        _counted(len(compared["column"].unique()), "column"),
        _counted(len(compared["rival"].unique()), "rival"),
        _counted(len(compared[["model", "dataset"]].drop_duplicates()), "pair", " of model and data set"),
    ]
    return [
        f"Means of the images that both scored, the mean difference ({method} minus the other) with its 95 % bootstrap "
        f"interval, and P(better): the share of images on which {method} is better, ties half.",
        f"p: {test} over the images, Holm's correction over one family: all {len(compared)} comparisons with a verdict "
        f"({', '.join(counts)}). A verdict is given at 5 %.",
        f"More images: as many as a test at level 0.05 / {len(compared)} needs beyond these to find an effect of this "
        "size with chance 0.9.",
    ]


def _counted(count: int, what: str, of: str = "") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}{of}"
