"""Networks whose weights are set by hand, so that what they use of an image is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.cam_layer import choose
from benchmark.datasets import additive, interaction, tokens
from benchmark.datasets.drawing import SIZE
from benchmark.errors import UserError
from benchmark.models import Model, digest, freeze

THRESHOLD = 0.5
"""Response below which a token is not seen; its own pattern gives 1, every other 0."""


class Tokens(nn.Module):
    """Finds every token by its pattern, counts each kind, and makes logits of the counts.

    features: a convolution with the patterns, one window a cell, and a ReLU above the threshold: 1 where a token is.
    head: logits from the counts `(N, 6)`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        kernel, side = torch.zeros(tokens.KINDS, 3, tokens.CELL, tokens.CELL), tokens.TOKEN
        margin = (tokens.CELL - side) // 2
        scale = 3 * side**2 * tokens.CONTRAST * (1 - THRESHOLD)
        kernel[:, :, margin:-margin, margin:-margin] = tokens.patterns()[:, None] / scale
        self.features = nn.Conv2d(3, tokens.KINDS, tokens.CELL, stride=tokens.CELL)
        self.features.weight = nn.Parameter(kernel)
        self.features.bias = nn.Parameter(torch.full((tokens.KINDS,), -THRESHOLD / (1 - THRESHOLD)))
        self.seen = nn.ReLU()
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.seen(self.features(inputs)).sum((2, 3)))
        return logits


class Gate(nn.Module):
    """The gate g of the counts of the first two kinds, by one ReLU for both together: logits (1/2 - g, g - 1/2)."""

    def __init__(self, gate: interaction.Gate) -> None:
        super().__init__()
        both = {"and": (0.0, 1.0), "or": (1.0, -1.0), "xor": (1.0, -2.0)}[gate]
        self.counts = nn.Linear(tokens.KINDS, 2)
        self.counts.weight = nn.Parameter(torch.zeros(2, tokens.KINDS))
        self.counts.weight.data[:, :2] = 1.0
        self.counts.bias = nn.Parameter(torch.tensor([0.0, -1.0]))
        self.both = nn.ReLU()
        self.gate = nn.Linear(2, 2)
        self.gate.bias = nn.Parameter(torch.tensor([0.5, -0.5]))
        self.gate.weight = nn.Parameter(torch.tensor([-1.0, 1.0])[:, None] * torch.tensor(both))

    def forward(self, counts: Tensor) -> Tensor:
        logits: Tensor = self.gate(self.both(self.counts(counts)))
        return logits


def exact(name: str, dataset: str, gate: interaction.Gate | None = None, layer: str | None = None) -> Model:
    """The network that computes the logits of `additive`, or the gate of `interaction`, without an error.

    Raises:
        UserError: there is no such network for the data set, or the layer does not exist.
    """
    if dataset == "additive":
        head: nn.Module = nn.Linear(tokens.KINDS, len(additive.WEIGHTS), bias=False)
        head.weight = nn.Parameter(additive.WEIGHTS.clone())
        classes = additive.Additive.classes
    elif dataset == "interaction":
        head, classes = Gate(gate or "and"), interaction.Interaction.classes
    else:
        raise UserError(f"{name} is set by hand for additive and interaction, there is none for {dataset}")
    network = freeze(Tokens(head))
    size = (3, SIZE, SIZE)
    return Model(
        name=name,
        network=network,
        size=size,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        classes=len(classes),
        class_names=classes,
        layer=choose(network, size, layer or "seen"),
        weights=digest(network),
        transform=_no_transform,
        dataset=dataset,
    )


def _no_transform(image: object) -> Tensor:
    raise UserError("a network set by hand takes the images of its own data set alone")
