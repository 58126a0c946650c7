"""One method against another: effects and power against scipy, statsmodels, hand calculation and simulation."""

from __future__ import annotations

import doctest
from dataclasses import astuple
from math import inf, isnan

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from benchmark import comparison
from benchmark.comparison import compare, images_needed
from benchmark.errors import UserError
from benchmark.statistics import bootstrap_interval, paired_permutation, wilcoxon


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(comparison).failed == 0


def test_comparison_by_hand() -> None:
    """Differences 1, 0, 2, -1, NaN: better twice, tied once; mean 1/2, standard deviation sqrt(5/3)."""
    found = compare([2, 1, 3, 0, 7], [1, 1, 1, 1, np.nan], higher_is_better=True)
    assert found.images == 4
    assert found.difference == 0.5
    assert found.superiority == 2.5 / 4
    assert found.effect == pytest.approx(0.5 / np.sqrt(5 / 3))
    # Of the sixteen sign flips the zero halves, |+-1 +-2 +-1| >= 2 in six of eight.
    assert found.p == 6 / 8
    assert (found.low, found.high) == bootstrap_interval([1.0, 0.0, 2.0, -1.0])


def test_the_other_direction_turns_effect_and_superiority_and_leaves_the_difference() -> None:
    a, b = generator(1).standard_normal((2, 40)) + np.array([[0.4], [0.0]])
    up, down = compare(a, b, higher_is_better=True), compare(a, b, higher_is_better=False)
    assert down.effect == -up.effect
    assert down.superiority == pytest.approx(1 - up.superiority)
    assert (down.difference, down.low, down.high, down.p) == (up.difference, up.low, up.high, up.p)
    assert down.images_needed == up.images_needed
    swapped = compare(b, a, higher_is_better=False)
    assert swapped.effect == pytest.approx(up.effect)
    assert swapped.difference == pytest.approx(-up.difference)


def test_effect_is_that_of_the_paired_t_test() -> None:
    a, b = generator(2).standard_normal((2, 50))
    assert compare(a, b, True).effect * np.sqrt(50) == pytest.approx(stats.ttest_rel(a, b).statistic)


def test_superiority_without_ties_is_the_share_that_the_sign_test_counts() -> None:
    a, b = generator(3).standard_normal((2, 50)) + np.array([[0.2], [0.0]])
    assert compare(a, b, True).superiority == stats.binomtest(int((a > b).sum()), 50).statistic


def test_the_named_test_gives_p() -> None:
    a, b = generator(4).standard_exponential((2, 30))
    assert compare(a, b, True).p == paired_permutation(a, b)
    assert compare(a, b, True, test="wilcoxon").p == wilcoxon(a, b)
    assert wilcoxon(a, b) != paired_permutation(a, b)


def test_clusters_widen_what_resembles_each_other() -> None:
    """Eight classes of 25 images: differences within a class are alike."""
    classes = np.repeat(np.arange(8), 25)
    a = generator(5).standard_normal(8)[classes] + 0.1 * generator(6).standard_normal(200)
    alone, together = compare(a, np.zeros(200), True), compare(a, np.zeros(200), True, clusters=classes)
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert together.p > 20 * alone.p
    assert together.difference == alone.difference
    # Missing pairs take their labels with them.
    gap = np.where(np.arange(200) % 10 == 3, np.nan, a)
    left = ~np.isnan(gap)
    expected = compare(gap[left], np.zeros(180), True, clusters=classes[left])
    assert repr(compare(gap, np.zeros(200), True, clusters=classes)) == repr(expected)  # one of them is NaN
    assert isnan(together.images_needed)
    assert alone.images_needed == images_needed(together.effect)


def test_differences_without_spread() -> None:
    equal = compare([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], True)
    assert (equal.difference, equal.superiority, equal.effect, equal.p, equal.images_needed) == (0, 0.5, 0, 1, inf)
    # 0.4 - 0.1, 0.5 - 0.2 and 0.6 - 0.3 differ by rounding alone.
    shifted = compare([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], higher_is_better=True)
    assert (shifted.effect, shifted.superiority, shifted.images_needed) == (-inf, 0, 2)


def test_too_few_images_leave_what_is_undefined_nan() -> None:
    nothing = compare([np.nan, 1.0], [1.0, np.nan], True)
    assert nothing.images == 0
    assert all(isnan(number) for number in astuple(nothing)[1:])
    one = compare([0.5], [0.25], True)
    assert (one.images, one.difference, one.superiority, one.p) == (1, 0.25, 1, 1)
    assert all(isnan(number) for number in (one.low, one.high, one.effect, one.images_needed))


def test_mistakes_are_refused() -> None:
    with pytest.raises(UserError, match="wilcoxon"):
        compare([1.0], [2.0], True, test="wilcoxen")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="permutation"):
        compare([1.0, 2.0], [0.0, 0.0], True, test="wilcoxon", clusters=["a", "b"])
    with pytest.raises(ValueError, match="same images"):
        compare(pd.Series([1.0, 2.0], index=["a", "b"]), pd.Series([1.0, 2.0], index=["b", "a"]), True)
    with pytest.raises(ValueError, match="same images"):
        compare([1.0, 2.0], [1.0], True)
    with pytest.raises(ValueError, match="one an image"):
        compare([1.0, 2.0], [0.0, 0.0], True, clusters=["a", "b", "c"])


# --- how many images ---


@pytest.mark.parametrize("effect", [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.9), (0.05, 0.8), (0.01, 0.9), (0.05 / 45, 0.9)])
def test_images_needed_agrees_with_the_exact_t_test(effect: float, alpha: float, power: float) -> None:
    exact = TTestPower().solve_power(effect, alpha=alpha, power=power, alternative="two-sided")
    if exact > 10:
        assert abs(images_needed(effect, alpha, power) - np.ceil(exact)) <= 1
    assert images_needed(-effect, alpha, power) == images_needed(effect, alpha, power)


def test_images_needed_at_the_ends() -> None:
    assert images_needed(0.0) == inf
    assert isnan(images_needed(float("nan")))
    assert images_needed(inf) == 2


def test_as_many_images_find_the_effect_as_often_as_promised() -> None:
    """400 studies of an effect of 0.4: nine in ten find it, give or take three standard errors of 1.5 %."""
    images = int(images_needed(0.4))
    draws = generator(7).standard_normal((400, images)) + 0.4
    found = [paired_permutation(draw, np.zeros(images), permutations=1000) <= 0.05 for draw in draws]
    assert 0.855 <= np.mean(found) <= 0.945
