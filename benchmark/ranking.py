"""Ranks of methods over images: how sure a place is, whether images agree, which distance of ranks means something.

Rank 1 is the best; tied methods share the mean of their ranks. `scores` has a line an image and a column a method.
"""

from __future__ import annotations

from math import nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from benchmark.statistics import RESAMPLES, ROUNDING, Array, resampled_means


def placed(scored: pd.Series, images: int) -> pd.Series:
    """Whether each row has a place in a column: it is scored on at least half of its `images`, and on one."""
    return (scored > 0) & (2 * scored >= images)


def image_ranks(scores: pd.DataFrame, higher_is_better: bool) -> pd.DataFrame:
    """The rank of each method on each image, among the methods that have a score there; NaN where it has none."""
    return scores.rank(axis=1, ascending=not higher_is_better)


def complete(scores: pd.DataFrame) -> pd.DataFrame:
    """The block that tests over images need: methods that have any score, and the images that all of them have."""
    return scores.dropna(axis=1, how="all").dropna()


def mean_ranks(scores: pd.DataFrame, higher_is_better: bool) -> pd.Series:
    """The mean over images of each method's rank on the image, over the `complete` images; NaN without any score."""
    return image_ranks(complete(scores), higher_is_better).mean().reindex(scores.columns)


def rank_intervals(
    scores: pd.DataFrame,
    higher_is_better: bool,
    resamples: int = RESAMPLES,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> pd.DataFrame:
    """How sure the place of each method in a table is: images are drawn again, methods ranked again by their means.

    Returns:
        A row a method: `rank` by the mean over its images; `low` and `high`, between which at least 95 % of the ranks
        in resamples lie (at most 2.5 % on either side are outside); `first`, the share of resamples in which it has
        the best mean, a tie of k methods giving each 1 / k. NaN for a method that is not `placed`, whose images are too
        few; without two images, or clusters, there is the rank alone.

    A resample holds the same images for every method; with `clusters (N,)`, a label an image, whole clusters are drawn.
    `first` says how stable the first place is, it is not the probability that a method is the best. Among methods that
    are nearly equal the first and last places are less sure than `low` and `high` say.

    Source: Goldstein and Spiegelhalter, League tables and their limitations, JRSS A 159 (1996).
    """
    table = pd.DataFrame(np.nan, index=scores.columns, columns=["rank", "low", "high", "first"])
    there = placed(scores.notna().sum(), len(scores)).to_numpy()
    if not there.any():
        return table
    scored = scores.loc[:, there].notna().any(axis=1).to_numpy()
    values = scores.to_numpy(dtype=float)[scored][:, there] * (-1 if higher_is_better else 1)
    table.loc[there, "rank"] = row_ranks(np.nanmean(values, axis=0)[None])[0]
    owners = np.arange(len(scores))[scored] if clusters is None else np.asarray(clusters)[scored]
    if len(np.unique(owners)) < 2:
        return table
    drawn = row_ranks(resampled_means(values, resamples, seed, owners))
    # A quantile of ranks is a rank: no values between them.
    table.loc[there, ["low", "high"]] = np.nanquantile(drawn, [0.025, 0.975], axis=0, method="inverted_cdf").T
    best = drawn == np.nanmin(drawn, axis=1, keepdims=True)
    table.loc[there, "first"] = np.mean(best / best.sum(axis=1, keepdims=True), axis=0)
    return table


def row_ranks(values: Array) -> Array:
    """Ranks within each row of `values (R, K)`, the smallest first; ties, but for rounding, share one, NaN has none."""
    tie = ROUNDING * np.nanmax(np.abs(values), axis=1, initial=0, keepdims=True)
    ranks = np.empty_like(values)
    for column in range(values.shape[1]):
        away = values[:, [column]] - values
        smaller, equal = (away > tie).sum(axis=1), (np.abs(away) <= tie).sum(axis=1)
        ranks[:, column] = np.where(equal > 0, smaller + (equal + 1) / 2, np.nan)
    return ranks


def friedman(scores: pd.DataFrame) -> tuple[float, float]:
    """Friedman's statistic, corrected for ties, and the p value of "on every image all orders are equally likely".

    Over the `complete` images. p is that of chi^2 with k - 1 degrees of freedom, for ten images or more. Fewer than
    three methods or two images, or nothing but ties, give NaN. The direction of the metric makes no difference.

    Source: Friedman, The use of ranks to avoid the assumption of normality, JASA 32 (1937).
    """
    from scipy import stats  # takes most of a second to import, which tables would wait for

    block = complete(scores).to_numpy(dtype=float)
    if block.shape[1] < 3 or len(block) < 2 or not np.ptp(block, axis=1).any():
        return nan, nan
    result = stats.friedmanchisquare(*block.T)
    return float(result.statistic), float(result.pvalue)


def critical_difference(methods: int, images: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference: mean ranks of two methods that are further apart differ, over all pairs at once.

        CD = q_alpha / sqrt(2) * sqrt(k (k + 1) / (6 N))        q of the studentized range of k, infinitely many df

    for k methods on N `complete` images. It answers for ranks alone, and depends on which other methods are in the
    table; the letters of `statistics.rank_groups` do not. Fewer than two methods or no image give NaN.

    Sources: Nemenyi, Distribution-free multiple comparisons (1963); Demsar, Statistical comparisons of classifiers over
    multiple data sets, JMLR 7 (2006).

    >>> round(critical_difference(methods=4, images=14), 3)
    1.254
    """
    from scipy import stats  # takes most of a second to import, which tables would wait for

    if methods < 2 or images < 1:
        return nan
    quantile = stats.studentized_range.ppf(1 - alpha, methods, np.inf)
    return float(quantile / sqrt(2) * sqrt(methods * (methods + 1) / (6 * images)))


def kendall_w(ranks: ArrayLike) -> float:
    """Kendall's coefficient of concordance of `ranks (raters, items)`: 1 where all raters agree, 0 where none do.

        W = 12 S / (m^2 (n^3 - n) - m sum T)        T = sum t^3 - t over the ties of a rater

    with S the sum of squares of the items' rank sums about their mean. Scores serve as well as ranks: they are ranked
    rater by rater. Items that no rater has, then raters that lack one of the others, are left out; fewer than two of
    either, or nothing but ties, give NaN.

    Source: Kendall and Babington Smith, The problem of m rankings, Ann. Math. Statist. 10 (1939).

    >>> kendall_w([[1, 2, 3], [1, 2, 3], [2, 1, 3]])
    0.7777777777777778
    """
    block = complete(pd.DataFrame(np.asarray(ranks, dtype=float))).rank(axis=1).to_numpy()
    raters, items = block.shape
    if raters < 2 or items < 2:
        return nan
    sums = block.sum(axis=0)
    # A rater's ranks without ties have the sum of squares (n^3 - n) / 12; each tie takes (t^3 - t) / 12 off.
    own = ((block - (items + 1) / 2) ** 2).sum()
    return float(((sums - sums.mean()) ** 2).sum() / (raters * own)) if own else nan


def krippendorff_alpha(ratings: ArrayLike) -> float:
    """Krippendorff's alpha for ordinal `ratings (raters, items)`: 1 for agreement, 0 for chance, below 0 for contrast.

        alpha = 1 - observed / expected disagreement        of c and k: (sum_(g = c..k) n_g - (n_c + n_k) / 2)^2

    with n_g the number of times the value g was given. That disagreement is the squared difference of the values' mean
    ranks among all ratings, so alpha is one minus a ratio of variances of these. NaN is a rating that was not given;
    items with fewer than two ratings do not count. One value throughout, or no item, gives NaN.

    Whether images agree on methods: `krippendorff_alpha(image_ranks(scores, higher_is_better))`. Krippendorff asks for
    0.8, and for 0.667 where conclusions are tentative.

    Sources: Krippendorff, Content analysis (2004), chapter 11; Tomsett et al., Sanity checks for saliency metrics, AAAI
    2020 (images as raters).
    """
    values = np.asarray(ratings, dtype=float)
    given = ~np.isnan(values)
    values = np.where(given & (given.sum(axis=0) >= 2), values, np.nan)
    counts = (~np.isnan(values)).sum(axis=0)
    values, counts = values[:, counts > 0], counts[counts > 0]
    total = counts.sum()
    if total == 0:
        return nan
    places = pd.Series(values.ravel()).rank().to_numpy().reshape(values.shape)
    expected = np.nansum((places - np.nanmean(places)) ** 2) / (total - 1)
    observed = (np.nansum((places - np.nanmean(places, axis=0)) ** 2, axis=0) * counts / (counts - 1)).sum() / total
    return float(1 - observed / expected) if expected else nan
