"""From the words of `python -m benchmark.explain` to a model, methods and frozen batches of images."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from benchmark import batches, models, own_models, plugins, subjects
from benchmark.baselines import Baseline
from benchmark.choices import CONF
from benchmark.datasets import Dataset, Item
from benchmark.errors import UserError, unknown
from benchmark.models import Model
from benchmark.protocols import Batch, Method
from benchmark.run import prepare_torch

_PLAIN = ("metrics=[]", "tracking=none")  # what a page has no use for


@dataclass(frozen=True)
class Setup:
    """A model and methods that are ready to explain.

    Attributes:
        model: on `device`.
        methods: by the name that they have on the page.
        target: index of the class to explain, or None for what the model predicts (or a data set says).
        baseline: what stands for an absent pixel.
        dataset: whose images are explained, or None where they come from files.
        seed: of every random draw.
        chunk: images in one pass, and in one batch.
        folder: for pictures where no other is asked for.
    """

    model: Model
    methods: Mapping[str, Method]
    target: int | None
    baseline: Baseline
    dataset: Dataset | None
    seed: int
    device: torch.device
    chunk: int
    folder: Path

    def items(self) -> Iterator[Item]:
        """The images of the data set."""
        assert self.dataset is not None
        return (self.dataset[place] for place in range(len(self.dataset)))

    def batches(self, items: Iterable[Item]) -> tuple[Batch, ...]:
        """Images as the model sees them, with the class to explain and the baseline fixed, as many as fit a pass."""
        found = list(items)
        labels = [item.label for item in found]
        explain = "predicted" if self.dataset is None else self.dataset.explain
        if self.target is not None:
            labels, explain = [self.target] * len(found), "label"
        batch = batches.freeze(
            self.model.network,
            torch.stack([self.model.pixels(item.image) for item in found]),
            [item.uid for item in found],
            mean=self.model.mean,
            std=self.model.std,
            labels=None if None in labels else torch.tensor(labels),
            masks=_stack([self.model.mask(item.mask) for item in found]),
            parts=_stack([item.parts for item in found]),
            part_names=found[0].part_names,
            empty=_stack([item.empty for item in found]),
            truth=_stack([item.truth for item in found]),
            explain=explain,
            baseline=self.baseline,
            seed=self.seed,
            chunk=self.chunk,
        )
        return batches.split(batch, self.chunk)


def _stack(each: Sequence[Tensor | None]) -> Tensor | None:
    """All of them in one tensor, or None unless every image has one."""
    there = [tensor for tensor in each if tensor is not None]
    return torch.stack(there) if len(there) == len(each) else None


def prepare(
    methods: str,
    options: Sequence[str],
    settings: Sequence[str],
    target: str | None = None,
    from_dataset: bool = False,
    model: Model | None = None,
) -> Setup:
    """Build what a command asks for.

    Args:
        methods: what stands behind `methods=`, several with commas.
        options: overrides `methods.OPTION=...`, each for the methods that have that option; commas sweep.
        settings: all other overrides.
        target: index or name of the class to explain.
        from_dataset: whether images come from the data set that `settings` choose.
        model: in place of the one that `settings` choose.

    Raises:
        UserError: a model, method, option or class does not exist or does not fit.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = _composed(settings)
        prepare_torch(config.threads)
        baseline = config.datasets.baseline
        if baseline not in get_args(Baseline):
            raise UserError(unknown("baseline=", str(baseline), get_args(Baseline)))
        device = subjects.resolve_device(config.device)
        dataset = plugins.build(config.datasets, config.trust) if from_dataset else None
        model = model or own_models.build(config.models, {*config.trust, *_named(settings)})
        if model.size[0] not in (1, 3):
            raise UserError(
                f"{model.name} takes images of {model.size[0]} channels: expected 3 for colour or 1 for grey"
            )
        if dataset is not None:
            models.check(model, dataset)
        built = dict(_methods(methods, options, settings, model.layer))
    model.network.to(device)
    if config.channels_last:
        model.network.to(memory_format=torch.channels_last)
    height, width = model.size[1:]
    chunk = subjects.automatic_chunk(device, height * width) if config.chunk == "auto" else config.chunk
    if not (isinstance(chunk, int) and chunk > 0):
        raise UserError(f"chunk={chunk} is no number of images: expected 1 or more")
    index = None if target is None else class_index(target, model)
    folder = Path(config.results, "explanations")
    return Setup(model, built, index, baseline, dataset, config.seed, device, chunk, folder)


def class_index(wanted: str, model: Model) -> int:
    """The index of a class by its number, its whole name or one of its names between commas, whatever its capitals.

    Raises:
        UserError: there is none, or several have that name.
    """
    if re.fullmatch(r"-?\d+", wanted):
        if 0 <= int(wanted) < model.classes:
            return int(wanted)
        raise UserError(f"target={wanted} is no class of {model.name}: expected 0 to {model.classes - 1}")
    if model.class_names is None:
        raise UserError(f"{model.name} does not name its classes: expected target=0 to target={model.classes - 1}")
    meant = wanted.strip().casefold()
    synonyms = [[part.strip() for part in (name, *name.split(","))] for name in model.class_names]
    found = [index for index, names in enumerate(synonyms) if meant in map(str.casefold, names)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{len(found)} classes are called {wanted}: expected target={' or target='.join(map(str, found))}"
        )
    alike = [f"{names[1]} ({index})" for index, names in enumerate(synonyms) if meant in names[0].casefold()]
    if alike:
        raise UserError(f"class {wanted} does not exist; did you mean {', '.join(alike[:8])}?")
    raise UserError(unknown("class ", wanted, [name for names in synonyms for name in dict.fromkeys(names[1:])]))


def _methods(chosen: str, options: Sequence[str], settings: Sequence[str], layer: str) -> Iterator[tuple[str, Method]]:
    """Every method with every combination of the options that it has, by a name that tells them apart."""
    names = [value for _, value in _values(_parsed(f"methods={chosen}"))]
    parsed = [_parsed(option) for option in options]
    unused = dict.fromkeys(map(_option, parsed))
    for name in dict.fromkeys(names):
        plain = _composed([*settings, f"methods={name}"])
        had = _options(plain.methods)
        own = []
        for override in parsed:
            if _meant(override, name, names, had):
                own.append(_values(override))
                unused.pop(_option(override), None)
        for variant in itertools.product(*own):
            words = [text for text, _ in variant]
            config = _composed([*settings, f"methods={name}", *words]) if words else plain
            with open_dict(config):
                config.models.layer = layer
            method = _method(name, config, {*config.trust, *_named(words)})
            yield " ".join([plugins.title(name, method), *(value for _, value in variant if value)]), method
    if unused:
        raise UserError(
            f"methods.{next(iter(unused))} is no option of {', '.join(names)}: conf/methods/ has those there are"
        )


def _method(name: str, config: DictConfig, trusted: set[str]) -> Method:
    plugins.check_name("methods", name, config.methods)
    method = plugins.build(config.methods, trusted)
    plugins.require(method, Method, "attribute(model, batch)")
    assert isinstance(method, Method)
    if config.budget is None:
        return method
    if not (isinstance(config.budget, int) and config.budget > 0):
        raise UserError(f"budget={config.budget} is no number of passes an image: expected 1 or more, or null")
    return method.within(config.budget)


def _parsed(override: str) -> Override:
    loader = GlobalHydra.instance().config_loader()
    with _said():
        return OverridesParser.create(config_loader=loader).parse_overrides([override])[0]


def _option(override: Override) -> str:
    """The place that an override sets within a method: `steps`, or `base` where it chooses a method of a method."""
    return str(override.package or override.key_or_group).removeprefix("methods.")


def _meant(override: Override, name: str, names: Sequence[str], had: set[str]) -> bool:
    """Whether an override is for the method `name`, which has the options `had`.

    What a class of the user's is, and options that are added, are for that class where there is one.
    """
    option = _option(override)
    if option == "_target_" or (override.is_add() and override.package is None):
        return name == "custom" or "custom" not in names
    return (option.rpartition(".")[0] if override.is_add() else option) in had


def _values(override: Override) -> list[tuple[str, str]]:
    """(the override with one value, what to call it) for each value that it sweeps over; no name where it is one."""
    whole = override.key_or_group == "methods" and override.package is None
    if not override.is_sweep_override():
        return [(str(override.input_line), str(override.value()) if whole else "")]
    with _said():
        values = list(override.sweep_string_iterator())
    key = f"{'+' if override.is_add() else ''}{override.get_key_element()}"
    short = "" if whole else f"{_option(override)}="
    return [(f"{key}={value}", f"{short}{value}") for value in values]


def _options(config: DictConfig) -> set[str]:
    """Every option in a config with its place, as `base.steps`."""

    def inside(settings: Any, above: str) -> Iterator[str]:
        for key, value in settings.items() if isinstance(settings, dict) else ():
            yield f"{above}{key}"
            yield from inside(value, f"{above}{key}.")

    return set(inside(OmegaConf.to_container(config, resolve=False), ""))


def _named(words: Sequence[str]) -> set[str]:
    """Top-level modules of the classes that the user names on the command line."""
    pairs = [word.partition("=") for word in words]
    return {value.strip("'\"").split(".")[0] for key, _, value in pairs if key.endswith("_target_")}


def _composed(overrides: Sequence[str]) -> DictConfig:
    with _said():
        return compose("config", [*_PLAIN, *overrides])


@contextmanager
def _said() -> Iterator[None]:
    """Hydra's complaints in one sentence."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        text = " ".join(str(error).split())
        if match := re.search(r"Could not override '([\w.@/]+)'", text):
            raise UserError(f"{match.group(1)} is no option: see python -m benchmark.explain --help") from None
        raise UserError(text) from None
