"""Randomisation tests against slow versions that follow the papers, other libraries, and known models."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.feature import hog as skimage_hog
from torch import Tensor, nn

from benchmark import embedded, passes, plugins, randomness, subjects, train
from benchmark.batches import freeze
from benchmark.cells import Choice
from benchmark.certificate.randomisation import CHECKS
from benchmark.datasets.digits import Digits
from benchmark.errors import NotApplicable, UserError
from benchmark.evaluate import Evaluation
from benchmark.models import digest
from benchmark.progress import Progress
from benchmark.protocols import Batch
from benchmark.subjects import Subject
from methods.input_x_gradient import InputXGradient
from methods.occlusion import Occlusion
from methods.saliency import Saliency
from metrics._randomised import cascade, seen
from metrics._similarity import View, cosine, hog, spearman, ssim
from metrics.data_randomisation import DataRandomisation
from metrics.efficient_parameter_randomisation import EfficientParameterRandomisation, entropy
from metrics.parameter_randomisation import ParameterRandomisation
from metrics.random_logit import RandomLogit, other_classes
from metrics.smooth_parameter_randomisation import SmoothParameterRandomisation

EXACT = {"atol": 1e-12, "rtol": 1e-12}


def explain(model: nn.Module, batch: Batch) -> Tensor:
    return InputXGradient().attribute(model, batch)


def random_maps(count: int, height: int, width: int | None = None, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, height, width or height, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", CHECKS)
def test_certificate(name: str) -> None:
    rows = [check for certify in CHECKS[name] for check in certify(name)]
    assert len({check.subject for check in rows}) >= 2
    assert [check for check in rows if not check.passed] == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: ParameterRandomisation("downwards"),
        lambda: ParameterRandomisation(stages=0),
        lambda: ParameterRandomisation(seeds=0),
        lambda: SmoothParameterRandomisation(samples=0),
        lambda: SmoothParameterRandomisation(noise=-1),
        lambda: SmoothParameterRandomisation(order="up"),
        lambda: EfficientParameterRandomisation(bins=1),
        lambda: EfficientParameterRandomisation(seeds=0),
        lambda: RandomLogit("mean"),
        lambda: DataRandomisation("mean"),
    ],
)
def test_options_out_of_range_are_refused_at_once(make) -> None:
    with pytest.raises(UserError):
        make()


class TestSimilarity:
    @pytest.mark.parametrize(
        ("size", "cell"), [((64, 64), 8), ((37, 50), 4), ((16, 24), 2), ((12, 12), 1), ((130, 160), 16)]
    )
    def test_hog_is_skimages(self, size: tuple[int, int], cell: int) -> None:
        rough, smooth = random_maps(2, *size), random_maps(2, *size).cumsum(1).cumsum(2)
        flat = torch.zeros(1, *size, dtype=torch.float64)
        flat[:, size[0] // 4 : size[0] // 2, 3:7] = -2  # edges at exactly 0 and 90 degrees, and cells without any
        for values in (rough, smooth, flat):
            for ours, each in zip(hog(values), values.numpy(), strict=True):
                unit = (each - each.min()) / (each.max() - each.min())
                theirs = skimage_hog(unit, 9, (cell, cell), (3, 3), "L2-Hys")
                np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-7)  # skimage's votes are float32

    def test_hog_of_small_maps_is_empty(self) -> None:
        assert hog(random_maps(2, 2, 40)).shape == (2, 0)
        assert hog(random_maps(2, 3, 40)).shape == (2, 38 * 81)

    def test_cosine_is_torchs(self) -> None:
        a, b = random_maps(5, 7), random_maps(5, 7, seed=1)
        expected = nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
        torch.testing.assert_close(cosine(a, b), expected, **EXACT)
        torch.testing.assert_close(cosine(a, -3 * a), torch.full((5,), -1.0, dtype=torch.float64), **EXACT)
        assert cosine(a, 0 * b).isnan().all()

    def test_a_view_is_compared_as_maps_are(self) -> None:
        a, b = random_maps(4, 16, 20), random_maps(4, 16, 20, seed=1)
        found = View.of(a).likeness(View.of(b))
        torch.testing.assert_close(found["spearman"], spearman(a, b), **EXACT)
        torch.testing.assert_close(found["spearman_abs"], spearman(a.abs(), b.abs()), **EXACT)
        torch.testing.assert_close(found["ssim"], ssim(a, b), **EXACT)
        torch.testing.assert_close(found["cosine"], cosine(a, b), **EXACT)
        expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(hog(a).numpy(), hog(b).numpy(), strict=True)]
        np.testing.assert_allclose(found["hog"].numpy(), expected, atol=1e-12)

    def test_small_maps_have_no_structure(self) -> None:
        a, b = random_maps(2, 10, 30), random_maps(2, 10, 30, seed=1)
        assert ssim(a, b).isnan().all()
        found = View.of(a[:, :2]).likeness(View.of(b[:, :2]))
        assert found["hog"].isnan().all()
        assert found["spearman"].isfinite().all()

    def test_chance_is_the_mean_over_rolled_maps(self) -> None:
        values, keys = random_maps(3, 9, 13).cumsum(1), randomness.keys(0, "shift", ["a", "b", "c"], 4)
        found = View.of(values).chance(keys)
        for image, row in zip(values.abs(), found, strict=True):
            every = [
                stats.spearmanr(image.flatten(), image.roll((down, across), (0, 1)).flatten()).statistic
                for down in range(1, 9)
                for across in range(1, 13)
            ]
            assert min(every) <= float(row) <= max(every)
        shift = randomness.uniform(keys[0], 2)
        down, across = (shift * torch.tensor([8, 12])).long().add(1).T.tolist()
        rolled = [values[0].roll((d, a), (0, 1)) for d, a in zip(down, across, strict=True)]
        slow = [stats.spearmanr(values[0].abs().flatten(), each.abs().flatten()).statistic for each in rolled]
        assert float(found[0]) == pytest.approx(np.mean(slow), abs=1e-12)


def changed(copy: nn.Module, model: nn.Module) -> set[str]:
    return {name for name, p in copy.named_parameters() if not torch.equal(p, model.get_parameter(name))}


class TestCascade:
    def test_orders(self, network) -> None:
        everything = {name for name, _ in network.named_parameters()}
        down, up, single = (
            [changed(copy, network) for copy in cascade(network, 5, "0/0", order=order)]
            for order in ("top_down", "bottom_up", "independent")
        )
        assert down[0] == single[0] == {"head.weight", "head.bias"}
        assert up[0] == single[-1] == {"scale"}
        assert all(set.union(*single[: stage + 1]) == down[stage] for stage in range(5))
        assert all(up[stage] == everything - down[3 - stage] for stage in range(4))
        assert sum(map(len, single)) == len(everything) == len(down[-1]) == len(up[-1])

    def test_a_layer_gets_the_same_weights_in_every_order(self, network) -> None:
        states = [[deepcopy(c) for c in cascade(network, 5, "0/0", order=o)] for o in ("top_down", "independent")]
        *_, last = states[0]
        for copy in states[1]:
            for name in changed(copy, network):
                assert torch.equal(copy.get_parameter(name), last.get_parameter(name))

    def test_there_are_at_most_as_many_stages_as_layers(self, network) -> None:
        for order in ("top_down", "independent"):
            assert len([changed(copy, network) for copy in cascade(network, 99, "0/0", order=order)]) == 5
        assert all(changed(copy, network) for copy in cascade(network, 99, "0/0", order="independent"))

    def test_statistics_are_reset_with_their_layer(self, network) -> None:
        reset = [bool(c.norm.running_mean.any()) for c in cascade(network, 5, "0/0", True, "independent")]
        assert reset == [True, True, False, True, True]
        assert all(bool(c.norm.running_mean.any()) for c in cascade(network, 5, "0/0", False, "independent"))

    @pytest.mark.parametrize("name", ["small_cnn", "small_vit"])
    def test_class_tokens_and_all_else_change(self, name: str) -> None:
        model = embedded.embedded(name, "digits", embedded.Cnn() if name == "small_cnn" else embedded.Vit()).network
        (copy,) = cascade(model, 1, "0/0")
        assert changed(copy, model) == {name for name, _ in model.named_parameters()}
        twins: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in copy.parameters():
            if len(parameter.unique()) > 1:
                twins.setdefault(tuple(parameter.shape), []).append(parameter)
        for same_shape in twins.values():
            assert len({tuple(p.flatten().tolist()) for p in same_shape}) == len(same_shape), (
                "one stream for two layers"
            )

    def test_layer_scale_and_weight_norm_change(self) -> None:
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gamma = nn.Parameter(torch.full((6,), 1e-5))
                self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
                self.attention = nn.MultiheadAttention(6, 2)

        model = Scaled().requires_grad_(False)
        (copy,) = cascade(model, 1, "0/0")
        assert changed(copy, model) == {name for name, _ in model.named_parameters()}
        assert len(copy.gamma.unique()) == 6

    def test_a_model_without_parameters_is_refused(self, batch) -> None:
        with pytest.raises(NotApplicable, match="no parameters"):
            ParameterRandomisation().prepare(nn.Flatten(), batch)


def restarted(model: nn.Module, stages: list[list[str]], stream: str) -> Iterator[nn.Module]:
    """Copies by the paper: modules by name, each re-initialised under a seed of its own. Conftest's network only."""
    copy = deepcopy(model)
    for names in stages:
        for name in names:
            with torch.random.fork_rng():
                torch.manual_seed(randomness.integer("cascade", stream, name))
                if name:
                    running = copy.norm.running_mean.clone(), copy.norm.running_var.clone()
                    copy.get_submodule(name).reset_parameters()
                    copy.norm.running_mean, copy.norm.running_var = running
                    if name == "norm":  # its bias is 0 before and after, so it is drawn
                        copy.norm.bias.copy_(1e-3 * torch.randn(8, dtype=torch.float64))
                else:
                    scale = model.scale
                    copy.scale.copy_(scale.mean() + scale.std() * torch.randn_like(scale))
        yield copy


STAGES = [["head", "second"], ["norm"], ["first", ""]]
"""Five layers in three stages, from the output down: after 1.67, 3.33 and 5 of them, rounded."""


class TestParameterRandomisation:
    def test_slow_version(self, network, batch) -> None:
        metric = ParameterRandomisation(seeds=2)
        found = metric.score(network, batch, explain(network, batch), explain, metric.prepare(network, batch))
        for place in (0, 5):
            alone = batch.select([place])
            old = explain(network, alone).sum(1)[0].numpy()
            values = np.zeros((2, 3, 2))
            for seed in range(2):
                for stage, copy in enumerate(restarted(network, STAGES, f"0/{seed}")):
                    new = explain(copy, alone).sum(1)[0].numpy()
                    values[seed, stage, 0] = stats.spearmanr(old.ravel(), new.ravel()).statistic
                    values[seed, stage, 1] = stats.spearmanr(abs(old).ravel(), abs(new).ravel()).statistic
            np.testing.assert_allclose(found.curves["spearman"][place], values[..., 0].mean(0), atol=1e-12)
            assert float(found.values["spearman_abs"][place]) == pytest.approx(values[..., 1].mean(), abs=1e-12)

    def test_costs_an_explanation_a_stage_and_seed(self, network, batch) -> None:
        metric = ParameterRandomisation(seeds=2)
        with passes.counted(network) as count:
            prepared = metric.prepare(network, batch)
        assert (count.forwards, count.backwards) == (2 * 6 * 8, 0)
        assert prepared["logits"].shape == prepared["baseline_logits"].shape == (8, 6, 4)
        maps = explain(network, batch)
        with passes.counted(network) as count:
            metric.score(network, batch, maps, explain, prepared)
        assert (count.forwards, count.backwards) == (6 * 8, 6 * 8)

    def test_occlusion_of_a_copy_is_that_of_a_model_of_its_own(self, network, batch) -> None:
        """A method that reads f(x) from the batch must find that of the copy, not of the trained model."""
        (copy,) = cascade(network, 1, "0/0")
        own = freeze(copy, batch.pixels, batch.uids, labels=batch.targets, explain="label")
        occlusion = Occlusion(0.25, 0.25)
        expected = occlusion.attribute(copy, own)
        torch.testing.assert_close(occlusion.attribute(copy, seen(copy, batch)), expected, **EXACT)
        found = ParameterRandomisation(stages=1).score(
            *(network, batch, occlusion.attribute(network, batch), occlusion.attribute, {})
        )
        old = occlusion.attribute(network, batch).sum(1)
        torch.testing.assert_close(found.values["spearman_abs"], spearman(old.abs(), expected.sum(1).abs()), **EXACT)
        torch.testing.assert_close(found.values["cosine"], cosine(old, expected.sum(1)), **EXACT)

    def test_model_and_generator_are_left_alone(self, network, batch) -> None:
        before, state = deepcopy(network.state_dict()), torch.random.get_rng_state()
        metric = ParameterRandomisation("independent")
        metric.score(network, batch, explain(network, batch), explain, metric.prepare(network, batch))
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize(
    "metric", [ParameterRandomisation, SmoothParameterRandomisation, EfficientParameterRandomisation]
)
def test_statistics_are_reset_where_asked(metric, statistics: bool, network, batch) -> None:
    reset = []

    def note(model: nn.Module, batch: Batch) -> Tensor:
        reset.append(not model.norm.running_mean.any())
        return batch.inputs

    options = {"samples": 1} if metric is SmoothParameterRandomisation else {}
    metric(statistics=statistics, **options).score(network, batch, batch.inputs, note, {})
    assert any(reset) is statistics


class TestSmooth:
    def test_slow_version(self, network, batch) -> None:
        metric = SmoothParameterRandomisation(samples=3, noise=0.2)
        found = metric.score(network, batch, torch.zeros_like(batch.inputs), explain, {})
        alone = batch.select([3])
        noise = randomness.normal(alone.keys("smooth", 3), 3, 16, 16)[0]
        width = 0.2 * float(alone.inputs.max() - alone.inputs.min())

        def smoothed(model: nn.Module) -> np.ndarray:
            copies = [replace(alone, inputs=alone.inputs + width * each.double()) for each in noise]
            return np.mean([explain(model, each).sum(1)[0].numpy() for each in copies], axis=0)

        old = smoothed(network)
        upwards = [["", "first"], ["norm"], ["second", "head"]]
        slow = [
            stats.spearmanr(old.ravel(), smoothed(copy).ravel()).statistic
            for copy in restarted(network, upwards, "0/0")
        ]
        np.testing.assert_allclose(found.curves["spearman"][3], slow, atol=1e-12)

    def test_without_noise_it_is_parameter_randomisation(self, network, batch) -> None:
        smooth = SmoothParameterRandomisation(samples=2, noise=0.0, order="top_down")
        maps = explain(network, batch)
        found = smooth.score(network, batch, maps, explain, {})
        plain = ParameterRandomisation().score(network, batch, maps, explain, {})
        for name, values in plain.values.items():
            torch.testing.assert_close(found.values[name], values, atol=1e-9, rtol=0)

    def test_a_method_that_draws_draws_for_every_copy(self, network, batch) -> None:
        names: list[tuple[str, ...]] = []

        def note(model: nn.Module, batch: Batch) -> Tensor:
            names.append(batch.uids)
            return batch.inputs

        SmoothParameterRandomisation(samples=4, stages=1).score(network, batch, batch.inputs, note, {})
        assert len(names) == 8
        assert len(set(names)) == 4
        assert names[:4] == names[4:]


class TestEfficient:
    @pytest.mark.parametrize("bins", [2, 7, 100])
    def test_entropy_is_scipys_of_numpys_histogram(self, bins: int) -> None:
        values = random_maps(6, 17, 23).pow(3)
        expected = [stats.entropy(np.histogram(each, bins)[0]) for each in values.numpy()]
        np.testing.assert_allclose(entropy(values, bins).numpy(), expected, atol=1e-12)
        assert float(entropy(torch.full((1, 4, 4), 0.1), bins)) == 0

    def test_slow_version(self, network, batch) -> None:
        metric = EfficientParameterRandomisation(bins=20, seeds=2)
        maps = explain(network, batch)
        found = metric.score(network, batch, maps, explain, metric.prepare(network, batch))
        for place in (0, 7):
            before = stats.entropy(np.histogram(maps[place].sum(0).numpy(), 20)[0])
            rises = []
            for seed in range(2):
                *_, copy = restarted(network, STAGES, f"0/{seed}")
                after = explain(copy, batch.select([place])).sum(1)[0].numpy()
                rises.append(stats.entropy(np.histogram(after, 20)[0]) / before - 1)
            value = float(found.values["efficient_parameter_randomisation"][place])
            assert value == pytest.approx(np.mean(rises), abs=1e-12)

    def test_quantus_complexity(self) -> None:
        """Dividing by the root of the mean square first, as Quantus does, moves no value to another bin."""
        from quantus.functions.complexity_func import discrete_entropy
        from quantus.functions.normalise_func import normalise_by_average_second_moment_estimate

        values = 7 * random_maps(4, 16) + 1
        theirs = [discrete_entropy(normalise_by_average_second_moment_estimate(v), v) for v in values.numpy()]
        np.testing.assert_allclose(entropy(values, 100).numpy(), theirs, atol=1e-12)


class TestRandomLogit:
    def test_slow_version(self, network, batch) -> None:
        found = RandomLogit().score(network, batch, explain(network, batch), explain, {})
        for place in range(8):
            alone = batch.select([place])
            other = int(other_classes(batch)[place])
            assert other != int(alone.targets)
            maps = [explain(network, replace(alone, targets=torch.tensor([c]))) for c in (int(alone.targets), other)]
            old, new = (each.sum(1)[0].flatten().numpy() for each in maps)
            assert float(found.values["spearman"][place]) == pytest.approx(
                stats.spearmanr(old, new).statistic, abs=1e-12
            )

    def test_the_other_class_depends_on_seed_and_name_alone(self, batch) -> None:
        picked = other_classes(batch)
        assert torch.equal(other_classes(batch.select([5, 2])), picked[[5, 2]])
        assert any(not torch.equal(other_classes(replace(batch, seed=seed)), picked) for seed in range(1, 5))
        many = replace(batch, logits=torch.zeros(8, 1000))
        assert 0 <= int(other_classes(many).min()) <= int(other_classes(many).max()) < 1000

    def test_one_class_is_not_enough(self, network, batch) -> None:
        single = replace(batch, logits=batch.logits[:, :1], targets=batch.targets * 0)
        with pytest.raises(NotApplicable, match="no second class"):
            RandomLogit().score(network, single, explain(network, batch), explain, {})


def explained(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
    """Gradients in the way that Quantus asks for maps."""
    images = torch.as_tensor(inputs, dtype=torch.float32).requires_grad_()
    total = model(images).gather(1, torch.as_tensor(targets)[:, None]).sum()
    return torch.autograd.grad(total, images)[0].numpy()


@pytest.fixture
def layered() -> nn.Module:
    """Two layers of one shape, and another."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Linear(64, 3)).eval()


class TestQuantus:
    """The same correlations layer by layer; the mean and the seeds follow the paper and not the library."""

    def test_its_mean_holds_the_comparison_of_a_map_with_itself(self, layered) -> None:
        import quantus

        images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()
        targets = np.zeros(4, dtype=np.int64)
        options = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}
        given = {
            "x_batch": images,
            "y_batch": targets,
            "a_batch": None,
            "explain_func": explained,
            "device": "cpu",
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            by_layer = quantus.MPRT(**options)(model=deepcopy(layered), **given)
            averaged = quantus.MPRT(return_average_correlation=True, **options)(model=deepcopy(layered), **given)
        assert list(by_layer) == ["original", "4", "3", "1"]
        np.testing.assert_allclose(by_layer["original"], 1.0)

        batch = freeze(layered, torch.as_tensor(images), list("abcd"), labels=torch.tensor(targets), explain="label")
        original = torch.as_tensor(explained(layered, images, targets))[:, 0]
        copy = deepcopy(layered)
        for name in ("4", "3", "1"):
            torch.manual_seed(43)  # as Quantus does, before every layer
            copy[int(name)].reset_parameters()
            again = torch.as_tensor(explained(copy, images, targets))[:, 0]
            np.testing.assert_allclose(spearman(original, again), by_layer[name], atol=1e-6)
        layers = np.mean([by_layer[name] for name in ("4", "3", "1")], axis=0)
        np.testing.assert_allclose(averaged, (1 + 3 * layers) / 4, atol=1e-6)

        steps = [by_layer[name] for name in ("4", "3", "1")]
        played = iter(steps)
        ours = ParameterRandomisation().score(
            *(layered.requires_grad_(False), batch, original[:, None]),
            *(lambda model, batch: original[:, None] * 0 + torch.tensor(next(played)).view(-1, 1, 1, 1), {}),
        )
        assert ours.curves["spearman"].shape == (4, 3), "three layers, three stages, and no original"

    def test_it_gives_layers_of_one_shape_the_same_weights(self, layered) -> None:
        from quantus.helpers.model.pytorch_model import PyTorchModel

        *_, (_, theirs) = PyTorchModel(layered, channel_first=True).get_random_layer_generator("top_down")
        assert torch.equal(theirs[1].weight, theirs[3].weight)
        (ours,) = cascade(layered, 1, "0/0")
        assert not (ours[1].weight == ours[3].weight).any()


@pytest.fixture(scope="module")
def subject() -> Subject:
    from hydra import compose, initialize_config_dir

    from benchmark.choices import CONF

    overrides = ["models=small_cnn", "datasets=digits", "datasets.n=3", "methods=saliency"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return subjects.load(compose("config", overrides=overrides))


class TestDataRandomisation:
    def test_slow_version(self, network, batch) -> None:
        (twin,) = cascade(network, 1, "any")
        found = DataRandomisation().score(network, batch, explain(network, batch), explain, {"twin": twin})
        for place in range(8):
            alone = batch.select([place])
            old, new = (explain(model, alone).sum(1)[0].flatten().numpy() for model in (network, twin))
            assert float(found.values["spearman"][place]) == pytest.approx(
                stats.spearmanr(old, new).statistic, abs=1e-12
            )

    def test_the_harness_hands_over_the_twin_and_counts_its_passes(self, subject: Subject, tmp_path: Path) -> None:
        metric = DataRandomisation()
        choice = plugins.choose("data_randomisation", metric)
        evaluation = Evaluation(tmp_path, subject, Choice("saliency"), Saliency(), Progress(1))
        record = evaluation.record(choice, metric)
        assert set(record.rows["status"]) == {"ok"}
        # Outputs for images and baselines, and a forward and backward pass to explain.
        assert (record.facts["forwards"], record.facts["backwards"]) == (3 * 3, 3)
        model, batch = subject.model, subject.batches[0]
        found = metric.score(
            *(model.network, batch, Saliency().attribute(model.network, batch), Saliency().attribute),
            {"twin": model.twin},
        )
        values = record.rows.loc[record.rows["measure"] == "cosine", "value"]
        np.testing.assert_allclose(values, found.values["cosine"].numpy(), atol=1e-5)

    def test_another_twin_is_another_cell(self, subject: Subject, tmp_path: Path) -> None:
        metric, other = DataRandomisation(), RandomLogit()
        choice = plugins.choose("data_randomisation", metric)
        assert subject.model.twin is not None
        (twin,) = cascade(subject.model.twin, 1, "any")
        cells = []
        for each in (subject.model.twin, twin, None):
            changed = replace(subject, model=replace(subject.model, twin=each))
            evaluation = Evaluation(tmp_path, changed, Choice("saliency"), Saliency(), Progress(1))
            cells.append(evaluation.cell(choice, metric))
            plain = plugins.choose("random_logit", other)
            assert evaluation.cell(plain, other).metric == plain
        assert len({cell.key for cell in cells}) == 3
        assert cells[0].metric.params["twin"] == digest(subject.model.twin)[:16]

    def test_a_model_without_a_twin_is_not_applicable(self, subject: Subject, tmp_path: Path) -> None:
        bare = replace(subject, model=replace(subject.model, twin=None))
        metric = DataRandomisation()
        evaluation = Evaluation(tmp_path, bare, Choice("saliency"), Saliency(), Progress(1))
        record = evaluation.record(plugins.choose("data_randomisation", metric), metric)
        assert set(record.rows["status"]) == {"not_applicable"}
        assert record.facts["reason"] == "the model has no twin trained on random labels"


class TestTwins:
    @pytest.mark.parametrize("dataset", ["shapes", "digits"])
    def test_they_know_the_random_labels_and_nothing_else(self, dataset: str) -> None:
        learned, unseen = train.data(dataset, "train"), train.data(dataset, "test")
        (images, labels), (unseen_images, true) = (
            (
                torch.stack([torch.as_tensor(each[i].image) for i in range(count)]),
                torch.tensor([each[i].label for i in range(count)]),
            )
            for each, count in ((learned, train.MEMORISED), (unseen, 100))
        )
        for name, architecture in (("small_cnn", embedded.Cnn()), ("small_vit", embedded.Vit())):
            model = embedded.embedded(name, dataset, architecture)
            twin = model.twin
            assert twin is not None
            assert not twin.training
            assert not any(parameter.requires_grad for parameter in twin.parameters())
            assert train.accuracy(twin, model.normalise(images), train.dealt(labels)) >= train.LEARNED
            assert train.accuracy(twin, model.normalise(unseen_images), true) < 0.3
            assert train.accuracy(model.network, model.normalise(unseen_images), true) > 0.9

    def test_they_are_small(self) -> None:
        files = sorted(embedded.WEIGHTS.glob(f"*{embedded.TWIN}.safetensors"))
        assert [file.stem.removesuffix(embedded.TWIN) for file in files] == [
            *("small_cnn-digits", "small_cnn-shapes", "small_vit-digits", "small_vit-shapes")
        ]
        assert sum(file.stat().st_size for file in files) < 0.8e6

    def test_labels_are_dealt_out_anew(self) -> None:
        labels = torch.arange(6).repeat(50)
        dealt = train.dealt(labels)
        assert torch.equal(dealt.bincount(), labels.bincount())
        assert float((dealt == labels).double().mean()) == pytest.approx(1 / 6, abs=0.09)

    def test_a_twin_is_trained_written_and_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train, "data", lambda dataset, split: Digits(n=48, split=split))
        out = tmp_path / f"small_cnn-digits{embedded.TWIN}.safetensors"
        with pytest.raises(UserError, match="of the random labels: 95% needs more --steps"):
            train.train("small_cnn", "digits", out, steps=2, labels="random")
        assert not out.exists()
        assert train.train("small_cnn", "digits", out, steps=60, labels="random") >= train.LEARNED
        train.train("small_cnn", "digits", tmp_path / "small_cnn-digits.safetensors", steps=2)
        monkeypatch.setattr(embedded, "WEIGHTS", tmp_path)
        monkeypatch.setattr(embedded, "GATE", 0.0)
        model = embedded.embedded("small_cnn", "digits", embedded.Cnn())
        assert model.twin is not None
        images, labels = train.tensors(Digits(n=48, split="train"))
        assert train.accuracy(model.twin, model.normalise(images), train.dealt(labels)) >= train.LEARNED
        out.unlink()
        assert embedded.embedded("small_cnn", "digits", embedded.Cnn()).twin is None
