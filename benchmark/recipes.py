"""From a record back to the objects that made it: its subject, its method, its metric, or why they cannot be had."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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


class Refused(Exception):
    """The record contradicts itself or the code that it names."""


class Unable(Exception):
    """The record cannot be computed again here, which does not speak against it."""


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
        Unable, Older, Refused: it is not, and why.
    """
    if set(record.rows["uid"]) == {CELL}:
        raise Unable("timings are no two times the same")
    build, settings = record.facts.get("build"), record.facts["environment"].get("settings")
    if not (isinstance(build, dict) and set(GROUPS) <= set(build)):
        raise Unable("it is from before records said what they are built from")
    if not (isinstance(settings, dict) and set(_SETTINGS) <= set(settings)):
        raise Unable("it does not say how its batches were cut")
    for axis, group in GROUPS.items():
        _check_targets(build[axis], group, trusted)
    method, _ = _plugin("method", record, build["method"], trusted)
    metric, choice = _plugin("metric", record, build["metric"], trusted)
    _check_facts(record, method, metric)
    config = {
        "models": _placed("models", build["model"], places),
        "datasets": _placed("datasets", build["dataset"], places),
        "seed": record.cell.seed,
        **{name: settings[name] for name in _SETTINGS},
    }
    return Recipe(path, record, OmegaConf.create(config), method, metric, choice)


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
            raise Unable(f"it names {target}, which no file of conf/{group} does")


@cache
def _targets(group: str) -> dict[str, list[str]]:
    """Every `_target_` of the files of `conf/<group>`, by file."""
    found = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        found[path.stem] = list(plugins.targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False)))
    return found


def _plugin(axis: str, record: Record, config: Mapping[str, Any], trusted: Collection[str]) -> tuple[Any, Choice]:
    """The method or metric of the record, of the version and with the options of its cell, and what names it today."""
    choice: Choice = getattr(record.cell, axis)
    target = str(config.get("_target_"))
    if "+" not in choice.version and target not in _targets(GROUPS[axis]).get(choice.name, [target]):
        raise Refused(f"it calls {target} by the name of another {axis}, {choice.name}")
    try:
        named = hydra.utils.get_object(target)
        today = str(named.version) + plugins.source_hash(named)
    except Exception as error:
        raise Unable(f"{target} cannot be imported: {str(error).splitlines()[0]}") from error
    if today != choice.version:
        raise Older(f"{axis} {choice.name} was version {choice.version} and is {today}")
    try:
        settings = OmegaConf.create(dict(config))
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
    return plugin, again


def _check_facts(record: Record, method: Method, metric: Metric) -> None:
    """What decides over ranks beside the numbers must be what the code says."""
    if record.facts["role"] != method.role:
        raise Refused(f"it states the role {record.facts['role']}, the code says {method.role}")
    stated = {measure["name"]: (measure["higher_is_better"], measure["ranked"]) for measure in record.facts["measures"]}
    known = {measure.name: (measure.higher_is_better, measure.ranked) for measure in metric.measures}
    if stated != known:
        raise Refused(f"it states (higher_is_better, ranked) of {stated}, the code says {known}")


def _placed(group: str, config: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """`config` with the places that the user gave."""
    placed = {name: places.get(f"{group}.{name}", value) for name, value in config.items()}
    if missing := [f"{group}.{name}=..." for name, value in placed.items() if value == "???"]:
        raise Unable(f"it needs {' '.join(missing)} on the command line")
    return placed
