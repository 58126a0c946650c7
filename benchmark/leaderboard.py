"""Records -> one tidy frame -> ranked tables, for the screen, as Markdown and as CSV. Nothing is computed again.

frame      a row an image and measure, every column named by labels
summarise  a row a cell and measure: mean, interval, counts, letters of the groups not shown to differ
terminal, markdown, write_tables, report      the same summary for readers
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark import records
from benchmark.cells import Cell, Choice, digest
from benchmark.errors import UserError
from benchmark.records import Record
from benchmark.statistics import bootstrap_intervals, rank_groups

Labels = Mapping[tuple[str, str], str]

COST = "cost"
_AXES = ("model", "dataset", "method", "metric")
_FAMILIES = ("faithfulness", "axioms", "localisation", "robustness", "randomisation")
_ROLES = {"method": "", "null": "null rows: know nothing of the model", "oracle": "oracle rows: know the truth"}
_FACTS = ["metric", "measure", "family", "unit", "higher_is_better", "ranked"]
_NO_MEASURE = {"family": "other", "unit": "", "higher_is_better": None, "ranked": False}
_WORDS = {"not_applicable": "n/a"}
_LEGEND = (
    "`0.412 [0.381, 0.443] ab` is the mean over images, the 95 % bootstrap interval of that mean "
    "(BCa, 10,000 resamples of the images), and letters.",
    "Rows of a column that share a letter are not shown to differ; `a` stands at the best mean. Behind the letters are "
    "paired permutation tests over the images, with Holm's correction over all pairs of rows of the column, at a "
    "family-wise level of 5 %. A column without letters describes and does not rank.",
    "↑ higher is better, ↓ lower is better; without an arrow the number has no direction. Rows are sorted by the "
    "column named in the title, null and oracle rows stand apart.",
    "`62/64` after a number: only 62 of 64 images could be scored, the others are left out and listed below the table "
    "as `degenerate` (undefined for this map or model) or `invalid` (NaN or infinity in the map).",
    "`n/a`: the metric has no meaning for this method, model or data set. `failed`: an error stopped the cell, and the "
    "next run tries it again. `missing`: nothing has been filed for the cell yet. Reasons stand below the table.",
)
_COST_LEGEND = (
    "Time, memory and passes of making the explanations alone, one number a cell, in the unit of the heading. "
    "They belong to the device on which they were taken.",
    "↑ higher is better, ↓ lower is better.",
)


# --- records -> frame ---


def labels(cells: Iterable[Cell]) -> dict[tuple[str, str], str]:
    """What each choice is called in tables, by axis and `identity`.

    A name, and in brackets the options in which choices of the same name differ (for metrics also the seed, and the
    device of timings), or `@version` where versions differ. Two choices never share a label.
    """
    variants: dict[tuple[str, str], dict[str, tuple[dict[str, Any], str]]] = {}
    for cell in cells:
        for axis in _AXES:
            choice: Choice = getattr(cell, axis)
            drawn = {"seed": cell.seed, "device": cell.device} if axis == "metric" else {}
            variants.setdefault((axis, choice.name), {})[identity(cell, axis)] = (
                drawn | _flat(choice.params),
                choice.version,
            )
    found: dict[tuple[str, str], str] = {}
    for (axis, name), same_name in variants.items():
        keys = sorted({key for options, _ in same_name.values() for key in options})
        differ = [key for key in keys if len({repr(options.get(key, ...)) for options, _ in same_name.values()}) > 1]
        versions = len({version for _, version in same_name.values()}) > 1
        for key, (options, version) in sorted(same_name.items()):
            shown = [f"{option}={_text(options, option)}" for option in differ if option in options]
            label = name + (f"({', '.join(shown)})" if shown else "") + (f"@{version}" if versions else "")
            taken = label in (other for (of_axis, _), other in found.items() if of_axis == axis)
            found[axis, key] = f"{label}#{key[:8]}" if taken else label
    return found


def identity(cell: Cell, axis: str) -> str:
    """What tells the choice of `cell` on `axis` from all others; for metrics with the seed and the device."""
    choice = asdict(getattr(cell, axis))
    return digest([choice, cell.seed, cell.device] if axis == "metric" else choice)


def frame(found: Iterable[Record], errors: Iterable[tuple[Cell, str]] = ()) -> pd.DataFrame:
    """One tidy frame: a row an image and measure, and one with status `failed` for each measure of a failed cell.

    Columns: model, dataset, method, metric (labels), column (the metric, with the measure where it has another name),
    measure, family, higher_is_better (True, False, None), ranked, unit, role, uid (`-` for one number a cell), target,
    value (NaN unless status is `ok`), status, reason (empty where there is none).
    """
    return _frame(*_take(found, errors))


@dataclass(frozen=True)
class _Scored:
    """What tables need of a record: no curves."""

    cell: Cell
    rows: pd.DataFrame
    facts: Mapping[str, Any]


def _take(
    found: Iterable[Record], errors: Iterable[tuple[Cell, str]]
) -> tuple[list[_Scored], list[tuple[Cell, str]], Labels]:
    """The scores, the failed cells that have no record, and labels for all of them."""
    columns = ["uid", "target", "measure", "value", "status"]
    scored = [_Scored(record.cell, record.rows[columns], record.facts) for record in found]
    done = {record.cell.key for record in scored}
    failed = [(cell, reason) for cell, reason in errors if cell.key not in done]
    return scored, failed, labels([record.cell for record in scored] + [cell for cell, _ in failed])


def _frame(scored: Sequence[_Scored], failed: Sequence[tuple[Cell, str]], names: Labels) -> pd.DataFrame:
    known = {record.cell.metric.name: (record.facts["measures"], record.facts["family"]) for record in scored}
    roles = {names["method", identity(record.cell, "method")]: record.facts["role"] for record in scored}
    measured: list[dict[str, Any]] = []
    owners: list[int] = []
    parts: list[pd.DataFrame] = []

    def add(cell: Cell, rows: pd.DataFrame, measures: Sequence[Mapping[str, Any]], family: str, reason: str) -> None:
        axes = {axis: names[axis, identity(cell, axis)] for axis in _AXES}
        place = {measure["name"]: len(measured) + index for index, measure in enumerate(measures)}
        owners.extend(place[name] for name in rows["measure"])
        parts.append(rows)
        for measure in measures:
            single = measure["name"] == cell.metric.name
            measured.append(
                axes
                | {"column": axes["metric"] if single else f"{axes['metric']}.{measure['name']}"}
                | {"family": family, "higher_is_better": measure["higher_is_better"], "ranked": measure["ranked"]}
                | {"unit": measure["unit"], "role": roles.get(axes["method"], "method"), "reason": reason}
            )

    for record in scored:
        facts = record.facts
        add(record.cell, record.rows, facts["measures"], facts["family"], facts["reason"] or "")
    for cell, reason in failed:
        # Nothing says what a metric reports that never succeeded: it gets one column of its own name.
        alone = {"name": cell.metric.name, **_NO_MEASURE}
        measures, family = known.get(cell.metric.name, ([alone], _NO_MEASURE["family"]))
        rows = pd.DataFrame([("-", -1, measure["name"], np.nan, "failed") for measure in measures])
        add(cell, rows.set_axis(["uid", "target", "measure", "value", "status"], axis=1), measures, family, reason)
    if not parts:
        raise UserError("there is no record to make a table of")
    order = np.argsort(owners, kind="stable")
    cells = pd.DataFrame(measured).astype({"higher_is_better": object}).iloc[np.array(owners)[order]]
    scores = pd.concat(parts, ignore_index=True).iloc[order]
    tidy = pd.concat([cells.reset_index(drop=True), scores.reset_index(drop=True)], axis=1)
    front = ["model", "dataset", "method", "metric", "column", "measure", "family", "higher_is_better", "ranked"]
    return tidy[[*front, "unit", "role", "uid", "target", "value", "status", "reason"]]


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(options: Mapping[str, Any], key: str) -> str:
    """An option as a reader writes it; empty where the choice has no such option."""
    value = options.get(key, "")
    return value if isinstance(value, str) else json.dumps(value)


# --- frame -> summary ---


def summarise(tidy: pd.DataFrame) -> pd.DataFrame:
    """A row a model, dataset, column and method, in the order of the tables: what can be said of the cell.

    Columns: those of `frame` that belong to the cell; `mean` over valid images with its 95 % interval `low`, `high`;
    `letters` of `statistics.rank_groups` where the measure ranks; `n` valid and `total` images; how many images are
    `degenerate`, `invalid`, `not_applicable`; `status` of the cell: `ok`, the commonest status of its images where
    none is valid, `failed`, or `missing` where the table has a place and nothing is filed; `reason`.
    """
    parts = []
    for _, pair in tidy.groupby(["dataset", "model"], sort=True):
        for cost in (False, True):
            part = pair[(pair["family"] == COST) == cost]
            if len(part):
                parts.append(_summarise_pair(part))
    return pd.concat(parts, ignore_index=True)


def _summarise_pair(part: pd.DataFrame) -> pd.DataFrame:
    """The summary of one model on one data set; `part` holds all of its cells that go into one table."""
    columns = _ordered_columns(part.drop_duplicates("column").set_index("column")[_FACTS])
    roles = part.drop_duplicates("method").set_index("method")["role"]
    grid = pd.MultiIndex.from_product([columns.index, roles.index], names=["column", "method"])

    valid = (part["status"] == "ok") & np.isfinite(part["value"])
    status = part["status"].mask((part["status"] == "ok") & ~valid, "invalid")
    counts = pd.crosstab([part["column"], part["method"]], status)
    counts = counts.reindex(index=grid, columns=[*records.STATUSES, "failed"], fill_value=0)
    # Sorted by image, so that sums are added in one order and the digits stay.
    scores = part.assign(value=part["value"].where(valid))
    values = scores.pivot(index="uid", columns=["column", "method"], values="value").reindex(columns=grid).sort_index()
    low, high = bootstrap_intervals(values.to_numpy())

    table = counts[["degenerate", "invalid", "not_applicable"]].copy()
    table["mean"], table["low"], table["high"] = values.mean(), low, high
    table["n"], table["total"] = counts["ok"], counts[list(records.STATUSES)].sum(axis=1)
    table["status"] = counts.idxmax(axis=1).where(counts.sum(axis=1) > 0, "missing").mask(counts["ok"] > 0, "ok")
    reasons = part.groupby(["column", "method"])["reason"].first().reindex(grid)
    table["reason"] = reasons.fillna("no record is filed yet")
    letters: dict[tuple[Any, Any], str] = {}
    for name, fact in columns.iterrows():
        if fact["ranked"] and fact["higher_is_better"] is not None:
            groups = rank_groups(values.loc[:, [str(name)]].droplevel("column", axis=1), fact["higher_is_better"])
            letters |= {(name, method): group for method, group in groups.items()}
    table["letters"] = [letters.get(cell, "") for cell in grid]

    table = table.reset_index().join(columns, on="column").join(roles, on="method")
    table["model"], table["dataset"] = part["model"].iloc[0], part["dataset"].iloc[0]
    order = {method: place for place, method in enumerate(_ordered_methods(table, columns))}
    table = table.sort_values("method", key=lambda methods: methods.map(order), kind="stable")
    table = table.sort_values("column", key=lambda names: names.map(columns.index.get_loc), kind="stable")
    front = ["model", "dataset", "column", "method", "role", *_FACTS, "mean", "low", "high", "letters", "n", "total"]
    return table[[*front, "degenerate", "invalid", "not_applicable", "status", "reason"]]


def _headline(columns: pd.DataFrame) -> str | None:
    """The column that a table is sorted by: `srg`, else the first that ranks, else the first with a direction."""
    directed = columns[columns["higher_is_better"].notna()]
    for choice in (directed[directed["measure"] == "srg"], directed[directed["ranked"].astype(bool)], directed):
        if len(choice):
            return str(choice.index[0])
    return None


def _ordered_columns(columns: pd.DataFrame) -> pd.DataFrame:
    """Columns by family: the headline, metrics of one number, metrics of several, each in the order they came in."""
    seen = [*_FAMILIES, *(family for family in columns["family"] if family not in _FAMILIES)]
    headline = _headline(columns)

    def place(name: str) -> tuple[int, bool, bool]:
        fact = columns.loc[name]
        return seen.index(fact["family"]), name != headline, bool(fact["metric"] != name)

    return columns.loc[sorted(columns.index, key=place)]


def _ordered_methods(table: pd.DataFrame, columns: pd.DataFrame) -> list[str]:
    """Methods, then nulls, then oracles, each from the best headline mean to the worst and to none."""
    headline = _headline(columns)
    rows = table[table["column"] == (headline or columns.index[0])].set_index("method")
    sign = -1 if headline and columns["higher_is_better"][headline] else 1
    roles = list(_ROLES)

    def place(method: str) -> tuple[int, bool, float, str]:
        role = rows["role"][method]
        mean = sign * float(rows["mean"][method]) if headline else np.nan
        return (
            roles.index(role) if role in roles else 0,
            bool(np.isnan(mean)),
            0.0 if np.isnan(mean) else mean,
            method,
        )

    return sorted(set(table["method"]), key=place)


# --- summary -> text ---


@dataclass(frozen=True)
class _Table:
    """One model on one data set: the cells of its methods (lines) by columns, each cell in pieces to be aligned."""

    title: str
    columns: pd.DataFrame
    roles: pd.Series
    images: Mapping[str, str]
    pieces: Mapping[tuple[str, str], list[str]]
    notes: list[str]


def _tables(summary: pd.DataFrame) -> Iterator[_Table]:
    for (dataset, model, _), part in summary.groupby(["dataset", "model", summary["family"] == COST], sort=False):
        columns = part.drop_duplicates("column").set_index("column")[_FACTS]
        roles = part.drop_duplicates("method").set_index("method")["role"]
        cost = bool((part["family"] == COST).all())
        totals = part.groupby("method", sort=False)["total"].max()
        title = [f"dataset {dataset}", f"model {model}"]
        headline = _headline(columns)
        title += [COST] if cost else [f"n = {totals.max()}"]
        title += [f"sorted by {headline}"] if headline else []
        pieces = {
            (str(row.method), str(name)): _cost(row) if cost else _pieces(row, sizes)
            for name, rows in part.groupby("column", sort=False)
            for sizes in [rows[["low", "high", "mean"]].abs().max(axis=1)]
            for row in rows.itertuples()
        }
        images = {} if cost else {str(method): str(total or "") for method, total in totals.items()}
        yield _Table(" · ".join(title), columns, roles, images, pieces, _notes(part))


def _pieces(row: Any, sizes: pd.Series) -> list[str]:
    """Mean, interval, letters and counts of a cell, or the one word that stands for it; `sizes` of its column."""
    if row.status != "ok":
        return [_WORDS.get(row.status, row.status)]
    # One number of decimals for a column, unless its smallest cell would be left with less than two digits.
    decimals = _decimals(sizes.max())
    together = decimals is not None and sizes[sizes > 0].min() >= 10 ** (1 - decimals)
    size = float(sizes.max() if together else sizes[row.Index])
    count = f"{row.n}/{row.total}" if row.n < row.total else ""
    bounds = ["", ""] if np.isnan(row.low) else [f"[{_number(row.low, size)},", f"{_number(row.high, size)}]"]
    return [_number(row.mean, size), *bounds, row.letters, count]


def _cost(row: Any) -> list[str]:
    if row.status != "ok":
        return [_WORDS.get(row.status, row.status)]
    return [f"{row.mean:.0f}" if abs(row.mean) >= 1000 else f"{row.mean:.3g}"]


def _number(value: float, size: float) -> str:
    """`value` with the decimals of numbers of `size`, and without the sign of a zero."""
    decimals = _decimals(size)
    text = f"{value:.2e}" if decimals is None else f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _decimals(size: float) -> int | None:
    """Three for numbers of ordinary size, None where only powers of ten can show them."""
    for decimals, low, high in ((3, 0.01, 10), (4, 0.001, 0.01), (1, 10, 10_000)):
        if low <= size < high:
            return decimals
    return 3 if size == 0 else None


def _heading(name: str, fact: Any) -> str:
    arrow = {True: " ↑", False: " ↓"}.get(fact["higher_is_better"], "")
    return f"{name}{arrow}" + (f" [{fact['unit']}]" if fact["unit"] else "")


def _notes(part: pd.DataFrame) -> list[str]:
    """Why cells have no number, and which images are left out, each reason once."""
    notes = []
    for status in ("not_applicable", "failed", "missing"):
        for reason, same in part[part["status"] == status].groupby("reason", sort=False):
            notes.append(f"{_WORDS.get(status, status)}: {_which(same, part)}: {str(reason) or 'no value'}")
    for status in ("degenerate", "invalid", "not_applicable"):
        left_out = part[(part[status] > 0) & (part["status"] != "not_applicable")]
        for (count, total), same in left_out.groupby([status, "total"], sort=False):
            notes.append(f"{count} of {total} images {_WORDS.get(status, status)}: {_which(same, part)}")
    return notes


def _which(cells: pd.DataFrame, part: pd.DataFrame) -> str:
    """`deletion, insertion of rise; srg of every row`: a metric stands for all of its columns."""
    widths = part.drop_duplicates("column").groupby("metric").size()
    whole = cells.groupby(["metric", "method"])["column"].transform("size") == cells["metric"].map(widths)
    names = cells["column"].mask(whole, cells["metric"])
    methods_of = cells.groupby(names, sort=False)["method"].agg(lambda methods: ", ".join(dict.fromkeys(methods)))
    roles = dict.fromkeys(part["method"])
    everything = ", ".join(roles)
    found: dict[str, list[str]] = {}
    for name, methods in methods_of.items():
        found.setdefault("every row" if methods == everything and len(roles) > 2 else methods, []).append(str(name))
    return "; ".join(f"{', '.join(names)} of {methods}" for methods, names in found.items())


def terminal(summary: pd.DataFrame, width: int | None = None) -> str:
    """Plain text for a screen of `width` characters (default: this one): a block a family, more where it is wide."""
    width = width or max(100, shutil.get_terminal_size((140, 24)).columns)
    texts = []
    for table in _tables(summary):
        lines = [table.title, "═" * len(table.title)]
        for family, columns in table.columns.groupby("family", sort=False):
            lines += ["", *_blocks(table, str(family), columns, width)]
        notes = [textwrap.wrap(note, width, subsequent_indent="    ") for note in table.notes]
        texts.append("\n".join([*lines, *([""] if notes else []), *(line for note in notes for line in note)]))
    return "\n\n\n".join(texts) + "\n"


def _blocks(table: _Table, family: str, columns: pd.DataFrame, width: int) -> Iterator[str]:
    """The lines of a family, its columns side by side as far as they fit."""
    methods = [str(method) for method in table.roles.index]
    stub = [_column([family, *methods])]
    if table.images:
        stub.append(_column(["n", *(table.images[method] for method in methods)], right=True))
    waiting = []
    for name, fact in columns.iterrows():
        above, label = ("", str(name)) if fact["metric"] == name else (str(fact["metric"]), str(fact["measure"]))
        bodies = _aligned([table.pieces[method, str(name)] for method in methods])
        waiting.append((above, [_heading(label, fact), *bodies]))
    while waiting:
        used = sum(len(column[0]) + 2 for column in stub)
        shown: list[list[str]] = []
        said = ""
        while waiting:
            above, body = waiting[0]
            column = _column(["" if above == said else above, *body])
            if shown and used + len(column[0]) > width:
                break
            shown.append(column)
            used += len(column[0]) + 2
            said = above
            waiting.pop(0)
        columns_shown = [*(["".ljust(len(column[0])), *column] for column in stub), *shown]
        lines = ["  ".join(cells).rstrip() for cells in zip(*columns_shown, strict=True)]
        yield from lines[:2] if lines[0] else lines[1:2]
        yield "─" * (used - 2)
        before = "method"
        for role, line in zip(table.roles, lines[2:], strict=True):
            if role != before and _ROLES.get(role):
                yield f"── {_ROLES[role]} ".ljust(used - 2, "─")
            before = role
            yield line
        if waiting:
            yield ""


def _column(cells: Sequence[str], right: bool = False) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]


def _aligned(cells: Sequence[list[str]]) -> list[str]:
    """Cells as text, means and bounds below each other; a word stands alone."""
    pieces = max(map(len, cells))
    widths = [max(len(cell[piece]) for cell in cells if len(cell) == pieces) for piece in range(pieces)]

    def text(cell: list[str]) -> str:
        if len(cell) < pieces:
            return cell[0]
        sides = [str.rjust] * 3 + [str.ljust] * 2
        return " ".join(side(part, width) for side, part, width in zip(sides, cell, widths, strict=False) if width)

    return [text(cell) for cell in cells]


def markdown(summary: pd.DataFrame) -> str:
    """The tables as Markdown, a heading a model and data set and a table a family."""
    lines = []
    for table in _tables(summary):
        lines += [f"## {_escaped(table.title)}", ""]
        for family, columns in table.columns.groupby("family", sort=False):
            counts = bool(table.images)
            headings = [_heading(str(name), fact) for name, fact in columns.iterrows()]
            lines += [f"### {family}", "", _line(["method", *(["n"] if counts else []), *headings])]
            lines.append("|:--|" + ("--:|" if counts else "") + "--:|" * len(columns))
            before = "method"
            for method, role in table.roles.items():
                if role != before and _ROLES.get(role):
                    lines.append(_line([f"*{_ROLES[role]}*", *[""] * (len(columns) + counts)]))
                before = role
                cells = [" ".join(filter(None, table.pieces[str(method), str(name)])) for name in columns.index]
                lines.append(_line([str(method), *([table.images[str(method)]] if counts else []), *cells]))
            lines.append("")
        lines += [*(f"- {_escaped(note)}" for note in table.notes), *([""] if table.notes else [])]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """On one line, and without signs that would end a cell or start a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def tables(found: Iterable[Record]) -> dict[str, pd.DataFrame]:
    """For trackers: the tidy `leaderboard` and `cost`, and by `<dataset> <model>` the ranked means, a row a method."""
    scored = list(found)
    if not scored:
        return {}
    summary = summarise(frame(scored))
    named = dict(_tidy(summary))
    for (dataset, model), part in summary[summary["family"] != COST].groupby(["dataset", "model"], sort=False):
        rows = part.drop_duplicates("method")[["method", "role"]].set_index("method")
        rows["n"] = part.groupby("method")["total"].max()
        for name, column in part.groupby("column", sort=False):
            rows[_heading(str(name), column.iloc[0])] = column.set_index("method")["mean"]
        named[f"{dataset} {model}"] = rows.reset_index()
    return named


# --- files and the command line ---


def write_tables(root: Path) -> list[Path]:
    """Write `leaderboard` and `cost`, as `.csv` and `.md`, under `<root>/tables/` from all records under `root`.

    Returns:
        The paths written; there is no `cost` without timings, and no `leaderboard` with nothing else.

    Raises:
        UserError: there is no record, one is damaged, or the folder cannot be written.
    """
    return _write(root, summarise(_frame(*_read(root))))


def report(root: Path, pairs: Iterable[tuple[Choice, Choice]] | None = None) -> str:
    """Write all tables and return those of the given (model, dataset) pairs, of all without `pairs`, as plain text.

    Raises:
        UserError: as `write_tables`.
    """
    scored, failed, names = _read(root)
    summary = summarise(_frame(scored, failed, names))
    _write(root, summary)
    if pairs is not None:
        found = [
            tuple(names.get((axis, digest(asdict(choice))), "") for axis, choice in zip(_AXES, pair, strict=False))
            for pair in pairs
        ]
        summary = summary[[pair in found for pair in zip(summary["model"], summary["dataset"], strict=True)]]
    return _page(summary)


def _read(root: Path) -> tuple[list[_Scored], list[tuple[Cell, str]], Labels]:
    scored, failed, names = _take(records.read_all(root), records.read_errors(root))
    if not scored and not failed:
        raise UserError(f"{root} holds no records: expected the folder of a sweep, made by python -m benchmark")
    return scored, failed, names


def _write(root: Path, summary: pd.DataFrame) -> list[Path]:
    paths = []
    for name, part in _tidy(summary):
        title, legend = ("Cost", _COST_LEGEND) if name == COST else ("Leaderboard", _LEGEND)
        text = "\n".join([f"# {title}", "", *(f"- {line}" for line in legend), "", markdown(part)])
        paths += [
            _write_text(Path(root, "tables", f"{name}.csv"), part.to_csv(index=False, float_format="%.6g")),
            _write_text(Path(root, "tables", f"{name}.md"), text),
        ]
    return paths


def _tidy(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """What scores say and what timings say, apart: the first must not change when the second do."""
    cost = summary["family"] == COST
    for name, part in (("leaderboard", summary[~cost]), (COST, summary[cost])):
        if len(part):
            yield name, part


def _write_text(path: Path, text: str) -> Path:
    records.write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _page(summary: pd.DataFrame) -> str:
    """The tables of `summary` with a short key."""
    key = (
        "mean [95 % bootstrap interval] letters: rows that share a letter are not shown to differ (paired permutation\n"
        "tests with Holm, 5 %); ↑ higher is better, ↓ lower is better; 62/64: images that could be scored."
    )
    return f"{terminal(summary)}\n{key}" if len(summary) else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m benchmark.leaderboard [DIR]`: print the tables, write them, compute nothing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.leaderboard",
        description="Make the ranked tables of a folder of records again: print them and write DIR/tables/. "
        "Nothing is explained or scored.",
        epilog="The files always hold all rows, and letters always compare all rows: filters shorten what is printed.",
    )
    parser.add_argument("root", metavar="DIR", nargs="?", type=Path, default=Path("results"), help="default: results")
    for axis in ("model", "dataset", "method"):
        parser.add_argument(f"--{axis}", metavar="NAME", help=f"print this {axis} only")
    options = parser.parse_args(arguments)
    try:
        scored, failed, names = _read(options.root)
        summary = summarise(_frame(scored, failed, names))
        shown = summary
        for axis in ("model", "dataset", "method"):
            if wanted := getattr(options, axis):
                shown = _only(shown, axis, wanted)
        paths = _write(options.root, summary)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(_page(shown), *(f"written: {path}" for path in paths), sep="\n")
    return 0


def _only(summary: pd.DataFrame, axis: str, wanted: str) -> pd.DataFrame:
    """The rows whose label on `axis` is `wanted`, or that name with options or a version behind it."""
    there = list(dict.fromkeys(summary[axis]))
    found = [label for label in there if label == wanted or label.startswith((f"{wanted}(", f"{wanted}@"))]
    if not found:
        close = get_close_matches(wanted, there, n=1)
        hint = f", did you mean {close[0]}" if close else ""
        raise UserError(f"there is no {axis} {wanted!r}{hint}? There are: {', '.join(there)}")
    return summary[summary[axis].isin(found)]


if __name__ == "__main__":
    sys.exit(main())
