"""Shares of variance against statsmodels, a simulation with known components and hand calculation."""

from __future__ import annotations

import doctest
from itertools import product

import numpy as np
import pandas as pd
import pytest
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from benchmark import variance
from benchmark.variance import anchored, pareto, shares


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def long(cube: np.ndarray) -> pd.DataFrame:
    """`(images, seeds, models)` as a row a combination, in no order."""
    rows = [(f"image-{i}", seed, f"model-{m}", cube[i, seed, m]) for i, seed, m in product(*map(range, cube.shape))]
    return pd.DataFrame(rows, columns=["image", "seed", "model", "value"]).sample(frac=1, random_state=0)


def drawn(seed: int, sizes: tuple[int, int, int], spreads: tuple[float, float, float, float]) -> np.ndarray:
    rng = generator(seed)
    effects = [rng.standard_normal(size) * spread for size, spread in zip(sizes, spreads, strict=False)]
    noise = rng.standard_normal(sizes) * spreads[3]
    return effects[0][:, None, None] + effects[1][:, None] + effects[2] + noise


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(variance).failed == 0


def test_shares_follow_from_the_mean_squares_of_statsmodels() -> None:
    sizes = (12, 4, 3)
    table = long(drawn(1, sizes, (1.0, 0.6, 0.8, 0.5)))
    squares = anova_lm(ols("value ~ C(image) + C(seed) + C(model)", table).fit())["mean_sq"]
    noise = squares["Residual"]
    expected = {
        "image": (squares["C(image)"] - noise) / 12,
        "seed": (squares["C(seed)"] - noise) / 36,
        "model": (squares["C(model)"] - noise) / 48,
        "rest": noise,
    }
    assert min(expected.values()) > 0
    found = shares(table)
    assert found.attrs["negative"] == ()
    assert found.to_dict() == pytest.approx({name: part / sum(expected.values()) for name, part in expected.items()})


def test_shares_of_known_components() -> None:
    """4 : 1 : 2 : 3, 60 studies; few levels of seed and model make single studies wide, their mean is not."""
    spreads = (2.0, 1.0, 2**0.5, 3**0.5)
    found = pd.DataFrame([shares(long(drawn(seed, (20, 12, 12), spreads))) for seed in range(60)]).mean()
    assert found.to_numpy() == pytest.approx([0.4, 0.1, 0.2, 0.3], abs=0.04)


def test_two_factors_by_hand() -> None:
    """Scores 0, 2 / 4, 6 / 8, 10: sums of squares 64 of images, 6 of models, no rest."""
    found = shares(long(np.array([[0, 2], [4, 6], [8, 10.0]])[:, None]))
    assert np.isnan(found["seed"])
    # MS 32 and 6: components 32 / 2 and 6 / 3.
    assert found.drop("seed").to_dict() == pytest.approx({"image": 16 / 18, "model": 2 / 18, "rest": 0})


def test_a_negative_estimate_becomes_0_and_is_named() -> None:
    """Every image has both orders of seeds: the seeds' means are equal, which noise alone would not leave."""
    found = shares(long(np.array([[0, 2], [2, 0], [5, 7], [7, 5.0]])[:, :, None]))
    assert found["seed"] == 0
    assert found.attrs["negative"] == ("seed",)
    assert found[["image", "rest"]].sum() == pytest.approx(1)


def test_shares_leave_incomplete_images_out() -> None:
    table = long(drawn(2, (10, 3, 2), (1.0, 1.0, 1.0, 1.0)))
    gap = table.copy()
    gap.loc[(gap["image"] == "image-3") & (gap["seed"] == 1) & (gap["model"] == "model-0"), "value"] = np.nan
    lost = gap[(gap["image"] != "image-5") | (gap["seed"] != 2)]
    pd.testing.assert_series_equal(shares(lost), shares(table[~table["image"].isin(["image-3", "image-5"])]))


def test_shares_are_undefined_where_nothing_can_be_told_apart() -> None:
    assert shares(long(np.arange(5.0)[:, None, None])).isna().all()
    assert shares(long(np.ones((4, 3, 2)))).isna().all()
    assert shares(long(np.ones((4, 3, 2)))[:0]).isna().all()
    table = long(np.ones((2, 2, 1)))
    with pytest.raises(ValueError, match="twice"):
        shares(pd.concat([table, table]))


def test_pareto_follows_the_definition() -> None:
    rng = generator(3)
    quality, cost = pd.Series(rng.integers(8, size=60).astype(float)), pd.Series(rng.integers(8, size=60).astype(float))
    for higher_is_better in (True, False):
        sign = 1 if higher_is_better else -1
        found = pareto(quality, cost, higher_is_better)
        for i in range(60):
            beaten = any(
                sign * quality[j] >= sign * quality[i]
                and cost[j] <= cost[i]
                and (quality[j] != quality[i] or cost[j] != cost[i])
                for j in range(60)
            )
            assert found[i] == (not beaten)
        assert 1 <= found.sum() < 30


def test_pareto_pairs_by_name_and_leaves_out_what_is_not_known() -> None:
    quality = pd.Series({"a": 0.9, "b": 0.5, "c": np.nan, "d": 0.9, "e": 2.0})
    cost = pd.Series({"d": 5.0, "c": 0.1, "b": 1.0, "a": 9.0, "e": np.nan})
    assert pareto(quality, cost, True).to_dict() == {"a": False, "b": True, "c": False, "d": True, "e": False}


def test_anchored_in_both_directions() -> None:
    assert anchored(0.75, null=0.5, oracle=1.0) == 0.5
    assert anchored(0.2, null=0.5, oracle=0.1) == pytest.approx(0.75)
    assert anchored(0.1, null=0.2, oracle=0.7) == pytest.approx(-0.2)
    assert np.isnan(anchored(0.3, null=0.3, oracle=0.3))


def test_anchored_columns_keep_their_names() -> None:
    value, null, oracle = (pd.Series(row, index=["x", "y"]) for row in ([1.0, 5.0], [0.0, 2.0], [4.0, 2.0]))
    found = anchored(value, null, oracle)
    assert found["x"] == 0.25
    assert np.isnan(found["y"])
    np.testing.assert_array_equal(anchored(value.to_numpy(), null.to_numpy(), oracle.to_numpy()), found)
