"""Coalitions of units: the model's score where only some units of an image are present, and maps made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmark import passes, units
from benchmark.baselines import Absence, Fill, check_fill
from benchmark.protocols import Batch

Choose = Callable[[Tensor, Tensor], Tensor]
"""Which units are present, `(R, most)` bool, or how much of each, in [0, 1], for the images at `image (R,)` in their
draws `draw (R,)`."""

_BLOCK = 1 << 22  # numbers at a time in tables that grow with images x draws x units


@dataclass(frozen=True)
class Coalitions:
    """The units of the images of a batch, and the score where some of them are absent.

    Attributes:
        batch: the images.
        labels: the unit of each pixel, int64: `(1, H, W)` where all images share them, else `(N, H, W)`.
        sizes: pixels of each unit, `(1 or N, most)`, 0 for numbers that an image has no unit for.
        counts: how many units each image has, `(N,)` on the CPU, so that nothing has to be read back from elsewhere.
        absence: what takes the place of absent units.
        output: which score of the target.
    """

    batch: Batch
    labels: Tensor
    sizes: Tensor
    counts: Tensor
    absence: Absence
    output: passes.Score

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, unit: str, fill: Fill, output: passes.Score = "logit") -> Coalitions:
        """Superpixels, which are slow, are made once for all methods of a sweep."""
        if unit.startswith("slic"):
            key = ("units", unit, batch.mean, batch.std)
            labels = batch.once(model, key, lambda: units.units(batch, unit).int())
        else:  # the size of the images, or their parts, say all
            labels = units.units(replace(batch, inputs=torch.empty(1).expand(batch.inputs.shape)), unit)
        labels = labels.cpu().long()
        counts = (labels.flatten(1).amax(1) + 1).expand(len(batch))
        labels, sizes = (found.to(batch.inputs.device) for found in (labels, units.sizes(labels)))
        return cls(batch, labels, sizes, counts, Absence.of(batch, fill), output)

    @property
    def most(self) -> int:
        """The largest number of units that an image has."""
        return self.sizes.shape[1]

    @property
    def there(self) -> Tensor:
        """Which units each image has, `(N, most)` bool."""
        return self.first(self.counts, self.most).to(self.labels.device)

    @staticmethod
    def first(counts: Tensor, most: int) -> Tensor:
        """The first `counts (N,)` of `most`: `(N, most)` bool."""
        return torch.arange(most) < counts.unsqueeze(1)

    def full(self) -> Tensor:
        """The score of each image as it is, `(N,)` float64, without a pass."""
        return passes.class_scores(self.batch.logits, self.batch.targets, self.output).double()

    def empty(self, model: nn.Module) -> Tensor:
        """The score of each image without any of its units, `(N,)` float64; no pass for the shared baseline."""
        return passes.class_scores(self.absence.logits(model), self.batch.targets, self.output).double()

    def scores(self, model: nn.Module, present: Choose, wanted: Tensor) -> Tensor:
        """The score in each draw, `(N, draws)` float64, in passes that mix images and draws.

        Args:
            wanted: `(N, draws)` bool on the CPU, draws that each image has; others get its full score without a pass.
        """
        inputs, targets = self.batch.inputs, self.batch.targets
        image, draw = wanted.nonzero().to(inputs.device).unbind(1)
        shared = len(self.labels) == 1

        def run(start: int, stop: int) -> Tensor:
            row = image[start:stop]
            kept = units.spread(present(row, draw[start:stop]), self.labels if shared else self.labels[row])
            if kept.dtype == torch.bool:
                seen = self.absence.without(row, ~kept)
            else:
                seen = torch.lerp(self.absence.image[row], inputs[row], kept.to(inputs.dtype).unsqueeze(1))
            return passes.class_scores(model(seen), targets[row], self.output)

        with torch.no_grad():
            found = torch.cat([inputs.new_empty(0), *passes.chunked(run, len(image), self.batch.chunk)])
        return self.full().unsqueeze(1).repeat(1, wanted.shape[1]).index_put((image, draw), found.double())

    def shared_out(self, values: Tensor) -> Tensor:
        """Each unit's value `(N, most)` divided evenly among its pixels, `(N, 1, H, W)`: pixels sum to the units."""
        return self.painted(values / self.sizes.clamp(min=1))

    def painted(self, values: Tensor) -> Tensor:
        """Each unit's value `(N, most)` at all of its pixels, `(N, 1, H, W)`."""
        return units.spread(values.to(self.batch.inputs.dtype), self.labels).unsqueeze(1)


def number(unit: str) -> int | None:
    """How many units an image has: all of `gridG` if it has G pixels a side, about so many of `slicS`, else None."""
    return int(unit[4:]) ** (2 if unit.startswith("grid") else 1) if unit.startswith(("grid", "slic")) else None


def exact_number(unit: str) -> int | None:
    """`number` where it is no estimate."""
    return number(unit) if unit.startswith("grid") else None


def check_options(unit: str, baseline: str) -> None:
    """Refuse units and baselines that there are not.

    Raises:
        UserError: with those that there are.
    """
    units.check_unit(unit)
    check_fill(baseline)


def ranked(numbers: Tensor) -> Tensor:
    """The rank of each of `numbers (..., K)` among the K, from 0 for the smallest; ties by place."""
    return numbers.argsort(dim=-1, stable=True).argsort(-1)


def blocks(images: int, numbers: int) -> Iterator[slice]:
    """Some of `images` at a time, such that a table of `numbers` for each of them stays small."""
    step = max(1, _BLOCK // max(1, numbers))
    for start in range(0, images, step):
        yield slice(start, start + step)


def least_squares(design: Tensor, weights: Tensor, values: Tensor, ridge: float = 0.0) -> Tensor:
    """`argmin_b sum_s w_s (v_s - design_s b)^2 + ridge |b|^2` of each image, the shortest such b: `(N, U)`.

    Args:
        design: `(N, S, U)` float64, where a column of zeros gets 0.
        weights: `(N, S)`, not negative.
        values: `(N, S)`.
    """
    root = weights.sqrt()
    design, values = design * root.unsqueeze(2), (values * root).unsqueeze(2)
    gram = design.mT @ design + ridge * torch.eye(design.shape[2], dtype=design.dtype, device=design.device)
    size, axes = torch.linalg.eigh(gram)
    inverse = (axes * torch.where(size > 1e-10 * size[:, -1:], 1 / size, 0).unsqueeze(1)) @ axes.mT
    found = inverse @ (design.mT @ values)
    # Normal equations square the condition of the design; one step of refinement gives the lost digits back.
    found = found + inverse @ (design.mT @ (values - design @ found) - ridge * found)
    return found.squeeze(2)
