"""What there is to see of a cell group and of a whole sweep: numbers and frames, whatever shows them.

group  one model x data set x method: its choices, what every measure came to, its mean curves
sweep  everything that is filed: a leaderboard a column, how far metrics agree, quality against cost
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark import frames
from benchmark.agreement import Agreement, agreement
from benchmark.fractions import fractions
from benchmark.frames import AXES, COST, FACTS, UNCERTIFIED, headline, labels, wide
from benchmark.records import STATUSES, Record
from benchmark.statistics import bootstrap_intervals
from benchmark.tables import heading
from benchmark.variance import pareto

_RESAMPLES = 2000
_FRACTIONS = {"deletion": "fraction deleted", "insertion": "fraction inserted"}
_LINE = ["method", "role", "mean", "low", "high", "letters", "n", "total", *STATUSES[1:], "status", "reason"]
_SPEED = "images_per_second"


@dataclass(frozen=True)
class Group:
    """One model x data set x method.

    Attributes:
        name: of the three choices, for a reader.
        config: every choice with its options and version, seed, budget, role and passes of the method, environment.
        summary: by `<family>/<column>` the mean of a measure over its valid images; under that name `/low` and `/high`
            of the 95 % bootstrap interval, `/n` valid of `/total` images, and how many have another status
            (`/degenerate`, `/invalid`, `/not_applicable`), zeros left out. `scoring/seconds`, `scoring/forwards` and
            `scoring/backwards` are what scoring all its metrics took.
        curves: of deletion and insertion, by column, the mean curve over valid images with its 95 % bootstrap band:
            columns `fraction deleted` or `fraction inserted`, `mean`, `low`, `high`.
    """

    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, float]
    curves: Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Sweep:
    """Everything that is filed in a folder.

    Attributes:
        config: which models, data sets, methods and metrics, and how many records.
        counts: cells by their status.
        tables: by model, data set and column a leaderboard: a row a method with mean, 95 % interval, letters of the
            groups not shown to differ, and counts of images by status.
        means: by model and data set the means of all those columns, a row a method.
        agreements: by model and data set how far the metrics that rank agree about the methods.
        fronts: by model, data set and `passes` or column of speeds: `method`, `quality` (mean of the column that tables
            are sorted by), `passes` or `milliseconds` of one explanation, `front`: no method beats it in both.
    """

    config: Mapping[str, Any]
    counts: Mapping[str, int]
    tables: Mapping[tuple[str, str, str], pd.DataFrame]
    means: Mapping[tuple[str, str], pd.DataFrame]
    agreements: Mapping[tuple[str, str], Agreement]
    fronts: Mapping[tuple[str, str, str], pd.DataFrame]


def identity(records: Sequence[Record]) -> list[Any]:
    """What tells the group of `records` from every other, as JSON: the three choices and the seed."""
    cell = records[0].cell
    return [*(asdict(getattr(cell, axis)) for axis in AXES[:3]), cell.seed]


def group(records: Sequence[Record]) -> Group:
    """What there is to see of `records`, those of one model x data set x method x seed, at least one."""
    cell, facts = records[0].cell, records[0].facts
    choices = {axis: getattr(cell, axis) for axis in AXES[:3]}
    names = labels(record.cell for record in records)
    named = {names["metric", frames.identity(record.cell, "metric")]: record for record in records}
    config = {
        **{axis: choice.name for axis, choice in choices.items()},
        "seed": cell.seed,
        "budget": facts.get("budget"),
        "role": facts["role"],
        "passes": facts.get("method", {}).get("passes"),
        "params": {axis: dict(choice.params) for axis, choice in choices.items()},
        "versions": {axis: choice.version for axis, choice in choices.items()},
        "metrics": {
            name: {**record.cell.metric.params, "version": record.cell.metric.version} for name, record in named.items()
        },
        "environment": _environment(records),
    }
    return Group(
        name="/".join(choice.name for choice in choices.values()),
        config=config,
        summary=_summary(named),
        curves={column: curve for name, record in named.items() for column, curve in _curves(name, record)},
    )


def _environment(records: Sequence[Record]) -> dict[str, Any]:
    """What the records were made in; where they differ, each value that there is."""
    found: dict[str, list[Any]] = {}
    for record in records:
        for key, value in record.facts["environment"].items():
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _summary(named: Mapping[str, Record]) -> dict[str, float]:
    """What `frames.summarise` says of the records, in a part of its time: there are no other rows to rank."""
    scores: dict[str, pd.Series] = {}
    counts: dict[str, Counter[str]] = {}
    for name, record in named.items():
        for measure, rows in record.rows.groupby("measure", sort=False):
            key = f"{record.facts['family']}/{_column(name, record, str(measure))}"
            values, status = rows["value"].to_numpy(), rows["status"].to_numpy()
            valid = (status == "ok") & np.isfinite(values)
            scores[key] = pd.Series(np.where(valid, values, np.nan), rows["uid"].to_numpy())
            counts[key] = Counter(np.where((status == "ok") & ~valid, "invalid", status).tolist())
    matrix = pd.DataFrame(scores).sort_index()
    means, (low, high) = matrix.mean().to_numpy(), bootstrap_intervals(matrix.to_numpy())
    numbers: dict[str, float] = {}
    for place, (key, count) in enumerate(counts.items()):
        bounds = {key: means[place], f"{key}/low": low[place], f"{key}/high": high[place]}
        numbers |= {name: float(value) for name, value in bounds.items() if np.isfinite(value)}
        numbers |= {f"{key}/n": count["ok"], f"{key}/total": count.total()}
        numbers |= {f"{key}/{status}": count[status] for status in STATUSES[1:] if count[status]}
    for what in ("seconds", "forwards", "backwards"):
        numbers[f"scoring/{what}"] = sum(record.facts.get(what, 0) for record in named.values())
    return numbers


def _curves(name: str, record: Record) -> Iterator[tuple[str, pd.DataFrame]]:
    """(column, mean curve) of the measures that trace one; `name` is what the metric is called."""
    valid = record.rows[(record.rows["status"] == "ok") & record.rows["curve"].notna()]
    for measure, rows in valid[valid["measure"].isin(list(_FRACTIONS))].groupby("measure", sort=False):
        lines = np.stack(rows["curve"].to_list()).astype(float)
        low, high = bootstrap_intervals(lines, resamples=_RESAMPLES)
        places = fractions(record.cell.metric, str(measure), lines.shape[1])
        curve = pd.DataFrame({_FRACTIONS[str(measure)]: places, "mean": lines.mean(0), "low": low, "high": high})
        yield _column(name, record, str(measure)), curve


def _column(name: str, record: Record, measure: str) -> str:
    """What tables call a measure of a metric that they call `name`."""
    return name if measure == record.cell.metric.name else f"{name}.{measure}"


def sweep(tidy: pd.DataFrame, summary: pd.DataFrame) -> Sweep:
    """What there is to see of all that is filed: `tidy` as of `frames.frame`, `summary` as of `frames.summarise`."""
    named = {f"{axis}s": sorted(set(summary[axis])) for axis in AXES}
    shown: dict[str, dict[Any, Any]] = {kind: {} for kind in ("tables", "means", "agreements", "fronts")}
    for pair, part in summary.groupby(["model", "dataset"], sort=False):
        model, dataset = map(str, pair)
        columns = part.drop_duplicates("column").set_index("column")[FACTS]
        for column, rows in part.groupby("column", sort=False):
            if not (rows["status"] == "not_applicable").all():
                shown["tables"][model, dataset, column] = rows[_LINE].reset_index(drop=True)
        shown["means"][model, dataset] = _means(part)
        if (found := _agreement(tidy, columns, model, dataset)) is not None:
            shown["agreements"][model, dataset] = found
        shown["fronts"] |= {(model, dataset, cost): front for cost, front in _fronts(part, columns)}
    counts = summary["status"].value_counts().to_dict()
    return Sweep(config=named, counts={str(status): int(count) for status, count in counts.items()}, **shown)


def _means(part: pd.DataFrame) -> pd.DataFrame:
    rows = part.drop_duplicates("method")[["method", "role"]].set_index("method")
    for name, column in part.groupby("column", sort=False):
        rows[heading(str(name), column.iloc[0])] = column.set_index("method")["mean"]
    return rows.reset_index()


def _agreement(tidy: pd.DataFrame, columns: pd.DataFrame, model: str, dataset: str) -> Agreement | None:
    """Over methods alone: that a metric tells them from null and oracle rows would pass for agreement."""
    methods = tidy[tidy["role"] == "method"]
    ranking = columns[
        columns["ranked"].astype(bool)
        & columns["higher_is_better"].notna()
        & ~columns["family"].isin([COST, UNCERTIFIED])
    ]
    scores = {
        str(name): (wide(methods, model, dataset, str(name)), bool(fact["higher_is_better"]))
        for name, fact in ranking.iterrows()
    }
    scores = {name: (found.dropna(axis=1, how="all"), sign) for name, (found, sign) in scores.items()}
    scores = {name: (found, sign) for name, (found, sign) in scores.items() if found.shape[1] > 1}
    return agreement(scores) if len(scores) > 1 else None


def _fronts(part: pd.DataFrame, columns: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(what it is a front of, front) for passes and each column of speeds; null and oracle rows explain nothing."""
    first = headline(columns[columns["family"] != COST])
    if first is None:
        return
    methods = part[part["role"] == "method"].set_index("method")
    quality = methods.loc[methods["column"] == first, ["mean", "passes"]]
    costs = {"passes": ("passes", quality["passes"])}
    for name in columns.index[columns["measure"] == _SPEED]:
        costs[str(name)] = ("milliseconds", 1000 / methods.loc[methods["column"] == name, "mean"])
    for title, (unit, cost) in costs.items():
        front = pd.DataFrame({"quality": quality["mean"], unit: cost}).dropna()
        if len(front) > 1:
            front["front"] = pareto(front["quality"], front[unit], bool(columns["higher_is_better"][first]))
            yield title, front.sort_values(unit, kind="stable").rename_axis("method").reset_index()
