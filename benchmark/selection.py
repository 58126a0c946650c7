"""What of a folder is asked for: by name of a model, a data set, a method, a metric, and by device of timings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from benchmark.cells import Cell, Choice
from benchmark.errors import UserError, unknown
from benchmark.frames import AXES, Labels, Scored, identity
from benchmark.mixing import Failed, kind


def split(names: str) -> tuple[str, ...]:
    """Names with commas between them; those inside brackets belong to a label.

    >>> split("rise(masks=512, keep=[0.1, 0.5]), srg")
    ('rise(masks=512, keep=[0.1, 0.5])', 'srg')
    """
    found, depth = [""], 0
    for sign in names:
        depth += (sign in "([") - (sign in ")]")
        if sign == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += sign
    return tuple(name.strip() for name in found if name.strip())


@dataclass(frozen=True)
class Selection:
    """Names by axis, all where there is none.

    A name is a label of the tables (`rise(masks=512)`), the name alone (`rise`, with any options), or the name and a
    version (`rise@2`), which leaves other versions of it out altogether. A metric may be narrowed to one of its
    measures (`infidelity.beta_1`).
    """

    model: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    metric: tuple[str, ...] = ()
    device: str = ""

    @classmethod
    def parse(
        cls,
        model: str | None = None,
        dataset: str | None = None,
        method: str | None = None,
        metric: str | None = None,
        device: str | None = None,
    ) -> Self:
        """From names as of `split`; None is all.

        Raises:
            UserError: something is given that names nothing.
        """
        names = {"model": model, "dataset": dataset, "method": method, "metric": metric}
        for axis, given in {**names, "device": device}.items():
            if given is not None and not split(given):
                raise UserError(f"--{axis} '{given}' names nothing: leave it out for all, or name one of the tables")
        return cls(**{axis: split(given or "") for axis, given in names.items()}, device=device or "")

    def resolve(self, scored: Sequence[Scored], failed: Sequence[Failed], names: Labels) -> Meant:
        """The choices that are meant, among those of the given cells and their labels.

        Raises:
            UserError: a name or device that does not exist.
        """
        cells = [*(one.cell for one in scored), *(cell for cell, _ in failed)]
        there = {axis: {identity(cell, axis): getattr(cell, axis) for cell in cells} for axis in AXES}
        measures = {
            identity(one.cell, "metric"): [measure["name"] for measure in one.facts["measures"]] for one in scored
        }
        choices: dict[str, dict[str, frozenset[str]]] = {axis: {} for axis in AXES}
        fixed: dict[str, dict[str, Choice]] = {axis: {} for axis in AXES}
        for axis in AXES:
            for wanted in getattr(self, axis):
                labels = {key: names[axis, key] for key in there[axis]}
                found = {
                    key: asked
                    for key, choice in there[axis].items()
                    if (asked := _asked(wanted, labels[key], choice, measures.get(key, []))) is not None
                }
                for key, asked in found.items():
                    choices[axis][key] = asked | choices[axis].get(key, frozenset())
                    if f"@{there[axis][key].version}" in wanted:
                        fixed[axis][key] = there[axis][key]
                if not found:
                    parts = [
                        f"{label}.{name}"
                        for key, label in labels.items()
                        for name in measures.get(key, ())
                        if name != there[axis][key].name
                    ]
                    existing = dict.fromkeys([*labels.values(), *parts])
                    raise UserError(unknown(f"{axis} ".replace("dataset", "data set"), wanted, existing))
        devices = list(dict.fromkeys(cell.device for cell in cells if cell.device))
        if self.device and not any(self.device in device for device in devices):
            raise UserError(unknown("device ", self.device, devices))
        return Meant(self, choices, fixed)


def _asked(wanted: str, label: str, choice: Choice, measures: Sequence[str]) -> frozenset[str] | None:
    """The measures of a choice that `wanted` means: all where it names the choice, None where it does not mean it."""
    if _called(wanted, label, choice):
        return frozenset(measures)
    ends = {name: f".{name}" for name in measures if wanted.endswith(f".{name}")}
    return frozenset(name for name in ends if _called(wanted.removesuffix(ends[name]), label, choice)) or None


def _called(wanted: str, label: str, choice: Choice) -> bool:
    version, unmarked = f"@{choice.version}", re.sub(r"#[0-9a-f]{8}$", "", label)
    return wanted in (label, choice.name, choice.name + version, unmarked, unmarked.removesuffix(version))


@dataclass(frozen=True)
class Meant:
    """A selection among cells that exist.

    Attributes:
        choices: by axis the identities that are asked for; of metrics with the measures.
        fixed: those that were named with their version.
    """

    selection: Selection
    choices: Mapping[str, Mapping[str, frozenset[str]]]
    fixed: Mapping[str, Mapping[str, Choice]]

    @property
    def methods(self) -> list[str]:
        """The identities of the methods that are asked for."""
        return list(self.choices["method"])

    def without_rivals(self, scored: Sequence[Scored], failed: Sequence[Failed]) -> tuple[list[Scored], list[Failed]]:
        """All cells but those of other versions of what was named with its version."""
        return [one for one in scored if not self._rival(one.cell)], [one for one in failed if not self._rival(one[0])]

    def narrowed(self, scored: Sequence[Scored], failed: Sequence[Failed]) -> tuple[list[Scored], list[Failed]]:
        """The cells of the models, data sets, metrics and devices; of all methods, for letters compare all of them."""
        kept = [self._measured(one) for one in scored if self._wants(one.cell)]
        return kept, [one for one in failed if self._wants(one[0])]

    def _rival(self, cell: Cell) -> bool:
        for axis, fixed in self.fixed.items():
            if identity(cell, axis) in fixed:
                continue
            choice: Choice = getattr(cell, axis)
            if any(kind(choice) == kind(other) and choice.version != other.version for other in fixed.values()):
                return True
        return False

    def _wants(self, cell: Cell) -> bool:
        axes = (axis for axis in AXES if axis != "method" and getattr(self.selection, axis))
        return all(identity(cell, axis) in self.choices[axis] for axis in axes) and self.selection.device in (
            cell.device or self.selection.device
        )

    def _measured(self, one: Scored) -> Scored:
        """The record with the measures that are asked for."""
        measures = self.choices["metric"].get(identity(one.cell, "metric"))
        if measures is None:
            return one
        kept = [measure for measure in one.facts["measures"] if measure["name"] in measures]
        rows = one.rows[one.rows["measure"].isin(measures)]
        return replace(one, rows=rows, facts={**one.facts, "measures": kept})
