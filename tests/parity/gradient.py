"""Gradients against captum."""

from __future__ import annotations

from torch import Tensor, nn

from benchmark.protocols import Batch
from methods.saliency import Saliency
from tests.parity.pairs import Pair


def saliency(model: nn.Module, batch: Batch, layer: str) -> Tensor:
    from captum.attr import Saliency as Peer

    return Peer(model).attribute(batch.inputs.clone(), batch.targets).amax(1, keepdim=True)


PAIRS = (Pair("saliency", lambda layer: Saliency(), "captum Saliency, largest over channels", saliency),)
