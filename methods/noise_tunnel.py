"""Noise tunnel: what SmoothGrad does to the gradient, done to any method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._noise import Moment, check_noise, chosen, least, noisy
from methods._pairs import moments


@dataclass(frozen=True, kw_only=True)
class _Copies(Batch):
    """Noisy copies of images: the question, the baseline and the uid are those of the image, and chance is their own.

    The logits cost a pass that few methods need, so they are computed where they are asked for.

    Attributes:
        model: whose logits they are.
        salt: `(N,)`, a random key of each copy, by which its draws differ from those of other copies of its image.
    """

    model: nn.Module
    salt: Tensor

    def __post_init__(self) -> None:
        if not len(self.logits):
            del vars(self)["logits"]

    def __getattr__(self, name: str) -> Tensor:
        if name != "logits":
            raise AttributeError(name)
        found = passes.logits(self.model, self.inputs, self.chunk).clone()
        vars(self)["logits"] = found
        return found

    def _mapped(self, uids: tuple[str, ...], change: Callable[[Tensor], Tensor]) -> Batch:
        vars(self)["logits"] = self.logits  # known by now, so that they are mapped too
        return super()._mapped(uids, change)

    def keys(self, purpose: str, draws: int = 1) -> Tensor:
        return super().keys(purpose, draws) ^ self.salt.unsqueeze(1)


@dataclass(frozen=True)
class NoiseTunnel(Method):
    """A moment of `base(x + e_s)` over draws `e_s ~ N(0, (noise * (max x - min x))^2)`, as the base's maps are shaped.

    Around the gradient, the mean is SmoothGrad, the square SmoothGrad squared and the variance VarGrad, draw by draw
    the same. Each copy is explained as an image of its own, for the target and from the baseline of the image; a base
    that draws random numbers draws others for each copy. captum's width is absolute and 1 where nothing is said.

    Source: Smilkov, Thorat, Kim, Viegas & Wattenberg 2017, arXiv:1706.03825; Hooker, Erhan, Kindermans & Kim 2019,
    arXiv:1806.10758; Adebayo, Gilmer, Goodfellow & Kim 2018, arXiv:1810.03307; around any method: captum (Kokhlikyan et
    al. 2020, arXiv:2009.07896).

    Attributes:
        base: the method that explains the copies.
        samples: noisy copies of each image, at least 1, for the variance 2.
        noise: standard deviation as a fraction of the image's range.
        moment: `mean`, `square` or `variance`, of each value by itself; the variance is the biased one, as in captum.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: the base is not.

    Example:
        >>> NoiseTunnel(IntegratedGradients(steps=8)).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    stochastic = True

    base: Method
    samples: int = 25
    noise: float = 0.15
    moment: Moment = "mean"

    def __post_init__(self) -> None:
        if not isinstance(self.base, Method):
            raise UserError(f"a noise tunnel needs a method as its base, not {type(self.base).__name__}")
        check_noise("a noise tunnel", self.samples, self.noise, self.moment)

    @property
    def role(self) -> str:  # type: ignore[override]
        return self.base.role

    @property
    def class_agnostic(self) -> bool:  # type: ignore[override]
        return self.base.class_agnostic

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        return self.base.needs_gradient

    @property
    def passes(self) -> int | None:
        return None if self.base.passes is None else self.samples * self.base.passes

    def within(self, passes: int) -> Self:
        """As many copies as the budget allows; the base is cut where its options alone would exceed it."""
        fewest = least(self.moment)
        cost, base = self.base.passes, self.base
        if cost is None or cost * fewest > passes:
            base = base.within(max(1, passes // fewest))
            return replace(self, base=base, samples=fewest)
        return replace(self, samples=passes // cost if cost else self.samples)

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        copies, salt = noisy(batch, self.samples, self.noise), batch.keys("noise tunnel", self.samples)

        def share(image: Tensor, draw: Tensor) -> Tensor:
            of_each = {name: value[image] for name, value in vars(batch).items() if isinstance(value, Tensor)}
            own = {
                "inputs": copies(image, draw),
                "logits": batch.inputs[:0],
                "uids": tuple(batch.uids[place] for place in image.tolist()),
                "whole": batch.whole or batch,
                "shared": None,
                "model": model,
                "salt": salt[image, draw],
            }
            noised = _Copies(**vars(batch) | of_each | own)
            return self.base.attribute(model, noised)

        key = ("moments of noisy maps", type(self.base), repr(self.base), self.samples, self.noise)
        found = batch.once(
            model, key, lambda: moments(share, batch.inputs, self.samples, batch.chunk, torch.device("cpu"))
        )
        return chosen(self.moment, *found)
