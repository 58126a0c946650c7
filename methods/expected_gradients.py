"""Expected gradients: integrated gradients from other images of the data set, a random one at a random step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from benchmark import randomness
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from methods._gradients import logit_gradient
from methods._noise import check_noise, noisy
from methods._pairs import summed


@dataclass(frozen=True)
class ExpectedGradients(Method):
    """`mean_s (x - r_s) * d z_t / d x (r_s + a_s (x - r_s))`, signed, `(N, C, H, W)`.

    `r_s` is another image of the data set, drawn with replacement, never x itself, and `a_s` uniform in [0, 1]. It sums
    to z_t(x) less the mean of z_t over the other images in expectation alone: a single map is off by the error of
    sampling, and the batch's baseline plays no part. With `noise` it is GradientSHAP: each x is a noisy copy then, in
    the difference and in the point, as in captum and in shap's local smoothing, whose defaults are none. The width is a
    fraction of the image's range, as in SmoothGrad and InterpretDL; captum's and shap's is absolute.

    Source: Erion, Janizek, Sturmfels, Lundberg & Lee 2021, arXiv:1906.10670; GradientSHAP: the shap library of
    Lundberg & Lee 2017, arXiv:1705.07874.

    Attributes:
        samples: other images and steps an image, at least 1.
        noise: standard deviation as a fraction of the image's range.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: the data set has no second image.

    Example:
        >>> ExpectedGradients(samples=200).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    stochastic = True
    needs_gradient = True

    samples: int = 200
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_noise("the method of expected gradients", self.samples, self.noise)

    @property
    def passes(self) -> int:
        return 2 * self.samples

    def within(self, passes: int) -> Self:
        return replace(self, samples=max(1, passes // 2))

    def draws(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Places in `batch.whole or batch` of the other images, and their steps a: each `(N, samples)`."""
        whole = batch.whole or batch
        if len(whole) < 2:
            raise NotApplicable("the data set has no second image to begin from")
        # In the order of the uids, so that the place of an image in the data set does not matter.
        order = sorted(range(len(whole)), key=whole.uids.__getitem__)
        rank = {whole.uids[place]: position for position, place in enumerate(order)}
        device = whole.inputs.device
        own = torch.tensor([rank[uid] for uid in batch.uids], device=device).unsqueeze(1)
        numbers = randomness.uniform(batch.keys("expected gradients", self.samples), 2)
        # In float64, where a number below 1 times a whole number stays below it.
        other = (numbers[..., 0].double() * (len(order) - 1)).long().to(device)
        return torch.tensor(order, device=device)[other + (other >= own)], numbers[..., 1]

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, references = batch.inputs, (batch.whole or batch).inputs
        places, steps = self.draws(batch)
        steps = steps.to(inputs.dtype).view(*steps.shape, 1, 1, 1)
        copies = noisy(batch, self.samples, self.noise)

        def share(image: Tensor, draw: Tensor) -> Tensor:
            # The indices are where the data set is, which need not fit on the device.
            reference = references[places[image, draw]].to(inputs.device)
            image, draw = image.to(inputs.device), draw.to(inputs.device)
            difference = copies(image, draw) - reference
            points = reference + steps[image, draw] * difference
            return difference * logit_gradient(model, points, batch.targets[image])

        return summed(share, inputs, self.samples, batch.chunk, references.device) / self.samples
