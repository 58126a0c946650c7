"""Sparseness, entropy and effective complexity: constants, hand values, a slow version, other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmark import passes
from benchmark.batches import freeze
from benchmark.errors import UserError
from benchmark.protocols import Batch, Metric
from metrics.complexity import Entropy, Sparseness
from metrics.effective_complexity import EffectiveComplexity


def nothing(model: nn.Module, batch: Batch) -> Tensor:
    raise AssertionError("nothing is to be explained again")


def scored(metric: Metric, model: nn.Module, batch: Batch, maps: Tensor) -> Tensor:
    found = metric.score(model, batch, maps, nothing, metric.prepare(model, batch))
    return found.values[metric.measures[0].name]


def random_maps(count: int, side: int, seed: int = 0, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, dtype=torch.float64, generator=generator)


class TestOfMaps:
    def test_the_two_ends(self, network, batch) -> None:
        ones, single = torch.full((8, 1, 16, 16), 0.1, dtype=torch.float64), torch.zeros(8, 1, 16, 16)
        single[:, 0, 3, 4] = -2
        for maps, gini, entropy in ((ones, 0.0, math.log(256)), (single, 1 - 1 / 256, 0.0)):
            assert scored(Sparseness(), network, batch, maps).tolist() == pytest.approx([gini] * 8, abs=1e-12)
            assert scored(Entropy(), network, batch, maps).tolist() == pytest.approx([entropy] * 8, abs=1e-12)
        for metric in (Sparseness(), Entropy()):
            assert scored(metric, network, batch, 0 * ones).isnan().all()

    @pytest.mark.parametrize(
        ("draw", "gini"),
        [(torch.Tensor.uniform_, 1 / 3), (torch.Tensor.normal_, math.sqrt(2) - 1), (torch.Tensor.exponential_, 1 / 2)],
    )
    def test_gini_of_distributions(self, network, batch, draw, gini) -> None:
        maps = draw(torch.empty(8, 1, 128, 128, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
        found = scored(Sparseness(), network, batch, maps)
        # The standard error of a Gini index of d values of these distributions is below 0.3 / sqrt(d).
        assert ((found - gini).abs() < 4 * 0.3 / 128).all()

    def test_by_the_definitions(self, network, batch) -> None:
        """Gini is half the mean absolute difference over the mean; entropy is scipy's."""
        maps = random_maps(8, 16, channels=3)
        magnitude = maps.sum(1).abs().flatten(1)
        gini = (magnitude[:, :, None] - magnitude[:, None]).abs().mean((1, 2)) / (2 * magnitude.mean(1))
        torch.testing.assert_close(scored(Sparseness(), network, batch, maps), gini)
        expected = stats.entropy(magnitude.numpy(), axis=1)
        np.testing.assert_allclose(scored(Entropy(), network, batch, maps).numpy(), expected)

    @pytest.mark.parametrize("metric", [Sparseness(), Entropy()])
    def test_neither_scale_nor_place_nor_sign_matters(self, network, batch, metric) -> None:
        maps = random_maps(8, 16)
        expected = scored(metric, network, batch, maps)
        for other in (1e-200 * maps, -1e200 * maps, maps.flip(3), maps.abs()):
            torch.testing.assert_close(scored(metric, network, batch, other), expected)

    def test_against_quantus(self, network, batch) -> None:
        """Quantus 0.6.0 adds 1e-7 to the magnitudes of Sparseness, so that it agrees up to that."""
        quantus = pytest.importorskip("quantus")
        maps = random_maps(8, 16).abs()
        options = {"abs": True, "normalise": False, "return_aggregate": False, "disable_warnings": True}
        for theirs, ours in ((quantus.Sparseness, Sparseness()), (quantus.Complexity, Entropy())):
            found = theirs(**options)(
                model=network.float(),
                x_batch=batch.inputs.numpy(),
                y_batch=batch.targets.numpy(),
                a_batch=maps.numpy().copy(),
                channel_first=True,
            )
            np.testing.assert_allclose(scored(ours, network, batch, maps).numpy(), found, atol=1e-5)

    def test_the_model_is_not_asked(self, batch) -> None:
        class Forbidden(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                raise AssertionError("a property of the map asked the model")

        for metric in (Sparseness(), Entropy()):
            assert scored(metric, Forbidden(), batch, random_maps(8, 16)).isfinite().all()


class TestEffectiveComplexity:
    @pytest.mark.parametrize("output", ["prob", "logit"])
    def test_slow_version(self, network, batch, output) -> None:
        """One image and one k at a time: keep the top k by magnitude, and look how far the score has gone."""
        maps = random_maps(8, 16, channels=3)
        metric = EffectiveComplexity(output, unit="patch2", steps=16, epsilon=1e-7)
        found = metric.score(network, batch, maps, nothing, {})
        shares = []
        for i in range(8):
            worth = {
                (r, c): abs(float(maps[i, :, r : r + 2, c : c + 2].sum(0).mean()))
                for r in range(0, 16, 2)
                for c in range(0, 16, 2)
            }
            order = sorted(worth, key=worth.__getitem__, reverse=True)
            losses = []
            for k in range(0, 65, 4):
                image = batch.baseline[i].clone()
                for r, c in order[:k]:
                    image[:, r : r + 2, c : c + 2] = batch.inputs[i][:, r : r + 2, c : c + 2]
                logits = torch.stack([network(image[None])[0], batch.logits[i]])
                score = (logits.softmax(1) if output == "prob" else logits)[:, batch.targets[i]]
                losses.append(float((score[0] - score[1]) ** 2))
            np.testing.assert_allclose(found.curves["effective_complexity"][i].numpy(), losses, atol=1e-12)
            shares.append(next(k for k, loss in enumerate(losses) if loss < 1e-7) / 16)
        assert found.values["effective_complexity"].tolist() == shares
        assert len(set(shares)) > 2

    def test_by_hand(self) -> None:
        """f = 3 a + 2 b + c at (1, 1, 1) and black: what is not known is lost."""

        class Sum(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                found = (inputs.flatten(1) * torch.tensor([3.0, 2.0, 1.0])).sum(1)
                return torch.stack([found, -found], 1)

        batch = freeze(Sum(), torch.ones(1, 1, 1, 3, dtype=torch.float64), ["x"], baseline="black")
        for values, epsilon, expected in (
            ([3.0, 2.0, 1.0], 1.1, 2),
            ([3.0, -2.0, 1.0], 1.1, 2),
            ([3.0, 2.0, 1.0], 1.0, 3),  # below, and not at
            ([1.0, 2.0, 3.0], 4.1, 3),
            ([1.0, 2.0, 3.0], 9.1, 2),
            ([1.0, 2.0, 3.0], 36.1, 0),
        ):
            maps = torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 3)
            metric = EffectiveComplexity("logit", steps=3, epsilon=epsilon)
            assert float(scored(metric, Sum(), batch, maps)) == pytest.approx(expected / 3)

    def test_exact_contributions_need_no_more_than_random_maps(self, linear) -> None:
        model, batch, _ = linear(baseline="black")
        with torch.no_grad():
            model.weight.abs_()
        batch = freeze(model, batch.inputs, batch.uids, baseline="black")
        phi = model.weight[batch.targets].view_as(batch.inputs) * batch.inputs
        metric = EffectiveComplexity("logit", steps=64, epsilon=25.0)
        best = scored(metric, model, batch, phi)
        for seed in range(5):
            assert (best <= scored(metric, model, batch, random_maps(5, 8, seed))).all()

    def test_other_baselines_and_superpixels(self, network, batch) -> None:
        for metric in (EffectiveComplexity(baseline="uniform"), EffectiveComplexity(unit="slic20", steps=5)):
            found = scored(metric, network, batch, random_maps(8, 16))
            assert ((found >= 0) & (found <= 1)).all()

    def test_passes_are_the_minimum(self, network, batch) -> None:
        with passes.counted(network) as count:
            scored(EffectiveComplexity(steps=20), network, batch, random_maps(8, 16))
        assert (count.forwards, count.backwards) == (8 * 19, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sparseness("mean"),
        lambda: Entropy("mean"),
        lambda: EffectiveComplexity("odds"),
        lambda: EffectiveComplexity(steps=0),
        lambda: EffectiveComplexity(epsilon=0.0),
        lambda: EffectiveComplexity(epsilon=math.nan),
    ],
)
def test_options_out_of_range_are_refused_at_once(make) -> None:
    with pytest.raises(UserError):
        make()
