"""The statistics of a table against scipy, hand calculation and simulation."""

from __future__ import annotations

import doctest
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark import statistics
from benchmark.statistics import bootstrap_interval, bootstrap_intervals, holm, paired_permutation, rank_groups


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
    p = statistics._sign_flips(generator(10).standard_normal((20, 1000)), permutations=2000, seed=0)
    assert 0.03 <= np.mean(p <= 0.05) <= 0.07
    assert stats.kstest(p, "uniform").statistic < 0.06


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9, 0.5]), 1)
    assert holm([]).shape == (0,)


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
    """With 40 rows a p value of 1 / 10,001 is not small enough after Holm, so more permutations are drawn."""
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
