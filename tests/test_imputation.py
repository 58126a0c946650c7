"""Imputation against a direct solve of the same system, and what it promises about rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from benchmark import randomness
from benchmark.baselines import Absence
from benchmark.batches import freeze
from benchmark.imputation import impute

WEIGHTS = {(dy, dx): 1 / 6 if 0 in (dy, dx) else 1 / 12 for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)}


def solved(image: Tensor, missing: Tensor) -> Tensor:
    """One image `(C, H, W)` by a direct sparse solve: sum of weights times unknown = sum over neighbours."""
    place = {(int(y), int(x)): i for i, (y, x) in enumerate(missing.nonzero())}
    entries = []
    right = np.zeros((len(place), len(image)))
    for (y, x), i in place.items():
        for (dy, dx), weight in WEIGHTS.items():
            there = (y + dy, x + dx)
            if not (0 <= there[0] < missing.shape[0] and 0 <= there[1] < missing.shape[1]):
                continue
            entries.append((weight, i, i))
            if there in place:
                entries.append((-weight, i, place[there]))
            else:
                right[i] += weight * image[:, there[0], there[1]].numpy()
    found = image.clone()
    if place:
        values, rows, columns = zip(*entries, strict=True)
        matrix = sparse.csc_matrix((values, (rows, columns)), shape=(len(place), len(place)))
        found[:, missing] = torch.from_numpy(spsolve(matrix, right).reshape(len(place), -1)).T
    return found


def smooth(height: int, width: int) -> Tensor:
    """As a class activation map: two wide bumps."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.exp(-8 * ((y - 0.3) ** 2 + (x - 0.6) ** 2)) + 0.7 * torch.exp(-9 * ((y - 0.9) ** 2 + (x - 0.1) ** 2))


def top(values: Tensor, fraction: float) -> Tensor:
    order = values.flatten().argsort(descending=True)[: round(fraction * values.numel())]
    return torch.zeros(values.numel(), dtype=torch.bool).index_fill(0, order, True).view_as(values)


def masks(height: int, width: int) -> dict[str, Tensor]:
    scattered = torch.rand(height, width, generator=torch.Generator().manual_seed(1))
    border = torch.zeros(height, width, dtype=torch.bool)
    border[:3], border[:, -2:] = True, True
    one_left = torch.ones(height, width, dtype=torch.bool)
    one_left[height // 3, -1] = False
    return {
        **{f"scattered {fraction}": top(scattered, fraction) for fraction in (0.1, 0.5, 0.9, 0.99)},
        **{f"smooth {fraction}": top(smooth(height, width), fraction) for fraction in (0.1, 0.5, 0.9)},
        **{f"surround {fraction}": top(-smooth(height, width), fraction) for fraction in (0.5, 0.9)},
        **{"border": border, "one pixel left": one_left, "nothing": border & False},
    }


def several(images, height: int, width: int) -> tuple[Tensor, Tensor]:
    missing = torch.stack(list(masks(height, width).values()))
    pixels = images(len(missing), side=max(height, width))[..., :height, :width].contiguous()
    return 4 * pixels - 2, missing


@pytest.mark.parametrize("size", [(32, 32), (37, 23), (1, 9), (40, 5)])
def test_equals_a_direct_solve(images, size: tuple[int, int]) -> None:
    inputs, missing = several(images, *size)
    keys = torch.arange(len(inputs))
    found = impute(inputs, missing, inputs * 0, keys, noise=0, tolerance=1e-12)
    exact = torch.stack([solved(*row) for row in zip(inputs, missing, strict=True)])
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=0)
    usual = impute(inputs, missing, inputs * 0, keys, noise=0)
    torch.testing.assert_close(usual, exact, atol=3e-4, rtol=0)  # of values up to 2, under noise of 0.01
    single = impute(inputs.float(), missing, inputs.float() * 0, keys, noise=0)
    torch.testing.assert_close(single.double(), exact, atol=3e-4, rtol=0)


def test_large_holes_are_filled(images) -> None:
    """A hole of 90 % of 112 x 112 pixels: the slowest part of the error is a hundred times the residual it leaves."""
    shape = smooth(112, 112)
    inputs = (shape + 0.1 * images(2, side=112)).contiguous()
    missing = torch.stack([top(shape, 0.9), top(-shape, 0.9)])
    found = impute(inputs, missing, inputs * 0, torch.arange(2), noise=0)
    exact = torch.stack([solved(*row) for row in zip(inputs, missing, strict=True)])
    torch.testing.assert_close(found, exact, atol=3e-4, rtol=0)


def test_a_few_cycles_solve_any_mask(images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the coarser scales a large hole takes hundreds of steps."""
    from benchmark import imputation

    counted, cycle = [], imputation._cycle

    def count(scales, right):
        counted.append(len(scales))
        return cycle(scales, right)

    monkeypatch.setattr(imputation, "_cycle", count)
    inputs, missing = several(images, 64, 64)
    imputation.impute(inputs, missing, inputs * 0, torch.arange(len(inputs)))
    assert counted.count(7) <= 20 * math.ceil(inputs.numel() / imputation._CACHED)


def test_linear_ramps_are_kept() -> None:
    """A plane is the weighted mean of its neighbours everywhere inside, so any hole off the border is rebuilt."""
    y, x = torch.meshgrid(torch.arange(20.0).double(), torch.arange(17.0).double(), indexing="ij")
    plane = (0.3 * y - 0.2 * x + 1).expand(1, 2, -1, -1)
    hole = torch.zeros(1, 20, 17, dtype=torch.bool)
    hole[:, 2:18, 1:16] = True
    found = impute(plane, hole, plane * 0, torch.zeros(1, dtype=torch.int64), noise=0, tolerance=1e-12)
    torch.testing.assert_close(found, plane, atol=1e-9, rtol=0)


def test_one_pixel_by_hand() -> None:
    """In a corner: neighbours 3 and 5 beside it (weight 2) and 11 across (weight 1)."""
    image = torch.tensor([[100.0, 3], [5, 11]], dtype=torch.float64).view(1, 1, 2, 2)
    missing = torch.tensor([[True, False], [False, False]])[None]
    found = impute(image, missing, image * 0, torch.zeros(1, dtype=torch.int64), noise=0)
    assert float(found[0, 0, 0, 0]) == pytest.approx((2 * 3 + 2 * 5 + 11) / 5)


def test_rows_do_not_influence_each_other(images) -> None:
    inputs, missing = several(images, 32, 24)
    everything = torch.ones_like(missing[:1])
    inputs, missing = torch.cat([inputs, inputs[:1]]), torch.cat([missing, everything])
    inputs = inputs * torch.logspace(-3, 3, len(inputs), dtype=torch.float64)[:, None, None, None]
    keys, fallback = torch.arange(len(inputs)), inputs.mean((2, 3), keepdim=True).expand_as(inputs)
    together = impute(inputs, missing, fallback, keys)
    for i in range(len(inputs)):
        alone = impute(inputs[i : i + 1], missing[i : i + 1], fallback[i : i + 1], keys[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], atol=1e-9, rtol=1e-9)
    back = impute(inputs.flip(0), missing.flip(0), fallback.flip(0), keys.flip(0)).flip(0)
    torch.testing.assert_close(back, together, atol=1e-9, rtol=1e-9)
    assert together.isfinite().all()


def test_nothing_and_everything(images) -> None:
    inputs = images(2, side=9)
    keys, fallback = torch.tensor([7, 8]), inputs * 0 + 0.25
    nothing = torch.zeros(2, 9, 9, dtype=torch.bool)
    assert torch.equal(impute(inputs, nothing, fallback, keys), inputs)
    assert torch.equal(impute(inputs, ~nothing, fallback, keys, noise=0), fallback)
    noisy = impute(inputs, ~nothing, fallback, keys)
    torch.testing.assert_close(noisy, fallback + 0.01 * randomness.normal(keys, 3, 9, 9).double())


def test_pixels_that_are_left_stay_and_noise_is_of_the_pixel(images) -> None:
    inputs = images(1, side=24).expand(3, -1, -1, -1)
    missing = torch.stack([top(smooth(24, 24), fraction) for fraction in (0.3, 0.5, 0.8)])
    keys = torch.tensor([5, 5, 5])
    found = impute(inputs, missing, inputs * 0, keys)
    kept = ~missing[:, None].expand_as(found)
    assert torch.equal(found[kept], inputs[kept])
    noise = found - impute(inputs, missing, inputs * 0, keys, noise=0)
    common = missing[0].expand(3, -1, -1)
    torch.testing.assert_close(noise[1][common], noise[0][common], atol=1e-12, rtol=0)
    torch.testing.assert_close(noise[2][common], noise[0][common], atol=1e-12, rtol=0)
    assert float(noise[2][:, missing[2]].std()) == pytest.approx(0.01, rel=0.1)


def test_the_images_are_not_written_to(images) -> None:
    inputs, missing = several(images, 16, 16)
    before = inputs.clone()
    impute(inputs, missing, inputs * 0, torch.arange(len(inputs)))
    assert torch.equal(inputs, before)


def test_noise_follows_the_name_of_the_image(network, images) -> None:
    pixels = images(3)
    gone = torch.ones(3, 16, 16, dtype=torch.bool).tril()
    batch = freeze(network, pixels, ["a", "b", "c"])
    swapped = batch.select([2, 0, 1])
    found = Absence.of(batch, "nli").without(torch.tensor([0, 1, 2]), gone)
    other = Absence.of(swapped, "nli").without(torch.tensor([1, 2, 0]), gone)
    torch.testing.assert_close(found, other, atol=1e-9, rtol=0)
