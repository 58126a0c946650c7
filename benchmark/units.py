"""The units that a perturbation takes away together: pixels, square patches or superpixels."""

from __future__ import annotations

import re
import warnings

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.protocols import Batch

_FORM = re.compile(r"(pixel)|(patch|slic)([1-9]\d*)")


def check_unit(unit: str) -> None:
    """Refuse what is no unit.

    Raises:
        UserError: with what is one.
    """
    if not _FORM.fullmatch(unit):
        raise UserError(
            f"unit {unit!r} does not exist: expected pixel, patch16 (squares of 16 pixels) "
            "or slic100 (about 100 superpixels)"
        )


def units(batch: Batch, unit: str) -> Tensor:
    """The unit of each pixel, numbered from 0: `(1, H, W)` where all images share them, `(N, H, W)` for superpixels.

    Args:
        unit: `pixel`; `patchP`, squares of P pixels from the upper left corner, cut off at the other borders; `slicS`,
            about S superpixels of the image in pixel space by SLIC-zero (Achanta et al. 2012), at least one.
    """
    check_unit(unit)
    height, width = batch.inputs.shape[2:]
    if unit.startswith("slic"):
        return _superpixels(batch.pixels, int(unit.removeprefix("slic"))).to(batch.inputs.device)
    side = 1 if unit == "pixel" else int(unit.removeprefix("patch"))
    rows, columns = (torch.arange(extent, device=batch.inputs.device) // side for extent in (height, width))
    return (rows[:, None] * (int(columns[-1]) + 1) + columns)[None]


def sizes(units: Tensor) -> Tensor:
    """Pixels of each unit: `(1 or N, most units)`, 0 for numbers that an image has no unit for."""
    flat = units.flatten(1).long()
    ones = torch.ones_like(flat)
    return torch.zeros(len(flat), int(flat.max()) + 1, dtype=torch.int64, device=flat.device).scatter_add_(
        1, flat, ones
    )


def pooled(values: Tensor, units: Tensor, mean: bool = True) -> Tensor:
    """Mean, or sum, of maps `(N, H, W)` over each unit: `(N, most units)`; 0 where an image has no such unit."""
    count = sizes(units)
    index = units.flatten(1).long().expand(len(values), -1)
    sums = values.new_zeros(len(values), count.shape[1]).scatter_add_(1, index, values.flatten(1))
    return sums / count.clamp(min=1) if mean else sums


def spread(values: Tensor, units: Tensor) -> Tensor:
    """Each pixel's value of `values (R, most units)`, by `units (1 or R, H, W)`: `(R, H, W)`."""
    rows, (height, width) = len(values), units.shape[1:]
    if len(units) == 1:
        return values[:, units[0].flatten().long()].view(rows, height, width)
    return values.gather(1, units.flatten(1).long()).view(rows, height, width)


def _superpixels(pixels: Tensor, count: int) -> Tensor:
    from skimage.segmentation import slic

    found = []
    for image in pixels.double().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of images of one colour, which are one segment
            labels = slic(image, n_segments=count, slic_zero=True, start_label=0, channel_axis=-1)
        found.append(torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(labels.shape)))
    return torch.stack(found)
