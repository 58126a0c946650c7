"""The figures of a subject: heat maps of its first images by every method, and the curves in its records."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark import figures, records
from benchmark.attributions import Entry
from benchmark.frames import identity, labels
from benchmark.maps import reduce_channels
from benchmark.records import Record, file_name
from benchmark.subjects import Subject

_ROLES = ("method", "oracle", "null")


def draw(root: Path, subject: Subject, count: int = 6) -> list[Path]:
    """Draw what the records under `root` say of `subject`; heat maps show its first `count` images.

    The files are `<root>/figures/<model>-<dataset>-{heat_maps,curves}.png`. Methods of earlier sweeps are in them too,
    the best first. Maps come from the cache: a method whose maps were deleted has curves alone.
    """
    found = [record for record in records.read_all(root) if _is_of(record, subject)]
    stem = root / "figures" / "-".join(map(file_name, (subject.model_choice.name, subject.dataset_choice.name)))
    drawn = []
    if headlines := [record for record in found if record.cell.metric.name == "srg"]:
        drawn += _heat_maps(Path(f"{stem}-heat_maps.png"), root, subject, headlines, count)
    if curves := [record for record in found if record.cell.metric.name in ("deletion", "insertion")]:
        drawn.append(Path(f"{stem}-curves.png"))
        figures.curves(drawn[-1], curves)
    return drawn


def _is_of(record: Record, subject: Subject) -> bool:
    cell = record.cell
    mine = (subject.model_choice, subject.dataset_choice, subject.seed)
    return (cell.model, cell.dataset, cell.seed) == mine and not record.facts["reason"]


def _heat_maps(path: Path, root: Path, subject: Subject, headlines: list[Record], count: int) -> list[Path]:
    count = min(count, len(subject.batches[0]))
    named = labels(record.cell for record in headlines)
    headlines.sort(key=lambda record: (_ROLES.index(record.facts["role"]), -record.rows["value"].mean()))
    maps: dict[str, np.ndarray] = {}
    scores: dict[str, list[float]] = {}
    nulls: list[str] = []
    for record in headlines:
        entry = Entry(root, subject.model_choice, subject.dataset_choice, record.cell.method, subject.seed)
        if (tensors := entry.load()) is None:
            continue
        name = named["method", identity(record.cell, "method")]
        maps[name] = reduce_channels(tensors["maps"][:count]).numpy()
        scores[name] = record.rows["value"].tolist()[:count]
        nulls += [name] if record.facts["role"] == "null" else []
    if not maps:
        return []
    figures.heat_maps(path, _images(subject, count), _captions(subject, count), maps, scores, nulls)
    return [path]


def _images(subject: Subject, count: int) -> list[np.ndarray]:
    items = [subject.dataset[index] for index in range(count)]
    return [subject.model.pixels(item.image).permute(1, 2, 0).squeeze(-1).numpy() for item in items]


def _captions(subject: Subject, count: int) -> list[str]:
    """The class that is explained, and what the model gives it."""
    batch, names = subject.batches[0], subject.model.class_names or subject.dataset.classes
    probabilities = batch.logits.softmax(1)
    captions = []
    for index, target in enumerate(batch.targets[:count].tolist()):
        label = names[target] if names else f"class {target}"
        captions.append(f"{label.split(',')[0]} {probabilities[index, target]:.2f}")
    return captions
