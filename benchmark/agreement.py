"""Whether metrics, and settings of one metric, put methods into the same order.

A metric ranks methods by their means over images. Two rankings are compared by Kendall's tau-b over the methods that
both have: 1 for the same order, 0 for unrelated ones, -1 for the reverse. `scores` has a line an image and a column a
method.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from benchmark.errors import UserError, unknown
from benchmark.ranking import kendall_w
from benchmark.statistics import ROUNDING, Array, holm, pair_tests, resampled_means

Column = tuple[pd.DataFrame, bool]
"""Scores, and whether higher is better."""

_BLOCK = 2**22  # signs held at once


@dataclass(frozen=True)
class Agreement:
    """Metric x metric: `tau`, its 95 % interval `low`, `high`; `order` of the metrics that puts like beside like."""

    tau: pd.DataFrame
    low: pd.DataFrame
    high: pd.DataFrame
    order: tuple[str, ...]


@dataclass(frozen=True)
class Stability:
    """How one metric's ranking holds over settings.

    Attributes:
        w: Kendall's W of the rankings, see `ranking.kendall_w`.
        tau: mean tau-b over pairs of settings.
        lowest: the lowest of these.
        winners: by setting the method with the best mean; methods that tie stand together, joined by ` = `.
    """

    w: float
    tau: float
    lowest: float
    winners: dict[str, str]


def agreement(columns: Mapping[str, Column], resamples: int = 1000, seed: int = 0) -> Agreement:
    """Kendall's tau-b between the rankings of every two metrics, with bootstrap intervals over images.

    The interval is tau -+ the 95 % quantile of |tau* - tau|, at most [-1, 1]. Each tau* is of images drawn again from
    all that any metric scored, the same for every metric, so what two metrics share on an image counts. The interval
    says what as many other images would give. Noise in the means pulls tau towards 0: with images without end it may
    lie further out than the interval. (Percentiles of tau*, which holds the noise twice, often leave out tau itself.)

    The interval is NaN where a metric has fewer than two images, as for one number a cell. tau is NaN where a metric
    has fewer than two methods in common with the other, or ties them all.

    `order` is that of the leaves of average linkage with the distance 1 - tau (NaN: 1).

    Sources: Kendall, The treatment of ties in ranking problems, Biometrika 33 (1945); Hall, On symmetric bootstrap
    confidence intervals, JRSS B 50 (1988); Bar-Joseph, Gifford and Jaakkola,
    Fast optimal leaf ordering for hierarchical clustering, Bioinformatics 17 (2001).
    """
    names = list(columns)
    tau, low, high = (
        pd.DataFrame(values, index=names, columns=names) for values in _intervals(columns, names, resamples, seed)
    )
    return Agreement(tau, low, high, tuple(names[place] for place in _leaves(tau.to_numpy())))


def validity(columns: Mapping[str, Column], reference: str, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How well each metric ranks methods as `reference` does, one that knows the truth: a row a metric; tau, low, high.

    As `agreement`, the reference left out.

    Raises:
        UserError: there is no column `reference`.
    """
    if reference not in columns:
        raise UserError(unknown("column ", reference, list(columns)))
    tau, low, high = _intervals(columns, [reference], resamples, seed)
    table = pd.DataFrame({"tau": tau[:, 0], "low": low[:, 0], "high": high[:, 0]}, index=list(columns))
    return table.drop(index=reference)


def stability(settings: Mapping[str, pd.DataFrame], higher_is_better: bool) -> Stability:
    """How far the ranking of methods by their means is the same under every setting: baselines, units, seeds, models.

    Methods are those that have a score under all settings. One setting, or one method, leaves w, tau and lowest NaN.
    """
    names = list(settings)
    means = pd.DataFrame({name: settings[name].mean() for name in names}).reindex(columns=names)
    winners = {name: _winner(means[name].dropna(), higher_is_better) for name in names}
    common = means.dropna().to_numpy().T
    signs = _signs(common[None])
    first, second = np.triu_indices(len(names), 1)
    taus = _taus(signs, signs)[0][first, second]
    return Stability(
        w=kendall_w(common),
        tau=float(taus.mean()) if len(taus) else float("nan"),
        lowest=float(taus.min()) if len(taus) else float("nan"),
        winners=winners,
    )


def flip_pairs(settings: Mapping[str, pd.DataFrame], higher_is_better: bool, alpha: float = 0.05) -> pd.DataFrame:
    """Contradictions: pairs of methods whose order is significant under two settings, in opposite directions.

    Paired permutation tests over images, with Holm's correction over the family of all pairs of methods under all
    settings, so that the chance of any false row is at most alpha.

    Returns:
        A row a pair of methods and pair of settings: under the setting `under`, `better` has the better mean, under
        `over` it is `worse` that has.
    """
    names = list(settings)
    methods = list(dict.fromkeys(method for scores in settings.values() for method in scores.columns))
    pairs = np.array(list(combinations(range(len(methods)), 2)), dtype=int).reshape(-1, 2)
    values = [settings[name].reindex(columns=methods).to_numpy(dtype=float) for name in names]
    gains = np.array([np.nansum(part[:, pairs[:, 0]] - part[:, pairs[:, 1]], axis=0) for part in values])
    gains = (gains if higher_is_better else -gains).reshape(len(names), len(pairs))
    p = np.array([pair_tests(part, pairs) for part in values]).reshape(gains.shape)
    shown = np.where(holm(p.ravel()).reshape(p.shape) <= alpha, np.sign(gains), 0)
    rows: list[tuple[Hashable, Hashable, str, str]] = []
    for one, other in combinations(range(len(names)), 2):
        for pair in np.flatnonzero(shown[one] * shown[other] < 0).tolist():
            better, worse = pairs[pair] if shown[one, pair] > 0 else pairs[pair][::-1]
            rows.append((methods[better], methods[worse], names[one], names[other]))
    return pd.DataFrame(rows, columns=["better", "worse", "under", "over"])


def _winner(means: pd.Series, higher_is_better: bool) -> str:
    if means.empty:
        return ""
    best = means.max() if higher_is_better else means.min()
    tied = (means - best).abs() <= ROUNDING * means.abs().max()
    return " = ".join(map(str, means.index[tied]))


def _intervals(
    columns: Mapping[str, Column], against: Sequence[str], resamples: int, seed: int
) -> tuple[Array, Array, Array]:
    """tau-b of all `columns` with those named `against`, and its limits: each `(columns, against)`."""
    methods = list(dict.fromkeys(method for scores, _ in columns.values() for method in scores.columns))
    directed = [scores if higher else -scores for scores, higher in columns.values()]
    scores = [part.reindex(columns=methods).dropna(how="all") for part in directed]
    here = [list(columns).index(name) for name in against]
    means = np.array([part.mean().to_numpy(dtype=float) for part in scores]).reshape(len(scores), len(methods))
    signs = _signs(means[None])
    tau = _taus(signs, signs[:, here])[0]

    varied = [place for place, part in enumerate(scores) if len(part) > 1]
    low, high = np.full((2, *tau.shape), np.nan)
    if not varied:
        return tau, low, high
    images = sorted(set().union(*(scores[place].index for place in varied)))
    values = np.stack([scores[place].reindex(images).to_numpy(dtype=float) for place in varied], axis=1)
    drawn = resampled_means(values.reshape(len(images), -1), resamples, seed).reshape(resamples, len(varied), -1)
    inner = [varied.index(place) for place in here if place in varied]
    taus = np.concatenate([_taus(part, part[:, inner]) for part in _blocks(drawn)])
    both = np.ix_(varied, [position for position, place in enumerate(here) if place in varied])
    away = np.abs(taus - tau[both])
    # A draw in which tau is undefined says nothing; where all are, or tau itself, there is no interval.
    never = np.isnan(away).all(axis=0)
    reach = np.where(never, np.nan, np.nanquantile(np.where(never, 0, away), 0.95, axis=0))
    low[both], high[both] = np.maximum(tau[both] - reach, -1), np.minimum(tau[both] + reach, 1)
    return tau, low, high


def _blocks(means: Array) -> Iterator[Array]:
    step = max(1, _BLOCK // (means.shape[1] * max(1, means.shape[2]) ** 2 // 2 + 1))
    for start in range(0, len(means), step):
        yield _signs(means[start : start + step])


def _signs(means: Array) -> Array:
    """The order of each pair of methods, -1, 0 or 1, `(R, K, P)`, in K rankings by `means (R, K, M)`; NaN spreads."""
    first, second = np.triu_indices(means.shape[2], 1)
    away = means[:, :, first] - means[:, :, second]
    tie = ROUNDING * np.nanmax(np.abs(means), axis=2, initial=0, keepdims=True)
    # Products of -1, 0 and 1 are exact in single precision, and twice as fast.
    return np.where(np.abs(away) <= tie, 0, np.sign(away)).astype(np.float32)


def _taus(a: Array, b: Array) -> Array:
    """tau-b `(R, A, B)` between the rankings of `a (R, A, P)` and `b (R, B, P)`, over the pairs that both have."""
    signed_a, signed_b = np.nan_to_num(a), np.nan_to_num(b).swapaxes(1, 2)
    concordance = (signed_a @ signed_b).astype(float)
    untied_a = np.abs(signed_a) @ (~np.isnan(b)).astype(np.float32).swapaxes(1, 2)
    untied_b = (~np.isnan(a)).astype(np.float32) @ np.abs(signed_b)
    with np.errstate(invalid="ignore"):
        return concordance / np.sqrt(untied_a.astype(float) * untied_b)


def _leaves(tau: Array) -> list[int]:
    """The order of the leaves of a hierarchical clustering of metrics whose distance is 1 - tau."""
    from scipy.cluster import hierarchy  # imported where it is used, for tables to start at once
    from scipy.spatial.distance import squareform

    if len(tau) < 3:
        return list(range(len(tau)))
    distance = np.nan_to_num(1 - tau, nan=1.0)
    np.fill_diagonal(distance, 0)
    tree = hierarchy.linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree).tolist()
