"""The figures of a subject: heat maps of its first images by every method, and the curves in its records."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark import records
from benchmark.attributions import Entry
from benchmark.cells import digest
from benchmark.colours import flaw, overlay, paint
from benchmark.curves import curves as draw_curves
from benchmark.frames import identity, labels
from benchmark.heat_maps import heat_maps
from benchmark.maps import reduce_channels
from benchmark.records import Record, file_name
from benchmark.subjects import Subject

_SMALLEST = 128
_ROLES = ("method", "oracle", "null")


def draw(root: Path, subject: Subject, count: int = 6) -> list[Path]:
    """Draw what the records under `root` say of `subject`; heat maps show its first `count` images.

    The files are `<root>/figures/<model>-<dataset>-<key>-{heat_maps,curves}.png`, the key of both choices and the seed.
    Methods of earlier sweeps are in them too, the best first. Maps come from the cache: a method whose maps were
    deleted has curves alone.
    """
    names = (subject.model_choice.name, subject.dataset_choice.name)
    found = [record for record in records.read_all(root, *names) if _is_of(record, subject)]
    key = digest([asdict(subject.model_choice), asdict(subject.dataset_choice), subject.seed])[:8]
    stem = root / "figures" / "-".join([*map(file_name, names), key])
    drawn = []
    if headlines := [record for record in found if record.cell.metric.name == "srg"]:
        drawn += _heat_maps(Path(f"{stem}-heat_maps.png"), root, subject, headlines, count)
    if curves := [record for record in found if record.cell.metric.name in ("deletion", "insertion")]:
        drawn.append(Path(f"{stem}-curves.png"))
        draw_curves(drawn[-1], curves)
    return drawn


def overlays(subject: Subject, maps: Tensor) -> list[tuple[str, np.ndarray]]:
    """The first images of `subject` under their `maps (k, C, H, W)`, each with a caption and at least 128 pixels wide.

    Colours are whole numbers `(H, W, 3)` from 0 to 255. A map in which there is nothing to see is flat grey, and its
    caption says so.
    """
    values = reduce_channels(maps).numpy()
    found = []
    for caption, image, value in zip(
        _captions(subject, len(values)), _images(subject, len(values)), values, strict=True
    ):
        word = flaw(value)
        colours = paint(value, image)[0] if word else overlay(value, image)
        times = -(-_SMALLEST // value.shape[1])
        whole = np.round(255 * colours.clip(0, 1)).astype(np.uint8).repeat(times, 0).repeat(times, 1)
        found.append((", ".join(filter(None, [caption, word])), whole))
    return found


def _is_of(record: Record, subject: Subject) -> bool:
    cell = record.cell
    mine = (subject.model_choice, subject.dataset_choice, subject.seed)
    return (cell.model, cell.dataset, cell.seed) == mine and not record.facts["reason"]


def _heat_maps(path: Path, root: Path, subject: Subject, headlines: list[Record], count: int) -> list[Path]:
    count = min(count, sum(map(len, subject.batches)))
    named = labels(record.cell for record in headlines)
    headlines.sort(key=lambda record: (_ROLES.index(record.facts["role"]), -record.rows["value"].mean()))
    maps: dict[str, np.ndarray] = {}
    scores: dict[str, list[float]] = {}
    nulls: list[str] = []
    for record in headlines:
        entry = Entry(root, subject.model_choice, subject.dataset_choice, record.cell.method, subject.seed)
        name = named["method", identity(record.cell, "method")]
        if name in maps or (tensors := entry.load()) is None:
            continue
        maps[name] = reduce_channels(tensors["maps"][:count]).numpy()
        scores[name] = record.rows["value"].tolist()[:count]
        nulls += [name] if record.facts["role"] == "null" else []
    if not maps:
        return []
    heat_maps(path, _images(subject, count), _captions(subject, count), maps, scores, nulls)
    return [path]


def _images(subject: Subject, count: int) -> list[np.ndarray]:
    items = [subject.dataset[index] for index in range(count)]
    return [subject.model.pixels(item.image).permute(1, 2, 0).squeeze(-1).numpy() for item in items]


def _captions(subject: Subject, count: int) -> list[str]:
    """The class that is explained, and what the model gives it."""
    theirs = subject.dataset.classes or ()  # which a model of other classes does not predict
    names = subject.model.class_names or (theirs if len(theirs) == subject.model.classes else ())
    probabilities = torch.cat([batch.logits for batch in subject.batches])[:count].softmax(1)
    targets = torch.cat([batch.targets for batch in subject.batches])[:count]
    captions = []
    for index, target in enumerate(targets.tolist()):
        label = names[target] if names else f"class {target}"
        captions.append(f"{label.split(',')[0]} {probabilities[index, target]:.2f}")
    return captions
