"""SmoothGrad: the gradient, averaged over noisy copies of the image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark import randomness
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._gradients import logit_gradient
from methods._pairs import summed


@dataclass(frozen=True)
class SmoothGrad(Method):
    """`mean_s d z_t / d x (x + e_s)` with `e_s ~ N(0, (noise * (max x - min x))^2)`, signed, `(N, C, H, W)`.

    Extremes are of each image, over all of its channels. In expectation it is the map of least infidelity under
    Gaussian perturbations of that width, so a metric of that kind favours it by construction.

    Source: Smilkov, Thorat, Kim, Viegas & Wattenberg 2017, arXiv:1706.03825.

    Attributes:
        samples: noisy copies of each image, at least 1.
        noise: standard deviation as a fraction of the image's range.

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

    def __post_init__(self) -> None:
        if self.samples < 1 or self.noise < 0:
            raise UserError(f"SmoothGrad needs samples >= 1 and noise >= 0, not {self.samples} and {self.noise}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, keys = batch.inputs, batch.keys("smoothgrad", self.samples)
        width = self.noise * (inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True))

        def share(image: Tensor, draw: Tensor) -> Tensor:
            noise = randomness.normal(keys[image, draw], *inputs.shape[1:]).to(inputs.dtype)
            return logit_gradient(model, inputs[image] + width[image] * noise, batch.targets[image])

        return summed(share, inputs, self.samples, batch.chunk) / self.samples
