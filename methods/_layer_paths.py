"""A layer's activation and gradient along the straight path from the baseline to the image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmark import passes
from benchmark.protocols import Batch
from methods._layers import layer_gradient


def along_path(model: nn.Module, batch: Batch, layer: str, places: Tensor) -> Iterator[tuple[range, Tensor, Tensor]]:
    """The layer's output A and `d z_t / d A`, both `(P, C, h, w)`, at `b + place * (x - b)`, P <= `batch.chunk`.

    One forward pass and one backward pass that ends at the layer for each image and each of `places (K,)`. They run
    image by image: pair p, of the range that is yielded, is image p // K at place p % K.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the layer has no spatial extent, or the output does not depend on it.
    """

    def part(start: int, stop: int) -> tuple[range, Tensor, Tensor]:
        pairs = torch.arange(start, stop)
        image, at = pairs // len(places), places[pairs % len(places)].to(batch.inputs).view(-1, 1, 1, 1)
        origin = batch.baseline[image]
        points = origin + at * (batch.inputs[image] - origin)
        return range(start, stop), *layer_gradient(model, points, batch.targets[image], layer)

    yield from passes.chunked(part, len(batch) * len(places), batch.chunk)
