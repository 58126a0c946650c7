"""From scores of images to statements about rows: intervals of a mean, paired tests, groups not shown to differ.

The image is the unit of every resample and of every test. Random draws come from generators with a fixed seed, so a
table is the same, digit by digit, however often it is made.
"""

from __future__ import annotations

import string
from collections.abc import Hashable, Iterator
from itertools import combinations
from math import ceil

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

PERMUTATIONS = 10_000
RESAMPLES = 10_000
_EXACT = 13  # up to this many images all 2^n sign flips are fewer than the random ones would be
_BLOCK = 2**22  # numbers held at once, so that memory does not grow with images x resamples
_ROUNDING = 1e-12  # relative; sums that differ by less are ties, whatever order they were added in


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval (low, high) of the mean of `values (N,)` over images; NaN values are left out.

    See `bootstrap_intervals`, which does the same for many columns at once.

    >>> bootstrap_interval([0.25, 0.25, 0.25])
    (0.25, 0.25)
    """
    low, high = bootstrap_intervals(np.asarray(values, dtype=float)[:, None], confidence, resamples, seed)
    return float(low[0]), float(high[0])


def bootstrap_intervals(
    values: ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Array, Array]:
    """Confidence intervals `low (K,), high (K,)` of the means of the columns of `values (N, K)`.

    The bias-corrected and accelerated bootstrap (BCa): the means m* of resamples of the images, drawn with replacement,
    are read off at the levels ndtr(z0 + (z0 + z) / (1 - a (z0 + z))), z = ndtri((1 -+ confidence) / 2), with

        z0 = ndtri(P(m* < m) + P(m* = m) / 2)        a = sum (x - m)^3 / (6 (sum (x - m)^2)^1.5)

    Where scores are symmetric, z0 = a = 0 and this is the percentile bootstrap; where they are skewed and images few,
    it covers better. NaN is left out column by column. Fewer than two values give NaN; equal values v give (v, v).

    Source: Efron, Better bootstrap confidence intervals, JASA 82 (1987).
    """
    values = np.asarray(values, dtype=float)
    low, high = np.full((2, values.shape[1]), np.nan)
    z = ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    for columns, valid in _by_images(values):
        if len(valid) < 2:
            continue
        means = _resampled_means(valid, resamples, seed)
        mean = valid.mean(0)
        tie = _ROUNDING * np.abs(valid).max(0)
        bias = ndtri((np.mean(means < mean - tie, axis=0) + np.mean(means <= mean + tie, axis=0)) / 2)
        for index, column in enumerate(columns):
            scores = valid[:, index]
            if np.ptp(scores) == 0:
                low[column] = high[column] = scores[0]
                continue
            away = scores - mean[index]
            acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
            shifted = bias[index] + z
            levels = ndtr(bias[index] + shifted / (1 - acceleration * shifted))
            low[column], high[column] = np.quantile(means[:, index], levels)
    return low, high


def paired_permutation(a: ArrayLike, b: ArrayLike, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p value for "on the same images, a and b are interchangeable"; both `(N,)`, NaN pairs are left out.

    The statistic is the mean difference; under the hypothesis the sign of every image's difference is a fair coin:

        p = (1 + #{|mean(s (a - b))| >= |mean(a - b)|}) / (1 + permutations)        s random signs

    Up to 13 images all 2^N sign flips are enumerated and p is exact. No pair at all gives NaN.

    Source: Phipson and Smyth, Permutation p-values should never be zero, arXiv:1603.05766 (for the + 1).

    >>> paired_permutation([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])  # two of the eight flips are as far from 0
    0.25
    """
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    return float(_sign_flips(differences[:, None], permutations, seed)[0])


def holm(p_values: ArrayLike) -> Array:
    """Adjusted p values that keep the chance of any false claim in the family below alpha when compared with alpha.

    The i-th smallest of m becomes max over j <= i of (m - j + 1) p_(j), at most 1.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).

    >>> holm([0.01, 0.04, 0.03]).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def rank_groups(scores: pd.DataFrame, higher_is_better: bool, alpha: float = 0.05) -> dict[Hashable, str]:
    """Letters by row of a table: rows that share a letter are not shown to differ, and `a` stands at the best mean.

    Args:
        scores: a line an image, a column a row of the table; NaN where the row has no score for the image.
        higher_is_better: which mean is the best.
        alpha: chance of any false difference in the whole family, which is all pairs of rows.

    All pairs are compared by `paired_permutation` over the images that both have, adjusted by `holm`. A row without
    any score gets no letter.

    Source: Piepho, An algorithm for a letter-based representation of all-pairwise comparisons, JCGS 13 (2004).
    """
    means = scores.mean().dropna().sort_values(ascending=not higher_is_better, kind="stable")
    pairs = list(combinations(range(len(means)), 2))
    different = np.zeros((len(means), len(means)), dtype=bool)
    if pairs:
        first, second = np.array(pairs).T
        values = scores[list(means.index)].to_numpy(dtype=float)
        # The smallest p must stay below alpha after Holm, however many rows there are.
        permutations = max(PERMUTATIONS, ceil(4 * len(pairs) / alpha))
        p = _sign_flips(values[:, first] - values[:, second], permutations, seed=0)
        different[first, second] = holm(np.nan_to_num(p, nan=1.0)) <= alpha
    letters: dict[Hashable, str] = dict.fromkeys(scores.columns, "")
    return letters | dict(zip(means.index, _letters(different), strict=True))


def _by_images(values: Array) -> Iterator[tuple[list[int], Array]]:
    """The columns of `values (N, K)` that have the same images, and their scores without NaN; none without images."""
    valid = ~np.isnan(values)
    groups: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(valid.any(0)).tolist():
        groups.setdefault(valid[:, column].tobytes(), []).append(column)
    for columns in groups.values():
        yield columns, values[valid[:, columns[0]]][:, columns]


def _resampled_means(values: Array, resamples: int, seed: int) -> Array:
    """Means `(resamples, K)` of `values (N, K)` over images drawn with replacement, the same draws for every column."""
    rng = np.random.default_rng(seed)
    images = len(values)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, _BLOCK // images)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(images, size=(count, images)) + images * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)
        means[start : start + count] = times.astype(float) @ values / images
    return means


def _sign_flips(differences: Array, permutations: int, seed: int) -> Array:
    """Two-sided p value of each column of `differences (N, K)`, the same flips for columns of the same images."""
    p = np.full(differences.shape[1], np.nan)
    for columns, valid in _by_images(differences):
        images = len(valid)
        reached = np.abs(valid.sum(0)) - _ROUNDING * np.abs(valid).sum(0)
        if images <= _EXACT:
            signs = 1.0 - 2.0 * ((np.arange(2**images)[:, None] >> np.arange(images)) & 1)
            p[columns] = np.mean(np.abs(signs @ valid) >= reached, axis=0)
            continue
        rng = np.random.default_rng(seed)
        count = np.zeros(len(columns))
        step = max(1, _BLOCK // max(images, len(columns)))
        for start in range(0, permutations, step):
            size = (min(step, permutations - start), images)
            signs = 2.0 * rng.integers(2, size=size, dtype=np.int8) - 1.0
            count += np.sum(np.abs(signs @ valid) >= reached, axis=0)
        p[columns] = (1 + count) / (1 + permutations)
    return p


def _letters(different: NDArray[np.bool_]) -> list[str]:
    """Letters of rows 0.. (best first), such that two rows share one exactly if not `different[i, j]`, i < j.

    Insert and absorb: each difference splits every group that holds both rows; a group inside another one goes.
    """
    groups = {frozenset(range(len(different)))}
    for i, j in np.argwhere(np.triu(different)).tolist():
        split = {group - {row} for group in groups if {i, j} <= group for row in (i, j)}
        groups = {group for group in groups if not {i, j} <= group} | split
        groups = {group for group in groups if not any(group < other for other in groups)}
    ordered = sorted(groups, key=sorted)
    names = [*string.ascii_letters, *map(chr, range(ord("α"), ord("α") + len(ordered)))]
    return [
        "".join(name for name, group in zip(names, ordered, strict=False) if row in group)
        for row in range(len(different))
    ]
