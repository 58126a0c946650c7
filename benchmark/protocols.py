"""What a plug-in looks like: the batch it is given, the method or metric it is, the scores it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.errors import UserError
from benchmark.sharing import Shared

Explain = Callable[[nn.Module, "Batch"], Tensor]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """Images to explain, with everything about them that is frozen before any method runs.

    Attributes:
        inputs: `(N, C, H, W)`, preprocessed as the model wants.
        targets: `(N,)` class to explain, fixed once in fp32 eval mode by the data set's rule.
        uids: a name for each image that does not depend on its place in the batch.
        baseline: like `inputs`; what stands for "absent", chosen in pixel space and then normalised.
        logits: `(N, K)` model output for `inputs`.
        baseline_logits: `(N, K)` model output for `baseline`.
        masks: `(N, H, W)` bool, true where the object is, or None where unknown.
        parts: `(N, H, W)` number of the part that each pixel belongs to, 0 for none, or None where scenes have none.
        part_names: what parts 1, 2, ... are, such as `object`; empty where they are alike.
        empty: like `inputs`; the same scenes drawn without any part, so that `where(part is gone, empty, inputs)` is
            the scene drawn without that part; or None.
        truth: `(N, K, H, W)` what each part contributes to each logit, spread evenly over its pixels, where the data
            set knows it; or None.
        seed: of every random draw made for this batch.
        chunk: how many images one pass through the model may hold; changes speed and memory, not scores.
        mean: of each channel (or one for all) in pixel space, subtracted before the network.
        std: likewise, divided by before the network.
        whole: the data set that this is a part of, on the CPU, or None where this is all of it.
        shared: what methods have made of exactly these images, or None where nothing is kept.
    """

    inputs: Tensor
    targets: Tensor
    uids: tuple[str, ...]
    baseline: Tensor
    logits: Tensor
    baseline_logits: Tensor
    masks: Tensor | None = None
    parts: Tensor | None = None
    part_names: tuple[str, ...] = ()
    empty: Tensor | None = None
    truth: Tensor | None = None
    seed: int = 0
    chunk: int = 64
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    whole: Batch | None = None
    shared: Shared | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.uids)

    def keys(self, purpose: str, draws: int = 1) -> Tensor:
        """Random keys `(N, draws)` that depend on (seed, purpose, uid, draw) alone, see `benchmark.randomness`."""
        return randomness.keys(self.seed, purpose, self.uids, draws).to(self.inputs.device)

    @property
    def pixels(self) -> Tensor:
        """The images in pixel space, where black is 0 and white is 1: `(N, C, H, W)`."""
        return self.inputs * _channels(self.std, self.inputs) + _channels(self.mean, self.inputs)

    def normalise(self, pixels: Tensor) -> Tensor:
        """From pixel space to what the model wants."""
        return (pixels - _channels(self.mean, pixels)) / _channels(self.std, pixels)

    def once(self, model: nn.Module, key: tuple[object, ...], make: Callable[[], Made]) -> Made:
        """`make()`, or what another method of the sweep made under `key` of `model` and these very images.

        `key` names what is made and every option that it depends on, and the result must depend on nothing else.
        """
        if self.shared is None:
            return make()
        return self.shared.once(model, (self.inputs, self.targets, self.baseline), key, make)

    def to(self, device: torch.device | str) -> Batch:
        return self._mapped(self.uids, lambda tensor: tensor.to(device))

    def select(self, index: list[int] | slice) -> Batch:
        """The images at `index`, in that order; a slice shares their memory."""
        places = range(len(self))[index] if isinstance(index, slice) else index
        part = self._mapped(tuple(self.uids[i] for i in places), lambda tensor: tensor[index])
        return replace(part, whole=self.whole or self)

    def copy(self) -> Batch:
        """The same images in memory of their own, for whoever may write to them."""
        return self._mapped(self.uids, torch.clone)

    def _mapped(self, uids: tuple[str, ...], change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, uids=uids, **changed)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(-1, 1, 1)


@runtime_checkable
class Method(Protocol):
    """Explains the target class of each image of a batch by a map over its pixels.

    A method is a frozen dataclass: its fields are its options, and nothing is remembered between calls.
    The class attributes are facts that tables and metrics use:

        version: raised with every change that moves a number.
        kind: what it yields; the sweep pairs it with metrics of the same kind.
        role: `method`, or `null` (knows nothing of the model) or `oracle` (knows the truth).
        class_agnostic: the map does not depend on the target.
        has_baseline: the map claims to account for f(x) - f(baseline), so completeness applies.
        stochastic: draws random numbers (always from `batch.keys`).
        needs_gradient: differentiates the model.
    """

    version: ClassVar[str] = "1"
    kind: ClassVar[str] = "attribution"
    role: ClassVar[str] = "method"
    class_agnostic: ClassVar[bool] = False
    has_baseline: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False

    @property
    def passes(self) -> int | None:
        """Passes an image, forward and backward counted apart, or None where options alone do not say."""
        return None

    def within(self, passes: int) -> Self:
        """This method with as many samples, steps or masks as `passes` passes an image allow, at least one.

        Itself where it has no such number. Forward and backward count apart, as in `passes`.
        """
        return self

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        """Signed map `(N, C, H, W)`, or `(N, 1, H, W)`: one value a pixel that stands for all its channels together."""
        ...


@dataclass(frozen=True)
class Measure:
    """One number that a metric reports for an image, and how to read it.

    Attributes:
        name: unique within the metric; a metric of one measure calls it by its own name.
        higher_is_better: direction, or None for a number that only describes.
        range: smallest and largest possible value.
        null: what a map of independent random pixels, as likely above 0 as below, scores in expectation, where that is
            one known number.
        ranked: False for evidence that must not rank methods (sanity checks, costs).
        unit: of the number, empty for none.
    """

    name: str
    higher_is_better: bool | None
    range: tuple[float, float]
    null: float | None = None
    ranked: bool = True
    unit: str = ""


@dataclass(frozen=True)
class Scores:
    """What a metric found: by measure, `values (N,)`, NaN where undefined, and `curves (N, K)` where there are any."""

    values: Mapping[str, Tensor]
    curves: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Metric(Protocol):
    """Scores the maps of a batch, image by image.

    A metric is a frozen dataclass: its fields are its protocol, and they enter the key of every record.
    The class attributes:

        version: raised with every change that moves a number.
        kind: what it scores.
        family: the heading it stands under: faithfulness, axioms, randomisation, localisation, cost, ...
        needs: of `masks` (object masks), `method_baseline` (a method whose map accounts for f(x) - f(baseline)) and
            `twin` (the same network trained on random labels, which `score` finds in `prepared` under that name).
        per: `image`, or `cell` for one number a cell (timings).
    """

    version: ClassVar[str] = "1"
    kind: ClassVar[str] = "attribution"
    family: ClassVar[str] = "faithfulness"
    needs: ClassVar[frozenset[str]] = frozenset()
    per: ClassVar[str] = "image"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The numbers it reports, the headline first; a class attribute where they do not depend on the options."""
        raise UserError(f"{type(self).__qualname__} does not say what it reports: give it measures = (Measure(...),)")

    def parts(self) -> Mapping[str, Metric]:
        """Metrics, by name, whose scores of the same maps this one combines: they are scored first and filed too."""
        return {}

    def prepare(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Everything that does not depend on the method, each tensor `(N, ...)`: made once, shared by all methods."""
        return {}

    def score(
        self, model: nn.Module, batch: Batch, attributions: Tensor, explain: Explain, prepared: Mapping[str, Any]
    ) -> Scores:
        """Score `attributions`.

        `explain(model, batch)` explains again, for tests of randomisation and robustness. `prepared` is what
        `prepare` returned, and the `Scores` of each of `parts` under its name.
        """
        ...
