"""Layer activation: how strongly a layer responds at each place, whatever the class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from methods._layers import layer_of, leaf_at, spatial, upsampled


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
        if not self.layer:
            raise NotApplicable("the network has no layer with a spatial map")
        size = (batch.inputs.shape[2], batch.inputs.shape[3])
        layer, prefix = layer_of(model, self.layer), maps.prefix_tokens(model)

        def part(start: int, stop: int) -> Tensor:
            with torch.no_grad(), leaf_at(layer) as outputs:
                # A copy, because a model may begin with an in-place operation.
                model(batch.inputs[start:stop].clone())
            if not outputs:
                raise NotApplicable(f"layer {self.layer!r} does not run")
            if len(outputs[-1]) != stop - start:
                raise NotApplicable(f"layer {self.layer!r} splits images into windows: its rows are no images")
            return maps.reduce_channels(spatial(outputs[-1].detach(), size, prefix), self.reduce).unsqueeze(1)

        return upsampled(torch.cat(list(passes.chunked(part, len(batch), batch.chunk))), batch)
