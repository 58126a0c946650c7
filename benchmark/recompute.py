"""Records computed again from what they say of themselves: nothing is read from a cache, nothing is filed."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import certify, passes, records, subjects
from benchmark.cells import Choice, digest
from benchmark.certificate import SHIPPED
from benchmark.errors import UserError
from benchmark.evaluate import Evaluation, describe
from benchmark.integrity import Faults
from benchmark.progress import Progress
from benchmark.recipes import Recipe
from benchmark.records import Record
from benchmark.run import prepare_torch
from benchmark.subjects import Subject

AREA, VALUE, POINT = 1e-4, 1e-3, 1e-2
"""How far an area under a curve, any other value and a point of a curve may be off on another processor, device or
torch, as parts of the measure's scale. Rounding lets near ties of a map fall otherwise: that moves a point of a curve
more than its area, and rank correlations more than areas."""

_FLOOR = 1e-6
"""What float32 outputs leave of a difference whose true value is 0."""


@dataclass(frozen=True)
class Verdict:
    """What became of the rows of a record that were computed again, or why they were not.

    Attributes:
        exact: rows that are equal digit by digit.
        within: rows that are not and need not be, because this place differs from that of the record.
        failed: rows that are neither.
        fault: of the first of them, in a sentence.
        unable: why nothing could be computed, which does not speak against the record.
        differs: in what this place differs, empty where digits must be equal.
    """

    path: Path
    exact: int = 0
    within: int = 0
    failed: int = 0
    fault: str = ""
    unable: str = ""
    differs: str = ""


def recompute(drawn: Sequence[tuple[Recipe, str]], trusted: Collection[str]) -> Iterator[Verdict]:
    """Compute the batches again that hold the drawn rows (a record and the uid of an image), a verdict for each.

    What rows share is computed once for all of them: the subject, and the explanation of a batch by a method.
    """
    by_subject: dict[str, list[tuple[Recipe, str]]] = {}
    for chosen, uid in drawn:
        by_subject.setdefault(chosen.subject, []).append((chosen, uid))
    progress = Progress(len(by_subject))
    for rows in by_subject.values():
        cell = rows[0][0].record.cell
        with progress.job(f"{cell.model.name} × {cell.dataset.name}"), tempfile.TemporaryDirectory() as folder:
            try:
                subject = _load(rows[0][0], trusted)
            except Exception as error:
                reason = describe(error)
                yield from (Verdict(path, unable=reason) for path in {chosen.path: None for chosen, _ in rows})
                continue
            yield from _of_subject(subject, rows, Path(folder), progress)
    progress.close()


def _load(first: Recipe, trusted: Collection[str]) -> Subject:
    """The subject, on as many threads and on the kind of device that the record was made on, where there is one."""
    config = first.config.copy()
    prepare_torch(config.threads)
    try:
        subjects.resolve_device(config.device)
    except UserError:
        config.device = "cpu"
    return subjects.load(config, trusted)


def _of_subject(
    subject: Subject, rows: Sequence[tuple[Recipe, str]], folder: Path, progress: Progress
) -> Iterator[Verdict]:
    place = {uid: index for index, batch in enumerate(subject.batches) for uid in batch.uids}
    groups: dict[tuple[str, int], dict[Path, Recipe]] = {}
    refused: dict[Path, Verdict] = {}
    for chosen, uid in rows:
        if verdict := _other_subject(subject, chosen):
            refused[chosen.path] = verdict
        else:
            key = (digest(asdict(chosen.record.cell.method)), place[uid])
            groups.setdefault(key, {})[chosen.path] = chosen
    yield from refused.values()
    for (_, index), recipes in groups.items():
        first = next(iter(recipes.values()))
        alone = replace(subject, batches=(subject.batches[index],))
        # What metrics share between methods goes to a folder of this batch alone.
        choice, method = first.record.cell.method, first.method
        evaluation = Evaluation(folder / str(index), alone, choice, method, progress)
        _explain(evaluation)
        yield from (_judge(chosen, evaluation) for chosen in recipes.values())


def _other_subject(subject: Subject, chosen: Recipe) -> Verdict | None:
    """The verdict where the subject here is not that of the record."""
    for axis, here in (("model", subject.model_choice), ("dataset", subject.dataset_choice)):
        filed: Choice = getattr(chosen.record.cell, axis)
        if digest(asdict(filed)) != digest(asdict(here)):
            options = sorted(set(filed.params) | set(here.params))
            differ = [name for name in options if digest([filed.params.get(name)]) != digest([here.params.get(name)])]
            differ += [name for name in ("name", "version") if getattr(filed, name) != getattr(here, name)]
            what = "weights (version)" if differ == ["version"] and axis == "model" else ", ".join(differ)
            return Verdict(chosen.path, unable=f"the {axis} {filed.name} here is another one: it differs in {what}")
    images = [listed for batch in subject.batches for listed in zip(batch.uids, batch.targets.tolist(), strict=True)]
    if records.images(chosen.record.rows) != images:
        return Verdict(chosen.path, failed=1, fault="its images or classes are not those of its model and data set")
    return None


def _explain(evaluation: Evaluation) -> None:
    """Make the maps of the only batch now, not by the loop: it refuses a method without one valid map among all."""
    network, device = evaluation.subject.model.network, evaluation.subject.device
    try:
        with passes.unchanged(network):
            evaluation.maps = [evaluation.explain(network, evaluation.subject.batches[0].to(device)).cpu()]
    except Exception as error:
        evaluation.maps = error


def _judge(chosen: Recipe, evaluation: Evaluation) -> Verdict:
    differs = _differences(chosen.record, evaluation.subject)
    if evaluation.cell(chosen.choice, chosen.metric).key != chosen.record.cell.key:
        return Verdict(chosen.path, unable="its cell is another one here")
    try:
        again = evaluation.record(chosen.choice, chosen.metric).rows
    except Exception as error:
        if isinstance(error, RuntimeError) and passes.out_of_memory(error):
            return Verdict(chosen.path, unable=describe(error))
        return Verdict(chosen.path, failed=1, fault=f"it cannot be computed again: {describe(error)}")
    filed = {(row.uid, row.measure): row for row in chosen.record.rows.itertuples()}
    counts: Counter[str] = Counter()
    fault = ""
    for now in again.itertuples():
        then = filed[now.uid, now.measure]
        within = _distance(then, now, _bands(chosen, then))
        result = "exact" if within == 0 else "within" if differs and within <= 1 else "failed"
        counts[result] += 1
        if result == "failed" and not fault:
            fault = _sentence(then, now) + (f", {within:.2g} times what may be" if differs else "")
    return Verdict(chosen.path, counts["exact"], counts["within"], counts["failed"], fault, differs=differs)


def _differences(record: Record, subject: Subject) -> str:
    """Why digits need not be equal here, empty where they must."""
    then, now = record.facts["environment"], subject.environment
    names = ("device", "instructions", "torch", "dtype", "settings")
    differ = [f"{name} {then.get(name)} then and {now[name]} here" for name in names if then.get(name) != now[name]]
    if subject.device.type != "cpu":
        differ.append(f"{now['device']} does not promise equal digits")
    return "; ".join(differ)


def _distance(then: Any, now: Any, bands: np.ndarray) -> float:
    """How far two rows are apart, in bands: 0 only if all digits are equal, infinity if they say otherwise."""
    one, other = _numbers(then), _numbers(now)
    if (then.status, then.target, len(one)) != (now.status, now.target, len(other)):
        return math.inf
    differ = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    off = np.abs(one[differ] - other[differ]) / bands[differ]
    return float(np.nan_to_num(off, nan=math.inf).max(initial=0.0))


def _bands(chosen: Recipe, then: Any) -> np.ndarray:
    """What each number of a row may be off: a part of the measure's range, of its usual size where that is open, or of
    the largest number of the row."""
    measure = next(measure for measure in chosen.metric.measures if measure.name == then.measure)
    width = measure.range[1] - measure.range[0]
    if math.isinf(width):
        rows = chosen.record.rows
        width = rows.loc[rows["measure"] == then.measure, "value"].abs().median()
    numbers = np.abs([width, *_numbers(then)])
    scale = numbers[np.isfinite(numbers)].max(initial=0.0)
    points = 0 if then.curve is None else len(then.curve)
    value = AREA if "area" in chosen.choice.params else VALUE  # its protocol says how an area is taken
    return np.maximum(scale * np.array([value, *[POINT] * points]), _FLOOR)


def _numbers(row: Any) -> np.ndarray:
    """The value of a row, and its curve."""
    return np.array([row.value, *(row.curve if row.curve is not None else ())], dtype=float)


def _sentence(then: Any, now: Any) -> str:
    what = f"{now.measure} of {now.uid}"
    if then.status != now.status:
        return f"{what} is {then.status}, and {now.status} when computed again"
    if then.value == now.value:
        return f"the curve of {what} is another one when computed again"
    return f"{what} is {then.value!r}, and {now.value!r} when computed again"


def certificates(root: Path, trusted: Collection[str]) -> Faults:
    """The certificates under `root` that are not the project's own and that their checks, run again, do not give."""
    for path in sorted(Path(root).glob("certificate*.json")):
        if path.is_file() and SHIPPED.exists() and path.read_bytes() == SHIPPED.read_bytes():
            continue
        modules = path.stem.removeprefix("certificate").removeprefix("-").split("-")  # as benchmark.certify names it
        if modules == [""]:
            yield path, "it is not the certificate of this project, and tables would believe it"
        elif missing := [f"--trust {module}" for module in modules if module.split(".")[0] not in trusted]:
            yield path, f"{path.name} is not reproduced: {' '.join(missing)} runs its checks"
        elif fault := _unproved(path, modules):
            yield path, fault


def _unproved(path: Path, modules: Sequence[str]) -> str:
    """What the certificate in `path` says otherwise than the checks of `modules`, empty if nothing."""
    try:
        prepare_torch(1)
        checks = certify.own(modules)
        found = certify.document(certify.prove(list(checks), checks), {})["metrics"]
        filed = json.loads(path.read_text())["metrics"]
        differ = [name for name in sorted({*filed, *found}) if _claims(filed.get(name)) != _claims(found.get(name))]
    except Exception as error:
        return f"its checks cannot be run again: {describe(error)}"
    return f"its checks, run again, say otherwise of {', '.join(differ)}" if differ else ""


def _claims(entry: Any) -> Any:
    """What an entry of a certificate claims, without the digits of what was measured, which machines may not share."""
    if entry is None:
        return None
    checks = [(check["subject"], check["claim"], check["passed"]) for check in entry["checks"]]
    return entry["version"], entry["family"], entry["passed"], checks
