"""CAM: the channels of a layer, weighted as the linear layer behind their global average weighs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import maps, passes
from benchmark.errors import NotApplicable
from benchmark.protocols import Batch, Method
from methods._layers import layer_of, leaf_at, spatial, upsampled


@dataclass(frozen=True)
class CAM(Method):
    """`sum_k w_tk A_k` with the weights w of the last linear layer, upsampled bilinearly; signed, `(N, 1, H, W)`.

    For networks that end in a global average of the layer's output A and one linear layer: there the mean of the coarse
    map and the bias of the target make up its logit, and the map is Grad-CAM without ReLU times the number of places.
    The linear layer is found by watching the model run: it returns the logits, and is given the spatial mean of A.

    Source: Zhou, Khosla, Lapedriza, Oliva & Torralba 2016, arXiv:1512.04150.

    Attributes:
        layer: name of a layer as in `model.named_modules()`, the last before the global average.
        relu: keep only evidence for the target; the paper leaves the map signed.

    Raises:
        UserError: the model has no such layer.
        NotApplicable: the network does not end in a global average of the layer and one linear layer.

    Example:
        >>> CAM(layer="layer4").attribute(model, batch).shape  # doctest: +SKIP
        torch.Size([32, 1, 224, 224])
    """

    passes = 1

    layer: str
    relu: bool = False

    @torch.no_grad()
    def attribute(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.layer:
            raise NotApplicable("the network has no layer with a spatial map")
        layer, prefix = layer_of(model, self.layer), maps.prefix_tokens(model)
        size = (batch.inputs.shape[2], batch.inputs.shape[3])

        def part(start: int, stop: int) -> Tensor:
            with leaf_at(layer) as outputs, _linear_layers(model) as runs:
                logits = model(batch.inputs[start:stop].clone())
            if not outputs:
                raise NotApplicable(f"the model's output does not depend on layer {self.layer!r}")
            activation = spatial(outputs[-1].detach(), size, prefix)
            weight = self._head(runs, activation, logits).weight[batch.targets[start:stop]]
            return torch.einsum("nk,nkhw->nhw", weight, activation).unsqueeze(1)

        cam = torch.cat(list(passes.chunked(part, len(batch), batch.chunk)))
        return upsampled(cam.relu() if self.relu else cam, batch)

    def _head(self, runs: list[tuple[nn.Linear, Tensor, Tensor]], activation: Tensor, logits: Tensor) -> nn.Linear:
        """Of the `runs` of linear layers (layer, input, output), the one that makes the logits of the mean of A."""
        last = [(linear, given) for linear, given, made in runs if _same(made, logits)]
        if not last:
            raise NotApplicable("CAM needs a network whose logits are the output of a linear layer")
        mean = activation.mean((2, 3))
        for linear, given in last:
            if _same(given, mean):
                return linear
        raise NotApplicable(f"CAM needs a linear layer on the spatial mean of layer {self.layer!r}, which gets another")


def _same(found: Tensor, expected: Tensor) -> bool:
    """Equal up to the order in which a mean is added up."""
    if found.shape != expected.shape or expected.is_meta:
        return found.shape == expected.shape
    allowed = torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max()
    return bool(((found - expected).abs() <= allowed).all())


@contextmanager
def _linear_layers(model: nn.Module) -> Iterator[list[tuple[nn.Linear, Tensor, Tensor]]]:
    """Within, every run of a linear layer on `(N, K)` is kept in the list, with its input and output."""
    runs: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def keep(module: nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.dim() == 2:
            runs.append((module, args[0].detach(), output.detach()))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(keep).remove)
        yield runs
