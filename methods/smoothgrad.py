"""SmoothGrad, SmoothGrad squared and VarGrad: the gradient over noisy copies of the image, and its moments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor, nn

from benchmark.protocols import Batch, Method
from methods._gradients import logit_gradient
from methods._noise import Moment, check_noise, chosen, least, noisy
from methods._pairs import moments


@dataclass(frozen=True)
class SmoothGrad(Method):
    """A moment of `d z_t / d x (x + e_s)` over draws `e_s ~ N(0, (noise * (max x - min x))^2)`, `(N, C, H, W)`.

    `mean` is SmoothGrad, signed; `square`, the mean of squares, SmoothGrad squared; `variance` VarGrad. The three of
    one width share their passes in a sweep. Extremes are of each image, over all of its channels, as in the paper and
    in zennit; captum's and xplique's width is absolute, in units of the network's input. zennit's last draw is the
    image itself. In expectation the mean is the map of least infidelity under Gaussian perturbations of that width, so
    a metric of that kind favours it by construction.

    Source: Smilkov, Thorat, Kim, Viegas & Wattenberg 2017, arXiv:1706.03825; of the square: Hooker, Erhan, Kindermans &
    Kim 2019, arXiv:1806.10758; of the variance: Adebayo, Gilmer, Goodfellow & Kim 2018, arXiv:1810.03307.

    Attributes:
        samples: noisy copies of each image, at least 1, for the variance 2.
        noise: standard deviation as a fraction of the image's range.
        moment: `mean`, `square` or `variance`, of each value by itself; the variance is the biased one, as in captum.

    Raises:
        UserError: an option is out of its range.

    Example:
        >>> SmoothGrad(samples=50).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    version = "2"
    stochastic = True
    needs_gradient = True

    samples: int = 25
    noise: float = 0.15
    moment: Moment = "mean"

    def __post_init__(self) -> None:
        check_noise("SmoothGrad", self.samples, self.noise, self.moment)

    @property
    def passes(self) -> int:
        return 2 * self.samples

    def within(self, passes: int) -> Self:
        return replace(self, samples=max(least(self.moment), passes // 2))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        copies = noisy(batch, self.samples, self.noise)

        def share(image: Tensor, draw: Tensor) -> Tensor:
            return logit_gradient(model, copies(image, draw), batch.targets[image])

        key = ("moments of noisy gradients", self.samples, self.noise)
        found = batch.once(model, key, lambda: moments(share, batch.inputs, self.samples, batch.chunk))
        return chosen(self.moment, *found)
