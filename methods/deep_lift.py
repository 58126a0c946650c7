"""DeepLIFT and DeepSHAP: how far each pixel, changed from a baseline to the image, moved the logit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor, nn

from benchmark import randomness
from benchmark.errors import UserError
from benchmark.protocols import Batch, Method
from methods._differences import contributions, paired_contributions


@dataclass(frozen=True)
class DeepLift(Method):
    """`(x - b) * m` with the multipliers m of the rescale rule, signed, `(N, C, H, W)`; b is the batch's baseline.

    Backward, each operation hands on the difference of its outputs in place of its derivative, see
    `methods._differences`, so the map sums to z_t(x) - z_t(b): exactly for convolutions, pooling, activations,
    products, quotients, softmax and normalisation, up to an error of integration for what is left. The paper has rules
    for functions of one number; those for functions of several are built of such and of products, where the libraries
    have none (captum, shap: no products, no LayerNorm) or give a maximum to one entry alone.

    The operations are those that run, so a ReLU module that is used twice or in place, and functions without a module,
    are like any other.

    Source: Shrikumar, Greenside & Kundaje 2017, arXiv:1704.02685.

    Attributes:
        nodes: points of the average over operations without a rule of their own, at least 1.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: an operation is hidden, depends on the image in its kind, or yields no difference.

    Example:
        >>> DeepLift().attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    has_baseline = True
    needs_gradient = True

    nodes: int = 8

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise UserError(f"DeepLIFT needs nodes >= 1, not {self.nodes}")

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        first = batch.baseline[:1]
        if bool((batch.baseline == first).all()):
            return contributions(model, batch, first, self.nodes)
        return paired_contributions(model, batch, batch.baseline, self.nodes)


@dataclass(frozen=True)
class DeepShap(Method):
    """The mean of `DeepLift` over `samples` baselines from the data set, signed, `(N, C, H, W)`.

    Sums to z_t(x) less the mean of z_t over those baselines, which are the same for every image. Images run forward
    once, baselines once, and only backward passes are made for every pair of them.

    Source: Lundberg & Lee 2017, arXiv:1705.07874, section 4.2.

    Attributes:
        samples: images of the data set that stand for "absent", at least 1, at most all.
        nodes: as in `DeepLift`.

    Raises:
        UserError: an option is out of its range.
        NotApplicable: an operation is hidden, depends on the image in its kind, or yields no difference.

    Example:
        >>> DeepShap(samples=8).attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 3, 224, 224])
    """

    stochastic = True
    needs_gradient = True

    samples: int = 16
    nodes: int = 8

    def __post_init__(self) -> None:
        if self.samples < 1 or self.nodes < 1:
            raise UserError(f"DeepSHAP needs samples >= 1 and nodes >= 1, not {self.samples} and {self.nodes}")

    def within(self, passes: int) -> Self:
        # One forward pass of the image, a share of those of the baselines, which is at most one where there are as many
        # images, and a backward pass for each baseline.
        return replace(self, samples=max(1, passes - 2))

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        baselines = self.baselines(batch)
        return contributions(model, batch, baselines, self.nodes) / len(baselines)

    def baselines(self, batch: Batch) -> Tensor:
        """The images of the data set that it compares with: `(K, C, H, W)`."""
        images = batch.whole or batch
        draw = {i: randomness.integer(batch.seed, "deep_shap", uid) for i, uid in enumerate(images.uids)}
        chosen = sorted(draw, key=draw.__getitem__)[: self.samples]
        return images.inputs[chosen].to(batch.inputs)
