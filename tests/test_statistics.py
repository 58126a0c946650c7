"""The statistics of a table against scipy, hand calculation and simulation."""

from __future__ import annotations

import doctest
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmark import statistics
from benchmark.statistics import (
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    pair_tests,
    paired_permutation,
    rank_groups,
    resampled_means,
    wilcoxon,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(statistics).failed == 0


# --- bootstrap ---


@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential"])
def test_interval_agrees_with_scipy(draw: str) -> None:
    values = getattr(generator(1), draw)(60)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=100_000, method="BCa", rng=generator(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert bootstrap_interval(values, resamples=100_000) == pytest.approx(tuple(theirs), abs=0.01 * width)


@pytest.mark.parametrize(("images", "method"), [(99, "BCa"), (100, "percentile")])
def test_interval_is_corrected_below_a_hundred_images(images: int, method: str) -> None:
    """Skewed scores: the two methods differ by a tenth of the width."""
    values = generator(20).standard_exponential(images) ** 2
    limits = {
        name: stats.bootstrap((values,), np.mean, n_resamples=50_000, method=name, rng=generator(2)).confidence_interval
        for name in ("BCa", "percentile")
    }
    width = limits["BCa"].high - limits["BCa"].low
    assert limits["BCa"].high - limits["percentile"].high > 0.05 * width
    assert bootstrap_interval(values, resamples=50_000) == pytest.approx(tuple(limits[method]), abs=0.025 * width)


def test_interval_of_zeros_and_ones_agrees_with_scipy() -> None:
    """A pointing game: the resampled means tie with the mean, which BCa must count half."""
    values = np.r_[np.ones(57), np.zeros(7)]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=50_000, method="BCa", rng=generator(2)).confidence_interval
    assert bootstrap_interval(values, resamples=50_000) == pytest.approx(tuple(theirs), abs=0.5 / 64)


@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential"])
def test_interval_covers_the_true_mean(draw: str) -> None:
    """600 samples of 50 images; binomial standard error 0.9 %, and a bootstrap of 50 covers a little less than 95 %."""
    truth = 0.0 if draw == "standard_normal" else 1.0
    low, high = bootstrap_intervals(getattr(generator(3), draw)((50, 600)), resamples=2000)
    assert 0.915 <= np.mean((low <= truth) & (truth <= high)) <= 0.975


@pytest.mark.parametrize("value", [0.1, 0.0, -3.7, 1e-300])
def test_equal_values_have_an_interval_without_width(value: float) -> None:
    assert bootstrap_interval([value] * 64) == (value, value)


@pytest.mark.parametrize("values", [[], [0.3], [np.nan, 0.3], [np.nan, np.nan]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert np.isnan(bootstrap_interval(values)).all()


def test_interval_leaves_nan_out_and_does_not_depend_on_other_columns() -> None:
    values = generator(4).standard_normal((40, 3))
    values[5, 1] = np.nan
    low, high = bootstrap_intervals(values)
    for column in range(3):
        alone = values[:, column][~np.isnan(values[:, column])]
        assert (low[column], high[column]) == pytest.approx(bootstrap_interval(alone), rel=1e-12)


def test_interval_is_repeatable_and_follows_shift_and_scale() -> None:
    values = generator(5).standard_exponential(64)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert bootstrap_interval(10 * values - 3) == pytest.approx((10 * low - 3, 10 * high - 3))
    assert bootstrap_interval(values, confidence=0.5)[0] > low


def test_memory_blocks_do_not_change_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = generator(6).standard_normal((30, 2))
    whole = bootstrap_intervals(values, resamples=1000)
    monkeypatch.setattr(statistics, "_BLOCK", 30 * 17)
    np.testing.assert_allclose(bootstrap_intervals(values, resamples=1000), whole, rtol=1e-12)
    p = paired_permutation(*values.T)
    assert 0.01 < p < 0.99
    monkeypatch.setattr(statistics, "_CACHE", 30 * 17)
    assert paired_permutation(*values.T) == p


# --- clusters ---


def test_clusters_of_one_size_are_the_images_of_a_study_of_their_means() -> None:
    values = generator(21).standard_exponential((30, 4))
    labels = np.array([f"class {place}" for place in range(30)])
    order = generator(22).permutation(120)
    low, high = bootstrap_intervals(values.ravel()[order, None], clusters=np.repeat(labels, 4)[order])
    # Labels sort as text, so the means are drawn in that order.
    expected = bootstrap_interval(values[np.argsort(labels)].mean(1))
    assert (low[0], high[0]) == pytest.approx(expected, rel=1e-9)


def test_every_image_its_own_cluster_changes_nothing() -> None:
    values = generator(23).standard_exponential((40, 2))
    values[3, 1] = np.nan
    np.testing.assert_array_equal(bootstrap_intervals(values, clusters=np.arange(40)), bootstrap_intervals(values))


def test_clusters_of_unequal_size_by_hand() -> None:
    """Clusters {0, 3} and {6}: of four equally likely draws two give the mean of all, one 1.5, one 6."""
    means = resampled_means(np.array([[0.0], [3.0], [6.0]]), 40_000, seed=0, clusters=["a", "a", "b"])[:, 0]
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [1.5, 3, 6]
    np.testing.assert_allclose(counts / 40_000, [0.25, 0.5, 0.25], atol=0.01)


def test_interval_of_clusters_covers_what_that_of_images_misses() -> None:
    """500 samples of 25 classes with 2 to 8 images each, which share most of their deviation; truth 0."""
    sizes = generator(24).integers(2, 9, size=25)
    classes = np.repeat(np.arange(25), sizes)
    scores = generator(25).standard_normal((25, 500))[classes] + 0.5 * generator(26).standard_normal((sizes.sum(), 500))

    def coverage(clusters: np.ndarray | None) -> float:
        low, high = bootstrap_intervals(scores, resamples=1000, clusters=clusters)
        return float(np.mean((low <= 0) & (high >= 0)))

    assert 0.9 <= coverage(classes) <= 0.98
    assert coverage(None) < 0.75


def test_one_cluster_has_no_interval_and_labels_must_be_as_many_as_images() -> None:
    assert np.isnan(bootstrap_intervals(np.arange(5.0)[:, None], clusters=["a"] * 5)).all()
    with pytest.raises(ValueError, match="4 cluster labels for 5 images"):
        resampled_means(np.zeros((5, 1)), 10, seed=0, clusters=["a"] * 4)


def test_resamples_of_columns_are_paired_and_leave_nan_out() -> None:
    a = generator(27).standard_normal(20)
    gap = np.where(np.arange(20) < 19, np.nan, 7.0)
    means = resampled_means(np.stack([a, a + 1, gap], axis=1), 1000, seed=0)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1)
    # The only value is drawn with chance 1 - (19 / 20)^20 = 0.64, and is the mean then.
    assert set(means[:, 2][~np.isnan(means[:, 2])]) == {7}
    assert 0.59 <= np.mean(means[:, 2] == 7) <= 0.69


def test_clusters_flip_together() -> None:
    """Sums of clusters 3, -1, 2: of eight flips |+-3 +-1 +-2| >= 4 holds in four."""
    a = [1.0, 2.0, -1.0, 0.5, 1.5]
    assert paired_permutation(a, np.zeros(5), clusters=["a", "a", "b", "c", "c"]) == 0.5
    assert paired_permutation([*a, np.nan], np.zeros(6), clusters=["a", "a", "b", "c", "c", "d"]) == 0.5


def test_permutation_of_clusters_is_right_where_that_of_images_is_not() -> None:
    """300 studies of 12 classes of 6 images, alike within a class, without a difference."""
    classes = np.repeat(np.arange(12), 6)
    studies = generator(28).standard_normal((300, 12))[:, classes] + 0.3 * generator(29).standard_normal((300, 72))
    zeros = np.zeros(72)
    together = [paired_permutation(study, zeros, clusters=classes) <= 0.05 for study in studies]
    alone = [paired_permutation(study, zeros, permutations=500) <= 0.05 for study in studies]
    assert 0.015 <= np.mean(together) <= 0.09
    assert np.mean(alone) > 0.25


# --- paired tests ---


@pytest.mark.parametrize("images", [5, 9, 13])
def test_exact_permutation_equals_scipy(images: int) -> None:
    a, b = generator(images).standard_normal((2, images)) + np.array([[0.5], [0.0]])
    theirs = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert paired_permutation(a, b) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_random_permutation_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = generator(7).standard_normal((2, 13)) + np.array([[0.4], [0.0]])
    exact = paired_permutation(a, b)
    monkeypatch.setattr(statistics, "_EXACT", 0)
    assert paired_permutation(a, b, permutations=40_000) == pytest.approx(exact, abs=0.01)


def test_permutation_counts_the_data_as_one_of_the_permutations() -> None:
    a = np.linspace(1, 2, 60)
    assert paired_permutation(a, np.zeros(60)) == 1 / 10_001


def test_permutation_uses_pairs_not_two_samples() -> None:
    """A small difference that every image shows is found under a large spread between images."""
    images = 100 * generator(8).standard_normal(40)
    assert paired_permutation(images + 0.01, images) < 0.001


def test_permutation_of_equal_scores_and_of_nothing() -> None:
    a = generator(9).standard_normal(20)
    assert paired_permutation(a, a) == 1
    assert np.isnan(paired_permutation([np.nan, 1.0], [1.0, np.nan]))
    assert paired_permutation([np.nan, 1, 2, 3], [5, 0, 0, 0]) == 0.25


def test_permutation_counts_ties_that_rounding_hides() -> None:
    """Differences of 0.1, 0.2, 0.3: 0.1 + 0.2 - 0.3 is 0 but for rounding, so flips tie with the observed 0."""
    assert paired_permutation([0.1, 0.2, 0.0], [0.0, 0.0, 0.3]) == 1


def test_permutation_is_right_under_the_hypothesis() -> None:
    values = np.pad(generator(10).standard_normal((20, 1000)), ((0, 0), (0, 1)))
    pairs = np.array([(column, 1000) for column in range(1000)])
    p = statistics._sign_flips(values, pairs, permutations=2000, seed=0)
    assert 0.03 <= np.mean(p <= 0.05) <= 0.07
    assert stats.kstest(p, "uniform").statistic < 0.06


def test_wilcoxon_by_enumeration() -> None:
    a = generator(30).standard_normal(9) + 0.6
    ranks = stats.rankdata(np.abs(a))
    signs = 1 - 2 * ((np.arange(2**9)[:, None] >> np.arange(9)) & 1)
    assert wilcoxon(a, np.zeros(9)) == pytest.approx(np.mean(np.abs(signs @ ranks) >= abs(np.sign(a) @ ranks)))


def test_wilcoxon_ranks_zeros_and_leaves_them_out_of_the_sums() -> None:
    """Pratt by hand, with the normal approximation: four zeros take the ranks 1 to 4."""
    a = np.r_[np.zeros(4), generator(31).standard_normal(56) + 0.3]
    ranks = np.r_[np.zeros(4), 4 + stats.rankdata(np.abs(a[4:]))]
    z = (np.sign(a) @ ranks) / np.sqrt((ranks**2).sum())
    assert wilcoxon(a, np.zeros(60)) == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert wilcoxon(np.r_[a, np.nan], np.zeros(61)) == wilcoxon(a, np.zeros(60))
    assert wilcoxon(a, np.zeros(60)) != pytest.approx(wilcoxon(a[4:], np.zeros(56)))


def test_wilcoxon_of_equal_scores_and_of_nothing() -> None:
    assert wilcoxon([0.3, 0.4], [0.3, 0.4]) == 1
    assert np.isnan(wilcoxon([np.nan, 1.0], [1.0, np.nan]))


def test_holm_agrees_with_statsmodels() -> None:
    p = generator(32).random(40) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9, 0.5]), 1)
    assert holm([]).shape == (0,)


# --- pairs of a table ---


def test_tests_of_pairs_are_single_tests() -> None:
    values = generator(33).standard_normal((40, 6)) + np.array([0, 0, 0.2, 0.4, 0.5, 0.6])
    values[:3, 2] = np.nan
    values[5:9, 4] = np.nan
    pairs = np.array(list(combinations(range(6), 2)))
    single = [paired_permutation(values[:, i], values[:, j]) for i, j in pairs]
    near = np.array(single) > 0.001
    assert 5 < near.sum() < 15
    np.testing.assert_allclose(pair_tests(values, pairs)[near], np.array(single)[near], rtol=1e-12)


@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "standard_cauchy"])
def test_pairs_far_apart_have_a_bound_that_no_exact_p_exceeds(draw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bound below 1 stands here, against all flips of 13 images; it is no wild one."""
    monkeypatch.setattr(statistics, "PERMUTATIONS", 0)
    shifts = np.repeat([0, 0.5, 1, 1.5, 2], 40)
    values = np.c_[getattr(generator(34), draw)((13, 200)) + shifts, np.zeros(13)]
    pairs = np.array([(column, 200) for column in range(200)])
    bound = pair_tests(values, pairs)
    exact = statistics._sign_flips(values, pairs, 0, seed=0)
    assert np.sum(exact < bound) > 80
    assert (exact <= bound).all()
    # All images on one side: z = sqrt(13) for equal differences, exact p 2 / 2^13.
    equal = pair_tests(np.ones((13, 2)) * [1, 0], np.array([[0, 1]]))
    assert 2 / 2**13 < equal[0] < 6 * 2 / 2**13


def test_pairs_far_apart_have_smaller_p_than_permutations_could_show() -> None:
    values = generator(35).standard_normal((200, 2)) + np.array([1.0, 0.0])
    p = pair_tests(values, np.array([[0, 1]]))[0]
    assert stats.ttest_rel(*values.T).pvalue < 1e-9
    assert p < 1e-9
    # Equal scores, and no image in common.
    apart = np.array([[1.0, 1.0, np.nan], [2.0, 2.0, np.nan], [np.nan, np.nan, 3.0]])
    assert pair_tests(apart, np.array([[0, 1], [0, 2]])).tolist() == [1, 1]


# --- groups ---


def letters(rows: int, *pairs: tuple[int, int]) -> list[str]:
    different = np.zeros((rows, rows), dtype=bool)
    for i, j in pairs:
        different[i, j] = True
    return statistics._letters(different)


def test_letters_of_known_cases() -> None:
    assert letters(3) == ["a", "a", "a"]
    assert letters(3, (0, 1), (0, 2), (1, 2)) == ["a", "b", "c"]
    assert letters(4, (0, 2), (0, 3), (1, 3)) == ["a", "ab", "bc", "c"]
    assert letters(5, (0, 2), (0, 3), (0, 4), (1, 3), (1, 4)) == ["a", "ab", "bc", "c", "c"]
    # Differences that skip: the best and the worst are alike although both differ from the row between them.
    assert letters(3, (0, 1), (1, 2)) == ["a", "b", "a"]
    assert letters(1) == ["a"]
    assert letters(0) == []


def test_rows_share_a_letter_exactly_if_they_are_not_different() -> None:
    for seed in range(20):
        different = np.triu(generator(seed).random((9, 9)) < 0.5, 1)
        names = statistics._letters(different)
        for i, j in combinations(range(9), 2):
            assert bool(set(names[i]) & set(names[j])) != different[i, j]
        assert names[0].startswith("a")


def test_more_groups_than_letters_keep_their_own_signs() -> None:
    names = statistics._letters(np.triu(np.ones((60, 60), dtype=bool), 1))
    assert len(set(names)) == 60


@pytest.mark.parametrize(("higher_is_better", "expected"), [(True, "ccab"), (False, "aacb")])
def test_groups_find_what_differs(higher_is_better: bool, expected: str) -> None:
    images = generator(11).standard_normal((64, 1))
    noise = 0.1 * generator(12).standard_normal((64, 4))
    scores = pd.DataFrame(images + noise + [0, 0, 1, 0.5], columns=["random", "sobel", "best", "middle"])
    assert "".join(rank_groups(scores, higher_is_better).values()) == expected
    assert list(rank_groups(scores, higher_is_better)) == list(scores)


def test_groups_equal_single_tests_with_holm() -> None:
    scores = pd.DataFrame(generator(13).standard_normal((40, 5)) + np.array([0.0, 0.3, 0.5, 0.6, 1.2]))
    pairs = list(combinations(range(5), 2))
    adjusted = holm([paired_permutation(scores[i], scores[j]) for i, j in pairs])
    groups = rank_groups(scores, higher_is_better=True)
    assert 0 < sum(adjusted <= 0.05) < len(pairs)
    for (i, j), p in zip(pairs, adjusted, strict=True):
        assert bool(set(groups[i]) & set(groups[j])) == (p > 0.05)


def test_groups_leave_missing_images_out_pair_by_pair() -> None:
    scores = pd.DataFrame({"a": np.arange(30.0), "b": np.arange(30.0) + 1, "none": np.nan})
    scores.loc[:9, "b"] = np.nan
    assert rank_groups(scores, higher_is_better=True) == {"a": "b", "b": "a", "none": ""}
    # No image in common: nothing can be shown.
    apart = pd.DataFrame({"a": [1.0] * 20 + [np.nan] * 20, "b": [np.nan] * 20 + [2.0] * 20})
    assert rank_groups(apart, higher_is_better=True) == {"a": "a", "b": "a"}


def test_groups_can_still_tell_many_rows_apart() -> None:
    """With 40 rows a p value of 1 / 10,001, the least of 10,000 permutations, is not small enough after Holm."""
    scores = pd.DataFrame(0.1 * generator(14).standard_normal((30, 40)))
    scores[7] += 5
    groups = rank_groups(scores, higher_is_better=True)
    assert groups.pop(7) == "a"
    assert "a" not in set("".join(groups.values()))


def test_groups_rarely_claim_a_difference_where_there_is_none() -> None:
    """Family-wise error of 5 rows without a difference, 100 times: at most 5 % but for chance (99.9 % quantile 13)."""
    draws = generator(15).standard_normal((100, 16, 5))
    claims = sum(set(rank_groups(pd.DataFrame(draw), True).values()) != {"a"} for draw in draws)
    assert 1 <= claims <= 13
