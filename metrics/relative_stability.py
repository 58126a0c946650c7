"""Relative stability: how far a map moves for what the model saw, felt and said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import UserError, unknown
from benchmark.protocols import Batch, Explain, Measure, Metric, Scores
from metrics._neighbours import Neighbours, norm

Change = Literal["norm", "element"]


@dataclass(frozen=True)
class RelativeStability(Neighbours, Metric):
    """Relative change of the map against that of input, representation and output (RIS, RRS, ROS); lower is better.

    input = max_y r(phi) / max(r(x), eps_min), representation = max_y r(phi) / max(r(L), eps_min),
    output = max_y r(phi) / max(||h(x) - h(y)||, eps_min), over the neighbours y that keep the predicted class. L is
    what enters the last layer with weights, h are the logits, x is what the model is given, in its normalised space.
    r is the relative change of the map, the input or the representation v:

        norm: ||v(x) - v(y)|| / ||v(x)||, as the authors' own library (OpenXAI) has it.
        element: ||(v(x) - v(y)) / v(x)||, element by element, as the source has it. The elements closest to 0 decide
            alone, so that images differ by orders of magnitude and a mean over them says little. The source leaves
            division by 0 open: an element smaller than eps_min times the largest counts as that.

    Undefined where no neighbour keeps the class, for a map of zeros, and, for the measure in question, where the input
    or the representation is all zeros or no layer has weights. A map that does not depend on the image is best of all.

    Attributes:
        change: r, `norm` or `element`.
        eps_min: smallest denominator.

    Source: Agarwal et al. 2022, arXiv:2203.06877; OpenXAI: Agarwal et al. 2022, arXiv:2206.11104.
    """

    change: Change = "norm"
    eps_min: float = 1e-6

    version: ClassVar[str] = "1"
    family: ClassVar[str] = "robustness"
    measures: ClassVar[tuple[Measure, ...]] = tuple(
        Measure(name, higher_is_better=False, range=(0.0, float("inf")))
        for name in ("input", "representation", "output")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.change not in get_args(Change):
            raise UserError(unknown("change ", self.change, get_args(Change)))
        if self.eps_min <= 0:
            raise UserError(f"relative stability needs eps_min > 0, not {self.eps_min}")

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Logits of the neighbours `(N, samples, K)`; how far input, representation and output move `(N, samples)`."""
        with _entering_last_layer(model) as entering, torch.inference_mode():

            def clean(start: int, stop: int) -> Tensor:
                entering.clear()
                model(batch.inputs[start:stop].clone())
                return _representation(entering, batch.inputs[start:stop])

            def near(inputs: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                moved = self._change(batch.inputs[image], inputs)
                entering.clear()
                logits = model(inputs)
                return logits, moved, self._change(whole[image], _representation(entering, inputs))

            whole = torch.cat(list(passes.chunked(clean, len(batch), batch.chunk)))
            found = self.each(batch, near)
        shape = (len(batch), self.samples)
        logits, inputs, representation = (torch.cat(parts) for parts in zip(*found, strict=True))
        logits = logits.view(*shape, -1)
        return {
            "neighbour_logits": logits,
            "input": inputs.view(shape),
            "representation": representation.view(shape),
            "output": (logits.double() - batch.logits.double()[:, None]).norm(dim=2),
        }

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        changes = torch.stack(
            [self._change(attributions, again) for _, again in self.explained(model, batch, explain, prepared)], 1
        )
        kept = prepared["neighbour_logits"].argmax(2) == batch.logits.argmax(1)[:, None]

        def largest(against: Tensor) -> Tensor:
            ratio = (changes / against.clamp(min=self.eps_min)).masked_fill(~kept, -torch.inf).amax(1)
            return torch.where(kept.any(1), ratio, torch.nan)

        return Scores({name: largest(prepared[name]) for name in ("input", "representation", "output")})

    def _change(self, before: Tensor, after: Tensor) -> Tensor:
        """r `(N,)`, NaN where `before` is all zeros."""
        if self.change == "norm":
            moved, size = norm(before - after), norm(before)
            return torch.where(size > 0, moved / size, torch.nan)
        before, after = before.double().flatten(1), after.double().flatten(1)
        largest = before.abs().amax(1, keepdim=True)
        moved = (before - after) / torch.maximum(before.abs(), self.eps_min * largest)
        return torch.where(largest[:, 0] > 0, moved.norm(dim=1), torch.nan)


@contextmanager
def _entering_last_layer(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within, the list ends with what entered the layer that started last, of those with parameters of their own."""
    entering: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[object, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            entering[:] = [args[0]]

    layers = [module for module in model.modules() if list(module.parameters(recurse=False))]
    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        yield entering
    finally:
        for handle in handles:
            handle.remove()


def _representation(entering: list[Tensor], inputs: Tensor) -> Tensor:
    """What entered the last layer for each of `inputs`, flat; zeros where there is none."""
    if entering and len(entering[0]) == len(inputs):
        return entering[0].flatten(1)
    return inputs.new_zeros(len(inputs), 1)
