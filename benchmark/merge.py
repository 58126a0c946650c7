"""`python -m benchmark.merge DIR DIR [--out DIR]`: unite the records of several machines or labs."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import integrity, manifest, records
from benchmark.cells import Cell
from benchmark.errors import UserError
from benchmark.frames import AXES, identity, labels
from benchmark.interruption import interruptible
from benchmark.records import Record

_DESCRIPTION = """\
Unite folders of records. Without --out the first DIR receives what it lacks; with --out a new folder is written, with a
manifest of hashes, which is a submission. The other folders are read only, and no file is ever overwritten."""

_EPILOG = """\
One key with equal rows is kept once. One key with other rows is refused, and then nothing is written at all. Timings of
one key are never twice the same: those of the first folder that has them are kept. The error of a failed cell is
dropped where another folder has the record. At the end stands what the full grid of models, data sets, methods and
metrics still lacks.

Exit code: 0 if the folders are united, 1 if a file is refused, 2 if there is nothing to unite or nowhere to put it."""

_STATED = ("measures", "family", "role")
_MOST_LISTED = 12


@dataclass
class United:
    """What the united folder is to hold.

    Attributes:
        files: the file to take, by its place in the united folder.
        found: the records among them, without curves, by their file.
        failed: the cells that have an error and no record.
        refused: files that cannot be united with the others, and why.
        taken: how many records, by folder.
        counts: of records and errors that are not taken, by the reason.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    found: dict[Path, Record] = field(default_factory=dict)
    failed: list[Cell] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)
    taken: Counter[Path] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def cells(self) -> list[Cell]:
        return [record.cell for record in self.found.values()]


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """Unite the folders that `arguments` name; the exit code is 0 only if all of them fit together."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.merge",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="a folder with records/ in it")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write a new folder, with a manifest")
    options = parser.parse_args(arguments)
    try:
        _check_places(options.folders, options.out)
        united = unite(options.folders)
        for path, sentence in united.refused:
            print(f"refused: {path}: {sentence}", file=sys.stderr)
        if united.refused:
            print("error: nothing is written", file=sys.stderr)
            return 1
        written = _write_new(united, options.out) if options.out else _add(united, options.folders[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*_report(united, options.folders), f"written: {written}", sep="\n")
    return 0


def unite(folders: Sequence[Path]) -> United:
    """What a folder that unites `folders` holds, and what cannot be united; nothing is written.

    Raises:
        UserError: a folder holds no records.
    """
    united = United()
    for folder in folders:
        united.refused += manifest.faults(folder)
        paths = sorted(Path(folder, "records").rglob("*.parquet"))
        if not paths:
            raise UserError(f"{folder} holds no records: expected the folder of a sweep, made by python -m benchmark")
        for path in paths:
            try:
                _take(united, folder, path)
            except UserError as error:
                united.refused.append((path, str(error).removeprefix(f"{path} ")))
            except records.MALFORMED as error:
                united.refused.append((path, records.malformed(error)))
        _take_certificates(united, folder)
    for folder in folders:
        _take_errors(united, folder)
    return united


def coverage(done: Collection[Cell], failed: Collection[Cell] = ()) -> list[str]:
    """How much of the grid of all models, data sets, methods and metrics among the cells is `done`, and what lacks.

    A timing counts whatever device it was taken on.
    """
    names = labels([*done, *failed])

    def place(cell: Cell) -> tuple[str, ...]:
        model, dataset, method, metric = (names[axis, identity(cell, axis)] for axis in AXES)
        return model, dataset, method, cell.metric.name if cell.device else metric

    there, tried = {place(cell) for cell in done}, {place(cell) for cell in failed}
    axes = [list(dict.fromkeys(cell[axis] for cell in sorted(there | tried))) for axis in range(len(AXES))]
    models, datasets, methods, metrics = axes
    grid = len(models) * len(datasets) * len(methods) * len(metrics)
    sizes = f"models {len(models)} × data sets {len(datasets)} × methods {len(methods)} × metrics {len(metrics)}"
    lines = [f"coverage: {len(there)} of {grid} cells ({sizes})"]
    if len(there) == grid:
        return lines
    lines.append(f"missing: {grid - len(there)}" + (f", of them failed: {len(tried - there)}" if tried - there else ""))
    gaps = []
    for model in models:
        for dataset in datasets:
            lacking = {
                method: [metric for metric in metrics if (model, dataset, method, metric) not in there]
                for method in methods
            }
            gaps += [f"  {model} × {dataset}: {text}" for text in _gaps(lacking, metrics)]
    return [*lines, *gaps[:_MOST_LISTED], *([f"  and {len(gaps) - _MOST_LISTED} more"] if gaps[_MOST_LISTED:] else [])]


def _gaps(lacking: dict[str, list[str]], metrics: Sequence[str]) -> Iterator[str]:
    """`srg, deletion of rise, lime`: methods that lack the same metrics together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for method, missing in lacking.items():
        if missing:
            together.setdefault(tuple(missing), []).append(method)
    for absent, methods in together.items():
        what = "everything" if len(absent) == len(metrics) else ", ".join(absent)
        yield what if len(methods) == len(lacking) else f"{what} of {', '.join(methods)}"


def _check_places(folders: Sequence[Path], out: Path | None) -> None:
    resolved = [folder.resolve() for folder in folders]
    if twice := next((folder for folder in folders if resolved.count(folder.resolve()) > 1), None):
        raise UserError(f"{twice} is named twice")
    if out is None:
        if len(folders) == 1:
            raise UserError(f"there is nothing to unite with {folders[0]}: name another folder, or --out DIR")
        if Path(folders[0], manifest.NAME).exists():
            raise UserError(f"{folders[0]} is a submission, which its manifest closes: write a new one with --out DIR")
        return
    if out.resolve() == Path.cwd():
        raise UserError(f"--out {out} is the folder that this runs in: --out needs a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: --out needs a new folder")
    if inside := next((folder for folder in resolved if folder in out.resolve().parents), None):
        raise UserError(f"--out {out} lies in {inside}, which is read only")


def _take(united: United, folder: Path, path: Path) -> None:
    """Take the record in `path` unless its key is there already."""
    record = records.read(path)
    if faults := list(integrity.of_record(folder, path, record)):
        united.refused += faults
        return
    place = path.relative_to(folder)
    if place not in united.files:
        united.files[place] = path
        united.found[path] = replace(record, rows=record.rows.drop(columns="curve"))
        united.taken[folder] += 1
        return
    first = united.files[place]
    sentence = _conflict(record, records.read(first))
    if not sentence:
        united.counts["twice"] += 1
    elif record.cell.device is not None:
        united.counts["timings"] += 1
    else:
        united.refused.append((path, f"it has the key of {first}, and {sentence}"))


def _conflict(record: Record, first: Record) -> str:
    """In what a record differs from the first of the same key, empty where both say the same."""
    if stated := [name for name in _STATED if record.facts[name] != first.facts[name]]:
        return f"states another {', '.join(stated)}"
    if records.digest_rows(record.rows) == records.digest_rows(first.rows):
        return ""
    then, now = (each.rows.set_index(["uid", "measure"]) for each in (first, record))
    if set(then.index) != set(now.index):
        return f"other images: {len(set(then.index) ^ set(now.index))} rows are in one of the two alone"
    if list(then.index) != list(now.index):
        return "the same images in another order"
    off = [_distance(*pair) for pair in zip(then.itertuples(index=False), now.itertuples(index=False), strict=True)]
    if not any(off):
        return ""  # 0 and -0 have other digests
    worst = int(np.argmax(off))
    uid, measure = then.index[worst]
    amount = f"by {off[worst]:.3g}" if math.isfinite(off[worst]) else "in more than a number"
    said = [
        f"{row['value']:.9g} ({row['status']}, class {row['target']})" for row in (then.iloc[worst], now.iloc[worst])
    ]
    return (
        f"other rows: {np.count_nonzero(off)} of {len(off)} differ, most {measure} of {uid}, {amount}: "
        f"there {said[0]}, here {said[1]}; {_environments(first, record)}"
    )


def _distance(then: Any, now: Any) -> float:
    """The largest difference between the numbers of two rows, infinite where they are not of the same kind."""
    one, other = (np.array([row.value, *(() if row.curve is None else row.curve)], dtype=float) for row in (then, now))
    if (then.status, then.target, len(one)) != (now.status, now.target, len(other)):
        return math.inf
    differ = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    return float(np.nan_to_num(np.abs(one - other)[differ], nan=math.inf).max(initial=0.0))


def _environments(first: Record, record: Record) -> str:
    """In what the environments of two records differ."""
    then, now = first.facts["environment"], record.facts["environment"]
    names = [name for name in sorted({*then, *now} - {"created"}) if then.get(name) != now.get(name)]
    if not names:
        return "both were made in the same environment"
    there, here = (", ".join(f"{name} {made_in.get(name)}" for name in names) for made_in in (then, now))
    return f"that one was made with {there}; this one with {here}"


def _take_certificates(united: United, folder: Path) -> None:
    """Take what lets metrics of somebody's own rank; that of the project's own goes with the project."""
    for path in sorted(folder.glob("certificate-*")):
        first = united.files.setdefault(path.relative_to(folder), path)
        if path.read_bytes() != first.read_bytes():
            united.refused.append((path, f"it says otherwise than {first}"))


def _take_errors(united: United, folder: Path) -> None:
    """Take why cells have no record, unless one folder has it."""
    for cell, _ in records.read_errors(folder):
        place = records.error_path(Path(), cell)
        if records.record_path(Path(), cell) in united.files:
            united.counts["recovered"] += 1
        elif place not in united.files and Path(folder, place).exists():
            united.files[place] = Path(folder, place)
            united.failed.append(cell)


def _add(united: United, target: Path) -> Path:
    """Give `target` the files that it lacks, each whole or not at all, and drop the errors of cells that it now has."""
    for place, path in united.files.items():
        if not Path(target, place).exists():
            records.write_whole(Path(target, place), partial(shutil.copyfile, path))
    for cell, _ in list(records.read_errors(target)):
        if records.exists(target, cell):
            with suppress(FileNotFoundError):
                records.error_path(target, cell).unlink()
    return target


def _write_new(united: United, out: Path) -> Path:
    """Write the united folder and its manifest beside `out`, and put it there in one step."""
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        for place, path in united.files.items():
            Path(temporary, place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, Path(temporary, place))
        manifest.write(temporary)
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _report(united: United, folders: Sequence[Path]) -> Iterator[str]:
    """What was united, what is worth a look, and what the grid lacks."""
    taken = ", ".join(f"{united.taken[folder]} from {folder}" for folder in folders)
    yield f"records: {len(united.found)} ({taken})"
    for name, sentence in (
        ("twice", "in several folders with equal rows, kept once"),
        ("timings", "timed in several folders, and times are never equal, that of the first kept"),
        ("recovered", "errors of cells that have a record elsewhere, dropped"),
    ):
        if united.counts[name]:
            yield f"{sentence}: {united.counts[name]}"
    timings = {path for path, record in united.found.items() if record.cell.device is not None}
    for path, sentence in integrity.mixed(united.found, timings):
        yield f"note: {path}: {sentence}"
    yield from _namesakes(united.cells)
    yield from coverage(united.cells, united.failed)


def _namesakes(cells: Sequence[Cell]) -> Iterator[str]:
    """Names that stand for several choices: tables keep them apart."""
    names = labels(cells)
    for axis in AXES:
        same: dict[str, set[str]] = {}
        for cell in cells:
            same.setdefault(getattr(cell, axis).name, set()).add(names[axis, identity(cell, axis)])
        for name, found in same.items():
            if len(found) > 1:
                yield f"note: {axis} {name} stands for several, which tables keep apart: {', '.join(sorted(found))}"


if __name__ == "__main__":
    sys.exit(main())
