"""What must not meet in one table: versions of one method or metric, lists of images, devices of timings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark import records
from benchmark.cells import Cell, Choice
from benchmark.frames import Scored, identity

Failed = tuple[Cell, str]


@dataclass(frozen=True)
class Mixture:
    """Cells of one table that differ in what a table never mixes.

    Attributes:
        table: the model and the data set, in words.
        what: `method rise`, `metric srg`, `images` or `device`.
        kinds: the cells by what they are (`rise@1`, `rise@2`), in front the highest version, or what was filed last.
    """

    table: str
    what: str
    kinds: Mapping[str, Sequence[Scored]]


def kind(choice: Choice) -> tuple[str, ...]:
    """What two versions of one definition have in common: the name, and the classes of the plug-ins among its options.

    >>> kind(Choice("noise_tunnel", version="1+GradCam@2"))
    ('noise_tunnel', 'GradCam')
    """
    return choice.name, *re.findall(r"\+(\w+)@", choice.version)


def versions(scored: Sequence[Scored]) -> list[Mixture]:
    """Methods and metrics that stand in one table in several versions."""
    found = []
    for axis in ("method", "metric"):
        for table, cells in _by_table(scored):
            names: dict[tuple[str, ...], dict[str, list[Scored]]] = {}
            for one in cells:
                choice: Choice = getattr(one.cell, axis)
                kinds = names.setdefault(kind(choice), {})
                kinds.setdefault(f"{choice.name}@{choice.version}", []).append(one)
            for (name, *_), kinds in names.items():
                found += _mixture(table, f"{axis} {name}", kinds)
    return found


def images(scored: Sequence[Scored]) -> list[Mixture]:
    """Tables whose cells list different images, or explain different classes of them."""
    found = []
    for table, cells in _by_table(scored):
        lists: dict[frozenset[tuple[str, int]], list[Scored]] = {}
        for one in cells:
            if listed := listing(one):
                lists.setdefault(listed, []).append(one)
        kinds = {f"list {place} of {len(listed)}": same for place, (listed, same) in enumerate(lists.items(), 1)}
        found += _mixture(table, "images", kinds)
    return found


def devices(scored: Sequence[Scored]) -> list[Mixture]:
    """Tables whose timings were taken on several devices."""
    found = []
    for table, cells in _by_table(scored):
        kinds: dict[str, list[Scored]] = {}
        for one in cells:
            if one.cell.device:
                kinds.setdefault(one.cell.device, []).append(one)
        found += _mixture(table, "device", kinds)
    return found


def listing(one: Scored) -> frozenset[tuple[str, int]]:
    """The images of a cell, each with its class; empty where it has one number for all of them."""
    images = frozenset(records.images(one.rows))
    return frozenset() if {uid for uid, _ in images} == {"-"} else images


def newest(scored: Sequence[Scored], failed: Sequence[Failed]) -> tuple[list[Scored], list[Failed], list[str]]:
    """The cells that may stand in tables together: of versions the highest, of lists of images those filed last.

    A failed cell goes where the same method and metric have a number in the version that stays. Timings of several
    devices all stay: a table of its own shows each.

    Returns:
        The records, the failed cells, and a sentence for each choice of which something is left out.
    """
    kept, left_out = list(scored), []
    for find in (versions, images):
        for mixture in find(kept):
            last, *older = mixture.kinds
            gone = {id(one) for name in older for one in mixture.kinds[name]}
            kept = [one for one in kept if id(one) not in gone]
            counts = [_counted(mixture.kinds[name], name) for name in older]
            left_out.append(f"left out of {mixture.table}: {', '.join(counts)}, older than {last}")
    shown: dict[tuple[str, ...], set[Any]] = {}
    for one in kept:
        shown.setdefault(_place(one.cell), set()).add(_both(one.cell))
    stale = [cell for cell, _ in failed if _place(cell) in shown and _both(cell) not in shown[_place(cell)]]
    for cell in {_table(cell): cell for cell in stale}.values():
        count = sum(_table(other) == _table(cell) for other in stale)
        left_out.append(
            f"left out of {_table(cell)}: {_plural(count, 'failed cell')} of other versions than those shown"
        )
    keys = {cell.key for cell in stale}
    return kept, [(cell, reason) for cell, reason in failed if cell.key not in keys], left_out


def sentence(mixture: Mixture) -> str:
    """What is mixed, and how to choose."""
    counts = [_counted(cells, name) for name, cells in mixture.kinds.items()]
    there = f"{mixture.table}: {', '.join(counts)}"
    last = next(iter(mixture.kinds))
    if mixture.what == "device":
        return f"a table never mixes timings of different devices ({there}): choose one with --device '{last}'"
    if mixture.what == "images":
        fewest = list(mixture.kinds.values())[-1]
        names = ", ".join(dict.fromkeys(f"{one.cell.metric.name} of {one.cell.method.name}" for one in fewest[:3]))
        return (
            f"a table never mixes lists of images or of their classes ({there}, such as {names}): --newest keeps the "
            "list that was filed last, --method and --metric leave cells out"
        )
    axis = mixture.what.partition(" ")[0]
    return f"a table never mixes versions ({there}): --newest keeps the highest, --{axis} {last} chooses one"


def _by_table(scored: Sequence[Scored]) -> Iterator[tuple[str, list[Scored]]]:
    tables: dict[tuple[str, ...], list[Scored]] = {}
    for one in scored:
        tables.setdefault(_pair(one.cell), []).append(one)
    for cells in tables.values():
        yield _table(cells[0].cell), cells


def _mixture(table: str, what: str, kinds: Mapping[str, list[Scored]]) -> list[Mixture]:
    if len(kinds) < 2:
        return []
    order = sorted(
        kinds, key=lambda each: (_number(each), max(map(_filed, kinds[each])), len(kinds[each]), each), reverse=True
    )
    return [Mixture(table, what, {each: kinds[each] for each in order})]


def _number(kind: str) -> int:
    """The version in `rise@2`, whatever date its records bear; 0 for what has none."""
    return int(found[1]) if (found := re.search(r"@(\d+)", kind)) else 0


def _filed(one: Scored) -> str:
    """When the record was made, in ISO 8601; older files that do not say come first."""
    return str(one.facts.get("environment", {}).get("created", ""))


def _counted(cells: Sequence[Scored], name: str) -> str:
    return f"{name} ({_plural(len(cells), 'cell')})"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _pair(cell: Cell) -> tuple[str, str]:
    return identity(cell, "model"), identity(cell, "dataset")


def _table(cell: Cell) -> str:
    return f"{cell.model.name} on {cell.dataset.name}"


def _place(cell: Cell) -> tuple[str, ...]:
    """A cell but for versions and options."""
    return *_pair(cell), *kind(cell.method), "", *kind(cell.metric), str(cell.seed)


def _both(cell: Cell) -> tuple[str, str]:
    return cell.method.version, cell.metric.version
