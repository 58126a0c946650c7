"""What the values of a map look like: blue through white to red about 0, or white to brown where none is negative."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap
from numpy.typing import ArrayLike

from benchmark.figures import Array

SIGNED = colormaps["RdBu_r"]
# The upper half of a diverging map: zero has the same colour in both, and the hue tells which of them it is.
UNSIGNED = LinearSegmentedColormap.from_list("unsigned", colormaps["PuOr_r"](np.linspace(0.5, 1, 128)))

_ROUNDING = 1e-6  # of the largest value, in float32


@dataclass(frozen=True)
class Scale:
    """What the colours of one map stand for.

    Attributes:
        low, high: what the ends of the bar of colours mean; values beyond them have the colour of the end.
        signed: whether the map has negative values: then low is -high, and white is 0. Without, white is `low`.
    """

    low: float
    high: float
    signed: bool

    @property
    def colours(self) -> Colormap:
        return SIGNED if self.signed else UNSIGNED

    def place(self, values: ArrayLike) -> Array:
        """Where on the bar of colours values stand, 0 at `low` and 1 at `high`."""
        values = np.asarray(values, dtype=float)
        if self.signed:
            return (values / self.high + 1) / 2
        return (values - self.low) / max(self.high - self.low, 1e-12 * abs(self.high))

    def colour(self, values: ArrayLike) -> Array:
        """`(..., 3)` red, green and blue."""
        return np.asarray(self.colours(self.place(values)))[..., :3]

    def strength(self, values: ArrayLike) -> Array:
        """How far from white values are, in [0, 1]."""
        place = self.place(values).clip(0, 1)
        return np.abs(2 * place - 1) if self.signed else place


def scale_of(values: ArrayLike) -> Scale:
    """The scale of a finite map: full colour is the 99th percentile of its |value|, so one outlier hides nothing."""
    values = np.asarray(values, dtype=float)
    size = np.abs(values)
    # A map that is zero nearly everywhere has no 99th percentile to scale by.
    high = float(np.percentile(size, 99) or size.max())
    low = float(values.min())
    if low < 0:
        return Scale(-high, high, True)
    # A map without negatives may lie far above zero everywhere, as RISE's do: only its differences can be seen.
    return Scale(low, high if high > low else float(values.max()), False)


def flaw(values: ArrayLike) -> str:
    """A word for a map in which there is nothing to see but errors of rounding, empty for any other."""
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        return "invalid"
    return "constant" if np.ptp(values) <= _ROUNDING * np.abs(values).max() else ""


def paint(values: ArrayLike, image: ArrayLike) -> tuple[Array, str]:
    """Colours `(H, W, 3)` of one map `(H, W)` over its image in faint grey, and a word where there is no map to see."""
    values, image = np.asarray(values, dtype=float), np.asarray(image, dtype=float)
    if word := flaw(values):
        return np.full((*values.shape, 3), 0.86), word
    return scale_of(values).colour(values) * (0.8 + 0.2 * grey(image)[..., None]), ""


def overlay(values: ArrayLike, image: ArrayLike) -> Array:
    """Colours `(H, W, 3)` of the image in light grey, hidden by those of the map where its values are strong."""
    values = np.asarray(values, dtype=float)
    scale = scale_of(values)
    cover = 0.9 * np.sqrt(scale.strength(values))[..., None]
    return (1 - cover) * (0.3 + 0.7 * grey(image))[..., None] + cover * scale.colour(values)


def grey(image: ArrayLike) -> Array:
    """The brightness `(H, W)` of an image `(H, W)` or `(H, W, 3)`."""
    image = np.asarray(image, dtype=float)
    return image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])
