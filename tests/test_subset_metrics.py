"""Metrics that take subsets or single units away, infidelity under noise: slow versions, limits, other libraries."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmark import passes, randomness, units
from benchmark.batches import freeze
from benchmark.errors import UserError
from benchmark.protocols import Batch, Metric
from metrics import _subsets
from metrics.faithfulness_correlation import FaithfulnessCorrelation
from metrics.faithfulness_estimate import FaithfulnessEstimate
from metrics.infidelity import Infidelity
from metrics.monotonicity_correlation import MonotonicityCorrelation
from metrics.sensitivity_n import SensitivityN
from metrics.single_deletion import SingleDeletion


def gradient(model: nn.Module, batch: Batch) -> Tensor:
    inputs = batch.inputs.clone().requires_grad_()
    return torch.autograd.grad(passes.class_scores(model(inputs), batch.targets).sum(), inputs)[0]


def scored(metric: Metric, model: nn.Module, batch: Batch, maps: Tensor) -> Tensor:
    """The headline measure, through the whole protocol."""
    found = metric.score(model, batch, maps, gradient, metric.prepare(model, batch))
    return found.values[metric.measures[0].name]


def random_maps(count: int, side: int, seed: int = 0, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, dtype=torch.float64, generator=generator)


def drop(model: nn.Module, batch: Batch, i: int, gone: Tensor, output: str = "logit") -> float:
    """f(x) - f(x without the pixels of `gone (H, W)`) of one image, one pass."""
    changed = torch.where(gone, batch.baseline[i], batch.inputs[i])
    before, after = (model(image[None])[0] for image in (batch.inputs[i], changed))
    if output == "prob":
        before, after = before.softmax(0), after.softmax(0)
    return float((before - after)[batch.targets[i]])


class TestUnits:
    def test_grid_by_hand(self, batch) -> None:
        assert units.units(batch, "grid3")[0, 0].tolist() == [0] * 6 + [1] * 5 + [2] * 5
        assert units.sizes(units.units(batch, "grid4")).tolist() == [[16] * 16]
        torch.testing.assert_close(units.units(batch, "grid4"), units.units(batch, "patch4"))
        torch.testing.assert_close(units.units(batch, "grid99"), units.units(batch, "pixel"))
        with pytest.raises(UserError, match="grid4"):
            units.check_unit("grid0")

    def test_grid_of_an_oblong_image(self, network) -> None:
        pixels = torch.rand(1, 3, 7, 30, dtype=torch.float64)
        grid = units.units(freeze(network, pixels, ["oblong"]), "grid4")
        assert grid[0, :, 0].tolist() == [0, 0, 4, 4, 8, 8, 12]
        assert int(grid.max()) == 15
        assert all(7 <= count <= 16 for count in units.sizes(grid)[0].tolist())


class TestSubsets:
    def test_every_subset_of_a_size_is_equally_likely(self) -> None:
        keys = randomness.keys(0, "test", [str(i) for i in range(12_000)])[:, 0]
        there = torch.tensor([True, True, False, True, True, True]).expand(len(keys), -1)
        chosen = _subsets.fixed_size(keys, there, torch.full((len(keys),), 2))
        counts = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in chosen)
        assert set(counts) == set(itertools.combinations([0, 1, 3, 4, 5], 2))
        assert stats.chisquare(list(counts.values())).pvalue > 1e-4

    def test_each_unit_by_itself(self) -> None:
        keys = randomness.keys(0, "test", [str(i) for i in range(20_000)])[:, 0]
        there = torch.tensor([True, True, False, True]).expand(len(keys), -1)
        chosen = _subsets.bernoulli(keys, there, 0.3)
        assert not chosen[:, 2].any()
        sizes = torch.bincount(chosen.sum(1), minlength=4).double() / len(keys)
        expected = torch.tensor(stats.binom.pmf(range(4), 3, 0.3))
        assert ((sizes - expected).abs() < 4 * (expected / len(keys)).sqrt()).all()

    def test_units_of_other_images_are_no_matter(self) -> None:
        """An image with few superpixels has the same subsets beside one that has many."""
        keys = randomness.keys(0, "test", ["a", "b", "c"])[:, 0]
        there, size = torch.ones(3, 5, dtype=torch.bool), torch.tensor([1, 2, 4])
        padded = nn.functional.pad(there, (0, 3))
        alone, beside = _subsets.fixed_size(keys, there, size), _subsets.fixed_size(keys, padded, size)
        assert torch.equal(beside, nn.functional.pad(alone, (0, 3)))

    def test_drops_below_rounding_are_none(self, images) -> None:
        """Background replaced by itself: in float32 its drop would depend on the place in the pass."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(768, 512), nn.ReLU(), nn.Linear(512, 3)).requires_grad_(False)
        pixels = images(9).float()
        pixels[:, :, 8:] = 0
        batch = freeze(model, pixels, [f"image-{i}" for i in range(9)], baseline="black", chunk=7)
        raw = _subsets.changes(
            *(model, batch, lambda image, draw: batch.inputs[image], 5, "logit"),
        )
        lost = SingleDeletion().prepare(model, batch)["drop"]
        assert (lost[:, 8:] == 0).all()
        assert (lost[:, :8] != 0).all()
        assert float(raw.abs().max()) < 1e-6

    def test_correlations_are_scipys(self) -> None:
        a, b = random_maps(6, 9)[:, 0].flatten(1), random_maps(6, 9, seed=1)[:, 0].flatten(1)
        a = a.round(decimals=1).relu()  # many ties
        for ours, theirs in ((_subsets.pearson, stats.pearsonr), (_subsets.spearman, stats.spearmanr)):
            expected = [theirs(x, y).statistic for x, y in zip(a, b, strict=True)]
            np.testing.assert_allclose(ours(a, b).numpy(), expected, atol=1e-12)
            np.testing.assert_allclose(ours(a * 1e-200, b * 1e200).numpy(), expected, atol=1e-12)
            assert ours(a, torch.full_like(b, 0.1)).isnan().all()
            assert ours(torch.full_like(a, 0.1) + 1e-15 * b, b).isnan().all()
            assert ours(torch.zeros_like(a), b).isnan().all()
            assert ours(a[:, :1], b[:, :1]).isnan().all()
            torch.testing.assert_close(ours(a, a), torch.ones(6, dtype=torch.float64))


RANDOM = [
    SensitivityN(sizes=(0.1, 0.5), subsets=20),
    FaithfulnessCorrelation(subsets=30),
    FaithfulnessCorrelation(unit="grid9", design="bernoulli", correlation="spearman", subsets=30),
]
SINGLE = [FaithfulnessEstimate("logit"), SingleDeletion()]


class TestRandomSubsets:
    @pytest.mark.parametrize("metric", RANDOM)
    def test_slow_version(self, network, batch, metric) -> None:
        """One image and one subset at a time, as the papers say it."""
        maps = random_maps(8, 16, channels=3)
        found = metric.score(network, batch, maps, gradient, metric.prepare(network, batch))
        unit = units.units(batch, metric.unit)
        choose, draws = metric.subsets_of(batch, unit)
        for i in (0, 5):
            sums, drops = [], []
            for k in range(draws):
                gone = torch.isin(unit[0], choose(torch.tensor([i]), torch.tensor([k]))[0].nonzero()[:, 0])
                sums.append(float(maps[i][:, gone].sum()))
                drops.append(drop(network, batch, i, gone))
            name = metric.measures[0].name
            if isinstance(metric, SensitivityN):
                parts = [stats.pearsonr(sums[s : s + 20], drops[s : s + 20]).statistic for s in (0, 20)]
                np.testing.assert_allclose(found.curves[name][i].numpy(), parts, atol=1e-9)
                expected = np.mean(parts)
            else:
                correlate = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric.correlation]
                expected = correlate(sums, drops).statistic
            assert float(found.values[name][i]) == pytest.approx(expected, abs=1e-9)

    def test_sizes_are_what_is_asked_for(self, network, batch) -> None:
        metric = SensitivityN(sizes=(0.001, 0.25, 0.999), subsets=7)
        choose, draws = metric.subsets_of(batch, units.units(batch, "grid8"))
        image, draw = torch.arange(8).repeat_interleave(draws), torch.arange(draws).repeat(8)
        gone = choose(image, draw).sum(1).view(8, 3, 7)
        assert [gone[:, n].unique().tolist() for n in range(3)] == [[1], [16], [63]]
        fixed = FaithfulnessCorrelation().subsets_of(batch, units.units(batch, "grid8"))[0]
        assert fixed(image, draw).sum(1).unique().tolist() == [13]

    @pytest.mark.parametrize("metric", RANDOM)
    def test_superpixels(self, linear, metric) -> None:
        model, batch, phi = linear(count=4, side=16, baseline="grey")
        metric = type(metric)(**{**vars(metric), "unit": "slic20"})
        torch.testing.assert_close(scored(metric, model, batch, phi), torch.ones(4, dtype=torch.float64))
        maps = random_maps(4, 16)
        alone = torch.cat([scored(metric, model, batch.select([i]), maps[[i]]) for i in range(4)])
        torch.testing.assert_close(alone, scored(metric, model, batch, maps))

    def test_designs_have_the_limits_of_the_formula(self, linear) -> None:
        """All subsets of a size: exactly Pearson's of a and phi. Each unit by itself: their cosine."""
        model, batch, phi = linear(count=2, side=4)
        other = random_maps(2, 4, channels=3) + 0.5 * phi
        a, b = (each.sum(1).flatten(1) for each in (other, phi))
        sets = torch.tensor([[i in s for i in range(16)] for s in itertools.combinations(range(16), 5)]).double()
        np.testing.assert_allclose(
            _subsets.pearson(a @ sets.T, b @ sets.T).numpy(),
            [stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)],
            atol=1e-9,
        )
        options = {"unit": "pixel", "subsets": 4000}
        fixed = scored(FaithfulnessCorrelation(**options), model, batch, other)
        bernoulli = scored(FaithfulnessCorrelation(**options, design="bernoulli"), model, batch, other)
        cosine = nn.functional.cosine_similarity(a, b)
        for found, limit in ((fixed, _subsets.pearson(a, b)), (bernoulli, cosine)):
            assert ((found - limit).abs() < 4 * (1 - limit.square()) / math.sqrt(4000)).all()

    def test_a_constant_map_is_undefined_or_looks_faithful(self, linear) -> None:
        """One map, two published designs: NaN, and the cosine with 1, which is near 1 for phi of one sign."""
        model, batch, _ = linear(count=2)
        with torch.no_grad():
            model.weight.copy_(model.weight.abs() + 1)
        batch = freeze(model, batch.inputs, batch.uids, baseline="black")
        ones = torch.full((2, 1, 8, 8), 0.1, dtype=torch.float64)
        assert scored(FaithfulnessCorrelation(), model, batch, ones).isnan().all()
        assert scored(SensitivityN(), model, batch, ones).isnan().all()
        assert (scored(FaithfulnessCorrelation(design="bernoulli"), model, batch, ones) > 0.85).all()

    def test_passes(self, network, batch) -> None:
        metric = SensitivityN(sizes=(0.2, 0.5), subsets=10)
        with passes.counted(network) as count:
            prepared = metric.prepare(network, batch)
        assert (count.forwards, count.backwards) == (8 * 20, 0)
        with passes.counted(network) as count:
            metric.score(network, batch, random_maps(8, 16), gradient, prepared)
        assert count.forwards == 0

    def test_against_quantus_on_the_same_subsets(self, linear) -> None:
        """Its FaithfulnessCorrelation, with each subset noted as it is drawn and given to our formula."""
        quantus = pytest.importorskip("quantus")
        model, batch, inputs, maps = _for_quantus(linear)
        drawn: list[np.ndarray] = []

        def noting(arr: np.ndarray, indices: np.ndarray, **options: object) -> np.ndarray:
            drawn.append(indices.copy())
            changed = arr.copy()
            np.put_along_axis(changed, indices, 0.0, axis=1)
            return changed

        theirs = quantus.FaithfulnessCorrelation(
            nr_runs=40,
            subset_size=13,
            perturb_func=noting,
            normalise=False,
            abs=False,
            return_aggregate=False,
            disable_warnings=True,
        )(model=model, x_batch=inputs, y_batch=batch.targets.numpy(), a_batch=maps, softmax=False, channel_first=True)
        gone = torch.zeros(4, len(drawn), 64, dtype=torch.bool)
        for k, indices in enumerate(drawn):
            gone[:, k].scatter_(1, torch.tensor(indices), True)

        def perturbed(image: Tensor, draw: Tensor) -> Tensor:
            return torch.where(gone[image, draw].view(-1, 1, 8, 8), 0.0, batch.inputs[image])

        drops = _subsets.changes(model, batch, perturbed, len(drawn), "logit")
        sums = (gone * torch.tensor(maps).flatten(1)[:, None]).sum(2)
        np.testing.assert_allclose(_subsets.pearson(sums, drops).numpy(), theirs, atol=1e-5)

    def test_quantus_sensitivity_n_follows_another_formula(self, linear) -> None:
        """The exact contributions of a linear model satisfy sensitivity-n for every n, so the score is 1.

        Quantus 0.6.0 takes features in the order of the map instead of at random, compares the sum of the last step
        with the drop of all steps so far, and correlates over images of the first batch: a different quantity, which
        depends on the batch size. Ours follows Ancona et al. 2018.
        """
        quantus = pytest.importorskip("quantus")
        model, batch, inputs, _ = _for_quantus(linear, bent=False)
        phi = model.model.weight[batch.targets].view_as(batch.inputs) * batch.inputs
        options = {"features_in_step": 8, "perturb_baseline": 0.0, "normalise": False, "return_aggregate": False}
        found = {
            size: np.array(
                quantus.SensitivityN(**options, disable_warnings=True)(
                    model=model,
                    x_batch=inputs,
                    y_batch=batch.targets.numpy(),
                    a_batch=phi.numpy(),
                    softmax=False,
                    channel_first=True,
                    batch_size=size,
                )
            ).ravel()
            for size in (2, 4)
        }
        assert not np.allclose(found[2], found[4])
        assert found[4].min() < 0.9
        ours = SensitivityN(unit="pixel", baseline="zero").prepare(model, batch)
        curve = SensitivityN(unit="pixel").score(model, batch, phi, gradient, ours).curves["sensitivity_n"]
        torch.testing.assert_close(curve, torch.ones(4, 5, dtype=torch.float64))


class Rounded(nn.Module):
    """A float64 model for a library that hands it float32."""

    def __init__(self, model: nn.Module, bent: bool) -> None:
        super().__init__()
        self.model, self.bent = model, bent
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.model(inputs.double())
        return found.tanh() if self.bent else found


def _for_quantus(linear, bent: bool = True) -> tuple[nn.Module, Batch, np.ndarray, np.ndarray]:
    """A model of images of one channel, where a feature is a pixel for both, its images and maps."""
    pixels = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.1
    model = type(linear(count=1)[0])(64).requires_grad_(False)
    model.weight.mul_(0.1)
    rounded = Rounded(model, bent)
    batch = freeze(rounded, pixels, [f"image-{i}" for i in range(4)], baseline="zero")
    return rounded, batch, pixels.numpy(), random_maps(4, 8).numpy()


class TestSingles:
    @pytest.mark.parametrize("metric", [*SINGLE, FaithfulnessEstimate(unit="grid5")])
    def test_slow_version(self, network, batch, metric) -> None:
        maps = random_maps(8, 16, channels=3)
        found = scored(metric, network, batch, maps)
        unit = units.units(batch, metric.unit)[0]
        correlate = stats.spearmanr if isinstance(metric, SingleDeletion) else stats.pearsonr
        for i in (0, 5):
            cells = [unit == u for u in range(int(unit.max()) + 1)]
            sums = [float(maps[i][:, cell].sum()) for cell in cells]
            drops = [drop(network, batch, i, cell, metric.output) for cell in cells]
            assert float(found[i]) == pytest.approx(correlate(sums, drops).statistic, abs=1e-9)

    @pytest.mark.parametrize("metric", SINGLE)
    def test_passes(self, network, batch, metric) -> None:
        with passes.counted(network) as count:
            prepared = metric.prepare(network, batch)
        assert (count.forwards, count.backwards) == (8 * int(units.units(batch, metric.unit).max() + 1), 0)
        with passes.counted(network) as count:
            metric.score(network, batch, random_maps(8, 16), gradient, prepared)
        assert count.forwards == 0

    def test_random_maps_spread_as_they_must(self, linear) -> None:
        """Mean 0 and standard deviation 1 / sqrt(15) over 16 cells, whatever the model."""
        model, batch, _ = linear(count=1)
        one = SingleDeletion().prepare(model, batch)["drop"]
        n = 4000
        found = _subsets.spearman(torch.randn(n, 16, generator=torch.Generator().manual_seed(0)), one.expand(n, -1))
        assert abs(float(found.mean())) < 4 / math.sqrt(15 * n)
        assert float(found.std()) == pytest.approx(1 / math.sqrt(15), rel=0.05)

    def test_against_quantus(self, linear) -> None:
        """Pixels of one channel, one at a time: its FaithfulnessEstimate is ours."""
        quantus = pytest.importorskip("quantus")
        model, batch, inputs, maps = _for_quantus(linear)
        theirs = quantus.FaithfulnessEstimate(
            perturb_baseline=0.0,
            features_in_step=1,
            normalise=False,
            abs=False,
            return_aggregate=False,
            disable_warnings=True,
        )(model=model, x_batch=inputs, y_batch=batch.targets.numpy(), a_batch=maps, softmax=False, channel_first=True)
        ours = scored(FaithfulnessEstimate("logit", unit="pixel"), model, batch, torch.tensor(maps))
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)

    def test_undefined_is_nan(self, network, batch) -> None:
        class Constant(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                return inputs.flatten(1)[:, :2] * 0 + torch.tensor([0.7, 0.1])

        flat = freeze(Constant(), batch.inputs, batch.uids)
        for metric in (*SINGLE, *RANDOM, MonotonicityCorrelation()):
            assert scored(metric, Constant(), flat, random_maps(8, 16)).isnan().all()
            assert scored(metric, network, batch, torch.zeros(8, 1, 16, 16, dtype=torch.float64)).isnan().all()


class TestMonotonicityCorrelation:
    def test_slow_version(self, network, batch) -> None:
        metric = MonotonicityCorrelation(samples=3, unit="grid4")
        maps = random_maps(8, 16, channels=3)
        found = scored(metric, network, batch, maps)
        keys = batch.keys("monotonicity_correlation", 3)
        for i in (0, 5):
            magnitudes, losses = [], []
            for top, left in itertools.product(range(0, 16, 4), repeat=2):
                cell = (slice(None), slice(top, top + 4), slice(left, left + 4))
                magnitudes.append(abs(float(maps[i][cell].sum())))
                lost = []
                for sample in range(3):
                    pixels = randomness.uniform(keys[i, sample], 3, 16, 16).double()
                    image = batch.inputs[i].clone()
                    image[cell] = pixels[cell]
                    lost.append(float((batch.logits[i] - network(image[None])[0])[batch.targets[i]]) ** 2)
                losses.append(np.mean(lost))
            assert float(found[i]) == pytest.approx(stats.spearmanr(magnitudes, losses).statistic, abs=1e-9)

    def test_pixels_are_redrawn_in_pixel_space(self, linear) -> None:
        """Normalisation that the model undoes changes nothing."""
        model, batch, _ = linear(count=3)

        class Undone(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                return model(inputs * 0.2 + 0.4)

        other = freeze(Undone(), batch.inputs, batch.uids, mean=(0.4,), std=(0.2,))
        metric = MonotonicityCorrelation(samples=4)
        expected = metric.prepare(model, batch)["loss"]
        torch.testing.assert_close(metric.prepare(Undone(), other)["loss"], expected)


class TestInfidelityUnderNoise:
    def test_slow_version_of_the_noisy_baseline(self, network, batch) -> None:
        metric = Infidelity("noisy_baseline", samples=9, sigma=0.2, baseline="black")
        maps = random_maps(8, 16, channels=3)
        found = metric.score(network, batch, maps, gradient, metric.prepare(network, batch)).values
        for i in (0, 5):
            predicted, change = [], []
            for key in batch.keys("infidelity", 9)[i]:
                noise = 0.2 * randomness.normal(key, 3, 16, 16).double()
                moved = batch.inputs[i] - (0 - noise)
                predicted.append(float((moved * maps[i]).sum()))
                change.append(float((batch.logits[i] - network((batch.inputs[i] - moved)[None])[0])[batch.targets[i]]))
            p, c = np.array(predicted), np.array(change)
            assert float(found["beta_1"][i]) == pytest.approx(float(np.mean((p - c) ** 2)))
            beta = np.mean(p * c) / np.mean(p**2)
            assert float(found["beta_optimal"][i]) == pytest.approx(float(np.mean((beta * p - c) ** 2)))

    def test_noisy_baseline_against_captum(self, network, batch) -> None:
        from captum.metrics import infidelity

        metric = Infidelity("noisy_baseline", samples=12)
        maps = random_maps(8, 16, channels=3)
        noise = torch.stack([metric._noise(keys, batch) for keys in batch.keys("infidelity", 12).T], 1)
        moved = (batch.inputs - batch.baseline)[:, None] + noise

        def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
            return moved.flatten(0, 1), inputs - moved.flatten(0, 1)

        ours = metric.score(network, batch, maps, gradient, metric.prepare(network, batch)).values
        for name, normalise in (("beta_1", False), ("beta_optimal", True)):
            theirs = infidelity(
                network, perturb, batch.inputs, maps, target=batch.targets, n_perturb_samples=12, normalize=normalise
            )
            torch.testing.assert_close(ours[name], theirs, rtol=1e-9, atol=1e-12)

    def test_smoothgrad_is_the_best_map_of_gaussian_noise(self, network, batch) -> None:
        """INFD(a) - INFD(SmoothGrad) = sigma^2 |a - SmoothGrad|^2 on a bent model, within the error of sampling."""
        sigma, draws = 0.3, 2000
        metric = Infidelity("gaussian", samples=draws, sigma=sigma)
        few = batch.select([0, 1])
        noise = sigma * torch.randn(800, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        noise = torch.cat([noise, -noise])
        best = []
        for i in range(2):
            inputs = (few.inputs[i] + noise).requires_grad_()
            total = network(inputs)[:, few.targets[i]].sum()
            best.append(torch.autograd.grad(total, inputs)[0].mean(0))
        smooth = torch.stack(best)
        prepared = metric.prepare(network, few)
        at = {
            name: metric.score(network, few, maps, gradient, prepared).values["beta_1"]
            for name, maps in {
                "smooth": smooth,
                "plain": gradient(network, few),
                "off": smooth + 0.01 * random_maps(2, 16, channels=3),
            }.items()
        }
        assert (at["smooth"] < at["plain"]).all()
        excess = sigma**2 * 1e-4 * random_maps(2, 16, channels=3).flatten(1).square().sum(1)
        assert (((at["off"] - at["smooth"]) / excess - 1).abs() < 4 * math.sqrt(2 / draws) + 0.05).all()

    def test_baselines(self, linear) -> None:
        """Contributions from the image that takes the square's place have no infidelity, those from another do."""
        model, batch, _ = linear(baseline="grey")
        weights = model.weight[batch.targets].view_as(batch.inputs)
        black = weights * batch.inputs
        for metric, expected in ((Infidelity(baseline="black"), True), (Infidelity(), False)):
            found = metric.score(model, batch, black, gradient, metric.prepare(model, batch)).values["beta_1"]
            assert (float(found.max()) < 1e-18) is expected
        imputed = Infidelity(baseline="nli", samples=5).prepare(model, batch)["change"]
        assert imputed.isfinite().all()
        assert not torch.allclose(imputed, Infidelity(samples=5).prepare(model, batch)["change"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SensitivityN(sizes=(0.5, 1.0)),
        lambda: SensitivityN(sizes=()),
        lambda: SensitivityN(subsets=1),
        lambda: SensitivityN(unit="grid0"),
        lambda: FaithfulnessCorrelation(design="poisson"),
        lambda: FaithfulnessCorrelation(correlation="kendall"),
        lambda: FaithfulnessCorrelation(share=1.0),
        lambda: FaithfulnessCorrelation(subsets=1),
        lambda: FaithfulnessEstimate("odds"),
        lambda: FaithfulnessEstimate(unit="slic20"),
        lambda: SingleDeletion(baseline="noise"),
        lambda: SingleDeletion(unit="slic16"),
        lambda: MonotonicityCorrelation(samples=0),
        lambda: MonotonicityCorrelation(unit="slic16"),
        lambda: MonotonicityCorrelation(reduce="mean"),
        lambda: Infidelity(baseline="noise"),
        lambda: Infidelity("noisy_baseline", baseline="nli"),
    ],
)
def test_options_out_of_range_are_refused_at_once(make) -> None:
    with pytest.raises(UserError):
        make()
