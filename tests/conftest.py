"""What every test rests on: one thread, no network, tiny models on which the right answer is known."""

from __future__ import annotations

import os
import random

# Before torch is imported: threads that spin beside a busy core make a test look hung, and a missing hub hangs too.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["KINETO_LOG_LEVEL"] = "99"

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.batches import freeze
from benchmark.protocols import Batch

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Networks that a test does not set by hand are the same whatever ran before it in this process."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)


class Linear(nn.Module):
    """z = W x + c in float64, on flattened images."""

    def __init__(self, features: int, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, features, dtype=torch.float64, generator=generator))
        self.bias = nn.Parameter(torch.randn(classes, dtype=torch.float64, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weight.T + self.bias


class SmallNet(nn.Module):
    """A convolutional network with batch norm and tokens that no `reset_parameters` covers."""

    def __init__(self, channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(channels, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            nn.init.normal_(self.norm.weight, 1.0, 0.3)
            self.norm.running_mean = torch.randn(8)
            self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
            self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
            self.last = nn.ReLU()
            self.head = nn.Linear(8, classes)
        self.double().eval().requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.first(inputs)).relu()
        hidden = self.last(self.second(hidden) * self.scale)
        return self.head(hidden.mean((2, 3)))


def _images(count: int, channels: int = 3, side: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, dtype=torch.float64, generator=generator)


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Makes `(count, channels, side, side)` random images in [0, 1], float64."""
    return _images


@pytest.fixture
def linear() -> Callable[..., tuple[nn.Module, Batch, Tensor]]:
    """Makes (linear model, batch, its exact contributions phi = w * (x - b) of the target)."""

    def make(count: int = 5, side: int = 8, **options: object) -> tuple[nn.Module, Batch, Tensor]:
        pixels = _images(count, side=side)
        model = Linear(pixels[0].numel()).eval().requires_grad_(False)
        batch = freeze(model, pixels, [f"image-{i}" for i in range(count)], **options)
        return model, batch, model.weight[batch.targets].view_as(pixels) * (batch.inputs - batch.baseline)

    return make


@pytest.fixture
def network() -> nn.Module:
    """A frozen convolutional network in float64."""
    return SmallNet()


@pytest.fixture
def batch(network: nn.Module) -> Batch:
    """Eight images for `network`, with masks."""
    masks = torch.zeros(8, 16, 16, dtype=torch.bool)
    masks[:, 4:9, 5:12] = True
    return freeze(network, _images(8), [f"image-{i}" for i in range(8)], masks=masks, chunk=7)
