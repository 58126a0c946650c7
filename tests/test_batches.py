"""Targets and baselines are decided in one place: here is what it decides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmark import baselines
from benchmark.batches import freeze, split
from benchmark.errors import UserError


class Sum(nn.Module):
    """Two logits: the sum of the input and its negative."""

    def forward(self, inputs: Tensor) -> Tensor:
        total = inputs.flatten(1).sum(1)
        return torch.stack([total, -total], 1)


PIXELS = torch.tensor([[[[0.0, 0.2], [0.4, 1.0]]], [[[0.1, 0.1], [0.1, 0.1]]]])


def normalise(pixels: Tensor) -> Tensor:
    return (pixels - 0.5) / 0.25


@pytest.mark.parametrize(("kind", "first"), [("black", 0.0), ("white", 1.0), ("grey", 0.5), ("mean", 0.4)])
def test_baseline_is_chosen_in_pixel_space(kind: str, first: float) -> None:
    batch = freeze(Sum(), PIXELS, ["a", "b"], mean=(0.5,), std=(0.25,), baseline=kind)
    torch.testing.assert_close(batch.inputs, normalise(PIXELS))
    torch.testing.assert_close(batch.baseline[0], torch.full((1, 2, 2), (first - 0.5) / 0.25))
    torch.testing.assert_close(batch.baseline_logits, Sum()(batch.baseline))


def test_target_is_the_prediction_or_the_label() -> None:
    labels = torch.tensor([1, 0])
    assert freeze(Sum(), PIXELS, ["a", "b"]).targets.tolist() == [0, 0]
    assert freeze(Sum(), PIXELS, ["a", "b"], mean=(0.5,), std=(0.25,), labels=labels).targets.tolist() == [1, 1]
    assert freeze(Sum(), PIXELS, ["a", "b"], labels=labels, explain="label").targets.tolist() == [1, 0]


def test_what_cannot_be_explained_is_refused() -> None:
    with pytest.raises(UserError, match="needs labels"):
        freeze(Sum(), PIXELS, ["a", "b"], explain="label")
    with pytest.raises(UserError, match="label 2 has no output in a model of 2 classes"):
        freeze(Sum(), PIXELS, ["a", "b"], labels=torch.tensor([2, 0]), explain="label")
    with pytest.raises(UserError, match="baseline pink does not exist .there are: zero, black, white"):
        freeze(Sum(), PIXELS, ["a", "b"], baseline="pink")


def test_a_selection_keeps_what_belongs_together() -> None:
    batch = freeze(Sum(), PIXELS, ["a", "b"], masks=torch.tensor([[[True] * 2] * 2, [[False] * 2] * 2]))
    chosen = batch.select([1])
    assert chosen.uids == ("b",)
    assert torch.equal(chosen.inputs, batch.inputs[1:])
    assert chosen.masks is not None
    assert not chosen.masks.any()
    assert torch.equal(chosen.keys("x", 3), batch.keys("x", 3)[1:])
    copied = batch.copy()
    copied.inputs.zero_()
    assert batch.inputs.any()
