"""Weights from a file into a network: read without running any code that the file may hold, and all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError

State = dict[str, Tensor]


def load(network: nn.Module, checkpoint: str) -> None:
    """Put the weights in `checkpoint` into `network`, all of them and nothing else.

    A file may hold several state dictionaries, and the names of one may stand behind a common prefix, as wrappers put
    it there (`module.`, `model.`, `_orig_mod.`). Those that fit `network` by names and shapes are its weights; what
    stands outside them is not the network's.

    Raises:
        UserError: there is no such file, it holds no weights, several that fit and differ, or none that fit.
    """
    states = _read(Path(checkpoint))
    shapes = {name: getattr(each, "shape", None) for name, each in network.state_dict().items()}
    # Batch norm of before 2018 did not count batches.
    needed = {name for name in shapes if not name.endswith("num_batches_tracked")}
    held = {place: own for key, state in states.items() for place, own in _behind(key, state, needed)}
    fitting = {place: own for place, own in held.items() if not (needed | own.keys()) & {*_misfits(own, shapes)}}
    if not fitting and len(states) > 1:
        raise _several(checkpoint, states, ", none of which fits this model")
    state, *others = (fitting or held).values()
    if fitting and not all(_equal(state, other) for other in others):
        raise _several(checkpoint, fitting, " that fit this model and differ")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        misfits = ", ".join(_misfits(state, shapes)[:3])
        hint = "another architecture, or another number of classes (models.classes)"
        raise UserError(f"{checkpoint} does not fit this model at {misfits}: it holds {hint}") from error


def read(path: Path) -> State:
    """The state dictionary in a file: safetensors, or what `torch.save` wrote, perhaps inside other dictionaries.

    Raises:
        UserError: there is no such file, it needs code to load, or it holds none or several.
    """
    states = _read(path)
    if len(states) > 1:
        raise _several(path, states)
    return next(iter(states.values()))


def _read(path: Path) -> dict[str, State]:
    """Every state dictionary in a file, one at least, by the keys that lead to it."""
    from safetensors.torch import load_file

    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}") from error
    except Exception as error:  # what is no pickle fails in as many ways as there are first letters
        raise UserError(f"{path} is no safetensors file or state dictionary that loads without code") from error
    states = dict(_states(found, ""))
    if not states:
        raise UserError(f"{path} holds no state dictionary (names to tensors)")
    return states


def _several(path: Path | str, names: Iterable[str], which: str = "") -> UserError:
    named = ", ".join(names)
    return UserError(f"{path} holds several state dictionaries ({named}){which}: save the one that you mean to a file")


def _states(value: Any, name: str) -> Iterator[tuple[str, State]]:
    """Every dictionary of tensors in `value`, by the keys that lead to it; what an optimiser keeps is none."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return
    if value and all(isinstance(each, Tensor) for each in value.values()):
        yield name, dict(value)
        return
    for key, inner in value.items():
        yield from _states(inner, f"{name}.{key}" if name else key)


def _behind(key: str, state: State, needed: Set[str]) -> Iterator[tuple[str, State]]:
    """The tensors of `state` that have the names of the network, by where they stand; all of it where none have."""
    first = min(needed, default="")
    found = {}
    for name in state if not needed <= state.keys() else ():
        if name.endswith(f".{first}"):
            prefix = name.removesuffix(first)
            inner = {each.removeprefix(prefix): tensor for each, tensor in state.items() if each.startswith(prefix)}
            if needed <= inner.keys():
                found[f"{key}.{prefix}" if key else prefix] = inner
    yield from found.items() if found else [(key, state)]


def _misfits(state: State, shapes: Mapping[str, torch.Size | None]) -> list[str]:
    """The names at which `state` is not what `shapes` asks for."""
    wrong = [name for name, shape in shapes.items() if name not in state or state[name].shape != shape]
    return wrong + [name for name in state if name not in shapes]


def _equal(state: State, other: State) -> bool:
    return all(torch.equal(state[name], other[name]) for name in state.keys() & other.keys())
