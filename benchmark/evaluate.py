"""The loop: explain each batch of a subject once, score the maps with every metric, file a record a cell."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmark import passes, records
from benchmark.attributions import Entry
from benchmark.cells import Cell, Choice
from benchmark.errors import NotApplicable, UserError
from benchmark.models import digest
from benchmark.plugins import choose
from benchmark.progress import Progress
from benchmark.protocols import Batch, Method, Metric, Scores
from benchmark.records import Record
from benchmark.sharing import Shared
from benchmark.subjects import Subject

_METHOD_FACTS = ("class_agnostic", "has_baseline", "stochastic", "needs_gradient", "passes")


@dataclass(frozen=True)
class Outcome:
    """What became of a cell that was asked for: `computed`, `filed` already, or `failed` and why."""

    cell: Cell
    status: str
    reason: str = ""


@dataclass
class Evaluation:
    """One method on one subject: explained at most once, scored by any number of metrics.

    `budget` is what the options of the method were cut to, in passes an image, or None.
    """

    root: Path
    subject: Subject
    choice: Choice
    method: Method
    progress: Progress
    budget: int | None = None

    def cell(self, choice: Choice, metric: Metric) -> Cell:
        subject = self.subject
        device = subject.timing if metric.per == "cell" else None
        if "twin" in metric.needs and subject.model.twin is not None:
            choice = replace(choice, params={**choice.params, "twin": digest(subject.model.twin)[:16]})
        return Cell(subject.model_choice, subject.dataset_choice, self.choice, choice, subject.seed, device)

    def run(self, metrics: Mapping[str, tuple[Choice, Metric]], debug: bool = False) -> Iterator[Outcome]:
        """Score every metric that has no record yet. Whatever goes wrong costs its own cell alone."""
        for choice, metric in metrics.values():
            cell = self.cell(choice, metric)
            if records.exists(self.root, cell):
                yield Outcome(cell, "filed")
                continue
            try:
                self.record(choice, metric)
                yield Outcome(cell, "computed")
            except Exception as error:
                if debug:
                    raise
                reason = describe(error)
                with suppress(UserError):
                    records.write_error(self.root, cell, reason)
                yield Outcome(cell, "failed", reason)

    def record(self, choice: Choice, metric: Metric) -> Record:
        """The record of a cell: read where there is one, else computed and filed."""
        cell = self.cell(choice, metric)
        path = records.record_path(self.root, cell)
        if path.exists():
            return records.read(path)
        facts = {
            "measures": [asdict(measure) for measure in metric.measures],
            "family": metric.family,
            "role": self.method.role,
            "method": {name: getattr(self.method, name) for name in _METHOD_FACTS},
            "budget": self.budget,
            "reason": None,
            "seconds": 0.0,
            "forwards": 0,
            "backwards": 0,
            "environment": self.subject.environment,
            "build": {
                **self.subject.build,
                "method": _config(self.method, self.choice),
                "metric": _config(metric, choice),
            },
        }
        try:
            parts = self._parts(metric)
            self._check(metric)
            started = time.perf_counter()
            with passes.counted(self.subject.model.network) as count:
                rows = self._score(choice, metric, parts)
            facts |= {
                "seconds": time.perf_counter() - started,
                "forwards": count.forwards,
                "backwards": count.backwards,
            }
        except NotApplicable as why:
            rows = [
                (uid, target, measure.name, math.nan, "not_applicable", None)
                for uid, target in self._images(metric)
                for measure in metric.measures
            ]
            facts["reason"] = str(why)
        record = Record(cell, pd.DataFrame(rows, columns=records.SCHEMA.names), facts)
        records.write(self.root, record)
        return record

    @cached_property
    def maps(self) -> Sequence[Tensor] | Exception:
        """The map of every image, a tensor a batch on the CPU, or why there is none."""
        try:
            found = self._entry(self.choice).get(self._explain_all)["maps"]
        except Exception as error:
            return error
        return found.split([len(batch) for batch in self.subject.batches])

    def _explain_all(self) -> Mapping[str, Tensor]:
        with passes.unchanged(self.subject.model.network):
            maps = [self._explained(batch) for batch in self.progress.track(self.subject.batches, "explain")]
        if len({part.shape[1:] for part in maps}) > 1:
            raise UserError(f"{self.choice.name} returned maps of different shapes for different batches")
        together = torch.cat(maps)
        if not together.isfinite().flatten(1).all(1).any():
            raise UserError(f"{self.choice.name} returned NaN or infinity in all of {len(together)} maps")
        return {"maps": together}

    def _explained(self, batch: Batch) -> Tensor:
        """Maps of a batch of the subject, on the CPU; what other methods made of it is not made again."""
        network, given = self.subject.model.network, batch.to(self.subject.device).copy()
        images = (given.inputs, given.targets, given.baseline)
        shared = Shared(self.subject.store, batch.uids, network, images)
        return self._checked(network, replace(given, shared=shared)).detach().cpu()

    def explain(self, model: nn.Module, batch: Batch) -> Tensor:
        """Maps of `batch` for `model`, refused unless they have the shape of one."""
        # A copy, since what a method does to its images must not reach the next method, or this metric.
        return self._checked(model, batch.copy()).detach()

    def _checked(self, model: nn.Module, batch: Batch) -> Tensor:
        maps = self.method.attribute(model, batch)
        count, channels, *size = batch.inputs.shape
        if not isinstance(maps, Tensor):
            raise UserError(f"{self.choice.name} returned {type(maps).__name__}, expected a tensor")
        if tuple(maps.shape) not in {(count, channels, *size), (count, 1, *size)}:
            wanted = f"({count}, {channels}, {size[0]}, {size[1]}) or ({count}, 1, {size[0]}, {size[1]})"
            raise UserError(f"{self.choice.name} returned a map of shape {tuple(maps.shape)}, expected {wanted}")
        return maps

    def _check(self, metric: Metric) -> None:
        """Raise why this metric cannot score this method here, before a pass is counted for it."""
        if metric.kind != self.method.kind:
            raise NotApplicable(f"scores {metric.kind}, and the method yields {self.method.kind}")
        if "masks" in metric.needs and self.subject.batches[0].masks is None:
            raise NotApplicable("the data set has no masks")
        if "method_baseline" in metric.needs and not self.method.has_baseline:
            raise NotApplicable("the method makes no claim to account for f(x) - f(baseline)")
        if "twin" in metric.needs and self.subject.model.twin is None:
            raise NotApplicable("the model has no twin trained on random labels")
        if isinstance(self.maps, Exception):
            raise self.maps

    def _images(self, metric: Metric) -> list[tuple[str, int]]:
        if metric.per == "cell":
            return [("-", -1)]
        return [
            (uid, int(target))
            for batch in self.subject.batches
            for uid, target in zip(batch.uids, batch.targets, strict=True)
        ]

    def _parts(self, metric: Metric) -> dict[str, Record]:
        """The records that the metric combines, filed as cells of their own."""
        parts = {name: self.record(choose(name, part), part) for name, part in metric.parts().items()}
        for part in parts.values():
            if part.facts["reason"]:
                raise NotApplicable(part.facts["reason"])
        return parts

    def _score(self, choice: Choice, metric: Metric, parts: Mapping[str, Record]) -> list[tuple[Any, ...]]:
        """Rows of the record, image by image in the order of the data set."""
        assert not isinstance(self.maps, Exception)
        network, device = self.subject.model.network, self.subject.device
        rows: list[tuple[Any, ...]] = []
        with passes.unchanged(network):
            prepared = self._prepared(choice, metric)
            twin = {"twin": self._twin()} if "twin" in metric.needs else {}
            pairs = list(zip(self.subject.batches, self.maps, _split(prepared, self.subject.batches), strict=True))
            for batch, maps, shared in self.progress.track(pairs[:1] if metric.per == "cell" else pairs, choice.name):
                valid = maps.isfinite().flatten(1).all(1).nonzero()[:, 0].tolist()
                scores = None
                if valid:
                    chosen = batch.select(valid).to(device)
                    given = {name: tensor[valid].to(device) for name, tensor in shared.items()}
                    combined = {name: _scores_of(part, chosen) for name, part in parts.items()}
                    scores = metric.score(
                        network, chosen, maps[valid].to(device), self.explain, given | combined | twin
                    )
                rows += _rows(metric, batch, scores, valid)
        return rows

    def _twin(self) -> nn.Module:
        """A copy of the network with the weights of its twin, so that it lies and is counted as the network is."""
        assert self.subject.model.twin is not None
        copy = deepcopy(self.subject.model.network)
        copy.load_state_dict(self.subject.model.twin.state_dict())
        return copy

    def _prepared(self, choice: Choice, metric: Metric) -> Mapping[str, Tensor]:
        """What the metric shares between methods, for all images, on the CPU."""
        if type(metric).prepare is Metric.prepare:
            return {}

        def prepare() -> Mapping[str, Tensor]:
            batches = self.progress.track(self.subject.batches, f"prepare {choice.name}")
            found = []
            for batch in batches:  # off the device at once: all of them together may not fit there
                part = metric.prepare(self.subject.model.network, batch.to(self.subject.device))
                found.append({name: tensor.cpu() for name, tensor in part.items()})
            return {name: torch.cat([part[name] for part in found]) for name in found[0]}

        return self._entry(choice).get(prepare)

    def _entry(self, choice: Choice) -> Entry:
        subject = self.subject
        return Entry(self.root, subject.model_choice, subject.dataset_choice, choice, subject.seed)


def _split(tensors: Mapping[str, Tensor], batches: Sequence[Batch]) -> list[dict[str, Tensor]]:
    """Each tensor cut at the borders of the batches."""
    sizes = [len(batch) for batch in batches]
    cut = {name: tensor.split(sizes) for name, tensor in tensors.items()}
    return [{name: pieces[index] for name, pieces in cut.items()} for index in range(len(sizes))]


def _scores_of(record: Record, batch: Batch) -> Scores:
    """The scores in a record for the images of `batch`."""
    values, curves = {}, {}
    for name, rows in record.rows.groupby("measure"):
        chosen = rows.set_index("uid").loc[list(batch.uids)]
        values[str(name)] = torch.tensor(chosen["value"].to_numpy(), device=batch.inputs.device)
        if chosen["curve"].notna().all():
            curves[str(name)] = torch.tensor(np.stack(chosen["curve"].tolist()), device=batch.inputs.device)
    return Scores(values, curves)


def _rows(metric: Metric, batch: Batch, scores: Scores | None, valid: Sequence[int]) -> list[tuple[Any, ...]]:
    """Rows of `records.SCHEMA`: `scores` for the images at `valid`, status `invalid` for the others."""
    uids, targets = batch.uids, batch.targets.tolist()
    if metric.per == "cell":
        uids, targets, valid = ("-",), [-1], [0] if valid else []
    names = [measure.name for measure in metric.measures]
    values: dict[str, list[float]] = {}
    curves: dict[str, list[list[float]]] = {}
    if scores is not None:
        if set(scores.values) != set(names):
            raise UserError(f"the metric returned {sorted(scores.values)}, its measures are {sorted(names)}")
        for name, tensor in scores.values.items():
            if tuple(tensor.shape) != (len(valid),):
                raise UserError(f"{name} has shape {tuple(tensor.shape)}, expected one value for each of {len(valid)}")
        values = {name: tensor.double().cpu().tolist() for name, tensor in scores.values.items()}
        curves = {name: tensor.double().cpu().tolist() for name, tensor in scores.curves.items()}
    undefined = "not_applicable" if metric.per == "cell" else "degenerate"
    place = {index: position for position, index in enumerate(valid)}
    rows: list[tuple[Any, ...]] = []
    for index, (uid, target) in enumerate(zip(uids, targets, strict=True)):
        for name in names:
            if index not in place:
                rows.append((uid, target, name, math.nan, "invalid", None))
                continue
            value = values[name][place[index]]
            curve = curves[name][place[index]] if name in curves else None
            status = "ok" if math.isfinite(value) else undefined
            rows.append((uid, target, name, value if status == "ok" else math.nan, status, curve))
    return rows


def _config(plugin: Method | Metric, choice: Choice) -> dict[str, Any]:
    """What builds `plugin` again."""
    return {"_target_": f"{type(plugin).__module__}.{type(plugin).__qualname__}", **choice.params}


def describe(error: BaseException) -> str:
    """One sentence for the table: a user's mistake in its own words, anything else with its type."""
    if isinstance(error, UserError | NotApplicable):
        return str(error)
    if isinstance(error, RuntimeError) and passes.out_of_memory(error):
        return "out of memory: lower batch_size or chunk"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"
