"""A network of the user's own: what a function or class of theirs returns, and what they say of it in the config."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from benchmark import checkpoints, plugins
from benchmark.choices import CONF
from benchmark.errors import UserError
from benchmark.models import Model
from benchmark.preprocessing import Preprocessing, checked_size, model


def build(config: DictConfig, trusted: Collection[str] = ()) -> Model:
    """The model that `config` describes: by a function of ours, or by one of the user's.

    Theirs is called with the options that `conf/models/custom.yaml` does not have, and returns an `nn.Module` or a
    `benchmark.models.Model`, of which the options of that file overrule what it says.

    Raises:
        UserError: it cannot be built or returns something else, `models.size` is missing, or the model is refused.
    """
    target = None if OmegaConf.is_missing(config, "_target_") else config.get("_target_")
    if target is None or str(target).split(".")[0] in plugins.OURS:
        built: Model = plugins.build(config, trusted)
        return built
    ours = [str(name) for name in OmegaConf.load(CONF / "models" / "custom.yaml") if name != "_target_"]
    theirs = config.copy()
    with open_dict(theirs):
        said = {name: theirs.pop(name, None) for name in ours}
    said = {name: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value for name, value in said.items()}
    return _described(plugins.build(theirs, trusted), str(target), **said)


def _described(
    built: Any,
    target: str,
    name: str | None,
    checkpoint: str | None,
    size: list[int] | None,
    mean: list[float] | None,
    std: list[float] | None,
    class_names: str | list[str] | None,
    layer: str | None,
) -> Model:
    """The model of what `target` returned and what the config says beside it."""
    network = built.network if isinstance(built, Model) else built
    if not isinstance(network, nn.Module):
        raise UserError(
            f"{target} returns a {type(built).__name__}, expected a torch.nn.Module or a benchmark.models.Model"
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise UserError(
            f"{target} returns a TorchScript program: save it to a file and choose models=file models.path=FILE"
        )
    if checkpoint is not None:
        checkpoints.load(network, checkpoint)
    if not isinstance(built, Model):
        if size is None:
            raise UserError(f"{target} returns a network: models.size=[channels,height,width] says what it takes")
        known = Preprocessing(checked_size(size)).stated(mean, std, class_names)
        return model(name or target, network, known, layer)
    known = Preprocessing(built.size, built.mean, built.std, built.transform, built.class_names)
    if size is not None and checked_size(size) != built.size:
        known = replace(known, size=checked_size(size), transform=None)
    made = model(name or built.name, network, known.stated(mean, std, class_names), layer or built.layer or None)
    return replace(made, dataset=built.dataset, twin=built.twin)
