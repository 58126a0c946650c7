"""Where the spread of scores comes from, and quality beside what it costs and beside what is possible."""

from __future__ import annotations

from math import nan
from typing import TypeVar

import numpy as np
import pandas as pd

from benchmark.statistics import Array

FACTORS = ("image", "seed", "model")

Score = TypeVar("Score", float, Array, pd.Series)


def shares(long: pd.DataFrame) -> pd.Series:
    """The variance of one method's scores, split into shares of `image`, `seed`, `model` and `rest`, that sum to 1.

    score = mean + image + seed + model + rest, all random and independent, on a full grid of a images, b seeds and c
    models. With MS the mean squares of the analysis of variance, the components are

        var(rest) = MS_rest        var(image) = (MS_image - MS_rest) / (b c)        and so for seed and model

    An estimate below 0 becomes 0, and the factor stands in `.attrs["negative"]`. `rest` is everything that belongs to a
    combination: noise of the single map, images that are hard for one model alone. The seed's share is only what moves
    all images together. A factor with one level has no share (NaN). If the grid has no spread, or nothing but one
    factor varies, so that rest and factor are one, all are NaN. Images that lack a score of any seed or model are left
    out.

    Args:
        long: columns image, seed, model, value; each combination at most once.

    Raises:
        ValueError: a combination stands twice.

    Source: Searle, Casella and McCulloch, Variance components (1992), chapter 4 (ANOVA estimators of balanced data).
    """
    split = pd.Series(nan, index=[*FACTORS, "rest"], name="share")
    split.attrs["negative"] = ()
    if long.duplicated(list(FACTORS)).any():
        raise ValueError("a combination of image, seed and model stands twice")
    if long.empty:
        return split
    grid = long.set_index(list(FACTORS))["value"].unstack(["seed", "model"])
    levels = [grid.columns.unique(level) for level in ("seed", "model")]
    grid = grid.reindex(columns=pd.MultiIndex.from_product(levels)).dropna()
    sizes = (len(grid), *map(len, levels))
    cube = grid.to_numpy(dtype=float).reshape(sizes)
    free = cube.size - 1 - sum(size - 1 for size in sizes)
    if not cube.size or free < 1 or not np.ptp(cube):
        return split
    mean = cube.mean()
    rest = cube - mean
    squares = {}
    for axis, (factor, size) in enumerate(zip(FACTORS, sizes, strict=True)):
        effect = cube.mean(axis=tuple({0, 1, 2} - {axis}), keepdims=True) - mean
        rest = rest - effect
        if size > 1:
            squares[factor] = (effect**2).sum() * cube.size / size / (size - 1)
    noise = (rest**2).sum() / free
    components = {f: (ms - noise) * sizes[FACTORS.index(f)] / cube.size for f, ms in squares.items()}
    split.attrs["negative"] = tuple(factor for factor, component in components.items() if component < 0)
    positive = {factor: max(0.0, component) for factor, component in components.items()} | {"rest": noise}
    for factor, component in positive.items():
        split[factor] = component / sum(positive.values())
    return split


def pareto(quality: pd.Series, cost: pd.Series, higher_is_better: bool) -> pd.Series:
    """Whether each method is on the front: no other is at least as good and as cheap, and better in one of the two.

    `quality` and `cost` have the methods as index; a method without either is not on the front. Less cost is better.

    >>> pareto(pd.Series([0.9, 0.8, 0.7]), pd.Series([100, 1, 2]), higher_is_better=True).tolist()
    [True, True, False]
    """
    q = quality.to_numpy(dtype=float) * (1 if higher_is_better else -1)
    c = cost.reindex(quality.index).to_numpy(dtype=float)
    front = [
        not np.any((q >= mine) & (c <= price) & ((q > mine) | (c < price))) for mine, price in zip(q, c, strict=True)
    ]
    return pd.Series(front, index=quality.index, dtype=bool) & ~np.isnan(q + c)


def anchored(value: Score, null: Score, oracle: Score) -> Score:
    """(value - null) / (oracle - null): 0 is knowing nothing of the model, 1 the truth; NaN where these two are equal.

    In either direction of the metric; below 0 and above 1 are possible.

    >>> float(anchored(0.3, null=0.5, oracle=0.1))
    0.5
    """
    span = oracle - null
    return (value - null) / np.where(span == 0, nan, span)  # type: ignore[return-value]
