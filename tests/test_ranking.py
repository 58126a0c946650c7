"""Ranks against scipy, scikit-posthocs, krippendorff, hand calculation and simulation."""

from __future__ import annotations

import doctest
import warnings
from itertools import combinations, product

import krippendorff
import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats

from benchmark import ranking
from benchmark.ranking import (
    complete,
    critical_difference,
    friedman,
    image_ranks,
    kendall_w,
    krippendorff_alpha,
    mean_ranks,
    placed,
    rank_intervals,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def frame(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, columns=list("abcdefghijklmnop")[: values.shape[1]])


@pytest.fixture(autouse=True)
def _no_warning() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(ranking).failed == 0


def test_mean_ranks_by_hand() -> None:
    scores = pd.DataFrame({"a": [3, 1, 5.0], "b": [2, 1, np.nan], "c": [1, 0, 9.0], "none": np.nan})
    assert image_ranks(scores, True).to_numpy()[:, :3].tolist()[:2] == [[1, 2, 3], [1.5, 1.5, 3]]
    assert complete(scores).to_numpy().tolist() == [[3, 2, 1], [1, 1, 0]]
    assert mean_ranks(scores, True).drop("none").to_dict() == {"a": 1.25, "b": 1.75, "c": 3}
    assert mean_ranks(scores, False).drop("none").to_dict() == {"a": 2.75, "b": 2.25, "c": 1}
    assert np.isnan(mean_ranks(scores, True)["none"])


# --- how sure a place is ---


def test_first_place_of_two_methods_has_a_closed_form() -> None:
    """The mean of 400 differences in a resample is nearly normal about the one measured."""
    values = generator(1).standard_normal((400, 2)) + np.array([0.15, 0.0])
    difference = values[:, 0] - values[:, 1]
    chance = stats.norm.cdf(difference.mean() / (difference.std() / np.sqrt(400)))
    table = rank_intervals(frame(values), True)
    assert 0.6 < chance < 0.95
    assert table["first"].tolist() == pytest.approx([chance, 1 - chance], abs=0.02)
    assert table["rank"].tolist() == [1, 2]
    assert rank_intervals(frame(-values), False).equals(table)
    assert rank_intervals(frame(values), False)["rank"].tolist() == [2, 1]


def test_places_that_nothing_shakes_and_places_that_are_shared() -> None:
    images = generator(2).standard_normal((30, 1))
    table = rank_intervals(frame(images + np.array([3.0, 9.0, 9.0, 1.0])), True)
    assert table["rank"].tolist() == [3, 1.5, 1.5, 4]
    assert table["low"].tolist() == table["high"].tolist() == [3, 1.5, 1.5, 4]
    assert table["first"].tolist() == [0, 0.5, 0.5, 0]
    # 0.1 + 0.2 is 0.3 but for rounding.
    assert rank_intervals(frame(np.array([[0.1, 0.3], [0.2, 0.0]])), True)["rank"].tolist() == [1.5, 1.5]


def test_rank_intervals_follow_a_slow_bootstrap_with_gaps() -> None:
    """Each resample by pandas: the means of what each method has among the images drawn."""
    values = generator(3).standard_normal((25, 5)) + np.array([0, 0.1, 0.2, 0.3, 0.4])
    values[generator(4).random((25, 5)) < 0.2] = np.nan
    rng = generator(5)
    ranks = np.array([stats.rankdata(-np.nanmean(values[rng.integers(25, size=25)], axis=0)) for _ in range(4000)])
    table = rank_intervals(frame(values), True)
    assert table["rank"].tolist() == stats.rankdata(-np.nanmean(values, axis=0)).tolist()
    np.testing.assert_allclose(table["first"], (ranks == 1).mean(axis=0), atol=0.025)
    for place, (low, high) in enumerate(zip(table["low"], table["high"], strict=True)):
        assert np.mean(ranks[:, place] < low) <= 0.035
        assert np.mean(ranks[:, place] > high) <= 0.035
        assert np.mean((ranks[:, place] > low) & (ranks[:, place] < high)) < 0.96
    assert table["first"].sum() == pytest.approx(1)


def test_rank_intervals_hold_the_true_rank() -> None:
    """100 studies of eight methods whose means are half a standard error apart: 95 % or more of the places."""
    truth = np.arange(8.0)
    held = []
    for seed in range(100):
        scores = frame(generator(100 + seed).standard_normal((60, 8)) - 0.5 * truth / np.sqrt(60))
        table = rank_intervals(scores, True, resamples=500)
        held.append((table["low"] <= truth + 1) & (table["high"] >= truth + 1))
    assert 0.95 <= np.mean(held) <= 0.999


def test_clusters_make_places_less_sure() -> None:
    classes = np.repeat(np.arange(10), 20)
    values = generator(6).standard_normal((10, 3))[classes] + 0.1 * generator(7).standard_normal((200, 3))
    alone, together = rank_intervals(frame(values), True), rank_intervals(frame(values), True, clusters=classes)
    assert together["first"].max() < alone["first"].max()
    means = frame(values).groupby(classes).mean()
    np.testing.assert_allclose(together, rank_intervals(means, True))
    # An image without any score takes its label with it.
    gap = pd.concat([frame(values), frame(np.full((1, 3), np.nan))])
    np.testing.assert_array_equal(rank_intervals(gap, True, clusters=[*classes, 77]), together)


def test_a_method_on_fewer_than_half_of_the_images_has_no_rank() -> None:
    assert placed(pd.Series([0, 1, 2, 4]), 4).tolist() == [False, False, True, True]
    assert placed(pd.Series([0, 1]), 1).tolist() == [False, True]
    scores = frame(generator(9).standard_normal((20, 3)))
    some = scores.assign(few=100.0, half=100.0)
    some.loc[:9, "half"] = np.nan
    some.loc[9:, "few"] = np.nan
    table = rank_intervals(some, True, resamples=200)
    assert table.loc["few"].isna().all()
    assert table.loc["half", "rank"] == 1
    pd.testing.assert_frame_equal(table.drop(index="few"), rank_intervals(some.drop(columns="few"), True, 200))


def test_methods_without_scores_and_single_images() -> None:
    scores = frame(generator(8).standard_normal((20, 3)))
    table = rank_intervals(scores.assign(none=np.nan), True, resamples=200)
    assert table.loc["none"].isna().all()
    np.testing.assert_array_equal(table.drop(index="none"), rank_intervals(scores, True, resamples=200))
    single = rank_intervals(scores[:1], True)
    assert sorted(single["rank"]) == [1, 2, 3]
    assert single[["low", "high", "first"]].isna().all(axis=None)
    assert rank_intervals(scores * np.nan, True).isna().all(axis=None)


# --- Friedman and Nemenyi ---


def test_friedman_agrees_with_scipy_on_complete_images() -> None:
    scores = frame(generator(9).integers(5, size=(30, 4)).astype(float))
    theirs = stats.friedmanchisquare(*scores.to_numpy().T)
    assert friedman(scores) == pytest.approx((theirs.statistic, theirs.pvalue))
    gap = pd.concat([scores, frame(np.array([[9.0, np.nan, 1.0, 2.0]]))]).assign(none=np.nan)
    assert friedman(gap) == friedman(scores)


def test_friedman_statistic_by_hand() -> None:
    """12 / (N k (k + 1)) sum R^2 - 3 N (k + 1) with rank sums 4, 7, 10 over four images: 4.5."""
    scores = frame(np.array([[3, 2, 1], [3, 2, 1], [3, 1, 2], [2, 3, 1]], dtype=float))
    sums = image_ranks(scores, True).sum().to_numpy()
    expected = 12 / (4 * 3 * 4) * (sums**2).sum() - 3 * 4 * 4
    assert friedman(scores)[0] == pytest.approx(expected)


@pytest.mark.parametrize("values", [np.ones((9, 4)), np.arange(20.0).reshape(10, 2), np.arange(4.0)[None]])
def test_friedman_is_undefined_for_ties_alone_two_methods_or_one_image(values: np.ndarray) -> None:
    assert np.isnan(friedman(frame(values))).all()


def test_critical_difference_agrees_with_the_tables_of_demsar() -> None:
    """q of Table 5 a, alpha 0.05 and 0.10; CD = q sqrt(k (k + 1) / (6 N))."""
    for methods, q05, q10 in [(2, 1.960, 1.645), (3, 2.343, 2.052), (5, 2.728, 2.459), (10, 3.164, 2.920)]:
        unit = np.sqrt(methods * (methods + 1) / (6 * 30))
        assert critical_difference(methods, 30) == pytest.approx(q05 * unit, rel=5e-4)
        assert critical_difference(methods, 30, alpha=0.1) == pytest.approx(q10 * unit, rel=5e-4)
    assert np.isnan(critical_difference(1, 30))
    assert np.isnan(critical_difference(5, 0))


def test_critical_difference_decides_as_scikit_posthocs() -> None:
    scores = frame(generator(10).standard_normal((40, 8)) + np.linspace(0, 1, 8))
    p = scikit_posthocs.posthoc_nemenyi_friedman(scores)
    ranks = mean_ranks(scores, True)
    apart = {(i, j): abs(ranks[i] - ranks[j]) > critical_difference(8, 40) for i, j in combinations(scores, 2)}
    assert 3 < sum(apart.values()) < 25
    assert apart == {(i, j): p.loc[i, j] < 0.05 for i, j in apart}


# --- do raters agree ---


def test_kendall_w_is_friedman_over_its_largest_value() -> None:
    for levels in (3, 1000):
        values = generator(11).integers(levels, size=(12, 6)).astype(float)
        assert kendall_w(values) == pytest.approx(stats.friedmanchisquare(*values.T).statistic / (12 * 5))


def test_kendall_w_is_the_mean_spearman_correlation() -> None:
    ranks = np.array([generator(seed).permutation(7) for seed in range(5)])
    rho = np.mean([stats.spearmanr(ranks[i], ranks[j]).statistic for i, j in combinations(range(5), 2)])
    assert kendall_w(ranks) == pytest.approx((1 + 4 * rho) / 5)


def test_kendall_w_with_ties_by_hand() -> None:
    """Ranks 1, 2.5, 2.5 and 1, 2, 3: S = 4 + 0.25 + 2.25, m^2 (n^3 - n) = 96, m T = 12."""
    assert kendall_w([[1, 2.5, 2.5], [1, 2, 3]]) == pytest.approx(12 * 6.5 / (96 - 12))
    assert kendall_w([[1, 2, 3], [10, 20, 30]]) == 1
    assert kendall_w([[1, 2, 3], [3, 2, 1]]) == 0


def test_kendall_w_leaves_out_what_is_missing_and_is_undefined_without_spread() -> None:
    ranks = [[1, 2, 3, np.nan], [1, 3, 2, np.nan], [1, np.nan, 2, np.nan]]
    assert kendall_w(ranks) == kendall_w([[1, 2, 3], [1, 3, 2]])
    for undefined in ([[1, 2, 3]], [[1], [1]], [[1, 1, 1], [2, 2, 2]], np.full((3, 3), np.nan), np.empty((0, 0))):
        assert np.isnan(kendall_w(undefined))


@pytest.mark.parametrize(("levels", "gaps"), [(4, 0.0), (4, 0.3), (10**6, 0.0), (10**6, 0.5)])
def test_krippendorff_alpha_agrees_with_the_package(levels: int, gaps: float) -> None:
    ratings = generator(12).integers(levels, size=(8, 15)) + np.linspace(0, levels, 15).round()
    ratings = np.where(generator(13).random((8, 15)) < gaps, np.nan, ratings)
    theirs = krippendorff.alpha(reliability_data=ratings, level_of_measurement="ordinal")
    assert 0.2 < theirs < 0.9
    assert krippendorff_alpha(ratings) == pytest.approx(theirs, rel=1e-9)


def test_krippendorff_alpha_of_known_cases() -> None:
    assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]]) == 1
    # Two raters, two values, always apart: observed 1, expected 4 / 6 per unit squared difference.
    assert krippendorff_alpha([[1, 2], [2, 1]]) == pytest.approx(1 - 3 / 2)
    assert krippendorff_alpha([[1, 2, 3, 7.0], [1, 2, 3, np.nan]]) == 1
    for undefined in ([[1, 1], [1, 1]], [[1, np.nan], [np.nan, 1]], np.empty((0, 0))):
        assert np.isnan(krippendorff_alpha(undefined))


def test_images_that_agree_by_chance_have_an_alpha_of_0_whatever_their_number() -> None:
    for images, methods in product((5, 400), (4, 20)):
        ranks = image_ranks(frame(generator(14).standard_normal((images, methods))[:, :16]), True)
        assert abs(krippendorff_alpha(ranks)) < 0.2 if images == 5 else abs(krippendorff_alpha(ranks)) < 0.01
