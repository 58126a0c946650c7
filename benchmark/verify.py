"""`python -m benchmark.verify RESULTS`: check every record and table of a folder, and compute some rows again."""

from __future__ import annotations

import argparse
import os
import random
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import integrity, manifest, places, records
from benchmark.errors import UserError
from benchmark.interruption import interruptible
from benchmark.records import Record

if TYPE_CHECKING:
    from benchmark.recipes import Recipe

_DESCRIPTION = """\
Check every record under RESULTS (whole, consistent, under its own key, never two versions or two lists of images in one
table), check that the tables are what the records give, and compute random rows again from the images and weights. Of a
submission, which has a manifest.json, check that no file is missing, extra or changed. The caches of RESULTS are not
read, and nothing is written there."""

_EPILOG = """\
A row is one measure of one image. The whole batch that holds it is computed again, on as many threads as before, and
all its rows are compared. On the processor and torch of the record all digits must be equal. Elsewhere, and on a GPU,
an area under a curve may be off by 1e-4 of its measure's range, a point of a curve by 1e-2, any other value by 1e-3;
where the range is open, of the measure's usual size in the record, or of the number itself.

A record of other weights, of an older version, of a place that is not given or of code that is not trusted is no
fault; it is counted. In a submission every record has a digest of its rows. A certificate of RESULTS other than the
project's own is proved again, by the module in its name, which needs --trust.

Exit code: 0 if all is well, 1 if a file is refused, 2 if nothing could be checked, or if rows were to be computed again
and not one could be, though there are records that are no timings."""


_UNPROVED = "for want of weights, places, trust or the code of their version: their numbers stand as filed"
_NO_NULL = "nothing there says what a map scores that knows nothing of the model"


@dataclass
class Report:
    """What was found.

    Attributes:
        refused: files, and why.
        counts: of records, tables and rows, by what became of them.
        older: how many records are of an older version, by the sentence that says of which.
        unable: how many records cannot be computed again, by the reason.
        wanting: the files of both, whose numbers stand as filed.
        possible: how many records could be computed again, here or elsewhere.
        no_null: models and data sets without a null row.
        differs: in what this place differs from that of the records.
        notes: a remark beside a count.
    """

    refused: list[tuple[Path, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    older: Counter[str] = field(default_factory=Counter)
    unable: Counter[str] = field(default_factory=Counter)
    wanting: set[Path] = field(default_factory=set)
    possible: int = 0
    no_null: list[str] = field(default_factory=list)
    differs: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def recomputed(self) -> int:
        return self.counts["exact"] + self.counts["within"] + self.counts["failed"]


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the folder that `arguments` name; the exit code is 0 only if nothing in it is refused."""
    options = _options(arguments)
    report = Report()
    try:
        _prepare()
        found = _checked(options, report)
        _recompute(found, options, report)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, sentence in report.refused:
        print(f"refused: {path}: {sentence}", file=sys.stderr)
    print(_table(report, found))
    if report.refused:
        return 1
    if options.rows and report.possible and not report.recomputed:
        print("error: nothing could be computed again, so the numbers stand as they were filed", file=sys.stderr)
        return 2
    return 0


def _prepare() -> None:
    """Before torch is imported, as in a sweep: threads that spin beside a busy core, and cuBLAS without order."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler of memory, which checks of timings use


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.verify",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", metavar="RESULTS", type=Path, help="the folder of a sweep, with records/ in it")
    places.add(parser)
    parser.add_argument("--rows", metavar="K", type=int, default=20, help="rows to compute again (default: 20)")
    parser.add_argument("--seed", metavar="N", type=int, help="of the draw of rows (default: another one each time)")
    parser.add_argument(
        "--trust",
        metavar="MODULE",
        action="append",
        default=[],
        help="run the code of this module, which is no part of the project, if records name it",
    )
    options = parser.parse_intermixed_args(arguments)
    if options.rows < 0:
        parser.error("--rows must be 0 or more")
    options.places = places.given(parser, options)
    options.seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    return options


def _checked(options: argparse.Namespace, report: Report) -> dict[Path, Record]:
    """Every record that has no fault of its own; the faults go to `report`."""
    root: Path = options.root
    paths = sorted(Path(root, "records").rglob("*.parquet"))
    if not paths:
        raise UserError(f"{root} holds no records: expected the folder of a sweep, made by python -m benchmark")
    submitted = Path(root, manifest.NAME).exists()
    read: dict[Path, Record] = {}
    faults: list[tuple[Path, str]] = []
    for path in paths:
        try:
            record = records.read(path)
            faults += integrity.of_record(root, path, record)
            # Curves are most of a record, and are looked at once.
            read[path] = replace(record, rows=record.rows.drop(columns="curve"))
            if record.rows_digest is None:
                report.counts["no digest"] += 1
                faults += [(path, "it has no digest of its rows, as all of a submission have")] * submitted
        except UserError as error:
            faults.append((path, str(error).removeprefix(f"{path} ")))
        except records.MALFORMED as error:
            faults.append((path, records.malformed(error)))
    faulty = {path for path, _ in faults}
    sound = {path: record for path, record in read.items() if path not in faulty}
    report.refused += [*faults, *integrity.mixed(sound, _timings(sound, options.trust)), *_check_manifest(root, report)]
    report.no_null = integrity.without_null(sound.values())
    report.counts["records"] = len(paths)
    if len(read) == len(paths):
        _check_tables(root, report)
    else:
        report.notes["tables"] = "not compared: not every record can be read"
    return sound


def _check_manifest(root: Path, report: Report) -> list[tuple[Path, str]]:
    """The faults of the manifest of a submission; other folders have none."""
    with suppress(UserError):  # a damaged one is among the faults
        if filed := manifest.read(root):
            report.counts["manifest"] = len(filed["files"])
            if manifest.other_certificate(filed):
                report.notes["manifest"] = "made beside another certificate: which metrics that let rank is not checked"
    return list(manifest.faults(root))


def _timings(found: Mapping[Path, Record], trusted: Collection[str]) -> set[Path]:
    from benchmark.recipes import is_timing

    return {path for path, record in found.items() if is_timing(record, trusted)}


def _check_tables(root: Path, report: Report) -> None:
    try:
        checked, faults = integrity.of_tables(root)
    except Exception as error:
        checked, faults = [], [(root / "tables", f"they cannot be made of the records: {error}")]
    report.refused += faults
    report.counts["tables"] = len(checked)
    report.notes["tables"] = ", ".join(path.name for path in checked) or "none"


def _recompute(found: Mapping[Path, Record], options: argparse.Namespace, report: Report) -> None:
    from benchmark.recipes import Never, Older, Refused, Unable, recipe
    from benchmark.recompute import certificates, recompute

    report.refused += certificates(options.root, options.trust)
    recipes: list[Recipe] = []
    for path, record in found.items():
        try:
            recipes.append(recipe(path, record, options.places, options.trust))
        except Older as reason:
            report.older[str(reason)] += 1
            report.wanting.add(path)
        except Unable as reason:
            report.unable[str(reason)] += 1
            report.wanting |= set() if isinstance(reason, Never) else {path}
        except Refused as reason:
            report.refused.append((path, str(reason)))
        except records.MALFORMED as error:
            report.refused.append((path, records.malformed(error)))
    report.possible = len(recipes) + len(report.wanting)
    drawn = _draw(recipes, options.rows, options.seed)
    report.notes["rows"] = f"{len(drawn)} drawn with seed {options.seed}, the others from the same batches"
    for verdict in recompute(drawn, options.trust):
        report.counts.update(exact=verdict.exact, within=verdict.within, failed=verdict.failed)
        report.differs.update([verdict.differs] if verdict.within else [])
        if verdict.unable:
            report.unable[verdict.unable] += 1
            report.wanting.add(verdict.path)
        if verdict.fault:
            report.refused.append((verdict.path, verdict.fault))


def _draw(recipes: Sequence[Recipe], count: int, seed: int) -> list[tuple[Recipe, str]]:
    """`count` rows of all, each as likely as any other: the record, whole this time, and the uid of the image."""
    ends = list(accumulate(len(one.record.rows) for one in recipes))
    total = ends[-1] if ends else 0
    images: dict[int, list[str]] = {}
    for row in sorted(random.Random(seed).sample(range(total), min(count, total))):
        index = bisect_right(ends, row)
        uids = recipes[index].record.rows["uid"]
        images.setdefault(index, []).append(uids.iloc[row - ends[index]])
    whole = {index: replace(recipes[index], record=records.read(recipes[index].path)) for index in images}
    return [(whole[index], uid) for index, uids in images.items() for uid in uids]


def _table(report: Report, found: Mapping[Path, Record]) -> str:
    counts = report.counts
    refused = len({path for path, _ in report.refused if path.suffix == ".parquet"})
    before = "from before rows had a digest: an edited value shows only where it is computed again"
    lines: list[tuple[str, int, str]] = [
        *_remark("files in manifest", counts["manifest"], report.notes.get("manifest", "")),
        ("records checked", counts["records"], ""),
        ("  refused", refused, ""),
        ("  without a digest", counts["no digest"], before if counts["no digest"] else ""),
        *_reasons("  older", report.older),
        *_reasons("  not recomputable", report.unable),
        *_remark("    of them ranked", _ranked(report, found), _UNPROVED),
        *_remark("  without a null row", len(report.no_null), f"{', '.join(report.no_null)}: {_NO_NULL}"),
        ("tables checked", counts["tables"], report.notes["tables"]),
        ("rows recomputed", report.recomputed, report.notes["rows"]),
        ("  exact", counts["exact"], ""),
        ("  within the band", counts["within"], " | ".join(report.differs)),
        ("  failed", counts["failed"], ""),
    ]
    return "\n".join(f"{name:<20} {count:>7}  {note}".rstrip() for name, count, note in lines)


def _reasons(title: str, reasons: Counter[str]) -> list[tuple[str, int, str]]:
    return [(title, count, reason) for reason, count in reasons.most_common()] or [(title, 0, "")]


def _remark(title: str, count: int, note: str) -> list[tuple[str, int, str]]:
    return [(title, count, note)] if count else []


def _ranked(report: Report, found: Mapping[Path, Record]) -> int:
    """How many records that rank methods were not computed again for want of something."""
    measures = (found[path].facts["measures"] for path in report.wanting)
    return sum(any(measure.get("ranked", True) for measure in each) for each in measures)


if __name__ == "__main__":
    sys.exit(main())
