"""Neighbours of an image: what every test of robustness explains again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from benchmark import passes, randomness
from benchmark.errors import UserError, unknown
from benchmark.protocols import Batch, Explain

Ball = Literal["linf", "l2"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Neighbours:
    """The neighbours x + d of an image x: the part of a protocol that all tests of robustness share.

    The question stays that of the image: a neighbour has its target, its baseline and its uid, so that a stochastic
    method draws the same noise for both and its own noise does not count as sensitivity. The logits are the
    neighbour's own. All methods and all tests of one radius meet the same neighbours.

    A maximum over neighbours is a lower bound of the maximum over the ball and grows with their number, so numbers
    compare at equal `samples` and `radius` alone.

    Attributes:
        samples: neighbours an image.
        radius: of the ball that d is uniform in, in pixel space, where black is 0 and white is 1, so that models with
            different normalisations meet the same neighbours. They are not clipped to [0, 1].
        ball: `linf`, every channel of every pixel moves by up to `radius`; `l2`, the image by a Euclidean distance of
            up to `radius`.
    """

    samples: int = 10
    radius: float = 0.02
    ball: Ball = "linf"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.radius <= 0:
            raise UserError(f"neighbours need samples >= 1 and radius > 0, not {self.samples} and {self.radius}")
        if self.ball not in get_args(Ball):
            raise UserError(unknown("ball ", self.ball, get_args(Ball)))

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Logits of the neighbours, `(N, samples, K)`."""
        found = self.each(batch, lambda inputs, image: model(inputs))
        return {"neighbour_logits": torch.cat(found).view(len(batch), self.samples, -1)}

    def each(self, batch: Batch, function: Callable[[Tensor, Tensor], Result]) -> list[Result]:
        """`function(inputs (R, C, H, W), image (R,))` over all neighbours, image by image, in passes that are full."""

        def part(start: int, stop: int) -> Result:
            pair = torch.arange(start, stop, device=batch.inputs.device)
            image, draw = pair // self.samples, pair % self.samples
            return function(self._moved(batch, image, self._steps(batch, image, draw)), image)

        with torch.inference_mode():
            return list(passes.chunked(part, len(batch) * self.samples, batch.chunk))

    def explained(
        self, model: nn.Module, batch: Batch, explain: Explain, prepared: Mapping[str, Any]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The step d in pixel space and the map of one neighbour of every image, draw by draw."""
        image = torch.arange(len(batch), device=batch.inputs.device)
        for draw in range(self.samples):
            steps = self._steps(batch, image, torch.full_like(image, draw))
            inputs, logits = self._moved(batch, image, steps), prepared["neighbour_logits"][:, draw]
            # Methods that look at other images find those of the data set, and not neighbours of this one.
            near = replace(batch, inputs=inputs, logits=logits, whole=batch.whole or batch)
            yield steps, explain(model, near)

    def _moved(self, batch: Batch, image: Tensor, steps: Tensor) -> Tensor:
        return batch.inputs[image] + steps / steps.new_tensor(batch.std).view(-1, 1, 1)

    def _steps(self, batch: Batch, image: Tensor, draw: Tensor) -> Tensor:
        """d of each pair of an image and a draw, `(R, C, H, W)`."""
        inputs, keys = batch.inputs, batch.keys("neighbours", self.samples)[image, draw]
        if self.ball == "linf":
            return self.radius * (2 * randomness.uniform(keys, *inputs.shape[1:]).to(inputs.dtype) - 1)
        # A uniform direction, and a length whose d-th power is uniform.
        towards = randomness.normal(keys, *inputs.shape[1:]).to(inputs.dtype)
        share = randomness.uniform(batch.keys("neighbours/length", self.samples)[image, draw], 1).to(inputs.dtype)
        length = self.radius * share ** (1 / inputs[0].numel())
        return towards * (length / norm(towards)[:, None].to(inputs.dtype))[:, :, None, None]


def norm(maps: Tensor) -> Tensor:
    """Euclidean norm `(N,)`, in float64, over everything that an image has."""
    return maps.double().flatten(1).norm(dim=1)
