"""From scores of images to statements about rows: intervals of a mean, paired tests, groups not shown to differ.

The image is the unit of every resample and of every test. Random draws come from generators with a fixed seed, so a
table is the same, digit by digit, however often it is made.
"""

from __future__ import annotations

import string
from collections.abc import Hashable, Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

PERMUTATIONS = 10_000
RESAMPLES = 10_000
_EXACT = 13  # up to this many images all 2^n sign flips are fewer than the random ones would be
_MANY = 100  # units of a resample from which on the plain percentiles cover as well as the corrected ones
_BLOCK = 2**22  # numbers held at once, so that memory does not grow with images x resamples
_CACHE = 2**18  # numbers worked on at once, where that is what takes the time
ROUNDING = 1e-12  # relative; sums that differ by less are ties, whatever order they were added in


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
    values: ArrayLike,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Confidence intervals `low (K,), high (K,)` of the means of the columns of `values (N, K)`.

    The means m* of resamples, drawn with replacement, are read off at two levels. From 100 drawn units on these are
    (1 -+ confidence) / 2, the percentile bootstrap. Below, they are corrected for bias and skew (BCa), which covers
    better where units are few: ndtr(z0 + (z0 + z) / (1 - a (z0 + z))), z = ndtri((1 -+ confidence) / 2), with

        z0 = ndtri(P(m* < m) + P(m* = m) / 2)        a = sum u^3 / (6 (sum u^2)^1.5)

    and u the influence of a unit on the mean: of an image x - m, of a cluster the sum of that over its images.

    NaN is left out column by column. Fewer than two units with values give NaN; equal values v give (v, v).

    Args:
        clusters: `(N,)` a label an image, such as its class. Whole clusters are drawn then, for images of one cluster
            that resemble each other; the mean stays that over images. Without it the units are the images.

    Sources: Efron, Better bootstrap confidence intervals, JASA 82 (1987); Davison and Hinkley, Bootstrap methods and
    their application (1997), section 3.8 (clusters).
    """
    values = np.asarray(values, dtype=float)
    low, high = np.full((2, values.shape[1]), np.nan)
    z = ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    for columns, images in _by_images(values):
        valid = values[images][:, columns]
        owners = None if clusters is None else np.asarray(clusters)[images]
        units = len(valid) if owners is None else len(np.unique(owners))
        if units < 2:
            continue
        means = resampled_means(valid, resamples, seed, owners)
        mean = valid.mean(0)
        tie = ROUNDING * np.abs(valid).max(0)
        bias = ndtri((np.mean(means < mean - tie, axis=0) + np.mean(means <= mean + tie, axis=0)) / 2)
        influence = cluster_sums(valid - mean, owners)
        for index, column in enumerate(columns):
            if np.ptp(valid[:, index]) == 0:
                low[column] = high[column] = valid[0, index]
                continue
            levels = ndtr(z)
            if units < _MANY:
                u = influence[:, index]
                acceleration = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
                shifted = bias[index] + z
                levels = ndtr(bias[index] + shifted / (1 - acceleration * shifted))
            low[column], high[column] = np.quantile(means[:, index], levels)
    return low, high


def resampled_means(values: ArrayLike, resamples: int, seed: int, clusters: ArrayLike | None = None) -> Array:
    """Means `(resamples, K)` of the columns of `values (N, K)` over images drawn with replacement.

    Every column sees the same draws, so that differences and ranks of the means are those of pairs. NaN is left out; a
    column none of whose values was drawn is NaN. With `clusters (N,)` whole clusters are drawn.
    """
    values = np.asarray(values, dtype=float)
    valid = ~np.isnan(values)
    sums = cluster_sums(np.where(valid, values, 0.0), clusters)
    # Where nothing is missing, one column of counts does for all.
    sizes = cluster_sums((valid[:, :1] if valid.all() else valid).astype(float), clusters)
    rng = np.random.default_rng(seed)
    units = len(sums)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, _BLOCK // max(1, units))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(units, size=(count, units)) + units * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * units).reshape(count, units).astype(float)
        with np.errstate(invalid="ignore"):
            means[start : start + count] = times @ sums / (times @ sizes)
    return means


def cluster_sums(values: Array, clusters: ArrayLike | None) -> Array:
    """Sums `(C, K)` of the rows of `values (N, K)` that share a label in `clusters (N,)`; `values` without labels."""
    if clusters is None:
        return values
    labels, owners = np.unique(np.asarray(clusters), return_inverse=True)
    if len(owners) != len(values):
        raise ValueError(f"{len(owners)} cluster labels for {len(values)} images: expected one an image")
    sums = np.zeros((len(labels), values.shape[1]))
    np.add.at(sums, owners, values)
    return sums


def paired_permutation(
    a: ArrayLike,
    b: ArrayLike,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> float:
    """Two-sided p value for "on the same images, a and b are interchangeable"; both `(N,)`, NaN pairs are left out.

    The statistic is the mean difference; under the hypothesis the sign of every image's difference is a fair coin:

        p = (1 + #{|mean(s (a - b))| >= |mean(a - b)|}) / (1 + permutations)        s random signs

    Up to 13 images all 2^N sign flips are enumerated and p is exact. No pair at all gives NaN. With `clusters (N,)`, a
    label an image, the images of a cluster flip together, and N counts clusters.

    Source: Phipson and Smyth, Permutation p-values should never be zero, arXiv:1603.05766 (for the + 1).

    >>> paired_permutation([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])  # two of the eight flips are as far from 0
    0.25
    """
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    valid = ~np.isnan(differences)
    owners = None if clusters is None else np.asarray(clusters)[valid]
    flipped = cluster_sums(differences[valid][:, None], owners)
    return float(_sign_flips(np.pad(flipped, ((0, 0), (0, 1))), np.array([[0, 1]]), permutations, seed)[0])


def wilcoxon(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p value of the signed-rank test for "a - b is symmetric about 0"; both `(N,)`, NaN pairs are left out.

    Images with a = b are ranked with the others and then left out of both sums (Pratt), so they weaken the evidence.
    p is exact up to 13 images, without ties and zeros up to 50, and of the normal approximation else. Nothing but zeros
    gives 1, no pair NaN.

    Sources: Wilcoxon, Individual comparisons by ranking methods, Biometrics 1 (1945); Pratt, Remarks on zeros and ties
    in the Wilcoxon signed rank procedures, JASA 54 (1959).

    >>> wilcoxon([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    0.25
    """
    from scipy import stats  # takes most of a second to import, which tables would wait for

    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    differences = differences[~np.isnan(differences)]
    if not differences.any():
        return 1.0 if len(differences) else float("nan")
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


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
    pairs = np.array(list(combinations(range(len(means)), 2)))
    different = np.zeros((len(means), len(means)), dtype=bool)
    if len(pairs):
        p = pair_tests(scores[list(means.index)].to_numpy(dtype=float), pairs)
        different[tuple(pairs.T)] = holm(p) <= alpha
    letters: dict[Hashable, str] = dict.fromkeys(scores.columns, "")
    return letters | dict(zip(means.index, _letters(different), strict=True))


def pair_tests(values: Array, pairs: NDArray[np.int_]) -> Array:
    """p values of `pairs (P, 2)` of columns of `values (N, K)`, small enough where needed for `holm` in large families.

    Those of `paired_permutation`. As 10,000 permutations never give less than 1 / 10,001, pairs further apart have the
    least p that is certain without drawing any, with z = |sum d| / sqrt(sum d^2) of the differences d:

        p <= 2 c P(Z >= z)        Z standard normal, c = 1 / (4 P(Z >= sqrt 2)) = 3.18

    Images without a score of both are left out; a pair without any has 1.

    Source: Bentkus and Dzindzalieta, A tight Gaussian bound for weighted sums of Rademacher random variables, Bernoulli
    21 (2015).
    """
    differences = values[:, pairs[:, 0]] - values[:, pairs[:, 1]]
    length = np.sqrt(np.nansum(differences**2, axis=0))
    z = np.abs(np.nansum(differences, axis=0)) / np.where(length > 0, length, 1)
    p = ndtr(-z) / (2 * ndtr(-np.sqrt(2)))
    near = p >= 1 / (1 + PERMUTATIONS)
    p[near] = np.nan_to_num(_sign_flips(values, pairs[near], PERMUTATIONS, seed=0), nan=1.0)
    return p


def _by_images(values: Array) -> Iterator[tuple[list[int], NDArray[np.bool_]]]:
    """The columns of `values (N, K)` that have scores for the same images, and these; none without images."""
    valid = ~np.isnan(values)
    groups: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(valid.any(0)).tolist():
        groups.setdefault(valid[:, column].tobytes(), []).append(column)
    for columns in groups.values():
        yield columns, valid[:, columns[0]]


def _sign_flips(values: Array, pairs: NDArray[np.int_], permutations: int, seed: int) -> Array:
    """Two-sided p value of each of `pairs (P, 2)` of columns of `values (N, K)`, the same flips for the same images."""
    p = np.full(len(pairs), np.nan)
    valid = ~np.isnan(values)
    both = valid[:, pairs[:, 0]] & valid[:, pairs[:, 1]]
    for members, there in _by_images(np.where(both, 1.0, np.nan)):
        used, place = np.unique(pairs[members], return_inverse=True)
        first, second = place.reshape(-1, 2).T
        # The sum of flipped differences is the difference of flipped sums, and methods are fewer than pairs. What all
        # methods share on an image cancels; without it the sums are as small as the differences.
        scores = values[there][:, used]
        scores = (scores - scores.mean(axis=1, keepdims=True)).T
        images = scores.shape[1]
        size, sums = np.abs(scores).sum(axis=1), scores.sum(axis=1)
        reached = np.abs(sums[first] - sums[second]) - ROUNDING * (size[first] + size[second])
        count = np.zeros(len(members))
        for heads in _flips(images, permutations, seed):
            flipped = sums[:, None] - 2 * (scores @ heads.T)
            step = max(1, _CACHE // len(heads))
            for start in range(0, len(members), step):
                part = slice(start, start + step)
                away = np.abs(flipped[first[part]] - flipped[second[part]])
                count[part] += np.sum(away >= reached[part, None], axis=1)
        p[members] = count / 2**images if images <= _EXACT else (1 + count) / (1 + permutations)
    return p


def _flips(images: int, permutations: int, seed: int) -> Iterator[Array]:
    """Blocks `(permutations, images)` of 1, flip the sign, and 0: all combinations of few images, else random ones."""
    if images <= _EXACT:
        yield ((np.arange(2**images)[:, None] >> np.arange(images)) & 1).astype(float)
        return
    rng = np.random.default_rng(seed)
    step = 4 * max(1, _CACHE // (4 * images))
    for start in range(0, permutations, step):
        yield rng.integers(2, size=(min(step, permutations - start), images), dtype=np.int8).astype(float)


def _letters(different: NDArray[np.bool_]) -> list[str]:
    """Letters of rows 0.. (best first), such that two rows share one exactly if not `different[i, j]`, i < j.

    Insert and absorb: each difference splits every group that holds both rows; a group inside another one goes.
    """
    groups = {frozenset(range(len(different)))}
    for i, j in np.argwhere(np.triu(different)).tolist():
        both = {group for group in groups if i in group and j in group}
        groups -= both
        split = {group - {row} for group in both for row in (i, j)}
        # No group was inside another one before, so none that stays is inside a part of one.
        groups |= {part for part in split if not any(part <= group for group in groups | split - {part})}
    ordered = sorted(groups, key=sorted)
    names = [*string.ascii_letters, *map(chr, range(ord("α"), ord("α") + len(ordered)))]
    return [
        "".join(name for name, group in zip(names, ordered, strict=False) if row in group)
        for row in range(len(different))
    ]
