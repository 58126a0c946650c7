"""Records -> one tidy frame -> a summary, a row a cell and measure. Nothing is computed again.

frame      a row an image and measure, every column named by labels
summarise  a row a cell and measure: mean, interval, counts, letters of the groups not shown to differ
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark import records
from benchmark.cells import Cell, Choice, digest
from benchmark.errors import UserError
from benchmark.ranking import placed
from benchmark.records import Record
from benchmark.statistics import bootstrap_intervals, rank_groups
from benchmark.variance import anchored

Labels = Mapping[tuple[str, str], str]

NULL = "random"
"""The null row that anchored scores count from."""

COST = "cost"
UNCERTIFIED = "uncertified"
AXES = ("model", "dataset", "method", "metric")
ROLES = {"method": "", "null": "null rows: know nothing of the model", "oracle": "oracle rows: know the truth"}
FACTS = ["metric", "measure", "family", "unit", "device", "higher_is_better", "ranked"]
_FAMILIES = ("faithfulness", "axioms", "localisation", "robustness", "randomisation", "complexity")
_COSTS = ["passes", "budget"]
_NO_MEASURE = {"family": "other", "unit": "", "higher_is_better": None, "ranked": False}


def labels(cells: Iterable[Cell]) -> dict[tuple[str, str], str]:
    """What each choice is called in tables, by axis and `identity`.

    A name, and in brackets the options in which choices of the same name differ (for metrics also the seed, and the
    device of timings), or `@version` where versions differ. Two choices that meet in a table never share a label.
    Models of one name that were each trained for a data set of their own never meet, nor does a method with itself on
    models that give it different layers, nor timings or twins of different models: they keep the plain name.
    """
    variants: dict[tuple[str, str], dict[str, tuple[dict[str, Any], str]]] = {}
    homes: dict[str, set[str]] = {}
    for cell in cells:
        for axis in AXES:
            choice: Choice = getattr(cell, axis)
            key = identity(cell, axis)
            drawn = {"seed": cell.seed, "device": cell.device} if axis == "metric" else {}
            variants.setdefault((axis, choice.name), {})[key] = (drawn | flat(choice.params), choice.version)
            pair = f"{cell.model.name} {cell.dataset.name}"
            bound = cell.device or "twin" in cell.metric.params
            home = {"model": cell.dataset.name, "method": pair, "metric": pair if bound else ""}.get(axis, "")
            homes.setdefault(key, set()).add(home)
    found: dict[tuple[str, str], str] = {}
    for (axis, name), same_name in variants.items():
        for key in sorted(same_name):
            rivals = {other: same_name[other] for other in same_name if homes[other] & homes[key]}
            label = name + _difference(same_name[key], list(rivals.values()))
            taken = label in (found.get((axis, other)) for other in rivals)
            found[axis, key] = f"{label}#{key[:8]}" if taken else label
    return found


def _difference(variant: tuple[dict[str, Any], str], rivals: Sequence[tuple[dict[str, Any], str]]) -> str:
    """What tells `variant`, its options and version, from others of the same name; empty where it is the only one."""
    keys = sorted({key for options, _ in rivals for key in options})
    differ = [key for key in keys if len({repr(options.get(key, ...)) for options, _ in rivals}) > 1]
    if len(differ) > 1 and "fingerprint" in differ:
        differ.remove("fingerprint")  # of another list of images, which the other options say in words
    shown = [f"{key}={written(variant[0], key)}" for key in differ if key in variant[0]]
    versions = len({version for _, version in rivals}) > 1
    return (f"({', '.join(shown)})" if shown else "") + (f"@{variant[1]}" if versions else "")


def identity(cell: Cell, axis: str) -> str:
    """What tells the choice of `cell` on `axis` from all others; for metrics with the seed and the device."""
    choice = asdict(getattr(cell, axis))
    return digest([choice, cell.seed, cell.device] if axis == "metric" else choice)


def frame(
    found: Iterable[Record],
    errors: Iterable[tuple[Cell, str]] = (),
    certified: Set[tuple[str, str]] | None = None,
) -> pd.DataFrame:
    """One tidy frame: a row an image and measure, and one with status `failed` for each measure of a failed cell.

    Columns: model, dataset, method, metric (labels), column (the metric, with the measure where it has another name),
    measure, family, higher_is_better (True, False, None), ranked, unit, device (of timings), role, passes (an image, of
    the method; NaN where its options alone do not say) and budget (that it was cut to, NaN for none), uid (`-` for one
    number a cell), target, value (NaN unless status is `ok`), status, reason (empty where there is none).

    Args:
        certified: (name, version) of metrics that may rank; any other stands in the family `uncertified`. Without it
            every metric may.
    """
    return assemble(*take(found, errors, certified))


@dataclass(frozen=True)
class Scored:
    """What tables need of a record: no curves."""

    cell: Cell
    rows: pd.DataFrame
    facts: Mapping[str, Any]


def take(
    found: Iterable[Record], errors: Iterable[tuple[Cell, str]], certified: Set[tuple[str, str]] | None = None
) -> tuple[list[Scored], list[tuple[Cell, str]], Labels]:
    """The scores, the failed cells that have no record, and labels for all of them; `certified` as in `frame`."""
    columns = ["uid", "target", "measure", "value", "status"]
    scored = [Scored(record.cell, record.rows[columns], _allowed(record, certified)) for record in found]
    done = {record.cell.key for record in scored}
    failed = [(cell, reason) for cell, reason in errors if cell.key not in done]
    return scored, failed, labels([record.cell for record in scored] + [cell for cell, _ in failed])


def _allowed(record: Record, certified: Set[tuple[str, str]] | None) -> Mapping[str, Any]:
    """The facts of a record; those of a metric that has proved nothing do not let it rank."""
    metric = record.cell.metric
    if certified is None or (metric.name, metric.version) in certified:
        return record.facts
    family = COST if record.facts["family"] == COST else UNCERTIFIED
    measures = [{**measure, "ranked": False} for measure in record.facts["measures"]]
    return {**record.facts, "family": family, "measures": measures}


def assemble(scored: Sequence[Scored], failed: Sequence[tuple[Cell, str]], names: Labels) -> pd.DataFrame:
    known = {record.cell.metric.name: (record.facts["measures"], record.facts["family"]) for record in scored}
    roles = {names["method", identity(record.cell, "method")]: record.facts["role"] for record in scored}
    costs = _costs(scored, names)
    measured: list[dict[str, Any]] = []
    owners: list[int] = []
    parts: list[pd.DataFrame] = []

    def add(cell: Cell, rows: pd.DataFrame, measures: Sequence[Mapping[str, Any]], family: str, reason: str) -> None:
        axes = {axis: names[axis, identity(cell, axis)] for axis in AXES}
        place = {measure["name"]: len(measured) + index for index, measure in enumerate(measures)}
        owners.extend(place[name] for name in rows["measure"])
        parts.append(rows)
        for measure in measures:
            single = measure["name"] == cell.metric.name
            measured.append(
                axes
                | {"column": axes["metric"] if single else f"{axes['metric']}.{measure['name']}"}
                | {"family": family, "higher_is_better": measure["higher_is_better"], "ranked": measure["ranked"]}
                | {
                    "unit": measure["unit"],
                    "device": cell.device or "",
                    "role": roles.get(axes["method"], "method"),
                    **costs.get(axes["method"], dict.fromkeys(_COSTS)),
                    "reason": reason,
                }
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
    types = {"higher_is_better": object, "passes": float, "budget": float}
    cells = pd.DataFrame(measured).astype(types).iloc[np.array(owners)[order]]
    scores = pd.concat(parts, ignore_index=True).iloc[order]
    tidy = pd.concat([cells.reset_index(drop=True), scores.reset_index(drop=True)], axis=1)
    front = ["model", "dataset", "method", "metric", "column", "measure", "family", "higher_is_better", "ranked"]
    return tidy[[*front, "unit", "device", "role", *_COSTS, "uid", "target", "value", "status", "reason"]]


def _costs(scored: Sequence[Scored], names: Labels) -> dict[str, dict[str, float | None]]:
    """By label of a method its passes an image and its budget: a method that no budget changes may have either."""
    found: dict[str, dict[str, float | None]] = {}
    for record in scored:
        costs = found.setdefault(names["method", identity(record.cell, "method")], dict.fromkeys(_COSTS))
        costs["passes"] = record.facts.get("method", {}).get("passes")
        costs["budget"] = record.facts.get("budget") or costs["budget"]
    return found


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by dotted name."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def written(options: Mapping[str, Any], key: str) -> str:
    """An option as a reader writes it, long ones cut; empty where the choice has no such option."""
    value = options.get(key, "")
    if key == "fingerprint":
        return str(value)[:8]
    if isinstance(value, list) and len(value) > 4:
        return f"[{value[0]}, {value[1]} … {value[-1]}]"
    return value if isinstance(value, str) else json.dumps(value)


def wide(tidy: pd.DataFrame, model: str, dataset: str, column: str) -> pd.DataFrame:
    """The scores of one column of one table: a line an image (`uid`, sorted), a column a method, NaN if undefined."""
    part = tidy[(tidy["model"] == model) & (tidy["dataset"] == dataset) & (tidy["column"] == column)]
    valid = (part["status"] == "ok") & np.isfinite(part["value"])
    scores = part.assign(value=part["value"].where(valid))
    return (
        scores.pivot(index="uid", columns="method", values="value")
        .reindex(columns=part["method"].unique())
        .sort_index()
    )


def summarise(tidy: pd.DataFrame) -> pd.DataFrame:
    """A row a model, dataset, column and method, in the order of the tables: what can be said of the cell.

    Columns: those of `frame` that belong to the cell; `mean` over valid images with its 95 % interval `low`, `high`;
    `anchored`, where the mean stands between the rows `random` (0) and of the best oracle (1), see `_anchored`;
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
    columns = ordered_columns(part.drop_duplicates("column").set_index("column")[FACTS])
    roles = part.drop_duplicates("method").set_index("method")[["role", *_COSTS]]
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
    table["anchored"] = [place for name in columns.index for place in _anchored(table["mean"], columns, roles, name)]
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
    front = ["model", "dataset", "column", "method", "role", *_COSTS, *FACTS]
    front += ["mean", "low", "high", "anchored", "letters", "n", "total"]
    return table[[*front, "degenerate", "invalid", "not_applicable", "status", "reason"]]


def _anchored(means: pd.Series, columns: pd.DataFrame, roles: pd.DataFrame, name: str) -> pd.Series:
    """`variance.anchored` of the means of one column, between the row `random` and the oracle row with the best mean.

    NaN in a column of costs or without a direction, without either row, and where no oracle beats `random`: on such a
    scale a worse map would stand higher.
    """
    mine, better = means[name], columns["higher_is_better"][name]
    nowhere = pd.Series(np.nan, index=mine.index)
    oracles = mine[roles["role"] == "oracle"].dropna()
    if better is None or columns["family"][name] == COST or oracles.empty or NULL not in mine:
        return nowhere
    oracle = oracles.max() if better else oracles.min()
    return anchored(mine, mine[NULL], oracle) if (oracle > mine[NULL]) == better and oracle != mine[NULL] else nowhere


def headline(columns: pd.DataFrame) -> str | None:
    """The column that a table is sorted by: `srg`, else the first that ranks, else the first with a direction."""
    directed = columns[columns["higher_is_better"].notna() & (columns["family"] != UNCERTIFIED)]
    for choice in (directed[directed["measure"] == "srg"], directed[directed["ranked"].astype(bool)], directed):
        if len(choice):
            return str(choice.index[0])
    return None


def ordered_columns(columns: pd.DataFrame) -> pd.DataFrame:
    """Columns by family: the headline, metrics of one number, metrics of several, each in the order they came in."""
    seen = [*_FAMILIES, *(family for family in columns["family"] if family not in _FAMILIES)]
    first = headline(columns)

    def place(name: str) -> tuple[int, bool, bool]:
        fact = columns.loc[name]
        return seen.index(fact["family"]), name != first, bool(fact["metric"] != name)

    return columns.loc[sorted(columns.index, key=place)]


def _ordered_methods(table: pd.DataFrame, columns: pd.DataFrame) -> list[str]:
    """Methods, then nulls, then oracles, each from the best headline mean to the worst and to none.

    Behind the worst stand those that are not `ranking.placed`.
    """
    first = headline(columns)
    rows = table[table["column"] == (first or columns.index[0])].set_index("method")
    sign = -1 if first and columns["higher_is_better"][first] else 1
    roles = list(ROLES)
    leading = placed(rows["n"], rows["total"].max())

    def place(method: str) -> tuple[int, bool, bool, float, str]:
        role = rows["role"][method]
        mean = sign * float(rows["mean"][method]) if first else np.nan
        return (
            roles.index(role) if role in roles else 0,
            bool(np.isnan(mean)),
            bool(first) and not leading[method],
            0.0 if np.isnan(mean) else mean,
            method,
        )

    return sorted(set(table["method"]), key=place)


def csv(table: pd.DataFrame) -> str:
    """A table as CSV; the roles of its rows in two words, since pandas reads the bare word null as no value."""
    roles = {"null": "null row", "oracle": "oracle row"}
    shown = table.replace({"role": roles}) if "role" in table else table
    return shown.to_csv(index=False, float_format="%.6g")
