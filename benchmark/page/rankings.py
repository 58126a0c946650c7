"""What rankings say of each other: agreement of metrics, critical differences, quality against cost, curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from markupsafe import Markup

from benchmark.agreement import Agreement, Stability, agreement, flip_pairs, stability
from benchmark.frames import COST, UNCERTIFIED, identity, labels, wide
from benchmark.page import charts
from benchmark.page.boards import Board, Heading, Row
from benchmark.page.results import CURVES, Curve, Pair, Results
from benchmark.page.scores import Scores
from benchmark.ranking import (
    complete,
    critical_difference,
    friedman,
    image_ranks,
    kendall_w,
    krippendorff_alpha,
    mean_ranks,
    rank_intervals,
)
from benchmark.variance import FACTORS, pareto, shares

_SPEED = "images_per_second"
_RESAMPLES = 1000  # of images, for rank intervals: a page of many methods has many of them
_FLIPS = 20  # listed of one metric
_SPLIT = 20  # methods of a column whose variance is split


def ranking(board: Board) -> list[Heading]:
    """The columns that rank methods."""
    return [each for each in board.headings if each.ranked and each.better and each.family not in (COST, UNCERTIFIED)]


def _methods(board: Board) -> list[str]:
    """Without null and oracle rows: that a metric tells them from methods would pass for agreement or difference."""
    return [row.method for row in board.rows if row.role == "method"]


def agreed(board: Board, behind: Scores) -> Agreement | None:
    """How far the columns that rank agree about the methods, None where there are not two of them to compare."""
    columns: dict[str, tuple[pd.DataFrame, bool]] = {}
    for each in ranking(board):
        scores = behind.columns[each.name].reindex(columns=_methods(board)).dropna(axis=1, how="all")
        if scores.shape[1] > 1:
            columns[each.name] = scores, each.better > 0
    return agreement(columns) if len(columns) > 1 else None


@dataclass(frozen=True)
class Place:
    """One method in one column: its rank by the mean with its interval, P(rank 1), and the anchored mean."""

    method: str
    rank: float
    low: float
    high: float
    first: float
    anchored: float


@dataclass(frozen=True)
class Difference:
    """What the images say of the order of methods in one column.

    Attributes:
        chart: mean ranks and the critical difference.
        images: that all methods have a score for.
        p: Friedman's, of "on every image all orders are equally likely".
        w, alpha: Kendall's W and Krippendorff's alpha of the ranks on single images.
        places: the best first.
    """

    heading: Heading
    chart: Markup
    images: int
    p: float
    w: float
    alpha: float
    places: list[Place]


def differences(results: Results, board: Board, behind: Scores) -> Iterator[Difference]:
    """Of each column that ranks and has three methods or more on two images or more."""
    summary = results.summary
    mine = summary[(summary["model"] == board.pair.model) & (summary["dataset"] == board.pair.dataset)]
    for each in ranking(board):
        scores = behind.columns[each.name].reindex(columns=_methods(board))
        block = complete(scores)
        if block.shape[1] < 3 or len(block) < 2:
            continue
        apart = critical_difference(block.shape[1], len(block))
        ranks = {str(name): float(rank) for name, rank in mean_ranks(block, each.better > 0).items()}
        chart = charts.critical_difference(ranks, apart, len(block))
        anchored = mine[mine["column"] == each.name].set_index("method")["anchored"]
        places = rank_intervals(scores, each.better > 0, _RESAMPLES).join(anchored).dropna(subset="rank")
        yield Difference(
            each,
            chart,
            len(block),
            friedman(block)[1],
            kendall_w(image_ranks(block, each.better > 0)),
            krippendorff_alpha(image_ranks(scores, each.better > 0)),
            [Place(*row) for row in places.sort_values("rank", kind="stable").itertuples()],
        )


def tradeoffs(board: Board, costs: Sequence[Board]) -> Iterator[tuple[str, Markup]]:
    """Quality, by the column that the table is sorted by, against milliseconds and against passes, where known."""
    first = next((each for each in board.headings if each.name == board.sorted_by), None)
    if first is None:
        return
    mine = [row for row in board.rows if row.role == "method"]
    quality = _column(mine, first.name)
    for cost in costs:
        for each in cost.headings:
            if each.measure == _SPEED:
                time = 1000 / _column(cost.rows, each.name)
                yield from _tradeoff("milliseconds an explanation", cost.device, time, quality, first)
    if "passes" in board.table.beside:
        place = list(board.table.beside).index("passes")
        passes = pd.Series({row.method: float(row.beside[place] or "nan") for row in mine}, dtype=float)
        yield from _tradeoff("passes through the model an explanation", "on any device", passes, quality, first)


def _column(rows: Sequence[Row], name: str) -> pd.Series:
    found = {row.method: cell.value for row in rows for cell in row.cells if cell.heading.name == name}
    return pd.Series(found, dtype=float)


def _tradeoff(
    what: str, where: str, cost: pd.Series, quality: pd.Series, first: Heading
) -> Iterator[tuple[str, Markup]]:
    both = pd.DataFrame({"quality": quality, "cost": cost}).dropna()
    both = both.loc[[name for name in quality.index if name in both.index]]
    if len(both) < 2:
        return
    front = pareto(both["quality"], both["cost"], first.better > 0)
    columns = (both["cost"].tolist(), both["quality"].tolist(), front.tolist())
    points = [charts.Point(str(name), *fact) for name, *fact in zip(both.index, *columns, strict=True)]
    yield f"{what}, {where}", charts.pareto(points, what, first.name, first.better > 0)


@dataclass(frozen=True)
class Panels:
    """Curves of one protocol: by method the drawing of deletion and insertion, and the columns that they stand for."""

    columns: tuple[str, ...]
    output: str
    images: int
    panels: list[tuple[str, str, Markup]]


def panels(results: Results, board: Board) -> Iterator[Panels]:
    """A panel a method, in the order of the table, all of one protocol on one scale."""
    found: dict[str, dict[str, dict[str, Curve]]] = {}
    for curve in results.curves:
        if results.pair(curve.cell) == board.pair:
            method = results.label(curve.cell, "method")
            found.setdefault(curve.protocol, {}).setdefault(method, {})[curve.measure] = curve
    for by_method in found.values():
        curves = [curve for both in by_method.values() for curve in both.values()]
        output = str(curves[0].cell.metric.params.get("output", ""))
        bottom = 0.0 if output == "prob" else min(float(curve.low.min()) for curve in curves)
        top = max(float(curve.high.max()) for curve in curves)
        drawn = []
        for row in board.rows:
            both = by_method.get(row.method, {})
            if both:
                drawn.append((row.method, row.role, charts.panel(both, row.method, bottom, top)))
        names = {curve.measure: results.label(curve.cell, "metric") for curve in curves}
        columns = tuple(names[measure] for measure in CURVES if measure in names)
        yield Panels(columns, output, max(curve.images for curve in curves), drawn)


@dataclass(frozen=True)
class Steadiness:
    """Whether one column ranks methods alike on every model and data set; `winners` by the title of each."""

    column: str
    stability: Stability


def steadiness(boards: Sequence[Board], behind: Sequence[Scores]) -> Iterator[Steadiness]:
    """Of each column that ranks on two or more models and data sets with two methods or more in common."""
    found: dict[str, dict[str, tuple[Heading, pd.DataFrame]]] = {}
    for board, scores in zip(boards, behind, strict=True):
        for each in ranking(board):
            kept = scores.columns[each.name].reindex(columns=_methods(board))
            found.setdefault(each.name, {})[board.pair.title] = each, kept
    for name, settings in found.items():
        better = next(iter(settings.values()))[0].better > 0
        if len(settings) > 1:
            said = stability({title: kept for title, (_, kept) in settings.items()}, better)
            if not np.isnan(said.w):
                yield Steadiness(name, said)


@dataclass(frozen=True)
class Settings:
    """Whether one metric ranks methods alike under all settings that it was scored with.

    Attributes:
        metric: its name, with the measure where it has another name.
        stability: `winners` by column.
        flips: pairs of methods that two settings order in opposite directions, see `agreement.flip_pairs`; the first
            ones, as rows (better, worse, under, over).
        more: how many flips are not among these.
    """

    metric: str
    stability: Stability
    flips: list[tuple[str, str, str, str]]
    more: int


def settings(results: Results, board: Board, behind: Scores) -> Iterator[Settings]:
    """Of each metric that ranks in two columns or more, which differ in options (baseline, unit, ...) or seed."""
    metrics = {
        results.label(one.cell, "metric"): one.cell.metric.name
        for one in results.scored
        if results.pair(one.cell) == board.pair
    }
    found: dict[tuple[str, str, int], dict[str, pd.DataFrame]] = {}
    for each in ranking(board):
        if name := metrics.get(each.metric):
            kept = behind.columns[each.name].reindex(columns=_methods(board))
            found.setdefault((name, each.measure, each.better), {})[each.name] = kept
    for (name, measure, better), scored in found.items():
        columns = dict(sorted(scored.items()))
        if len(columns) < 2:
            continue
        said = stability(columns, better > 0)
        if np.isnan(said.w):
            continue
        flips = list(flip_pairs(columns, better > 0).itertuples(index=False, name=None))
        title = name if name == measure else f"{name}.{measure}"
        yield Settings(title, said, flips[:_FLIPS], max(0, len(flips) - _FLIPS))


@dataclass(frozen=True)
class Split:
    """Where the spread of the scores in one column comes from: the median over `methods` methods of each share."""

    dataset: str
    column: str
    methods: int
    shares: dict[str, float]


def splits(results: Results, boards: Sequence[Board]) -> Iterator[Split]:
    """Of each column that ranks and was scored under several seeds, or on several models, of one data set.

    Over the seeds that all of these models have, and the first 20 methods of the first table that all of them have:
    each method is an analysis of its own.
    """
    # Without its seed a metric has one label for all seeds.
    seedless = [replace(one.cell, seed=0) for one in results.scored]
    names = labels(seedless)
    of: dict[tuple[Pair, str], tuple[str, int]] = {}
    for one, cell in zip(results.scored, seedless, strict=True):
        metric = names["metric", identity(cell, "metric")]
        of[results.pair(one.cell), results.label(one.cell, "metric")] = metric, one.cell.seed
    found: dict[tuple[str, str], list[tuple[Board, Heading, int]]] = {}
    for board in boards:
        for each in ranking(board):
            if (board.pair, each.metric) in of:
                metric, seed = of[board.pair, each.metric]
                column = metric if each.metric == each.name else f"{metric}.{each.measure}"
                found.setdefault((board.pair.dataset, column), []).append((board, each, seed))
    for (dataset, column), several in found.items():
        everywhere = set.intersection(
            *({seed for other, _, seed in several if other is board} for board, *_ in several)
        )
        used = [(board, each, seed) for board, each, seed in several if seed in everywhere]
        if len(used) < 2:
            continue
        parts = [
            wide(results.tidy, board.pair.model, dataset, each.name)
            .melt(ignore_index=False)
            .reset_index(names="image")
            .assign(seed=seed, model=board.pair.model)
            for board, each, seed in used
        ]
        long = pd.concat(parts, ignore_index=True)
        methods = [name for name in _methods(used[0][0]) if all(name in _methods(board) for board, *_ in used)]
        each_method = [shares(long.loc[long["method"] == name, [*FACTORS, "value"]]) for name in methods[:_SPLIT]]
        table = pd.DataFrame(each_method, columns=[*FACTORS, "rest"]).dropna(how="all")
        if len(table):
            median = {str(name): float(share) for name, share in table.median().items()}
            yield Split(dataset, column, len(table), median)


def matrix(found: Agreement) -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """Rows of the agreement in its order; each cell is (text, interval, column, class of its colour)."""
    names = list(found.order)
    return [(row, [_agreement_cell(found, row, column) for column in names]) for row in names]


def _agreement_cell(found: Agreement, row: str, column: str) -> tuple[str, str, str, str]:
    tau, low, high = (float(frame[column].to_dict()[row]) for frame in (found.tau, found.low, found.high))
    if row == column:
        return "", "", column, "same"
    if np.isnan(tau):
        return "–", "fewer than two methods in common, or all tied", column, ""
    interval = "" if np.isnan(low) else f"[{_signed(low)}, {_signed(high)}]"
    return _signed(tau), interval, column, f"{'plus' if tau >= 0 else 'minus'}-{round(4 * abs(tau))}"


def _signed(value: float) -> str:
    text = f"{value:.2f}".replace("-", "−")
    return "0.00" if text == "−0.00" else text
