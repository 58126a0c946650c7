"""Where the numbers of a table come from: data, protocols, versions, software and devices, as a caption states them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmark.cells import Cell, Choice
from benchmark.frames import Labels, Scored, flat, identity, written


@dataclass
class Provenance:
    """What stands behind one table.

    Attributes:
        model, dataset: the choices.
        methods, metrics: the choices by label; metrics with the seed of their draws.
        rows: how many rows the letters compare.
        software: versions and number format, one entry where all records agree.
        devices: where scores were computed.
    """

    model: Choice
    dataset: Choice
    methods: dict[str, Choice] = field(default_factory=dict)
    metrics: dict[str, tuple[Choice, int]] = field(default_factory=dict)
    software: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.methods)


Origins = Mapping[tuple[str, str], Provenance]
"""By the labels of the data set and of the model."""


def origins(scored: Sequence[Scored], failed: Iterable[tuple[Cell, str]], names: Labels) -> Origins:
    """The provenance of each table that `frames.assemble` makes of the same cells."""
    found: dict[tuple[str, str], Provenance] = {}

    def place(cell: Cell) -> Provenance:
        labels = {axis: names[axis, identity(cell, axis)] for axis in ("model", "dataset", "method", "metric")}
        one = found.setdefault((labels["dataset"], labels["model"]), Provenance(cell.model, cell.dataset))
        one.methods.setdefault(labels["method"], cell.method)
        one.metrics.setdefault(labels["metric"], (cell.metric, cell.seed))
        return one

    for record in scored:
        one, environment = place(record.cell), record.facts.get("environment", {})
        known = (("Assay", "assay"), ("PyTorch", "torch"), ("", "dtype"))
        software = ", ".join(f"{name} {environment[key]}".strip() for name, key in known if key in environment)
        for listed, said in ((one.software, software), (one.devices, environment.get("device", ""))):
            if said and said not in listed and not record.cell.device:
                listed.append(said)
    for cell, _ in failed:
        place(cell)
    return found


def protocols(origin: Provenance, metrics: Iterable[str]) -> list[str]:
    """`deletion, insertion (version 2): area=trapezoid, ...` for the metrics of these labels: each protocol once."""
    same: dict[tuple[str, str], list[str]] = {}
    for label in metrics:
        choice, seed = origin.metrics[label]
        options = options_of(choice) + (f"{', ' if choice.params else ''}seed={seed}" if seed else "")
        same.setdefault((choice.version, options), []).append(label)
    return [
        f"{', '.join(labels)} (version {version})" + (f": {options}" if options else "")
        for (version, options), labels in same.items()
    ]


def versions(origin: Provenance, methods: Iterable[str]) -> str:
    """`1; smoothgrad, random 2` for the methods of these labels: the commonest version is that of all not named."""
    by_version: dict[str, list[str]] = {}
    for label in methods:
        by_version.setdefault(origin.methods[label].version, []).append(label)
    (commonest, _), *others = sorted(by_version.items(), key=lambda item: -len(item[1]))
    return "; ".join([commonest, *(f"{', '.join(labels)} {version}" for version, labels in others)])


def stated(choice: Choice) -> str:
    """`rise (version 1): keep=0.5, masks=256`."""
    options = options_of(choice)
    return f"{choice.name} (version {choice.version})" + (f": {options}" if options else "")


def options_of(choice: Choice) -> str:
    """The options of a choice on one line."""
    options = flat(choice.params)
    return ", ".join(f"{key}={written(options, key)}" for key in options)
