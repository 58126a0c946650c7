"""From a config to an object, and from the object to the choice that names it: the only place that instantiates."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from benchmark.cells import Choice
from benchmark.choices import CONF
from benchmark.errors import UserError

OURS = frozenset({"benchmark", "methods", "metrics"})


def build(config: DictConfig, trusted: Collection[str] = ()) -> Any:
    """The object that `config` describes by `_target_` and its arguments.

    Args:
        trusted: top-level modules, beside the project's own, that `_target_` may name.

    Raises:
        UserError: the target is not trusted, does not exist or refuses its arguments, or one of these is missing.
    """
    try:
        target = str(config._target_)
    except MissingMandatoryValue:
        group = config._get_full_key(None) or "methods"
        raise UserError(f"{group}=custom needs the class to use: {group}._target_=my_module.MyClass") from None
    except OmegaConfBaseException:
        raise UserError(f"{config._get_full_key(None) or 'a choice'} names no class: its file needs _target_") from None
    for named in targets(OmegaConf.to_container(config, resolve=False)):
        _check_target(named, trusted)
    _check_missing(config)
    _check_types(config)
    try:
        return hydra.utils.instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"cannot build {target}: {_first_line(cause or error)}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"cannot build {target}: {_first_line(error)}") from error


def targets(settings: Any) -> Iterator[str]:
    """Every `_target_` in a config, however deep: instantiation would call each of them."""
    if isinstance(settings, dict):
        if "_target_" in settings:
            yield str(settings["_target_"])
        settings = list(settings.values())
    if isinstance(settings, list):
        for inner in settings:
            yield from targets(inner)


def _check_target(target: str, trusted: Collection[str]) -> None:
    module = target.split(".")[0]
    if module in trusted:
        return
    if module not in OURS:
        raise UserError(
            f"_target_ {target} is outside this project: name it on the command line, "
            f"or add trust=[{module}] if you mean to run that code"
        )
    try:
        found = hydra.utils.get_object(target)
    except Exception as error:
        raise UserError(f"_target_ {target} does not exist: {_first_line(error)}") from None
    if getattr(found, "__module__", "").split(".")[0] not in OURS:
        raise UserError(f"_target_ {target} is reached through this project and is not part of it")


def _check_missing(config: DictConfig) -> None:
    """Refuse an option that was not given and has no default, in the words of its class."""
    for name in config:
        if isinstance(inner := config._get_node(name), DictConfig):
            _check_missing(inner)
    if missing := [str(name) for name in config if OmegaConf.is_missing(config, name)]:
        said = _docstrings(str(config._target_))
        raise UserError(
            "; ".join(f"{config._get_full_key(name)} is missing: {_meaning(said, name)}" for name in missing)
        )


def _docstrings(target: str) -> list[str]:
    """What `target`, and the classes that it inherits from, say of themselves."""
    found = hydra.utils.get_object(target)
    described = inspect.getmro(found) if inspect.isclass(found) else [found]
    return [inspect.cleandoc(each.__doc__ or "") for each in described]


def _meaning(docstrings: Sequence[str], option: str) -> str:
    """The entry of `option` under Args or Attributes, as one line."""
    for text in docstrings:
        if entry := re.search(rf"^    {option}: (.+(?:\n {{8}}.+)*)", text, re.MULTILINE):
            return " ".join(entry[1].split()).rstrip(".")
    return "it has no default"


def _check_types(config: DictConfig) -> None:
    """Refuse an option of a method or metric of ours whose type is not the one that its class states."""
    for name in config:
        if isinstance(inner := config._get_node(name), DictConfig):
            _check_types(inner)
    try:
        found = hydra.utils.get_object(str(config._target_))
        options = OmegaConf.to_container(config, resolve=True)
    except Exception:
        return  # what is wrong is said where it is built
    if not is_dataclass(found) or not isinstance(options, dict):
        return
    types = get_type_hints(found)
    for field in fields(found):
        value = options.get(field.name, None)
        if field.name in options and not _is(value, types[field.name]):
            name = f"{config._get_full_key(None) or str(config._target_).split('.')[-1]}.{field.name}"
            raise UserError(f"{name}={json.dumps(value)} is no {_said(types[field.name])}")


def _is(value: Any, wanted: Any) -> bool:
    """Whether `value` is of the type `wanted`, as far as options have types."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return value in inner or isinstance(value, str)  # the class says which names there are
    if origin in (Union, UnionType):
        return any(_is(value, each) for each in inner)
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list) and all(_is(each, inner[0]) for each in value)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted) if wanted in (bool, str, type(None)) else True


def _said(wanted: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        return " or ".join(_said(each) for each in inner)
    if origin is not None and issubclass(origin, Sequence):
        return f"list of {_said(inner[0])}s"
    words = {int: "whole number", float: "number", bool: "truth value, true or false", str: "text", type(None): "null"}
    return words.get(wanted, str(wanted))


def source_hash(plugin_class: Any) -> str:
    """A hash of the file of a class or function from outside the project, empty for our own, which have versions."""
    if plugin_class.__module__.split(".")[0] in OURS:
        return ""
    return "+" + hashlib.sha256(Path(inspect.getfile(plugin_class)).read_bytes()).hexdigest()[:12]


def choose(name: str, plugin: Any, config: DictConfig | None = None) -> Choice:
    """The choice of `plugin`: every option of its class with the value it has, those left to their default included.

    `config` is what it was built from; a dataclass does without. A class from outside the project adds a hash of its
    file to its version, so an edited method never meets the records of its former self.
    """
    if is_dataclass(plugin):
        options = {field.name: getattr(plugin, field.name) for field in fields(plugin)}
    else:
        given = OmegaConf.to_container(config, resolve=True) if config is not None else {}
        assert isinstance(given, dict)
        named = {str(key): value for key, value in given.items() if key != "_target_"}
        parameters = inspect.signature(type(plugin)).parameters.values()
        options = {p.name: p.default for p in parameters if p.default is not p.empty} | named
    try:
        params = json.loads(json.dumps(options, allow_nan=False, default=_settings))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"options of {type(plugin).__name__} must be plain numbers, strings and lists: {error}"
        ) from None
    return Choice(name, params, _version(plugin))


def _settings(plugin: Any) -> dict[str, Any]:
    """A plug-in that is an option of another one, as what builds it again."""
    if not is_dataclass(plugin):
        raise TypeError(f"{type(plugin).__name__} is none")
    target = f"{type(plugin).__module__}.{type(plugin).__qualname__}"
    return {"_target_": target} | {field.name: getattr(plugin, field.name) for field in fields(plugin)}


def _version(plugin: Any) -> str:
    """The version of `plugin` and of every plug-in among its options: a change of those moves its numbers too."""
    version = str(plugin.version) + source_hash(type(plugin))
    options = [getattr(plugin, field.name) for field in fields(plugin)] if is_dataclass(plugin) else []
    for option in options:
        inner = list(option.values()) if isinstance(option, dict) else [option]
        version += "".join(f"+{type(each).__name__}@{_version(each)}" for each in inner if is_dataclass(each))
    return version


def check_name(group: str, name: str, config: DictConfig) -> None:
    """Refuse another class under the name of a file of `conf`: tables would show its numbers as what they are not.

    Raises:
        UserError: `_target_` differs from that of `conf/<group>/<name>.yaml`.
    """
    path = CONF / group / f"{name}.yaml"
    if name == "custom" or not path.exists():
        return
    known = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(known, dict)
    if str(config.get("_target_")) != str(known["_target_"]):
        chosen = f"{group}=[custom] {group}.custom" if group == "metrics" else f"{group}=custom {group}"
        raise UserError(f"{group}={name} is {known['_target_']}: choose {chosen}._target_=... for another class")


def title(chosen: str, plugin: object) -> str:
    """What a choice is called in tables: a `custom` one by its class."""
    if chosen != "custom":
        return chosen
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(plugin).__name__).lower()


def require(plugin: Any, protocol: type, needed: str) -> None:
    """Refuse an object that is not what its place in the config asks for."""
    if not isinstance(plugin, protocol):
        raise UserError(
            f"{type(plugin).__module__}.{type(plugin).__qualname__} is no {protocol.__name__.lower()}: "
            f"inherit from benchmark.protocols.{protocol.__name__} and define {needed}"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
