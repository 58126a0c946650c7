"""How alike two maps are, one number an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark import maps


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation `(N,)` of maps `(N, H, W)`, ties by average rank; NaN where a map is constant."""
    a, b = (maps.average_ranks(values.flatten(1)) for values in (first, second))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(1) / scale, torch.nan)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity `(N,)` of maps `(N, H, W)`, each scaled to [0, 1] by its own minimum and maximum.

    Gaussian window of sigma 1.5 and 11 pixels, valid region only (Wang et al. 2004, doi:10.1109/TIP.2003.819861).
    """
    a, b = (_unit_range(values.double()).unsqueeze(1) for values in (first, second))
    offset = torch.arange(-5, 6, dtype=torch.float64, device=a.device)
    weights = torch.exp(-offset.square() / (2 * 1.5**2))
    window = torch.outer(weights, weights)[None, None] / weights.sum() ** 2

    def local_mean(values: Tensor) -> Tensor:
        return nn.functional.conv2d(values, window)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a = local_mean(a * a) - mean_a.square()
    variance_b = local_mean(b * b) - mean_b.square()
    covariance = local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a.square() + mean_b.square() + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)
    return (luminance * structure).mean((1, 2, 3))


def _unit_range(values: Tensor) -> Tensor:
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1.0)
