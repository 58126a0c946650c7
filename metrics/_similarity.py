"""How alike two maps are, one number an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import maps, randomness
from benchmark.protocols import Batch, Measure, Scores

MEASURES = tuple(
    Measure(name, higher_is_better=None, range=(-limit, limit), ranked=False)
    for name, limit in {
        "spearman_abs": 1.0,
        "spearman": 1.0,
        "ssim": 1.0,
        "hog": 1.0,
        "cosine": 1.0,
        "gap": 2.0,
    }.items()
)
"""What every randomisation test reports of a map and the one after it, see `View` and `scored`."""

_WINDOW = 11  # of structural similarity, in pixels
_BINS = 9  # orientations of a histogram of gradients
_BLOCK = 3  # cells to the side of a block


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation `(N,)` of maps `(N, H, W)`, ties by average rank; NaN where a map is constant."""
    return _aligned(_ranks(first), _ranks(second))


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine `(N,)` of the angle between maps `(N, H, W)` read as vectors, signed; NaN where a map is zero."""
    return _aligned(first.double().flatten(1), second.double().flatten(1))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity `(N,)` of maps `(N, H, W)`, each scaled to [0, 1] by its own minimum and maximum.

    Gaussian window of sigma 1.5 and 11 pixels, valid region only (Wang et al. 2004, doi:10.1109/TIP.2003.819861); NaN
    where a map is smaller than the window.
    """
    return _structural(_Windows.of(first), _Windows.of(second))


def hog(values: Tensor, cell: int | None = None) -> Tensor:
    """Histograms of oriented gradients `(N, D)` of maps `(N, H, W)`, each scaled to [0, 1]; D = 0 where they are small.

    9 unsigned orientations, votes weighted by magnitude, blocks of 3 x 3 cells normalised by L2-Hys (Dalal & Triggs
    2005, doi:10.1109/CVPR.2005.177), in the order of scikit-image. A cell has 16 x 16 pixels, and in maps smaller than
    128 an eighth of the shorter side.
    """
    values = _unit_range(values.double())
    height, width = values.shape[1:]
    cell = cell or min(16, max(1, min(height, width) // 8))
    if min(height // cell, width // cell) < _BLOCK:
        return values.new_zeros(len(values), 0)
    down, across = torch.zeros_like(values), torch.zeros_like(values)
    down[:, 1:-1], across[:, :, 1:-1] = values[:, 2:] - values[:, :-2], values[:, :, 2:] - values[:, :, :-2]
    # An edge and its negative are one orientation in [0, pi); exactly 0 on every device where the rows are equal.
    across = torch.where((down < 0) | ((down == 0) & (across < 0)), -across, across)
    bins = (torch.atan2(down.abs(), across) * (_BINS / torch.pi)).long().clamp(max=_BINS - 1)
    strength = torch.hypot(down, across)
    votes = torch.stack([torch.where(bins == each, strength, 0.0) for each in range(_BINS)], 1)
    cells = nn.functional.avg_pool2d(votes, cell)
    blocks = cells.unfold(2, _BLOCK, 1).unfold(3, _BLOCK, 1)
    blocks = _unit_length(_unit_length(blocks).clamp(max=0.2))
    return blocks.permute(0, 2, 3, 4, 5, 1).flatten(1)


@dataclass(frozen=True)
class View:
    """What maps `(N, H, W)` are compared by, taken from them once, however many others they are compared with.

    Spearman's correlation of magnitudes (`spearman_abs`) and of signed values (`spearman`), structural similarity
    (`ssim`), Pearson's correlation of histograms of oriented gradients (`hog`), and the signed `cosine`.

    The authors of the sanity checks take Spearman's correlation of the histograms too. In the flat parts of a map a
    histogram is rounding error, which ranks would give the same say as its edges.
    """

    vectors: Mapping[str, Tensor]
    windows: _Windows

    @classmethod
    def of(cls, values: Tensor) -> View:
        vectors = {
            "spearman_abs": _ranks(values.abs()),
            "spearman": _ranks(values),
            "hog": _centred(hog(values)),
            "cosine": values.double().flatten(1),
        }
        return cls(vectors, _Windows.of(values))

    def likeness(self, other: View) -> dict[str, Tensor]:
        """Each similarity `(N,)` to `other`: 0 where only the other is constant, undefined where this one is.

        Constant means for the cosine a map of zeros, and for the histograms one without edges. The structural
        similarity needs no such rule.
        """
        found = {}
        for name, own in self.vectors.items():
            theirs = other.vectors[name]
            nothing_left = own.any(1) & ~theirs.any(1)
            found[name] = torch.where(nothing_left, 0.0, _aligned(own, theirs))
        return found | {"ssim": _structural(self.windows, other.windows)}

    def chance(self, keys: Tensor) -> Tensor:
        """Mean `spearman_abs (N,)` to copies of the map that are rolled by the random shift of each key."""
        height, width = self.windows.scaled.shape[1:]
        ranks = self.vectors["spearman_abs"].view(-1, height, width)
        shift = randomness.uniform(keys, 2)
        down = (shift[..., 0] * (height - 1)).long() + 1
        across = (shift[..., 1] * (width - 1)).long() + 1
        image = torch.arange(len(ranks), device=ranks.device)[:, None, None]
        correlations = []
        for draw in range(keys.shape[1]):
            rows = (torch.arange(height, device=ranks.device) - down[:, draw, None]) % height
            columns = (torch.arange(width, device=ranks.device) - across[:, draw, None]) % width
            rolled = ranks[image, rows[:, :, None], columns[:, None, :]]
            correlations.append(_aligned(ranks.flatten(1), rolled.flatten(1)))
        return torch.stack(correlations, 1).mean(1)


def scored(original: View, found: Sequence[Mapping[str, Tensor]], batch: Batch, seeds: int = 1) -> Scores:
    """`MEASURES` of maps from their likeness to others: means over `found`, which runs through the stages of each seed.

    The curves are means over seeds, a point a stage. `gap` is `spearman_abs` minus what two maps of this shape share by
    chance.
    """
    together = {name: torch.stack([step[name] for step in found], 1) for name in found[0]}
    curves = {name: steps.view(len(batch), seeds, -1).mean(1) for name, steps in together.items()}
    values = {name: curve.mean(1) for name, curve in curves.items()}
    values["gap"] = values["spearman_abs"] - original.chance(batch.keys("shift", 8))
    return Scores(values, curves)


@dataclass(frozen=True)
class _Windows:
    """Maps scaled to [0, 1], with mean and variance of every window that structural similarity looks at."""

    scaled: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, values: Tensor) -> _Windows:
        scaled = _unit_range(values.double())
        mean = _window_mean(scaled)
        return cls(scaled, mean, _window_mean(scaled.square()) - mean.square())


def _structural(first: _Windows, second: _Windows) -> Tensor:
    covariance = _window_mean(first.scaled * second.scaled) - first.mean * second.mean
    luminance = (2 * first.mean * second.mean + 0.01**2) / (first.mean.square() + second.mean.square() + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (first.variance + second.variance + 0.03**2)
    return (luminance * structure).mean((1, 2))


def _window_mean(values: Tensor) -> Tensor:
    """Gaussian mean of every whole window: `(N, H, W)` to `(N, H - 10, W - 10)`, or to nothing in smaller maps."""
    if min(values.shape[1:]) < _WINDOW:
        return values[:, :0]
    offset = torch.arange(_WINDOW, dtype=values.dtype, device=values.device) - _WINDOW // 2
    weights = torch.exp(-offset.square() / (2 * 1.5**2))
    weights = weights / weights.sum()
    rows = nn.functional.conv2d(values.unsqueeze(1), weights.view(1, 1, -1, 1))
    return nn.functional.conv2d(rows, weights.view(1, 1, 1, -1)).squeeze(1)


def _ranks(values: Tensor) -> Tensor:
    return _centred(maps.average_ranks(values.flatten(1)))


def _centred(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(1, keepdim=True)


def _aligned(first: Tensor, second: Tensor) -> Tensor:
    """Cosine `(N,)` of vectors `(N, D)`, which is the correlation of centred ones; NaN where one is zero."""
    scale = (first.square().sum(1) * second.square().sum(1)).sqrt()
    return torch.where(scale > 0, (first * second).sum(1) / scale, torch.nan)


def _unit_length(blocks: Tensor) -> Tensor:
    """`(N, 9, rows, columns, 3, 3)` divided by the length of each block of cells."""
    return blocks / (blocks.square().sum((1, 4, 5), keepdim=True) + 1e-5**2).sqrt()


def _unit_range(values: Tensor) -> Tensor:
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1.0)
