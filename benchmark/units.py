"""The units that a perturbation takes away together: pixels, square patches, cells of a grid or superpixels."""

from __future__ import annotations

import re
import warnings

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import NotApplicable, UserError
from benchmark.protocols import Batch

_FORM = re.compile(r"(pixel|part)|(patch|grid|slic)([1-9]\d*)")


def check_unit(unit: str) -> None:
    """Refuse what is no unit.

    Raises:
        UserError: with what is one.
    """
    if not _FORM.fullmatch(unit):
        raise UserError(
            f"unit {unit!r} does not exist: expected pixel, patch16 (squares of 16 pixels), grid4 (4 x 4 cells) "
            "slic100 (about 100 superpixels) or part (of a drawn scene)"
        )


def shared(unit: str) -> bool:
    """Whether all images of a size are cut into the same units."""
    return unit != "part" and not unit.startswith("slic")


def units(batch: Batch, unit: str) -> Tensor:
    """The unit of each pixel, numbered from 0: `(1, H, W)` where all images share them, `(N, H, W)` for superpixels.

    Args:
        unit: `pixel`; `part`, the parts of a drawn scene and the rest of it; `patchP`, squares of P pixels from the
            upper left corner, cut off at the other borders; `gridG`, G x G cells that are as equal as whole pixels
            allow, and no more a side than it has pixels; `slicS`, about S superpixels of the image in pixel space by
            SLIC-zero (Achanta et al. 2012), at least one.

    Raises:
        UserError: there is no such unit, or a single one in the whole image.
    """
    check_unit(unit)
    if unit == "part":
        if batch.parts is None:
            raise NotApplicable("the images of the data set have no parts (unit part)")
        return batch.parts
    height, width = batch.inputs.shape[2:]
    if unit.startswith("slic"):
        return _superpixels(batch.pixels, int(unit.removeprefix("slic"))).to(batch.inputs.device)
    rows, columns = (_places(extent, unit).to(batch.inputs.device) for extent in (height, width))
    if not rows[-1] and not columns[-1] and height * width > 1:
        raise UserError(f"unit {unit} leaves one unit of an image of {height}x{width} pixels: there is nothing to rank")
    return (rows[:, None] * (int(columns[-1]) + 1) + columns)[None]


def part(batch: Batch, name: str) -> Tensor:
    """Where the part called `name` is, bool `(N, H, W)`.

    Raises:
        NotApplicable: the scenes have no such part.
    """
    if name not in batch.part_names:
        there = ", ".join(batch.part_names) or "none with a name"
        raise NotApplicable(f"the images of the data set have no part called {name} (parts: {there})")
    return units(batch, "part") == batch.part_names.index(name) + 1


def truth(batch: Batch) -> Tensor:
    """What each part contributes to the logit of the target, spread evenly over its pixels: `(N, H, W)`.

    Raises:
        NotApplicable: the data set does not know it, or knows it of other classes than the model has.
    """
    if batch.truth is None:
        raise NotApplicable("the data set does not know what each part contributes")
    if batch.truth.shape[1] != batch.logits.shape[1]:
        known, there = batch.truth.shape[1], batch.logits.shape[1]
        raise NotApplicable(f"the data set knows what parts contribute to {known} classes, and the model has {there}")
    return batch.truth[torch.arange(len(batch), device=batch.targets.device), batch.targets]


def _places(extent: int, unit: str) -> Tensor:
    """Row, or column, of the unit of each pixel along a side of `extent` pixels."""
    pixel = torch.arange(extent)
    if unit.startswith("grid"):
        return pixel * min(int(unit.removeprefix("grid")), extent) // extent
    return pixel // (1 if unit == "pixel" else int(unit.removeprefix("patch")))


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
    # In float64, where many times the same float32 is exact: units of different size tie on a constant map.
    sums = values.new_zeros(len(values), count.shape[1], dtype=torch.float64)
    sums.scatter_add_(1, index, values.flatten(1).double())
    return (sums / count.clamp(min=1) if mean else sums).to(values.dtype)


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
