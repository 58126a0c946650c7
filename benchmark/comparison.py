"""One method against another on the same images: how much better, how often, how surely, how many images it takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isnan, nan
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri

from benchmark.errors import UserError, unknown
from benchmark.statistics import ROUNDING, bootstrap_intervals, paired_permutation, wilcoxon

Test = Literal["permutation", "wilcoxon"]
TESTS: tuple[Test, ...] = ("permutation", "wilcoxon")


@dataclass(frozen=True)
class Comparison:
    """What the images say of a against b.

    Attributes:
        images: how many have a score of both; all else is about these.
        difference: mean of a - b, in the unit of the metric.
        low, high: 95 % bootstrap interval of the difference.
        superiority: share of images on which a is better than b, ties half.
        effect: d_z, the mean of the differences over their standard deviation; positive where a is better.
        p: of the test, two-sided, not yet corrected for other comparisons (`statistics.holm`).
        images_needed: for a test at level 0.05 to find this effect with chance 0.9; infinite where it is 0, NaN with
            clusters, since the formula takes every image as its own.
    """

    images: int
    difference: float
    low: float
    high: float
    superiority: float
    effect: float
    p: float
    images_needed: float


def compare(
    a: ArrayLike,
    b: ArrayLike,
    higher_is_better: bool,
    test: Test = "permutation",
    clusters: ArrayLike | None = None,
) -> Comparison:
    """Compare two methods, paired over images.

    Args:
        a, b: `(N,)` scores of the same images in the same order; pairs with NaN are left out.
        higher_is_better: the direction of the metric.
        test: `permutation` (`statistics.paired_permutation`) or `wilcoxon` (`statistics.wilcoxon`).
        clusters: `(N,)` a label an image: interval and permutations then take whole clusters, and how many images are
            needed is not known.

    Without any pair every number is NaN; one pair has no interval and no effect. Differences without spread have an
    infinite effect, or 0 where they are all 0.

    Raises:
        UserError: an unknown test, or clusters with the signed-rank test, which has no use for them.
        ValueError: a and b, or the clusters, are not of the same images.

    Sources: Cohen, Statistical power analysis for the behavioral sciences (1988), section 2.3.5 (d_z); Grissom and Kim,
    Effect sizes for research (2012), chapter 5 (probability of superiority of dependent groups).
    """
    if test not in TESTS:
        raise UserError(unknown("test ", test, TESTS))
    if clusters is not None and test == "wilcoxon":
        raise UserError("the signed-rank test takes images as independent: test whole clusters with test=permutation")
    if isinstance(a, pd.Series) and isinstance(b, pd.Series) and not a.index.equals(b.index):
        raise ValueError("a and b are not of the same images in the same order")
    if np.shape(a) != np.shape(b):
        raise ValueError(f"a has {np.size(a)} scores and b {np.size(b)}: expected those of the same images")
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    valid = ~np.isnan(differences)
    if clusters is not None and np.shape(clusters) != valid.shape:
        raise ValueError(f"{np.size(clusters)} cluster labels for {len(valid)} images: expected one an image")
    owners = None if clusters is None else np.asarray(clusters)[valid]
    differences = differences[valid]
    if len(differences) == 0:
        return Comparison(0, nan, nan, nan, nan, nan, nan, nan)
    zeros = np.zeros(len(differences))
    p = (
        paired_permutation(differences, zeros, clusters=owners)
        if test == "permutation"
        else wilcoxon(differences, zeros)
    )
    low, high = bootstrap_intervals(differences[:, None], clusters=owners)
    gain = differences if higher_is_better else -differences
    effect = _effect(gain)
    return Comparison(
        images=len(differences),
        difference=float(differences.mean()),
        low=float(low[0]),
        high=float(high[0]),
        superiority=float(np.mean(gain > 0) + np.mean(gain == 0) / 2),
        effect=effect,
        p=p,
        images_needed=images_needed(effect) if owners is None else nan,
    )


def images_needed(effect: float, alpha: float = 0.05, power: float = 0.9) -> float:
    """Images for a two-sided paired test at level `alpha` to find the effect d_z with chance `power`, rounded up.

        n = ((z_(1 - alpha/2) + z_power) / d_z)^2 + z_(1 - alpha/2)^2 / 2

    The last term makes up for the spread being estimated; with it n is that of the exact t test, or one image off. No
    effect takes infinitely many images. For one of m comparisons that Holm corrects, `alpha / m` is on the safe side.

    Source: Guenther, Sample size formulas for normal theory t tests, The American Statistician 35 (1981).

    >>> images_needed(0.2)
    265.0
    """
    if isnan(effect):
        return nan
    if effect == 0:
        return inf
    level, chance = ndtri(1 - alpha / 2), ndtri(power)
    return float(ceil(((level + chance) / effect) ** 2 + level**2 / 2))


def _effect(gain: np.ndarray) -> float:
    if len(gain) < 2:
        return nan
    mean, spread = float(gain.mean()), float(gain.std(ddof=1))
    if spread <= ROUNDING * float(np.abs(gain).max()):
        return inf * mean if mean else 0.0
    return mean / spread
