"""Where the points of a curve of deletion or insertion stand."""

from __future__ import annotations

import numpy as np

from benchmark.cells import Choice
from benchmark.statistics import Array


def fractions(metric: Choice, measure: str, points: int) -> Array:
    """`(points,)` the fraction of units that is deleted, or inserted, at each point of a curve.

    At equal steps from 0 to 1; where the option `steps` of the metric lists the fractions that are absent, those for
    deletion. What is inserted is what is not absent, so that those of insertion mirror them.

    >>> fractions(Choice("srg", {"steps": [0, 0.25, 1]}), "insertion", 3).tolist()
    [0.0, 0.75, 1.0]
    """
    steps = metric.params.get("steps")
    if not isinstance(steps, list | tuple) or len(steps) != points:
        return np.linspace(0, 1, points)
    absent = np.asarray(steps, dtype=float)
    return 1 - absent[::-1] if measure == "insertion" else absent
