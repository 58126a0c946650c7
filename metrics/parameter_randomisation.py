"""Cascading model parameter randomisation (MPRT): does a map change when the model unlearns what it knows?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark import maps, randomness
from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._similarity import spearman, ssim


@dataclass(frozen=True)
class ParameterRandomisation(Metric):
    """Similarity between the map of the model and those of copies whose layers are re-initialised from the output down.

    After each of `stages` cumulative steps the target of the trained model is explained again; the last copy has no
    trained parameter left. A number is the mean over stages and seeds, without the comparison of a map with itself.
    `gap` is the rank correlation of magnitudes minus what two maps of this shape share by chance: the same correlation
    between the map and copies of it rolled by a random shift.

    This is evidence and not a ranking: a map that stays alike ignores the parameters (all null rows are fully alike) or
    follows the input, but one drawn anew at every call would pass best of all, and a faithful one may legitimately
    keep some structure. A copy whose map is constant has nothing left of the original order: its rank correlation
    counts as 0. An original map that is constant is undefined.

    Attributes:
        stages: how many equal groups of layers the cascade has.
        seeds: independent re-initialisations of the whole cascade.
        statistics: also reset the running statistics of batch norm, which the source leaves alone.
        reduce: channel reduction of the maps.

    Source: Adebayo et al. 2018, arXiv:1810.03292; why it must not rank: Binder et al. 2023, arXiv:2211.12486.
    """

    stages: int = 3
    seeds: int = 1
    statistics: bool = False
    reduce: maps.Reduce = "sum"

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "randomisation"
    measures: ClassVar[tuple[Measure, ...]] = tuple(
        Measure(name, higher_is_better=None, range=(-1.0, 1.0), ranked=False)
        for name in ("spearman_abs", "spearman", "ssim", "gap")
    )

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)
        if self.stages < 1 or self.seeds < 1:
            raise UserError(f"parameter randomisation needs stages, seeds >= 1, not {self.stages}, {self.seeds}")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        original = maps.reduce_channels(attributions, self.reduce)
        found: dict[str, list[Tensor]] = {"spearman_abs": [], "spearman": [], "ssim": []}
        for seed in range(self.seeds):
            for randomised in cascade(model, self.stages, f"{batch.seed}/{seed}", self.statistics):
                again = maps.reduce_channels(explain(randomised, batch), self.reduce)
                found["spearman_abs"].append(_kept(original.abs(), again.abs()))
                found["spearman"].append(_kept(original, again))
                found["ssim"].append(ssim(original, again))
        curves = {
            name: torch.stack(steps, 1).view(-1, self.seeds, self.stages).mean(1) for name, steps in found.items()
        }
        values = {name: curve.mean(1) for name, curve in curves.items()}
        values["gap"] = values["spearman_abs"] - _chance(original.abs(), batch.keys("shift", 8))
        return Scores(values, curves)


def _kept(original: Tensor, again: Tensor) -> Tensor:
    """Rank correlation `(N,)`, 0 where the second map alone is constant."""
    constant = [(maps.flatten(1) == maps.flatten(1)[:, :1]).all(1) for maps in (original, again)]
    return torch.where(constant[1] & ~constant[0], 0.0, spearman(original, again))


def cascade(model: nn.Module, stages: int, stream: str, statistics: bool = False) -> Iterator[nn.Module]:
    """A copy of `model` after each of `stages` steps of re-initialising its layers from the output down.

    Every parameter changes: those of a module by its own `reset_parameters`; class and position tokens, layer scale
    and whatever else no such method covers by normal draws of the same mean and spread. Each layer has a stream of
    its own, named by (`stream`, its name). It is one copy that changes on, so use it before asking for the next.
    """
    device = next(model.parameters()).device
    copy = deepcopy(model).cpu()  # where its draws are the same, whatever the device
    layers = [(name, module) for name, module in copy.named_modules() if list(module.parameters(recurse=False))][::-1]
    done = 0
    for stage in range(1, stages + 1):
        until = round(stage * len(layers) / stages)
        for name, module in layers[done:until]:
            _reset(module, randomness.integer("cascade", stream, name), statistics)
        done = until
        yield copy if device.type == "cpu" else deepcopy(copy).to(device)


@torch.no_grad()
def _reset(module: nn.Module, key: int, statistics: bool) -> None:
    """Re-initialise the parameters that `module` owns, from a stream of its own; the global generator is put back."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
    before = {name: parameter.clone() for name, parameter in module.named_parameters(recurse=False)}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key)
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        for name, parameter in module.named_parameters(recurse=False):
            if torch.equal(parameter, before[name]):
                spread = before[name].std() if parameter.numel() > 1 else before[name].abs()
                spread = spread if spread > 0 else before[name].abs().mean() + 1e-3
                parameter.copy_(before[name].mean() + spread * torch.randn_like(parameter))
    if not statistics:
        for name, buffer in module.named_buffers(recurse=False):
            buffer.copy_(buffers[name])


def _chance(values: Tensor, keys: Tensor) -> Tensor:
    """Mean rank correlation `(N,)` between maps `(N, H, W)` and copies rolled by the random shift of each key."""
    height, width = values.shape[1:]
    shift = randomness.uniform(keys, 2)
    down = (shift[..., 0] * (height - 1)).long() + 1
    across = (shift[..., 1] * (width - 1)).long() + 1
    image = torch.arange(len(values), device=values.device)[:, None, None]
    correlations = []
    for draw in range(keys.shape[1]):
        rows = (torch.arange(height, device=values.device) - down[:, draw, None]) % height
        columns = (torch.arange(width, device=values.device) - across[:, draw, None]) % width
        correlations.append(spearman(values, values[image, rows[:, :, None], columns[:, None, :]]))
    return torch.stack(correlations, 1).mean(1)
