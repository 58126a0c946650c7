"""Curves of superpixels and other baselines, and the metrics made of curves: slow versions, other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark import baselines, passes, units
from benchmark.baselines import Absence
from benchmark.batches import freeze
from benchmark.errors import UserError
from benchmark.protocols import Batch, Metric, Scores
from metrics.deletion import Deletion
from metrics.eraser import Eraser
from metrics.insertion import Insertion
from metrics.irof import IROF
from metrics.minimal_subset import MinimalSubset
from metrics.monotonicity import Monotonicity
from metrics.pixel_flipping import PixelFlipping
from metrics.saco import SaCo


def found(metric: Metric, model: nn.Module, batch: Batch, attributions: Tensor) -> Scores:
    return metric.score(model, batch, attributions, lambda *_: attributions, metric.prepare(model, batch))


def random_maps(batch: Batch, seed: int = 0, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = len(batch), channels, *batch.inputs.shape[2:]
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def probability(model: nn.Module, image: Tensor, target: Tensor) -> float:
    return float(model(image[None])[0].softmax(0)[target])


def order_of(phi: Tensor, unit: Tensor) -> list[int]:
    """Numbers of the units of one image from the one of highest mean on; no two means are equal."""
    worth = {number: float(phi.sum(0)[unit == number].mean()) for number in unit.unique().tolist()}
    return sorted(worth, key=worth.__getitem__, reverse=True)


def without(image: Tensor, absent: Tensor, unit: Tensor, gone: list[int]) -> Tensor:
    """One image with its units `gone` replaced, one after the other."""
    image = image.clone()
    for number in gone:
        image[:, unit == number] = absent[:, unit == number]
    return image


def squares(side: int, patch: int) -> Tensor:
    rows = torch.arange(side) // patch
    return rows[:, None] * 1000 + rows


class TestCurves:
    FRACTIONS = (0, 0.02, 0.1, 0.33, 0.7, 0.968, 1)

    @pytest.mark.parametrize("metric", [Deletion, Insertion])
    @pytest.mark.parametrize("steps", [7, FRACTIONS])
    @pytest.mark.parametrize("unit", ["slic20", "pixel"])
    def test_slow_version(self, network, batch, metric, steps, unit) -> None:
        """One image, one step, one unit at a time; the images have 15 or 16 segments."""
        phi = random_maps(batch, channels=3)
        scores = found(metric(unit=unit, steps=steps), network, batch, phi)
        name = metric.__name__.lower()
        for i, part in enumerate(units.units(batch, unit).expand(8, -1, -1)[:3]):
            order = order_of(phi[i], part)
            at = [step / steps for step in range(steps + 1)] if isinstance(steps, int) else steps
            counts = [round(fraction * len(order)) for fraction in at]
            if metric is Insertion:  # fractions are of what is absent
                counts = [len(order) - count for count in counts[::-1]]
            gone = [order[count:] if metric is Insertion else order[:count] for count in counts]
            curve = [
                probability(network, without(batch.inputs[i], batch.baseline[i], part, each), batch.targets[i])
                for each in gone
            ]
            np.testing.assert_allclose(scores.curves[name][i].numpy(), curve, atol=1e-9)
            area = np.trapezoid(curve, [count / len(order) for count in counts])
            assert float(scores.values[name][i]) == pytest.approx(float(area), abs=1e-9)

    @pytest.mark.parametrize("fill", ["black", "blur", "uniform", "sample", "mean", "nli"])
    def test_ends_of_a_curve_of_another_baseline(self, network, batch, fill) -> None:
        normalised = replace(batch, mean=(0.4,), std=(0.2,))
        scores = found(Deletion(baseline=fill, steps=4), network, normalised, random_maps(batch))
        absence = Absence.of(normalised, fill)
        everything = torch.ones(8, 16, 16, dtype=torch.bool)
        absent = absence.without(torch.arange(8), everything)
        if fill != "nli":
            torch.testing.assert_close(absent, baselines.image(normalised, fill))
        else:
            noise = absent - batch.inputs.mean((2, 3), keepdim=True)
            assert float(noise.std()) == pytest.approx(0.01, rel=0.1), "imputation is noisy where nothing is left too"
        for at, images in ((0, batch.inputs), (-1, absent)):
            expected = network(images).softmax(1).gather(1, batch.targets[:, None])[:, 0]
            torch.testing.assert_close(scores.curves["deletion"][:, at], expected)

    @pytest.mark.parametrize("fill", ["blur", "uniform", "sample", "nli"])
    def test_another_baseline_in_any_company(self, network, batch, fill) -> None:
        """At the last fraction but one all of 15 segments are gone, and not all of 16."""
        metric = Deletion(baseline=fill, unit="slic20", steps=self.FRACTIONS)
        phi = random_maps(batch)
        whole = found(metric, network, batch, phi).curves["deletion"]
        parts = [found(metric, network, batch.select([i]), phi[[i]]).curves["deletion"] for i in range(8)]
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-9, rtol=0)

    @pytest.mark.parametrize("steps", [2, 3, 6, 10])
    def test_insertion_is_deletion_reversed_however_halves_are_rounded(self, network, images, steps) -> None:
        batch = freeze(network, images(4, side=5), list("abcd"))
        phi = random_maps(batch)
        insertion = found(Insertion(steps=steps), network, batch, phi)
        reverse = found(Deletion(steps=steps), network, batch, -phi)
        torch.testing.assert_close(insertion.curves["insertion"], reverse.curves["deletion"].flip(1))
        torch.testing.assert_close(insertion.values["insertion"], reverse.values["deletion"])

    def test_no_pass_is_made_twice(self, network, batch) -> None:
        """More steps than segments: each number of segments once, and neither none nor all."""
        metric = Deletion(unit="slic20", steps=60)
        counts = [len(part.unique()) for part in units.units(batch, "slic20")]
        assert len(set(counts)) > 1
        with passes.counted(network) as count:
            found(metric, network, batch, random_maps(batch))
        assert count.forwards == sum(each - 1 for each in counts)

    def test_a_constant_map_ties_units_of_every_size(self, batch) -> None:
        for unit in ("patch7", "slic20"):
            worth = units.pooled(torch.full((8, 16, 16), 0.1), units.units(batch, unit))
            there = units.sizes(units.units(batch, unit)).expand(8, -1) > 0
            assert worth[there].unique().numel() == 1


class TestPixelFlipping:
    @pytest.mark.parametrize(("patch", "regions", "steps"), [(1, None, 9), (3, 10, 10), (3, 20, 6), (9, 100, 100)])
    def test_slow_version(self, network, batch, patch, regions, steps) -> None:
        phi = random_maps(batch, channels=3)
        metric = PixelFlipping(baseline="uniform", unit=f"patch{patch}", steps=steps, regions=regions)
        scores = found(metric, network, batch, phi)
        absent = baselines.image(batch, "uniform")
        for i in range(2):
            order = order_of(phi[i], squares(16, patch))
            last = min(regions or len(order), len(order))
            counts = [round(step * last / min(steps, last)) for step in range(min(steps, last) + 1)]
            clean = probability(network, batch.inputs[i], batch.targets[i])
            aopc = {}
            for name, each in (("aopc", order), ("aopc_lerf", order[::-1])):
                images = [without(batch.inputs[i], absent[i], squares(16, patch), each[:count]) for count in counts]
                aopc[name] = float(np.mean([clean - probability(network, x, batch.targets[i]) for x in images]))
                assert float(scores.values[name][i]) == pytest.approx(aopc[name], abs=1e-9)
            assert float(scores.values["abpc"][i]) == pytest.approx(aopc["aopc"] - aopc["aopc_lerf"], abs=1e-9)

    @pytest.mark.parametrize("order", ["morf", "lerf"])
    def test_against_quantus_on_one_channel(self, images, order) -> None:
        """The drops of its region perturbation; it sums over a square where we take the mean, and squares are equal."""
        import quantus

        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)).double().eval()
        batch = freeze(model.requires_grad_(False), images(3, channels=1, side=10), list("abc"), baseline="zero")
        phi = random_maps(batch)
        theirs = quantus.RegionPerturbation(
            patch_size=2, order=order, regions_evaluation=12, perturb_baseline=0.0, normalise=False,
            disable_warnings=True, return_aggregate=False,
        )(
            model=model.float(), x_batch=batch.inputs.float().numpy(), y_batch=batch.targets.numpy(),
            a_batch=phi.float().numpy(), softmax=True, device="cpu",
        )  # fmt: skip
        ours = found(PixelFlipping(unit="patch2", steps=12, regions=12), model.double(), batch, phi)
        drops = ours.curves["aopc" if order == "morf" else "aopc_lerf"][:, 1:]
        np.testing.assert_allclose(drops.numpy(), np.stack(theirs), atol=1e-5)

    def test_the_best_map_of_all(self, linear) -> None:
        model, batch, phi = linear(count=1)
        metric = PixelFlipping(output="logit", steps=10, regions=20)
        best = found(metric, model, batch, phi).values
        for seed in range(30):
            other = found(metric, model, batch, random_maps(batch, seed)).values
            assert float(other["aopc"]) <= float(best["aopc"]) + 1e-12
            assert float(other["aopc_lerf"]) >= float(best["aopc_lerf"]) - 1e-12
            assert float(other["abpc"]) <= float(best["abpc"]) + 1e-12


class TestIROF:
    def test_slow_version_and_quantus(self, network, batch) -> None:
        """Quantus leaves out the whole image and has a width of 1 a step, so it grows with the number of segments."""
        phi = random_maps(batch, channels=3)
        scores = found(IROF(unit="slic20", baseline="mean"), network, batch, phi)
        for i, part in enumerate(units.units(batch, "slic20")[:4]):
            order = order_of(phi[i], part)
            absent = batch.inputs[i].mean((1, 2), keepdim=True).expand_as(batch.inputs[i])
            images = [without(batch.inputs[i], absent, part, order[:gone]) for gone in range(len(order) + 1)]
            y = np.array([probability(network, x, batch.targets[i]) for x in images])
            y /= y[0]
            expected = 1 - np.trapezoid(y, np.linspace(0, 1, len(y)))
            assert float(scores.values["irof"][i]) == pytest.approx(float(expected), abs=1e-9)
            theirs = len(order) - np.trapezoid(y[1:], dx=1.0)
            assert theirs == pytest.approx(len(order) * expected + (1 + y[1]) / 2, abs=1e-9)

    def test_undefined_without_a_score_to_lose(self, network, batch) -> None:
        shifted = replace(batch, logits=batch.logits - 100)
        assert found(IROF(output="logit"), network, shifted, random_maps(batch)).values["irof"].isnan().all()


class TestMinimalSubset:
    def model(self) -> nn.Module:
        """Two classes that random images cross many times: z_0 - z_1 = sum of sin of a random projection."""

        class Wavy(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                generator = torch.Generator().manual_seed(0)
                weight = torch.randn(3, inputs[0].numel(), dtype=torch.float64, generator=generator)
                return (inputs.flatten(1) @ weight.T).sin()

        return Wavy()

    def test_slow_version(self, images) -> None:
        model = self.model()
        batch = freeze(model, images(12, side=6), [str(i) for i in range(12)])
        targets = batch.logits.argmax(1)
        targets[3] = (targets[3] + 1) % 3
        batch = replace(batch, targets=targets)
        phi = random_maps(batch)
        scores = found(MinimalSubset(steps=36), model, batch, phi)
        pixels = torch.arange(36).view(6, 6)
        undefined = 0
        for i in range(12):
            order, absent = order_of(phi[i], pixels), batch.baseline[i]

            def predicted(gone: list[int], i: int = i, absent: Tensor = absent) -> bool:
                return int(model(without(batch.inputs[i], absent, pixels, gone)[None]).argmax()) == int(targets[i])

            if not predicted([]) or predicted(order):
                undefined += 1
                assert scores.values["deletion"][i].isnan()
                assert scores.values["insertion"][i].isnan()
                continue
            deletion = next(k for k in range(37) if not predicted(order[:k]))
            insertion = next(k for k in range(37) if predicted(order[k:]))
            assert float(scores.values["deletion"][i]) == pytest.approx(deletion / 36)
            assert float(scores.values["insertion"][i]) == pytest.approx(insertion / 36)
        assert 0 < undefined < 12

    def test_a_draw_is_no_prediction(self) -> None:
        class Two(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                total = inputs.flatten(1).sum(1)
                return torch.stack([total, torch.ones_like(total)], 1)

        batch = freeze(Two(), torch.full((1, 1, 1, 4), 0.5, dtype=torch.float64), ["x"], baseline="black")
        scores = found(MinimalSubset(), Two(), batch, torch.tensor([4.0, 3, 2, 1]).double().view(1, 1, 1, 4))
        assert {name: float(value) for name, value in scores.values.items()} == {"deletion": 0.5, "insertion": 0.75}
        assert scores.curves["deletion"].tolist() == [[1, 1, 0, 0, 0]]
        assert scores.curves["insertion"].tolist() == [[0, 0, 0, 1, 1]]


class TestMonotonicity:
    @pytest.mark.parametrize("unit", ["pixel", "slic20"])
    def test_slow_version(self, network, batch, unit) -> None:
        phi = random_maps(batch)
        scores = found(Monotonicity(unit=unit, steps=40), network, batch, phi)
        for i, part in enumerate(units.units(batch, unit).expand(8, -1, -1)[:3]):
            order = order_of(phi[i], part)[::-1]
            there = sorted({round(step * len(order) / 40) for step in range(41)})
            image, curve = batch.baseline[i].clone(), []
            for low, high in zip([0, *there], there, strict=False):
                for number in order[low:high]:
                    image[:, part == number] = batch.inputs[i][:, part == number]
                curve.append(probability(network, image, batch.targets[i]))
            assert float(scores.values["steady"][i]) == pytest.approx(float(np.mean(np.diff(curve) >= 0)), abs=1e-12)
            assert float(scores.values["monotone"][i]) == float(np.all(np.diff(curve) >= 0))

    def test_quantus_never_puts_the_image_back(self, images) -> None:
        """It replaces the features of its baseline by the baseline, so all its predictions are of one image."""
        import quantus

        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)).double().eval()
        batch = freeze(model.requires_grad_(False), images(6, channels=1, side=10), list("abcdef"), baseline="black")
        phi = random_maps(batch)
        theirs = quantus.Monotonicity(
            features_in_step=10, perturb_baseline=0.0, abs=False, normalise=False, disable_warnings=True
        )(
            model=model.float(), x_batch=batch.inputs.float().numpy(), y_batch=batch.targets.numpy(),
            a_batch=phi.float().numpy(), softmax=True, device="cpu",
        )  # fmt: skip
        ours = found(Monotonicity(steps=10), model.double(), batch, phi).values["monotone"]
        assert all(theirs)
        assert not ours.any()

    def test_it_ranks_nothing_because_chance_beats_the_truth(self, images) -> None:
        class Leaning(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                total = (inputs.flatten(1) @ weight) / 10
                return torch.stack([total, torch.zeros_like(total)], 1)

        weight = torch.randn(256, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
        batch = freeze(Leaning(), images(20, channels=1), [str(i) for i in range(20)], baseline="black")
        truth, chance = batch.inputs * weight.view(1, 1, 16, 16), random_maps(batch)
        coarse = [
            float(found(Monotonicity(steps=8), Leaning(), batch, phi).values["steady"].mean())
            for phi in (truth, chance)
        ]
        assert coarse[1] > coarse[0] + 0.2
        fine = [found(Monotonicity(steps=256), Leaning(), batch, phi).values["steady"] for phi in (truth, chance)]
        torch.testing.assert_close(*fine)
        assert not any(measure.ranked for measure in Monotonicity().measures)


class TestSaCo:
    @pytest.mark.parametrize("groups", [4, 10])
    def test_slow_version(self, network, batch, groups) -> None:
        """The double loop of the source; no two groups lose the same here."""
        phi = random_maps(batch, channels=3)
        scores = found(SaCo(groups=groups), network, batch, phi)
        pixels, size = torch.arange(256).view(16, 16), 256 // groups
        for i in range(3):
            order = order_of(phi[i], pixels)
            absent = batch.inputs[i].mean((1, 2), keepdim=True).expand_as(batch.inputs[i])
            clean = probability(network, batch.inputs[i], batch.targets[i])
            salience, drop = [], []
            for group in range(groups):
                gone = order[group * size : (group + 1) * size]
                salience.append(sum(float(phi[i].sum(0)[pixels == number]) for number in gone))
                changed = without(batch.inputs[i], absent, pixels, gone)
                drop.append(clean - probability(network, changed, batch.targets[i]))
            weights = [
                (salience[a] - salience[b]) * (1 if drop[a] >= drop[b] else -1)
                for a in range(groups)
                for b in range(a + 1, groups)
            ]
            expected = sum(weights) / sum(map(abs, weights))
            assert float(scores.values["saco"][i]) == pytest.approx(expected, abs=1e-9)

    def test_scale_is_no_matter_and_values_are(self, network, batch) -> None:
        phi = random_maps(batch)
        values = [found(SaCo(), network, batch, each).values["saco"] for each in (phi, 7 * phi, phi.exp())]
        torch.testing.assert_close(values[0], values[1])
        assert not torch.allclose(values[0], values[2])

    def test_units_of_different_number_in_any_company(self, network, batch) -> None:
        phi = random_maps(batch)
        metric = SaCo(unit="slic20", groups=16)
        whole = found(metric, network, batch, phi).values["saco"]
        counts = [len(part.unique()) for part in units.units(batch, "slic20")]
        assert min(counts) < 16 <= max(counts)
        parts = [found(metric, network, batch.select([i]), phi[[i]]).values["saco"] for i in range(8)]
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-9, rtol=0)


class TestEraser:
    def test_slow_version(self, network, batch) -> None:
        phi = random_maps(batch, channels=3)
        scores = found(Eraser(unit="patch2"), network, batch, phi)
        for i in range(3):
            order, absent = order_of(phi[i], squares(16, 2)), batch.baseline[i]
            clean = probability(network, batch.inputs[i], batch.targets[i])
            drops: Mapping[str, list[float]] = {"comprehensiveness": [], "sufficiency": []}
            for share in (0.01, 0.05, 0.1, 0.2, 0.5):
                top = max(1, round(share * len(order)))
                for name, gone in (("comprehensiveness", order[:top]), ("sufficiency", order[top:])):
                    image = without(batch.inputs[i], absent, squares(16, 2), gone)
                    drops[name].append(clean - probability(network, image, batch.targets[i]))
            for name, expected in drops.items():
                np.testing.assert_allclose(scores.curves[name][i].numpy(), expected, atol=1e-9)
                assert float(scores.values[name][i]) == pytest.approx(float(np.mean(expected)), abs=1e-9)


def test_passes_are_the_minimum(network, batch) -> None:
    """f(x) and f(b) are known: inner points alone, for each order."""
    for metric, expected in (
        (PixelFlipping(steps=20), 2 * 19),
        (PixelFlipping(steps=20, regions=40), 2 * 20),
        (MinimalSubset(steps=20), 2 * 19),
        (Monotonicity(steps=20), 19),
        (SaCo(), 10),
        (Eraser(), 2 * 5),
    ):
        with passes.counted(network) as count:
            found(metric, network, batch, random_maps(batch))
        assert (count.forwards, count.backwards) == (8 * expected, 0), metric


@pytest.mark.parametrize(
    "make",
    [
        lambda: PixelFlipping(steps=0),
        lambda: PixelFlipping(regions=0),
        lambda: PixelFlipping(baseline="pink"),
        lambda: IROF(steps=0),
        lambda: IROF(unit="slic"),
        lambda: MinimalSubset(steps=0),
        lambda: MinimalSubset(baseline="pink"),
        lambda: MinimalSubset(unit="patch0"),
        lambda: MinimalSubset(reduce="mean"),
        lambda: Monotonicity(output="loss"),
        lambda: Monotonicity(steps=0),
        lambda: SaCo(groups=1),
        lambda: Eraser(shares=()),
        lambda: Eraser(shares=(0.1, 1.5)),
        lambda: Eraser(shares=(0.0, 0.5)),
    ],
)
def test_options_out_of_range_are_refused_at_once(make: Callable[[], Metric]) -> None:
    with pytest.raises(UserError):
        make()
