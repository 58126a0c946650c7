"""Input invariance: does a shift that the model undoes change the map?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores


@dataclass(frozen=True)
class InputInvariance(Metric):
    """Relative distance between the map of f at x and that of f' at x + m, where f'(x + m) = f(x); 0 is invariant.

    ||phi(f', x + m) - phi(f, x)|| / ||phi(f, x)|| with a constant shift m of all that enters the model, which is the
    same as normalising the same pixels by another mean. Since f' and f see the same picture, a map that differs speaks
    of how the picture is coded. A map of zeros is undefined.

    The baseline is a picture too and is shifted along: integrated gradients are then invariant, and those whose
    reference stays behind are not. Gradients are invariant; input x gradient is not, being off by m times the gradient.

    f' subtracts m before its first layer, which is exact for every architecture, also where padding with zeros keeps
    the bias of the first layer from taking m up. A method that reads what enters that layer finds x there.

    Evidence, and not a ranking: how far a map moves depends on m.

    Attributes:
        shift: m, in the model's normalised space.

    Source: Kindermans et al. 2017, arXiv:1711.00867.
    """

    shift: float = 1.0

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "axioms"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("input_invariance", higher_is_better=False, range=(0.0, float("inf")), ranked=False),
    )

    def __post_init__(self) -> None:
        if self.shift == 0:
            raise UserError("input invariance needs a shift other than 0")

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        with _undoing(model, self.shift):
            again = explain(model, _shifted(batch, self.shift))
        distance, size = (maps.double().flatten(1).norm(dim=1) for maps in (again - attributions, attributions))
        return Scores({"input_invariance": torch.where(size > 0, distance / size, torch.nan)})


@contextmanager
def _undoing(model: nn.Module, shift: float) -> Iterator[None]:
    """Within, `model` subtracts `shift` first. A hook, and no module around it, leaves its layers their names."""

    def subtract(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] - shift, *args[1:])

    handle = model.register_forward_pre_hook(subtract)
    try:
        yield
    finally:
        handle.remove()


def _shifted(batch: Batch, shift: float) -> Batch:
    """The same pictures, coded by another mean: pixels, targets and outputs stay."""
    channels = max(len(batch.mean), len(batch.std))
    coding = zip((batch.mean * channels)[:channels], (batch.std * channels)[:channels], strict=True)
    return replace(
        batch,
        inputs=batch.inputs + shift,
        baseline=batch.baseline + shift,
        empty=None if batch.empty is None else batch.empty + shift,
        mean=tuple(mean - shift * std for mean, std in coding),
        whole=batch.whole and _shifted(batch.whole, shift),
    )
