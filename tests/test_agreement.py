"""Agreement of rankings against scipy, slow versions, hand calculation and simulation."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmark.agreement import agreement, flip_pairs, stability, validity
from benchmark.errors import UserError
from benchmark.ranking import kendall_w
from benchmark.statistics import holm, paired_permutation

METHODS = list("abcdefgh")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scores(seed: int, quality: np.ndarray, images: int = 40, noise: float = 1.0) -> pd.DataFrame:
    values = quality + noise * generator(seed).standard_normal((images, len(quality)))
    return pd.DataFrame(values, columns=METHODS[: len(quality)], index=[f"image-{i:03}" for i in range(images)])


def of_means(*rows: list[float]) -> dict[str, tuple[pd.DataFrame, bool]]:
    """Columns m0, m1, ... whose methods have these means, on two images."""
    return {
        f"m{place}": (pd.DataFrame([np.array(row) - 1, np.array(row) + 1], columns=METHODS[: len(row)]), True)
        for place, row in enumerate(rows)
    }


@pytest.fixture(autouse=True)
def _no_warning() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- tau ---


def test_tau_agrees_with_scipy_with_ties() -> None:
    rows = generator(1).integers(6, size=(5, 8)).astype(float).tolist()
    found = agreement(of_means(*rows), resamples=10).tau
    for i, j in combinations(range(5), 2):
        expected = stats.kendalltau(rows[i], rows[j]).statistic
        assert found.iloc[i, j] == pytest.approx(expected)
        assert found.iloc[j, i] == pytest.approx(expected)
    assert np.diag(found).tolist() == pytest.approx([1] * 5)


def test_tau_by_hand_and_by_direction() -> None:
    columns = of_means([1, 2, 3, 4], [1, 2, 4, 3])
    assert agreement(columns, 10).tau.loc["m0", "m1"] == pytest.approx(4 / 6)
    columns["m1"] = (columns["m1"][0], False)
    assert agreement(columns, 10).tau.loc["m0", "m1"] == pytest.approx(-4 / 6)


def test_tau_is_over_the_methods_that_both_have() -> None:
    columns = of_means([1, 2, 3, 4, 5], [1, 3, 2, 9, 0])
    columns["m1"] = (columns["m1"][0].assign(d=np.nan).drop(columns="e")[["c", "b", "a", "d"]], True)
    found = agreement(columns, 10)
    assert found.tau.loc["m0", "m1"] == pytest.approx(1 / 3)
    assert found.tau.loc["m1", "m0"] == pytest.approx(1 / 3)


def test_tau_is_undefined_for_one_method_or_ties_alone() -> None:
    columns = of_means([1, 2, 3], [2, 2, 2], [5])
    found = agreement(columns, 10)
    assert found.tau.isna().to_numpy().tolist() == [[False, True, True], [True, True, True], [True, True, True]]
    assert found.low.isna().equals(found.tau.isna())
    assert sorted(found.order) == ["m0", "m1", "m2"]


# --- intervals ---


def test_interval_follows_a_slow_bootstrap() -> None:
    """scipy's tau of the means by pandas, on the images drawn; two metrics of which one misses some scores."""
    quality = np.arange(8) / 8
    one, two = scores(2, quality), scores(3, quality)
    two = two.mask(generator(4).random(two.shape) < 0.2).iloc[5:]
    rng = generator(5)
    tau = stats.kendalltau(one.mean(), two.mean()).statistic
    away = []
    for _ in range(1000):
        drawn = one.index[rng.integers(40, size=40)]
        away.append(abs(stats.kendalltau(one.loc[drawn].mean(), two.reindex(drawn).mean()).statistic - tau))
    found = agreement({"one": (one, True), "two": (two, True)}, resamples=4000)
    assert found.tau.loc["one", "two"] == pytest.approx(tau)
    reach = tau - found.low.loc["one", "two"]
    assert 0.1 < reach < 0.7
    assert found.high.loc["one", "two"] == pytest.approx(min(1, tau + reach))
    # Taus of eight methods lie a fourteenth apart, so the quantile is a step.
    assert np.mean(np.array(away) < reach - 0.01) < 0.965
    assert np.mean(np.array(away) < reach + 0.01) > 0.935


def test_intervals_hold_what_as_many_other_images_give() -> None:
    """120 pairs of studies of eight methods; the tau of the second lies in the interval of the first."""
    held = []
    for seed in range(120):
        rng = generator(1000 + seed)
        quality = rng.standard_normal((2, 8)) * 0.3
        quality[1] += quality[0]
        first, second = (
            {name: (scores(4 * seed + 2 * study + row, quality[row], 50), True) for row, name in enumerate("xy")}
            for study in range(2)
        )
        found = agreement(first, resamples=200, seed=seed)
        tau = agreement(second, resamples=2).tau.loc["x", "y"]
        held.append(found.low.loc["x", "y"] - 1e-9 <= tau <= found.high.loc["x", "y"] + 1e-9)
    assert 0.86 <= np.mean(held) <= 0.995


def test_one_metric_twice_agrees_without_doubt() -> None:
    """The same images are drawn for both, so noise is shared; as independent draws they would differ."""
    noisy = scores(6, np.zeros(8))
    found = agreement({"x": (noisy, True), "negated": (-noisy, False)}, resamples=200)
    assert found.tau.loc["x", "negated"] == found.low.loc["x", "negated"] == found.high.loc["x", "negated"] == 1


def test_intervals_stay_within_their_bounds_and_around_tau() -> None:
    columns = {f"m{k}": (scores(k, np.arange(8.0) / 8), True) for k in range(6)}
    found = agreement(columns, resamples=300)
    assert (found.low >= -1).all(axis=None)
    assert (found.high <= 1).all(axis=None)
    assert ((found.low <= found.tau) & (found.tau <= found.high)).all(axis=None)
    assert (found.high - found.low).to_numpy()[np.triu_indices(6, 1)].min() > 0.1
    again = agreement(columns, resamples=300)
    pd.testing.assert_frame_equal(found.low, again.low)


def test_one_number_a_method_has_a_tau_and_no_interval() -> None:
    quality = np.arange(8.0)
    single = pd.DataFrame([quality], columns=METHODS, index=["-"])
    columns = {"x": (scores(7, quality), True), "single": (single, True), "y": (scores(8, quality), True)}
    found = agreement(columns, resamples=100)
    assert found.tau.loc["x", "single"] > 0.8
    assert found.low.loc["single"].isna().all()
    assert found.high["single"].isna().all()
    # It takes no part in the draws of the others.
    pair = agreement({name: columns[name] for name in ("x", "y")}, resamples=100)
    assert found.low.loc["x", "y"] == pair.low.loc["x", "y"]
    assert agreement({"single": columns["single"]}).low.isna().all(axis=None)


def test_order_puts_like_beside_like() -> None:
    groups = generator(9).standard_normal((3, 8))
    columns = {
        f"{name}{k}": (scores(10 * k + place, groups[place], 200, 0.3), True)
        for k in range(3)
        for place, name in enumerate("xyz")
    }
    order = agreement(columns, resamples=2).order
    names = "".join(name[0] for name in order)
    assert sorted(order) == sorted(columns)
    assert {names[:3], names[3:6], names[6:]} == {"xxx", "yyy", "zzz"}
    two = {name: columns[name] for name in ("z1", "x0")}
    assert agreement(two, resamples=2).order == ("z1", "x0")


def test_validity_is_the_column_of_the_reference() -> None:
    columns = {f"m{k}": (scores(k, (1 - k / 3) * np.arange(8.0) / 4), True) for k in range(6)}
    table, whole = validity(columns, "m0", resamples=200), agreement(columns, resamples=200)
    assert list(table.index) == ["m1", "m2", "m3", "m4", "m5"]
    for name in ("tau", "low", "high"):
        np.testing.assert_allclose(table[name], getattr(whole, name)["m0"].drop("m0"), rtol=1e-6)
    assert table["tau"]["m1"] > 0.5 > table["tau"]["m3"] > -0.6 > table["tau"]["m5"]
    with pytest.raises(UserError, match="m1"):
        validity(columns, "m-1")


# --- settings ---


def test_stability_by_hand() -> None:
    """Orders abc, abc, acb: tau 1, 1/3, 1/3; W of these ranks 12 * 14 / (9 * 24) = 7/9."""
    settings = {name: pd.DataFrame([row], columns=list("abc")) for name, row in
                {"mean": [3.0, 2, 1], "zero": [9.0, 8, 0], "blur": [5.0, 1, 2]}.items()}  # fmt: skip
    found = stability(settings, True)
    assert found.w == pytest.approx(7 / 9)
    assert (found.tau, found.lowest) == pytest.approx((5 / 9, 1 / 3))
    assert found.winners == {"mean": "a", "zero": "a", "blur": "a"}
    turned = stability(settings, False)
    assert (turned.w, turned.tau, turned.lowest) == pytest.approx((found.w, found.tau, found.lowest))
    assert turned.winners == {"mean": "c", "zero": "c", "blur": "b"}


def test_stability_ranks_means_of_methods_that_all_settings_have() -> None:
    quality = np.arange(6.0) / 6
    settings = {f"s{k}": scores(k, quality) for k in range(4)}
    means = np.array([part.mean() for part in settings.values()])
    taus = [stats.kendalltau(means[i], means[j]).statistic for i, j in combinations(range(4), 2)]
    found = stability(settings, True)
    assert (found.w, found.tau, found.lowest) == pytest.approx((kendall_w(means), np.mean(taus), np.min(taus)))
    gap = settings | {"s1": settings["s1"].assign(f=np.nan, g=99.0)}
    without = stability({name: part.drop(columns="f") for name, part in settings.items()}, True)
    assert (stability(gap, True).w, stability(gap, True).tau) == pytest.approx((without.w, without.tau))
    assert stability(gap, True).winners["s1"] == "g"


def test_stability_of_ties_and_of_nothing() -> None:
    part = pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0], "c": [0.0, 0.0]})
    alone = stability({"mean": part}, True)
    assert alone.winners == {"mean": "a = b"}
    assert np.isnan([alone.w, alone.tau, alone.lowest]).all()
    nothing = stability({"mean": part * np.nan, "zero": part}, True)
    assert nothing.winners == {"mean": "", "zero": "a = b"}
    assert np.isnan([nothing.w, nothing.tau]).all()


def test_flips_find_the_pair_that_turns() -> None:
    quality = np.array([0.0, 1.0, 2.0])
    settings = {"mean": scores(1, quality), "zero": scores(2, quality[[0, 2, 1]]), "blur": scores(3, quality * 0)}
    expected = {"better": "c", "worse": "b", "under": "mean", "over": "zero"}
    assert flip_pairs(settings, True).to_dict("records") == [expected]
    turned = expected | {"better": "b", "worse": "c"}
    assert flip_pairs(settings, False).to_dict("records") == [turned]


def test_flips_equal_single_tests_with_holm_over_all_settings() -> None:
    qualities = generator(11).standard_normal((3, 5)) * 0.8
    settings = {name: scores(20 + k, qualities[k]) for k, name in enumerate(["mean", "zero", "blur"])}
    pairs = list(combinations("abcde", 2))
    tests = [(name, i, j) for name in settings for i, j in pairs]
    p = holm([paired_permutation(settings[name][i], settings[name][j]) for name, i, j in tests])
    ahead = {
        (name, *pair)
        for (name, i, j), adjusted in zip(tests, p, strict=True)
        if adjusted <= 0.05
        for pair in [(i, j) if settings[name][i].mean() > settings[name][j].mean() else (j, i)]
    }
    expected = {
        (i, j, under, over)
        for under, over in combinations(settings, 2)
        for i in "abcde"
        for j in "abcde"
        if (under, i, j) in ahead and (over, j, i) in ahead
    }
    assert len(expected) > 2
    assert set(flip_pairs(settings, True).itertuples(index=False, name=None)) == expected


def test_flips_are_rare_where_there_are_none() -> None:
    """60 sweeps of four equal methods under three settings: hardly ever a row."""
    found = [
        len(flip_pairs({f"s{k}": scores(3 * seed + k, np.zeros(4), 20) for k in range(3)}, True)) for seed in range(60)
    ]
    assert sum(found) <= 1


def test_flips_need_images_in_common_and_two_settings() -> None:
    apart = pd.DataFrame({"a": [1.0, 1.0, np.nan, np.nan], "b": [np.nan, np.nan, 2.0, 2.0]})
    assert flip_pairs({"mean": apart, "zero": -apart}, True).empty
    alone = flip_pairs({"mean": scores(1, np.arange(3.0))}, True)
    assert list(alone.columns) == ["better", "worse", "under", "over"]
    assert alone.empty
    assert flip_pairs({"mean": apart[["a"]], "zero": apart[["a"]]}, True).empty
    # A method that one setting lacks is compared where it is.
    settings = {"mean": scores(1, np.array([0.0, 5.0])), "zero": scores(2, np.array([0.0]))}
    assert flip_pairs(settings, True).empty
