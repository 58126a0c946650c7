"""A scored cell, filed whole or not at all: one immutable Parquet file a cell.

    <root>/records/<model>/<dataset>/<method>/<metric>-<key>.parquet      the rows; all else in the file's metadata
    <root>/records/<model>/<dataset>/<method>/<metric>-<key>.error.json   why a cell that was asked for has no record

Resuming a sweep means asking whether the file is there; merging machines means copying files.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.cells import Cell, digest
from benchmark.errors import UserError

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("target", pa.int64()),
        ("measure", pa.string()),
        ("value", pa.float64()),
        ("status", pa.string()),
        ("curve", pa.list_(pa.float64())),
    ]
)
STATUSES = ("ok", "degenerate", "invalid", "not_applicable")
MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
"""What those run into who look at the facts of a file that pretends to be a record."""
_METADATA = b"assay"
_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """The scores of one cell.

    Attributes:
        cell: what was scored.
        rows: a row an image and measure, columns of `SCHEMA`; `value` is NaN unless `status` is `ok`.
        facts: `measures` (list of `protocols.Measure` as dictionaries), `family` of the metric, `role` and, under
            `method`, other facts of the method, `reason` where the cell is not applicable, else None, `seconds`,
            `forwards` and `backwards` (images passed through the model to score it), `environment`, and `build`: by
            axis the config that the choice of the cell is built from again, `???` where it needs a place on disk.
        rows_digest: `digest_rows` of the rows when they were filed; None until then, and in files from before it was
            kept.
    """

    cell: Cell
    rows: pd.DataFrame
    facts: Mapping[str, Any]
    rows_digest: str | None = None


def record_path(root: Path, cell: Cell) -> Path:
    parts = (file_name(choice.name) for choice in (cell.model, cell.dataset, cell.method))
    return Path(root, "records", *parts, f"{file_name(cell.metric.name)}-{cell.key[:16]}.parquet")


def error_path(root: Path, cell: Cell) -> Path:
    return record_path(root, cell).with_suffix(".error.json")


def exists(root: Path, cell: Cell) -> bool:
    return record_path(root, cell).exists()


def write(root: Path, record: Record) -> Path:
    """File `record` unless its cell has one already, and drop the error that an earlier try left."""
    path = record_path(root, record.cell)
    metadata = {"format": _FORMAT, "cell": asdict(record.cell), "rows": digest_rows(record.rows), **record.facts}
    table = pa.Table.from_pandas(record.rows, schema=SCHEMA, preserve_index=False).replace_schema_metadata()

    def fill(temporary: Path) -> None:
        # Arrow's own schema is left out: it is larger than the rows.
        with pq.ParquetWriter(temporary, SCHEMA, store_schema=False, write_page_checksum=True) as file:
            file.write_table(table)
            file.add_key_value_metadata({_METADATA: json.dumps(metadata, sort_keys=True).encode()})

    if not path.exists():
        write_whole(path, fill)
    with suppress(FileNotFoundError):
        error_path(root, record.cell).unlink()
    return path


def read(path: Path) -> Record:
    """The record in `path`.

    Raises:
        UserError: the file is no record, or one of a format that this version does not know.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:  # a third of the time of read_table
            table = file.read(use_threads=False)
            metadata = json.loads(file.metadata.metadata[_METADATA])
        known = metadata.pop("format", None) == _FORMAT
        cell = Cell.from_dict(metadata.pop("cell")) if known else None
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no record of this project, or damaged: {' '.join(str(error).split())}") from error
    if cell is None:
        raise UserError(f"{path} has a format that this version cannot read (expected {_FORMAT})")
    if not table.schema.equals(SCHEMA):
        raise UserError(f"{path} has the columns {', '.join(table.column_names)}, expected {', '.join(SCHEMA.names)}")
    return Record(cell, table.to_pandas(), metadata, metadata.pop("rows", None))


def digest_rows(rows: pd.DataFrame) -> str:
    """SHA-256 in hex over the rows in their order, every digit of every number counted."""

    def exact(number: float) -> float | str:
        return float(number) if math.isfinite(number) else str(float(number))  # JSON has no NaN

    columns = (rows[name].tolist() for name in SCHEMA.names)
    return digest(
        [
            [uid, target, measure, exact(value), status, None if curve is None else [exact(point) for point in curve]]
            for uid, target, measure, value, status, curve in zip(*columns, strict=True)
        ]
    )


def read_all(root: Path, model: str = "*", dataset: str = "*") -> Iterator[Record]:
    """Every record under `root`, or those of the named model and data set alone, in the order of their paths."""
    folders = [name if name == "*" else file_name(name) for name in (model, dataset)]
    return (read(path) for path in sorted(Path(root, "records").glob("/".join([*folders, "*", "*.parquet"]))))


def read_group(root: Path, cell: Cell) -> list[Record]:
    """Every record of the model, data set, method and seed of `cell`, any metric, in the order of their paths."""
    mine = replace(cell, device=None)
    found = (read(path) for path in sorted(record_path(root, cell).parent.glob("*.parquet")))
    return [record for record in found if replace(record.cell, metric=cell.metric, device=None) == mine]


def images(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """The images of the rows of a record in their order, each with its class."""
    first = rows.drop_duplicates("uid")
    return list(zip(first["uid"], first["target"], strict=True))


def write_error(root: Path, cell: Cell, reason: str) -> None:
    """File why `cell` could not be scored; the next run tries it again."""
    text = json.dumps({"cell": asdict(cell), "reason": reason}, indent=1)
    write_whole(error_path(root, cell), lambda temporary: temporary.write_text(text))


def read_errors(root: Path) -> Iterator[tuple[Cell, str]]:
    """(cell, reason) of every cell that failed when it was last tried."""
    for path in sorted(Path(root, "records").glob("*/*/*/*.error.json")):
        try:
            data = json.loads(path.read_text())
            cell, reason = Cell.from_dict(data["cell"]), data["reason"]
        except FileNotFoundError:
            continue  # another process has just scored the cell
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no filed error of this project, or damaged: {error}") from error
        yield cell, reason


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file and put it in place of `path` in one step: never half a file, never a mix.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; everything filed before is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def malformed(error: Exception) -> str:
    """A sentence about one of `MALFORMED`."""
    return f"its facts are not those of a record ({type(error).__name__}: {error})"


def file_name(name: str) -> str:
    """`name` as a folder or file name that is safe everywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".") or "_"
