"""Presets against the libraries that they repeat, on the same images and the same maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from benchmark.batches import freeze
from benchmark.certificate.checks import build, outcome
from benchmark.protocols import Batch, Scores


@pytest.fixture
def square(network, images) -> Batch:
    """Four images of 400 pixels, which 20 steps divide."""
    uids = [f"image-{i}" for i in range(4)]
    return freeze(network, images(4, side=20), uids, mean=(0.5,), std=(0.25,), baseline="zero")


def random_maps(batch: Batch, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(batch), 1, *batch.inputs.shape[2:], dtype=torch.float64, generator=generator)


def found(name: str, model: nn.Module, batch: Batch, maps: Tensor, **options: object) -> Scores:
    return outcome(build(name, **options), model, batch, maps)


def test_torch_cam(network, square) -> None:
    from torchcam.metrics import DeletionInsertionMetric

    maps = random_maps(square)

    class Given:
        """A CAM extractor that returns maps made elsewhere."""

        model = network

        def _hooks_off(self):
            return torch.no_grad()

    class Curves(DeletionInsertionMetric):
        def run(self) -> tuple[Tensor, Tensor, Tensor]:
            ranks = maps.flatten(1).argsort(1, descending=True).argsort(1)
            scores = square.logits.gather(1, square.targets[:, None])[:, 0]
            return self._compute_curves(square.inputs, torch.zeros_like(square.inputs), ranks, square.targets, scores)

    fractions, deletion, insertion = Curves(Given()).run()
    for name, curve in (("deletion", deletion), ("insertion", insertion)):
        ours = found(f"{name}_torch_cam", network, square, maps)
        torch.testing.assert_close(ours.curves[name], curve, atol=1e-9, rtol=0)
        torch.testing.assert_close(ours.values[name], torch.trapezoid(curve, fractions.double()), atol=1e-7, rtol=0)


class RISE:
    """A transcription of the evaluation of RISE: one image, one step at a time."""

    def __init__(self, model: nn.Module, mode: str, step: int, substrate) -> None:
        self.model, self.mode, self.step, self.substrate = model, mode, step, substrate

    def single_run(self, picture: Tensor, explanation: Tensor) -> tuple[float, np.ndarray]:
        target = int(self.model(picture)[0].softmax(0).argmax())
        pixels = picture[0, 0].numel()
        order = explanation.flatten().argsort(descending=True)
        steps = -(-pixels // self.step)
        deleting = self.mode == "deletion"
        start, finish = (picture, self.substrate(picture)) if deleting else (self.substrate(picture), picture)
        start = start.clone()
        scores = []
        for at in range(steps + 1):
            scores.append(float(self.model(start)[0].softmax(0)[target]))
            moved = order[at * self.step : (at + 1) * self.step]
            start.flatten(2)[..., moved] = finish.flatten(2)[..., moved]
        points = np.array(scores)
        return (points.sum() - points[0] / 2 - points[-1] / 2) / (len(points) - 1), points


def test_rise(network, images) -> None:
    """Its step of 224 pixels is a step of the image's side; here sides are 16, so 16 steps of 16 pixels."""
    batch = freeze(network, images(3), list("abc"), mean=(0.5,), std=(0.25,))
    maps = random_maps(batch)
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(impulse, 5)).expand(3, 1, -1, -1)
    for mode in ("deletion", "insertion"):
        ours = found(f"{mode}_rise", network, batch, maps, steps=16)
        for i in range(3):

            def substrate(picture: Tensor, mode: str = mode) -> Tensor:
                blurred = nn.functional.conv2d(picture, kernel, padding=5, groups=3)
                return torch.zeros_like(picture) if mode == "deletion" else blurred

            value, points = RISE(network, mode, 16, substrate).single_run(batch.inputs[[i]], maps[i])
            assert float(ours.values[mode][i]) == pytest.approx(value, abs=1e-9)
            np.testing.assert_allclose(ours.curves[mode][i].numpy(), points, atol=1e-9)


def test_quantus_pixel_flipping(images) -> None:
    """The same curve but for the whole image, which Quantus leaves out; with three channels it ranks other things."""
    import quantus

    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)).double().eval()
    batch = freeze(model.requires_grad_(False), images(3, channels=1, side=10), list("abc"), baseline="zero")
    maps = random_maps(batch)
    theirs = quantus.PixelFlipping(
        features_in_step=1, perturb_baseline=0.0, normalise=False, disable_warnings=True, return_auc_per_sample=False
    )(
        model=model.float(),
        x_batch=batch.inputs.float().numpy(),
        y_batch=batch.targets.numpy(),
        a_batch=maps.float().numpy(),
        softmax=True,
        device="cpu",
    )
    ours = found("deletion_quantus", model.double(), batch, maps)
    np.testing.assert_allclose(ours.curves["deletion"][:, 1:].numpy(), np.stack(theirs), atol=1e-5)
    area = np.trapezoid(np.stack(theirs), dx=1.0, axis=1)
    np.testing.assert_allclose(ours.values["deletion"].numpy(), area, atol=1e-3)
    assert float(ours.values["deletion"].min()) > 1, "it grows with the number of steps"


def test_areas_of_one_curve_differ_by_definition(network, square) -> None:
    """One set of predictions, four published ways to make one number of it."""
    maps = random_maps(square)
    curve = found("deletion", network, square, maps, steps=20, baseline="zero").curves["deletion"]
    by = {
        how: found("deletion", network, square, maps, steps=20, baseline="zero", area=how).values["deletion"]
        for how in ("trapezoid", "mean", "mean_but_absent", "steps")
    }
    torch.testing.assert_close(by["trapezoid"], (curve[:, 1:] + curve[:, :-1]).mean(1) / 2)
    torch.testing.assert_close(by["mean"], curve.mean(1))
    torch.testing.assert_close(by["mean_but_absent"], curve[:, :-1].mean(1))
    torch.testing.assert_close(by["steps"], (curve[:, 2:] + curve[:, 1:-1]).sum(1) / 2)
