"""Weights from a file into a network: read without running any code that the file may hold, and all of them or none."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError

State = dict[str, Tensor]


def load(network: nn.Module, checkpoint: str) -> None:
    """Put the weights in `checkpoint` into `network`, all of them and nothing else.

    The names may stand behind a common prefix, as wrappers put it there (`module.`, `model.`, `_orig_mod.`); what
    stands outside that prefix is not the network's.

    Raises:
        UserError: there is no such file, it holds no weights or several sets of them, or they do not fit.
    """
    state = _own(read(Path(checkpoint)), network, checkpoint)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        own = network.state_dict()
        wrong = [key for key in own if key not in state or state[key].shape != own[key].shape]
        wrong += [key for key in state if key not in own]
        hint = "another architecture, or another number of classes (models.classes)"
        raise UserError(f"{checkpoint} does not fit this model at {', '.join(wrong[:3])}: it holds {hint}") from error


def read(path: Path) -> State:
    """The state dictionary in a file: safetensors, or what `torch.save` wrote, perhaps inside other dictionaries.

    Raises:
        UserError: there is no such file, it needs code to load, or it holds none or several that differ.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path} is no safetensors file or state dictionary that loads without code") from error
    states = dict(_states(found, ""))
    if not states:
        raise UserError(f"{path} holds no state dictionary (names to tensors)")
    if len(states) > 1:
        named = ", ".join(states)
        raise UserError(f"{path} holds several state dictionaries ({named}): save the one that you mean to a file")
    return next(iter(states.values()))


def _states(value: Any, name: str) -> Iterator[tuple[str, State]]:
    """Every dictionary of tensors in `value`, by the keys that lead to it; what an optimiser keeps is none."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return
    if value and all(isinstance(each, Tensor) for each in value.values()):
        yield name, dict(value)
        return
    for key, inner in value.items():
        yield from _states(inner, f"{name}.{key}" if name else key)


def _own(state: State, network: nn.Module, checkpoint: str) -> State:
    """The tensors of `state` that are the network's, by its own names."""
    own = set(map(str, network.state_dict()))
    # Batch norm of before 2018 did not count batches.
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    if not needed or needed <= set(state):
        return state
    first = min(needed)
    found = {}
    for key in state:
        if key.endswith(f".{first}"):
            prefix = key.removesuffix(first)
            inner = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
            if needed <= set(inner):
                found[prefix] = inner
    if len(found) > 1:
        raise UserError(f"{checkpoint} holds the weights several times, behind {' and '.join(found)}: keep one of them")
    return next(iter(found.values()), state)
