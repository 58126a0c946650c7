"""The manifest of a submission: the hash of every file, and what its records say together.

    <root>/manifest.json

A submission is a folder of records with a manifest. `python -m benchmark.merge DIR --out SUBMISSION` makes one,
`python -m benchmark.verify SUBMISSION` checks it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark import records
from benchmark.certificate import SHIPPED, certified
from benchmark.errors import UserError
from benchmark.frames import AXES

NAME = "manifest.json"

DERIVED = frozenset({"tables", "figures", "report.html"})
"""What commands write beside the records and make of them alone: no part of a submission."""

_FORMAT = 1
_ENVIRONMENT = ("assay", "commit", "python", "torch", "device", "dtype")


def write(root: Path) -> Path:
    """Write the manifest of everything that lies under `root`; equal files give an equal manifest.

    Raises:
        UserError: a record is damaged, or the folder cannot be written.
    """
    text = json.dumps(document(root), indent=1, sort_keys=True) + "\n"
    path = Path(root, NAME)
    records.write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def document(root: Path) -> dict[str, Any]:
    """What the manifest of `root` says.

    `files`: the SHA-256 of each, by its place. `counts`: of records, failed cells, images and choices. `versions`: of
    every choice, by axis and name. `certificate`: of the project, its SHA-256, and the metrics and versions that it and
    the certificates of `root` let rank. `environments`: in which the records were made, and how many in each.

    Raises:
        UserError: a record is damaged.
    """
    versions: dict[str, dict[str, set[str]]] = {axis: {} for axis in AXES}
    environments: Counter[str] = Counter()
    images: set[tuple[str, str]] = set()
    for record in records.read_all(root):
        for axis in AXES:
            choice = getattr(record.cell, axis)
            versions[axis].setdefault(choice.name, set()).add(choice.version)
        if record.cell.device is None:
            images |= {(record.cell.dataset.name, uid) for uid in record.rows["uid"].unique()}
        made_in = record.facts.get("environment", {})
        environments[json.dumps({name: made_in.get(name) for name in _ENVIRONMENT})] += 1
    proved = certified(root)
    ranks = {
        name: [each for each in sorted(found) if (name, each) in proved] for name, found in versions["metric"].items()
    }
    return {
        "format": _FORMAT,
        "files": {place: _hash(Path(root, place)) for place in _places(root)},
        "counts": {
            "records": environments.total(),
            "failed": sum(1 for _ in records.read_errors(root)),
            "images": len(images),
            **{axis: len(found) for axis, found in versions.items()},
        },
        "versions": {axis: {name: sorted(each) for name, each in found.items()} for axis, found in versions.items()},
        "certificate": {"sha256": _hash(SHIPPED) if SHIPPED.exists() else None, "ranks": ranks},
        "environments": [{**json.loads(made_in), "records": count} for made_in, count in sorted(environments.items())],
    }


def read(root: Path) -> dict[str, Any] | None:
    """The manifest of `root`, None where there is none.

    Raises:
        UserError: it is damaged, or of a format that this version does not know.
    """
    path = Path(root, NAME)
    if not os.path.lexists(path):
        return None
    try:
        filed = json.loads(path.read_text(encoding="utf-8"))
        known = filed["format"] == _FORMAT
        if known and not all(isinstance(filed[name], dict) for name in ("files", "counts", "versions", "certificate")):
            raise ValueError("it does not list files, counts, versions and the certificate")
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no manifest of this project, or damaged: {' '.join(str(error).split())}") from error
    if not known:
        raise UserError(f"{path} has a format that this version cannot read (expected {_FORMAT})")
    return dict(filed)


def faults(root: Path) -> Iterator[tuple[Path, str]]:
    """Files of a submission that are missing, extra or changed, and a manifest that says otherwise than its files.

    Nothing where there is no manifest.
    """
    path = Path(root, NAME)
    try:
        filed = read(root)
    except UserError as error:
        yield path, str(error).removeprefix(f"{path} ")
        return
    if filed is None:
        return
    there, listed, sound = set(_places(root)), filed["files"], True
    for place in sorted(there | set(listed)):
        if sentence := _fault(Path(root, place), place in there, listed.get(place)):
            sound = False
            yield Path(root, place), sentence
    if not sound:
        return
    try:
        made = document(root)
    except UserError:
        return  # whoever reads the records names the one that is damaged
    compared = set(made) - ({"certificate"} if other_certificate(filed) else set())
    if differ := [name for name in sorted(compared | set(filed) - set(made)) if filed.get(name) != made.get(name)]:
        yield path, f"what it says of {', '.join(differ)} is not what its files say"


def other_certificate(filed: dict[str, Any]) -> bool:
    """Whether a manifest was made beside another certificate of the project than the one here."""
    return bool(filed["certificate"].get("sha256") != (_hash(SHIPPED) if SHIPPED.exists() else None))


def _fault(path: Path, there: bool, listed: Any) -> str:
    if not there:
        return f"{NAME} lists it, and it is not there"
    if path.is_symlink():
        return "it is a link, and a submission holds its files itself"
    if listed is None:
        return f"{NAME} does not list it"
    return "" if _hash(path) == listed else f"its SHA-256 is not the one that {NAME} states"


def _places(root: Path) -> list[str]:
    """Every file under `root` but the manifest and what is derived, links to folders too, as `records/...`."""
    found = []
    for folder, folders, names in os.walk(root):
        if Path(folder) == Path(root):
            derived = {name for name in DERIVED if not Path(folder, name).is_symlink()}
            folders[:] = [name for name in folders if name not in derived]
            names = [name for name in names if name not in {NAME, *derived}]
        links = [name for name in folders if Path(folder, name).is_symlink()]
        found += [Path(folder, name).relative_to(root).as_posix() for name in [*names, *links]]
    return sorted(found)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
