"""The figures of a subject: heat maps of its first images by every method, and the curves in its records."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark import figures, records
from benchmark.evaluate import Evaluation, Outcome
from benchmark.maps import reduce_channels
from benchmark.records import Record, file_name
from benchmark.subjects import Subject


class Gallery:
    """Collects what the methods of a sweep show of the first `count` images of `subject`, and draws it."""

    def __init__(self, root: Path, subject: Subject, count: int = 6) -> None:
        self.root, self.subject = root, subject
        self.count = min(count, len(subject.batches[0]))
        self.maps: dict[str, np.ndarray] = {}
        self.scores: dict[str, list[float]] = {}
        self.nulls: list[str] = []
        self.curves: list[Record] = []

    def add(self, evaluation: Evaluation, outcomes: list[Outcome]) -> None:
        """Take the maps of a method and what its records say of them."""
        if isinstance(evaluation.maps, Exception):
            return
        name = evaluation.choice.name
        self.maps[name] = reduce_channels(evaluation.maps[0][: self.count]).numpy()
        if evaluation.method.role != "method":
            self.nulls.append(name)
        for outcome in outcomes:
            if outcome.status != "failed" and outcome.cell.metric.name in ("deletion", "insertion", "srg"):
                record = records.read(records.record_path(self.root, outcome.cell))
                if outcome.cell.metric.name == "srg":
                    self.scores[name] = record.rows["value"].tolist()[: self.count]
                else:
                    self.curves.append(record)

    def draw(self) -> list[Path]:
        """Draw what there is; the files are `figures/<model>-<dataset>-{heat_maps,curves}.png`."""
        names = (self.subject.model_choice.name, self.subject.dataset_choice.name)
        stem = "-".join(map(file_name, names))
        drawn = []
        if self.maps:
            drawn.append(self.root / "figures" / f"{stem}-heat_maps.png")
            figures.heat_maps(drawn[-1], self._images(), self._captions(), self.maps, self.scores, self.nulls)
        if self.curves:
            drawn.append(self.root / "figures" / f"{stem}-curves.png")
            figures.curves(drawn[-1], self.curves)
        return drawn

    def _images(self) -> list[np.ndarray]:
        items = [self.subject.dataset[index] for index in range(self.count)]
        return [self.subject.model.pixels(item.image).permute(1, 2, 0).squeeze(-1).numpy() for item in items]

    def _captions(self) -> list[str]:
        batch, names = self.subject.batches[0], self.subject.model.class_names or self.subject.dataset.classes
        probabilities = batch.logits.softmax(1)
        captions = []
        for index, target in enumerate(batch.targets[: self.count].tolist()):
            label = names[target] if names else f"class {target}"
            captions.append(f"{label.split(',')[0]} {probabilities[index, target]:.2f}")
        return captions
