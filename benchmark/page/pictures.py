"""Images and the maps of every method on them, small enough for a page; the only module of it that needs torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark import own_models, plugins, records
from benchmark.attributions import Entry
from benchmark.cells import Cell
from benchmark.colours import paint
from benchmark.datasets import Dataset
from benchmark.errors import UserError
from benchmark.evaluate import describe
from benchmark.models import Model
from benchmark.page.results import Pair, Results
from benchmark.recipes import Refused, Unable, recipe
from benchmark.statistics import Array

SIDE = 96
"""Longest side of a picture in pixels, before small ones are doubled."""


@dataclass
class Pictures:
    """Data URIs of WebP pictures.

    Attributes:
        images: by uid.
        maps: by method and uid; a word, such as `constant`, where there is nothing to see.
        classes: names of the classes, None where unknown.
        remarks: a sentence for everything that is not there.
    """

    images: dict[str, str] = field(default_factory=dict)
    maps: dict[str, dict[str, str]] = field(default_factory=dict)
    classes: Sequence[str] | None = None
    remarks: list[str] = field(default_factory=list)


def pictures(
    results: Results, pair: Pair, order: Sequence[str], uids: Sequence[str], places: Mapping[str, str]
) -> Pictures:
    """Pictures of `uids`, as the model saw them, and of the maps that a sweep kept of them.

    Args:
        order: all images, as the data set lists them and as maps are kept.
        places: where that lies on this disk which records cannot know, such as `datasets.root`.

    What is missing is a remark: maps may be deleted at any time, and images need their data set.
    """
    found = Pictures()
    mine = [record for record in results.scored if results.pair(record.cell) == pair]
    cells = [record.cell for record in mine]
    explained = {results.label(record.cell, "method"): record.cell for record in mine if not record.facts["reason"]}
    rows = {uid: place for place, uid in enumerate(order)}
    seen: dict[str, Array] = {}
    try:
        dataset, pixels = _dataset(results, cells, places)
        found.classes = dataset.classes
        for uid in uids:
            item = dataset[rows[uid]]
            if item.uid != uid:
                raise UserError(f"image {rows[uid]} of {dataset.name} is {item.uid} here and {uid} in the records")
            seen[uid] = pixels(item.image).permute(1, 2, 0).squeeze(-1).double().numpy().clip(0, 1)
    except Exception as error:  # a page without pictures is better than none, whatever stands in their way
        seen.clear()
        found.remarks.append(f"No images: {describe(error)}.")
    found.images |= {uid: _uri(picture) for uid, picture in seen.items()}
    without = []
    for label, cell in explained.items():
        maps = _maps(results, cell, [rows[uid] for uid in uids])
        if maps is None or (seen and maps.shape[1:] != next(iter(seen.values())).shape[:2]):
            without.append(label)
            continue
        found.maps[label] = {}
        for uid, values in zip(uids, maps, strict=True):
            painted, word = paint(values, seen.get(uid, np.ones(values.shape)))
            found.maps[label][uid] = word or _uri(painted)
    if without and not found.maps:
        found.remarks.append("No maps: the folder attributions/ of a sweep keeps them, and it is not here.")
    elif without:
        found.remarks.append(f"No maps are kept of {', '.join(sorted(without))}.")
    return found


@dataclass(frozen=True)
class _Pixels:
    """Makes pixels of an image as the model does; it is built for photographs alone, which it resizes and crops."""

    config: DictConfig

    @cached_property
    def model(self) -> Model:
        return own_models.build(self.config)

    def __call__(self, image: Tensor | Image.Image) -> Tensor:
        return image if isinstance(image, Tensor) else self.model.pixels(image)


def _dataset(results: Results, cells: Sequence[Cell], places: Mapping[str, str]) -> tuple[Dataset, _Pixels]:
    """The data set of a pair, and what makes pixels of one of its images.

    Raises:
        UserError, Unable, Refused: no record says how it is made, or here it is another one.
    """
    reason: Exception = UserError("no record says how its data set is made")
    for cell in {cell.metric.name: cell for cell in cells}.values():
        path = records.record_path(results.root, cell)
        try:
            config = recipe(path, records.read(path), places, ()).config
        except (Refused, Unable, UserError) as error:
            reason = error
            continue
        dataset: Dataset = plugins.build(config.datasets)
        if dataset.fingerprint != cell.dataset.params.get("fingerprint"):
            raise UserError(f"the data set {dataset.name} here is another one than that of the records")
        return dataset, _Pixels(config.models)
    raise reason


def _maps(results: Results, cell: Cell, rows: Sequence[int]) -> Array | None:
    """`(len(rows), H, W)` the kept maps of the method of `cell`, channels summed; None where there are none."""
    entry = Entry(results.root, cell.model, cell.dataset, cell.method, cell.seed)
    try:
        with safe_open(entry.path, "numpy") as file:
            kept = file.get_slice("maps")
            return np.stack([kept[row : row + 1].astype(float).sum((0, 1)) for row in rows])
    except (OSError, SafetensorError, IndexError, TypeError):
        return None


def _uri(colours: Array) -> str:
    """A WebP of `(H, W, 3)` or `(H, W)` in [0, 1], no side longer than `SIDE`."""
    picture = Image.fromarray((colours * 255).round().astype(np.uint8)).convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    quality = 60
    if max(picture.size) <= SIDE // 3 * 2:
        # A lossy picture has half as many colours as pixels a side: twice the size keeps those of each pixel of a map,
        # and hides what a lower quality does to them.
        quality = 35
        picture = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
