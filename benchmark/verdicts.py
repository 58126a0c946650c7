"""Is a method better than others, image by image: one family of comparisons, with a verdict in words for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, isnan, log2, nan
from typing import Any

import numpy as np
import pandas as pd

from benchmark import mixing, records
from benchmark.comparison import Test, compare, images_needed
from benchmark.errors import UserError
from benchmark.frames import AXES, COST, FACTS, Labels, Scored, identity, ordered_columns, wide
from benchmark.statistics import PERMUTATIONS, bootstrap_intervals, holm, paired_permutation

ALPHA = 0.05
"""Chance of any false verdict in the whole family."""

_COLUMNS = (
    *("kind", "model", "dataset", "method", "rival", "family", "column", "higher_is_better"),
    *(
        "mean",
        "half",
        "rival_mean",
        "rival_half",
        "difference",
        "low",
        "high",
        "superiority",
        "effect",
        "images",
        "total",
        "p",
        "p_holm",
        "verdict",
        "more_images",
        "ratio",
    ),
    *("test", "reason"),
)

_MOST_LISTED = 6

Cells = dict[tuple[str, str, str, str], Any]
"""By model, data set, column and method the images with their classes; None where the cell failed."""


@dataclass(frozen=True)
class Question:
    """What is compared, by the labels of tables: models, data sets and columns are all of the method's if None."""

    method: str
    rivals: tuple[str, ...]
    models: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    test: Test = "permutation"


def answer(tidy: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Compare a method with its rivals: a row a model, data set, column and rival.

    Columns: `kind` (`compared`: with a verdict; `described`: a column that ranks nothing; `cost`), labels, `mean` and
    `rival_mean` over the images that both scored, `half` the width of their 95 % intervals, the fields of
    `comparison.Comparison`, `total` images, `p_holm` over all rows of kind `compared`, `verdict`, `more_images` beyond
    those there are (for a test at level 0.05 / comparisons to find this effect with chance 0.9), `ratio` of costs,
    `test`, `reason` where there are no scores.

    Args:
        tidy: as `leaderboard.tidy` makes it.

    Raises:
        UserError: a cell failed, or a rival lacks one that the method has, or has it of other images or of another
            version.
    """
    asked = asked_rows(tidy, question)
    own = asked[(asked["method"] == question.method) & (asked["family"] != COST)]
    if own.empty:
        raise UserError(f"{question.method} has no record of what is asked for: widen --model, --dataset or --metric")
    _refuse(asked, tidy, question)
    rows = [row for place in _places(own) for row in _rows(asked, place, question)]
    rows = [*_judged(rows, question.test), *_costs(asked, question)]
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(
        {"higher_is_better": object, "verdict": str, "reason": str}
    )


def asked_rows(tidy: pd.DataFrame, question: Question) -> pd.DataFrame:
    """The rows of the method and its rivals that filters leave; costs are of no column that filters name."""
    kept = tidy["method"].isin([question.method, *question.rivals])
    for axis, wanted in (("model", question.models), ("dataset", question.datasets)):
        kept &= tidy[axis].isin(wanted) if wanted is not None else True
    if question.columns is not None:
        kept &= tidy["column"].isin(question.columns) | (tidy["family"] == COST)
    return tidy[kept]


def _places(own: pd.DataFrame) -> Iterator[Any]:
    """Model, data set and column of every cell in `own`, in the order of tables."""
    for (dataset, model), part in own.groupby(["dataset", "model"], sort=True):
        columns = ordered_columns(part.drop_duplicates("column").set_index("column")[FACTS])
        yield from columns.reset_index().assign(model=str(model), dataset=str(dataset)).itertuples()


def _refuse(asked: pd.DataFrame, tidy: pd.DataFrame, question: Question) -> None:
    """Raise if a cell of the method is of no use, or a rival has none that can be held against it."""
    cells: Cells = {
        (str(model), str(dataset), str(column), str(method)): set(records.images(part))
        if (part["status"] != "failed").all()
        else None
        for (model, dataset, column, method), part in asked[asked["family"] != COST].groupby(
            ["model", "dataset", "column", "method"], sort=False
        )
    }
    faults: dict[str, list[str]] = {}
    for model, dataset, column, method in cells:
        if method != question.method:
            continue
        for rival in question.rivals:
            if fault := _fault(tidy, cells, (model, dataset, column, method), rival):
                faults.setdefault(fault, []).append(column)
    if faults:
        said = [f"{', '.join(columns)}: {fault}" for fault, columns in faults.items()]
        more = f"; and {len(said) - _MOST_LISTED} more" if said[_MOST_LISTED:] else ""
        raise UserError(
            f"cannot compare {'; '.join(said[:_MOST_LISTED])}{more}; compute what is missing with python -m benchmark, "
            "or leave it out with --model, --dataset or --metric"
        )


def refuse_versions(tidy: pd.DataFrame, scored: Sequence[Scored], names: Labels, question: Question) -> None:
    """Raise if a metric would be compared in two versions: one family would hold the same question twice."""
    asked = asked_rows(tidy, question)
    own = asked[(asked["method"] == question.method) & (asked["family"] != COST)]
    there = set(own[list(AXES)].itertuples(index=False, name=None))
    met = [one for one in scored if tuple(names[axis, identity(one.cell, axis)] for axis in AXES) in there]
    for mixture in mixing.versions(met):
        if mixture.what.startswith("metric "):
            newest, *older = mixture.kinds
            raise UserError(
                f"a comparison never mixes versions of a metric ({mixture.table}: {newest}, {', '.join(older)}): "
                f"--metric {newest} chooses the one that was filed last"
            )


def _fault(tidy: pd.DataFrame, cells: Cells, own: tuple[str, str, str, str], rival: str) -> str:
    """Why the cell `own` cannot be held against that of `rival`, empty if it can."""
    model, dataset, column, method = own
    where = f"on {model} × {dataset}"
    images = cells[own]
    if images is None:
        return f"{method} failed {where}"
    if (model, dataset, column, rival) not in cells:
        return f"no record of {rival} {where}{_beside(tidy, own, rival)}"
    others = cells[model, dataset, column, rival]
    if others is None:
        return f"{rival} failed {where}"
    if others != images:
        listed = f"{len(images)} and {len(others)}, {len(images & others)} in both"
        return f"{method} and {rival} list other images or classes {where} ({listed})"
    return ""


def _beside(tidy: pd.DataFrame, own: tuple[str, str, str, str], rival: str) -> str:
    """What a rival has of the same name in place of a cell, empty where there is nothing like it."""
    model, dataset, column, _ = own
    rows = tidy[tidy["method"] == rival]
    here = rows[(rows["model"] == model) & (rows["dataset"] == dataset)]
    near = list(here.loc[here["metric"].map(_name) == _name(column.split(".")[0]), "metric"])
    if here.empty:
        alike = rows[(rows["model"].map(_name) == _name(model)) & (rows["dataset"].map(_name) == _name(dataset))]
        near = list(alike["model"] + " × " + alike["dataset"])
    found = ", ".join(dict.fromkeys(near))
    return f", which has {found}: another version, protocol or list of images" if found else ""


def _name(label: str) -> str:
    """The name in a label, without options and version."""
    return re.split(r"[(@#]", label)[0]


def _rows(asked: pd.DataFrame, place: Any, question: Question) -> Iterator[dict[str, Any]]:
    """What the images say of one column, a row a rival, before any correction."""
    scores = wide(asked, place.model, place.dataset, place.column)
    for rival in question.rivals:
        row = _row(place, scores, rival, question)
        if row["images"] == 0:
            row |= {"kind": "described", "reason": _reason(asked, place, question.method, rival)}
        yield row


def _row(place: Any, scores: pd.DataFrame, rival: str, question: Question) -> dict[str, Any]:
    a, b = scores[question.method], scores[rival]
    both = a.notna() & b.notna()
    low, high = bootstrap_intervals(np.column_stack([a, b])[both])
    ranks = bool(place.ranked) and place.higher_is_better is not None
    found = compare(a, b, bool(place.higher_is_better is not False), question.test)
    row = {
        "kind": "compared" if ranks else "described",
        "model": place.model,
        "dataset": place.dataset,
        "method": question.method,
        "rival": rival,
        "family": place.family,
        "column": place.column,
        "higher_is_better": place.higher_is_better,
        "mean": a[both].mean(),
        "half": (high[0] - low[0]) / 2,
        "rival_mean": b[both].mean(),
        "rival_half": (high[1] - low[1]) / 2,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "images": found.images,
        "total": len(scores),
        "verdict": "",
        "reason": "",
    }
    if not ranks or found.images == 0:
        return row
    judged = {name: getattr(found, name) for name in ("superiority", "effect", "p")}
    return row | judged | {"test": question.test, "scores": (a.to_numpy(), b.to_numpy())}


def _reason(asked: pd.DataFrame, place: Any, method: str, rival: str) -> str:
    """Why no image has a score of both."""
    part = asked[(asked["model"] == place.model) & (asked["dataset"] == place.dataset)]
    part = part[part["column"] == place.column]
    for name in (method, rival):
        row = part[part["method"] == name].iloc[0]
        if not (part.loc[part["method"] == name, "status"] == "ok").any():
            return f"{name}: {row['reason'] or row['status']}"
    return "no image has a score of both"


def _judged(rows: Sequence[dict[str, Any]], test: Test) -> Sequence[dict[str, Any]]:
    """`rows` with corrected p values and verdicts, the family being all that are compared."""
    family = [row for row in rows if row["kind"] == "compared"]
    # The smallest p must stay below ALPHA after Holm, however large the family is.
    permutations = ceil(4 * len(family) / ALPHA)
    if test == "permutation" and permutations > PERMUTATIONS:
        for row in family:
            a, b = row["scores"]
            row["p"] = paired_permutation(a, b, permutations)
    for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
        level = ALPHA / len(family)
        # However large the effect is, all signs alike on n images have the p value 2 / 2^n.
        fewest = ceil(log2(2 / level))
        more = max(images_needed(row["effect"], level), fewest) - row["images"]
        row |= {"p_holm": p, "more_images": max(more, 0.0), "verdict": _verdict(p, _direction(row), more)}
    return rows


def _direction(row: Mapping[str, Any]) -> int:
    """1 where the test speaks for the method, -1 where against, 0 where the mean says otherwise than its ranks."""
    sign = int(np.nan_to_num(np.sign(row["effect"])))  # one image has no effect size
    if row["test"] == "permutation":
        return sign
    gain = np.subtract(*row["scores"])
    gain = gain[~np.isnan(gain)] * (1 if row["higher_is_better"] else -1)
    return sign if sign == np.sign(np.sum(np.sign(gain) * pd.Series(np.abs(gain)).rank().to_numpy())) else 0


def _verdict(p: float, direction: int, more: float) -> str:
    """The comparison in words."""
    if p <= ALPHA:
        return {1: "better", -1: "worse", 0: "different, but mean and ranks point apart"}[direction]
    if not isfinite(more) or more <= 0:
        return "no difference shown"
    needed = "1 more image" if more == 1 else f"{more:,.0f} more images"
    return f"no difference shown; {needed} would be needed"


def _costs(asked: pd.DataFrame, question: Question) -> Iterator[dict[str, Any]]:
    """Passes an image, and seconds where both were timed on one device: a row a rival."""
    for (dataset, model), part in asked.groupby(["dataset", "model"], sort=True):
        if question.method not in set(part.loc[part["family"] != COST, "method"]):
            continue
        timed = part[(part["measure"] == "images_per_second") & (part["family"] == COST) & (part["status"] == "ok")]
        seconds: dict[str, dict[str, float]] = {}
        for method, device, pace in zip(timed["method"], timed["device"], timed["value"], strict=True):
            seconds.setdefault(method, {})[device] = 1 / pace
        passes = {each: _passes(part, each) for each in (question.method, *question.rivals)}
        for rival in question.rivals:
            row = {"kind": "cost", "model": model, "dataset": dataset, "method": question.method, "rival": rival}
            row |= {"family": COST, "higher_is_better": False, "verdict": "", "reason": ""}
            unknown_passes = isnan(passes[question.method]) and isnan(passes[rival])
            said = {"reason": "options do not say how many, and none were counted"} if unknown_passes else {}
            yield row | {"column": "passes an image"} | _ratio(passes[question.method], passes[rival]) | said
            own, other = (seconds.get(each, {}) for each in (question.method, rival))
            for device in sorted(set(own) & set(other)):
                yield row | {"column": f"seconds an image on {device}"} | _ratio(own[device], other[device])
            if own and other and not set(own) & set(other):
                yield row | {"column": "seconds an image", "reason": "timed on different devices"}


def _passes(part: pd.DataFrame, method: str) -> float:
    """Passes an image: by the options of the method, or as they were counted where options do not say."""
    rows = part[part["method"] == method]
    stated = rows["passes"].dropna()
    if len(stated):
        return float(stated.iloc[0])
    counted = rows[
        rows["measure"].isin(["forwards", "backwards"]) & (rows["family"] == COST) & (rows["status"] == "ok")
    ]
    return float(counted.groupby("device")["value"].sum().min()) if len(counted) else nan


def _ratio(own: float, other: float) -> dict[str, float]:
    return {"mean": own, "rival_mean": other, "ratio": own / other if other else nan}
