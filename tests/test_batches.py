"""Targets and baselines are decided in one place: here is what it decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from benchmark import baselines
from benchmark.batches import freeze, split
from benchmark.errors import UserError
from benchmark.protocols import Batch


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
    with pytest.raises(UserError, match=r"baseline pink does not exist \(there are: zero, black, white"):
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


def test_parts_share_memory_and_know_the_whole() -> None:
    batch = freeze(Sum(), PIXELS, ["a", "b"])
    first, second = split(batch, 1)
    assert first.inputs.data_ptr() == batch.inputs.data_ptr()
    assert second.whole is batch
    assert second.select([0]).whole is batch
    torch.testing.assert_close(freeze(Sum(), PIXELS, ["a", "b"], mean=(0.5,), std=(0.25,)).pixels, PIXELS)


class TestBaselines:
    """Each kind by its definition, in pixel space, whatever the model's normalisation."""

    def frozen(self, kind: str, count: int = 3, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.rand(count, 3, 16, 20, dtype=torch.float64, generator=generator)
        uids = [f"image-{i}" for i in range(count)]
        return freeze(Sum(), pixels, uids, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), baseline=kind)

    def test_zero_is_the_models_mean_colour_and_not_black(self) -> None:
        batch = self.frozen("zero")
        assert not batch.baseline.any()
        black = baselines.image(batch, "black")
        torch.testing.assert_close(black[0, :, 0, 0], torch.tensor([-2.0, -2.0, -2.0], dtype=torch.float64))

    def test_blur_is_that_of_rise(self) -> None:
        """Its kernel is an impulse in a window of 11 pixels under scipy's Gaussian, its convolution pads with 0."""
        batch = self.frozen("blur")
        impulse = np.zeros((11, 11))
        impulse[5, 5] = 1
        kernel = ndimage.gaussian_filter(impulse, 5)
        slow = ndimage.correlate(batch.inputs[1, 2].numpy(), kernel, mode="constant")
        np.testing.assert_allclose(batch.baseline[1, 2].numpy(), slow, atol=1e-12)

    def test_uniform_pixels_belong_to_the_image(self) -> None:
        batch = self.frozen("uniform")
        pixels = batch.baseline * torch.tensor([0.2, 0.25, 0.3]).view(-1, 1, 1) + torch.tensor([0.4, 0.5, 0.6]).view(
            -1, 1, 1
        )
        assert 0 <= float(pixels.min()) < 0.01
        assert 0.99 < float(pixels.max()) < 1 + 1e-6
        assert not torch.equal(pixels[0], pixels[1])
        torch.testing.assert_close(baselines.image(batch.select([2]), "uniform"), batch.baseline[2:])

    def test_sample_is_another_image_whatever_the_company(self) -> None:
        batch = self.frozen("sample", 20)
        order = [7, 3, 19]
        torch.testing.assert_close(baselines.image(batch.select(order), "sample"), batch.baseline[order])
        for own, other in zip(batch.inputs, batch.baseline, strict=True):
            assert not torch.equal(own, other)
            assert any(torch.equal(other, image) for image in batch.inputs)
        assert len({tuple(image.flatten()[:3].tolist()) for image in batch.baseline}) > 8
        with pytest.raises(UserError, match="second image"):
            self.frozen("sample", 1)

    def test_imputation_is_no_image(self) -> None:
        with pytest.raises(UserError, match="option of metrics"):
            self.frozen("nli")
