"""From a record back to the objects that made it: its subject, its method, its metric, or why they cannot be had."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from benchmark import plugins
from benchmark.cells import Choice, digest
from benchmark.choices import CONF
from benchmark.errors import UserError
from benchmark.integrity import CELL
from benchmark.protocols import Method, Metric
from benchmark.records import Record

GROUPS = {"model": "models", "dataset": "datasets", "method": "methods", "metric": "metrics"}
"""The folder of `conf` for each axis of a cell."""

_SETTINGS = ("device", "threads", "batch_size", "chunk", "channels_last")
_METHOD_FACTS = ("class_agnostic", "has_baseline", "stochastic", "needs_gradient", "passes")


class Refused(Exception):
    """The record contradicts itself or the code that it names."""


class Unable(Exception):
    """The record cannot be computed again here, which does not speak against it."""


class Never(Unable):
    """The record cannot be computed again anywhere."""


class Older(Unable):
    """The record is of another version of its method or metric than today's."""


@dataclass(frozen=True)
class Recipe:
    """A record and what computes it again.

    Attributes:
        config: of its subject, as `subjects.load` takes it, and `threads`.
        choice: of the metric, as a sweep makes it today.
    """

    path: Path
    record: Record
    config: DictConfig
    method: Method
    metric: Metric
    choice: Choice

    @property
    def subject(self) -> str:
        """What tells its subject from others."""
        return digest(OmegaConf.to_container(self.config, resolve=False))


def recipe(path: Path, record: Record, places: Mapping[str, str], trusted: Collection[str]) -> Recipe:
    """How `record` is computed again.

    Args:
        places: what the record does not say, such as `datasets.root`, by its dotted name.
        trusted: top-level modules outside the project that the record may name.

    Raises:
        Unable, Never, Older, Refused: it is not, and why. What the code says of a record is compared all the same.
    """
    _check_uids(record, is_timing(record, trusted))
    reasons: list[Unable] = []
    with _noted(reasons):
        _check_kept(record)
    with _noted(reasons):
        method, _ = _plugin("method", record, trusted)
        _check_facts(record, role=method.role, method={name: getattr(method, name) for name in _METHOD_FACTS})
        _check_budget(record, method)
    with _noted(reasons):
        metric, choice = _plugin("metric", record, trusted)
        _check_facts(record, measures=[asdict(measure) for measure in metric.measures], family=metric.family)
    with _noted(reasons):
        config = _subject(record, places, trusted)
    if reasons:
        raise next((reason for reason in reasons if isinstance(reason, Never)), reasons[0])
    return Recipe(path, record, config, method, metric, choice)


@contextmanager
def _noted(reasons: list[Unable]) -> Iterator[None]:
    """Note why a record cannot be computed again, and go on: it may contradict the code elsewhere."""
    try:
        yield
    except Unable as reason:
        reasons.append(reason)


def is_timing(record: Record, trusted: Collection[str]) -> bool:
    """Whether the class of its metric says that its numbers belong to the whole cell; what cannot be asked does not."""
    try:
        return bool(_class("metric", record, trusted).per == "cell")
    except (Unable, Refused, KeyError, TypeError, ValueError, AttributeError):
        return False


def _check_uids(record: Record, timing: bool) -> None:
    uids = set(record.rows["uid"])
    if timing and uids != {CELL}:
        raise Refused("it lists images, and the numbers of its metric belong to the whole cell")
    if CELL in uids and not timing:
        name = record.cell.metric.name
        raise Refused(
            f"it has rows of the whole cell, which {name} is not known to give; --trust lets its module say so"
        )


def _is_from_before(record: Record) -> bool:
    """Whether it was filed before records said how they were made, or pretends so."""
    build, settings = record.facts.get("build"), record.facts["environment"].get("settings")
    return not (
        (isinstance(build, dict) and set(GROUPS) <= set(build))
        and (isinstance(settings, dict) and set(_SETTINGS) <= set(settings))
    )


def _check_kept(record: Record) -> None:
    """Only what was timed, or filed before rows had a digest, is free of being computed again."""
    before = _is_from_before(record)
    if before and record.rows_digest is not None:
        raise Refused("its rows have a digest, and it does not say what it is built from and how its batches were cut")
    if CELL in set(record.rows["uid"]):
        raise Never("timings are no two times the same")
    if before:
        raise Unable("it is from before records said what they are built from")


def _subject(record: Record, places: Mapping[str, str], trusted: Collection[str]) -> DictConfig:
    """What builds its model and data set, and how its batches were cut."""
    if _is_from_before(record):
        raise Unable("it does not say what its model and data set are built from")
    build, settings = record.facts["build"], record.facts["environment"]["settings"]
    for axis in ("model", "dataset"):
        _check_targets(build[axis], GROUPS[axis], trusted)
    config = {
        "models": _placed("models", build["model"], places),
        "datasets": _placed("datasets", build["dataset"], places),
        "seed": record.cell.seed,
        **{name: settings[name] for name in _SETTINGS},
    }
    return OmegaConf.create(config)


def _check_targets(config: Any, group: str, trusted: Collection[str]) -> None:
    """A record is data from anywhere: it may name what the files of `conf` name, and modules that the user trusts."""
    if "${" in json.dumps(config):
        raise Refused("what it is built from refers to the machine that reads it")
    for target in plugins.targets(config):
        module = target.split(".")[0]
        if module in trusted:
            continue
        if module not in plugins.OURS:
            raise Unable(f"it runs {target}, which is no part of the project: --trust {module} if you mean to")
        if target not in {known for named in _targets(group).values() for known in named}:
            raise Refused(f"it names {target}, which no file of conf/{group} does")


@cache
def _targets(group: str) -> dict[str, list[str]]:
    """Every `_target_` of the files of `conf/<group>`, by file."""
    found = {}
    for path in sorted((CONF / group).rglob("*.yaml")):
        name = path.relative_to(CONF / group).with_suffix("").as_posix()
        found[name] = list(plugins.targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False)))
    return found


def _config(axis: str, record: Record) -> dict[str, Any]:
    """What its method or metric is built from; where it does not say, what `conf` calls so, with its options."""
    if not _is_from_before(record):
        return dict(record.facts["build"][axis])
    choice: Choice = getattr(record.cell, axis)
    named = _targets(GROUPS[axis]).get(choice.name)
    if not named:
        raise Unable(f"no file of conf/{GROUPS[axis]} is called {choice.name}")
    return {**{name: value for name, value in choice.params.items() if name != "twin"}, "_target_": named[0]}


def _class(axis: str, record: Record, trusted: Collection[str]) -> Any:
    """The class of its method or metric, which is imported only if it is ours or trusted."""
    config, choice = _config(axis, record), getattr(record.cell, axis)
    _check_targets(config, GROUPS[axis], trusted)
    target = str(config.get("_target_"))
    if "+" not in _own(choice.version) and target not in _targets(GROUPS[axis]).get(choice.name, [target]):
        raise Refused(f"it calls {target} by the name of another {axis}, {choice.name}")
    try:
        return hydra.utils.get_object(target)
    except Exception as error:
        raise Unable(f"{target} cannot be imported: {str(error).splitlines()[0]}") from error


def _own(version: str) -> str:
    """The version of a class alone, out of one that `plugins` files: those of plug-ins among its options come after."""
    return re.split(r"\+\w+@", version)[0]


def _version(named: Any) -> str:
    """What a sweep today files as the version of a class alone."""
    try:
        return str(named.version) + plugins.source_hash(named)
    except Exception as error:
        raise Unable(f"{named} has no version: {str(error).splitlines()[0]}") from error


def _plugin(axis: str, record: Record, trusted: Collection[str]) -> tuple[Any, Choice]:
    """The method or metric of the record, of the version and with the options of its cell, and what names it today."""
    choice: Choice = getattr(record.cell, axis)
    today = _version(_class(axis, record, trusted))
    if today != _own(choice.version):
        if _number(today) < _number(choice.version):
            raise Refused(f"it is of version {choice.version} of {axis} {choice.name}, whose latest is {today}")
        raise Older(f"{axis} {choice.name} was version {choice.version} and is {today}")
    try:
        settings = OmegaConf.create(_config(axis, record))
        plugin = plugins.build(settings, trusted)
        plugins.require(plugin, Method if axis == "method" else Metric, "its protocol")
        again = plugins.choose(choice.name, plugin, settings)
    except UserError as error:
        raise Unable(str(error)) from error
    twin = {"twin"} & set(getattr(plugin, "needs", ()))  # of the model, so it is compared when that is there
    params = {name: value for name, value in choice.params.items() if name not in twin}
    if set(again.params) != set(params):
        raise Older(f"{axis} {choice.name} has other options today")
    if again.params != params:
        raise Refused(f"its {axis} {choice.name} is built with other options than its cell states")
    if again.version != choice.version:
        raise Older(f"{axis} {choice.name} was version {choice.version} and is {again.version}")
    return plugin, again


def _number(version: str) -> int:
    return int(found[0]) if (found := re.match(r"\d+", version)) else 0


def _check_budget(record: Record, method: Method) -> None:
    budget = record.facts.get("budget")
    if budget is not None and method.within(budget) != method:
        raise Refused(f"it states a budget of {budget} passes an image, which its method exceeds")


def _check_facts(record: Record, **known: Any) -> None:
    """What a record states beside its numbers decides over ranks and headings too, and must be what the code says."""
    for name, says in json.loads(json.dumps(known)).items():
        if record.facts[name] != says:
            raise Refused(f"it states the {name} {record.facts[name]}, the code says {says}")


def _placed(group: str, config: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """`config` with the places that the user gave."""
    placed = {name: places.get(f"{group}.{name}", value) for name, value in config.items()}
    if missing := [f"{group}.{name}=..." for name, value in placed.items() if value == "???"]:
        raise Unable(f"it needs {' '.join(missing)} on the command line")
    return placed
