"""Each metric against closed forms, hand calculations, slow versions that follow the paper, and other libraries."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from benchmark import maps, passes, randomness
from benchmark.batches import freeze
from benchmark.errors import UserError
from benchmark.protocols import Batch
from metrics._similarity import spearman, ssim
from metrics.completeness import Completeness
from metrics.deletion import Deletion
from metrics.infidelity import Infidelity
from metrics.insertion import Insertion
from metrics.parameter_randomisation import ParameterRandomisation, cascade
from metrics.srg import SRG
from metrics.throughput import Throughput


def gradient(model: nn.Module, batch: Batch) -> Tensor:
    inputs = batch.inputs.clone().requires_grad_()
    return torch.autograd.grad(passes.class_scores(model(inputs), batch.targets).sum(), inputs)[0]


def srg(metric: SRG, model: nn.Module, batch: Batch, attributions: Tensor) -> Tensor:
    parts = {name: part.score(model, batch, attributions, gradient, {}) for name, part in metric.parts().items()}
    return metric.score(model, batch, attributions, gradient, parts).values["srg"]


def random_maps(count: int, side: int, seed: int = 0, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, dtype=torch.float64, generator=generator)


class TestCurves:
    """science: with phi the exact contributions of an additive score, sorted descending, k = 1..d."""

    def test_additive_closed_forms(self, linear) -> None:
        model, batch, phi = linear(baseline="grey")
        d = 64
        ordered = phi.sum(1).flatten(1).sort(1, descending=True).values
        k = torch.arange(1, d + 1)
        clean, absent = (passes.class_scores(z, batch.targets) for z in (batch.logits, batch.baseline_logits))
        deletion = Deletion("logit", steps=d).score(model, batch, phi, gradient, {}).values["deletion"]
        insertion = Insertion("logit", steps=d).score(model, batch, phi, gradient, {}).values["insertion"]
        torch.testing.assert_close(deletion, absent + (ordered * (k - 0.5) / d).sum(1), atol=1e-9, rtol=0)
        torch.testing.assert_close(insertion, absent + (ordered * (d - k + 0.5) / d).sum(1), atol=1e-9, rtol=0)
        torch.testing.assert_close(deletion + insertion, clean + absent, atol=1e-9, rtol=0)
        expected = (ordered * (d + 1 - 2 * k) / d).sum(1)
        torch.testing.assert_close(srg(SRG("logit", steps=d), model, batch, phi), expected, atol=1e-9, rtol=0)

    def test_random_order_has_the_known_mean_and_variance(self, linear) -> None:
        model, batch, phi = linear(count=1, side=4)
        d, draws = 16, 4000
        many = Batch(
            *(value.expand(draws, *value.shape[1:]) for value in (batch.inputs, batch.targets)),
            uids=tuple(map(str, range(draws))),
            baseline=batch.baseline.expand(draws, -1, -1, -1),
            logits=batch.logits.expand(draws, -1),
            baseline_logits=batch.baseline_logits.expand(draws, -1),
            chunk=1000,
        )
        constant = torch.ones(draws, 1, 4, 4, dtype=torch.float64)
        found = Deletion("logit", steps=d).score(model, many, constant, gradient, {}).values["deletion"]
        unit = phi.sum(1).flatten()
        clean, absent = (passes.class_scores(z, batch.targets)[0] for z in (batch.logits, batch.baseline_logits))
        variance = (d + 1) / (12 * d) * (unit - unit.mean()).square().sum()
        assert abs(found.mean() - (clean + absent) / 2) < 4 * (variance / draws).sqrt()
        assert found.var() == pytest.approx(float(variance), rel=0.12)

    def test_best_and_worst_of_all_orders(self, linear) -> None:
        model, batch, phi = linear(count=1, side=8)
        metric = Deletion("logit", steps=4, unit="patch4")
        scores = [
            float(metric.score(model, batch, random_maps(1, 8, seed), gradient, {}).values["deletion"])
            for seed in range(50)
        ]
        best = float(metric.score(model, batch, phi, gradient, {}).values["deletion"])
        worst = float(metric.score(model, batch, -phi, gradient, {}).values["deletion"])
        assert best <= min(scores) + 1e-12
        assert worst >= max(scores) - 1e-12

    @pytest.mark.parametrize("output", ["prob", "logit", "logodds"])
    @pytest.mark.parametrize("patch", [1, 3])
    def test_slow_version(self, network, batch, output, patch) -> None:
        """One image, one step, one unit at a time, as the paper says it."""
        phi = random_maps(8, 16, channels=3)
        found = Deletion(output, steps=7, unit=f"patch{patch}").score(network, batch, phi, gradient, {})
        side = math.ceil(16 / patch)
        for i in range(2):
            blocks = {
                (r, c): float(phi[i].sum(0)[r * patch : r * patch + patch, c * patch : c * patch + patch].mean())
                for r in range(side)
                for c in range(side)
            }
            order = sorted(blocks, key=blocks.__getitem__, reverse=True)
            xs, ys = [], []
            for step in range(8):
                k = round(step * len(order) / 7)
                image = batch.inputs[i].clone()
                for r, c in order[:k]:
                    rows, columns = slice(r * patch, r * patch + patch), slice(c * patch, c * patch + patch)
                    image[:, rows, columns] = batch.baseline[i][:, rows, columns]
                p = network(image[None])[0].softmax(0)[batch.targets[i]]
                z = network(image[None])[0][batch.targets[i]]
                xs.append(k / len(order))
                ys.append(float({"prob": p, "logit": z, "logodds": torch.log(p / (1 - p))}[output]))
            np.testing.assert_allclose(found.curves["deletion"][i].numpy(), ys, atol=1e-9)
            assert float(found.values["deletion"][i]) == pytest.approx(float(np.trapezoid(ys, xs)), abs=1e-9)

    def test_insertion_is_deletion_reversed_on_any_model(self, network, batch) -> None:
        phi = random_maps(8, 16)
        for output in ("prob", "logodds"):
            insertion = Insertion(output, steps=16).score(network, batch, phi, gradient, {})
            reverse = Deletion(output, steps=16).score(network, batch, -phi, gradient, {})
            torch.testing.assert_close(insertion.values["insertion"], reverse.values["deletion"], atol=1e-9, rtol=0)
            torch.testing.assert_close(
                insertion.curves["insertion"], reverse.curves["deletion"].flip(1), atol=1e-9, rtol=0
            )

    def test_ends_are_the_clean_image_and_the_baseline(self, network, batch) -> None:
        curve = Deletion().score(network, batch, random_maps(8, 16), gradient, {}).curves["deletion"]
        absent = network(batch.baseline).softmax(1).gather(1, batch.targets[:, None])[:, 0]
        clean = network(batch.inputs).softmax(1).gather(1, batch.targets[:, None])[:, 0]
        torch.testing.assert_close(curve[:, 0], clean)
        torch.testing.assert_close(curve[:, -1], absent)

    def test_monotone_transform_changes_nothing_and_minus_swaps(self, network, batch) -> None:
        phi = random_maps(8, 16)
        metric = SRG(steps=10)
        torch.testing.assert_close(srg(metric, network, batch, phi), srg(metric, network, batch, phi.exp() * 3))
        torch.testing.assert_close(srg(metric, network, batch, phi), -srg(metric, network, batch, -phi))

    def test_and_gate_cannot_tell_maps_apart(self) -> None:
        class And(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                product = inputs.flatten(1).prod(1)
                return torch.stack([product, -product], 1)

        batch = freeze(And(), torch.ones(1, 1, 1, 2, dtype=torch.float64), ["x"], baseline="black")
        for values in ([[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]):
            phi = torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2)
            curve = Deletion("logit").score(And(), batch, phi, gradient, {})
            assert curve.curves["deletion"].tolist() == [[1.0, 0.0, 0.0]]
            assert float(curve.values["deletion"]) == 0.25
            assert float(srg(SRG("logit"), And(), batch, phi)) == 0.0

    def test_passes_are_the_minimum(self, network, batch) -> None:
        with passes.counted(network) as count:
            Deletion(steps=20).score(network, batch, random_maps(8, 16), gradient, {})
        assert (count.forwards, count.backwards) == (8 * 19, 0)


class TestInfidelity:
    def test_exact_contributions_have_none(self, linear) -> None:
        model, batch, phi = linear()
        weights = model.weight[batch.targets].view_as(phi)
        for metric, exact in ((Infidelity(), phi), (Infidelity("gaussian", samples=20), weights)):
            found = metric.score(model, batch, exact, gradient, metric.prepare(model, batch)).values
            assert float(found["beta_1"].max()) < 1e-18
            assert float(found["beta_optimal"].max()) < 1e-18

    def test_slow_version_of_squares(self, network, batch) -> None:
        metric = Infidelity(samples=30, side=0.3)
        phi = random_maps(8, 16, channels=3)
        found = metric.score(network, batch, phi, gradient, metric.prepare(network, batch)).values
        side = round(0.3 * 16)
        top, left, _ = metric._corners(batch.keys("infidelity", 30), batch)
        assert int(top.min()) >= 0
        assert int(top.max()) + side <= 16
        assert len(set(zip(top.flatten().tolist(), left.flatten().tolist(), strict=True))) > 50
        for i in (0, 5):
            predicted, change = [], []
            for draw in range(30):
                rows = slice(int(top[i, draw]), int(top[i, draw]) + side)
                columns = slice(int(left[i, draw]), int(left[i, draw]) + side)
                image = batch.inputs[i].clone()
                image[:, rows, columns] = batch.baseline[i][:, rows, columns]
                predicted.append(float(phi[i][:, rows, columns].sum()))
                change.append(float((batch.logits[i] - network(image[None])[0])[batch.targets[i]]))
            p, c = np.array(predicted), np.array(change)
            assert float(found["beta_1"][i]) == pytest.approx(float(np.mean((p - c) ** 2)))
            beta = np.mean(p * c) / np.mean(p**2)
            assert float(found["beta_optimal"][i]) == pytest.approx(float(np.mean((beta * p - c) ** 2)))

    def test_against_captum_on_the_same_perturbations(self, network, batch) -> None:
        from captum.metrics import infidelity

        metric = Infidelity("gaussian", samples=12)
        phi = random_maps(8, 16, channels=3)
        noise = torch.stack([metric._noise(keys, batch) for keys in batch.keys("infidelity", 12).T], 1)

        def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
            return noise.flatten(0, 1), inputs - noise.flatten(0, 1)

        ours = metric.score(network, batch, phi, gradient, metric.prepare(network, batch)).values
        for name, normalise in (("beta_1", False), ("beta_optimal", True)):
            theirs = infidelity(
                network, perturb, batch.inputs, phi, target=batch.targets, n_perturb_samples=12, normalize=normalise
            )
            torch.testing.assert_close(ours[name], theirs, rtol=1e-9, atol=1e-12)

    def test_gaussian_excess_is_the_distance_to_the_gradient(self, linear) -> None:
        """INFD(phi) = sigma^2 ||phi - w||^2 on a linear model: the closed form, within its sampling error."""
        model, batch, _ = linear(count=2)
        weights = model.weight[batch.targets].view_as(batch.inputs)
        metric = Infidelity("gaussian", samples=2000, sigma=0.3)
        other = weights + random_maps(2, 8, channels=3)
        found = metric.score(model, batch, other, gradient, metric.prepare(model, batch)).values["beta_1"]
        expected = 0.09 * (other - weights).flatten(1).square().sum(1)
        assert ((found / expected - 1).abs() < 4 * math.sqrt(2 / 2000)).all()

    def test_zero_map_and_scale(self, network, batch) -> None:
        metric = Infidelity(samples=20)
        prepared = metric.prepare(network, batch)
        zero = metric.score(network, batch, torch.zeros(8, 1, 16, 16, dtype=torch.float64), gradient, prepared).values
        expected = prepared["change"].square().mean(1)
        torch.testing.assert_close(zero["beta_1"], expected)
        torch.testing.assert_close(zero["beta_optimal"], expected)
        phi = random_maps(8, 16)
        once, scaled = (metric.score(network, batch, k * phi, gradient, prepared).values for k in (1, 100))
        torch.testing.assert_close(once["beta_optimal"], scaled["beta_optimal"])
        assert (scaled["beta_1"] > once["beta_1"]).all()
        assert (once["beta_optimal"] <= expected + 1e-12).all()


class TestCompleteness:
    def test_exact_and_shifted(self, linear) -> None:
        model, batch, phi = linear(baseline="black")
        exact = Completeness().score(model, batch, phi, gradient, {}).values
        assert float(exact["absolute"].max()) < 1e-12
        more = phi.clone()
        more[:, 0, 0, 0] += 0.5
        shifted = Completeness().score(model, batch, more, gradient, {}).values
        difference = (model(batch.inputs) - model(batch.baseline)).gather(1, batch.targets[:, None])[:, 0]
        torch.testing.assert_close(shifted["absolute"], torch.full((5,), 0.5, dtype=torch.float64))
        torch.testing.assert_close(shifted["relative"], 0.5 / difference.abs())

    def test_constant_model(self, linear) -> None:
        model, batch, phi = linear()
        flat = Batch(**{**vars(batch), "baseline_logits": batch.logits})
        found = Completeness().score(model, flat, torch.zeros_like(phi), gradient, {}).values
        assert found["absolute"].tolist() == [0.0] * 5
        assert found["relative"].isnan().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Deletion("odds"),
        lambda: Insertion(steps=0),
        lambda: SRG(unit="patch0"),
        lambda: SRG(reduce="mean"),
        lambda: Infidelity("circle"),
        lambda: Infidelity(samples=0),
        lambda: Infidelity(side=1.5),
        lambda: Completeness("odds"),
        lambda: ParameterRandomisation(stages=0),
        lambda: Throughput(repeats=0),
    ],
)
def test_options_out_of_range_are_refused_at_once(make) -> None:
    with pytest.raises(UserError):
        make()


class TestSimilarity:
    def test_spearman_is_scipys(self) -> None:
        a, b = random_maps(4, 9)[:, 0], random_maps(4, 9, seed=1)[:, 0]
        a = a.round(decimals=1).relu()  # many ties
        expected = [stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(spearman(a, b).numpy(), expected, atol=1e-12)
        assert spearman(torch.ones(1, 3, 3), a[:1, :3, :3]).isnan().all()

    def test_ssim_is_skimages(self) -> None:
        a, b = random_maps(3, 24)[:, 0], random_maps(3, 24, seed=1)[:, 0]
        b = a + 0.3 * b
        for x, y, ours in zip(a, b, ssim(a, b), strict=True):
            x, y = ((v - v.min()) / (v.max() - v.min()) for v in (x.numpy(), y.numpy()))
            _, full = structural_similarity(
                x, y, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
            )
            assert float(ours) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)

    def test_average_ranks_are_scipys(self) -> None:
        values = torch.tensor([[3.0, 1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
        expected = np.stack([stats.rankdata(row) - 1 for row in values.numpy()])
        np.testing.assert_array_equal(maps.average_ranks(values).numpy(), expected)


class TestParameterRandomisation:
    def test_every_parameter_changes_and_none_of_the_original(self, network) -> None:
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        *_, last = cascade(network, 3, "0/0")
        for name, parameter in last.named_parameters():
            assert not torch.equal(parameter, before[name]), name
        for name, buffer in last.named_buffers():
            assert torch.equal(buffer, before[name]), name
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        *_, last = cascade(network, 3, "0/0", statistics=True)
        assert float(last.norm.running_mean.abs().max()) == 0

    def test_goes_down_from_the_output(self, network) -> None:
        changed = []
        for copy in cascade(network, 5, "0/0"):
            changed.append([n for n, p in copy.named_parameters() if not torch.equal(p, network.get_parameter(n))])
        assert changed[0] == ["head.weight", "head.bias"]
        assert "scale" in changed[-1]
        assert "scale" not in changed[-2]
        assert all(set(a) < set(b) for a, b in pairwise(changed))

    def test_streams_differ_by_layer_and_leave_the_global_generator(self) -> None:
        twins = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).requires_grad_(False)
        state = torch.random.get_rng_state()
        *_, last = cascade(twins, 1, "0/0")
        assert not torch.equal(last[0].weight, last[1].weight)
        assert torch.equal(torch.random.get_rng_state(), state)
        *_, again = cascade(twins, 1, "0/0")
        assert torch.equal(last[0].weight, again[0].weight)
        *_, other = cascade(twins, 1, "1/0")
        assert not torch.equal(last[0].weight, other[0].weight)

    def test_extremes(self, network, batch) -> None:
        """A map that ignores the model is fully alike; one drawn anew at every call is not alike at all."""
        fixed = random_maps(8, 16)
        metric = ParameterRandomisation(stages=3, seeds=2)
        same = metric.score(network, batch, fixed, lambda model, batch: fixed, {})
        for name in ("spearman_abs", "spearman", "ssim"):
            torch.testing.assert_close(same.values[name], torch.ones(8, dtype=torch.float64))
        assert same.curves["spearman"].shape == (8, 3)
        draws = iter(range(1, 100))
        fresh = metric.score(network, batch, fixed, lambda model, batch: random_maps(8, 16, next(draws)), {})
        assert float(fresh.values["spearman"].abs().mean()) < 0.05
        assert float(fresh.values["gap"].abs().mean()) < 0.05

    def test_self_comparison_is_left_out_and_the_gradient_changes(self, network, batch) -> None:
        found = ParameterRandomisation(stages=3).score(network, batch, gradient(network, batch), gradient, {})
        assert float(found.curves["spearman"].mean(0).max()) < 0.9


class TestThroughput:
    def test_counts_and_times(self, network, batch) -> None:
        metric = Throughput(images=4, repeats=3, latencies=20, seconds=0.5)
        found = metric.score(network, batch, torch.empty(0), gradient, {})
        few = Throughput(images=4, repeats=3, latencies=19, seconds=0.5)
        assert few.score(network, batch, torch.empty(0), gradient, {}).values["latency_p95"].isnan().all()
        values = {name: float(value) for name, value in found.values.items()}
        assert (values["forwards"], values["backwards"]) == (1.0, 1.0)
        assert values["images_per_second"] > 0
        assert 0 < values["latency_p50"] <= values["latency_p95"]
        assert math.isnan(values["energy"])

    def test_peak_memory_is_what_lives_at_one_time(self, network, batch) -> None:
        def explain(model: nn.Module, batch: Batch) -> Tensor:
            first = torch.zeros(1 << 20, dtype=torch.float64)
            del first
            return torch.zeros(1 << 19, dtype=torch.float64)

        found = Throughput(images=1, repeats=3, latencies=3, seconds=0.01).score(
            network, batch, torch.empty(0), explain, {}
        )
        assert float(found.values["peak_memory"]) == pytest.approx(8.0, abs=0.1)


@pytest.mark.parametrize(
    "values",
    [
        torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)),
        torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)).round(),
        torch.randn(3, 500, generator=torch.Generator().manual_seed(2)) * 1e30,
        torch.zeros(3, 400),
        torch.tensor([[0.0, -0.0, 1.0, -1.0, -math.inf, 0.0, 1e-40, -1e-40]]).expand(3, -1),
    ],
)
def test_ranks_are_the_same_in_both_precisions(values: Tensor) -> None:
    """float32 maps are ranked by their bits, in one sort, where float64 needs two."""
    keys = randomness.keys(0, "ties", list("abc"))[:, 0]
    found = maps.descending_ranks(values, keys)
    assert torch.equal(found, maps.descending_ranks(values.double(), keys))
    assert torch.equal(found.sort(1).values, torch.arange(values.shape[1]).expand_as(found))
    ordered = torch.empty_like(values).scatter_(1, found, values)
    assert (ordered[:, 1:] <= ordered[:, :-1]).all()
    assert len(values.unique()) > 100 or not torch.equal(found[0], found[1]), "ties fall otherwise in another image"
