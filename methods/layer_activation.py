"""Layer activation: how strongly a layer responds at each place, whatever the class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchmark import maps
from benchmark.protocols import Batch, Method
from methods._layers import activation_of, upsampled


@dataclass(frozen=True)
class LayerActivation(Method):
    """`sum_k |A_k|` at each place of a layer, upsampled bilinearly; `(N, 1, H, W)`.

    It does not depend on the target, so it shows what the network looks at and not what speaks for a class: a row to
    hold class activation maps against. A layer that runs several times counts where it runs last. Class and register
    tokens are left out.

    Magnitudes, because a plain sum is nothing but the bias behind a LayerNorm, which takes the mean of the channels
    away; behind a ReLU the two are one.

    Source: Zagoruyko & Komodakis 2017, arXiv:1612.03928 (activation-based attention).

    Attributes:
        layer: name of a layer as in `model.named_modules()`.
        reduce: over channels, `sum`, `abs_sum`, `l2` or `max`.

    Raises:
        UserError: an option is out of its range, or the model has no such layer.
        NotApplicable: the layer has no spatial extent, or does not run.

    Example:
        >>> LayerActivation(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    class_agnostic = True
    passes = 1

    layer: str
    reduce: maps.Reduce = "abs_sum"

    def __post_init__(self) -> None:
        maps.check_reduce(self.reduce)

    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        activation = activation_of(model, batch, self.layer)
        return upsampled(maps.reduce_channels(activation, self.reduce).unsqueeze(1), batch)
